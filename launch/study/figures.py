"""The house style of figures: a column of a paper wide, legible in black and white, the same bytes for the same data.

Draw the data first, then guides, bands and failures, which look at the limits of the axes; the legend last. Series
are numbered: number i has colour, marker and dashes of its own. Values that are None or not finite are gaps.
"""

import contextlib
import math
from itertools import pairwise

import numpy as np

from allgrad.ddp.errors import ConfigurationError

COLUMN, PAGE = 3.4, 7.0  # inches: the width of one column of a paper, and of two
SMALL = 7  # points, the size of all words
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"  # Okabe and Ito 2008, no yellow
MARKERS = "o", "s", "^", "D", "v", "<", ">"
DASHES = "-", *((0, on_off) for on_off in (
    (5, 1.5), (1, 1), (5, 1.5, 1, 1.5), (5, 1.5, 1, 1.5, 1, 1.5), (2, 1.5), (9, 2),
))  # fmt: skip
NAME = "name-of-a-point"  # marks the words that `save` moves to where there is room
GREY = "#555555"  # of guides and of what stands beside the data
INK, GRID = "#1a1a1a", "#dddddd"
STYLE = {  # in DejaVu Sans, which comes with matplotlib, so that figures are the same on all machines
    "axes.axisbelow": True, "axes.edgecolor": INK, "axes.grid": True, "axes.labelcolor": INK, "axes.labelpad": 2.5,
    "axes.labelsize": SMALL + 1,
    "axes.linewidth": 0.6, "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": SMALL + 1,
    "figure.facecolor": "white", "font.family": "DejaVu Sans", "font.size": SMALL, "grid.color": GRID,
    "grid.linewidth": 0.4, "legend.fontsize": SMALL, "legend.frameon": False, "lines.linewidth": 1.2,
    "lines.markersize": 4, "svg.fonttype": "path", "svg.hashsalt": "allgrad", "text.color": INK,
    "xtick.color": INK, "xtick.labelsize": SMALL, "ytick.color": INK,
    "xtick.major.width": 0.6, "ytick.labelsize": SMALL, "ytick.major.width": 0.6,
    "xtick.minor.pad": 5.0, "ytick.minor.pad": 5.0,  # as far from the axis as those of the longer major ticks
}  # fmt: skip


@contextlib.contextmanager
def style():
    """The settings of matplotlib with which a figure is drawn and saved; they are what they were afterwards."""
    try:
        from matplotlib.style import context
    except ModuleNotFoundError:
        raise ConfigurationError("matplotlib draws the figures and is not here: pip install 'allgrad[study]'") from None
    with context(["default", STYLE]):  # whatever the settings of the user
        yield


def new(rows=1, columns=1, width=COLUMN, height=None, x=None, y=None, **options):
    """A figure and its axes (an array if there are several), lettered (a), (b), ...; options as in Figure.subplots.

    width, height: inches; without a height, axes are as high as looks well. x, y: `batches` or `logarithmic`, of all.
    """
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height or rows * 0.68 * min(width / columns, COLUMN)), layout="constrained")
        axes = figure.subplots(rows, columns, **options)
        every = np.ravel(axes).tolist()
        for scale, axis in [(x, panel.xaxis) for panel in every] + [(y, panel.yaxis) for panel in every]:
            if scale is not None:
                scale(axis)
        for letter, panel in zip("abcdefghijkl", every if len(every) > 1 else ()):
            place = {"xycoords": "axes fraction", "xytext": (-26, 8), "textcoords": "offset points"}
            panel.annotate(f"({letter})", (0, 1), **place, fontsize=SMALL + 1, fontweight="bold")
    return figure, axes


