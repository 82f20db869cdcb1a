"""Sentences that say what intervals say, and no more."""

import math

from allgrad.launch.study.intervals import Estimate

MARGIN = 0.05  # up to which two numbers are called equal, as a share


def number(value: float, digits=3) -> str:
    """A number as a person reads it: so many digits, thousands apart."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if abs(value) >= 10 ** (digits - 1):
        return f"{round(value):,}" if abs(value) < 1e9 else f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


def with_interval(e: Estimate, digits=3) -> str:
    """ "107 [80, 143]"; without an interval the number and why: "107 (no interval: 2 of 5 seeds failed)"."""
    if not e.known:
        return f"{number(e.value, digits)} (no interval{f': {e.why}' * bool(e.why)})"
    return f"{number(e.value, digits)} [{number(e.low, digits)}, {number(e.high, digits)}]"


def compared(ratio: Estimate, more="more", less="less", margin=MARGIN) -> str:
    """What a ratio says: "equal within 5 %", "12 to 30 % more", "between 3 % less and 12 % more", "2 to 4 times".

    Equal: the whole interval is at most `margin` from 1. More or less: the whole interval is on one side of it. What
    has the interval of a difference is not compared.
    """
    if not ratio.known:
        return f"not compared ({ratio.why or 'no interval'})"
    if not (ratio.log and ratio.value > 0.0):
        return f"not compared ({with_interval(ratio)} is a difference, and no ratio)"
    low, high = ratio.low, ratio.high
    if 1.0 / (1.0 + margin) <= low and high <= 1.0 + margin:
        return f"equal within {margin:.0%}".replace("%", " %")
    if low > 1.0:
        return f"{_span(number(low), number(high))} times" if low >= 2.0 else f"{_percents(low, high)} {more}"
    if high < 1.0:
        return f"{_percents(high, low)} {less}"
    return f"between {_percent(low)} % {less} and {_percent(high)} % {more}"


def _percents(near, far):
    return f"{_span(_percent(near), _percent(far))} %"


def _span(near, far):
    return near if near == far else f"{near} to {far}"


def _percent(ratio):
    """How far a ratio is from 1, in percent; less than a hundredth is 0."""
    away = 100.0 * abs(ratio - 1.0)
    return number(away, 2) if away >= 0.01 else "0"
