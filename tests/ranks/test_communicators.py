"""What ranks say to each other, and the sums they build from it."""

import os
import threading

import numpy as np
import pytest
import torch

from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError, ShardSum
from allgrad.ddp.comm import activity, messages


def test_ranks_are_numbered(comm):
    assert comm.all_gather_object(comm.rank) == list(range(comm.size))
    assert len({*comm.all_gather_object((comm.size, comm.launcher, comm.backend))}) == 1
    assert 0 <= comm.local_rank < comm.local_size <= comm.size


@pytest.mark.parametrize("length, dtype", [(1, "float32"), (3, "float64"), (100_000, "float32")])
def test_an_exchange_around_the_ring(comm, length, dtype):
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    if comm.size > 1:
        sent, received = np.full(length, comm.rank, dtype), np.full(length, -1, dtype)
        comm.exchange([(sent, after)], [(received, before)])
        assert np.all(received == before) and np.all(sent == comm.rank)


def test_messages_between_two_ranks_arrive_in_order(comm):
    """Several to each rank, of different lengths, and as views of larger arrays."""
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    sends = [(np.arange(100.0)[i : 2 * i + 1] + 1000 * comm.rank + other, other) for i in (1, 7, 3) for other in others]
    store = np.zeros((comm.size, 3, 10))
    receives = [(store[other, k, : i + 1], other) for k, i in enumerate((1, 7, 3)) for other in others]
    comm.exchange(sends, receives)
    for other in others:
        for k, i in enumerate((1, 7, 3)):
            expected = np.arange(100.0)[i : 2 * i + 1] + 1000 * other + comm.rank
            assert store[other, k].tolist() == [*expected, *[0.0] * (9 - i)]


def test_more_may_be_sent_than_received(comm):
    if comm.rank == 0:
        comm.exchange([(np.full(2, float(rank)), rank) for rank in range(1, comm.size)], [])
    else:
        received = np.zeros(2)
        comm.exchange([], [(received, 0)])
        assert received.tolist() == [comm.rank] * 2


def test_no_messages_are_no_exchange(comm):
    comm.exchange([], [])
    comm.barrier()


def test_the_root_is_copied(comm):
    for root in range(comm.size):
        array = np.full(5, comm.rank, np.float32)
        comm.broadcast(array, root)
        assert array.tolist() == [root] * 5
        assert comm.broadcast_object({"rank": comm.rank}, root) == {"rank": root}


def test_all_reduce_adds(comm):
    array = np.array([1.0, comm.rank])
    comm.all_reduce(array)
    assert array.tolist() == [comm.size, sum(range(comm.size))]


COUNTS = [3, 0, 1, 5, 2, 2, 4, 1]


