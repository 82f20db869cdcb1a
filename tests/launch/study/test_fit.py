"""Numbers out of runs: the hyperbola, crossings, slopes, means."""

import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from allgrad.launch.study import fit

BATCHES = [4 * 2**k for k in range(9)]


def hyperbola(s_min, b_crit, batches=BATCHES):
    return [s_min * (1.0 + b_crit / b) for b in batches]


@pytest.mark.parametrize("s_min, b_crit", [(13.0, 100.0), (178.0, 114.0), (1.0, 2.0), (50.0, 20_000.0)])
def test_a_hyperbola_is_recovered(s_min, b_crit):
    found = fit.fit_hyperbola(BATCHES, hyperbola(s_min, b_crit))
    assert found[:2] == pytest.approx((s_min, b_crit), rel=1e-6) and found.rmse_log < 1e-9
    assert found(b_crit) == pytest.approx(2.0 * s_min)


def test_the_fit_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    for noise in (0.05, 0.3, 1.0):
        steps = np.array(hyperbola(13.0, 100.0)) * np.exp(noise * rng.standard_normal(len(BATCHES)))
        found = fit.fit_hyperbola(BATCHES, steps)
        rest = lambda p: p[0] + np.log1p(np.exp(p[1]) / np.array(BATCHES)) - np.log(steps)
        theirs = min(
            (least_squares(rest, (math.log(min(steps)), math.log(b))) for b in (8, 64, 512)), key=lambda r: r.cost
        )
        assert found.rmse_log == pytest.approx(math.sqrt(2.0 * theirs.cost / len(BATCHES)), rel=1e-4)
        assert math.log(found.b_crit) == pytest.approx(theirs.x[1], abs=1e-2)


def test_steps_that_do_not_bend_have_no_critical_batch():
    assert fit.fit_hyperbola(BATCHES, [1000.0 / b for b in BATCHES]).b_crit == math.inf
    assert fit.fit_hyperbola(BATCHES, [7.0] * 9).b_crit == 0.0
    with pytest.raises(ValueError, match="at 3 batch sizes or more, got 2"):
        fit.fit_hyperbola([4, 8, 16], [10.0, math.inf, 5.0])


def test_evaluations_and_the_crossing_between_two_of_them():
    steps = [0]
    while steps[-1] < 100:
        steps.append(fit.eval_steps(steps[-1]))
    assert steps[:25] == [*range(21), 21, 23, 25, 27] and max(np.diff(steps)) <= 6
    assert fit.crossing((10, 1.0), (20, 0.25), 0.5) == pytest.approx(10.0 * math.sqrt(2.0))
    assert fit.crossing((10, 1.0), (20, 0.25), 0.25) == 20.0
    assert fit.crossing((16, 0.04), (64, 0.0), 0.02) == pytest.approx(32.0)  # an error of 0 has no logarithm
    assert fit.crossing((0, 3.0), (1, 0.1), 0.5) == 1.0


def test_regions_by_the_slope_between_neighbours():
    steps = hyperbola(13.0, 1000.0, batches := [1, 2**7, 2**10, 2**13, 2**20, 2**21])
    regions = [fit.region(s) for s in fit.slopes(batches, steps)]
    assert regions == ["perfect", "diminishing", "diminishing", "flat", "flat"]


def test_means_over_seeds():
    assert fit.gmean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert fit.gmean([-1.0, 3.0]) == 1.0 and fit.gmean([1.0, math.inf]) == math.inf and math.isnan(fit.gmean([]))
