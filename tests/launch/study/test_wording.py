"""Sentences that say what intervals say."""

import math

import pytest

from allgrad.launch.study.intervals import Estimate, mean, paired
from allgrad.launch.study.wording import compared, number, with_interval


def between(low, high):
    """An estimate with this interval."""
    from scipy.special import stdtrit

    return Estimate(math.sqrt(low * high), math.log(high / low) / 2.0 / float(stdtrit(4.0, 0.975)), 4.0, n=5)


@pytest.mark.parametrize(
    "low, high, said",
    [(0.97, 1.04, "equal within 5 %"), (1.12, 1.3, "12 to 30 % more"), (0.7, 0.88, "12 to 30 % less"),
     (0.97, 1.12, "between 3 % less and 12 % more"), (2.0, 4.0, "2 to 4 times"),
     (1.5, 10.01, "50 to 901 % more"), (0.8, 10.01, "between 20 % less and 901 % more"),
     (1.0 - 2e-16, 1.12, "between 0 % less and 12 % more"), (1.2001, 1.2002, "20 % more"),
     (3.0001, 3.0002, "3 times")],
)  # fmt: skip
def test_comparisons(low, high, said):
    assert compared(between(low, high)) == said


def test_what_cannot_be_compared():
    assert compared(mean([1.0, math.inf])) == "not compared (1 of 2 seeds failed)"
    difference = paired([0.0, 0.1, 0.1], [1.0, 1.2, 1.1], log=False)
    assert compared(difference) == "not compared (-1.03 [-1.18, -0.89] is a difference, and no ratio)"
    assert compared(paired([0.0, 0.1], [1.0, 1.2])) == "not compared (a ratio needs values above 0)"


def test_numbers():
    assert [number(x) for x in (0.01234, 12.34, 1234.5, math.inf, math.nan)] == ["0.0123", "12.3", "1,234", "∞", "-"]
    assert with_interval(between(80.0, 143.0)) == "107 [80, 143]"
    assert with_interval(mean([107.0])) == "107 (no interval: an interval needs 2 seeds, there are 1)"
