"""What a projection says: its headline, checks, tables and notes, and its figures."""

import math

import numpy as np

from allgrad.launch.study import figures
from allgrad.launch.study.costs import projection
from allgrad.launch.study.experiments import scaling
from allgrad.launch.study.result import Check, Figure, Table

CAPTION = (
    "A model, not a measurement. B*: the global batch of least time among powers of two, B_closed its closed form "
    "sqrt(B_crit c W / d); t: seconds of a step with B*, and T_target those to the target; T_fixed_b, T_fixed_B: with "
    "the best batch of one rank kept on each rank, or in all; T_overlap: as T_target, with as many buckets as are best "
    "exchanged while backward goes on; speedup, eff: against one rank at its own best batch; bound: what costs most, "
    "where statistical means compute that a larger batch spends on steps that hardly get fewer (B* above B_crit); "
    "extrapolation: W / ranks timed."
)
MEANINGS = {
    "algo": "algorithm of the all-reduce", "b*": "batch size of a rank (examples): B* / W",
    "steps": "steps to the target with B*", "t_compute": "compute of a step on a typical rank (s)",
    "t_straggle": "waiting for the slowest rank (s)", "t_latency": "all-reduce of no bytes (s)",
    "t_bandwidth": "what the bytes add to it (s)", "t_step": "step with B* (s)", "T_target": "time to the target (s)",
    "speedup": "T_target of one rank over that of W", "eff": "efficiency of the ranks: speedup / W",
}  # fmt: skip
WATERMARK = "model, not measurement"


def headline(model: projection.Model, rows, source: str) -> str:
    """Where the target is reached soonest; source: of the steps to it, "given" or "study steps, sgd"."""
    best, net = min(rows, key=lambda row: row["T_target"]), model.net
    where = "the network measured here" if net.name == "measured" else net.name
    on = f"W = {best['W']:,} ranks" if best["W"] > 1 else "one rank"
    sooner = f"{two_digits(best['speedup'])} times sooner than on one rank with its best batch "
    sooner += f"({best['eff']:.0%} efficiency, {best['bound']} bound)"
    said = (
        f"Modelled, not measured, from the steps to target of {source.removeprefix('study steps, ')}: on {where} "
        f"(alpha = {two_digits(net.A * 1e6)} us a message, beta = {two_digits(net.B * 1e9)} ns/byte) the target is "
        f"reached soonest with {on} and batch size B = {best['B*']:,}: {seconds(best['T_target'])}"
        + f", {sooner}"
        * (best["W"] > 1)
    )
    last = rows[-1]
    if best is last:
        floor = model.s_min * model.compute.crowding * model.compute.line.a
        return f"{said}; still falling at {last['W']:,} ranks, towards S_min c0 = {seconds(floor)}."
    good = max((row["W"] for row in rows if row["eff"] >= 0.5), default=1)
    more = f"{last['W']:,} ranks take {seconds(last['T_target'])}"
    return f"{said}; {more}. At least half of each rank's time is of use up to W = {good:,}."


def two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.12g}"


