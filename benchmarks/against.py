"""Whether a step has become faster or slower: this checkout and another one take turns on the same workloads.

    git worktree add ../before HEAD~20
    python -m benchmarks.against ../before
    python -m benchmarks.against ../before --only M1 --ranks 2 --setting capture --repeats 31

Both start from the same weights and see the same batches. Printed are milliseconds a step of both (medians over the
turns), the ratio before / now of the medians with the quartiles of the ratios of single turns, and whether the losses
of the first 20 steps have the same bits.
"""

import argparse
import contextlib
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.groups import Group
from benchmarks.step import make, take_turns
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--only", default="", metavar="TEXT", help="only workloads whose label contains this text")
    parser.add_argument("--ranks", type=int, default=1, help="number of ranks [1]")
    parser.add_argument("--setting", default="", help="of both: capture [none]")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each [15]")
    parser.add_argument("--turn", type=float, default=0.25, metavar="SECONDS", help="length of a turn [0.25]")
    given = parser.parse_args()
    if not (given.before / "benchmarks" / "worker.py").is_file():
        parser.error(f"{given.before} is no checkout with benchmarks/worker.py: give the folder of another commit")
    print("| workload | before, ms | now, ms | before / now (quartiles of the turns) | bits |\n|---|--:|--:|---|---|")
    with contextlib.ExitStack() as stack:
        groups = [Group("allgrad", given.setting, given.ranks, root) for root in (given.before.resolve(), ROOT)]
        for group in groups:
            stack.callback(group.close)
        for workload in WORKLOADS:
            if given.only in workload.label:
                losses = make(groups, workload, given.ranks)
                if len(losses) < len(groups):
                    print(f"left out: {workload.label}, which has no setting {given.setting!r}")
                    continue
                before, now = take_turns(groups, given.repeats, given.turn).values()
                low, _, high = statistics.quantiles([a / b for a, b in zip(before, now)])
                t, u = statistics.median(before), statistics.median(now)
                bits = "same" if losses[groups[0]] == losses[groups[1]] else "DIFFERENT"
                print(
                    f"| {workload.label} | {1e3 * t:.3f} | {1e3 * u:.3f} | {t / u:.3f} ({low:.3f} .. {high:.3f}) | "
                    f"{bits} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
