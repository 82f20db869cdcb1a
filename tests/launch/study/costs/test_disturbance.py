"""Quiet and disturbed machines that are told apart."""

import math

import numpy as np
import pytest

from allgrad.launch.study.costs.disturbance import agreement, reasons


def steps(rng, drift=0.0, blocks=5, n=60, noise=0.03, stickiness=0.5):
    """Blocks of steps whose logarithms go on from each other, with levels that differ by `drift`."""
    found = []
    for _ in range(blocks):
        x = np.zeros(n)
        for k in range(1, n):
            x[k] = stickiness * x[k - 1] + noise * rng.standard_normal()
        found.append(np.exp(x + drift * rng.standard_normal()))
    return found


@pytest.mark.parametrize("noise", [0.03, 0.6])
def test_a_quiet_machine_is_seldom_called_disturbed(noise):
    """At most 1 in 100 by the bound; of 200 machines then at most 6 with a probability of 0.995 (binomial)."""
    rng = np.random.default_rng(0)
    called = sum(bool(reasons({str(k): steps(rng, noise=noise) for k in range(4)}, [0.99])) for _ in range(200))
    assert called <= 6


def test_blocks_that_disagree_are_found_and_small_differences_do_not_matter():
    rng = np.random.default_rng(1)
    found = [reasons({"own": steps(rng, 0.3), "large": steps(rng)}, [1.0]) for _ in range(50)]
    assert sum(map(bool, found)) >= 45
    said = next(one[0] for one in found if one)
    assert said.startswith("1 of 2 timings differ between their blocks more than within them (own by ")
    assert agreement(steps(rng, 0.03, n=4000, noise=0.001)).p < 0.01
    assert not reasons({"own": steps(rng, 0.03, n=4000, noise=0.001)}, [1.0])


def test_a_core_that_others_use():
    assert reasons({}, [0.95, 0.42]) == ["a rank that worked by itself had a core in 42 % of the time only"]


@pytest.mark.parametrize("blocks", [[[1.0] * 60], [[1.0], [2.0]]])
def test_too_few_steps_say_nothing(blocks):
    assert math.isnan(agreement(blocks).p) and not reasons({"own": blocks}, [1.0])


def test_the_test_is_fishers():
    from scipy.stats import f_oneway

    y = np.random.default_rng(0).lognormal(0.0, 0.1, (4, 5))
    assert agreement(y).p == pytest.approx(f_oneway(*np.log(y)).pvalue)
