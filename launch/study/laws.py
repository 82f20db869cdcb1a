"""Batch sizes at a fixed number of examples: the best one, the largest useful one, and how both grow with the data.

At D examples the loss has a least over the batch size B: B_opt, the lowest point of a parabola of ln L over ln B. A
larger batch pays until the examples run out: B_crit is the largest B that comes with D examples to the loss that the
best batch has after D / 1.2, so that it needs 1.2 times the least examples for it (the critical batch size of Zhang et
al. 2024, arXiv 2410.21676, Def. 1). Both as power laws of D, and of the number of parameters N: Bergsma et al. 2025,
"Power Lines" (arXiv 2505.13738).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from allgrad.launch.study.intervals import LEVEL, Estimate, combined, quantile

MARGIN = 1.2  # by which B_crit may use more examples than the least
WINDOW = 4.0  # a parabola is fitted to the batches within this factor of the best of those tried
LEAST_BUDGETS = 3  # of a power law of D


class Cells(NamedTuple):
    """Final losses at D examples: (batches, seeds), the same seeds at all batches, which rise; inf where one failed.

    doubts   how far ln of a batch's losses may be above that at its best rate, which tuning has not found exactly; a
             standard deviation, see `Tuned.doubt`
    """

    examples: float
    batches: Sequence[int]
    losses: np.ndarray
    doubts: Sequence[float] = ()


class Found(NamedTuple):
    """What the losses at D examples say.

    best   the best of the batches tried
    b_opt, b_crit   the best batch size, and the largest useful one
    loss   the least loss, of the parabola
    """

    examples: float
    best: int
    b_opt: Estimate
    b_crit: Estimate
    loss: float


class Unknown(Exception):
    """Why a batch size cannot be told."""


def found_in(curves: Sequence[Cells], margin=MARGIN) -> list[Found]:
    """B_opt and B_crit for each number of examples, all of one model, which rise.

    Errors are those of a jackknife over the seeds, whatever the losses of a seed have in common, with Student's t on
    n - 1 degrees of freedom, and of the doubts about the rates, to first order.
    """
    x = [np.log(np.asarray(cells.batches, float)) for cells in curves]
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = [np.where(np.asarray(c.losses) > 0.0, np.log(np.asarray(c.losses, float)), math.nan) for c in curves]
    logs = [np.where(np.isfinite(y), y, math.nan) for y in logs]
    n = min(y.shape[1] for y in logs)
    doubts = [np.asarray(c.doubts if len(c.doubts) else np.zeros(len(c.batches)), float) for c in curves]
    best = [_best_of(y.mean(axis=1)) for y in logs]
    size = np.log([cells.examples for cells in curves])

    def least(means):
        """ln L at the best batch, for all numbers of examples."""
        return np.array([_lowest(*of)[1] for of in zip(x, means, best)])

    def opt(k, means):
        place, _ = _lowest(x[k], means[k], best[k])
        if math.isnan(place):
            raise Unknown(_why_no_lowest(curves[k].batches, means[k], best[k]))
        return place

    def crit(k, means):
        level = _with_fewer(size, least(means), k, margin)
        return _last_within(x[k], means[k], best[k], level, curves[k].batches)

    results = []
    for k, cells in enumerate(curves):
        b_opt, b_crit = (_estimate(partial(of, k), logs, n, doubts) for of in (opt, crit))
        loss = math.exp(least([y.mean(axis=1) for y in logs])[k])
        results.append(Found(cells.examples, cells.batches[best[k]], b_opt, b_crit, loss))
    return results


def _best_of(means):
    if np.all(np.isnan(means)):
        raise ValueError("a seed failed with every batch size")
    return int(np.nanargmin(means))


def _lowest(x, y, best):
    """(ln B, ln L) of the lowest point of the parabola about the best batch; (nan, its ln L) if there is none."""
    near = np.abs(x - x[best]) <= math.log(WINDOW) * 1.001
    if 0 < best < len(x) - 1 and near.sum() >= 3 and not np.isnan(y[near]).any():
        c, b, a = np.polyfit(x[near] - x[best], y[near], 2)
        if c > 0.0 and abs(b / (2.0 * c)) <= math.log(WINDOW):
            return x[best] - b / (2.0 * c), a - b * b / (4.0 * c)
    return math.nan, y[best]


def _why_no_lowest(batches, means, best):
    if best in (0, len(batches) - 1):
        return f"the {'smallest' if best == 0 else 'largest'} batch tried, {batches[best]}, is the best"
    if np.isnan(means).any():
        return "a seed failed at a batch near the best one"
    return "the losses do not bend about their least"


def _with_fewer(sizes, least, k, margin):
    """ln L of the best batch with D / margin examples: by the slope over ln D between the neighbours of the k-th D.

    Between both neighbours, so that the errors of neighbouring critical batch sizes have nothing in common.
    """
    before, after = max(k - 1, 0), min(k + 1, len(sizes) - 1)
    if before == after:
        raise Unknown("one number of examples does not tell what fewer would reach")
    slope = (least[after] - least[before]) / (sizes[after] - sizes[before])
    if not slope < 0.0:
        raise Unknown("more examples do not lower the loss")
    return least[k] - slope * math.log(margin)


def _last_within(x, y, best, level, batches):
    """ln B at which the loss comes to the level, for batches above the best: on the parabola through three of them."""
    for k in range(best + 1, len(x)):
        if math.isnan(y[k]):
            raise Unknown(f"a seed failed at B = {batches[k]}")
        if y[k] > level:
            return _between(x[max(k - 2, 0) : k + 1], y[max(k - 2, 0) : k + 1], level)
    raise Unknown(f"the largest batch tried, {batches[-1]}, is still within the margin")


def _between(x, y, level):
    """Where a curve through points comes to a level between the last two; a line where a third point is missing."""
    low, high = x[-2], x[-1]
    if not y[-2] < level:
        return low
    x, y = (x, y) if not np.isnan(y).any() else (x[-2:], y[-2:])
    roots = np.roots(np.polyfit(x - low, y - level, len(x) - 1))
    inside = roots[np.isreal(roots) & (roots.real >= 0.0) & (roots.real <= (high - low) * 1.000001)].real
    return low + float(inside.min())


def _estimate(value: Callable, logs, n, doubts) -> Estimate:
    """exp of a function of the means over seeds, with its error: by leaving out seeds one by one, and of doubts."""
    failed = int(max(np.isnan(y).any(axis=0).sum() for y in logs))
    try:
        whole = value([y.mean(axis=1) for y in logs])
        if n < 2:
            return Estimate(math.exp(whole), n=n, why=f"an interval needs 2 seeds, there are {n}")
        parts = np.array([value([np.delete(y, s, axis=1).mean(axis=1) for y in logs]) for s in range(n)])
    except Unknown as error:
        return Estimate(math.nan, n=n, failed=failed if "failed" in str(error) else 0, why=str(error))
    of_seeds = math.sqrt((n - 1.0) / n * float(((parts - parts.mean()) ** 2).sum()))
    of_rates = [slope * doubt for slope, doubt in _slopes(value, [y.mean(axis=1) for y in logs], doubts, whole)]
    error, dof = combined([of_seeds, *of_rates], [n - 1.0, *[math.inf] * len(of_rates)])
    return Estimate(math.exp(whole), error, dof, True, n)


def _slopes(value, means, doubts, whole, nudge=1e-5):
    """(the derivative of a function by a mean, the doubt about that mean), of all means with a doubt."""
    for k, of_batches in enumerate(doubts):
        for b in np.nonzero((of_batches > 0.0) & ~np.isnan(means[k]))[0]:
            nudged = [y.copy() for y in means]
            nudged[k][b] += nudge
            yield (value(nudged) - whole) / nudge, of_batches[b]


# --- power laws ------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A batch size at D examples and N parameters."""

    examples: float
    parameters: float
    batch: Estimate


