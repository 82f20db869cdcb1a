"""Sums in memory that ranks share: the bits of the messages they spare, and messages where there is none to share."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, DataLoader, DistributedDataParallel, NoiseScale, ShardSum
from allgrad.ddp.comm import shared_memory
from allgrad.ddp.errors import PeerLost
from allgrad.ddp.parallel import LossScale

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory files without a name")


def leaves_of(shards, length, dtype=np.float32):
    return list(generator("leaves", shards, length).standard_normal((shards, length)).astype(dtype))


def sums(reduced, comm, batches, shared, placing=True):
    """The sum of each of these lists of leaves, one after the other by one ShardSum, on one rank of one host."""
    comm.local_size = comm.size
    total, array = ShardSum(comm, len(batches[0])), np.empty_like(batches[0][0])
    if shared:
        array = total.share(array)
        assert array is total.shared_sum.array
    found = []
    for leaves in batches:
        found.append(reduced(comm, leaves, total=total, placing=placing, array=array).tobytes())
        array *= 0.0  # a sum is the rank's own: to change it disturbs nobody
    return found


@pytest.mark.parametrize("ranks, shards", [(2, 2), (2, 7), (2, 8), (3, 3), (3, 8), (4, 4), (5, 13), (8, 8), (7, 20)])
def test_the_bits_are_those_of_messages(simulate, reduced, ranks, shards):
    for length, dtype in ((1, "float32"), (ranks + 1, "float64"), (70_001, "float32")):
        batches = [leaves_of(shards, length, dtype), [3.0 * leaf for leaf in leaves_of(shards, length, dtype)]]
        wanted = {tuple(found) for found in simulate(ranks, lambda comm: sums(reduced, comm, batches, False))}
        assert len(wanted) == 1
        for placing in (True, False):
            assert {*map(tuple, simulate(ranks, lambda comm: sums(reduced, comm, batches, True, placing)))} == wanted


def test_any_other_array_is_summed_by_messages(simulate):
    leaves = leaves_of(7, 40)

    def all_ways(comm):
        total = ShardSum(comm, 7)
        shared, found = total.share(np.empty_like(leaves[0])), []
        for last in (shared, np.empty_like(shared), shared, np.empty_like(shared)):
            for before in (last, shared, np.empty_like(shared)):
                for shard in range(total.first, total.stop):
                    array = last if shard == total.stop - 1 else before
                    array[...] = leaves[shard]
                    total.push(shard, array)
                total.finish(last)
                found.append(last.tobytes())
        return found

    for ranks in (2, 3):
        assert len({one for found in simulate(ranks, all_ways) for one in found}) == 1


def test_what_others_read_is_counted_as_sent(simulate):
    def sent(comm, shared):
        comm.local_size, before = comm.size, comm.bytes_sent
        total, array = ShardSum(comm, 6), np.zeros(120, np.float32)
        array = total.share(array) if shared else array
        for shard in range(total.first, total.stop):
            total.push(shard, array)
        total.finish(array)
        return comm.bytes_sent - before

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


def test_where_the_system_has_no_memory_to_give_messages_are_sent(simulate, monkeypatch):
    made, calls = os.memfd_create, []

    def making(name):
        calls.append(name)
        if len(calls) == 2:
            raise PermissionError("not allowed")
        return made(name)

    monkeypatch.setattr(os, "memfd_create", making)
    array = np.zeros(100, np.float32)
    assert simulate(3, lambda comm: ShardSum(comm, 3).share(array) is array) == [True] * 3


@pytest.mark.parametrize("options", [{}, {"noise": NoiseScale}, {"scale": LossScale}])
def test_a_model_may_be_wrapped_again_and_the_first_goes_on(simulate, options):
    x = np.random.default_rng(0).standard_normal((64, 30)).astype("f")

    def trained(comm, again):
        model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))
        for name, p in model.named_parameters():
            p.assign(0.1 * generator(name).standard_normal(p.shape).astype("f"))
        parallel = DistributedDataParallel(model, comm, 5, **{key: make() for key, make in options.items()})
        optimizer = optim.SGD(model, lr=0.01)
        for batch in DataLoader((x,), 16, comm, 5).steps(0, 4):
            if again and batch.step == 2:
                DistributedDataParallel(model, comm, 5)
            parallel.backward(batch, lambda x: (model(x) ** 2).mean())
            optimizer.step()
        noise = parallel.noise and (parallel.noise.trace, parallel.noise.signal)
        return parallel.arena.sha256(), noise

    found = {one for again in (False, True) for one in simulate(2, lambda comm: trained(comm, again))}
    assert found == {*simulate(1, lambda comm: trained(comm, False))}


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
    model.arena.adopt_buffer(message)
    optimizer.zero_grad()
    (model(np.ones((1, 3), np.float32)).sum() * 2.0).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert np.shares_memory(p.grad, message)
        assert np.array_equal(p.numpy(), before[name] - 2.0)
