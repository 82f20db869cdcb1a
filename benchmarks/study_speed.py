"""Processor time of a study, whole and in parts, beside that of another checkout.

    git worktree add ../before HEAD~20
    python -m benchmarks.study_speed --before ../before
    python -m benchmarks.study_speed --study "noise --optimizer sgd" --turns 1

Printed are seconds of processor time, user and system, on one BLAS thread a process: of the command as a user types it,
all its processes together, and of the parts of the same study in one process: training steps (of the runs of `steps`,
and those trained side by side), evaluations, setting up runs (data, model, optimizer), and all else (imports, the
search for learning rates, the ledger, the report). Checkouts take turns; of the turns the median is printed, with the
smallest and the largest of the whole.
"""

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = "training steps", "evaluations", "setting up runs"
ROOT = Path(__file__).parents[1]


def whole(root, words):
    """Seconds of processor time of all processes of a study."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _start(root, [sys.executable, "-m", "allgrad", "study", *words])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def parts(root, words):
    """{part: seconds of processor time} of a study in one process."""
    said = _start(root, [sys.executable, str(Path(__file__).resolve()), "--parts", *words, "--jobs", "1"])
    return json.loads(said.splitlines()[-1])


def _start(root, command):
    """What a command of a checkout prints; a study writes to a directory that is removed."""
    variables = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [*command, "--out", out], cwd=root, env=variables, capture_output=True, text=True, check=False
        )  # in its folder, which comes before PYTHONPATH
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr}")
    return done.stdout


def take_parts(words):
    """Run a study in this process, and print the seconds of its parts as JSON."""
    from allgrad.launch.__main__ import main as allgrad
    from allgrad.launch.study import runner

    seconds = dict.fromkeys(PARTS, 0.0)

    def timed(owner, name, part):
        function = getattr(owner, name)

        def call(*args, **given):
            began = time.thread_time()
            try:
                return function(*args, **given)
            finally:
                seconds[part] += time.thread_time() - began

        setattr(owner, name, call)

    timed(runner.Run, "__init__", "setting up runs")
    timed(runner.Run, "step", "training steps")
    timed(runner.Run, "_evaluated", "evaluations")
    try:
        from allgrad.launch.study import together
    except ImportError:
        pass  # a checkout from before runs were trained side by side
    else:
        timed(together.Stack, "__init__", "setting up runs")
        timed(together.Stack, "advance", "training steps")
    sys.argv = ["allgrad", "study", *words]
    try:
        allgrad()
    except SystemExit as end:
        if end.code:
            raise
    rest = time.process_time() - sum(seconds.values())
    print(json.dumps({**seconds, "all else": rest}))


def main():
    if sys.argv[1:2] == ["--parts"]:
        return take_parts(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout [none]")
    parser.add_argument("--study", default="steps --preset quick", help="what is studied [steps --preset quick]")
    parser.add_argument("--turns", type=int, default=3, help="turns of each checkout [3]")
    given = parser.parse_args()
    roots = {"before": given.before.resolve()} if given.before else {}
    roots["now"] = ROOT
    words = shlex.split(given.study)
    found = {name: [] for name in roots}
    for _ in range(given.turns):
        for name, root in roots.items():
            found[name].append({"the command": whole(root, words), **parts(root, words)})
    print(f"| `study {given.study}`, s | {' | '.join(roots)} |{' now / before |' * bool(given.before)}")
    print(f"|---|{'--:|' * (len(roots) + bool(given.before))}")
    for part in found["now"][0]:
        medians = [statistics.median(turn[part] for turn in turns) for turns in found.values()]
        cells = [f"{median:.1f}" for median in medians]
        if part == "the command":
            for i, turns in enumerate(found.values()):
                all_turns = [turn[part] for turn in turns]
                cells[i] += f" [{min(all_turns):.1f}, {max(all_turns):.1f}]"
        cells += [f"{medians[1] / medians[0]:.2f}"] if given.before else []
        print(f"| {part} | {' | '.join(cells)} |")
    return None


if __name__ == "__main__":
    main()
