"""The verdict of a check, and the seeds that would decide it."""

import math

import pytest

from allgrad.launch.study.result import FAIL, INCONCLUSIVE, PASS, Check


@pytest.mark.parametrize(
    "low, high, verdict", [(1.1, 1.9, PASS), (0.5, 0.9, FAIL), (2.1, 3.0, FAIL), (0.9, 1.2, INCONCLUSIVE)]
)
def test_verdicts(low, high, verdict):
    assert Check("c", (low + high) / 2, low, high, 1.0, 2.0, 5).verdict == verdict


def test_how_many_seeds_would_decide():
    assert Check("c", 1.05, 0.85, 1.25, 1.0, seeds=5).seeds_needed == 80  # the half width shrinks from 0.2 to 0.05
    assert Check("c", 1.5, 1.2, 1.8, 1.0, seeds=5).seeds_needed is None
    assert Check("c", math.nan, math.nan, math.nan, 1.0).verdict == FAIL
