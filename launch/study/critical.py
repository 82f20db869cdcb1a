"""The critical batch size, from the steps to a target at several batch sizes: by a curve, and without one.

By a curve (McCandlish et al. 2018, arXiv 1812.06162): S(B) = S_min (1 + B_crit / B), so that at B_crit a run takes
twice the least steps and twice the least examples. Its intervals hold what the curve misses, not only the scatter of
seeds: they rest on how far the measured points lie from it.

Without one: B_2x, at which a run takes twice the fewest steps of all batch sizes tried, and CBS-20 of Zhang et al. 2024
(arXiv 2410.21676, Def. 1), the largest batch with at most 1.2 times the least examples, both interpolated between
neighbouring batch sizes. Their intervals rest on the seeds, and on how rough the points are beyond what the seeds
explain: each batch has a learning rate of its own, which was found by tuning and is never exactly the best.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from allgrad.launch.study import fit
from allgrad.launch.study.intervals import LEVEL, Estimate, combined, mean, quantile
from allgrad.launch.study.lr_tuning import DOUBT

LEAST_BATCHES = 4  # of a curve with an interval, or a rejection
FAR = 8.0  # factor between neighbouring batch sizes beyond which an interpolated crossing has no interval
OVERHEAD = 0.2  # of examples: CBS-20
GRID = 513  # batch sizes between the smallest and the largest tried at which an interval may end
REJECT = 0.05  # p-value below which a curve is rejected


class Cells(NamedTuple):
    """Batch sizes, and means of the logarithms of their steps over n seeds, with the variances of these means.

    chance      variances by the scatter of the seeds and the choice of the rates
    variances   the same with the roughness of the points, and their degrees of freedom
    """

    batches: np.ndarray
    logs: np.ndarray
    chance: np.ndarray
    variances: np.ndarray
    dofs: np.ndarray
    n: int

    @property
    def steps(self) -> np.ndarray:
        """Geometric means of the steps."""
        return np.exp(self.logs)

    def only(self, batches) -> "Cells":
        """Those of some of the batch sizes."""
        part = np.isin(self.batches, np.asarray([*batches], float))
        return Cells(
            self.batches[part], self.logs[part], self.chance[part], self.variances[part], self.dofs[part], self.n
        )


def cells_of(steps: Mapping[int, Sequence[float]], doubts: Mapping[int, float] | None = None) -> Cells:
    """The cells of {batch: steps of each seed}; a batch at which a seed failed is left out, as is one without seeds.

    doubts   {batch: how far ln S may be from that of the best rate}, see `lr_tuning.Tuned`
    """
    whole = {b: np.log(np.asarray(s, float)) for b, s in sorted(steps.items()) if len(s) and np.all(np.isfinite(s))}
    batches, logs = np.array([*whole], float), np.array([s.mean() for s in whole.values()])
    n = min((len(s) for s in whole.values()), default=0)
    if n < 2:
        unknown = np.full(len(whole), math.nan)
        return Cells(batches, logs, unknown, unknown, unknown, n)
    seeds, dofs = moderated([s.var(ddof=1) for s in whole.values()], [len(s) - 1 for s in whole.values()], batches)
    chance = seeds / [len(s) for s in whole.values()] + np.square([(doubts or {}).get(b, DOUBT) for b in whole])
    return Cells(batches, logs, chance, chance + roughness(batches, logs, chance), dofs, n)


def cell(steps: Sequence[float], doubt=DOUBT) -> Estimate:
    """The steps of one batch size at its best rate: Student's t over the seeds, widened by the choice of the rate."""
    e = mean(steps, "report seeds")
    if math.isnan(e.error):
        return e
    error, dof = combined([e.error, doubt], [e.dof, e.dof])
    return replace(e, error=error, dof=max(dof, e.dof), why="" if error else e.why)


