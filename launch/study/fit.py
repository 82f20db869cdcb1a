"""Numbers out of runs: crossings of a target, the hyperbola of steps against batch size, intervals over seeds.

McCandlish et al. 2018 (arXiv 1812.06162): to reach a target with batch B takes S(B) = S_min (1 + B_crit / B) steps, so
E(B) = B S(B) = E_min (1 + B / B_crit) examples: at B_crit, twice the least steps and twice the least examples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 300
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


def fit_hyperbola(batches: Sequence[float], steps: Sequence[float]) -> Hyperbola:
    """Least squares of log S; needs three batch sizes with finite steps. ValueError otherwise.

    b_crit is 0 or inf if the steps do not bend within the batches' reach: they do not change, or all fall as 1/B.
    """
    b, s = np.asarray(batches, float), np.asarray(steps, float)
    known = np.isfinite(s) & (s > 0.0)
    if known.sum() < 3:
        raise ValueError(f"a hyperbola is fitted to steps at 3 batch sizes or more, got {known.sum()}")
    s_min, b_crit, rmse = _hyperbolas(b[known], np.log(s[known])[None])
    return Hyperbola(float(s_min[0]), float(b_crit[0]), float(rmse[0]))


def _hyperbolas(batches, logs):
    """Fits to many sets of log steps (sets, batches) at once: S_min, B_crit and rmse of each.

    With S_min at its best, ln B_crit is all there is to find: the best of a grid, then Gauss-Newton.
    """
    low, high = math.log(batches.min() / REACH), math.log(batches.max() * REACH)
    grid = np.linspace(low, high, 61)
    curves = np.log1p(np.exp(grid)[:, None] / batches)  # (grid, batches)
    loss = (logs[:, None, :] - curves).var(axis=2)
    beta = grid[loss.argmin(axis=1)]
    for _ in range(15):
        slope = 1.0 / (1.0 + batches * np.exp(-beta)[:, None])  # of the curve, by ln B_crit
        rest = logs - np.log1p(np.exp(beta)[:, None] / batches)
        slope = slope - slope.mean(axis=1, keepdims=True)
        rest -= rest.mean(axis=1, keepdims=True)
        norm = (slope * slope).sum(axis=1)
        move = (slope * rest).sum(axis=1) / np.maximum(norm, 1e-300)
        beta = np.clip(beta + np.clip(move, -1.0, 1.0), low, high)
    rest = logs - np.log1p(np.exp(beta)[:, None] / batches)
    b_crit = np.where(beta >= high - 1e-9, np.inf, np.where(beta <= low + 1e-9, 0.0, np.exp(beta)))
    s_min = np.where(np.isinf(b_crit), 0.0, np.exp(rest.mean(axis=1)))
    return s_min, b_crit, rest.std(axis=1)


def gmean(values: Sequence[float]) -> float:
    """The geometric mean, or the arithmetic one if a value is not above 0; inf if a value is, nan of none."""
    x = np.asarray(values, float)
    return math.nan if not x.size else float(np.exp(np.log(x).mean()) if np.all(x > 0.0) else x.mean())


def resampled(cells: Mapping[float, Sequence[float]], n=RESAMPLES, seed=0) -> np.ndarray:
    """Logarithms of the geometric means (n, cells) of steps whose seeds are drawn again within each cell."""
    rng = np.random.default_rng(seed)
    logs = [np.log(np.asarray(steps, float)) for steps in cells.values()]
    return np.stack([x[rng.integers(len(x), size=(n, len(x)))].mean(axis=1) for x in logs], axis=1)


def interval(values) -> tuple[float, float]:
    """The 95 % percentile interval of a bootstrap's values; of none, (nan, nan)."""
    values = np.sort(np.asarray(values, float))
    if not values.size:
        return math.nan, math.nan
    low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    return float(low), float(high)


class Bootstrap(NamedTuple):
    """A hyperbola fitted to the geometric means over seeds, with the fits to `RESAMPLES` drawings of the seeds."""

    fit: Hyperbola
    s_min: np.ndarray
    b_crit: np.ndarray

    @property
    def s_min_interval(self):
        return interval(self.s_min)

    @property
    def b_crit_interval(self):
        return interval(self.b_crit)


def bootstrap(cells: Mapping[float, Sequence[float]], n=RESAMPLES, seed=0) -> Bootstrap:
    """Fit {batch: steps of each seed}; seeds that failed, as inf or nan, and batches where all did are left out."""
    finite = {b: [s for s in steps if math.isfinite(s)] for b, steps in sorted(cells.items())}
    finite = {b: steps for b, steps in finite.items() if steps}
    fit = fit_hyperbola(list(finite), [gmean(steps) for steps in finite.values()])
    s_min, b_crit, _ = _hyperbolas(np.array([*finite], float), resampled(finite, n, seed))
    return Bootstrap(fit, s_min, b_crit)


def mean_interval(values: Sequence[float], n=RESAMPLES, seed=0, mean: Callable = gmean) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean over seeds; failed seeds, inf or nan, are left out."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if not finite.size:
        return math.nan, math.nan
    mean = np.mean if mean is gmean and not np.all(finite > 0.0) else mean
    rng = np.random.default_rng(seed)
    return interval([mean(finite[k]) for k in rng.integers(len(finite), size=(n, len(finite)))])


def ratio(values: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Geometric means as a ratio, with its 95 % interval over the seeds of both: those of finite values above 0."""
    cells = [[v for v in one if math.isfinite(v) and v > 0.0] for one in (values, base)]
    if not all(cells):
        return math.nan, math.nan, math.nan
    drawn = resampled(dict(enumerate(cells)))
    return gmean(cells[0]) / gmean(cells[1]), *interval(np.exp(drawn[:, 0] - drawn[:, 1]))


def slopes(batches: Sequence[float], steps: Sequence[float]) -> list[float]:
    """d ln S / d ln B between neighbouring batch sizes: one fewer than there are."""
    return (np.diff(np.log(np.asarray(steps, float))) / np.diff(np.log(np.asarray(batches, float)))).tolist()


def slope(batches: Sequence[float], steps: Sequence[float]) -> float:
    """The slope of the least-squares line through ln S against ln B."""
    return float(np.polyfit(np.log(batches), np.log(steps), 1)[0])


def region(slope: float) -> str:
    """Shallue et al. 2019: "perfect" scaling, "diminishing" returns, or "flat", maximal data parallelism."""
    return "perfect" if slope < -0.9 else "flat" if slope > -0.1 else "diminishing"


def useful_batch(batches: Sequence[float], examples: Sequence[float], overhead=0.2) -> float:
    """The largest batch with at most (1 + overhead) times the least examples: CBS-20 of Zhang et al. 2024, Def. 1.

    log E is interpolated between batch sizes, linear in log B; the largest batch measured, if none needs more.
    """
    limit = min(examples) * (1.0 + overhead)
    last = max(k for k, e in enumerate(examples) if e <= limit)
    if last == len(batches) - 1:
        return float(batches[-1])
    share = math.log(limit / examples[last]) / math.log(examples[last + 1] / examples[last])
    return float(batches[last] * (batches[last + 1] / batches[last]) ** share)
