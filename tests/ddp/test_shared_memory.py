"""Sums in memory that ranks share: the bits of the messages they spare, and messages where there is none to share."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autograd import nn, optim
from autograd.random import generator
from ddp import Communicator, ShardSum, shared_memory
from ddp.errors import PeerLost

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory files without a name")


def leaves_of(shards, length, dtype=np.float32):
    return list(generator("leaves", shards, length).standard_normal((shards, length)).astype(dtype))


def sums(comm, batches, shared, placing=True):
    """The sum of each of these lists of leaves, one after the other by one ShardSum, on one rank of one host."""
    comm.local_size = comm.size
    total, array = ShardSum(comm, len(batches[0])), np.empty_like(batches[0][0])
    if shared:
        array = total.share(array)
        assert array is total.board.array
    found = []
    for leaves in batches:
        for shard in range(total.first, total.stop):
            place = total.place(shard, array) if placing else None
            given = array if place is None else place
            given[...] = leaves[shard]
            total.push(shard, given, placed=place is not None)
        total.finish(array)
        found.append(array.tobytes())
        array *= 0.0  # a sum is the rank's own: to change it disturbs nobody
    return found


@pytest.mark.parametrize("ranks, shards", [(2, 2), (2, 7), (2, 8), (3, 3), (3, 8), (4, 4), (5, 13), (8, 8), (7, 20)])
def test_the_bits_are_those_of_messages(simulate, ranks, shards):
    for length, dtype in ((1, "float32"), (ranks + 1, "float64"), (70_001, "float32")):
        batches = [leaves_of(shards, length, dtype), [3.0 * leaf for leaf in leaves_of(shards, length, dtype)]]
        wanted = {tuple(found) for found in simulate(ranks, lambda comm: sums(comm, batches, False))}
        assert len(wanted) == 1
        for placing in (True, False):
            assert {*map(tuple, simulate(ranks, lambda comm: sums(comm, batches, True, placing)))} == wanted


def test_any_other_array_is_summed_by_messages(simulate):
    leaves = leaves_of(5, 40)

    def both(comm):
        total = ShardSum(comm, 5)
        shared, found = total.share(np.empty_like(leaves[0])), []
        for array in (shared, np.empty_like(shared), shared, np.empty_like(shared)):
            for shard in range(total.first, total.stop):
                array[...] = leaves[shard]
                total.push(shard, array)
            total.finish(array)
            found.append(array.tobytes())
        return found

    assert len({one for found in simulate(3, both) for one in found}) == 1


def test_what_others_read_is_counted_as_sent(simulate):
    def sent(comm, shared):
        comm.local_size, before = comm.size, comm.sent
        total, array = ShardSum(comm, 6), np.zeros(120, np.float32)
        array = total.share(array) if shared else array
        for shard in range(total.first, total.stop):
            total.push(shard, array)
        total.finish(array)
        return comm.sent - before

    for ranks in (3, 6):
        assert simulate(ranks, lambda comm: sent(comm, True)) == simulate(ranks, lambda comm: sent(comm, False))


@pytest.mark.parametrize("fails", [1, 3, 4])
def test_where_one_rank_cannot_share_none_does(simulate, monkeypatch, fails):
    opened, calls = shared_memory._opened, []

    def opening(*args):
        calls.append(args)
        if len(calls) == fails:
            raise PermissionError("another user's")
        return opened(*args)

    monkeypatch.setattr(shared_memory, "_opened", opening)
    array = np.zeros(100, np.float32)
    assert simulate(2, lambda comm: ShardSum(comm, 2).share(array) is array) == [True, True]


def test_on_several_hosts_or_one_rank_nothing_is_shared(simulate):
    array = np.zeros(100, np.float32)
    assert all(simulate(4, lambda comm: ShardSum(comm, 4).share(array) is array))  # 2 ranks a host
    assert ShardSum(Communicator(), 4).share(array) is array


def test_a_file_of_something_else_is_not_taken(tmp_path):
    path, size = tmp_path / "file", shared_memory.HEADER + 64
    path.write_bytes(b"x" * size)
    assert len(shared_memory._opened(path, b"x" * shared_memory.TOKEN, size)) == size
    for token, length in ((b"y" * shared_memory.TOKEN, size), (b"x" * shared_memory.TOKEN, size + 1)):
        with pytest.raises(OSError, match="another file"):
            shared_memory._opened(path, token, length)


def meeting(process):
    """Memory of this process and another one, which meet without a fence."""
    memory = shared_memory.SharedMemory(Communicator(), [bytearray(shared_memory.HEADER + 8) for _ in range(2)])
    memory.processes = [os.getpid(), process]
    return memory


def test_ranks_meet_and_one_that_is_gone_is_missed(monkeypatch):
    monkeypatch.setattr(shared_memory, "LOOKS", 1)
    monkeypatch.setattr(shared_memory, "SILENCE", 0.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    memory = meeting(ended.pid)
    memory.turns[1][0] = 2
    memory.meet()
    memory.meet()
    with pytest.raises(PeerLost, match=r"^rank 1 is gone$"):
        memory.meet()


def test_memory_is_given_back(simulate):
    def held():
        return Path("/proc/self/maps").read_text().count("memfd:allgrad")

    gc.collect()
    before = held()
    kept = simulate(2, lambda comm: ShardSum(comm, 2).share(np.zeros(5000, np.float32)))
    assert held() == before + 4  # two ranks, each sees both
    kept.clear()
    gc.collect()
    assert held() == before


def test_an_optimizer_follows_the_gradients_to_other_memory():
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model, lr=1.0)
    optimizer.zero_grad()
    optimizer.step()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    message = np.empty_like(model.arena.message)
    model.arena.lie_in(message)
    optimizer.zero_grad()
    (model(np.ones((1, 3), np.float32)).sum() * 2.0).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert np.shares_memory(p.grad, message)
        assert np.array_equal(p.numpy(), before[name] - 2.0)