def moderated(
    variances: Sequence[float], dofs: Sequence[float], x: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Variances of several small samples that have lent each other strength, and their degrees of freedom.

    Smyth 2004, "Linear Models and Empirical Bayes Methods": true variances are taken to scatter as s0^2 d0 / chi2(d0)
    about an s0^2 whose logarithm is a line over ln x, x being the batch sizes: runs of many steps differ less. s0 and
    d0 are found from the samples' own scatter; where that is chance only, all lie on the line.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    s2, d = np.asarray(variances, float), np.asarray(dofs, float)
    if len(s2) < 5 or not np.all(s2 > 0.0):
        return s2, d
    e = np.log(s2) - digamma(d / 2.0) + np.log(d / 2.0)
    line = np.polyval(np.polyfit(np.log(x), e, 1), np.log(x))
    excess = float(((e - line) ** 2).sum() / (len(e) - 2.0)) - float(polygamma(1, d / 2.0).mean())
    half: Any = 5e5 if excess <= 2e-6 else brentq(lambda half: float(polygamma(1, half)) - excess, 1e-3, 1e6)
    prior = 2.0 * half
    s0 = np.exp(line + float(digamma(prior / 2.0)) - math.log(prior / 2.0))
    return (prior * s0 + d * s2) / (prior + d), np.minimum(prior + d, d.sum() * (1.0 - 2.0 / len(s2)))


def roughness(batches: np.ndarray, logs: np.ndarray, chance: np.ndarray) -> float:
    """The variance of the points beyond chance, if they are rougher than that by more than chance (chi-squared, 0.95).

    A smooth curve has small third differences over ln B; independent errors do not.
    """
    from scipy.special import chdtri

    if len(batches) < 5:
        return 0.0
    x, found, expected = np.log(batches), [], []
    for k in range(len(x) - 3):
        part = x[k : k + 4]
        w = np.array([1.0 / np.prod([part[i] - part[j] for j in range(4) if j != i]) for i in range(4)])
        w /= math.sqrt(w @ w)  # of a quadratic nothing is left
        found.append(float(w @ logs[k : k + 4]) ** 2)
        expected.append(float(w * w @ chance[k : k + 4]))
    independent = max(1.0, len(found) / 2.0)  # neighbouring differences share three of four points
    rough = np.mean(found) > np.mean(expected) * float(chdtri(independent, 0.05)) / independent
    return float(np.mean(found) - np.mean(expected)) if rough else 0.0


class Curve(NamedTuple):
    """S(B) = s_min (1 + b_crit / B), fitted to log S.

    p          how likely so large a misfit is if the curve is true, given how far seeds scatter; nan if that is unknown
    rmse_log   root of the mean squared difference of log S
    correlation  of the errors of ln s_min and ln b_crit
    """

    s_min: Estimate
    b_crit: Estimate
    p: float
    rmse_log: float
    correlation: float

    @property
    def rejected(self) -> bool:
        """Whether the points miss the curve by more than chance."""
        return self.p < REJECT

    def __call__(self, batch):
        """Steps at a batch size."""
        return self.s_min.value * (1.0 + self.b_crit.value / np.asarray(batch, float))

    def band(self, batch):
        """The ends of the 95 % intervals of the curve at batch sizes."""
        slope = 1.0 / (1.0 + np.asarray(batch, float) / self.b_crit.value)
        a, b = self.s_min.error, slope * self.b_crit.error
        reach = quantile(self.b_crit.dof, 0.5 + LEVEL / 2.0) * np.sqrt(a * a + b * b + 2.0 * self.correlation * a * b)
        return self(batch) * np.exp(-reach), self(batch) * np.exp(reach)


def curve(cells: Cells) -> Curve:
    """The curve of least squares, its intervals by Student's t on the residuals, and the test whether it fits.

    All batch sizes weigh the same: what sets them apart from the curve in repeated studies is not the scatter of their
    seeds alone. Where that is three times as large at one end, the interval of S_min holds the truth in about 89 %.
    Raises ValueError with fewer than three batch sizes; with three there are no intervals, since two numbers then
    describe three.
    """
    k, about = len(cells.batches), {"n": cells.n, "of": "report seeds"}
    found = fit.fit_hyperbola(cells.batches, cells.steps)
    why = ""
    if not 0.0 < found.b_crit < math.inf:
        why = "the steps do not bend within the batch sizes tried"
    elif k < LEAST_BATCHES:
        why = f"{k} batch sizes are too few, give {LEAST_BATCHES}"
    elif cells.n < 2:
        why = "an interval needs 2 report seeds"
    if why:
        s_min, b_crit = (Estimate(value, why=why, **about) for value in (found.s_min, found.b_crit))
        return Curve(s_min, b_crit, math.nan, found.rmse_log, math.nan)
    slopes = np.stack([np.ones(k), 1.0 / (1.0 + cells.batches / found.b_crit)], axis=1)  # by ln S_min and ln B_crit
    inverse, chance = np.linalg.inv(slopes.T @ slopes), float(np.mean(cells.chance))
    misfit = found.rmse_log**2 * k / (k - 2.0)
    scatter = max(misfit, 0.75 * misfit + 0.25 * chance)  # luck with the points proves no precision
    errors = np.sqrt(np.diag(inverse) * scatter)
    s_min, b_crit = (
        Estimate(value, float(error), k - 2.0, True, **about)
        for value, error in zip((found.s_min, found.b_crit), errors)
    )
    correlation = float(inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1]))
    return Curve(s_min, b_crit, _p_of_misfit(cells, misfit / chance), found.rmse_log, correlation)


