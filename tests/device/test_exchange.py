"""What one rank of many asks NCCL for, and when: on the pretended device, in torch's pretended process group."""

from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import DataLoader, DistributedDataParallel, ShardSum, Zero
from allgrad.ddp.comm import Launch
from allgrad.ddp.comm.torch_distributed import TorchCommunicator
from allgrad.ddp.reduce import side_stream
from tests.device.pretend import pretend
from tests.device.streams import Race


class FakeRank(TorchCommunicator):
    """A rank whose messages go nowhere, and to whom all others say what it says itself."""

    def _gather(self, value):
        return [value] * self.size


@contextmanager
def rank_of(rank, ranks, local=None):
    """One of so many ranks, `local` of which are on each host."""
    local = local or ranks
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        launch = Launch("torchrun", "nccl", rank, ranks, rank % local, local)
        comm = FakeRank(launch, dist.group.WORLD, dist.group.WORLD)
        comm._by_host = None
        if local < ranks:
            first, place = rank - rank % local, rank % local
            comm._by_host = tuple(
                FakeRank(Launch("torchrun", "nccl", some.index(rank), len(some)), dist.new_group([*some]), None)
                for some in (range(first, first + local), range(place, ranks, local))
            )
        yield comm
    finally:
        dist.destroy_process_group()


def model_of(hidden):
    ag.manual_seed(1)
    layers = [nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 3)]
    return nn.Sequential(*layers).to(device="cuda")


def steps_of(comm, shards, steps=3, zero=False, hidden=203, **options):
    """Train for some steps; what comes from other ranks is nothing, and the loss what it may be."""
    model = model_of(hidden)
    parallel = DistributedDataParallel(model, comm, shards, **options)
    optimizer = optim.SGD(parallel, 0.1, 0.9)
    optimizer = Zero(optimizer, comm) if zero else optimizer
    x = generator("x").standard_normal((64, 6)).astype("f4")
    place = lambda arrays: tuple(torch.from_numpy(np.ascontiguousarray(a)).to("cuda") for a in arrays)
    for batch in DataLoader((x, np.arange(64) % 3), 32, comm, shards, place=place).steps(0, steps):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
    return parallel


@pytest.fixture
def unkeyed(monkeypatch):
    """No rank has the number of a batch from another one, so none compares it."""
    monkeypatch.setattr(DistributedDataParallel, "_key", lambda parallel, batch: 0)


NAMES = {"alltoall_base_": "all_to_all", "_allgather_base_": "all_gather", "allreduce_": "all_reduce"}


def asked_of(ranks, shards, length, local=None):
    """[(collective, bytes that the rank sends or keeps and receives)] of each rank, for one sum of float32."""
    found = []
    for rank in range(ranks):
        with pretend() as device, rank_of(rank, ranks, local) as comm:
            total = ShardSum(comm, shards)
            array = total.share(torch.zeros(length, device="cuda"))
            device.reset()
            for shard in range(total.first, total.stop):
                total.push(shard, array)
            total.finish(array)
            found.append([(NAMES[name], size) for name, size in device.collectives])
            assert not device.waits
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_all_ranks_ask_for_the_same_collectives_in_the_same_order(ranks):
    unit = 32 * ranks
    padded = -(-1000 // unit) * unit
    found = asked_of(ranks, ranks, 1000)
    expected = [("all_to_all", 8 * padded), ("all_gather", 4 * (padded + padded // ranks))]
    assert found == [expected if ranks > 2 else [("all_reduce", 4000)]] * ranks


@pytest.mark.parametrize("ranks, local", [(4, 2), (8, 4), (8, 2), (6, 3)])
def test_in_two_levels_an_lth_goes_between_hosts(ranks, local):
    unit, hosts = 32 * ranks, ranks // local
    padded = -(-1000 // unit) * unit
    part, sums = padded // local, 1 if local & (local - 1) == 0 else None
    for asked in asked_of(ranks, ranks, 1000, local):
        assert [name for name, _ in asked] == ["all_to_all", "all_to_all", "all_gather", "all_gather"]
        if sums:
            assert [size for _, size in asked] == [
                8 * padded, 8 * part, 4 * (part + part // hosts), 4 * (padded + part)
            ]  # fmt: skip


def test_one_subtree_a_rank_is_neither_packed_nor_copied():
    with pretend() as device, rank_of(1, 8) as comm:
        total = ShardSum(comm, 8)
        array = total.share(torch.zeros(1000, device="cuda"))
        for _ in range(2):
            device.reset()
            total.push(1, array)
            total.finish(array)
        assert {name: n for name, n in device.launches.items() if name not in NAMES} == {"add_": 3}


@pytest.mark.parametrize("ranks, shards", [(1, 3), (2, 2), (3, 3), (4, 9), (8, 8)])
def test_buckets_go_by_a_stream_without_races(ranks, shards, unkeyed):
    with pretend() as device, rank_of(ranks - 1, ranks) as comm:
        parallel = steps_of(comm, shards, overlap="bucket", bucket=1)
        assert parallel.overlap.policy == "bucket"
        exchange = parallel.overlap.current()
        if ranks > 2:
            assert all(span.start % (32 * ranks) == span.stop % (32 * ranks) == 0 for span, _ in exchange.parts[:-1])
            calls = [name for name, _ in device.collectives if name in ("alltoall_base_", "_allgather_base_")]
            filled = [span for span, _ in exchange.parts if span.start < span.stop]
            assert calls == ["alltoall_base_", "_allgather_base_"] * len(filled) * 3


@pytest.mark.parametrize("lost", ["run", "join"])
def test_without_waiting_there_are_races(lost, monkeypatch, unkeyed):
    """So that the pretended streams would tell."""
    if lost == "join":
        monkeypatch.setattr(side_stream.SideStream, "join", lambda side: None)
    else:

        def run(side, f, *args):
            with side._cuda.stream(side._stream):
                f(*args)

        monkeypatch.setattr(side_stream.SideStream, "run", run)
    with pretend(), rank_of(1, 4) as comm, pytest.raises(Race):
        steps_of(comm, 9, overlap="bucket", bucket=1)


def test_by_itself_a_device_with_nccl_exchanges_buckets(unkeyed):
    with pretend(), rank_of(1, 4) as comm:
        parallel = steps_of(comm, 4, steps=1, hidden=400, bucket=100)
        assert (parallel.overlap.policy, parallel.overlap.why) == ("bucket", "a stream of its own exchanges gradients")
        assert parallel.gradient_sum.collective_sum is not None


def test_parameters_of_zero_are_gathered_by_one_collective(unkeyed):
    with pretend() as device, rank_of(1, 4) as comm:
        parallel = steps_of(comm, 4, steps=1, zero=True)
        size = len(parallel.arena.data)
        each = size // 4 // 64 * 64
        assert device.collectives[-2:] == [("_allgather_base_", 4 * 5 * each), ("broadcast_", 4 * (size - 4 * each))]
