"""Arithmetic and elementwise functions, with numbers on either side, broadcast and not.

A new operator is a new row of TABLE: see `table.py`.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.large import *  # noqa: F403 - the test of each row of LARGE
from tests.autograd.ops.properties import SEEDS, SHAPES, check, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases, over

TABLE = [
    *cases([(3, 4)], "2.0 + a", "a + 2", "1.5 - a", "a - 1", "2 * a", "a * 0.5", "a / 4", "-a", "m.neg(a)", "abs(a)"),
    *cases([(3, 4)], "a ** 2", "a ** 3", "a ** 1", "a ** 0", "2.0 ** a", "a * a * a", "(a + a) * a", "m.pow(a, 2)"),
    *cases([(5,)], "3.0 / a", "a ** 2.5", "a ** -1", "a ** -0.5", "a.pow(2)", domain="positive"),
    *cases([(3, 4), (3, 4)], "a + b", "a - b", "a * b", "a / b", "a ** b", domain="positive"),
    *cases([(3, 1), (2, 1, 4)], "a + b", "a - b", "a * b", "a / b", "a ** b", domain="positive"),
    *cases([(3, 4), (4,)], "m.add(a, b)", "m.sub(a, b)", "m.mul(a, b)", "m.div(a, b)", domain="positive"),
    *cases([(3, 4), (4,)], "m.add(a, b, alpha=3)", "a.sub(b, alpha=-0.5)", "a * m.div(a, b, rounding_mode='floor')"),
    *cases([(3, 4), (4,)], "a * m.div(a, b, rounding_mode='trunc')"),
    *cases([(3, 4), (4,)], "a.where(a > b, b)", "a.clip(-1, 1) * b"),
    *cases([(), (2, 3)], "a + b", "b - a", "a * b", "b / a"),
    *cases([(0, 3), (1, 3)], "a + b", "a * b"),
    *cases([(3, 4)], "m.exp(a)", "m.sin(a)", "m.cos(a)", "m.tanh(a)"),
    *cases([()], "a.exp()", "a.sin()", "a.cos()", "a.tanh()"),
    *cases([(3, 4)], "m.log(a)", "m.log1p(a)", "m.sqrt(a)", "a.log()", "a.log1p()", "a.sqrt()", domain="positive"),
    *cases([(3, 4)], "m.abs(a)", "m.sign(a)", "a.sign() * a", "m.expm1(a)", "m.square(a)", "m.erf(a)"),
    *cases([(3, 4)], "m.reciprocal(a)", "m.rsqrt(a)", "a.reciprocal() * a.rsqrt()", domain="positive"),
    *cases([(3, 4)], "m.clamp(a, -0.5, 0.75)", "m.clamp(a, min=0.15)", "m.clamp(a, max=0.15)", "a.clamp(-1, 1) * a"),
    *cases([(3, 4), (4,), (3, 1)], "m.clamp(a, b, c)", "m.clamp(a, max=b)", "m.clip(a, -1, 1) * a"),
    *cases([(3, 4), (3, 4)], "m.maximum(a, b)", "m.minimum(a, b)", "m.where(a > b, a, b)"),
    *over("m.where(m.array(MASK), a, b)", [(3, 4), (3, 4)], [(3, 1), (4,)], [(), (3, 4)]),
    *cases([(2, 1, 3), (4, 1)], "m.maximum(a, b)", "m.minimum(a, b)", "m.where(a > b, a, b)", "a.maximum(b)"),
    *cases([(3, 4)], "m.maximum(a, 0.5)", torch="a.clamp(min=0.5)"),
    *cases([(3, 4)], "m.minimum(0.5, a)", torch="a.clamp(max=0.5)"),
    *cases([(3, 4)], "m.where(a > 0, a * a, 0.0)", "m.where(m.array(MASK[0]), 1.0, a)"),
]  # fmt: skip
KINKS = [
    "m.abs(a)", "m.sign(a)", "m.clamp(a, 0, 1)", "m.clamp(a, min=0)", "m.clamp(a, a * a)", "m.maximum(a, m.abs(a))",
    "m.minimum(a, a * a)", "a ** 2", "a ** 1", "a ** 0", "m.abs(a) ** (a * a)", "0.0 ** (a * a)",
]  # fmt: skip
LARGE = ["m.tanh(a)"]
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "pow": np.power,
}  # fmt: skip


@given(st.sampled_from(sorted(BINARY)), hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4), SEEDS)
def test_binary_operators_broadcast_as_numpy_does(name, shapes, seed):
    a, b = normal(seed, *shapes.input_shapes)
    if name == "pow":
        a = np.abs(a)
    assume(not np.any(np.abs(a - b) < 1e-4))  # no kink within the step of a difference
    check(getattr(ag, name), a, b, value=BINARY[name](a, b), seed=seed)
    number = float(b.reshape(-1)[0]) if b.size else 2.0  # and with a number on either side
    check(lambda x: getattr(ag, name)(x, number), a, value=BINARY[name](a, number), seed=seed, differences=False)
    number = abs(number)
    check(lambda x: getattr(ag, name)(number, x), b, value=BINARY[name](number, b), seed=seed, differences=False)


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, min_side=0, max_side=4), SEEDS)
def test_where_and_clamp_broadcast_as_numpy_does(shapes, seed):
    a, b, c = normal(seed, *shapes.input_shapes)
    check(lambda x, y: ag.where(c > 0, x, y), a, b, value=np.where(c > 0, a, b), seed=seed)
    if all(np.all(np.abs(x - y) > 1e-4) for x, y in itertools.combinations((a, b, c), 2)):
        check(ag.clamp, a, b, c, value=np.clip(a, b, c), seed=seed)


@given(SHAPES, SEEDS)
def test_float32_gives_float32_at_every_operator_of_one_array(shape, seed):
    (x,) = normal(seed, shape)
    names = "exp expm1 sin cos tanh sigmoid erf abs sign square relu elu gelu silu softplus hardtanh leaky_relu neg"
    for dtype in (np.float32, np.float64):
        for f in [getattr(ag, name) for name in names.split()] + [lambda x: 2 / (x**2 + 1) - np.float64(3)]:
            y, pullback = ag.vjp(f, x.astype(dtype))
            assert y.dtype == pullback(np.ones(shape, dtype))[0].dtype == dtype


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_what_is_masked_out_gets_no_gradient_of_infinity_times_0(array):
    for f in (
        lambda x: ag.where(x.data > 0, x, 0.0),
        lambda x: ag.clamp(x, min=0.0),
        lambda x: ag.maximum(x, 0.0),
        lambda x: ag.masked_fill(x, x.data < 0, 0.0),
    ):
        x = ag.tensor(array(np.float32([1.0, -1.0])), requires_grad=True)
        with np.errstate(divide="ignore"):
            ag.log(f(x)).sum().backward()
        assert x.grad.tolist() == [1.0, 0.0]
    assert ag.tril(array(np.array([[0.0, -np.inf], [0.0, 0.0]]))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_power_of_a_negative_number_has_no_real_derivative():
    x = ag.tensor([2.0], requires_grad=True)
    ((-2.0) ** x).sum().backward()
    assert np.isnan(x.grad).all()
