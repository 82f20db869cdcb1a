"""What real ranks take, in seconds: training steps in their parts, and exact all-reduces.

    python -m allgrad.launch.study.costs.measure ASKED ANSWER

is what each rank runs that `on_new_ranks` starts: ASKED is a file with the pickled function to call, ANSWER the file
for what it returns. A cell is one thing to measure: its "kind", a key of CELLS, and the arguments of that function.
"""

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from allgrad import ddp
from allgrad.autograd.engine import patched
from allgrad.ddp import process
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch import launchers
from allgrad.launch.options import OPTIMIZERS
from allgrad.launch.study import workload

PARTS = ("data", "forward", "backward", "exchange", "optimizer")
WARM_UPS = 5  # steps or all-reduces that are not counted
PATIENCE_SECONDS = 3.0  # that the steps of a large model may take in all
FEWEST_STEPS = 5  # that are timed all the same
TIME_OUT_SECONDS = 600.0  # after which ranks that were started to be measured are ended


# --- measured in the ranks ---------------------------------------------------------------------------------------


def step_times(comm, config: dict, batch: int, steps: int, reduce="canonical", optimizer="sgd", lr=0.01) -> dict:
    """Seconds of the parts of so many training steps of this global batch, on all ranks; fewer if they take too long.

    config: that of a `Workload`. Returns {part: (ranks, steps)} for PARTS and "step", the whole; "losses" of all steps,
    those of warming up included; "bytes" of the gradients; "core", the share of the time in which this rank had a core.
    "exchange" is what the rank that computes has to stand still for: sending, adding, and waiting for slower ranks.
    What the exchange does beside the computation is not in it.
    """
    data, model = workload.load(config), workload.build({**config, "seed": 0})
    loss, _ = workload.objective(config, model, data)
    parallel = ddp.DistributedDataParallel(model, comm, reduce=reduce, overlap="after")
    loader = ddp.DataLoader((data.train_x, data.train_y), batch, comm, boundary="carry")
    update = OPTIMIZERS[optimizer](parallel, lr)
    times = {part: [] for part in (*PARTS, "step")}
    losses = []
    forward, exchange = Stopwatch(), Stopwatch()
    with ExitStack() as stack:
        for owner, names in ((parallel.gradient_sum, ("push", "finish")), (comm, ("exchange", "all_reduce"))):
            timed = {name: exchange.around(getattr(owner, name)) for name in names if hasattr(owner, name)}
            stack.enter_context(patched("study", owner, **timed))
        timed_loss = forward.around(loss)
        step, last, started = 0, WARM_UPS + steps, (0.0, 0.0)
        while step < last:
            if step == WARM_UPS:
                slowest = max(comm.all_gather_object(float(np.median(times["step"]))))
                last = WARM_UPS + min(steps, max(FEWEST_STEPS, int(PATIENCE_SECONDS / slowest)))
                started = time.perf_counter(), time.process_time()
            began = time.perf_counter()
            batched = loader.batch(step)
            loaded = time.perf_counter()
            losses.append(parallel.backward(batched, timed_loss))
            descended = time.perf_counter()
            update.step()
            ended = time.perf_counter()
            f, e = forward.read(), exchange.read()
            found = (loaded - began, f, descended - loaded - f - e, e, ended - descended, ended - began)
            for part, seconds in zip(times, found):
                times[part].append(seconds)
            step += 1
    core = min(1.0, (time.process_time() - started[1]) / (time.perf_counter() - started[0]))
    everyones = comm.all_gather_object({part: seconds[WARM_UPS:] for part, seconds in times.items()})
    gathered = {part: [one[part] for one in everyones] for part in times}
    return gathered | {"losses": losses, "bytes": parallel.arena.message.nbytes, "core": core}


def alone_together(comm, config: dict, batch: int, steps: int, **options) -> dict:
    """`step_times` of all ranks at once, each training by itself: what they cost each other without talking."""
    comm.barrier()
    alone = step_times(ddp.Communicator(), config, batch, steps, **options)
    found = comm.all_gather_object({part: alone[part][0] for part in (*PARTS, "step")})
    least = min(len(one["step"]) for one in found)
    return {part: [one[part][:least] for one in found] for part in found[0]} | {"bytes": alone["bytes"]}