def batches(axis):
    """An axis in powers of two, of batch sizes or ranks: labels are whole numbers, as many as there is room for."""

    def label(value, _):
        low, high = axis.get_view_interval()
        if not 0.0 < low <= high < math.inf:
            return ""
        wide = 0.6 * len(f"{high:.0f}") + 0.5 if axis.axis_name == "x" else 1.6
        room = 72 * _inches(axis) / wide / SMALL
        every = max(1, math.ceil((math.log2(high) - math.log2(low)) / room))
        return f"{value:.0f}" if value >= 1 and round(math.log2(value)) % every == 0 else ""

    from matplotlib.ticker import LogLocator

    _scale(axis, 2)
    axis.set_major_locator(LogLocator(base=2, numticks=100))
    axis.set_major_formatter(label)
    axis.minorticks_off()


def logarithmic(axis):
    """An axis in powers of ten: plain numbers where they are short, and 2 and 5 between them if it spans little."""

    def text(value):
        power = math.floor(math.log10(value) + 1e-9)
        if -4 < power < 6:
            return f"{value:,.6g}"
        digit = round(value / 10.0**power)
        return f"$10^{{{power}}}$" if digit == 1 else f"${digit}\\times10^{{{power}}}$"

    def between(value, _):
        low, high = axis.get_view_interval()
        digit = round(value / 10.0 ** math.floor(math.log10(value) + 1e-9))
        return text(value) if high / low < 4 or (high / low < 100 and digit in (2, 5)) else ""

    _scale(axis, 10)
    axis.set_major_formatter(lambda value, _: text(value))
    axis.set_minor_formatter(between)


def points_with_interval(
    axes, x, y, low=None, high=None, i=0, label=None, hollow=(), join=False, x_low=None, x_high=None, names=()
):
    """Series i as markers with bars from low to high, and from x_low to x_high, and joined by a line if wanted.

    hollow: which markers are empty, such as a best learning rate that lies at the edge of its grid
    names: what stands at each point, such as its batch size where no axis has it; where there is no room, nothing does
    """
    x, y = _numbers(x), _numbers(y)
    color, marker, dashes = _look(i)
    if low is not None:
        axes.vlines(x, _numbers(low), _numbers(high), color=color, linewidth=1.0)
    if x_low is not None:
        axes.hlines(y, _numbers(x_low), _numbers(x_high), color=color, linewidth=1.0)
    common = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.1, "zorder": 2.5}
    axes.plot(x, y, linestyle=dashes if join else "none", label=label, **common)
    if any(hollow):
        empty = np.asarray(hollow, bool)
        axes.plot(x[empty], y[empty], **common | {"linestyle": "none", "markerfacecolor": "white", "zorder": 2.6})
    for name, here, level in zip(names, x, y):
        if np.isfinite(here) and np.isfinite(level):
            text = axes.annotate(
                f"{name}", (here, level), (0, 0), textcoords="offset points", color=color, fontsize=SMALL - 1,
                ha="center", va="center", zorder=3,
            )  # fmt: skip
            text.set_in_layout(False)
            text.set_gid(NAME)


def line_with_interval(axes, x, y, low=None, high=None, i=0, label=None):
    """Series i as a curve in a shaded band from low to high: a fit, or a trace over steps."""
    color, _, dashes = _look(i)
    axes.plot(_numbers(x), _numbers(y), color=color, linestyle=dashes, linewidth=1.1, label=label)
    if low is not None:
        axes.fill_between(_numbers(x), _numbers(low), _numbers(high), color=color, alpha=0.2, linewidth=0)


def guide(axes, slope, through, label="", at=0.5, below=False):
    """A thin line y ~ x^slope through a point (x, y), across logarithmic axes as they are, with its label along it.

    at, below: where along the part that is seen the label stands, from 0 to 1, and on which side
    """
    from matplotlib.lines import Line2D

    ends, levels = np.array(axes.get_xlim()), np.array(axes.get_ylim())
    if min(*ends, *levels) <= 0:
        return  # there is nothing in the axes to be guided along
    x, y = through
    line = Line2D(ends, y * (ends / x) ** slope, color=GREY, linewidth=0.6, linestyle=(0, (4, 2)), zorder=1.5)
    axes.add_artist(line)  # and not add_line, which would widen the limits
    if slope:
        ends = np.sort(np.clip(x * (levels / y) ** (1 / slope), *np.sort(ends)))
    here = ends[0] * (ends[1] / ends[0]) ** at
    level = y * (here / x) ** slope
    turned = {"rotation": math.degrees(math.atan2(slope * level, here)), "transform_rotates_text": True}
    place = {"ha": "center", "va": "top" if below else "bottom", "rotation_mode": "anchor", "clip_on": True}
    axes.text(here, level, label, color=GREY, fontsize=SMALL - 0.5, **turned, **place)


