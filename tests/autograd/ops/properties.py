"""What holds for every operator: checks of a function's value and derivatives for tests by hypothesis.

Values are NumPy's or torch's. Derivatives are torch's where torch has the operator, central differences elsewhere, and
in any case the two modes are transposes of each other: <J v, g> = <v, J^T g>.
"""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from allgrad.autograd.engine import unwrap

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def normal(seed, *shapes):
    """An array of each shape: of normal numbers, none of them close to 0."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    return [np.asarray(x + 0.25 * np.sign(x)) for x in arrays]


def dot(xs, ys):
    return sum(float(np.sum(np.asarray(x) * np.asarray(y))) for x, y in zip(xs, ys, strict=True))


def like(m, array):
    return array if m is ag else torch.tensor(array)


def check(f, *xs, value=None, seed=0, differences=True):
    """f's value, and its derivatives by xs: transposes of each other, linear, and what differences of f say."""
    copies = [x.copy() for x in xs]
    y, pullback = ag.vjp(f, *xs)
    if value is not None:
        assert y.shape == np.shape(value) and y.dtype == np.asarray(value).dtype
        np.testing.assert_allclose(y, value, rtol=1e-12, atol=1e-12)
    g, other = normal(seed, y.shape, y.shape)
    vs = normal(seed + 1, *[x.shape for x in xs])
    gradients = pullback(g)
    assert [d.shape for d in gradients] == [x.shape for x in xs]
    assert all(d.dtype == np.float64 for d in gradients)
    for d, e, both in zip(gradients, pullback(other), pullback(2.0 * g - other), strict=True):
        np.testing.assert_allclose(2.0 * d - e, both, rtol=1e-9, atol=1e-9)
    tangent = ag.jvp(f, xs, vs)[1]
    scale = 1.0 + sum(np.abs(d * v).sum() for d, v in zip(gradients, vs))
    assert abs(dot([tangent], [g]) - dot(gradients, vs)) <= 1e-10 * scale
    if differences:
        t = 1e-6
        ends = [np.asarray(unwrap(f(*[ag.tensor(x + s * v) for x, v in zip(xs, vs)]))) for s in (t, -t)]
        assert abs(dot([(ends[0] - ends[1]) / (2 * t)], [g]) - dot(gradients, vs)) <= 1e-6 * scale
    for x, copy in zip(xs, copies):
        np.testing.assert_array_equal(x, copy)


def check_with_torch(f, *xs, seed=0, rtol=1e-10):
    """f(library, *tensors) has one value and one set of gradients here and in torch, in float64; and is `check`ed."""
    leaves = [torch.tensor(x, requires_grad=True) for x in xs]
    expected = f(torch, *leaves)
    (g,) = normal(seed, tuple(expected.shape))
    slopes = torch.autograd.grad(expected, leaves, torch.tensor(g), allow_unused=True)
    y, pullback = ag.vjp(lambda *ts: f(ag, *ts), *xs)
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y, expected.detach(), rtol=rtol, atol=rtol)
    for d, slope in zip(pullback(g), slopes, strict=True):
        np.testing.assert_allclose(d, np.zeros(d.shape) if slope is None else slope, rtol=rtol, atol=rtol)
    check(lambda *ts: f(ag, *ts), *xs, seed=seed, differences=False)
