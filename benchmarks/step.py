"""How long a training step takes, against peers, on one thread a rank.

    python -m benchmarks.step                      all workloads against eager PyTorch, on one rank
    python -m benchmarks.step --peers numpy,torch,torch-ddp,torch-compile,jax --ranks 1,2 --out DIR
    python -m benchmarks.step --only M1 --repeats 9
    python -m benchmarks.step --memory             the peak of the memory of a step
    python -m benchmarks.step --profile M3         where the time of our own step goes

The competitors start from the same weights, see the same batches, and must have the same losses in the first 20 steps.
Then they take turns, each in processes of its own, which sleep while others have theirs. A step takes as long as its
slowest rank. Printed are medians over the turns, with the smallest and the largest, and the ratio peer / allgrad of
the medians, with the smallest and the largest ratio of one turn. Of a peer with several settings the fastest counts.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import report
from benchmarks.groups import Failed, Group, why_not
from benchmarks.peers import PEERS, Unavailable
from benchmarks.worker import Rank
from benchmarks.workloads import WORKLOADS

TOLERANCE = 1e-4  # relative difference of losses: float32, and what becomes of it where a ReLU changes sides
PROFILED = 50  # steps


def able(names, ranks):
    """[(peer, setting), ...] of all settings of the peers that can run on so many ranks; the others are named."""
    reasons = {name: why_not(name, ranks) for name in names}
    for name, reason in reasons.items():
        if reason:
            print(f"left out: {name} {reason}, not on {ranks}")
    return [(name, setting) for name in names if not reasons[name] for setting in PEERS[name].settings]


def make(groups, workload, ranks):
    """{group: mean loss over the ranks, step by step} of those that can do the workload; those that fail leave."""
    losses = {}
    for group in list(groups):
        try:
            losses[group] = [statistics.fmean(found) for found in zip(*group.ask("make", workload))]
        except Unavailable:
            continue
        except Failed as error:
            if group.name == "allgrad":
                raise SystemExit(f"allgrad on {ranks} rank{'s' * (ranks > 1)}: {error}") from None
            print(
                f"left out: {report.shown(group.name, group.setting)} on {ranks} rank{'s' * (ranks > 1)} ({error})",
                flush=True,
            )
            groups.remove(group)
    return losses


def differences(losses, label):
    """{group: largest relative difference of a loss from allgrad's}; SystemExit if that is more than rounding."""
    ours = next(found for group, found in losses.items() if group.name == "allgrad")
    largest = {}
    for group, theirs in losses.items():
        found = [abs(a - b) / abs(b) for a, b in zip(theirs, ours)]
        largest[group] = max(found)
        step = next((i for i, difference in enumerate(found) if not difference <= TOLERANCE), None)  # also if nan
        if step is not None:
            raise SystemExit(
                f"{label}: {report.shown(group.name, group.setting)} has loss {theirs[step]} in step {step}, "
                f"allgrad {ours[step]}: they do not train the same"
            )
    return largest


def take_turns(groups, repeats, seconds):
    """{group: seconds a step of its slowest rank, turn by turn}, of turns of about so many seconds."""
    steps = {group: max(1, round(seconds / max(group.ask("turn", 3)))) for group in groups}
    times = {group: [] for group in groups}
    for _ in range(repeats):
        for group in groups:
            times[group].append(max(group.ask("turn", steps[group])))
    return times


def measure(groups, workload, ranks, repeats, seconds):
    """A row for each competitor."""
    differs = differences(make(groups, workload, ranks), workload.label)
    times = take_turns(differs, repeats, seconds)
    return [report.Row(ranks, workload.label, g.name, g.setting, times[g], differs[g]) for g in differs]


def compare(names, chosen, arguments):
    """All rows, printed as they come."""
    rows = []
    print(f"{report.machine()}\n\n{report.HEAD}", flush=True)
    for ranks in arguments.ranks:
        with contextlib.ExitStack() as stack:
            groups = []
            for name, setting in able(names, ranks):
                groups.append(Group(name, setting, ranks))
                stack.callback(groups[-1].close)
            for workload in chosen:
                rows += (found := measure(groups, workload, ranks, arguments.repeats, arguments.turn))
                print("\n".join(report.lines(found)), flush=True)
    return rows


def save(rows, out):
    """Table, times of all turns, and bars, in a directory."""
    out.mkdir(parents=True, exist_ok=True)
    described = report.machine()
    (out / "step.md").write_text("\n".join([described, "", report.HEAD, *report.lines(rows), ""]), encoding="utf-8")
    times = {"machine": described, "rows": [row._asdict() for row in rows]}
    (out / "step.json").write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    try:
        figure = report.draw(rows)
    except ImportError as error:
        print(f"left out: the figure ({error}): pip install 'allgrad[study]'")
        return
    for kind in ("svg", "png"):
        figure.savefig(out / f"step.{kind}", dpi=150)


def memory(names, chosen, all_ranks):
    """Print the resident memory of each competitor, from processes that do nothing else; the largest of the ranks."""
    print("| ranks | workload | peer | MiB between steps | MiB more in a step |\n|--:|---|---|--:|--:|", flush=True)
    for ranks in all_ranks:
        for workload, (name, setting) in itertools.product(chosen, able(names, ranks)):
            with contextlib.closing(Group(name, setting, ranks)) as group:
                if not make([group], workload, ranks):
                    continue
                before, more = (max(found) for found in zip(*group.ask("memory")))
            label = f"{workload.label} | {report.shown(name, setting)}"
            print(f"| {ranks} | {label} | {before:.1f} | {more:.1f} |", flush=True)


def profile(chosen):
    """Print in which functions the time of our own step goes."""
    import cProfile
    import pstats

    rank = Rank("allgrad", "")
    for workload in chosen:
        rank.make(workload)
        with cProfile.Profile() as found:
            rank.turn(PROFILED - 1)
        print(f"{workload.label}, {PROFILED} steps")
        pstats.Stats(found).strip_dirs().sort_stats("tottime").print_stats(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="torch", help=f"comma-separated, of {', '.join(PEERS)} [torch]")
    parser.add_argument("--ranks", default="1", help="comma-separated numbers of ranks [1]")
    parser.add_argument("--only", default="", metavar="TEXT", help="only workloads whose label contains this text")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each competitor [7]")
    parser.add_argument("--turn", type=float, default=0.25, metavar="SECONDS", help="length of a turn [0.25]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write step.md, step.json, step.svg and step.png")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--profile", metavar="TEXT", help="profile our own step of the workloads with this text")
    arguments = parser.parse_args()
    only = arguments.only if arguments.profile is None else arguments.profile
    chosen = [workload for workload in WORKLOADS if only in workload.label]
    names = list(dict.fromkeys(["allgrad", *filter(None, arguments.peers.split(","))]))
    if not chosen:
        parser.error(f"no workload's label contains {only!r}: they are {'; '.join(w.label for w in WORKLOADS)}")
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"there is no peer {unknown[0]!r}: use {', '.join(PEERS)}")
    arguments.ranks = [int(ranks) for ranks in arguments.ranks.split(",")]
    if arguments.profile is not None:
        return profile(chosen)
    if arguments.memory:
        return memory(names, chosen, arguments.ranks)
    rows = compare(names, chosen, arguments)
    if arguments.out:
        save(rows, arguments.out)


if __name__ == "__main__":
    main()
