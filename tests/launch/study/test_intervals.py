"""Intervals: how often they hold the truth, their p-values, and what has none."""

import math

import numpy as np
import pytest
from scipy import stats

from allgrad.launch.study.intervals import Estimate, combined, holm, mean, paired, product, ratio, share, slope
from allgrad.launch.study.result import Claim, judge

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


def test_without_scatter_there_is_no_interval_and_the_error_is_left_to_others():
    same, pair = mean([1.1, 1.1, 1.1]), paired([0.3, 0.6, 0.9], [0.1, 0.2, 0.3])
    flat = slope([1, 2, 4], [[8.0, 8.0], [4.0, 4.0], [2.0, 2.0]])
    for e in (same, pair, flat, ratio(same, same), mean([0.0, 0.0]), mean([-0.1, -0.1, -0.1])):
        assert not e.known and e.why == "the seeds do not differ" and e.error == 0.0
        assert math.isnan(e.p_above(1.0)) and math.isnan(e.p_below(1.0))
    assert judge([Claim("", "", "", [same], least=1.0)])[0].word == "NO VERDICT"
    other = mean([1.0, 1.2, 1.1])
    assert ratio(same, other).error == other.error == ratio(other, same).error and ratio(same, other).known
    assert slope([1, 2], [[8.0, 8.0], [4.0, 5.0]]).known
    sure = Estimate(1.1, 0.0, 2.0, n=3)
    assert sure.interval() == (1.1, 1.1) and ratio(sure, sure).known


def test_failures_of_two_arms_are_counted_by_arm():
    few, many = mean([1.0, 2.0, 3.0, math.inf, 1.0]), mean([1.0, math.inf, math.inf, math.inf, math.inf])
    for e in (ratio(few, many), ratio(many, few), product(few, many)):
        assert (e.failed, e.n, e.why) == (4, 5, "4 of 5 seeds failed")
    e = slope([1, 2], [[1.0, math.inf], [math.inf, 2.0]])
    assert (e.failed, e.n, e.why) == (1, 2, "1 of 2 seeds failed")


def test_what_is_not_above_0_has_no_ratio():
    zero, some = mean([-1.0, 1.0]), mean([1.0, 1.2, 1.1])
    for e in (ratio(zero, some), ratio(some, zero), product(zero, some), product(some, zero),
              ratio(some, mean([-1.0, -1.2])), paired([1.0, 0.0], [1.0, 2.0])):  # fmt: skip
        assert not e.known and e.why == "a ratio needs values above 0"
    assert "needs values above 0" in slope([1, 2], [[1.0, 2.0], [0.5, -0.1]]).why
    assert paired([1.0, 0.0], [1.0, 2.0], log=False).value == -1.0
    with pytest.raises(ValueError, match="there are 2 of one and 3 of the other: give both the same seeds"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


def test_products_are_of_logarithms():
    a, b = mean([2.0, 3.0, 4.0]), mean([0.5, 0.6, 0.7, 0.8])
    inverse = mean([1.0 / v for v in (0.5, 0.6, 0.7, 0.8)])
    assert product(a, b).interval() == pytest.approx(ratio(a, inverse).interval())


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