def all_reduce_times(comm, sizes: list[int], repeats: int, reduce="canonical") -> dict:
    """Seconds of a sum over the ranks, the slowest counting: {"sizes": bytes, "seconds": (sizes, repeats)}.

    The sizes take turns, so that a slow moment of the machine does not fall on one of them.
    """
    totals = [ddp.ShardSum(comm, comm.size, reduce == "canonical") for _ in sizes]
    arrays = [total.share(np.ones(max(size // 4, 1), np.float32)) for total, size in zip(totals, sizes)]
    seconds = np.empty((len(sizes), WARM_UPS + repeats))
    for turn in range(WARM_UPS + repeats):
        for row, total, array in zip(seconds, totals, arrays):
            array[:] = 1.0
            comm.barrier()
            began = time.perf_counter()
            total.push(comm.rank, array)
            total.finish(array)
            row[turn] = time.perf_counter() - began
    slowest = np.max(comm.all_gather_object(seconds[:, WARM_UPS:]), axis=0)
    return {"sizes": [array.nbytes for array in arrays], "seconds": slowest.tolist()}


def add_times(comm, size: int, repeats: int) -> dict:
    """Seconds of adding an array of so many bytes to another, on this rank: {"size": bytes, "seconds": (repeats,)}."""
    a, b = np.zeros((2, size // 4), np.float32)
    seconds = []
    for _ in range(WARM_UPS + repeats):
        began = time.perf_counter()
        a += b
        seconds.append(time.perf_counter() - began)
    return {"size": a.nbytes, "seconds": seconds[WARM_UPS:]}


class Stopwatch:
    """Adds up the time that this thread spends in functions, of which only the outermost counts."""

    def __init__(self):
        self.seconds, self.running, self.thread = 0.0, False, threading.get_ident()

    def around(self, f):
        def timed(*args):
            if self.running or threading.get_ident() != self.thread:
                return f(*args)
            self.running, began = True, time.perf_counter()
            try:
                return f(*args)
            finally:
                self.seconds += time.perf_counter() - began
                self.running = False

        return timed

    def read(self):
        """Seconds since the last reading."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


CELLS = {"steps": step_times, "alone": alone_together, "all-reduce": all_reduce_times, "add": add_times}


def measured(comm, ranks: int, cells: list[dict], known: dict) -> dict:
    """What the first so many ranks measure of each cell: {"kind": one of CELLS, and the arguments of its function}.

    known: the `workload.unnamed_objects` of the cells' configurations.

    Returns, on rank 0, {"cells": a list of what those return; "oversubscribed": whether a host has fewer cores than
    ranks, of which those that wait for others to be measured need one too; "loadavg": processes that ran on the first
    host in the minute before}.
    """
    workload.add_objects(known)
    places = comm.all_gather_object((socket.gethostname(), process.cores()))
    crowded = any(
        sum(host == other for other, _ in places) > len(set().union(*(c for other, c in places if other == host)))
        for host, _ in places
    )
    part = comm if ranks == comm.size else comm.split(int(comm.rank >= ranks), comm.rank)
    found: dict = {}
    if comm.rank < ranks:
        found = {"oversubscribed": crowded, "loadavg": os.getloadavg()[0], "cells": []}
        for cell in cells:
            arguments = {name: value for name, value in cell.items() if name != "kind"}
            part.barrier()
            found["cells"].append(CELLS[cell["kind"]](part, **arguments))
    comm.barrier()
    return found


# --- started from one process ------------------------------------------------------------------------------------


def cores() -> int:
    """Cores this process may use, and so the ranks it starts."""
    return len(process.cores())


def times(lab, ranks: int, cells: list[dict], launcher: str | None = None) -> dict:
    """What so many ranks have `measured`: of this launch if there is one, else of those that are started for it."""
    known: dict = {}
    for cell in cells:
        known |= workload.unnamed_objects(cell["config"]) if "config" in cell else {}
    function = partial(measured, ranks=ranks, cells=cells, known=known)
    return lab.on_all_ranks(function) if lab.comm.size > 1 else on_new_ranks(ranks, function, launcher)


def in_turns(lab, asked: dict[int, list[dict]], blocks: int, launcher: str | None = None) -> dict[int, list]:
    """{ranks: what they have measured of their cells, in each block}, and how long it will take said on the way.

    The numbers of ranks take turns, as the machine is not always equally fast.
    """
    found: dict[int, list] = {W: [] for W in asked}
    say = getattr(lab, "say", lambda text: None)
    say(f"timing steps on {' and '.join(map(str, asked))} ranks, {blocks} times in turns ...")
    began = time.perf_counter()
    for block in range(blocks):
        for W, cells in asked.items():
            found[W].append(times(lab, W, cells, launcher))
        if block == 0 and blocks > 1:
            say(f"timing: 1 of {blocks} turns done, about {(blocks - 1) * (time.perf_counter() - began):.0f} s left")
    return found


def on_new_ranks(ranks: int, function, launcher: str | None = None):
    """Start so many ranks on this machine or in this Slurm job, and return function(comm) of their rank 0."""
    if launcher not in (None, *launchers.LAUNCHERS):
        raise ConfigurationError(f"--launcher is one of {', '.join(launchers.LAUNCHERS)}, got {launcher!r}")
    with tempfile.TemporaryDirectory() as directory:
        asked, answer = Path(directory, "asked"), Path(directory, "answer")
        asked.write_bytes(pickle.dumps(function))
        words, variables = launchers.command(
            launcher or launchers.default_launcher(),
            ranks,
            [str(asked), str(answer)],
            "allgrad.launch.study.costs.measure",
        )
        environment = {**os.environ, **variables}
        try:
            done = subprocess.run(
                words,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIME_OUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"{ranks} ranks that were started to be measured were not done after {TIME_OUT_SECONDS:.0f} s: measure "
                f"fewer ranks, or a smaller model"
            ) from None
        if done.returncode or not answer.exists():
            said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()
            raise ConfigurationError(
                f"{ranks} ranks that were started to be measured ended with status {done.returncode} ({said[0]}): "
                f"see what allgrad run -n {ranks} -- doctor says"
            )
        return pickle.loads(answer.read_bytes())


def main(asked: str, answer: str):
    comm = ddp.init()
    found = pickle.loads(Path(asked).read_bytes())(comm)
    if comm.rank == 0:
        Path(answer).write_bytes(pickle.dumps(found))
    comm.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
