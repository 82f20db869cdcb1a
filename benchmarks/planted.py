"""Problems whose answer is known, and a laboratory that simulates them: a whole study in a tenth of a second.

A problem has `simulate(batch, lr, runs, cap, rng)`: the steps to its target of so many independent runs, inf of those
that do not meet it within `cap`; and `rate`, a learning rate to begin with at a batch of 4.
"""

import math

import numpy as np

from allgrad.launch.study import fit


class Regression:
    """Linear regression without label noise: x from N(0, I_d), fresh samples, loss |w - w*|^2 / 2, to 1/1000 of it.

    Ma, Bassily and Belkin 2018. The noise scale is d + 1 exactly. The steps at the best rate 1 / (1 + (d + 1) / B) are
    about ln 1000 / ln(1 + B / (d + 1)), which is no hyperbola: they have no least, and fall with the batch for ever.
    By symmetry |w - w*|^2 is a Markov chain of its own, driven by two chi-squared numbers a step.
    """

    def __init__(self, d: int):
        self.d, self.rate = d, 4.0 / (d + 1.0)

    def simulate(self, batch, lr, runs, cap, rng):
        goal, found = -math.log(1000.0), np.full(runs, math.inf)
        log, t, alive = np.zeros(runs), 0, np.ones(runs, bool)
        while t < cap and alive.any():
            along, across = rng.chisquare(batch, (64, runs)), rng.chisquare(self.d - 1, (64, runs))
            factors = (1.0 - lr / batch * along) ** 2 + (lr / batch) ** 2 * along * across
            path = np.vstack([log, log + np.cumsum(np.log(factors), axis=0)])
            for k in np.nonzero(alive & (path[1:] <= goal).any(axis=0))[0]:
                i = int((path[1:, k] <= goal).argmax())
                alive[k] = False
                if t + i + 1 <= cap:
                    ends = (t + i, math.exp(path[i, k])), (t + i + 1, math.exp(path[i + 1, k]))
                    found[k] = fit.crossing(*ends, math.exp(goal))
            log, t = path[-1], t + 64
            alive &= log < 50.0
        return found


class Quadratic:
    """Loss sum_i h_i w_i^2 / 2 and gradients h_i w_i + noise of variance h_i / B, h_i = 1/i, from w_i = 1 to a tenth.

    Zhang et al. 2019 (arXiv 1907.04164), "Which Algorithmic Choices Matter at Which Batch Sizes?".
    """

    def __init__(self, d: int):
        self.h, self.rate = 1.0 / np.arange(1.0, d + 1.0), 0.5
        self.target = 0.1 * 0.5 * self.h.sum()

    def simulate(self, batch, lr, runs, cap, rng):
        w, found, index = np.ones((runs, len(self.h))), np.full(runs, math.inf), np.arange(runs)
        before = np.full(runs, 0.5 * self.h.sum())
        for t in range(1, cap + 1):
            w = w * (1.0 - lr * self.h) + lr * np.sqrt(self.h / batch) * rng.standard_normal(w.shape)
            loss = 0.5 * (w * w) @ self.h
            met = loss <= self.target
            for k in np.nonzero(met)[0]:
                found[index[k]] = fit.crossing((t - 1, before[k]), (t, loss[k]), self.target)
            keep = ~met & (loss < 1e3)
            if not keep.any():
                break
            w, index, before = w[keep], index[keep], loss[keep]
        return found


class Curved:
    """Steps that are s_min (1 + b_crit / B) at the best rate 1 / (1 + b_crit / B), with scatter in logarithms.

    A rate that is off by a factor f costs 0.3 (ln f)^2 in logarithms, and none works beyond twice the best.

    tails   degrees of freedom of Student's t from which the scatter is drawn; None: normal
    """

    def __init__(self, s_min=13.0, b_crit=100.0, scatter=0.05, tails=None):
        self.s_min, self.b_crit, self.scatter, self.tails = s_min, b_crit, scatter, tails
        self.rate = self.best_rate(4)

    def best_rate(self, batch):
        return 1.0 / (1.0 + self.b_crit / batch)

    def steps(self, batch):
        return self.s_min * (1.0 + self.b_crit / batch)

    def simulate(self, batch, lr, runs, cap, rng):
        far = math.log(lr / self.best_rate(batch))
        if far > math.log(2.0):
            return np.full(runs, math.inf)
        z = rng.standard_normal(runs) if self.tails is None else rng.standard_t(self.tails, runs)
        found = self.steps(batch) * np.exp(0.3 * far * far + self.scatter * z)
        return np.where(found <= cap, found, math.inf)


class PlantedLab:
    """Stands for a `Lab`: runs configurations by simulating a problem."""

    def __init__(self, problem, seed: int):
        self.problem, self.rng, self.done = problem, np.random.default_rng(seed), 0

    def run(self, configs, experiment=""):
        alike: dict[tuple, list[int]] = {}
        for k, config in enumerate(configs):
            cap = min(limit for limit in (config["cap"], config["prune"]) if limit is not None)
            alike.setdefault((config["batch"], config["lr"], cap), []).append(k)
        rows: list[dict] = [{} for _ in configs]
        for (batch, lr, cap), ks in alike.items():
            for k, steps in zip(ks, self.problem.simulate(batch, lr, len(ks), cap, self.rng)):
                met = math.isfinite(steps)
                rows[k] = {"config": configs[k], "status": "ok" if met else "pruned", "error": "",
                           "steps_to_target": float(steps) if met else None, "final_train_loss": 1.0}  # fmt: skip
        self.done += len(configs)
        return rows

    def map(self, function, items):
        return [function(item) for item in items]
