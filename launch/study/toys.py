"""Problems whose training is known in closed form: what an experiment has to find when it is run on them."""

import math

import numpy as np


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
