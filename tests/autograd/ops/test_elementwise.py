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
    "m.minimum(a, a * a)", "m.clamp(a * 0 - 1, a, a)", "a ** 2", "a ** 1", "a ** 0",
    "m.abs(a) ** (a * a)", "0.0 ** (a * a)",
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


NUMBERS = {
    "integers": np.array([[3, -2, 0], [1, 5, -7]]),
    "floats": np.float32([[0.5, -2.0, 0.0], [1.0, 2.5, -7.0]]),
    "a float64": np.array(2.5),
}


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("other", NUMBERS.values(), ids=NUMBERS)
def test_integers_and_arrays_of_shape_0_take_the_dtype_of_an_array_of_float32(array, other):
    a, b = np.float32([2.0, -3.0, 4.0]), other
    for f in (
        lambda m, a, b: m.add(a, b, alpha=2), lambda m, a, b: m.mul(b, a), lambda m, a, b: m.div(a, b),
        lambda m, a, b: m.maximum(b, a), lambda m, a, b: m.minimum(a, b), lambda m, a, b: m.where(a > 0, a, b),
        lambda m, a, b: m.clamp(a, b, b + 1), lambda m, a, b: m.clamp(b, min=a), lambda m, a, b: m.pow(m.abs(a), b),
        lambda m, a, b: m.div(a, b, rounding_mode="trunc"),
    ):  # fmt: skip
        x = ag.tensor(array(a), requires_grad=True)
        with np.errstate(divide="ignore"):
            y = f(ag, x, ag.tensor(array(b)))
            y.sum().backward()
            again = f(ag, ag.tensor(array(a)), ag.tensor(array(b)))
        expected = f(torch, torch.tensor(a), torch.tensor(b))
        assert {str(d).removeprefix("torch.") for d in (y.dtype, again.dtype, x.grad.dtype, expected.dtype)} == {
            "float32"
        }
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_a_quotient_of_integers_is_rounded_exactly(array):
    a, b = np.array([7, -7, 2**62 + 1, -(2**62) - 1]), np.array([2, 2, 1, 1])
    for mode in ("floor", "trunc"):
        y = ag.div(ag.tensor(array(a)), array(b), rounding_mode=mode)
        expected = torch.div(torch.tensor(a), torch.tensor(b), rounding_mode=mode)
        assert str(y.dtype).endswith("int64") and y.tolist() == expected.tolist()


def test_what_is_constant_between_jumps_has_the_derivative_0_also_of_infinity():
    for f in (ag.sign, lambda x: ag.div(x, 2.0, rounding_mode="floor"), lambda x: x**0):
        x = ag.tensor([0.0, 0.5], requires_grad=True)
        f(x).backward(np.float32([np.inf, np.nan]))
        assert x.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("base, exponent", [(np.inf, 0.0), (np.nan, 0.0), (0.0, -1.0), (0.0, 0.0), (0.0, 2.0)])
def test_powers_have_the_derivatives_of_torch_at_their_edges(base, exponent):
    values = [np.array(v) for v in (base, exponent)]
    ours, theirs = ([make(v, requires_grad=True) for v in values] for make in (ag.tensor, torch.tensor))
    with np.errstate(all="ignore"):
        (ours[0] ** ours[1]).backward()
        by_number = ag.grad(lambda b: base**b)(values[1])
    (theirs[0] ** theirs[1]).backward()
    np.testing.assert_array_equal([x.grad for x in ours], [t.grad for t in theirs])
    np.testing.assert_array_equal(by_number, theirs[1].grad)


def test_arrays_of_numpy_beside_tensors_of_torch_become_tensors_of_it():
    x, one, rows = ag.tensor(torch.ones(4, 6), requires_grad=True), np.ones(6, np.float32), np.ones((2, 6), np.float32)
    for f in (
        lambda x: one * x, lambda x: x ** one, lambda x: ag.clamp(x, one, one), lambda x: ag.linear(x, rows),
        lambda x: ag.where(x.data > 0, one, x), lambda x: ag.layer_norm(x, 6, one), lambda x: ag.concatenate([x, rows]),
    ):  # fmt: skip
        y = f(x)
        y.sum().backward()
        assert type(y.data) is torch.Tensor and type(x.grad) is torch.Tensor
