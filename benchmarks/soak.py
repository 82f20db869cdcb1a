"""Kill ranks at random times and start again on other numbers of them: the weights and the metrics do not change.

    python -m benchmarks.soak --kills 20 --seed 0
    python -m benchmarks.soak --stops 20 --seed 0

A third of the kills or so hit a start, the training, and the writing of a checkpoint. Stops are SIGTERM to `allgrad
run`, to one rank, or to all ranks one after the other, in a run without any other checkpoints: not a step is lost.
Prints what was done and what was found; exits with 1 if the run differs from an undisturbed one, or a metric is
missing, repeated or torn.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from allgrad.ddp.trainer import checkpoint
from allgrad.launch import launchers

MOST = 5  # ranks
EVERY = 3  # steps between checkpoints
STEPS = 30  # that a life of the run may take, on average
END = 60.0  # seconds in which all ranks have to be gone
MOMENTS = "starting", "training", "writing"
PARTIAL = "checkpoints/.step-????????.partial"  # a checkpoint that is being written, or was when its rank was killed
VARIES = "samples_per_second"  # of the lines of metrics.jsonl, from run to run
TRAIN = (
    "train --data digits --model mlp:64 --dropout 0.2 --momentum 0.9 --global-batch 60 --shards 5 --log-every 1 "
    f"--eval-every 20 --checkpoint-every {EVERY}"
)


class Failed(Exception):
    """The run is not what an undisturbed one is."""


def soak(kills: int, seed: int, folder: Path, starters=("mpirun", "torchrun")) -> list[dict]:
    """Kill a run so many times and compare it with an undisturbed one; returns a row a kill. Raises Failed."""
    rng, out = random.Random(seed), folder / "killed"
    train = [*TRAIN.split(), "--steps", str(STEPS * (kills + 1))]
    at = sorted(rng.sample(range(1, STEPS * kills), kills))  # the steps at which a rank dies
    rows = []
    for step in [*at, None]:
        launcher, ranks = rng.choice(starters), rng.randint(1, MOST)
        resume = ["--resume"] if (out / "config.json").exists() else []
        words = [sys.executable, "-m", "allgrad", "run", "-n", str(ranks), "--launcher", launcher, "--"]
        began, born, token = time.monotonic(), time.time(), f"{os.getpid()}-{seed}-{len(rows)}"
        log = folder / f"life-{len(rows)}.txt"
        with open(log, "wb") as file:
            run = subprocess.Popen(
                [*words, *train, "--out", str(out), *resume], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                env={**os.environ, "ALLGRAD_SOAK": token},
            )  # fmt: skip
        if step is None:
            if run.wait(10 * END):
                raise Failed(f"the last start ended with status {run.returncode}: see {log}")
            break
        moment, rank = rng.choice(MOMENTS), rng.randrange(ranks)
        wait_for(run, lambda: rank in (found := ranks_of(token)) and found)
        if moment != "starting":
            wait_for(run, lambda: last_step(out) >= step)
            time.sleep(rng.uniform(0, 0.02))
        if moment == "writing":
            wait_for(run, lambda: being_written(out, born), pause=0)
            rank = 0
        found = ranks_of(token)
        alive = run.poll() is None and rank in found
        if alive:
            os.kill(found[rank], signal.SIGKILL)
        try:
            status = run.wait(END)
            wait_for(None, lambda: not ranks_of(token))
        except (subprocess.TimeoutExpired, Failed):
            left = ranks_of(token)
            for process in left.values():
                os.kill(process, signal.SIGKILL)
            raise Failed(f"{END:g} s after rank {rank} of {ranks} died, ranks {sorted(left)} are still here") from None
        if alive and status == 0:
            raise Failed(f"rank {rank} of {ranks} was killed, and {launcher} reports success")
        hit = being_written(out, born)
        rows.append({"kill": len(rows) + 1, "launcher": launcher, "ranks": ranks, "rank": rank, "moment": moment,
                     "step": last_step(out), "write hit": hit, "status": status,
                     "seconds": time.monotonic() - began, "killed": alive})  # fmt: skip
    compare(train, out, folder / "undisturbed")
    return rows


def stop(stops: int, seed: int, folder: Path, starters=("mpirun", "torchrun", "alone")) -> list[dict]:
    """End a run by SIGTERM so many times, and compare it with an undisturbed one; returns a row a stop. Raises Failed.

    After each stop the newest checkpoint is that of the last step in metrics.jsonl: none is lost, none is repeated.
    """
    rng, out = random.Random(seed), folder / "stopped"
    train = [*TRAIN.replace(f" --checkpoint-every {EVERY}", "").split(), "--steps", str(STEPS * (stops + 1))]
    rows = []
    for step in [*sorted(rng.sample(range(1, STEPS * stops), stops)), None]:
        launcher, ranks = rng.choice(starters), rng.randint(2, MOST)
        words, token = [sys.executable, "-m", "allgrad"], f"{os.getpid()}-{seed}-{len(rows)}"
        if launcher != "alone":
            words += ["run", "-n", str(ranks), "--launcher", launcher, "--"]
        log, resume = folder / f"stop-{len(rows)}.txt", ["--resume"] if (out / "config.json").exists() else []
        with open(log, "wb") as file:
            run = subprocess.Popen(
                [*words, *train, "--out", str(out), *resume], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                env={**os.environ, "ALLGRAD_SOAK": token},
            )  # fmt: skip
        if step is None:
            if run.wait(10 * END):
                raise Failed(f"the last start ended with status {run.returncode}: see {log}")
            break
        whom = "the command" if launcher == "alone" else rng.choice(("the command", "one rank", "every rank"))
        wait_for(run, lambda: last_step(out) >= step and (out / ".lock").exists())
        time.sleep(rng.uniform(0, 0.02))
        found = ranks_of(token)
        alive = run.poll() is None
        if whom == "the command":
            run.send_signal(signal.SIGTERM)
        else:
            for process in [rng.choice([*found.values()])] if whom == "one rank" else found.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
                time.sleep(rng.uniform(0, 0.02))
        status = run.wait(END)
        wait_for(None, lambda: not ranks_of(token))
        kept = checkpoint.steps_in(out / "checkpoints")
        if alive and (status == 0 or not kept or int(kept[-1].name[5:]) != last_step(out)):
            raise Failed(f"stop {len(rows) + 1}, status {status}: step {last_step(out)} was taken, kept are {kept}")
        rows.append({"kill": len(rows) + 1, "launcher": launcher, "ranks": 1 if launcher == "alone" else ranks,
                     "whom": whom, "step": last_step(out), "status": status, "stopped": alive})  # fmt: skip
    compare(train, out, folder / "undisturbed")
    return rows


def compare(train, out, undisturbed):
    """Raise Failed if a run has other weights than an undisturbed one, or other lines of metrics."""
    words = [sys.executable, "-m", "allgrad", *train, "--out", str(undisturbed)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    lines, expected = (path.joinpath("metrics.jsonl").read_text("utf-8").split("\n") for path in (out, undisturbed))
    if lines.pop() or len(lines) != len(expected) - 1:
        raise Failed(f"metrics.jsonl has {len(lines)} lines, and {len(expected) - 1} in an undisturbed run")
    seen = 0
    for line, other in zip(map(json.loads, lines), map(json.loads, expected)):
        if not 0 < line["samples_seen"] - seen <= 60:
            raise Failed(f"step {line['step']} has seen {line['samples_seen']} samples, after {seen} a step before")
        seen = line["samples_seen"]
        if {**line, VARIES: 0} != {**other, VARIES: 0}:
            raise Failed(f"metrics.jsonl has {line} where an undisturbed run has {other}")
    mine, theirs = (json.loads((path / "summary.json").read_text("utf-8")) for path in (out, undisturbed))
    for name in ("weights_sha256", "steps", "samples_seen", "val_loss", "train_loss", "best"):
        if mine[name] != theirs[name]:
            raise Failed(f"{name} is {mine[name]}, and {theirs[name]} in an undisturbed run")


def being_written(out, born):
    """Whether a checkpoint was being written after this time, and is not whole."""
    try:
        return any(path.stat().st_ctime > born for path in out.glob(PARTIAL))
    except FileNotFoundError:  # whole by now
        return False


def wait_for(run, f, pause=0.002):
    """Wait until f() is true, or until the run has ended. Raises Failed after a time."""
    end = time.monotonic() + END
    while not f() and (run is None or run.poll() is None):
        if time.monotonic() > end:
            raise Failed(f"no progress in {END:g} s")
        time.sleep(pause)


def last_step(out):
    """The step of the last whole line of metrics.jsonl."""
    try:
        lines = (out / "metrics.jsonl").read_text("utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def ranks_of(token):
    """{rank: process} of the ranks that were started with this word in their environment."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(line.split("=", 1) for line in (path / "environ").read_text("utf-8", "replace").split("\0")
                             if "=" in line)  # fmt: skip
            state = (path / "stat").read_text("utf-8", "replace").rsplit(")", 1)[1][1]
            if variables.get("ALLGRAD_SOAK") == token and state != "Z":
                rank = variables.get("OMPI_COMM_WORLD_RANK", variables.get("RANK"))
                if rank is not None:
                    found[int(rank)] = int(path.name)
        except OSError:  # it has ended, or is that of another user
            continue
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="ranks to kill, one after the other [%(default)s]")
    parser.add_argument("--stops", type=int, help="SIGTERMs instead of kills")
    parser.add_argument("--seed", type=int, default=0, help="what is killed, when, on how many ranks [%(default)s]")
    parser.add_argument("--launcher", choices=launchers.LAUNCHERS[:2], help="default: mpirun and torchrun in turn")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    starters = (args.launcher,) if args.launcher else ("mpirun", "torchrun")
    try:
        if args.stops:
            rows = stop(args.stops, args.seed, folder, (*starters, "alone"))
        else:
            rows = soak(args.kills, args.seed, folder, starters)
    except Failed as error:
        print(f"FAILED: {error}\n{folder} has what was written")
        return 1
    shutil.rmtree(folder)
    if args.stops:
        print(" stop  launcher  ranks  SIGTERM to   last step  status")
        for row in rows:
            print("{kill:5}  {launcher:8}  {ranks:5}  {whom:11}  {step:9}  {status:6}".format_map(row))
        print(f"{sum(row['stopped'] for row in rows)} runs stopped: no step was lost, and the weights and every step's "
              f"metrics are those of an undisturbed run")  # fmt: skip
        return 0
    print(" kill  launcher  ranks  killed  moment    last step  while writing  status  seconds")
    for row in rows:
        print("{kill:5}  {launcher:8}  {ranks:5}  {rank:6}  {moment:8}  {step:9}  {write hit!s:>13}  {status:6}  "
              "{seconds:7.1f}".format_map(row))  # fmt: skip
    hits = sum(row["write hit"] for row in rows)
    print(f"{sum(row['killed'] for row in rows)} ranks killed, {hits} of them while a checkpoint was being written: "
          f"the weights and every step's metrics are those of an undisturbed run")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
