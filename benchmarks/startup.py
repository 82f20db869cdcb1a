"""How long `allgrad` takes from its start to its end, beside what Python takes to import its libraries.

    python -m benchmarks.startup

Whole processes take turns, on one BLAS thread a rank. Printed are medians over the turns, with the smallest and the
largest, and ratios to three floors: a Python that imports NumPy, one that imports torch, and 2 ranks that do nothing
but start MPI. Each ratio is that of the medians, with the smallest and the largest ratio of one turn.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from allgrad.launch.launchers import command, find_mpirun
from benchmarks import report
from benchmarks.groups import OPEN_MPI

NUMPY, TORCH, MPI = "import numpy", "import torch", "from mpi4py import MPI"
TRAIN = ("train", "--data", "digits", "--steps", "1")


def competitors():
    """{name: the words that start it}, the floors first."""
    ours, has = [sys.executable, "-m", "allgrad"], lambda name: importlib.util.find_spec(name) is not None
    found = {f"python, {NUMPY}": [sys.executable, "-c", NUMPY]}
    if has("torch"):
        found[f"python, {TORCH}"] = [sys.executable, "-c", TORCH]
    ranks = find_mpirun() and has("mpi4py")
    words = command("mpirun", 2, TRAIN)[0] if ranks else []
    if ranks:
        found[f"2 ranks, {MPI}"] = [*words[: words.index(sys.executable)], sys.executable, "-c", MPI]
    found["allgrad --help"] = [*ours, "--help"]
    found["allgrad doctor"] = [*ours, "doctor"]
    found[f"allgrad {' '.join(TRAIN)}"] = [*ours, *TRAIN]
    if ranks:
        found[f"2 ranks, allgrad {' '.join(TRAIN)}"] = words
    return found


def measure(commands, turns):
    """{name: [seconds of a turn]}, after one that is not counted: it writes the bytecode that an installation has."""
    variables, times = os.environ | OPEN_MPI, {name: [] for name in commands}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    for turn in range(turns + 1):
        for name, words in commands.items():
            began = time.perf_counter()
            done = subprocess.run(words, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            seconds = time.perf_counter() - began
            if done.returncode and "doctor" not in words:  # whose status says whether something is wrong here
                raise SystemExit(f"{name} ended with status {done.returncode}: {done.stderr.decode(errors='replace')}")
            if turn:
                times[name].append(seconds)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=11, help="turns of each command [11]")
    times = measure(competitors(), parser.parse_args().turns)
    floors = [name for name in times if "allgrad" not in name]
    print(f"{report.machine()}\n\n| command | seconds | {' | '.join(f'/ {name}' for name in floors)} |")
    print(f"|---|--:|{'--:|' * len(floors)}")
    for name, found in times.items():
        cells = [report.spread(*(f(found) for f in (statistics.median, min, max)), ".3f")]
        cells += [report.spread(*report.ratio(found, times[floor]), ".2f") for floor in floors]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
