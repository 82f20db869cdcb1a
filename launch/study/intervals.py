"""Numbers with their 95 % intervals, and the p-values that verdicts are made of.

An `Estimate` is a mean over independent values, mostly over seeds, on a scale where their scatter is about the same
everywhere (logarithms for steps and losses), with Student's t for its error. A share of seeds is a `Share`, with the
exact binomial interval of Clopper and Pearson 1934. A seed that failed has no value that a mean could take: what it is
part of is censored, and has no interval. Neither have values without scatter, such as steps that are all 16: they say
how far the seeds differ beyond their last digit, not that the truth is known.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

LEVEL = 0.95  # of confidence
Arm = TypeVar("Arm")
ROUNDING = 1e-12  # up to which relative difference values are the same
NEGATIVE = "a ratio needs values above 0"


@dataclass(frozen=True)
class Estimate:
    """A number and its error.

    value     the estimate
    error     standard error of it, or of its logarithm if `log`; nan if unknown
    dof       degrees of freedom of that error
    log       whether the t-interval is one of the logarithm
    n         independent values that it rests on, and `of`, what these are; 0 if there are none
    failed    how many of them failed
    why       why there is no interval, if there is none
    """

    value: float
    error: float = math.nan
    dof: float = math.nan
    log: bool = True
    n: int = 0
    of: str = "seeds"
    failed: int = 0
    why: str = ""

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval; nan if there is none."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.interval()[1]

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    def interval(self, level=LEVEL) -> tuple[float, float]:
        """The interval that holds the truth in so many cases of 1; (nan, nan) if there is none."""
        if self.why or math.isnan(self.value) or math.isnan(self.error) or not self.dof > 0.0:
            return math.nan, math.nan
        reach = quantile(self.dof, 0.5 + level / 2.0) * self.error
        if not self.log:
            return self.value - reach, self.value + reach
        if not 0.0 < self.value < math.inf:
            return math.nan, math.nan
        return self.value / _exp(reach), self.value * _exp(reach)

    def p_above(self, bound: float) -> float:
        """How likely so large an estimate is if the truth is `bound` or below: small where it is surely above.

        nan if there is no interval.
        """
        if not self.known:
            return math.nan
        if self.log and bound <= 0.0:
            return 0.0
        far = math.log(self.value / bound) if self.log else self.value - bound
        return _tail(far, self.error, self.dof)

    def p_below(self, bound: float) -> float:
        """How likely so small an estimate is if the truth is `bound` or above."""
        if not self.known:
            return math.nan
        if self.log and bound <= 0.0:
            return 1.0
        far = math.log(bound / self.value) if self.log else bound - self.value
        return _tail(far, self.error, self.dof)

    def times(self, factor: float) -> "Estimate":
        """The estimate of `factor` times as much."""
        return replace(self, value=self.value * factor, error=self.error * (1.0 if self.log else abs(factor)))


@dataclass(frozen=True)
class Share(Estimate):
    """A share of trials: `hits` of `n`, with the exact binomial interval of Clopper and Pearson."""

    hits: int = 0

    def interval(self, level=LEVEL):
        if not self.n:
            return math.nan, math.nan
        from scipy.special import betaincinv

        tail = (1.0 - level) / 2.0
        low = float(betaincinv(self.hits, self.n - self.hits + 1, tail)) if self.hits else 0.0
        high = float(betaincinv(self.hits + 1, self.n - self.hits, 1.0 - tail)) if self.hits < self.n else 1.0
        return low, high

    def p_above(self, bound):
        from scipy.special import bdtrc

        return math.nan if not self.n else 1.0 if not self.hits else float(bdtrc(self.hits - 1, self.n, bound))

    def p_below(self, bound):
        from scipy.special import bdtr

        return math.nan if not self.n else float(bdtr(self.hits, self.n, bound))


@dataclass(frozen=True)
class Settled(Estimate):
    """What is left of an estimate when it is only to be read: its 95 % interval, and the p-values at some bounds.

    ends    of the 95 % interval
    p       {bound: (p_above, p_below)}; they are nan at others
    """

    ends: tuple[float, float] = (math.nan, math.nan)
    p: dict[float, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, e: Estimate, bounds: Sequence[float]) -> "Settled":
        """The reading of an estimate, for claims with these bounds."""
        p = {bound: (e.p_above(bound), e.p_below(bound)) for bound in bounds}
        about = (e.value, e.error, e.dof, e.log, e.n, e.of, e.failed, e.why)
        return cls(*about, ends=e.interval(), p=p)

    def interval(self, level=LEVEL):
        if level != LEVEL:
            raise ValueError(f"what was kept of an estimate is its {LEVEL:.0%} interval, and none of {level:.0%}")
        return self.ends

    def p_above(self, bound):
        return self.p.get(bound, (math.nan, math.nan))[0]

    def p_below(self, bound):
        return self.p.get(bound, (math.nan, math.nan))[1]


def quantile(dof: float, p: float) -> float:
    """Student's t: the number below which it is with probability p."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, p))


