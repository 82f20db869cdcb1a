"""Half precision between ranks: how it rounds, and the same bits on any number of ranks."""

import numpy as np
import pytest

from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError, DistributedDataParallel, ShardSum
from allgrad.ddp.reduce import Wire

SPECIAL = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 1e-8, 6e-8, 3.4e38, 1e-45, 1e-40]


def rounded(values, name, dtype="f4"):
    array = np.array(values, dtype)
    Wire(name).round(array)
    return array


@pytest.mark.parametrize(
    "value, expected",
    [(1.0, 1.0), (1 + 2**-8, 1.0), (1 + 3 * 2**-8, 1 + 2**-6), (1 + 2**-8 + 2**-20, 1 + 2**-7), (3.4e38, np.inf),
     (-(1 + 3 * 2**-8), -(1 + 2**-6)), (2.0**-133, 2.0**-133), (2.0**-134, 0.0), (3 * 2.0**-134, 2.0**-132)],
)  # fmt: skip
def test_bfloat16_rounds_to_nearest_and_ties_to_even(value, expected):
    assert rounded([value], "bfloat16") == expected


def test_a_nan_stays_one_whatever_its_bits():
    nans = np.array([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF, 0xFF800001], "u4").view("f4")
    for name in ("float16", "bfloat16"):
        assert np.isnan(rounded(nans, name)).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_both_libraries_round_alike_and_packing_loses_nothing_more(name, dtype):
    torch = pytest.importorskip("torch")
    bits = generator("bits").integers(0, 2**32, 20_000, dtype="u4").view("f4")
    with np.errstate(invalid="ignore"):
        values = np.concatenate([np.array(SPECIAL, "f4"), bits]).astype(dtype)
    tensor = torch.from_numpy(values.copy())
    Wire(name).round(tensor)
    numpy = rounded(values, name, dtype)
    np.testing.assert_array_equal(numpy, tensor.numpy())
    np.testing.assert_array_equal(numpy, torch.from_numpy(values).to(getattr(torch, name)).to(tensor.dtype).numpy())
    again = np.empty_like(numpy)
    Wire(name).unpack(Wire(name).pack(numpy), again)
    np.testing.assert_array_equal(again, numpy)
    assert len(Wire(name).empty(numpy)) == len(Wire(name).pack(numpy)) == 2 * len(numpy)


def rounding_tree(leaves, name):
    """The canonical tree with every leaf and every sum rounded, by its definition."""

    def node(level, index):
        if index << level >= len(leaves):
            return None
        if level == 0:
            return rounded(leaves[index], name)
        left, right = node(level - 1, 2 * index), node(level - 1, 2 * index + 1)
        return left if right is None else rounded(left + right, name)

    return node((len(leaves) - 1).bit_length(), 0)


def reduced(comm, leaves, wire):
    total, array = ShardSum(comm, len(leaves), wire=wire and Wire(wire)), np.empty_like(leaves[0])
    for shard in range(total.first, total.stop):
        array[...] = leaves[shard]
        total.push(shard, array)
    total.finish(array)
    return array.tobytes(), comm.bytes_sent


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("shards, ranks", [(1, 1), (4, 1), (4, 4), (8, 2), (8, 4), (5, 3), (7, 7), (13, 4)])
@pytest.mark.parametrize("length", [1, 50])
def test_any_ranks_give_the_bits_of_the_rounding_tree(name, shards, ranks, length, simulate, tree):
    leaves = list(generator("wire", shards).standard_normal((shards, length)).astype("f4"))
    expected = rounding_tree(leaves, name).tobytes()
    assert length == 1 or expected != tree(leaves).tobytes()
    results = simulate(ranks, lambda comm: reduced(comm, leaves, name))
    assert {array for array, _ in results} == {expected}
    exact = simulate(ranks, lambda comm: reduced(comm, leaves, None))
    assert [2 * sent for _, sent in results] == [sent for _, sent in exact]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_bytes_are_those_of_the_messages(ranks, simulate):
    """Halving and its mirror image send each (1 - 1 / ranks) of the array."""
    leaves = [np.ones(64, "f4")] * ranks
    for wire, size in [(None, 4), ("bfloat16", 2)]:
        results = simulate(ranks, lambda comm: reduced(comm, leaves, wire))
        assert {sent for _, sent in results} == {2 * 64 * (ranks - 1) // ranks * size}


def test_refusals(simulate):
    from allgrad import nn

    for options, text in [
        ({"wire": "int8"}, "wire is one of float32, float16, bfloat16, got 'int8'"),
        ({"wire": "float16", "reduce": "native"}, "wire='float16' rounds at each node .* reduce='native' has none"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            DistributedDataParallel(nn.Linear(2, 2), **options)
