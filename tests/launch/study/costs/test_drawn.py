"""Draws of numbers whose errors are known."""

import math

import numpy as np
import pytest
from pytest import approx

from allgrad.launch.study.costs.drawn import BlockErrors, columns, drawn, student
from allgrad.launch.study.intervals import Estimate, mean, quantile


def test_the_interval_holds_the_middle_of_the_draws():
    one = drawn(np.arange(1001.0))
    assert (one.value, one.low, one.high) == (500.0, 25.0, 975.0)
    assert one.interval(0.5) == (250.0, 750.0)
    assert one.p_above(100.0) == approx(0.1, abs=0.002) and one.p_below(900.0) == approx(0.1, abs=0.002)
    assert one.times(2.0).high == 1950.0
    without = drawn(np.arange(5.0), "given")
    assert not without.known and without.value == 2.0 and math.isnan(without.p_above(1.0))
    assert not drawn([1.0, math.nan]).known


@pytest.mark.parametrize("dof", [2.0, 7.0, math.inf])
def test_errors_are_those_of_student(dof):
    found = student(np.random.default_rng(0), 100_000, dof)[:, 0]
    expected = 1.96 if math.isinf(dof) else quantile(dof, 0.975)
    assert np.quantile(found, 0.975) == approx(expected, rel=0.05)


def test_means_over_blocks_have_the_interval_of_student_and_move_together():
    values = np.random.default_rng(3).lognormal(0.0, 0.2, (5, 1)) * [[1.0, 10.0]]
    found = BlockErrors(np.random.default_rng(0), 5, 100_000)(np.log(values))
    expected = mean(values[:, 0])
    ends = np.quantile(expected.value * np.exp(found[:, 0]), (0.025, 0.975))
    assert ends == approx([expected.low, expected.high], rel=0.02)
    assert found[:, 0] == approx(found[:, 1])
    assert not BlockErrors(np.random.default_rng(0), 1)([[1.0, 2.0]]).any()


def test_cells_of_a_table():
    e = mean([1.0, 2.0])
    assert columns("T", e) == {"T": e.value, "T_lo": e.low, "T_hi": e.high}
    assert columns("T", None) == {"T": None, "T_lo": None, "T_hi": None}
    assert math.isnan(columns("T", Estimate(3.0))["T_lo"])
