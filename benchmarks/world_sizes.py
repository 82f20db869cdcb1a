"""One result on any number of ranks: the SHA-256 of the weights after 200 steps, as a matrix.

    python -m benchmarks.world_sizes                                        all of it: hours on 2 busy cores
    python -m benchmarks.world_sizes --ranks 1,3 --launchers mpirun --cases mlp --steps 20
    python -m benchmarks.world_sizes --with="--wire float32" --cases lenet5

Models, numbers of logical shards (on W ranks, each accumulates over V/W of them), exchanges and launchers are combined.
--accumulate asks for the shards as V/W a rank, where W divides V. Printed is a Markdown table with the start of each
hash: a row is a PASS if it agrees with all others of its model and its shards, on any number of ranks. The status is 1
if one does not. --with=FLAGS, as often as wanted, adds an exchange to compare: FLAGS that must not change the weights.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from allgrad import nn
from allgrad.launch.launchers import command
from allgrad.launch.models.images import resized

ROOT = Path(__file__).parents[1]
MODULE = "benchmarks.world_sizes"
CASES = {
    "mlp": "--model mlp:16 --dropout 0.3 --momentum 0.9 --schedule cosine",
    "lenet5": f"--model {__file__}:LeNet5 --momentum 0.9 --lr 0.02",
    "transformer": f"--data text:{ROOT / 'README.md'}?context=12 --model transformer:16,2,1 --dropout 0.1 "
    "--optimizer adam --lr 0.003",
}
SHARDS = 8, 16
ACCUMULATE = "--accumulate"
EXCHANGES = "", "--zero", "--overlap bucket --bucket-size 300", "--overlap thread --bucket-size 3000", ACCUMULATE
RANKS = 1, 2, 3, 4, 5, 7, 8
LAUNCHERS = "mpirun", "torchrun"
BATCH = 20
SHOWN = 8  # digits of a hash
NONE, LEFT_OUT = "none", "-"  # instead of a hash: the training failed, or cannot be asked for


class LeNet5(nn.Module):
    """The layers of LeNet-5 (LeCun et al. 1998) with batch norm, for grey images at 16x16."""

    def __init__(self, inputs, outputs):
        self.side = round(inputs**0.5)
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.Sigmoid(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(64, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid())
        self.out = nn.Linear(84, outputs)

    def __call__(self, x):
        return self.out(self.head(self.features(resized(x.reshape(-1, 1, self.side, self.side), 16))))


def train_all(runs: list[str], out: str):
    """On every rank: train with each of these flags, and let rank 0 write the list of hashes."""
    from allgrad import ddp
    from allgrad.launch.options import add_options, given
    from allgrad.launch.train import train

    parser, found = argparse.ArgumentParser(), []
    add_options(parser)
    for flags in runs:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            found.append(train(given(vars(parser.parse_args(flags.split()))))["weights_sha256"])
    if ddp.init().rank == 0:
        Path(out).write_text(json.dumps(found), encoding="utf-8")


def flags_of(job, ranks, steps):
    """What `allgrad train` is given for (model, shards, exchange) on so many ranks; None if it cannot be."""
    case, shards, exchange = job
    if exchange == ACCUMULATE:
        cut, exchange = f"{ACCUMULATE} {shards // ranks}" if shards % ranks == 0 else None, ""
    else:
        cut = f"--shards {shards}"
    return cut and f"{CASES[case]} --global-batch {BATCH} {cut} --steps {steps} {exchange}"


def started(launcher: str, ranks: int, steps: int, jobs: list[tuple]) -> dict[tuple, str]:
    """{job: hash} of one start of so many ranks; empty, and the reason on stderr, if they fail."""
    runs = {job: flags for job in jobs if (flags := flags_of(job, ranks, steps))}
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "found.json"
        words, variables = command(launcher, ranks, ["--worker", json.dumps([*runs.values()]), str(out)], MODULE)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            words, env={**os.environ, **variables, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        if done.returncode or not out.is_file():
            print(f"{launcher} with {ranks} ranks ended with status {done.returncode}:\n{done.stderr}", file=sys.stderr)
            return {}
        return {
            **dict.fromkeys(jobs, LEFT_OUT),
            **dict(zip(runs, json.loads(out.read_text(encoding="utf-8")), strict=True)),
        }


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world_sizes")
    listed = lambda kind: lambda text: [kind(word) for word in text.split(",")]
    parser.add_argument("--ranks", type=listed(int), default=RANKS, metavar="W,...")
    parser.add_argument("--launchers", type=listed(str), default=LAUNCHERS, metavar="NAME,...")
    parser.add_argument("--cases", type=listed(str), default=[*CASES], metavar="NAME,...", help=", ".join(CASES))
    parser.add_argument("--shards", type=listed(int), default=SHARDS, metavar="V,...")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--with", action="append", default=[], dest="more", metavar="FLAGS", help="one more exchange")
    parser.add_argument("--only", action="store_true", help="of the exchanges, only those of --with")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        train_all(json.loads(given.worker[0]), given.worker[1])
        return 0
    if unknown := {*given.cases} - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}: there are {', '.join(CASES)}")
    if max(given.ranks) > min(given.shards):
        parser.error(f"{max(given.ranks)} ranks cannot share {min(given.shards)} shards: give fewer ranks")
    exchanges = [*(() if given.only else EXCHANGES), *given.more]
    jobs = [*itertools.product(given.cases, given.shards, exchanges)]
    starts = [(launcher, ranks) for launcher in given.launchers for ranks in given.ranks]
    print("| model | shards | exchange | " + " | ".join(f"{launcher} {ranks}" for launcher, ranks in starts) + " | |")
    print("|---" * (len(starts) + 4) + "|", flush=True)
    found = [started(launcher, ranks, given.steps, jobs) for launcher, ranks in starts]
    agree = {}  # whether all of one model and one number of shards do
    for case, shards in itertools.product(given.cases, given.shards):
        hashes = {of.get(job, NONE) for of in found for job in jobs if job[:2] == (case, shards)} - {LEFT_OUT}
        agree[case, shards] = len(hashes) == 1 and NONE not in hashes
    for case, shards, exchange in jobs:
        cells = [of.get((case, shards, exchange), NONE)[:SHOWN] for of in found]
        verdict = "PASS" if agree[case, shards] else "FAIL"
        print(f"| {case} | {shards} | {exchange or 'plain'} | {' | '.join(cells)} | {verdict} |")
    return int(not all(agree.values()))


if __name__ == "__main__":
    sys.exit(main())
