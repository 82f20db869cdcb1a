"""Moving elements: other shapes and orders of axes, pieces, and arrays put together.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import assume, given, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from tests.autograd.ops.properties import SEEDS, check_with_torch, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases, over

TABLE = [
    *cases([(3, 4)], "m.reshape(a, (2, 6))", "a.reshape(6, -1)", "a.reshape(12)", "a.T", "a.mT", "m.flatten(a)"),
    *cases([(2, 3, 4)], "m.flatten(a, 1)", "a.flatten(0, -2)", "m.permute(a, (2, 0, 1))", "a.permute(-1, 0, 1)"),
    *cases([(2, 3, 4)], "a.mT", "m.transpose(a, 0, -1)", "a.transpose(1, 2)", "a.flatten(end_dim=1)"),
    *cases([(2, 3, 4)], "m.permute_dims(a, (1, 2, 0))", torch="a.permute(1, 2, 0)"),
    *cases([(0, 3, 2)], "m.flatten(a, 1)", "a.mT", "a.permute(2, 0, 1)"),
    *cases([(1, 3, 1)], "m.squeeze(a)", "a.squeeze(0)", "m.squeeze(a, -1)", "a.squeeze((0, 1))"),
    *cases([()], "a.squeeze(-1)", "a.transpose(0, -1)"),
    *cases([(3, 4)], "m.unsqueeze(a, 0)", "a.unsqueeze(-1)", "a.unsqueeze(1)", "m.flatten(a[0, 0])"),
    *cases([(3, 1)], "m.broadcast_to(a, (2, 3, 4))", "a.expand(2, -1, 4)", "a.expand((3, 2)) * a"),
    *cases([(3,)], "m.expand(a, (5, -1))", torch="a.expand(5, -1)"),
    *over("m.concatenate((a, b, a), axis=1)", [(2, 3), (2, 1)], [(2, 3, 2), (2, 0, 2)]),
    *cases([(2, 3), (2, 3)], *[f"m.concatenate([a, b], {axis})" for axis in (0, -1, -2)]),
    *cases([(2, 3), (2, 3)], *[f"m.stack([a, b, a * b], axis={axis})" for axis in (0, 1, 2, -1)]),
    *cases([(3, 4)], "m.stack([row * row for row in a])", "m.stack((a[0, 0], a[1, 1]))"),
    *cases([(3, 4)], "m.flip(a, (0, 1))", "a.flip(-1)", "a.roll(1, 0)", "m.roll(a, (1, -2), (0, 1))", "m.roll(a, 5)"),
    *over("m.flip(a, (-1,))", [(1,)], [(1, 1)], [(0, 3)]),
    *cases([(3, 4)], "m.tril(a)", "a.tril(1)", "m.triu(a, -1)", "a.triu(diagonal=2)", "m.cat([a, a[:, :1]], 1)"),
    *cases([(3, 4)], "m.cat([a[0, :0], a], dim=1)"),
    *cases([(3, 5)], "m.split(a, 2, 1)[1]", "m.split(a, [1, 4], dim=1)[1]", "m.chunk(a, 3, -1)[2]", "a.chunk(2)[0]"),
    *cases([(2, 3, 4)], "m.pad(a, (1, 2))", "m.pad(a, (0, 1, 2, -1), value=3.0)", "m.pad(a, (1, 2), 'reflect')"),
    *cases([(2, 3, 4)], "m.pad(a, (1, 2), mode='replicate')", "m.pad(a, (2, 1), 'circular')"),
]  # fmt: skip


@given(st.data(), SEEDS)
def test_moving_elements_there_and_back_changes_nothing(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    ndim, (x,) = len(shape), normal(seed, shape)
    axis = data.draw(st.integers(-ndim, ndim - 1))
    order = data.draw(st.permutations(range(ndim)))
    shift = data.draw(st.integers(-5, 5))
    sizes = data.draw(st.integers(1, 5))
    left, right = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    inner = (..., *[slice(left, left + n) if i == ndim - 1 else slice(None) for i, n in enumerate(shape)])
    for there_and_back in (
        lambda x: x.reshape(-1).reshape(shape) if x.size else x.reshape(x.shape),
        lambda x: x.permute(order).permute(*np.argsort(order)),
        lambda x: x.transpose(axis, 0).transpose(0, axis),
        lambda x: x.flip(axis).flip((axis,)),
        lambda x: x.roll(shift, axis).roll(-shift, axis),
        lambda x: x.roll(shift).roll(-shift),
        lambda x: ag.cat(x.split(sizes, axis), axis),
        lambda x: ag.cat(x.chunk(sizes, axis), dim=axis),
        lambda x: ag.stack([x, x * 2], axis)[(slice(None),) * (axis % (ndim + 1)) + (0,)],
        lambda x: x.unsqueeze(axis).squeeze(axis) if axis >= 0 else x,
        lambda x: ag.pad(x, (left, right))[inner],
        lambda x: x.expand(3, *shape)[data.draw(st.integers(0, 2))] if not shift else x.broadcast_to((2, *shape))[1],
        lambda x: x.tril() + x.triu(1) if ndim > 1 else x.flatten(),
    ):
        y, pullback = ag.vjp(there_and_back, x)
        (g,) = normal(seed, shape)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(pullback(g)[0], g)


@given(st.data(), SEEDS)
def test_moving_elements_is_that_of_torch(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    ndim, (x,) = len(shape), normal(seed, shape)
    axes = data.draw(hnp.valid_tuple_axes(ndim, min_size=1))
    shifts = tuple(data.draw(st.integers(-5, 5)) for _ in axes)
    pads = data.draw(st.lists(st.integers(-1, 3), min_size=2, max_size=2 * ndim).filter(lambda p: len(p) % 2 == 0))
    assume(all(n + l + r >= 0 for n, l, r in zip(shape[::-1], pads[::2], pads[1::2])))
    check_with_torch(lambda m, x: m.flip(x, axes), x, seed=seed)
    check_with_torch(lambda m, x: m.roll(x, shifts, axes), x, seed=seed)
    check_with_torch(lambda m, x: (ag.pad if m is ag else F.pad)(x, pads, value=0.5), x, seed=seed)
    if ndim > 1:
        k = data.draw(st.integers(-5, 5))
        check_with_torch(lambda m, x: m.tril(x, k) * m.triu(x, k - 1), x, seed=seed)
    start = data.draw(st.integers(-ndim, ndim - 1))
    stop = data.draw(st.integers(start % ndim, ndim - 1))
    check_with_torch(lambda m, x: m.flatten(x, start, stop) * 2, x, seed=seed)


def test_triangles_of_integers_and_masks_keep_their_numbers():
    for array in (np.asarray, torch.as_tensor):
        y = ag.triu(ag.tensor(array(np.arange(9).reshape(3, 3))))
        assert "int64" in str(y.dtype) and y.tolist() == [[0, 1, 2], [0, 4, 5], [0, 0, 8]]