def _tail(far, error, dof):
    from scipy.special import stdtr

    return (1.0 if far < 0.0 else 0.0 if far > 0.0 else 0.5) if error == 0.0 else float(stdtr(dof, -far / error))


def _exp(x):
    return math.exp(x) if x < 700.0 else math.inf


def share(hits: int, n: int, of="seeds") -> Share:
    """`hits` of `n` trials."""
    return Share(hits / n if n else math.nan, math.nan, math.nan, False, n, of, hits=hits)


def mean(values: Sequence[float] | np.ndarray, of="seeds", log: bool | None = None) -> Estimate:
    """The mean of independent values: the geometric one of values above 0, else, or with log=False, the arithmetic one.

    Values that are inf or nan have failed: the mean is that of the others then, and has no interval. Without scatter it
    has an error of 0, for those who know of other errors, and no interval either.
    """
    x = np.asarray(values, float)
    met = x[np.isfinite(x)]
    failed = len(x) - len(met)
    log = bool(np.all(met > 0.0)) if log is None else log
    y = np.log(met) if log else met
    value = math.nan if not len(y) else float(np.exp(y.mean())) if log else float(y.mean())
    why = (
        f"{failed} of {len(x)} {of} failed"
        if failed
        else f"an interval needs 2 {of}, there are {len(x)}" * (len(x) < 2)
    )
    if why:
        return Estimate(value, math.nan, math.nan, log, len(x), of, failed, why)
    alike = np.ptp(y) <= ROUNDING * (1.0 if log else np.abs(y).max())
    error = 0.0 if alike else float(y.std(ddof=1)) / math.sqrt(len(y))
    return _unless_all_alike(Estimate(value, error, len(y) - 1.0, log, len(y), of))


def _unless_all_alike(e):
    """The estimate; without scatter, why it has no interval."""
    return replace(e, why=f"the {e.of} do not differ") if e.error == 0.0 else e


def ratio(first: Estimate, second: Estimate) -> Estimate:
    """One mean over another, of independent values above 0: Welch's t on logarithms."""
    return _together(first.value / second.value if second.value else math.nan, first, second)


def product(first: Estimate, second: Estimate) -> Estimate:
    """One mean times another, of independent values above 0."""
    return _together(first.value * second.value, first, second)


def _together(value, *means):
    """A product or quotient of means, whose relative errors add up; one of them may be without scatter."""
    n, worst = min(e.n for e in means), max(means, key=lambda e: e.failed)
    if worst.failed:
        return Estimate(value, n=worst.n, of=worst.of, failed=worst.failed, why=worst.why)
    why = next((e.why for e in means if e.why and e.error != 0.0), "")
    if why or any(e.value <= 0.0 for e in means):
        return Estimate(value, n=n, of=means[0].of, why=why or NEGATIVE)
    pairs = [(e.error if e.log else e.error / e.value, e.dof) for e in means if e.dof > 0.0]
    error, dof = combined([e for e, _ in pairs], [d for _, d in pairs])
    exact = all(e.error == 0.0 and not e.why for e in means)
    e = Estimate(value, error, dof, True, n, means[0].of)
    return e if exact else _unless_all_alike(e)


