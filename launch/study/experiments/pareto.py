"""What does it cost to be faster? Seconds and ranks to a target, from the steps to it and the costs of a step.

T(B, W) = S(B) (c_W + d B / W) seconds on W ranks cost W T rank-seconds. On the Pareto front are the numbers of ranks
and batch sizes that no other beats in both; with S(B) = S_min (1 + B_crit / B), the batch of W ranks on it is that of
the least time, B* = sqrt(B_crit c_W W / d), where T = S_min (sqrt(c_W) + sqrt(B_crit d / W))^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from allgrad.launch.study import figures
from allgrad.launch.study.costs.drawn import DRAWS, Drawn, columns, drawn
from allgrad.launch.study.costs.projection import Uncertain, ratio
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.experiments.project import extrapolation, findings
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import MARGIN, compared, number, with_interval

GRIDS = {"quick": {}, "full": {}}  # what is timed, and how long, is that of `project`
AROUND = 2  # doublings around the best batch of W ranks that are shown
HOUR = 3600.0
WHO = {"cheapest": "the least rank-seconds", "knee": "the least product of seconds and rank-seconds", "fastest": "the "
       "least seconds"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Point:
    """A number of ranks with a batch size: seconds to the target, and what they cost in rank-seconds."""

    W: int
    B: int
    seconds: Drawn

    @cached_property
    def cost(self) -> Drawn:
        return self.seconds.times(float(self.W))

    @property
    def words(self) -> str:
        return f"W = {self.W:,}, B = {self.B:,}"


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, net: str | None = None, compute: tuple[float, float] | None = None,
    size: int | None = None, s_min=None, b_crit=None, optimizers=("sgd",), algorithm="best", max_ranks=4096,
    price: float | None = None, launcher: str | None = None,
) -> Result:  # fmt: skip
    """The Pareto front of powers of two of ranks, at most `max_ranks`, and batch sizes.

    price: of a rank and hour, in any currency. The other options are those of `study project`.
    """
    (optimizer,) = optimizers
    found = extrapolation.projected(
        lab, work, preset, net=net, compute=compute, size=size, s_min=s_min, b_crit=b_crit, optimizer=optimizer,
        algorithm=algorithm, max_ranks=max_ranks, launcher=launcher,
    )  # fmt: skip
    every = points(found.model, max_ranks)
    return summarize(work, found, every, front(every), max_ranks, price)


def points(model: Uncertain, max_ranks: int) -> list[Point]:
    """For each number of ranks its best batch and its neighbours."""
    found = []
    for W in model.ranks(max_ranks):
        batches, (best, _) = model.at.batches(W), model.at.best(W)
        k = batches.index(best)
        found += [Point(W, B, model.time(B, W)) for B in batches[max(0, k - AROUND) : k + AROUND + 1]]
    return found


def front(every: Sequence[Point]) -> list[Point]:
    """The points that no other beats in seconds and in cost, by their medians: from the cheapest to the fastest."""
    kept: list[Point] = []
    for one in sorted(every, key=lambda p: (p.cost.value, p.seconds.value)):
        if not kept or one.seconds.value < kept[-1].seconds.value:
            kept.append(one)
    return kept


def on_front(every: Sequence[Point]) -> list[float]:
    """In which share of the draws each point is on the front."""
    seconds, cost = (np.array([getattr(p, name).draws for p in every]) for name in ("seconds", "cost"))
    shares = []
    for k in range(len(every)):
        no_worse = (seconds <= seconds[k]) & (cost <= cost[k])
        better = no_worse & ((seconds < seconds[k]) | (cost < cost[k]))
        shares.append(float(1.0 - better.any(axis=0).mean()))
    return shares


def knee(chosen: Sequence[Point]) -> Point:
    """Where a per cent of time costs a per cent of rank-seconds: the least product of both."""
    return min(chosen, key=lambda p: p.seconds.value * p.cost.value)


def picked(chosen: Sequence[Point]) -> dict[str, Point]:
    """The cheapest, the knee and the fastest of a front."""
    return {"cheapest": chosen[0], "knee": knee(chosen), "fastest": chosen[-1]}


def best_ranks(chosen: Sequence[Point], name: str) -> Drawn:
    """How many ranks the cheapest, the knee or the fastest of the front has: of each draw."""
    seconds, cost = (np.array([getattr(p, key).draws for p in chosen]) for key in ("seconds", "cost"))
    least = {"cheapest": cost, "knee": seconds * cost, "fastest": seconds}[name]
    return drawn(np.array([p.W for p in chosen])[least.argmin(axis=0)], chosen[0].seconds.why)


def told_apart(first: Point, second: Point) -> bool:
    """Whether the second point is surely sooner, and surely dearer, than the first."""
    return bool(ratio(second.seconds, first.seconds).high < 1.0 < ratio(second.cost, first.cost).low)


def summarize(work, found, every, chosen, max_ranks, price) -> Result:
    model = found.model
    rows = [
        {"W": p.W, "B": p.B, **columns("seconds", p.seconds), **columns("rank_seconds", p.cost),
         **(columns("money", p.cost.times(price / HOUR)) if price else {}), "front": p in chosen, "on_front": share,
         "beyond": model.at.target.beyond(p.B), "extrapolation": max(1.0, p.W / model.seen)}
        for p, share in zip(every, on_front(every))
    ]  # fmt: skip
    meanings = {
        "B": "global batch size (examples)", "seconds": "time to the target (s)",
        "rank_seconds": "ranks times seconds (s)",
        "rank_hours": "ranks times hours (h)", "money": "rank-hours times --price",
        "front": "whether no other point is sooner and cheaper",
        "on_front": "share of the draws in which it is on the front",
        "beyond": "whether B lies outside of the batches whose steps were measured", "extrapolation": "W / ranks timed",
    }  # fmt: skip
    table = Table(
        "pareto", list(rows[0]), rows,
        f"A {findings.WATERMARK}: for each number of ranks the best batch and its neighbours; medians and 95 % "
        f"intervals of {DRAWS:,} draws.", meanings,
    )  # fmt: skip
    hours = chosen[0].cost.value >= 0.01 * HOUR
    named = "rank_hours" if hours else "rank_seconds"
    rows = [
        {"setting": name, "W": p.W, "B": p.B, **columns("seconds", p.seconds),
         **columns(named, p.cost.times(1.0 / HOUR if hours else 1.0)),
         **(columns("money", p.cost.times(price / HOUR)) if price else {})}
        for name, p in picked(chosen).items()
    ]  # fmt: skip
    summary = Table(
        "summary", list(rows[0]), rows, f"A {findings.WATERMARK}; 95 % intervals.",
        {**meanings, "setting": "; ".join(f"{name}: {what}" for name, what in WHO.items())},
    )  # fmt: skip
    front_rows = [{"W": p.W, "B*": p.B, "beyond": model.at.target.beyond(p.B)} for p in chosen]
    return Result(
        "pareto", "What does it cost to reach the target sooner?", _headline(found, chosen, price), [], [table],
        [Figure("pareto", _caption(chosen, price), lambda: draw(every, chosen, price))], summary,
        _findings(found, every, chosen), found.methods, findings.notes(work, found, front_rows, every[-1].W, max_ranks),
    )  # fmt: skip


def _price(p: Point, price):
    """What a point costs, in words."""
    cost, unit = (p.cost.times(1.0 / HOUR), "rank-hours") if p.cost.value >= 0.01 * HOUR else (p.cost, "rank-seconds")
    said = f"{with_interval(cost) if cost.known else number(cost.value)} {unit}"
    if price:
        money = p.cost.times(price / HOUR)
        said += f", {with_interval(money) if money.known else number(money.value)} in money"
    return said


def _time(p: Point):
    factor, unit = findings.unit_of(p.seconds.value)
    seconds = p.seconds.times(factor)
    return f"{with_interval(seconds) if seconds.known else number(seconds.value)} {unit}"


def _headline(found, chosen, price):
    model = found.model
    names: dict[Point, list[str]] = {}
    for name, p in picked(chosen).items():
        names.setdefault(p, []).append(name)
    said = "; ".join(f"{', '.join(named)}: {p.words}, {_time(p)} for {_price(p, price)}" for p, named in names.items())
    said = f"Modelled, not measured, from {model.at.target.source}: {said}"
    close = [p for p in chosen[:-1] if ratio(p.seconds, chosen[-1].seconds).high <= 1.0 + MARGIN]
    if close:
        said += f"; {close[0].words} is as soon as the fastest within {100 * MARGIN:.0f} %"
    if model.why:
        said += f". These numbers have no interval: {model.why}"
    if found.disturbed:
        return f"No verdict, since the machine was not quiet ({'; '.join(found.disturbed)}). {said}."
    return f"{said}."


def _findings(found, every, chosen):
    if found.model.why or found.disturbed:
        return []
    said = [
        f"Over draws of all that is uncertain, the {name} has {with_interval(best_ranks(chosen, name))} ranks ({what})."
        for name, what in WHO.items()
    ]
    for first, second in pairwise(chosen):
        dearer = compared(ratio(second.cost, first.cost), "more", "less").replace("times", "times as many")
        apart = "" if told_apart(first, second) else ": not told apart"
        said.append(f"From {first.words} to {second.words}: {_soon(second, first)}, for {dearer} rank-seconds{apart}.")
    if more := [p for p in every if p.W == 2 * chosen[-1].W]:
        best = min(more, key=lambda p: p.seconds.value)
        apart = "" if ratio(best.seconds, chosen[-1].seconds).low > 1.0 else ": not told apart"
        said.append(f"Beyond the fastest, {best.words} is {_soon(best, chosen[-1])}{apart}.")
    return said


def _soon(p: Point, than: Point) -> str:
    """How much sooner or later one is than the other, in words."""
    words = compared(ratio(p.seconds, than.seconds), "later", "sooner")
    return words.replace("equal", "equally soon").replace("times", "times as long")


# --- the figure ------------------------------------------------------------------------------------------------------


def _caption(chosen, price):
    cost = "money" if price else "rank-seconds"
    alike = [f"{a.W} and {b.W}" for a, b in pairwise(chosen) if a.seconds.known and not told_apart(a, b)]
    return (
        f"The price of speed ({findings.WATERMARK}): {cost} against seconds to the target. Points on the line are the "
        f"Pareto front, each with its ranks W and batch size B; grey ones are other batch sizes. Bars are 95 % "
        f"intervals of {DRAWS:,} draws, slanted because the cost is W times the seconds."
        + f" Not told apart: W = {', '.join(alike)}."
        * bool(alike)
    )


def draw(every, chosen, price):
    figure, axes = figures.new(width=figures.PAGE, height=3.2, x=figures.logarithmic, y=figures.logarithmic)
    unit = price / HOUR if price else 1.0
    others = [p for p in every if p not in chosen]
    axes.plot([p.seconds.value for p in others], [p.cost.value * unit for p in others], ".", color=figures.GREY,
              markersize=3, alpha=0.5, zorder=1.5, label="other batch sizes")  # fmt: skip
    figures.points_with_interval(
        axes, [p.seconds.value for p in chosen], [p.cost.value * unit for p in chosen], label="Pareto front", join=True
    )
    for p in chosen:
        if p.seconds.known:
            ends = [p.seconds.low, p.seconds.high], [p.cost.low * unit, p.cost.high * unit]
            axes.plot(*ends, color=figures.COLORS[0], linewidth=1.0)
        place = {"xytext": (5, 2), "textcoords": "offset points", "fontsize": figures.SMALL - 1}
        axes.annotate(f"W={p.W} B={p.B}", (p.seconds.value, p.cost.value * unit), **place)
    axes.set(xlabel="time to the target (s)", ylabel="money" if price else "cost (rank-seconds)")
    figures.legend(figure)
    return figure