@pytest.mark.parametrize("make", [np.full, torch.full], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bfloat16"])
def test_each_rank_gives_as_many_elements_to_every_rank(comm, make, dtype):
    if make is np.full and dtype == "bfloat16":
        return
    counts, kind = (COUNTS * comm.size)[: comm.size], np.dtype(dtype) if make is np.full else getattr(torch, dtype)
    own, before = counts[comm.rank], comm.bytes_sent
    given, received = (make((n,), 9, dtype=kind) for n in (own * comm.size, sum(counts)))
    for rank in range(comm.size):
        given[rank * own : (rank + 1) * own] = 10 * comm.rank + rank
    comm.all_to_all(given, received, counts)
    assert received.tolist() == [10 * rank + comm.rank for rank in range(comm.size) for _ in range(counts[rank])]
    assert comm.bytes_sent - before == own * (comm.size - 1) * given.itemsize
    whole = make((4 * comm.size,), 0, dtype=kind)
    part = whole[4 * comm.rank :][:4]
    part[...] = comm.rank + 1
    comm.all_gather(part, whole)
    assert whole.tolist() == [rank + 1 for rank in range(comm.size) for _ in range(4)]
    assert comm.bytes_sent - before == (own + 4) * (comm.size - 1) * given.itemsize


def test_sums_by_collectives_have_the_bits_of_the_tree(comm, tree):
    part = comm.split(0, comm.rank)  # a communicator of its own, of all ranks
    part.collectives = True
    for shards in (comm.size, 2 * comm.size + 3):
        for length in (1, 1000):
            leaves = leaves_of(shards, length, "float32")
            assert reduced(part, leaves, canonical=True).tobytes() == tree(leaves).tobytes()


def test_objects_of_any_kind_are_gathered(comm):
    mine = {"rank": comm.rank, "array": np.arange(comm.rank), "none": None, "long": "x" * 10_000 * comm.rank}
    for rank, theirs in enumerate(comm.all_gather_object(mine)):
        assert theirs["rank"] == rank and theirs["array"].tolist() == list(range(rank))
        assert theirs["none"] is None and len(theirs["long"]) == 10_000 * rank


def test_a_split_has_the_ranks_of_one_color_ordered_by_key(comm):
    part = comm.split(comm.rank % 2, key=-comm.rank)
    members = [rank for rank in reversed(range(comm.size)) if rank % 2 == comm.rank % 2]
    assert (part.rank, part.size) == (members.index(comm.rank), len(members))
    assert part.all_gather_object(comm.rank) == members
    assert activity.communicators[comm.name] is comm and activity.communicators[part.name] is part
    array = np.array([float(comm.rank)])
    part.broadcast(array)
    assert array[0] == members[0]
    part.all_reduce(array)
    assert array[0] == members[0] * len(members)
    total = ShardSum(part, 2 * part.size)
    for shard in range(total.first, total.stop):
        array = np.array([1.0, shard])
        total.push(shard, array)
    total.finish(array)
    assert array.tolist() == [2 * part.size, sum(range(2 * part.size))]
    comm.barrier()


KINDS = {
    "long": lambda rank: np.arange(100.0) + rank,
    "in Fortran's order on one rank": lambda rank: np.asarray(
        np.arange(12.0).reshape(3, 4) + rank, order="CF"[rank % 2]
    ),
    "every other": lambda rank: (np.arange(12.0) + rank)[::2],
    "a scalar": lambda rank: np.array(2.0 + rank),
    "empty": lambda rank: np.zeros((0, 3)),
    "short integers": lambda rank: (np.arange(9) + rank).astype("u2"),
    "of torch": lambda rank: torch.arange(9.0).reshape(3, 3).T + rank,
    "of torch, bfloat16": lambda rank: torch.arange(9).bfloat16() + rank,
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_any_kind_arrive_in_pieces(comm, kind, monkeypatch):
    monkeypatch.setattr(messages, "CHUNK_BYTES", 20)
    make, after, before = KINDS[kind], (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    received, own = make(99), make(comm.rank)
    if comm.size > 1:
        comm.exchange([(own, after)], [(received, before)])
        assert received.tolist() == make(before).tolist()
    comm.broadcast(own, comm.size - 1)
    assert own.tolist() == make(comm.size - 1).tolist()
    if kind != "short integers":  # which Gloo does not add up
        own = make(comm.rank)
        comm.all_reduce(own)
        assert own.tolist() == sum(make(rank) for rank in range(comm.size)).tolist()


def test_long_objects_arrive_in_pieces_and_what_cannot_be_pickled_is_told_on_all_ranks(comm, monkeypatch):
    monkeypatch.setattr(messages, "CHUNK_BYTES", 1 << 16)
    frozen = np.arange(100_000.0)
    frozen.flags.writeable = False
    for rank, theirs in enumerate(comm.all_gather_object({"rank": comm.rank, "frozen": frozen, "text": "x" * 200_000})):
        assert (theirs["rank"], len(theirs["text"])) == (rank, 200_000) and np.array_equal(theirs["frozen"], frozen)
    if comm.size > 1:
        with pytest.raises(ConfigurationError, match=r"^rank 1 cannot send its value in all_gather_object .*pickle"):
            comm.all_gather_object(threading.Lock() if comm.rank == 1 else None)
    assert comm.all_gather_object(comm.rank) == list(range(comm.size))


# --- agreement ---------------------------------------------------------------------------------------------------


def refuse(text):
    raise ConfigurationError(text)


def test_what_one_rank_refuses_all_refuse(comm):
    for wrong in range(comm.size):
        with pytest.raises(ConfigurationError, match=f"^not on rank {wrong}$"):
            comm.agree_or_raise(lambda: refuse(f"not on rank {wrong}") if comm.rank == wrong else "fine")
    with pytest.raises(ConfigurationError, match=r"^not on rank 0$"):
        comm.agree_or_raise(lambda: refuse(f"not on rank {comm.rank}"))


def test_without_refusal_each_rank_has_its_result(comm):
    assert comm.agree_or_raise(lambda x, y: (x, y), comm.rank, 2) == (comm.rank, 2)


# --- sums --------------------------------------------------------------------------------------------------------


def leaves_of(shards, length, dtype):
    """The same on every rank, and so different in magnitude that every order of additions rounds in its own way."""
    rng = generator("leaves", shards, length)
    return list((rng.standard_normal((shards, length)) * 10.0 ** rng.integers(-3, 4, (shards, length))).astype(dtype))


def reduced(comm, leaves, canonical):
    total = ShardSum(comm, len(leaves), canonical)
    for shard in range(total.first, total.stop):
        array = leaves[shard].copy()
        total.push(shard, array)
    total.finish(array)
    return array


@pytest.mark.parametrize("more", [0, 1, 5])
def test_ranks_of_one_host_add_up_in_memory_that_they_share(comm, tree, more):
    shards, length = comm.size + more, 70_001
    total, array = ShardSum(comm, shards), np.zeros(length, np.float32)
    array = total.share(array)
    possible = hasattr(os, "memfd_create") and (comm.fence is not None or os.uname().machine == "x86_64")
    assert (total.shared_sum is not None) == (possible and comm.size > 1 and comm.local_size == comm.size)
    for factor in range(1, 30):
        leaves = [np.float32(factor) * leaf for leaf in leaves_of(shards, length, np.float32)]
        for shard in range(total.first, total.stop):
            array[...] = leaves[shard]
            total.push(shard, array)
        total.finish(array)
        assert array.tobytes() == tree(leaves).tobytes()


@pytest.mark.parametrize("length", [1, 2, 5, 1000, 70_001])
@pytest.mark.parametrize("more", [0, 1, 2, 5, 13])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sum_over_shards_has_the_bits_of_the_tree(comm, tree, length, more, dtype):
    for shards in {comm.size + more, comm.size * (more + 1)}:
        leaves = leaves_of(shards, length, dtype)
        assert reduced(comm, leaves, canonical=True).tobytes() == tree(leaves).tobytes()


@pytest.mark.parametrize("length", [1, 1000])
def test_native_sums_agree_within_rounding(comm, tree, length):
    leaves = leaves_of(comm.size + 5, length, "float64")
    scale = sum(np.abs(leaf) for leaf in leaves)
    assert np.all(np.abs(reduced(comm, leaves, canonical=False) - tree(leaves)) <= 1e-14 * scale)
