"""Numbers out of runs: crossings of a target, the hyperbola of steps against batch size, the slope between two of them.

McCandlish et al. 2018 (arXiv 1812.06162): to reach a target with batch B takes S(B) = S_min (1 + B_crit / B) steps, so
E(B) = B S(B) = E_min (1 + B / B_crit) examples: at B_crit, twice the least steps and twice the least examples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

REACH = 1e3  # B_crit is looked for from 1 / REACH of the smallest batch to REACH times the largest


def eval_steps(step: int, ratio: float = 1.05) -> int:
    """The step of the next evaluation: each of the first 20, then at distances that grow with the step."""
    return step + 1 if step < 20 else max(step + 1, math.ceil(step * ratio))


def crossing(before: tuple[float, float], after: tuple[float, float], target: float) -> float:
    """The step at which a falling value met the target, between two evaluations (step, value).

    The logarithm of the value is taken to be linear in that of the step; the value itself if one of them is 0.
    """
    (t0, v0), (t1, v1) = before, after
    if t0 < 1:
        return float(t1)
    if min(v1, target) > 0.0:
        v0, v1, target = math.log(v0), math.log(v1), math.log(target)
    return t0 * (t1 / t0) ** ((v0 - target) / (v0 - v1))


class Hyperbola(NamedTuple):
    """S(B) = s_min (1 + b_crit / B), and the root of the mean squared difference of log S from it."""

    s_min: float
    b_crit: float
    rmse_log: float

    def __call__(self, batch):
        return self.s_min * (1.0 + self.b_crit / np.asarray(batch, float))


def fit_hyperbola(batches: Sequence[float] | np.ndarray, steps: Sequence[float] | np.ndarray) -> Hyperbola:
    """Least squares of log S; needs three batch sizes with finite steps. ValueError otherwise.

    b_crit is 0 or inf if the steps do not bend within the batches' reach: they do not change, or all fall as 1/B.
    """
    b, s = np.asarray(batches, float), np.asarray(steps, float)
    known = np.isfinite(s) & (s > 0.0)
    if known.sum() < 3:
        raise ValueError(f"a hyperbola is fitted to steps at 3 batch sizes or more, got {known.sum()}")
    b, logs = b[known], np.log(s[known])
    low, high = math.log(b.min() / REACH), math.log(b.max() * REACH)
    # With S_min at its best, ln B_crit is all there is to find: the best of a grid, then Gauss-Newton.
    grid = np.linspace(low, high, 61)
    beta = grid[(logs - np.log1p(np.exp(grid)[:, None] / b)).var(axis=1).argmin()]
    for _ in range(15):
        slope = 1.0 / (1.0 + b * np.exp(-beta))  # of the curve, by ln B_crit
        slope -= slope.mean()
        rest = logs - np.log1p(np.exp(beta) / b)
        move = slope @ (rest - rest.mean()) / max(slope @ slope, 1e-300)
        beta = np.clip(beta + np.clip(move, -1.0, 1.0), low, high)
    rest = logs - np.log1p(np.exp(beta) / b)
    b_crit = math.inf if beta >= high - 1e-9 else 0.0 if beta <= low + 1e-9 else math.exp(beta)
    return Hyperbola(0.0 if math.isinf(b_crit) else math.exp(rest.mean()), b_crit, float(rest.std()))


def gmean(values: Sequence[float]) -> float:
    """The geometric mean, or the arithmetic one if a value is not above 0; inf if a value is, nan of none."""
    x = np.asarray(values, float)
    return math.nan if not x.size else float(np.exp(np.log(x).mean()) if np.all(x > 0.0) else x.mean())


def slopes(batches: Sequence[float], steps: Sequence[float]) -> list[float]:
    """d ln S / d ln B between neighbouring batch sizes: one fewer than there are."""
    return (np.diff(np.log(np.asarray(steps, float))) / np.diff(np.log(np.asarray(batches, float)))).tolist()


def region(slope: float) -> str:
    """Shallue et al. 2019: "perfect" scaling, "diminishing" returns, or "flat", maximal data parallelism."""
    return "perfect" if slope < -0.9 else "flat" if slope > -0.1 else "diminishing"