def band(axes, low, high, label="", axis="y", i=None, value=None):
    """Shade from low to high across the axes (axis="y") or up the axes ("x"), with its label inside at the edge.

    value: where a line is drawn in it, the number whose interval it is. Without finite ends there is the line alone.
    """
    color = GREY if i is None else COLORS[i % len(COLORS)]
    span, line = (axes.axhspan, axes.axhline) if axis == "y" else (axes.axvspan, axes.axvline)
    ends = [end for end in (low, high, value) if end is not None and math.isfinite(end)]
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        span(low, high, color=color, alpha=0.18, linewidth=0, zorder=1)
    if value is not None and math.isfinite(value):
        line(value, color=color, linewidth=0.8, linestyle=(0, (6, 2)), zorder=1.6)
    if not ends or not label:
        return
    place = (0.02, max(ends)) if axis == "y" else (max(ends), 0.97)
    transform = axes.get_yaxis_transform() if axis == "y" else axes.get_xaxis_transform()
    turned = {"va": "bottom"} if axis == "y" else {"va": "top", "rotation": 90}
    text = axes.text(*place, label, transform=transform, color=color, fontsize=SMALL - 0.5, **turned)
    text.set_in_layout(False)


def second_scale(axis, factor, label):
    """A scale on the other side of an axis: `factor` of its label's units are one of the axis' own.

    Such as seconds, where every step (or every example) takes as long: second_scale(axes.xaxis, t_step, "seconds").
    """
    add = axis.axes.secondary_xaxis if axis.axis_name == "x" else axis.axes.secondary_yaxis
    second = add("top" if axis.axis_name == "x" else "right", functions=(lambda v: v * factor, lambda v: v / factor))
    getattr(second, f"set_{axis.axis_name}label")(label)
    if axis.get_scale() == "log":
        logarithmic(getattr(second, f"{axis.axis_name}axis"))
    getattr(second, f"{axis.axis_name}axis").grid(False)
    second.spines["top" if axis.axis_name == "x" else "right"].set_visible(True)


def failed(axes, x, i=0, row=0):
    """Runs of series i without a value (diverged, or never there) as crosses above the axes, in a row from 0 up."""
    x, color = _numbers(x), _look(i)[0]
    if not x.size:
        return
    level = 1 + (6 + 7 * row) / (72 * _inches(axes.yaxis))
    shared = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(x, np.full(x.shape, level), "x", color=color, markersize=4, markeredgewidth=1.1, **shared)
    if row == 0:
        place = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate("failed", (1, level), xycoords="axes fraction", color=GREY, fontsize=SMALL - 0.5, **place)


def legend(figure, columns=2):
    """The labels of all axes, each once, above them, in at most so many columns as there is room for."""
    named = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            named.setdefault(label, handle)
    for n in range(min(columns, len(named)), 0, -1):
        where = {"loc": "outside upper center", "ncols": n, "handlelength": 2.6}
        made = figure.legend(named.values(), named.keys(), fontsize=SMALL, frameon=False, columnspacing=1.2, **where)
        if n == 1 or made.get_window_extent().width <= figure.bbox.width:
            return
        made.remove()


