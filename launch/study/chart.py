"""A small chart as SVG, from numbers alone: for a page that is drawn anew every few seconds."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 50  # margins
SERIES = 7  # that have a colour of their own: classes c0 to c6 of the page's style sheet
MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-3.6,-3.6h7.2v7.2h-7.2z", "M0,-4.8L4.4,3.4H-4.4z", "M0,-5L5,0L0,5L-5,0z",
    "M0,4.8L4.4,-3.4H-4.4z", "M-4.6,0L3.4,-4.4V4.4z", "M4.6,0L-3.4,-4.4V4.4z",
)  # fmt: skip


class Point(NamedTuple):
    """A value with its least and most over seeds; hollow: of few seeds yet."""

    x: float
    y: float
    low: float
    high: float
    hollow: bool


def steps_against_batch(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """An SVG element: both axes logarithmic, a line with marks for each series, and a dashed one of y x = constant.

    All numbers are above 0. Empty if there is no point. Colours are those of the page it is put into.
    """
    points = [point for found in series.values() for point in found]
    if not points:
        return ""
    x_low, x_high = _widened(min(p.x for p in points), max(p.x for p in points), 1.15)
    y_low, y_high = _widened(min(p.low for p in points), max(p.high for p in points), 1.25)

    def across(x):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / x_low) / math.log(x_high / x_low)

    def up(y):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / y_low) / math.log(y_high / y_low)

    bottom = HEIGHT - BOTTOM
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} against {escape(x_label)}">',
        f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{WIDTH - RIGHT}"/>',
    ]
    for y in _round_numbers(y_low, y_high):
        parts.append(f'<path class="grid" d="M{LEFT},{up(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    batches = sorted({p.x for p in points})
    for x in batches[:: math.ceil(len(batches) / 11)]:
        parts.append(f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text transform="translate(15,{middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    first = min(points)
    end = min(x_high, first.x * first.y / y_low)
    if end > first.x:
        ideal = first.x * first.y / end
        parts.append(
            f'<path class="ideal" d="M{across(first.x):.1f},{up(first.y):.1f}L{across(end):.1f},{up(ideal):.1f}"/>'
        )
    for i, (name, found) in enumerate(series.items()):
        line = "L".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in found)
        parts.append(f'<g class="c{i % SERIES}"><path class="line" d="M{line}"/>')
        for p in found:
            at = f"{across(p.x):.1f}"
            parts.append(f'<path class="bar" d="M{at},{up(p.low):.1f}V{up(p.high):.1f}"/>')
            said = f"{name}, {x_label} {p.x:g}: {p.y:.4g} ({p.low:.4g} to {p.high:.4g})"
            parts.append(
                f'<path class="mark{" hollow" * p.hollow}" transform="translate({at},{up(p.y):.1f})" '
                f'd="{MARKS[i % SERIES]}"><title>{escape(said)}</title></path>'
            )
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def legend(names: Sequence[str]) -> str:
    """The marks of series and what they are called, as HTML."""
    spans = [
        f'<span class="c{i % SERIES}"><svg viewBox="-8 -8 16 16"><path class="mark" d="{MARKS[i % SERIES]}"/></svg>'
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    ]
    return f'<p class="legend">{" ".join(spans)}</p>'


def _widened(low, high, factor):
    """The ends of an axis, with room around the points, and for a single one too."""
    return (low / factor, high * factor) if high > low else (low / 2.0, high * 2.0)


def _round_numbers(low, high):
    """1, 2 and 5 times powers of ten, or the powers alone if those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [n * 10.0**power for power in powers for n in digits if low <= n * 10.0**power <= high]
