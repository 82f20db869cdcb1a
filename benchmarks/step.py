"""How long a training step takes, against peers, on one rank and one thread.

    python -m benchmarks.step                      all workloads against eager PyTorch
    python -m benchmarks.step --only M1 --repeats 9

The competitors start from the same weights, see the same batches, and must have the same loss after 20 steps. Then
they take turns; what is printed are medians over the turns, with the smallest and the largest, and the ratio
peer / ours of the medians with the smallest and largest ratio of one turn.
"""

import argparse
import importlib
import os
import platform
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.workloads import WORKLOADS

AGREE = 20  # steps after which the losses must agree
TURN = 0.25  # seconds a turn of one competitor lasts


def measure(workload, makers, repeats):
    """{peer: [seconds a step, one for each turn]}."""
    data = workload.data(AGREE)
    steps, batches, losses = {}, {}, {}
    for name, make in makers.items():
        prepare, steps[name] = make(workload)
        batches[name] = [prepare(x, y) for x, y in data]
        losses[name] = [steps[name](batch) for batch in batches[name]][-1]
    for name, loss in losses.items():
        if abs(loss - losses["allgrad"]) > 1e-3 * (1.0 + abs(loss)):
            raise SystemExit(
                f"{workload.label}: {name} is at loss {loss}, allgrad at {losses['allgrad']}: not the same"
            )
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(_turn(step, batches[name]))
    return times


def _turn(step, batches):
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < TURN:
        for batch in batches[:5]:
            step(batch)
        done += 5
    return (time.perf_counter() - began) / done


def spread(values, form):
    """The median of some numbers, with the smallest and the largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} .. {max(values):{form}})"


def ratio(these, those):
    """these / those: of their medians, with the smallest and the largest of one turn."""
    turns = [a / b for a, b in zip(these, those)]
    return f"{statistics.median(these) / statistics.median(those):.2f} ({min(turns):.2f} .. {max(turns):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="torch", help="comma-separated modules of benchmarks.peers [torch]")
    parser.add_argument("--only", default="", help="only workloads whose label contains this text")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each competitor [7]")
    arguments = parser.parse_args()
    makers = {}
    for name in ["allgrad", *arguments.peers.split(",")]:
        try:
            makers[name] = importlib.import_module(f"benchmarks.peers.{name}").make
        except ImportError as error:
            print(f"skipped: {name} ({error})")
    if len(makers) == 1:
        raise SystemExit("no peer to compare with: pip install 'allgrad[torch]'")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; milliseconds a step")
    print("| workload | allgrad | peer | milliseconds | ratio peer / allgrad |\n|---|---|---|---|---|")
    for workload in WORKLOADS:
        if arguments.only in workload.label:
            times = measure(workload, makers, arguments.repeats)
            ours = times.pop("allgrad")
            for name, theirs in times.items():
                cells = [spread([1e3 * t for t in ts], ".3f") for ts in (ours, theirs)]
                print(f"| {workload.label} | {cells[0]} | {name} | {cells[1]} | {ratio(theirs, ours)} |", flush=True)


if __name__ == "__main__":
    main()
