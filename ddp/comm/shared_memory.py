"""Memory that all ranks of a host see: to add up what others have computed, nobody has to send it."""

import contextlib
import mmap
import os
import secrets
import time

import numpy as np

from allgrad.ddp.errors import PeerLost

HEADER = 4096  # bytes in front of a rank's memory: a token that tells it from other files, and its meetings so far
TOKEN = 32  # bytes
LOOKS, NAP = 20_000, 5e-5  # at another rank before this one sleeps in between, and for how many seconds
SILENCE = 1.0  # seconds after which a rank that waits looks whether the others are alive


class SharedMemory:
    """Memory of each rank of a communicator, as bytes, which every one of them reads and writes.

    regions   each rank's, in the order of the ranks
    """

    def __init__(self, comm, files, processes):
        self.comm, self.processes, self.turn = comm, processes, 0
        self.regions = [np.frombuffer(file, np.uint8)[HEADER:] for file in files]
        self.turns = [memoryview(file)[TOKEN : TOKEN + 8].cast("q") for file in files]

    def meet(self):
        """Return when every rank has called it; what they wrote before can then be read."""
        if self.comm.fence is not None:
            return self.comm.fence()
        self.turn += 1
        self.turns[self.comm.rank][0] = self.turn
        for rank, turns in enumerate(self.turns):
            looks, began = 0, time.monotonic()
            while turns[0] < self.turn:
                looks += 1
                if looks > LOOKS:
                    time.sleep(NAP)
                    if time.monotonic() - began > SILENCE:
                        self._alive(rank)
                        began = time.monotonic()

    def _alive(self, rank):
        try:
            with open(f"/proc/{self.processes[rank]}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            state = b"X"
        except OSError:  # too many open files
            return
        if state in (b"X", b"Z"):  # Z: it has ended, and its parent has not asked for it yet
            raise PeerLost(f"rank {rank} is gone")


def share(comm, sizes) -> SharedMemory | None:
    """So many bytes of memory for each rank, all zero; None where the ranks cannot share any. Collective.

    They can on one host that runs Linux, if they may open each other's files; without a fence on x86-64 only. The
    memory has no name: it is given back when nobody uses it any more, however a rank ends. A forked child has it too.
    """
    if comm.size == 1:
        return None
    # Without a fence, what another processor has written has to become visible in the order in which it was written.
    ordered = comm.fence is not None or (hasattr(os, "uname") and os.uname().machine == "x86_64")
    token, descriptor, offer = secrets.token_bytes(TOKEN), -1, None
    with contextlib.suppress(OSError):  # forbidden, a limit of files or of their size, too little memory
        if comm.size == comm.local_size and hasattr(os, "memfd_create") and ordered:
            descriptor = os.memfd_create("allgrad")
            os.posix_fallocate(descriptor, 0, HEADER + sizes[comm.rank])
            os.pwrite(descriptor, token, 0)
            offer = os.getpid(), descriptor, token
    try:
        offers = comm.all_gather_object(offer)
        if None in offers:
            return None
        files = []
        with contextlib.suppress(OSError):
            for (process, number, theirs), size in zip(offers, sizes):
                files.append(_opened(f"/proc/{process}/fd/{number}", theirs, HEADER + size))
        if not all(comm.all_gather_object(len(files) == comm.size)):
            return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return SharedMemory(comm, files, [process for process, *_ in offers])


def _opened(path, token, size):
    """The file as memory; OSError if it is not the one that was meant, as where processes have other numbers."""
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != size or os.pread(descriptor, TOKEN, 0) != token:
            raise OSError(f"{path} is another file")
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
