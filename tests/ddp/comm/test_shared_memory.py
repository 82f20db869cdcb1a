"""Memory that the ranks of a host share: whose it is, and how they meet in it."""

import os
import subprocess
import sys

import pytest

from allgrad.ddp import Communicator
from allgrad.ddp.comm import shared_memory
from allgrad.ddp.errors import PeerLost

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory files without a name")


def test_a_file_of_something_else_is_not_taken(tmp_path):
    path, size = tmp_path / "file", shared_memory.HEADER + 64
    path.write_bytes(b"x" * size)
    assert len(shared_memory._opened(path, b"x" * shared_memory.TOKEN, size)) == size
    for token, length in ((b"y" * shared_memory.TOKEN, size), (b"x" * shared_memory.TOKEN, size + 1)):
        with pytest.raises(OSError, match="another file"):
            shared_memory._opened(path, token, length)


def meeting(process):
    """Memory of this process and another one, which meet without a fence."""
    files = [bytearray(shared_memory.HEADER + 8) for _ in range(2)]
    return shared_memory.SharedMemory(Communicator(), files, [os.getpid(), process])


def test_ranks_meet_and_one_that_is_gone_is_missed(monkeypatch):
    monkeypatch.setattr(shared_memory, "LOOKS", 1)
    monkeypatch.setattr(shared_memory, "SILENCE", 0.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # and nobody has asked for its status
    memory = meeting(ended.pid)
    memory.turns[1][0] = 2
    memory.meet()
    memory.meet()
    with pytest.raises(PeerLost, match=r"^rank 1 is gone$"):
        memory.meet()
    ended.wait()
    with pytest.raises(PeerLost, match=r"^rank 1 is gone$"):
        memory.meet()