def combined(errors: Sequence[float], dofs: Sequence[float]) -> tuple[float, float]:
    """The error of a sum of independent terms, and its degrees of freedom by Welch and Satterthwaite."""
    total = math.fsum(e * e for e in errors)
    if total == 0.0:
        return 0.0, min(dofs, default=math.nan)
    return math.sqrt(total), total * total / max(math.fsum(e**4 / d for e, d in zip(errors, dofs)), 1e-300)


def paired(first: Sequence[float], second: Sequence[float], of="seeds", log=True) -> Estimate:
    """The ratio of values that belong together, such as losses of two arms with the same seeds: t on its logarithm.

    With log=False their difference. A pair of which one has failed has failed; values that are not above 0 have no
    ratio, and no interval. Raises ValueError if they are not as many.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if len(a) != len(b):
        raise ValueError(f"values that belong together come in pairs, and there are {len(a)} of one and {len(b)} of "
                         f"the other: give both the same {of}")  # fmt: skip
    met = np.isfinite(a) & np.isfinite(b)
    if log and np.any(np.minimum(a, b)[met] <= 0.0):
        return Estimate(math.nan, n=len(a), of=of, failed=int((~met).sum()), why=NEGATIVE)
    with np.errstate(all="ignore"):
        return mean(np.where(met, a / b if log else a - b, math.nan), of, log)


def slope(x: Sequence[float], groups: Sequence[Sequence[float]], of="seeds") -> Estimate:
    """The slope of the least-squares line of ln y by ln x; groups: the values of y at each x, a seed each.

    Its error is that of the groups' means, pooled over the groups; the line need not fit. Values that are not above 0
    have no logarithm, and no slope.
    """
    means = [mean(group, of) for group in groups]
    n, worst = min(m.n for m in means), max(means, key=lambda m: m.failed)
    if not all(m.log for m in means):
        why = "a slope of logarithms needs values above 0"
        return Estimate(math.nan, log=False, n=n, of=of, failed=worst.failed, why=why)
    bent = np.log(np.asarray(x, float))
    away = bent - bent.mean()
    weights = away / (away @ away)
    value = float(weights @ np.log([m.value for m in means]))
    if worst.failed:
        return Estimate(value, log=False, n=worst.n, of=of, failed=worst.failed, why=worst.why)
    if why := next((m.why for m in means if m.why and m.error != 0.0), ""):
        return Estimate(value, log=False, n=n, of=of, why=why)
    error, dof = combined([abs(w) * m.error for w, m in zip(weights, means)], [m.dof for m in means])
    return _unless_all_alike(Estimate(value, error, dof, False, n, of))


def not_beaten(arms: Sequence[Arm], over: Callable[[Arm, Arm], Estimate]) -> list[Arm]:
    """The arms than which no other is surely smaller: the smallest is among them in 95 % of studies.

    over   the ratio of one arm to another
    Every pair is compared, each by a t-test at 5 % over the number of others, so that the smallest is beaten by chance
    in 5 % at most.
    """

    def beaten(arm, other):
        return over(arm, other).p_above(1.0) < (1.0 - LEVEL) / (len(arms) - 1)

    return [arm for arm in arms if not any(beaten(arm, other) for other in arms if other is not arm)]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of one family of tests, corrected so that none of them is below 0.05 by chance in 95 % of families.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure". A nan stays one, and is none of the family.
    """
    known = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    corrected, least = [math.nan] * len(p_values), 0.0
    for rank, (p, k) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[k] = least
    return corrected
