"""Confidence intervals of a noise scale, tr(Sigma) / |G|^2, that hold the truth as often as they say.

Three things make the textbook's interval too narrow, and each has its remedy here.

- Steps of a run are not independent, for they share the weights. The variance of a mean over steps is therefore taken
  from slow contrasts, cosines in time, with Student's t on their number: Lazarus, Lewis, Stock and Watson 2018, "HAR
  Inference: Recommendations for Practice". Scatter that persists over some steps shows in these as it does in the mean.
- A drift is no scatter: the contrasts are blind to an exponential trend, and made for scatter that grows or shrinks.
- The trace is a mean of squares, and a few samples with large gradients may carry most of it. Nothing bounds it from
  above where such samples may not have been drawn yet: then the upper end is inf, and the lower one alone is at 95 %.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95  # of confidence
STEPS_A_CONTRAST = 50  # of a run, so that scatter that persists as e^(-steps / 5) is in the contrasts as in the mean
LEAST_CONTRASTS = 2
SAMPLES = 1000  # if half of the trace comes from 1 sample in 200, all of these miss it with a probability of 0.7 %
PARTS = 100  # steps or micro-batches, whose scatter shows a tail
ERROR = 0.1  # largest relative standard error of a trace, beyond which the mean of a skewed number is no normal one


@functools.lru_cache(16)
def student(degrees, level):
    """The quantile of Student's t, with a whole number of degrees of freedom, below which a part `level` >= 0.5 lies.

    t = sqrt(degrees) tan(a), where the density of the angle a goes as cos(a)^(degrees - 1). SciPy has this too, but
    would take a sixth of a second to import in the middle of a run.
    """
    odd, a = degrees % 2, 0.0
    for _ in range(50):  # of Newton's steps; all are upwards, for the density falls
        power, whole = (0, math.pi / 2.0) if odd else (1, 1.0)
        part = a if odd else math.sin(a)  # the integral of cos^power from 0 to a, and whole that to pi / 2
        while power < degrees - 1:
            power += 2
            part = (math.cos(a) ** (power - 1) * math.sin(a) + (power - 1) * part) / power
            whole *= (power - 1) / power
        step = ((2.0 * level - 1.0) * whole - part) / math.cos(a) ** power
        a += step
        if step < 1e-15:
            break
    return math.sqrt(degrees) * math.tan(a)


def fieller(x, y, covariance, t):
    """Fieller's confidence interval (low, high) of E[x] / E[y] (1954, "Some Problems in Interval Estimation").

    Neither E[x] nor E[y] can be below 0: a mean y that is counts as 0, and so does an end of the interval.
    covariance is (v_xx, v_xy, v_yy) of the means x and y. With the quantile t, the set of all r with

        (x - r y)^2 <= t^2 (v_xx - 2 r v_xy + r^2 v_yy)

    is an interval if y is significant, and else what is outside of one, or everything.
    """
    y = max(y, 0.0)
    xx, xy, yy = (t * t * v for v in covariance)
    a, b, c = y * y - yy, x * y - xy, x * x - xx  # the set is a r^2 - 2 b r + c <= 0
    root = b * b - a * c
    if root < 0.0 or (a <= 0.0 and c <= 0.0):
        return 0.0, math.inf
    q = b + math.copysign(math.sqrt(root), b)  # the roots are q / a and c / q, without cancellation
    low, high = sorted((q / a if a else -math.copysign(math.inf, q), c / q if q else 0.0))
    if a <= 0.0:
        low, high = high, math.inf
    estimate = x / y if y > 0.0 else low
    return max(min(low, estimate), 0.0), max(high, estimate)  # whatever rounding has done to equal steps


def skewness(values):
    """Of numbers whose mean is 0; 0 where all are alike."""
    squared = float(np.mean(values * values))
    return float(np.mean(values**3)) / squared**1.5 if squared > 0.0 else 0.0


def too_few(samples):
    """Why so many samples give a trace no upper bound, or None if they do."""
    if samples >= SAMPLES:
        return None
    return f"{samples:,.0f} samples may miss rare ones with large gradients: an upper end takes {SAMPLES:,}"


def tail(scatter, error, parts):
    """Why independent parts of a sample give a trace no upper bound, or None if they do.

    scatter  of the trace over the parts, less its mean and relative to it: (number,)
    error    the relative standard error of the trace
    parts    what they are called

    A sum of squares of Gaussians is no more skewed than twice its coefficient of variation, as chi squared is.
    """
    n = len(scatter)
    if n < PARTS:
        return f"{n:,} {parts} cannot show how heavy the tail of the noise is: an upper end takes {PARTS:,}"
    if error > ERROR:
        return f"the trace of the noise is known to {error:.0%} only: an upper end takes {ERROR:.0%}"
    if skewness(scatter) > 2.0 * float(np.std(scatter)) + 2.0 * math.sqrt(6.0 / n):
        return "the noise has a tail heavier than a Gaussian's, and what of it was not drawn is not known"
    return None


def of_parts(x, y, pseudo, samples, parts):
    """(interval, why its upper end is not known or None) of E[x] / E[y] from the jackknife over independent parts.

    pseudo   the pseudo-values of x and y (Miller 1974, "The Jackknife: A Review"): (parts, 2)
    samples  in all parts
    parts    what they are called

    The quantiles are those of a skewed mean: Hall 1992, "On the Removal of Skewness by Transformation". Half as much is
    done for skewness where there is no upper end, for a few samples then decide how large it is.
    """
    n, centered = len(pseudo), pseudo - pseudo.mean(0)
    xx, xy, _, yy = (centered.T @ centered / (n * (n - 1.0))).ravel().tolist()
    why = too_few(samples) or (tail(centered[:, 0] / x, math.sqrt(xx) / x, parts) if x > 0.0 else None)
    t = student(n - 1.0, LEVEL if why else 0.5 + LEVEL / 2.0)
    ratio = x / y if y > 0.0 else 0.0
    shift = skewness(centered @ [1.0, -ratio]) * (2.0 * t * t + 1.0) / (6.0 * math.sqrt(n))
    shift = max(-t / 2.0, min(shift / 2.0 if why else shift, t / 2.0))
    low, high = (fieller(x, y, (xx, xy, yy), q)[end] for end, q in enumerate((t - shift, t + shift)))
    return (low, math.inf if why else high), why


# --- steps of a run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """What steps in their order say of the errors of their weighted means.

    covariance  (v_xx, v_xy, v_yy) of the weighted means of x and y
    degrees     of freedom it has
    drift       (rate, standard error) of the exponential trend of x / y, for one step; None where y has none
    """

    covariance: tuple[float, float, float]
    degrees: int
    drift: tuple[float, float] | None


def course(pairs, decay) -> Course | None:
    """The `Course` of steps (x, y), whose weights fall by `decay` with each later one; None of too few: (steps, 2).

    A step x is modelled as f e^(b i) + g e^(c i) noise, and y as well with rates of its own, which are 0 unless
    they are significant. The contrasts do not see the first term, nor a change of f that is linear in time.
    """
    n = len(pairs)
    count = n // STEPS_A_CONTRAST
    if count < LEAST_CONTRASTS:
        return None
    i = np.arange(1.0 - n, 1.0)
    weights, rate = np.power(decay, -i), -math.log(decay) if decay else math.inf
    total = float(weights.sum())
    scaled, shares, trends = [], [], []
    columns = {}  # {(k, rate): i^k e^(rate i)}, which x and y may share
    for values in np.ascontiguousarray(pairs.T):
        trends.append(trend(values))
        b = _significant(trends[-1], count)
        level = np.exp(b * i)
        c = _significant(trend(np.abs(values - level * ((level @ values) / (level @ level)))), count)
        size = np.exp(c * i)
        scaled.append(values / size)
        shares.append(weights * size / total)
        columns |= {(0, b - c): level / size, (1, b - c): i * level / size, (0, c + rate): weights * size}
    found, shares = seen([*columns.values()], count, scaled), np.array(shares)
    xx, xy, _, yy = (found @ found.T / count * (shares @ shares.T)).ravel().tolist()
    drift = None
    if all(trends):
        (bx, ux), (by, uy) = trends
        drift = bx - by, _error_of_rate(ux - uy, count)
    return Course((xx, xy, yy), count, drift)


def trend(values):
    """(b, values e^(-b i) over their mean) of an exponential trend b: sum (i - mean i) v_i e^(-b i) = 0; or None."""
    powers = _powers(len(values))
    b, most, flat = 0.0, 20.0 / len(values), values  # e^20 from one end to the other
    for _ in range(50):
        error, slope = (powers @ flat).tolist()
        if slope <= 0.0:
            return None
        step = error / slope
        if abs(step) < 1e-9:
            break
        b += max(-most / 4.0, min(step, most / 4.0))
        if abs(b) > most:
            return None
        flat = values * np.exp(-b * powers[0])
    mean = float(flat.sum()) / len(flat)
    return (b, flat / mean) if mean > 0.0 else None


@functools.lru_cache(4)
def _powers(n):
    """i and i^2 of n steps i, counted from the middle: (2, n)."""
    i = np.arange(n) - (n - 1) / 2.0
    return np.stack([i, i * i])


def _error_of_rate(flat, count):
    """The standard error of a trend, from what is left when it is divided out."""
    n = len(flat)
    found = flat @ _after_a_line(n, count)
    return math.sqrt(float(found @ found) / count * 12.0 / (n * (n * n - 1.0)))


@functools.lru_cache(4)
def _after_a_line(n, count):
    """The contrasts that see neither a constant nor a slope."""
    return contrasts([np.ones(n), _powers(n)[0]], count)


def _significant(found, count):
    """The rate of a trend, and 0 unless it is significant."""
    if found is None:
        return 0.0
    rate, flat = found
    return rate if abs(rate) > student(count, 0.5 + LEVEL / 2.0) * _error_of_rate(flat, count) else 0.0


def contrasts(columns, count):
    """Orthonormal combinations of steps, cosines in time that are orthogonal to these columns: (steps, count)."""
    rows = np.concatenate([columns, _cosines(len(columns[0]), count)])
    return np.linalg.qr(rows.T)[0][:, len(columns) :]


def seen(columns, count, values):
    """values @ contrasts(columns, count), up to the contrasts' signs, in half the time: (series, count)."""
    k = len(columns)
    rows = np.concatenate([columns, _cosines(len(columns[0]), count), values])
    return np.linalg.qr(rows.T, mode="raw")[0][k + count :, k : k + count]  # of R^T, where rows = R^T Q^T


@functools.lru_cache(4)
def _cosines(n, count):
    """Of 1/2 to count / 2 turns in n steps: (count, n)."""
    return np.cos(np.outer(np.arange(1, count + 1), math.pi * (np.arange(n) + 0.5) / n))
