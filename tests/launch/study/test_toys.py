"""The closed forms, against simulations of them and numbers that were computed independently."""

import itertools
import math

import numpy as np
import pytest

from autograd.random import generator
from launch.study.toys import InterpolatedRegression, NoisyQuadratic, ShuffledMean

# --- interpolated regression ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch, factor, steps", [(1, 0.9901, 694.22), (10, 0.90909, 72.48), (100, 0.5, 9.966), (1000, 0.090909, 2.881)]
)
def test_regression_at_the_best_rate(batch, factor, steps):
    toy = InterpolatedRegression(99)
    rate = toy.best_rate(batch)
    assert toy.factor(batch, rate) == pytest.approx(factor, abs=1e-5) == pytest.approx(100 / (batch + 100), abs=1e-5)
    assert toy.steps(batch, 1e3) == pytest.approx(steps, abs=0.01)
    assert toy.factor(batch, rate) < min(toy.factor(batch, 0.99 * rate), toy.factor(batch, 1.01 * rate))


@pytest.mark.parametrize("batch, rate", [(1, 0.05), (4, None), (16, None)])
def test_regression_descends_as_it_says(batch, rate):
    toy = InterpolatedRegression(9)
    rate = toy.best_rate(batch) if rate is None else rate
    losses = toy.simulate(batch, rate, 3, 20_000, generator("regression", batch))
    expected = 0.5 * toy.factor(batch, rate) ** np.arange(4)
    np.testing.assert_allclose(losses.mean(axis=1), expected, rtol=0.03)


def test_regression_has_a_critical_batch_of_d_plus_1():
    toy = InterpolatedRegression(99)
    batches = np.array([1, 10, 100, 1000])
    steps = [toy.steps(b, 1e3, 1e-3 * toy.best_rate(b)) for b in batches]
    np.testing.assert_allclose(steps, math.log(1e3) / 2e-3 * (1 + 100 / batches), rtol=1e-3)
    assert toy.steps(1, 1e3, rate=1.0) == math.inf


# --- the noisy quadratic -------------------------------------------------------------------------------------------


def test_the_quadratic_by_its_recursion():
    h = 1.0 / np.arange(1, 11)
    toy, squares = NoisyQuadratic(h, h), np.ones(10)
    for _ in range(30):
        squares = (1 - 0.5 * h) ** 2 * squares + 0.25 * h / 4
    np.testing.assert_allclose(toy.squares(0.5, 4, 30), squares, rtol=1e-12)
    assert toy.loss(0.5, 4, 30) == pytest.approx(0.113143, abs=1e-6)
    assert toy.floor(0.5, 4) == pytest.approx(0.106673, abs=1e-6) == pytest.approx(toy.loss(0.5, 4, 10**6), abs=1e-6)


def test_the_quadratic_saturates_in_steps_and_in_rate():
    h = 1.0 / np.arange(1, 1001)
    toy = NoisyQuadratic(h, h)
    assert toy.loss(1.0, 1, 0) == pytest.approx(3.742735, abs=1e-6)
    rates = 2.0 ** np.arange(-12, 1, 0.25)
    best = {2**i: toy.best(2**i, 0.1 * toy.loss(1.0, 1, 0), rates[rates < 2.0]) for i in range(11)}
    assert {b: steps for b, (steps, _) in best.items()} == {
        1: 3337, 2: 1698, 4: 871, 8: 469, 16: 272, 32: 187, 64: 144, 128: 126, 256: 118, 512: 115, 1024: 113,
    }  # fmt: skip
    chosen = [rate for _, rate in best.values()]
    assert [b / a for a, b in itertools.pairwise(chosen[:4])] == pytest.approx([2.0] * 3, rel=0.2)
    assert chosen[-1] == chosen[-3] == pytest.approx(1.68, abs=0.01)


def test_a_target_below_the_floor_or_a_rate_beyond_the_edge_is_never_enough():
    toy = NoisyQuadratic([1.0, 0.5], [1.0, 1.0])
    assert toy.steps(1, 0.9 * toy.floor(0.5, 1), 0.5) == math.inf
    assert toy.steps(1, 0.1, 2.0) == math.inf and toy.steps(10**6, 0.1, 0.5) < 10


# --- shuffling -----------------------------------------------------------------------------------------------------


def test_shuffled_epochs_leave_less_than_independent_draws():
    toy = ShuffledMean(np.random.default_rng(0).standard_normal(100))
    assert toy.shuffled(0.01) == pytest.approx(3.592e-4, rel=1e-3)
    assert toy.independent(0.01) == pytest.approx(4.652e-3, rel=1e-3)
    ratios = [toy.independent(rate) / toy.shuffled(rate) for rate in (0.01, 0.05, 0.2)]
    assert ratios == pytest.approx([12.9, 1.61, 1.09], rel=0.01)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_shuffled_epochs_by_simulation(rate):
    toy = ShuffledMean(generator("shuffled").standard_normal(30))
    x = toy.simulate(rate, math.ceil(4.0 / rate / 30) + 1, 20_000, generator("epochs", rate))
    assert np.var(x) == pytest.approx(toy.shuffled(rate), rel=0.05)
