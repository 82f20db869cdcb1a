"""Picking elements, by numbers, slices, masks and arrays of indices of either library.

A new operator is a new row of TABLE: see `table.py`.
"""

import array

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.properties import SEEDS, check, check_with_torch, like, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases, over

TABLE = [
    *cases([(3, 4)], "a[1]", "a[-1]", "a[1, 2]", "a[1:]", "a[1:1]", "a[None, 1]", "a[:, None, 2:]"),
    *cases([(3, 4)], "a[...]", "a[..., 1]", "a[()]", "a[-2:, -1]", "a[:, ::2]", "a[[1, 1], None]"),
    *cases([(3, 4)], "a[m.array(MASK)]", "a[m.array(MASK[:, 0])]", "a[m.array(MASK[:, 0]), 1]"),
    *cases([(3, 4)], "a[[0, 2, 2, 0]]", "a[:, [1, 1, 3]]", "a[[0, 0, 1], [1, 1, 2]]", "a[[0, 2, 0], 1:]"),
    *cases([(3, 4)], "a[m.array(PLACES) % 3]", "a[..., None, [0, 0]]", "a[1, [0, 0, -1]]", "a[a > 0]", "a[0] * a[1:]"),
    *cases([(3, 4)], "a[m.array(PLACES[:, :1]) % 3, [0, 1]]", "a[m.array(np.zeros(0, int))]", "a[a > 0].sum() * a"),
    *cases([(3, 4)], "a[::-1, ::-2]", torch="a.flip(0, 1)[:, ::2]"),
    *cases([(2, 3, 4)], "a[[0, 1], :, [2, 2]]", "a[:, m.array(MASK)]", "a[..., m.array(MASK[0])]"),
    *cases([(2, 3, 4)], "a[0, ..., [1, 1]]", torch="a[0][:, [1, 1]].T"),
    *over("m.take_along_dim(a, m.array(PLACES), 1)", [(3, 4)], [(1, 4)]),
    *cases([(3, 4)], "m.take_along_dim(a, m.array(PLACES[:, :1] % 3), 0)", "a.take_along_dim(m.array(PLACES), dim=-1)"),
    *cases([(2, 3, 2)], "m.take_along_dim(a, m.array(PLACES[None] % 2), 0)"),
    *cases([(2, 3, 4)], "m.take_along_dim(a, m.argmax(a, 2, keepdim=True), 2)"),
    *cases([(3, 4)], "m.gather(a, 1, m.array(PLACES))", "a.gather(0, m.array(PLACES[:2] % 3))"),
    *cases([()], "a.gather(0, m.array([0]))"),
    *cases([(3, 4)], "m.index_select(a, 0, m.array([2, 0, 2]))", "a.index_select(-1, m.array(PLACES[0]))"),
    *cases([(3, 4)], "m.masked_fill(a, m.array(MASK), 0.5)", "a.masked_fill(m.array(MASK[0]), -2.0) * a"),
    *cases([(4, 3)], "m.embedding(m.array(PLACES), a)", "m.embedding(m.array(2), a) * a"),
]  # fmt: skip
KINKS = ["m.embedding(m.array([[0, 1, 1]]), a, -1)"]


@st.composite
def shapes_and_indices(draw):
    """A shape, and an index NumPy accepts for it: integers, slices, None, ..., masks and index arrays mixed."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    kinds, parts, arrays = [], [], draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    at, dots = 0, False
    while at < len(shape):
        n = shape[at]
        kind = draw(st.sampled_from(["integer", "slice", "None", "...", "array", "list", "mask", "stop"]))
        kinds.append(kind)
        if kind == "integer":
            parts.append(draw(st.integers(-n, n - 1).map(draw(st.sampled_from([int, np.int64])))))
        elif kind == "slice":
            parts.append(draw(st.slices(n)))
        elif kind == "None":
            parts.append(None)
            continue
        elif kind == "...":
            if not dots:
                parts.append(...)
            dots = True
            at += draw(st.integers(0, len(shape) - at))
            continue
        elif kind == "array":
            parts.append(draw(hnp.arrays(np.int64, arrays, elements=st.integers(-n, n - 1))))
        elif kind == "list":
            parts.append(draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=3)))
        elif kind == "mask":
            parts.append(draw(hnp.arrays(bool, n)))
        else:
            break
        at += 1
    index = tuple(parts)
    return shape, index[0] if len(index) == 1 and draw(st.booleans()) else index


@settings(max_examples=150)
@given(shapes_and_indices(), SEEDS)
def test_indexing_is_that_of_numpy_and_its_transpose_adds(shape_and_index, seed):
    shape, index = shape_and_index
    (x,) = normal(seed, shape)
    try:
        value = x[index]
    except IndexError:
        assume(False)
    y, pullback = ag.vjp(lambda x: x[index], x)
    np.testing.assert_array_equal(y, value)
    (g,) = normal(seed, value.shape)
    expected = np.zeros(shape)
    np.add.at(expected, index, g)
    np.testing.assert_allclose(pullback(g)[0], expected, rtol=1e-14)
    check(lambda x: x[index], x, value=value, seed=seed)


@given(st.data(), SEEDS)
def test_picking_along_an_axis_is_that_of_torch(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    n, (x,) = shape[dim], normal(seed, shape)
    smaller = tuple(data.draw(st.integers(0, k)) for k in shape)
    index = data.draw(hnp.arrays(np.int64, smaller, elements=st.integers(0, n - 1)))
    check_with_torch(lambda m, x: m.gather(x, dim, like(m, index)), x, seed=seed)
    along = tuple(data.draw(st.sampled_from([1, k])) for k in shape)
    index = data.draw(hnp.arrays(np.int64, along, elements=st.integers(0, n - 1)))
    check_with_torch(lambda m, x: m.take_along_dim(x, like(m, index), dim=dim), x, seed=seed)
    index = data.draw(hnp.arrays(np.int64, data.draw(st.integers(0, 5)), elements=st.integers(0, n - 1)))
    check_with_torch(lambda m, x: m.index_select(x, dim, like(m, index)), x, seed=seed)
    mask = data.draw(hnp.arrays(bool, data.draw(hnp.broadcastable_shapes(shape, max_dims=len(shape)))))
    assume(np.broadcast_shapes(mask.shape, shape) == shape)
    check_with_torch(lambda m, x: x.masked_fill(like(m, mask), 3.0), x, seed=seed)


@pytest.mark.parametrize("index", [torch.tensor([0, 0, 1]), np.array([0, 0, 1]), np.array([0, 0, 1], np.uint8)])
@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_indices_of_either_library_count_repeats(index, array):
    x = ag.tensor(array(np.float32([1.0, 2.0, 3.0])), requires_grad=True)
    x[index].sum().backward()
    assert x.grad.tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize("index", [array.array("q", [0, 0, 1]), memoryview(np.array([0, 0, 1])), range(2)])
def test_any_sequence_of_integers_is_an_index_array(index):
    for library in (np.asarray, torch.as_tensor):
        x = ag.tensor(library(np.arange(3.0)), requires_grad=True)
        x[index].sum().backward()
        assert x.grad.tolist() == [len([i for i in index if i == k]) for k in range(3)]
