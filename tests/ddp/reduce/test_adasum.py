"""Adasum: its closed forms, and the same bits on any number of ranks."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, ConfigurationError, DistributedDataParallel, NoiseScale
from allgrad.ddp.data import Batch, Shard
from allgrad.ddp.reduce import Adasum, adasum


def batch_of(*shards):
    samples = [np.asarray(s, np.float64) for s in shards]
    return Batch(0, 0, sum(map(len, samples)), len(samples), 0, [Shard(v, s, (s,)) for v, s in enumerate(samples)])


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([1, 0], [0, 2], [1, 2]),  # orthogonal: the sum
        ([3, 4], [3, 4], [3, 4]),  # equal: their mean
        ([1, 2], [2, 4], [1.5, 3]),  # parallel: their mean
        ([1, 0], [1, 1], [1.25, 0.75]),
        ([1, 0], [-1, 0], [0, 0]),
        ([0, 0], [1, 2], [1, 2]),
        ([0, 0], [0, 0], [0, 0]),
    ],
)
def test_pairs(a, b, expected):
    a, b = np.array(a, "f8"), np.array(b, "f8")
    np.testing.assert_allclose(adasum(a, b), expected, rtol=1e-15)
    np.testing.assert_allclose(adasum(b, a), expected, rtol=1e-15)


def by_definition(leaves, spans):
    """The tree of pairs, each span by itself, and sums outside of them."""

    def pair(a, b):
        result = a + b
        for s in spans:
            x, y = a[s].astype("f8"), b[s].astype("f8")
            result[s] = (1 - x @ y / (2 * x @ x)) * a[s] + (1 - x @ y / (2 * y @ y)) * b[s]
        return result

    def node(level, index):
        if index << level >= len(leaves):
            return None
        if level == 0:
            return leaves[index]
        left, right = node(level - 1, 2 * index), node(level - 1, 2 * index + 1)
        return left if right is None else pair(left, right)

    return node((len(leaves) - 1).bit_length(), 0)


@pytest.mark.parametrize("shards, ranks", [(1, 1), (4, 1), (4, 4), (8, 2), (5, 3), (7, 7), (13, 4)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_any_ranks_give_the_tree_of_pairs(shards, ranks, dtype, simulate):
    spans = [slice(0, 7), slice(8, 30)]
    leaves = list(generator("adasum", shards).standard_normal((shards, 31)).astype(dtype))

    def run(comm, collectives=False):
        comm.collectives = collectives  # which know of slices only, and are not for it
        total, array = Adasum(spans, comm, shards), np.empty_like(leaves[0])
        for shard in range(total.first, total.stop):
            array[...] = leaves[shard]
            total.push(shard, array)
        total.finish(array)
        return array

    results = simulate(ranks, run) + simulate(1, run) + simulate(ranks, lambda comm: run(comm, True))
    assert len({array.tobytes() for array in results}) == 1
    tolerance = {"f4": 1e-5, "f8": 1e-13}[dtype]
    np.testing.assert_allclose(results[0], by_definition(leaves, spans), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8])
def test_orthogonal_arrays_are_added_and_equal_ones_averaged(shards):
    def combined(leaves):
        total = Adasum([slice(0, leaves.shape[1])], Communicator(), shards)
        for shard, leaf in enumerate(leaves.copy()):
            total.push(shard, leaf)
        total.finish(leaf)
        return leaf

    orthogonal = np.diag(np.arange(1.0, shards + 1))
    np.testing.assert_allclose(combined(orthogonal), orthogonal.sum(0), rtol=1e-14)
    equal = np.ones((shards, 1)) * np.arange(5.0)
    np.testing.assert_allclose(combined(equal), equal[0], rtol=1e-14)


class Vector(nn.Module):
    def __init__(self):
        self.w = nn.Parameter([0.0, 0.0], "float64")

    def loss(self, x):
        return (x * self.w).sum(1).mean()


@pytest.mark.parametrize("ranks", [1, 2])
def test_shards_count_by_their_mean_gradients(ranks, simulate):
    """Of three samples and of one: equal means stay, orthogonal ones are added, whatever the sizes."""

    def run(comm, one, two):
        model = Vector()
        parallel = DistributedDataParallel(model, comm, 2, reduce="adasum")
        batch = batch_of(one, two)
        batch.shards = [s for s in batch.shards if s.index in parallel.own_shards]
        loss = parallel.backward(batch, model.loss)
        return model.w.grad.tolist(), loss

    assert {str(r) for r in simulate(ranks, lambda c: run(c, [[1, 2]] * 3, [[1, 2]]))} == {"([1.0, 2.0], 0.0)"}
    assert {str(r) for r in simulate(ranks, lambda c: run(c, [[1, 0]] * 3, [[0, 2]]))} == {"([1.0, 2.0], 0.0)"}


def test_a_noise_scale_is_refused():
    ag.manual_seed(0)
    with pytest.raises(ConfigurationError, match="exact gradient, which reduce='adasum' does not compute"):
        DistributedDataParallel(nn.Linear(2, 2), reduce="adasum", noise=NoiseScale())
