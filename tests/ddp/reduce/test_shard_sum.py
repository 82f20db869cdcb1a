"""The canonical sum over logical shards: the bits of its definition, on any number of ranks."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from allgrad import nn
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, ConfigurationError, DataLoader, DistributedDataParallel, ShardSum
from allgrad.ddp.reduce import shard_sum as reduction

PAIRS = [(shards, ranks) for shards in range(1, 10) for ranks in range(1, shards + 1)]
LARGE = [(16, 8), (40, 7), (100, 3), (1000, 6), (1024, 1), (1024, 3), (1024, 8)]


def leaves_of(shards, length, dtype="float32"):
    """Arrays whose magnitudes differ so much that every order of additions rounds in its own way."""
    rng = generator("leaves", shards, length)
    scale = 10.0 ** rng.integers(-3, 4, (shards, length))
    return list((rng.standard_normal((shards, length)) * scale).astype(dtype))


# --- the sum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards, ranks", PAIRS + LARGE)
def test_any_ranks_give_the_bits_of_the_tree(shards, ranks, simulate, reduced, tree):
    for length in (1, ranks - 1 or 1, 50):
        leaves = leaves_of(shards, length)
        expected = tree(leaves).tobytes()
        for placing in (False, True):
            found = simulate(ranks, lambda comm: reduced(comm, leaves, placing=placing))
            assert [a.tobytes() for a in found] == [expected] * ranks


@pytest.mark.parametrize("short, few", [(0, False), (0, True), (10**9, False)])
@pytest.mark.parametrize("shards, ranks", [(2, 2), (8, 2), (5, 2), (4, 4), (8, 4), (8, 8)])
def test_any_way_to_exchange_gives_the_bits_of_the_tree(shards, ranks, short, few, simulate, tree, monkeypatch):
    """In halves, by a swap, or from all to all; and arrays that are slices of a larger one."""
    monkeypatch.setattr(reduction, "ALL_REDUCE_BYTES", short)
    leaves = leaves_of(shards, 51)

    def run(comm):
        total, array = ShardSum(comm, shards), np.empty(51, np.float32)
        for part in (slice(20, 51), slice(17, 20), slice(0, 17)):
            for shard in range(total.first, total.stop):
                array[part] = leaves[shard][part]
                total.push(shard, array[part])
            for sends, receives in total.steps(array[part], few):
                comm.exchange(sends, receives)
        return array.tobytes()

    assert simulate(ranks, run) == [tree(leaves).tobytes()] * ranks


@pytest.mark.parametrize("shards", [4, 5, 6, 7, 8, 9, 1024])
def test_these_arrays_can_tell_the_tree_from_a_sum_from_left_to_right(shards, tree):
    leaves = leaves_of(shards, 50)
    assert tree(leaves).tobytes() != sum(leaves[1:], leaves[0]).tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shards_ranks_length_and_dtype(data, simulate, reduced, tree):
    shards = data.draw(st.integers(1, 40), "shards")
    ranks = data.draw(st.integers(1, min(shards, 9)), "ranks")
    leaves = leaves_of(shards, data.draw(st.integers(1, 30), "length"), data.draw(st.sampled_from("fd"), "dtype"))
    for array in simulate(ranks, lambda comm: reduced(comm, leaves)):
        assert array.dtype == leaves[0].dtype and array.tobytes() == tree(leaves).tobytes()


@pytest.mark.parametrize("shards, ranks", [(1, 1), (5, 1), (4, 4), (9, 2), (100, 3)])
def test_native_sums_agree_within_rounding(shards, ranks, simulate, reduced, tree):
    leaves = leaves_of(shards, 50, "float64")
    scale = sum(np.abs(leaf) for leaf in leaves)
    for array in simulate(ranks, lambda comm: reduced(comm, leaves, canonical=False)):
        assert np.all(np.abs(array - tree(leaves)) <= 1e-14 * shards * scale)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_one_sum_serves_arrays_of_every_length_and_dtype_in_turn(ranks, simulate, reduced, tree):
    rounds = [leaves_of(13, length, dtype) for length, dtype in [(8, "f"), (1, "f"), (8, "d"), (9, "d"), (8, "f")]]

    def run(comm):
        total = ShardSum(comm, 13)
        return [reduced(comm, leaves, total=total).tobytes() for leaves in rounds]

    assert simulate(ranks, run) == [[tree(leaves).tobytes() for leaves in rounds]] * ranks


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_step_that_was_cut_short_leaves_nothing_behind(ranks, simulate, reduced, tree):
    leaves = leaves_of(13, 50)

    def run(comm):
        total = ShardSum(comm, 13)
        for shard in range(total.first, total.stop - 1):
            total.push(shard, np.ones(50, np.float32))
        return reduced(comm, leaves, total=total).tobytes()

    assert simulate(ranks, run) == [tree(leaves).tobytes()] * ranks


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 64, 100, 1000, 1024, 4095, 4096])
def test_arrays_held_at_once_are_at_most_log2_of_the_shards_and_one(shards, monkeypatch):
    """All that were ever made, in two steps, and the caller's own: none is let go, so that none is made anew."""
    made = []
    monkeypatch.setattr(reduction, "full", lambda shape, value, like: made.append(shape) or np.zeros(shape, like.dtype))
    array, total = np.ones(2, np.float32), ShardSum(Communicator(), shards)
    for _ in range(2):
        for shard in range(shards):
            array[:] = 1.0
            total.push(shard, array)
        total.finish(array)
    assert array.tolist() == [shards] * 2
    assert len(made) + 1 <= math.log2(shards) + 1


def test_a_backward_over_many_shards_holds_few_gradients():
    """Whatever else a step keeps for each shard, it is no gradient: 512 of them would be 300 MB."""
    model = nn.Linear(300, 500)
    parallel = DistributedDataParallel(model, shards=512)
    batch = DataLoader((np.ones((512, 300), np.float32),), 512, shards=512).batch(0)
    tracemalloc.start()
    parallel.backward(batch, lambda x: model(x).mean())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14 * parallel.arena.grad.nbytes


@pytest.mark.parametrize("shards", [0, 2])
def test_more_ranks_than_shards_are_refused(shards, simulate):
    with pytest.raises(ConfigurationError, match=f"3 ranks cannot share {shards} logical shards: .*shards=3"):
        simulate(3, lambda comm: ShardSum(comm, shards))
