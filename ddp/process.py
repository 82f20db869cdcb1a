"""What a rank sets in its own process: BLAS threads, and the memory that malloc keeps."""

import ctypes
import os


def cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


_pinned = None


def pin_threads(threads: int):
    """Let the BLAS of this process use this many threads: their number changes the bits of a matrix product."""
    global _pinned
    import threadpoolctl

    _pinned = threadpoolctl.threadpool_limits(threads)


MALLOC = {"MMAP_THRESHOLD": (-3, 32 << 20), "TRIM_THRESHOLD": (-1, 256 << 20)}  # glibc's number for it, and bytes
_kept: dict[str, int] = {}


def keep_memory():
    """Let malloc keep the memory that arrays leave for the next ones: each step makes and drops the same sizes.

    By itself glibc gives large blocks back to the system at once, and each new array costs a page fault for every 4
    KiB, which can take longer than the arithmetic on it. Now a rank may hold 256 MiB more than it uses. Nothing changes
    without glibc, or what the environment decides: MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ (bytes), or
    GLIBC_TUNABLES of malloc.
    """
    if _kept or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt if "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "") else None
    except (AttributeError, OSError, TypeError, ValueError):  # another system, or another C library
        return
    for name, (number, size) in MALLOC.items():
        if mallopt is not None and f"MALLOC_{name}_" not in os.environ and mallopt(number, size):
            _kept[name.lower()] = size


def malloc() -> dict:
    """What `keep_memory` has set, in bytes; empty if malloc is as the system has it."""
    return dict(_kept)


def blas() -> dict:
    """Name, version, kernel and threads of the BLAS in use: part of what a run's bits depend on."""
    import threadpoolctl

    libraries = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    keys = ("internal_api", "version", "architecture", "num_threads")
    libraries.sort(key=lambda lib: "numpy" not in lib["filepath"])  # SciPy brings one of its own
    return {key: libraries[0].get(key) for key in keys} if libraries else {}
