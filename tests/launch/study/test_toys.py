"""The closed forms, against simulations of them and numbers that were computed independently."""

import itertools
import math

import numpy as np
import pytest

from allgrad.autograd.random import generator


class InterpolatedRegression:
    """Linear regression without label noise, fresh samples: x from N(0, I_d), loss (x'(w - w*))^2 / 2.

    The setting of Ma, Bassily and Belkin 2018, "The Power of Interpolation". The noise scale, plain or weighted by the
    Hessian, is d + 1 at all weights. One step of SGD at batch B and rate eta multiplies E|w - w*|^2, and the loss with
    it, by (1 - eta)^2 + eta^2 (d + 1) / B, which is least, (d + 1) / (B + d + 1), at eta = 1 / (1 + (d + 1) / B).
    """

    def __init__(self, d: int):
        self.d, self.noise_scale = d, d + 1

    def best_rate(self, batch):
        """The rate of the fastest descent."""
        return 1.0 / (1.0 + self.noise_scale / batch)

    def factor(self, batch, rate):
        """By which a step multiplies the expected loss."""
        return (1.0 - rate) ** 2 + rate * rate * self.noise_scale / batch

    def steps(self, batch, ratio, rate=None):
        """Steps, not whole, that divide the expected loss by `ratio`; at the best rate if none is given.

        At a small part c of the best rate they are a hyperbola, log(ratio) / (2 c) (1 + (d + 1) / B).
        """
        factor = self.factor(batch, self.best_rate(batch) if rate is None else rate)
        return math.log(ratio) / -math.log(factor) if factor < 1.0 else math.inf

    def simulate(self, batch, rate, steps, replicas, rng):
        """The loss |w - w*|^2 / 2 before and after each step of SGD: (steps + 1, replicas), from |w - w*|^2 = 1."""
        w = rng.standard_normal((replicas, self.d))
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        losses = [0.5 * np.sum(w * w, axis=1)]
        for _ in range(steps):
            x = rng.standard_normal((replicas, batch, self.d))
            w = w - rate / batch * np.einsum("rbd,rb->rd", x, np.einsum("rbd,rd->rb", x, w))
            losses.append(0.5 * np.sum(w * w, axis=1))
        return np.array(losses)


class NoisyQuadratic:
    """Loss sum_i h_i w_i^2 / 2 with gradients h_i w_i plus noise of variance c_i / B: Zhang et al. 2019,

    "Which Algorithmic Choices Matter at Which Batch Sizes? Insights From a Noisy Quadratic Model".
    """

    def __init__(self, curvatures, variances, start=1.0):
        self.h, self.c = np.asarray(curvatures, float), np.asarray(variances, float)
        self.start = np.broadcast_to(np.asarray(start, float), self.h.shape)

    def squares(self, rate, batch, steps):
        """E w_i^2 after so many steps of SGD: (1 - eta h)^2t w_0^2 + (1 - (1 - eta h)^2t) eta c / (B h (2 - eta h))."""
        left = (1.0 - rate * self.h) ** (2 * steps)
        return left * self.start**2 + (1.0 - left) * rate * self.c / (batch * self.h * (2.0 - rate * self.h))

    def loss(self, rate, batch, steps):
        """The expected loss after so many steps."""
        return 0.5 * float(self.h @ self.squares(rate, batch, steps))

    def floor(self, rate, batch):
        """The expected loss after endlessly many steps."""
        return 0.5 * float(np.sum(rate * self.c / (batch * (2.0 - rate * self.h))))

    def steps(self, batch, target, rate, cap=1 << 20):
        """The first step after which the expected loss is at most `target`; inf if it never is, or not within `cap`.

        The loss is a constant plus decaying terms, of which those of weights that start below their noise grow: so it
        may rise again, and the first crossing is looked for on the falling part, by doubling and halving.
        """
        if not 0.0 < rate < 2.0 / self.h.max():
            return math.inf
        low, high = 0, 1
        while self.loss(rate, batch, high) > target:
            low, high = high, 2 * high
            if high > cap:
                return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.loss(rate, batch, middle) > target else (low, middle)
        return high

    def best(self, batch, target, rates):
        """(steps, rate) of the fewest steps to the target over the rates, the smaller rate of two that are equal."""
        return min((self.steps(batch, target, rate), rate) for rate in rates)


class ShuffledMean:
    """f_i(x) = (x - a_i)^2 / 2, one sample a step: how much less an epoch's shuffle leaves than independent draws."""

    def __init__(self, values):
        self.a = np.asarray(values, float)
        self.a = self.a - self.a.mean()

    def shuffled(self, rate):
        """Stationary variance of x at the ends of epochs that are each shuffled anew.

        V = S^2 (sum w_j^2 - (sum w_j)^2 / n) / (1 - (1 - eta)^2n), w_j = eta (1 - eta)^(n - 1 - j), where S^2 is the
        sample variance of the a_i: that of a weighted sum of draws without replacement, and what an epoch keeps of it.
        """
        n = len(self.a)
        w = rate * (1.0 - rate) ** np.arange(n - 1, -1, -1)
        return float(np.var(self.a, ddof=1) * (w @ w - w.sum() ** 2 / n) / (1.0 - (1.0 - rate) ** (2 * n)))

    def independent(self, rate):
        """Stationary variance of x if every step draws its sample from all: eta / (2 - eta) Var(a)."""
        return float(rate / (2.0 - rate) * np.var(self.a))

    def simulate(self, rate, epochs, replicas, rng):
        """x at the end of so many shuffled epochs, from 0: (replicas,)."""
        x = np.zeros(replicas)
        for _ in range(epochs):
            for a in rng.permuted(np.tile(self.a, (replicas, 1)), axis=1).T:
                x += rate * (a - x)
        return x


# --- what is found of them --------------------------------------------------------------------------------------------


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
