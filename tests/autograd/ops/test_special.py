"""Smooth functions of each element.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4)], "m.tan(a / 2)", "m.atan(a)", "m.sinh(a)", "m.cosh(a)", "m.asinh(a)", "m.exp2(a)", "m.erfc(a)"),
    *cases([(3, 4)], "m.asin(a / 3)", "m.acos(a / 3)", "m.atanh(a / 3)", "m.erfinv(a / 3)", "m.logit(m.sigmoid(a))"),
    *cases([(3, 4)], "m.acosh(a + 1)", "m.log2(a)", "m.log10(a)", "m.lgamma(a)", "m.logit(a / 4)", domain="positive"),
    *cases([(3, 4)], "a * m.digamma(m.array(np.array(2.5))).item()"),
    *cases([(3, 4)], "a * m.polygamma(2, m.array(np.array(2.5))).item()"),
    *cases([(3, 4), (4,)], "m.atan2(a, b)", "m.hypot(a, b)", "m.logaddexp(a, b)", "m.logaddexp2(a, b)"),
    *cases([(3, 4), (4,)], "m.lerp(a, b, 0.3)"),
    *cases([(3, 4), (4,)], "m.xlogy(b, a)", "m.addcdiv(a, b, a + b, value=2.0)", domain="positive"),
    *cases([(3, 4), (4,), (3, 1)], "m.addcmul(a, b, c, value=-0.5)", "m.lerp(a, b, c)", "a.lerp(b, c)"),
    *cases([(3, 4)], "m.sinc(a)", "m.deg2rad(a)", "m.rad2deg(a)", "m.xlogy(0.0 * a, a)", domain="positive"),
    *cases([()], "a.tan()", "a.atan2(a * a)", "a.hypot(a)", "a.asinh()"),
    *cases([(3, 4)], "m.hypot(a, 2.0)", torch="m.hypot(a, m.tensor(2.0, dtype=a.dtype))"),
]  # fmt: skip
KINKS = ["m.logaddexp(a, a)", "m.sinc(a)"]


def test_the_origin_has_no_angle_and_the_derivative_0():
    for f in (ag.atan2, ag.hypot):
        x, y = ag.tensor([0.0], requires_grad=True), ag.tensor([0.0], requires_grad=True)
        f(x, y).sum().backward()
        assert x.grad.tolist() == y.grad.tolist() == [0.0]


def test_the_derivative_of_a_log_b_where_a_is_0():
    arrays = np.zeros(3), np.array([2.0, 0.5, 0.0])
    _, pullback = ag.vjp(ag.xlogy, *arrays)
    np.testing.assert_array_equal(pullback(np.ones(3)), [[np.log(2.0), np.log(0.5), 0.0], [0.0, 0.0, 0.0]])


def test_sums_of_exponentials_that_are_0_or_infinite():
    a, b = np.array([-np.inf, np.inf, 1e4, -np.inf]), np.array([-np.inf, np.inf, -1e4, 0.0])
    y, pullback = ag.vjp(ag.logaddexp, a, b)
    np.testing.assert_array_equal(y, [-np.inf, np.inf, 1e4, 0.0])
    np.testing.assert_array_equal(pullback(np.ones(4)), [[0.5, 0.5, 1.0, 0.0], [0.5, 0.5, 0.0, 1.0]])


def test_the_derivatives_of_lgamma_are_those_of_the_definition():
    x = np.array([0.3, 1.5, 7.0])
    ag.gradcheck(ag.digamma, x, order=2)
    ag.gradcheck(lambda x: ag.polygamma(2, x), x, order=2)
