"""How long the exact sum over ranks takes, beside that of the libraries and a plain copy.

    mpirun -n 2 python -m benchmarks.allreduce
    torchrun --nproc-per-node 2 -m benchmarks.allreduce

canonical is `ddp.ShardSum` with a logical shard a rank, in shared memory where ranks have any, and messages the same
without; native is the all-reduce of the backend (MPI_Allreduce under mpirun, Gloo's under torchrun), gloo that of
torch.distributed where torch is installed, and copy one of the array in memory, on all ranks at once. They take turns
on float32 arrays of zeros; a turn lasts as long as on its slowest rank. Printed are medians over the turns, with the
smallest and the largest, and ratios of the medians with the smallest and the largest ratio of one turn.
"""

import argparse
import os
import platform
import statistics
import time
from contextlib import suppress
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from allgrad import ddp
from allgrad.ddp.comm import Launch
from benchmarks.report import ratio, spread

LENGTHS = (10**2, 10**3, 10**4, 10**5, 10**6, 10**7)
TURN = 2e-2  # seconds that a turn of one competitor lasts, or one call


def competitors(comm):
    """{name: f(array)}, where f() is a sum over the ranks in place, but for the copy."""
    room = np.ones(max(LENGTHS), np.float32)

    def exact(array, shared=False):
        total = ddp.ShardSum(comm, comm.size)
        array = total.share(array) if shared else array

        def add():
            total.push(comm.rank, array)
            total.finish(array)

        return add

    found = {"canonical": partial(exact, shared=True), "messages": exact, "native": partial(partial, comm.all_reduce)}
    if comm.backend == "mpi":
        from mpi4py import MPI

        found["native"] = partial(partial, comm.comm.Allreduce, MPI.IN_PLACE)
        with suppress(ImportError):
            from allgrad.ddp.comm.torch_distributed import TorchCommunicator

            place = comm.rank, comm.size, comm.local_rank, comm.local_size
            found["gloo"] = partial(partial, TorchCommunicator(Launch(comm.launcher, "gloo", *place)).all_reduce)
    found["copy"] = lambda array: partial(np.copyto, room[: len(array)], array)
    return found


def measure(comm, sums, length, turns):
    """{name: [seconds a call, one for each turn]}, on the slowest rank."""
    times, calls = {name: [] for name in sums}, {}
    sums = {name: f(np.full(length, 0.0, np.float32)) for name, f in sums.items()}
    for name, add in sums.items():
        add()
        calls[name] = comm.broadcast_object(max(1, int(TURN / _seconds(comm, add, 1))))
    for _ in range(turns):
        for name, add in sums.items():
            times[name].append(_seconds(comm, add, calls[name]))
    everyones = comm.all_gather_object(times)
    return {name: [max(turn) for turn in zip(*[theirs[name] for theirs in everyones])] for name in sums}


def _seconds(comm, add, calls):
    comm.barrier()
    began = time.perf_counter()
    for _ in range(calls):
        add()
    return (time.perf_counter() - began) / calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="turns of each competitor [15]")
    arguments = parser.parse_args()
    comm = ddp.init()
    if comm.size == 1:
        raise SystemExit("one rank has nobody to add to: start it with mpirun -n 2 or torchrun --nproc-per-node 2")
    sums = competitors(comm)
    if comm.rank == 0:
        head = [f"{name}, us" for name in sums] + [f"canonical / {name}" for name in sums if name != "canonical"]
        where = f"{comm.size} ranks ({comm.launcher}, {comm.backend})"
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; {where}")
        print(f"| floats | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}", flush=True)
    for length in LENGTHS:
        times = measure(comm, sums, length, arguments.turns)
        if comm.rank == 0:
            ours = times["canonical"]
            cells = [
                spread(*(1e6 * f(found) for f in (statistics.median, min, max)), ",.1f") for found in times.values()
            ]
            cells += [spread(*ratio(ours, found), ".2f") for name, found in times.items() if name != "canonical"]
            print(f"| {length:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