@dataclass
class Law:
    """B = a D^p N^r, fitted to the logarithms of points.

    a, of_examples, of_parameters   the factor and the exponents p and r; r is None if all N are the same
    points    how many it rests on; dof: how many of these are more than the numbers found
    scatter   root of the mean square of ln B about the law, on dof
    """

    a: Estimate
    of_examples: Estimate
    of_parameters: Estimate | None
    points: int
    dof: int
    scatter: float
    center: np.ndarray
    inverse: np.ndarray

    def __call__(self, examples, parameters=1.0) -> np.ndarray:
        """The batch size of the law."""
        power = 0.0 if self.of_parameters is None else self.of_parameters.value
        return self.a.value * np.asarray(examples, float) ** self.of_examples.value * parameters**power

    def band(self, examples, parameters=1.0) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 95 % interval of the law at these numbers of examples."""
        x = np.log(np.asarray(examples, float))
        columns = [np.ones_like(x), x - self.center[0]]
        if self.of_parameters is not None:
            columns.append(np.full_like(x, math.log(parameters) - self.center[1]))
        rows = np.stack(columns, axis=-1)
        reach = quantile(self.dof, 0.5 + LEVEL / 2.0) * np.sqrt(np.einsum("...i,ij,...j", rows, self.inverse, rows))
        middle = self(examples, parameters)
        return middle * np.exp(-reach), middle * np.exp(reach)


def power_law(points: Sequence[Point]) -> Law:
    """Least squares of ln B; a point weighs 1 / (its squared error + 3 times the median of all), as if what the seeds
    do not show, such as the rate, added that much: the errors of few seeds alone would make intervals too short.

    Intervals by Student's t on the residuals, which hold the seeds, the rates and what the law misses. Raises
    ValueError if there are too few points with an interval to fit a law and to say how well it is known, or if the
    first or last point of a model has none: where its batch size is near the largest or smallest one tried, it would be
    in the law only if chance has moved it inwards.
    """
    known = [p for p in points if p.batch.known]
    sizes = {p.examples for p in known}
    if len(sizes) < LEAST_BUDGETS:
        raise ValueError(
            f"a power law of the examples needs {LEAST_BUDGETS} numbers of them at which the batch size is known, "
            f"there {'is' if len(sizes) == 1 else 'are'} {len(sizes) or 'none'}"
        )
    for parameters in {p.parameters: 0 for p in points}:
        of_one = sorted((p for p in points if p.parameters == parameters), key=lambda p: p.examples)
        if lost := [p for p in (of_one[0], of_one[-1]) if not p.batch.known]:
            raise ValueError(
                f"the batch size at {lost[0].examples:,.0f} examples, where the law would begin or end, is not known "
                f"({lost[0].batch.why or 'no interval'})"
            )
    several = len({p.parameters for p in known}) > 1
    x = np.log([[p.examples, p.parameters] for p in known])[:, : 1 + several]
    y, squares = np.log([p.batch.value for p in known]), np.array([p.batch.error for p in known]) ** 2
    dof = len(known) - x.shape[1] - 1
    if dof < 1:
        raise ValueError(f"a power law of examples and parameters needs 4 batch sizes, there are {len(known)}")
    weights = 1.0 / (squares + 3.0 * np.median(squares)) if squares.any() else np.ones(len(known))
    center = weights @ x / weights.sum()
    rows = np.concatenate([np.ones((len(known), 1)), x - center], axis=1)
    normal = np.linalg.inv(rows.T @ (weights[:, None] * rows))
    found = normal @ (rows.T @ (weights * y))
    rest = y - rows @ found
    normal *= float(weights @ (rest * rest)) / dof
    about = {"n": len(known), "of": "batch sizes"}
    turned = np.concatenate([[1.0], -center])  # ln a is the value where all logarithms are 0
    a = Estimate(math.exp(turned @ found), math.sqrt(turned @ normal @ turned), dof, True, **about)
    powers = [Estimate(float(found[k]), math.sqrt(normal[k, k]), dof, False, **about) for k in range(1, len(found))]
    scatter = math.sqrt(float(rest @ rest) / dof)
    return Law(a, powers[0], powers[1] if several else None, len(known), dof, scatter, center, normal)