def save(figure, stem):
    """Write STEM.png (200 dots an inch) and STEM.svg (letters as outlines), without dates; returns both paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if axis.get_scale() == "log" and min(getattr(axis.axes, f"get_{axis.axis_name}lim")()) <= 0:
            axis.axes.set(**{f"{axis.axis_name}lim": (1, 10)})  # without data there is nothing to have a logarithm of
            axis.set_ticks([])
            axis.set_ticks([], minor=True)
    _spread_names(figure)
    with style():
        figure.savefig(paths[0], dpi=200, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def _spread_names(figure):
    """Put each name beside its point, where it covers no point, no line and no other name; without room, nowhere."""
    if not any(text.get_gid() == NAME for axes in figure.axes for text in axes.texts):
        return
    with style():
        figure.draw_without_rendering()
        dot = figure.dpi / 72  # in pixels
        for axes in figure.axes:
            names = [text for text in axes.texts if text.get_gid() == NAME]
            taken = np.concatenate([_outline(line) for line in axes.lines] + [_outline(c) for c in axes.collections])
            room, placed = axes.get_window_extent(), []
            for text in names:
                text.set_gid(None)
                box = text.get_window_extent()
                half, x, y = np.array([box.width, box.height]) / 2, *axes.transData.transform(text.xy)
                for away in (1.0, 2.2):
                    found = [
                        (cx, cy)
                        for angle in (90, -90, 0, 180, 45, -45, 135, -135)
                        for cx, cy in [_beside(x, y, half, angle, 3.5 * dot * away)]
                        if not _covers(cx, cy, half, taken, dot)
                        and not any(np.all(np.abs([cx - a, cy - b]) < half + other) for a, b, other in placed)
                        and room.x0 <= cx - half[0] <= cx + half[0] <= room.x1 + 8 * dot
                        and room.y0 <= cy - half[1] <= cy + half[1] <= room.y1 + 4 * dot
                    ]
                    if found:
                        break
                if found:
                    text.set_position(((found[0][0] - x) / dot, (found[0][1] - y) / dot))
                    placed.append((*found[0], half))
                else:
                    text.set_visible(False)


def _beside(x, y, half, angle, away):
    """The middle of a box whose edge is `away` from a point, in a direction (degrees)."""
    turned = math.radians(angle)
    right, up = round(math.cos(turned)), round(math.sin(turned))
    shorter = 0.75 if right and up else 1.0
    return x + right * (half[0] + away * shorter), y + up * (half[1] + away * shorter)


def _covers(x, y, half, points, dot):
    """Whether a box around (x, y) covers one of the points, or comes nearer than a dot."""
    return bool(len(points)) and bool(np.any(np.all(np.abs(points - (x, y)) < half + 1.2 * dot, axis=1)))


def _outline(artist):
    """Points along a line, along bars, or at markers, in pixels, no farther apart than 3."""
    if hasattr(artist, "get_segments"):
        paths = artist.get_segments()
    elif hasattr(artist, "get_xydata"):
        joined = artist.get_linestyle() not in ("None", "none", "", " ")
        paths = [artist.get_xydata()] if joined else artist.get_xydata()[:, None]
    else:
        paths = []
    found = [np.empty((0, 2))]
    for path in paths:
        path = np.reshape(path, (-1, 2))
        pixels = artist.get_transform().transform(path[np.isfinite(path).all(axis=1)])
        found += [pixels, *(np.linspace(a, b, 2 + int(np.hypot(*(b - a)) // 3)) for a, b in pairwise(pixels))]
    return np.concatenate(found)


def _numbers(values):
    """Floats, nan for None and for what is not finite."""
    numbers = np.array([math.nan if value is None else value for value in values], float)
    return np.where(np.isfinite(numbers), numbers, math.nan)


def _look(i):
    return COLORS[i % len(COLORS)], MARKERS[(i + i // len(COLORS)) % len(MARKERS)], DASHES[i % len(DASHES)]


def _scale(axis, base):
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", base=base)


def _inches(axis):
    """How long an axis is, about: before the layout is known, on the drawing and not on the dots of a device."""
    box = axis.axes.get_position()
    width, height = axis.axes.figure.get_size_inches()
    return max(box.width * width if axis.axis_name == "x" else box.height * height, 0.1)
