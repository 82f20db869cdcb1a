"""How much each hyper-parameter matters: the share of a metric's variance between groups of its values."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from allgrad.launch.study.intervals import quantile

RESAMPLES = 1000


@dataclass
class Importance:
    """How much of the variance of ln(metric) one hyper-parameter explains by itself.

    share       of the variance among successful trials, corrected for chance; low, high: its 95 % interval
    chance      what a hyper-parameter without effect exceeds in 1 of 20 cases
    p           how likely one without effect is to have so large a share
    groups, n   bins of values, and trials in them
    draws       the share in trials drawn again: of the same trials the same draws
    """

    share: float
    low: float
    high: float
    chance: float
    p: float
    groups: int
    n: int
    draws: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False, repr=False)


def bins(dimension, values: Sequence, most=6) -> tuple[list[int | None], list[str]]:
    """Which group of its values each trial is in (None: it does not apply), and the names of the groups.

    Each choice is a group; a range is cut into 3 to `most` of about equally many trials.
    """
    if dimension.choices:
        order = sorted(dimension.choices) if dimension.ordered else dimension.choices
        return [None if v is None else order.index(v) for v in values], [_text(v) for v in order]
    known = np.sort([v for v in values if v is not None])
    k = int(np.clip(round(len(known) ** (1 / 3)), 3, most))
    cuts = np.unique(np.quantile(known, np.arange(1, k) / k, method="nearest")) if len(known) else np.zeros(0)
    group = [None if v is None else int(np.searchsorted(cuts, v, side="right")) for v in values]
    ends = [dimension.low, *map(float, cuts), dimension.high]
    return group, [f"{_text(a)}..{_text(b)}" for a, b in itertools.pairwise(ends)]


def _text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def importance(groups: Sequence[int | None], logs: Sequence[float], n=RESAMPLES, seed=0) -> Importance:
    """The share of the variance of `logs` that lies between groups; values that are not finite are left out.

    1 - (SSW / (n - k)) / (SST / (n - 1)), Kelley's epsilon squared, the adjusted R^2 of the groups' means: 0 on average
    if they have no effect. The interval is that of Student's t for artanh of the root of the share (Fisher's z of the
    correlation ratio), with the standard deviation of trials drawn again; the draws' own middle is no use, since a
    trial drawn twice looks like an effect. It holds the truth in 95 % of cases for normal errors, and in about 90 % for
    errors as skewed as exponential ones. chance and p are by permutation of the values.
    """
    y = np.asarray(logs, float)
    known = np.isfinite(y) & np.array([g is not None for g in groups])
    y = y[known]
    _, g = np.unique(np.array([g for g, k in zip(groups, known) if k], int), return_inverse=True)
    k = int(g.max()) + 1 if len(g) else 0
    if k < 2 or len(y) < k + 2 or np.ptp(y) == 0.0:
        return Importance(math.nan, math.nan, math.nan, math.nan, math.nan, k, len(y))
    rng = np.random.default_rng(seed)
    share = _between(g, y)
    again = rng.integers(len(y), size=(n, len(y)))
    drawn = _between(g[again], y[again])
    error = np.nanstd(np.arctanh(_root(drawn)), ddof=1)
    middle, reach = np.arctanh(_root(share)), quantile(len(y) - k, 0.975) * error
    low, high = np.tanh(np.maximum(middle - reach, 0.0)) ** 2, np.tanh(middle + reach) ** 2
    without = _between(g, rng.permuted(np.tile(y, (n, 1)), axis=1))
    p = float((1 + np.sum(without >= share)) / (1 + n))
    share, low, high, chance = (float(np.clip(x, 0.0, 1.0)) for x in (share, low, high, np.quantile(without, 0.95)))
    return Importance(share, low, high, chance, p, k, len(y), drawn)


def _root(share):
    """The correlation ratio of a share, below 1."""
    return np.sqrt(np.clip(share, 0.0, 1.0 - 1e-9))


def crossed(first: Sequence[int | None], second: Sequence[int | None]) -> list[int | None]:
    """The groups of two hyper-parameters at once: each pair of groups is one; None where one does not apply."""
    width = 1 + max((g for g in second if g is not None), default=0)
    return [None if a is None or b is None else a * width + b for a, b in zip(first, second)]


def _between(g, y):
    """The share between groups, of values y (..., n) in groups g (..., n); nan if they are too few, or all the same."""
    y = y - y.mean(axis=-1, keepdims=True)
    member = g[..., None] == np.arange(g.max() + 1)
    count = member.sum(axis=-2)
    k, n = np.count_nonzero(count, axis=-1), y.shape[-1]
    total = (y * y).sum(axis=-1)
    within = total - (np.einsum("...nk,...n->...k", member, y) ** 2 / np.maximum(count, 1)).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > k, 1.0 - (within / (n - k)) / (total / (n - 1)), math.nan)


def additive_share(groups: Sequence[Sequence[int | None]], logs: Sequence[float]) -> float:
    """The share that the groups of all hyper-parameters explain by a sum of their effects; nan if trials are too few.

    The adjusted R^2 of the additive model; what is left is due to interactions and to the seed.
    """
    y = np.asarray(logs, float)
    known = np.isfinite(y)
    y = y[known]
    columns = [np.ones(len(y))]
    for group in groups:
        kept = [g for g, k in zip(group, known) if k]
        columns += [np.array([g == value for g in kept], float) for value in dict.fromkeys(kept)]
    x = np.stack(columns, axis=1)
    rank = int(np.linalg.matrix_rank(x)) if len(y) else 0
    if len(y) < rank + 2 or np.ptp(y) == 0.0:
        return math.nan
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return 1.0 - (rest @ rest / (len(y) - rank)) / (((y - y.mean()) ** 2).sum() / (len(y) - 1))
