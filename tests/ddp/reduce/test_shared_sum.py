"""Sums in memory that ranks share: the bits of the messages they spare, and messages where there is none to share."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, DataLoader, DistributedDataParallel, NoiseScale, ShardSum
from allgrad.ddp.comm import shared_memory
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


@pytest.mark.parametrize("length", [1, 32, 33])
def test_bfloat16_which_numpy_lacks_is_summed_by_messages(simulate, length):
    torch = pytest.importorskip("torch")
    leaves = [torch.from_numpy(leaf).bfloat16() for leaf in leaves_of(7, length)]

    def run(comm):
        comm.local_size = comm.size
        total = ShardSum(comm, 7)
        array = total.share(torch.zeros(length, dtype=torch.bfloat16))
        for shard in range(total.first, total.stop):
            array[...] = leaves[shard]
            total.push(shard, array)
        total.finish(array)
        return array.float().tolist()

    a, b, c, d, e, f, g = leaves
    assert simulate(3, run) == [(((a + b) + (c + d)) + ((e + f) + g)).float().tolist()] * 3


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