def seconds(t: float) -> str:
    """A time in the unit that suits it, of two digits."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if t >= unit:
            return f"{two_digits(t / unit)} {name}"
    return f"{two_digits(t * 1e9)} ns"


def checks(rows, validation):
    said = []
    for W, m in dict.fromkeys((row["W"], row["model"]) for row in validation):
        some = [row for row in validation if (row["W"], row["model"]) == (W, m)]

        def off(key: str, some=some) -> float:
            return float(np.median([abs(row["t_predicted"] / row[key] - 1.0) for row in some]))

        value, *ends = off("t_measured"), off("t_least"), off("t_most")
        name = "the workload's model" if m == "own" else scaling.LARGE
        claim = f"A step of {name} on {W} ranks is predicted from one rank and calibration within 25 %"
        said.append(Check(claim, value, min(value, *ends), max(value, *ends), most=0.25))
    free = [abs(math.log2(row["B*"] / row["B_closed"])) for row in rows if row["B*"] > row["W"]]
    if free:
        claim = "The best power of two is within one of the closed form B* = sqrt(B_crit c W / d) (log2 of the ratio)"
        said.append(Check(claim, max(free), max(free), max(free), most=1.0))
    return said


def calibration_tables(found, validation):
    rows = []
    for (W, how), line in found.lines.items():
        rows.append({"what": f"all-reduce, {how}", "W": W, "a": line.a, "b": line.b, "worst_error": line.worst})
    for m, compute in found.compute.items():
        line = compute.line
        rows.append({"what": f"compute, {m}", "W": 1, "a": line.a, "b": line.b, "worst_error": line.worst,
                     "crowding": compute.crowding, "late_p90": float(np.quantile(compute.relative, 0.9))})  # fmt: skip
    rows.append({"what": "add", "W": 1, "a": 0.0, "b": found.added})
    tables = [
        Table(
            "calibration", ["what", "W", "a", "b", "worst_error", "crowding", "late_p90"], rows,
            "Lines a + b x in seconds: x in bytes, or in examples of one rank for compute; worst_error of predicting "
            "each point from the others; crowding: seconds with all cores at work, relative to one; late_p90: the 90th "
            "percentile of a step's compute, relative to its median.",
            {"W": "ranks", "a": "seconds whatever the size", "b": "slope: seconds a byte, or an example",
             "worst_error": "largest relative error of a point that the line is not fitted to",
             "crowding": "seconds with all cores at work over those with one",
             "late_p90": "90th percentile of a step's compute over its median"},
        )
    ]  # fmt: skip
    if validation:
        tables.append(Table(
            "validation", list(validation[0]), validation,
            "Medians of steps in seconds, predicted from one rank and calibration; least and most of the blocks; "
            "t_uncrowded: as if a rank computed as fast among others as alone; network_from: ranks of the all-reduces.",
            {"t_exchange": "the all-reduce's part of t_predicted (s)", "error": "t_predicted / t_measured - 1"},
        ))  # fmt: skip
    return tables


def notes(work, model, rows, seen, found, validation):
    far = rows[-1]["W"] / seen
    said = [
        f"A model, not a measurement: {rows[-1]['W']:,} ranks are {far:,.0f} times as many as were timed "
        f"({seen}). Nothing here knows of congestion, of slower links between racks, or of failures.",
        "The hyperbola of steps is extrapolated wherever B* is beyond the batches of study steps.",
    ]
    samples, batch = len(work.loaded.train_x), max(row["B*"] for row in rows)
    if batch > samples:
        first = next(row["W"] for row in rows if row["B*"] > samples)
        said.append(f"From W = {first} on a batch is larger than the {samples:,} samples of the data.")
    if found:
        if found.oversubscribed:
            listed = ", ".join(map(str, found.oversubscribed))
            said.append(f"Runs on {listed} ranks, which share cores, were oversubscribed and are left out.")
        worst = max((line.worst for line in found.lines.values()), default=0.0)
        if worst > 0.5:
            said.append(
                f"A line a + b n misses an all-reduce that it was not fitted to by up to {worst:.0%} here: times of "
                f"all-reduces bend with the size, or the machine is not quiet."
            )
        if model.compute.crowding > 1.05:
            said.append(
                f"With all cores at work a rank computes {model.compute.crowding:.2f} times as long as alone; the "
                f"projection takes the crowded time for every number of ranks, one included."
            )
    late = model.compute.straggling(1)
    if late > 1.1:
        said.append(
            f"The steps that were timed take {late:.2f} times their median on average: the machine is not quiet, and "
            f"every rank of the projection is taken to be as disturbed as it."
        )
    single = {row["W"] for row in validation if row["network_from"] == str(row["W"])}
    for W in sorted(single):
        said.append(
            f"At {W} ranks the network was calibrated by all-reduces on {W} ranks themselves, there being no others; "
            f"the compute is that of one rank, and of {W} at once that do not talk; no step on {W} ranks was used."
        )
    if len(model.compute.relative) > 1:
        said.append(
            f"Stragglers are drawn from {len(model.compute.relative):,} measured steps: with more ranks than that the "
            f"slowest seen is a lower bound of the slowest."
        )
    return said


# --- figures ---------------------------------------------------------------------------------------------------------


def pictures(model: projection.Model, rows, seen, found, recording) -> list[Figure]:
    many = min(rows, key=lambda row: row["T_target"])
    drawn = [
        Figure(
            "project",
            f"Time to target against ranks by the cost model ({WATERMARK}): the best batch for each number of ranks, "
            f"the best batch of one rank kept on each (fixed b), and kept in all (fixed B). Up to W = {seen} steps "
            f"were timed.",
            lambda: draw_times(rows, seen),
        ),
        Figure(
            "project_step",
            f"What a step with the best batch consists of, by the cost model ({WATERMARK}).",
            lambda: draw_step(rows),
        ),
    ]
    if found and found.lines:
        caption = "Exact all-reduces on this machine: medians, the least times, and lines a + b n fitted to either."
        drawn.append(Figure("calibration", caption, lambda: draw_calibration(found)))
    if recording is not None and many["W"] > 1:
        caption = (
            f"A recorded backward replayed for W = {many['W']:,} ({WATERMARK}): when the gradients of each bucket are "
            f"final, and its exchange."
        )
        line = projection.overlap(model, many["W"], many["B*"], recording, 4)
        drawn.append(Figure("timeline", caption, lambda: draw_timeline(line)))
    return drawn


def draw_times(rows, seen):
    from matplotlib.ticker import LogLocator

    figure, axes = figures.new()
    series = (("T_target", "best B"), ("T_fixed_b", "fixed b"), ("T_fixed_B", "fixed B"))
    for i, (column, label) in enumerate(series):
        some = [row for row in rows if row[column] is not None]
        figures.points_with_interval(
            axes, [r["W"] for r in some], [r[column] * 1e3 for r in some], i=i, label=label, join=True
        )
    figures.batches(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    low, high = axes.get_ylim()
    if high / low < 4.0:  # 2 to 9 alone would leave hardly a label
        axes.yaxis.set_minor_locator(LogLocator(subs=(1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)))
    figures.guide(axes, -1, (1, rows[0]["T_target"] * 1e3), "ideal", at=0.2)
    figures.band(axes, axes.get_xlim()[0], max(seen, 1), "timed", axis="x")
    axes.set(xlabel="ranks W", ylabel="time to target (ms)")
    factor = rows[-1]["W"] / seen
    axes.set_title(f"extrapolated {factor:,.0f} times beyond W = {seen}", fontsize=figures.SMALL + 1)
    _watermark(axes)
    figures.legend(figure, 3)
    return figure


def draw_step(rows):
    figure, axes = figures.new()
    base = np.zeros(len(rows))
    at = np.arange(len(rows))
    for i, part in enumerate(("compute", "straggle", "latency", "bandwidth")):
        height = np.array([row[f"t_{part}"] for row in rows]) * 1e3
        hatch = ("", "//", "..", "xx")[i]
        axes.bar(
            at, height, bottom=base, color=figures.COLORS[i], hatch=hatch, edgecolor="white", width=0.8, label=part
        )
        base += height
    axes.set_xticks(at[::2], [f"{row['W']}" for row in rows[::2]])
    axes.grid(False, axis="x")
    axes.set(xlabel="ranks W", ylabel="step (ms)")
    _watermark(axes)
    figures.legend(figure, 4)
    return figure


def draw_calibration(found):
    figure, axes = figures.new()
    for i, ((W, how), line) in enumerate(found.lines.items()):
        figures.points_with_interval(axes, line.x, line.t, i=i, label=f"{W} ranks, {how}")
        x = np.geomspace(line.x[0], line.x[-1], 100)
        figures.line_with_interval(axes, x, line(x), i=i)
    figures.logarithmic(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    axes.set(xlabel="bytes n", ylabel="seconds of an all-reduce")
    figures.legend(figure)
    return figure


def draw_timeline(line):
    figure, axes = figures.new(height=1.6)
    axes.barh(["compute"], [line.backward * 1e3], color=figures.COLORS[0])
    for k, (_, ready, start, end) in enumerate(line.events):
        color = figures.COLORS[1 + k % 2]
        axes.barh(["exchange"], [(end - start) * 1e3], left=start * 1e3, color=color, edgecolor="white")
        axes.plot([ready * 1e3], ["compute"], "|", color="black", markersize=12)
    axes.invert_yaxis()
    axes.set(xlabel="time since the step began (ms)", xlim=(0, math.nextafter(line.step * 1.02e3, math.inf)))
    _watermark(axes)
    return figure


def _watermark(axes):
    place = {"ha": "center", "va": "center", "transform": axes.transAxes, "rotation": 20, "zorder": 3}
    axes.text(0.5, 0.5, WATERMARK, color="grey", alpha=0.35, fontsize=13, **place)
