"""Initial weights: their variance, bounds and tails."""

import numpy as np
import pytest

from allgrad.autograd import init

INITS = [
    (init.zeros, 0.0, 0.0), (init.normal(0.3), 0.09, None), (init.uniform(0.6), 0.12, 0.6),
    (init.gaussian, 1 / 1200, None), (init.torch_default, 1 / 3600, (1 / 1200) ** 0.5),
    (init.kaiming, 2 / 1200, None), (init.kaiming_uniform, 2 / 1200, (6 / 1200) ** 0.5),
    (init.xavier, 2 / 1800, None), (init.xavier_uniform, 2 / 1800, (6 / 1800) ** 0.5),
]  # fmt: skip


@pytest.mark.parametrize("rule, variance, bound", INITS)
def test_initial_weights_have_the_documented_variance(rule, variance, bound):
    shape = (150, 300, 2, 2)  # fan_in 1200, fan_out 600
    w = rule(shape, np.random.default_rng(3))
    assert w.shape == shape and init.fans(shape) == (1200, 600)
    assert abs(w.var() - variance) <= 0.02 * variance and abs(w.mean()) <= 5 * np.sqrt(variance / w.size)
    if bound is None:
        assert np.abs(w).max() > 3.5 * np.sqrt(variance)  # a Gaussian has tails
    else:
        assert 0.999 * bound <= np.abs(w).max() <= bound
    np.testing.assert_array_equal(w, rule(shape, np.random.default_rng(3)))