def _p_of_misfit(cells, share):
    """The p-value of the F-test of the residuals' mean square over that of chance."""
    from scipy.special import fdtrc

    k = len(cells.batches)
    return float(fdtrc(k - 2.0, k * (cells.n - 1.0), share))


@dataclass(frozen=True)
class Crossing(Estimate):
    """A batch size at which a curve through the cells passes a level, with the interval of all at which it may.

    That is those at which the difference from the level is within Student's t of 0 (Fieller's way, for curves): it need
    not be symmetric, and it has no end on the side where no batch size tried is surely beyond.

    at     logarithms of batch sizes, close to each other
    far    how far the curve is from the level there, negative below the crossing; `errors` and `dofs` of these
    """

    at: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)
    far: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)
    errors: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)
    dofs: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)

    def interval(self, level=LEVEL):
        from scipy.special import stdtrit

        inside = np.abs(self.far) <= stdtrit(self.dofs, 0.5 + level / 2.0) * self.errors
        k = int(np.abs(self.at - math.log(self.value)).argmin())
        outside = np.nonzero(~inside)[0]
        before, after = outside[outside < k], outside[outside > k]
        return (min(math.exp(self.at[before[-1]]), self.value) if before.size else 0.0,
                max(math.exp(self.at[after[0]]), self.value) if after.size else math.inf)  # fmt: skip

    def p_above(self, bound):
        return self._p(bound, 1.0)

    def p_below(self, bound):
        return self._p(bound, -1.0)

    def _p(self, bound, sign):
        """How likely the difference at the bound, or at the batch size tried that is nearest, is if it is 0 there."""
        from scipy.special import stdtr

        k = int(np.abs(self.at - math.log(max(bound, 1e-300))).argmin())
        return float(stdtr(self.dofs[k], sign * self.far[k] / self.errors[k])) if self.errors[k] else 0.5


def doubling(cells: Cells) -> Estimate:
    """B_2x: the batch size from which on a run takes at most twice the fewest steps of all tried, interpolated.

    Undefined where no batch tried is surely too large (more than 1.2 times the fewest examples): steps that go on
    falling as 1/B put it at half the largest batch, wherever that lies.
    """
    why = ""
    if len(cells.batches) < 2 or cells.logs[0] - cells.logs.min() <= math.log(2.0):
        why = "already the smallest batch tried takes less than twice the fewest steps"
    elif not _too_large(cells, OVERHEAD, surely=True):
        why = f"no batch tried surely needs over {1.0 + OVERHEAD:g} times the fewest examples: give larger ones"
    if why:
        return Estimate(math.nan, n=cells.n, of="report seeds", why=why)
    at = _grid(cells)

    def below(k):
        """How far steps are below twice those of cell k."""
        return lambda logs: logs[k] + math.log(2.0) - _between(cells, logs, at)

    far, errors, dofs = _over_the_least(cells, cells.logs, below, side=1.0)
    return _crossing(cells, at, far, errors, dofs, int(np.nonzero(far > 0.0)[0][0]) - 1)


def useful(cells: Cells, overhead=OVERHEAD) -> Estimate:
    """CBS-20: the largest batch size with at most 1.2 times the least examples, interpolated."""
    if not _too_large(cells, overhead):
        value = float(cells.batches[-1]) if len(cells.batches) else math.nan
        return Estimate(value, n=cells.n, of="report seeds", why="no batch size tried costs more")
    at = _grid(cells)

    def beyond(k):
        """How far examples are above those of cell k, with the overhead."""
        return lambda logs: _between(cells, logs, at) + at - logs[k] - math.log(cells.batches[k]) - math.log1p(overhead)

    far, errors, dofs = _over_the_least(cells, cells.logs + np.log(cells.batches), beyond, side=-1.0)
    return _crossing(cells, at, far, errors, dofs, int(np.nonzero(far <= 0.0)[0][-1]))


def _grid(cells):
    """Logarithms of batch sizes, from the smallest to the largest tried."""
    return np.linspace(math.log(cells.batches[0]), math.log(cells.batches[-1]), GRID)


