"""How much memory each rank takes to resume a run, beside the size of the state that it resumes from.

    python -m benchmarks.resume_memory --gib 3 --ranks 4

Trains one step with Adam, whose checkpoint has three arrays of the size of the model, and lets ranks resume from it
under each launcher, up to where they would take the next step. Printed is each rank's peak resident memory, Python and
its libraries included; exits with 1 if a rank took more than 1.3 times the size of the state. Linux only. Takes about
(ranks + 1) times the size in memory, and the size on the disk of --folder.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from allgrad.ddp.trainer import FILES, Trainer
from allgrad.launch import launchers
from allgrad.launch.__main__ import main as allgrad

MOST = 1.3  # times the size of the state, that a rank may take
LAYERS = 4  # hidden weights of the model, alike in size


def peak_gib() -> float:
    """The most memory that this process had resident at once."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 2**20 for line in file if line.startswith("VmHWM"))


def resume(words):
    """One rank: resume the run, print the memory it took, and stop before the next step."""

    def report(trainer):
        peaks = trainer.comm.all_gather_object(peak_gib())
        if trainer.comm.rank == 0:
            print("peaks", *peaks, flush=True)
        return {}

    Trainer.fit = report
    return allgrad(words)


def make(out, gib):
    """A run of one step whose checkpoint is about so large; its size in GiB."""
    width = max(1, round(math.sqrt(gib * 2**30 / (3 * 4 * LAYERS))))
    model = "mlp:" + ",".join([str(width)] * (LAYERS + 1))
    words = ["train", "--data", "digits", "--model", model, "--optimizer", "adam", "--lr", "0.001", "--shards", "8"]
    words += ["--global-batch", "16", "--steps", "1", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "allgrad", *words], check=True, stdout=subprocess.DEVNULL)
    (step,) = (out / "checkpoints").iterdir()
    return sum((step / name).stat().st_size for name in FILES) / 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.5, help="size of the state [%(default)s]")
    parser.add_argument("--ranks", type=int, default=4, help="[%(default)s]")
    parser.add_argument("--launcher", choices=launchers.LAUNCHERS[:2], help="default: mpirun, then torchrun")
    parser.add_argument("--folder", help="where to write the run [that of temporary files]")
    parser.add_argument("--rank", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        return resume(args.rank)
    most = 0.0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        out = Path(folder) / "out"
        size = make(out, args.gib)
        print(f"a state of {size:.2f} GiB\n\n| launcher | peak of each rank, GiB | largest / size |\n|---|---|--:|")
        for launcher in [args.launcher] if args.launcher else launchers.LAUNCHERS[:2]:
            train = ["--rank", "train", "--resume", "--out", str(out), "--steps", "2"]
            words, variables = launchers.command(launcher, args.ranks, train, "benchmarks.resume_memory")
            done = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=False)
            found = [line for line in done.stdout.splitlines() if line.startswith("peaks ")]
            if done.returncode or not found:
                raise SystemExit(f"{launcher} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
            peaks = [float(word) for word in found[0].split()[1:]]
            ratio = max(peaks) / size
            most = max(most, ratio)
            print(f"| {launcher} | {', '.join(f'{peak:.2f}' for peak in peaks)} | {ratio:.2f} |", flush=True)
    return int(most > MOST)


if __name__ == "__main__":
    sys.exit(main())
