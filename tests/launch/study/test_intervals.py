"""Intervals: how often they hold the truth, their p-values, and what has none."""

import math

import numpy as np
import pytest
from scipy import stats

from allgrad.launch.study.intervals import Estimate, combined, holm, mean, paired, ratio, share, slope

SIMULATIONS = 2000
FEWEST, MOST = 1867, 1932  # of 2,000 with probability 0.95 each, in all but 0.2 % of cases (binomial)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_mean_of_a_cell_is_covered(n):
    rng = np.random.default_rng(n)
    held = sum((e := mean(np.exp(0.2 * rng.standard_normal(n)))).low <= 1.0 <= e.high for _ in range(SIMULATIONS))
    assert FEWEST <= held <= MOST


def test_ratios_of_arms_with_unlike_scatter_are_covered():
    rng = np.random.default_rng(0)
    arms = lambda: (np.exp(0.1 * rng.standard_normal(5)), 2.0 * np.exp(0.3 * rng.standard_normal(4)))
    held = sum((e := ratio(*map(mean, arms()))).low <= 0.5 <= e.high for _ in range(SIMULATIONS))
    assert FEWEST <= held <= MOST


def test_means_are_those_of_scipy():
    values = [10.0, 12.0, 9.0, 11.0]
    e = mean(values)
    assert e.value == pytest.approx(stats.gmean(values))
    assert e.interval() == pytest.approx(np.exp(stats.ttest_1samp(np.log(values), 0.0).confidence_interval(0.95)))
    assert mean([-1.0, 3.0]).value == 1.0 and not mean([-1.0, 3.0]).log
    welch = stats.ttest_ind(np.log(values), np.log([8.0, 9.0, 7.5]), equal_var=False).confidence_interval(0.95)
    assert ratio(e, mean([8.0, 9.0, 7.5])).interval() == pytest.approx(np.exp(welch))
    both = paired(values, [9.0, 9.0, 9.5, 9.9])
    assert both.interval() == pytest.approx(
        np.exp(stats.ttest_rel(np.log(values), np.log([9.0, 9.0, 9.5, 9.9])).confidence_interval(0.95))
    )


def test_p_values_agree_with_intervals():
    for e in (mean([10.0, 12.0, 9.0]), mean([-1.0, 2.0, 4.0]), share(3, 8), slope([1, 2, 4], [[9, 8], [5, 4], [2, 3]])):
        low, high = e.interval()
        assert e.p_above(low) == pytest.approx(0.025) and e.p_below(high) == pytest.approx(0.025)


def test_shares_are_exact():
    assert share(5, 5).interval() == pytest.approx((0.025 ** (1 / 5), 1.0))
    assert share(0, 5).interval() == pytest.approx((0.0, 1.0 - 0.025 ** (1 / 5)))
    assert share(5, 5).p_above(0.5) == pytest.approx(0.5**5) and share(0, 5).p_above(0.5) == 1.0
    exact = stats.binomtest(2, 7).proportion_ci(0.95, "exact")
    assert share(2, 7).interval() == pytest.approx((exact.low, exact.high))


def test_failed_seeds_leave_no_interval():
    e = mean([10.0, math.inf, 12.0])
    assert e.value == pytest.approx(math.sqrt(120.0)) and not e.known and e.why == "1 of 3 seeds failed"
    assert not ratio(e, mean([1.0, 2.0])).known and not paired([1.0, 2.0], [math.nan, 2.0]).known
    assert not slope([1, 2], [[3.0, math.inf], [1.0, 2.0]]).known
    assert mean([4.0]).why == "an interval needs 2 seeds, there are 1" and math.isnan(mean([]).value)
    assert math.isnan(e.p_above(1.0)) and math.isnan(e.p_below(1.0))


def test_a_slope_is_that_of_least_squares():
    x, y = [4, 8, 16, 32], [[100.0, 90.0], [52.0, 49.0], [26.0, 24.0], [13.0, 12.0]]
    logs = [np.log(g).mean() for g in y]
    assert slope(x, y).value == pytest.approx(np.polyfit(np.log(x), logs, 1)[0])
    assert combined([3.0, 4.0], [5.0, math.inf]) == pytest.approx((5.0, 625.0 * 5.0 / 81.0))


def test_factors():
    e = mean([2.0, 3.0, 4.0])
    assert e.times(10.0).interval() == pytest.approx([10.0 * end for end in e.interval()])
    assert Estimate(1.0, 0.5, 3.0, log=False).times(-2.0).error == 1.0


def test_holms_correction():
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