def _over_the_least(cells, values, difference, side):
    """`_tested` of difference(k), k being the cell with the least of these values.

    Which one that truly is, is not sure. On one side of the level, where side times the difference is above 0, it is
    that of the cell which says least surely, of all that may have the least: so that a batch size is surely on that
    side if it is, whichever cell that is.
    """
    far, errors, dofs = _tested(cells, difference(int(values.argmin())))
    here = side * far > 0.0
    most = 4.0 * np.sqrt(2.0 * np.nan_to_num(cells.variances).max())
    for k in np.nonzero(values - values.min() < most)[0]:
        other = _tested(cells, difference(k))
        nearer = here & (side * other[0] - 2.0 * other[1] < side * far - 2.0 * errors)
        far, errors, dofs = (np.where(nearer, new, old) for new, old in zip(other, (far, errors, dofs)))
    return far, errors, dofs


def _too_large(cells, overhead, surely=False):
    """Whether the largest batch needs more examples than allowed; surely: beyond chance, in 19 of 20 cases."""
    if not len(cells.batches):
        return False
    examples = cells.logs + np.log(cells.batches)
    k = int(examples.argmin())
    far = float(examples[-1] - examples[k] - math.log1p(overhead))
    if not surely or cells.n < 2 or far <= 0.0:
        return far > 0.0
    error, dof = combined(np.sqrt(cells.variances[[k, -1]]), cells.dofs[[k, -1]])
    return far > quantile(dof, 0.95) * error


def _between(cells, logs, at):
    """ln S at ln B, in between by cubics that are monotonic where the points are (Fritsch and Butland 1984)."""
    from scipy.interpolate import PchipInterpolator

    return PchipInterpolator(np.log(cells.batches), logs)(at)


def _tested(cells: Cells, difference: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A function of the cells' logarithms, an array, with the errors that theirs make of it and degrees of freedom."""
    far = difference(cells.logs)
    if cells.n < 2:
        return far, np.zeros_like(far), np.ones_like(far)
    nudges = np.diag(np.sqrt(cells.variances) + 1e-6)
    slopes = [(difference(cells.logs + h) - difference(cells.logs - h)) / (2.0 * h.max()) for h in nudges]
    terms = np.square(slopes) * cells.variances[:, None]  # (cells, GRID): the variance that each cell adds
    total = terms.sum(axis=0)
    shares = (terms**2 / cells.dofs[:, None]).sum(axis=0)
    return far, np.sqrt(total), np.divide(total**2, shares, out=np.ones_like(total), where=shares > 0.0)


def _crossing(cells: Cells, at, far, errors, dofs, k) -> Estimate:
    """The batch size after point k of ln B in `at`, where `far` passes from below 0."""
    value = math.exp(at[k] + (at[k + 1] - at[k]) * far[k] / (far[k] - far[k + 1]))
    about: dict = {"n": cells.n, "of": "report seeds"}
    i = int(np.searchsorted(cells.batches, value))
    around = cells.batches[max(i - 1, 0) : i + 1]
    if why := _no_interval(cells, around[-1] / around[0]):
        return Estimate(value, why=why, **about)
    steep = (far[k + 1] - far[k]) / (at[k + 1] - at[k])
    error, dof = float(errors[k + 1] / steep), float(dofs[k + 1])  # near the crossing, where the interval is symmetric
    return Crossing(value, error, dof, at=at, far=far, errors=errors, dofs=dofs, **about)


def _no_interval(cells, apart):
    """Why a crossing has no interval: seeds say nothing of the error of interpolating between few points."""
    if cells.n < 2:
        return "an interval needs 2 report seeds"
    if (k := len(cells.batches)) < LEAST_BATCHES:
        return f"{k} batch sizes are too few, give {LEAST_BATCHES}"
    if apart > FAR * (1.0 + 1e-9):
        return f"the batch sizes around it are a factor of {apart:.3g} apart, give some in between"
    return ""


class Range(NamedTuple):
    """What a part of the batch sizes says: from `first` to `last`, B_crit of the curve, and B_2x; nan if undefined."""

    first: float
    last: float
    b_crit: float
    b_2x: float


def ranges(cells: Cells) -> list[Range]:
    """The critical batch sizes from fewer batch sizes: without the smallest or largest one, two or three."""
    k, found = len(cells.batches), []
    for first, last in [(0, k), (1, k), (2, k), (3, k), (0, k - 1), (0, k - 2), (0, k - 3), (1, k - 1)]:
        if last - first >= LEAST_BATCHES:
            part = cells.only(cells.batches[first:last])
            found.append(Range(part.batches[0], part.batches[-1], curve(part).b_crit.value, doubling(part).value))
    return found
