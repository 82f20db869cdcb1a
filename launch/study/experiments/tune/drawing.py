"""The figures of a search: its trials, how much each hyper-parameter matters, and the levels of successive halving."""

import math

import numpy as np

from allgrad.launch.study import figures, intervals
from allgrad.launch.study.result import Figure


def pictures(setting, tried, levels, scores, finalists, groups, compared, matter, order):
    budget = setting.equal if len(levels) == 1 else f"the first level of {setting.equal}"
    found = [
        Figure("trials", f"The {setting.measured} against each hyper-parameter: a point is a trial, bars are geometric "
               f"means of groups with 95 % intervals, the ring is the winner, crosses have failed. Budget: {budget}.",
               lambda: _draw_trials(setting, tried, finalists, groups, compared)),
        Figure("importance", f"Share of the variance of {setting.compared} that each hyper-parameter explains by "
               f"itself, with 95 % intervals; ticks: what chance exceeds in 1 of 20 cases. Budget: {budget}.",
               lambda: _draw_importance(matter, order)),
    ]  # fmt: skip
    if all(math.isnan(one.share) for one in matter.values()):
        del found[1]
    if len(levels) > 1:
        found.append(
            Figure("rungs", f"Successive halving: the {setting.measured} of each trial at its levels; those that went "
                   f"on are joined. Budget: up to {setting.equal}.",
                   lambda: _draw_rungs(setting, levels, scores, finalists))
        )  # fmt: skip
    return found


def _draw_trials(setting, tried, finalists, groups, compared):
    names = list(groups)
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure, panels = figures.new(rows, columns, figures.PAGE, rows * 1.75, sharey=True)
    panels = np.ravel(panels)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
        for text in panel.texts:
            text.set_visible(False)
    for name, axes in zip(names, panels):
        dimension, (group, labels) = setting.space[name], groups[name]
        places, ends = _places(dimension, tried, group)
        if setting.positive:
            figures.logarithmic(axes.yaxis)
        if not dimension.choices and dimension.scale == "log":
            figures.logarithmic(axes.xaxis)
        good = [(x, setting.back(y)) for x, y in zip(places, compared) if x is not None and math.isfinite(y)]
        if good:
            axes.plot(*zip(*good), ".", color=figures.GREY, markersize=3, alpha=0.6, zorder=2)
        for i in range(len(labels)):
            values = [setting.back(y) for g, y in zip(group, compared) if g == i and math.isfinite(y)]
            if values:
                mean = intervals.mean(values, "trials")
                axes.fill_between(ends[i], mean.low, mean.high, color=figures.COLORS[0], alpha=0.25, linewidth=0)
                axes.plot(ends[i], [mean.value] * 2, color=figures.COLORS[0], linewidth=1.4)
        k = finalists["winner"]
        if places[k] is not None:
            look = {"color": figures.COLORS[1], "markersize": 7, "markerfacecolor": "none"}
            axes.plot(places[k], setting.back(compared[k]), "o", **look)
        if dimension.choices:
            turned = {"rotation": 30, "ha": "right"} if sum(map(len, labels)) > 13 else {}
            axes.set_xticks(range(len(labels)), labels, **turned)
            axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_xlabel(name.replace("_", " "))
        figures.failed(axes, [x for x, y in zip(places, compared) if x is not None and not math.isfinite(y)])
    for axes in panels[::columns]:
        axes.set_ylabel(setting.measured)
    return figure


def _places(dimension, tried, group):
    """Where the trials stand on the axis of a hyper-parameter, None where it does not apply; and the groups' ends."""
    if dimension.choices:
        shift = [0.3 * (2.0 * ((k * 0.618) % 1.0) - 1.0) for k in range(len(tried))]  # so that points do not hide
        places = [None if g is None else g + s for g, s in zip(group, shift)]
        return places, [(i - 0.35, i + 0.35) for i in range(len(dimension.choices))]
    places = [trial.values.get(dimension.name) for trial in tried]
    last = max((g for g in group if g is not None), default=-1)
    grouped = [[x for x, g in zip(places, group) if g == i] for i in range(1 + last)]
    return places, [(min(found), max(found)) if found else (math.nan, math.nan) for found in grouped]


def _draw_importance(matter, order):
    figure, axes = figures.new(height=0.5 + 0.25 * max(len(order), 3))
    known = [name for name in order if math.isfinite(matter[name].share)]
    for i, name in enumerate(reversed(known)):
        found = matter[name]
        axes.barh(i, 100 * found.share, color=figures.COLORS[0], height=0.6, alpha=0.8)
        axes.hlines(i, 100 * found.low, 100 * found.high, color="black", linewidth=1.0)
        axes.vlines(100 * found.chance, i - 0.38, i + 0.38, color=figures.COLORS[1], linewidth=1.2)
    axes.set_yticks(range(len(known)), [name.replace("_", " ") for name in reversed(known)])
    axes.set(xlabel="share of the variance (%)", ylabel="hyper-parameter", xlim=(0, None))
    axes.grid(visible=False, axis="y")
    return figure


def _draw_rungs(setting, levels, scores, finalists):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic if setting.positive else None)
    shares = [1.0 / level.divisor for level in levels]
    for k in scores[0]:
        curve = [found[k] for found in scores if k in found and math.isfinite(found[k])]
        look = {"color": figures.COLORS[1], "zorder": 3} if k == finalists["winner"] else {"color": figures.GREY}
        axes.plot(shares[: len(curve)], curve, marker=".", markersize=3, linewidth=0.6, alpha=0.7, **look)
    amount = setting.budget if isinstance(setting.budget, str) else f"{setting.budget} steps"
    axes.set(xlabel=f"share of the budget of {amount}", ylabel=setting.measured)
    figures.failed(axes, [shares[i] for i, found in enumerate(scores) if not all(map(math.isfinite, found.values()))])
    return figure
