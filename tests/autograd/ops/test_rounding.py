"""Rounding and remainders.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

STEPS = "floor", "ceil", "trunc", "round", "sgn"
TABLE = [
    *cases([(3, 4)], *[f"a * m.{f}(a)" for f in STEPS], "m.frac(a)", "a.frac() * a", "a * m.round(a, decimals=1)"),
    *cases([(3, 4)], "a % 0.73", "m.fmod(a, -0.73)", "m.clamp_min(a, 0.15)", "m.clamp_max(a, 0.15)"),
    *cases([(3, 4)], "a * (a // 0.73)", torch="a * m.floor(a / 0.73)"),  # torch has no derivative of a // b
    *cases([(3, 4)], "a * (2.9 // a)", torch="a * m.floor(2.9 / a)", domain="positive"),
    *cases([(3, 4)], "2.9 % a", torch="m.remainder(m.tensor(2.9, dtype=a.dtype), a)", domain="positive"),
    *cases([(3, 4), (4,)], "a * (b // a)", "a * m.floor_divide(b, a)", torch="a * m.floor(b / a)"),
    *cases([(3, 4), (4,)], "m.remainder(a, b)", "m.fmod(a, b)", "a % b", "m.copysign(a, b)", "a.clamp_min(b) * a"),
    *cases([(3, 4), (4,)], "m.fmax(a, b)", "m.fmin(a, b)"),
    *cases([(3, 4)], "m.copysign(a, -1.0)", "m.nan_to_num(a)"),
    *cases([()], "a.floor() * a", "a % 0.7"),
]  # fmt: skip
KINKS = ["m.floor(a)", "m.round(a)", "m.frac(a)", "m.clamp_min(a, 0.0)", "m.fmax(a, a * a)"]


def test_python_has_operators_for_them():
    x = ag.tensor([-1.5, 2.5])
    quotient, rest = divmod(x, 2.0)
    assert quotient.tolist() == [-1.0, 1.0] and rest.tolist() == [0.5, 0.5] and (+x) is x
    assert round(x).tolist() == [-2.0, 2.0]


def test_numbers_in_the_place_of_nan_and_infinity():
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    y, pullback = ag.vjp(ag.nan_to_num, x)
    np.testing.assert_array_equal(y, torch.nan_to_num(torch.tensor(x)).numpy(), strict=True)
    assert pullback(np.full(4, 2.0, np.float32))[0].tolist() == [0.0, 0.0, 0.0, 2.0]
    assert ag.nan_to_num(x, 7.0, 8.0, 9.0).tolist() == [7.0, 8.0, 9.0, 1.0]
    a, b = ag.fmax(x, 0.5), ag.fmin(0.5, x)
    assert a.tolist() == [0.5, np.inf, 0.5, 1.0] and b.tolist() == [0.5, 0.5, -np.inf, 0.5]


@pytest.mark.parametrize("f", [ag.floor, ag.ceil, ag.trunc, ag.round])
def test_steps_have_the_derivative_0_whatever_comes_back(f):
    _, pullback = ag.vjp(f, np.array([0.5, 1.5]))
    assert pullback(np.array([np.inf, np.nan]))[0].tolist() == [0.0, 0.0]
