"""What a projection says: its headline, findings, tables and notes, and its figures."""

import math

import numpy as np

from allgrad.launch.study import figures
from allgrad.launch.study.costs import projection
from allgrad.launch.study.costs.drawn import DRAWS, Drawn, columns
from allgrad.launch.study.costs.projection import Uncertain, ratio
from allgrad.launch.study.costs.target import Measured
from allgrad.launch.study.experiments import scaling
from allgrad.launch.study.result import Figure, Table
from allgrad.launch.study.wording import compared, number, with_interval

CAPTION = (
    "A model, not a measurement. B*: the global batch of least time among powers of two, and the interval in which the "
    "best one lies; B_closed its closed form sqrt(B_crit c W / d); t: seconds of a step with B*, and T_target those to "
    "the target; T_fixed_b, T_fixed_B: with the best batch of one rank kept on each rank, or in all; T_overlap: as "
    "T_target, with as many buckets as are best exchanged while backward goes on; speedup, eff: against one rank at "
    "its own best batch; bound: what costs most, where statistical means compute that a larger batch spends on steps "
    "that hardly get fewer (B* above B_crit); extrapolation: W / ranks timed. Intervals are 95 %."
)
MEANINGS = {
    "algo": "algorithm of the all-reduce", "b*": "B* / W, of a rank (examples)", "B*": "best batch (examples)",
    "B_closed": "closed form of the best batch (examples)",
    "steps": "steps to the target with B*", "t_compute": "compute of a step on a typical rank (s)",
    "t_straggle": "waiting for the slowest rank (s)", "t_latency": "all-reduce of no bytes (s)",
    "t_bandwidth": "what the bytes add to it (s)", "t_step": "step with B* (s)", "T_target": "time to the target (s)",
    "speedup": "T_target of one rank over that of W", "eff": "efficiency of the ranks: speedup / W",
    "beyond": "whether B* lies outside of the batches whose steps were measured",
}  # fmt: skip
WATERMARK = "model, not measurement"


def best_row(rows):
    """The row of the number of ranks that is soonest at the target."""
    return min(rows, key=lambda row: row["T_target"])


def alike(model: Uncertain, best, rows) -> list[int]:
    """Numbers of ranks whose time to the target is not told apart from that of the best."""
    T = model.time(best["B*"], best["W"])
    others = [row for row in rows if row is not best]
    return [row["W"] for row in others if not ratio(model.time(row["B*"], row["W"]), T).low > 1.0]


def headline(found, rows) -> str:
    """Where the target is reached soonest."""
    model, best = found.model, best_row(rows)
    net = model.at.net
    where = "the network measured here" if net.name == "measured" else net.name
    on = f"W = {best['W']:,} ranks" if best["W"] > 1 else "one rank"
    said = (
        f"Modelled, not measured, from {model.at.target.source}: on {where} (alpha = {two_digits(net.A * 1e6)} us a "
        f"message, beta = {two_digits(net.B * 1e9)} ns/byte) the target is reached soonest with {on} and batch size "
        f"B = {best['B*']:,}, in {time_of(model, best)}"
    )
    if best["W"] > 1:
        speedup = ratio(model.time(rows[0]["B*"], 1), model.time(best["B*"], best["W"]))
        said += f", {with_interval(speedup)} times sooner than on one rank with its best batch"
    if model.why:
        said += f". These numbers have no interval: {model.why}"
    elif same := alike(model, best, rows):
        said += f"; not told apart from it: W = {', '.join(f'{W:,}' for W in same)}"
    if best["beyond"]:
        least, most = model.at.target.batches
        said += f". The batch lies beyond those measured ({least:,.0f} to {most:,.0f}): an extrapolation of the curve"
    if found.disturbed:
        return f"No verdict, since the machine was not quiet ({'; '.join(found.disturbed)}). {said}."
    return f"{said}."


def later(time: Drawn, than: Drawn) -> str:
    """How much later or sooner, in words that go on with what it is compared with."""
    words = compared(ratio(time, than), "later", "sooner")
    if words.startswith("equal"):
        return words.replace("equal", "as soon", 1) + " as"
    return words.replace("times", "times as long as") if words.endswith("times") else f"{words} than"


def time_of(model: Uncertain, row) -> str:
    """The time to the target in the unit that suits it, with its interval."""
    T = model.time(row["B*"], row["W"])
    factor, unit = unit_of(T.value)
    return f"{with_interval(T.times(factor))} {unit}" if T.known else f"{number(T.value * factor)} {unit}"


def unit_of(t: float) -> tuple[float, str]:
    """By what to multiply seconds, and the unit that they are in then."""
    for least, factor, name in ((7200.0, 1 / 3600.0, "h"), (1.0, 1.0, "s"), (1e-3, 1e3, "ms")):
        if t >= least:
            return factor, name
    return 1e6, "us"


def two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.12g}"


def summary(found, rows) -> Table:
    """One rank, the most ranks of which half the time is surely of use, and the soonest."""
    model, best = found.model, best_row(rows)
    half = max((row for row in rows if row["speedup_lo"] >= 0.5 * row["W"]), key=lambda row: row["W"], default=rows[0])
    picked: dict[int, list[str]] = {}  # a number of ranks may be several of these
    for name, row in (("one rank", rows[0]), ("at least half efficient", half), ("soonest", best)):
        picked.setdefault(rows.index(row), []).append(name)
    table = [
        {"setting": ", ".join(names), "W": row["W"], **columns("B", model.best_batch(row["W"])), "B": row["B*"],
         **columns("seconds", model.time(row["B*"], row["W"])),
         **columns("speedup", ratio(model.time(rows[0]["B*"], 1), model.time(row["B*"], row["W"])))}
        for row, names in ((rows[k], names) for k, names in picked.items())
    ]  # fmt: skip
    return Table(
        "summary", list(table[0]), table, f"A {WATERMARK}; 95 % intervals.",
        {"setting": "half efficient: the interval of the speedup is above W / 2", "B": "best batch size (examples)",
         "seconds": "time to the target (s)", "speedup": "time of one rank over that of W"},
    )  # fmt: skip


def findings(found, rows) -> list[str]:
    model, best, last = found.model, best_row(rows), rows[-1]
    said = []
    if not model.why and not found.disturbed:
        ranks = model.best_ranks([row["W"] for row in rows])
        said.append(
            f"Over draws of all that is uncertain, the best number of ranks is {with_interval(ranks)}, and the best "
            f"batch on W = {best['W']:,} is {with_interval(model.best_batch(best['W']))}."
        )
        if best is not last:
            words = later(model.time(last["B*"], last["W"]), model.time(best["B*"], best["W"]))
            said.append(f"On W = {last['W']:,} ranks it takes {time_of(model, last)}: {words} on W = {best['W']:,}.")
        elif len(rows) > 1:
            before = rows[-2]
            words = later(model.time(last["B*"], last["W"]), model.time(before["B*"], before["W"]))
            said.append(f"On W = {last['W']:,} ranks, the most that were projected, it is {words} on {before['W']:,}.")
        good = [row["W"] for row in rows if row["speedup_lo"] >= 0.5 * row["W"]]
        said.append(f"At least half of each rank's time is of use, by the whole interval, up to W = {max(good):,}.")
    for row in found.validation:
        name = "the workload's model" if row["model"] == "own" else scaling.LARGE
        judged = "No verdict" if found.disturbed else compared(row["estimate"], "too long", "too short", 0.25)
        judged = judged.replace("equal within 25 %", "right within 25 %")
        said.append(
            f"A step of {name} on {row['W']} ranks, {row['b']} examples each, is predicted from one rank and "
            f"calibration to take {with_interval(row['estimate'])} times what was measured: {judged}."
        )
    return said


def calibration_tables(found, validation):
    rows = []
    for (W, how), line in found.lines.items():
        rows.append({"what": f"all-reduce, {how}", "W": W, "a": line.a, "b": line.b, "worst_error": line.worst})
    for m, timed in found.timed.items():
        compute, line = timed.compute, timed.compute.line
        rows.append({"what": f"compute, {m}", "W": 1, "a": line.a, "b": line.b, "worst_error": line.worst,
                     "crowding": compute.crowding, "late_p90": float(np.quantile(compute.relative, 0.9))})  # fmt: skip
    rows.append(
        {"what": "add", "W": 1, "a": 0.0, "b": timed.network().C if timed.reduced else float(np.mean(timed.added))}
    )
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
            "validation", [key for key in validation[0] if key != "estimate"], validation,
            "Steps in seconds, predicted from one rank and calibration, and measured (medians of blocks); "
            "t_uncrowded: as if a rank computed as fast among others as alone; network_from: ranks of the all-reduces. "
            "95 % intervals over blocks.",
            {"t_predicted": "step as predicted (s)", "t_measured": "step as measured (s)",
             "t_exchange": "the all-reduce's part of t_predicted (s)", "t_uncrowded": "as if computed alone (s)",
             "ratio": "t_predicted / t_measured", "network_from": "ranks whose all-reduces were used"},
        ))  # fmt: skip
    return tables


def notes(work, found, rows, most, max_ranks):
    """What a reader must know. rows: the settings that are recommended; most: the most ranks that were projected."""
    model, measured, steps = found.model, found.found, found.model.at.target
    said = [f"The machine was not quiet: {reason}. No verdict rests on these times." for reason in found.disturbed]
    said.append(
        f"A model, not a measurement: {most:,} ranks are {number(most / model.seen)} times as many as were timed "
        f"({model.seen}). Nothing here knows of congestion, of slower links between racks, or of failures, and no "
        f"interval contains that the model may be wrong."
    )
    if isinstance(steps, Measured):
        said.append(
            f"The curve of study steps does not describe its steps: those measured are interpolated instead, and "
            f"nothing is said of batches outside of {steps.least:,.0f} to {steps.most:,.0f}."
        )
        if most * 2 <= max_ranks:
            said.append(f"More than {most:,} ranks would need a batch larger than those measured, and are left out.")
        if any(row["B*"] in (steps.least, steps.most) for row in rows):
            said.append("Where the best batch is the smallest or largest measured, a better one may lie beyond.")
    elif beyond := [row["W"] for row in rows if row["beyond"]]:
        said.append(
            f"For W = {', '.join(f'{W:,}' for W in beyond)} the best batch lies beyond those measured "
            f"({steps.batches[0]:,.0f} to {steps.batches[1]:,.0f}): the curve of steps is extrapolated there, and its "
            f"interval is that of the curve."
        )
    if math.isnan(steps.batches[0]):
        said.append("Which batches the steps were measured at is not known: all of it may be an extrapolation.")
    if model.why:
        said.append(f"There are no intervals: {model.why}.")
    said += [f"The intervals take as exact {lack}." for lack in model.lacks]
    samples, batch = len(work.loaded.train_x), max(row["B*"] for row in rows)
    if batch > samples:
        first = next(row["W"] for row in rows if row["B*"] > samples)
        said.append(f"From W = {first} on a batch is larger than the {samples:,} samples of the data.")
    if measured:
        if measured.oversubscribed:
            listed = ", ".join(map(str, measured.oversubscribed))
            said.append(f"Runs on {listed} ranks, which share cores, were oversubscribed and are left out.")
        worst = max((line.worst for line in measured.lines.values()), default=0.0)
        if worst > 0.5:
            said.append(
                f"A line a + b n misses an all-reduce that it was not fitted to by up to {worst:.0%} here: times of "
                f"all-reduces bend with the size, or the machine is not quiet."
            )
        if model.at.compute.crowding > 1.05:
            said.append(
                f"With all cores at work a rank computes {model.at.compute.crowding:.2f} times as long as alone; the "
                f"projection takes the crowded time for every number of ranks, one included."
            )
    late = model.at.compute.straggling(1)
    if late > 1.1:
        said.append(
            f"The steps that were timed take {late:.2f} times their median on average: the machine is not quiet, and "
            f"every rank of the projection is taken to be as disturbed as it."
        )
    single = {row["W"] for row in found.validation if row["network_from"] == str(row["W"])}
    for W in sorted(single):
        said.append(
            f"At {W} ranks the network was calibrated by all-reduces on {W} ranks themselves, there being no others; "
            f"the compute is that of one rank, and of {W} at once that do not talk; no step on {W} ranks was used."
        )
    if len(model.at.compute.relative) > 1:
        said.append(
            f"Stragglers are drawn from {len(model.at.compute.relative):,} measured steps: with more ranks than that "
            f"the slowest seen is a lower bound of the slowest."
        )
    return said


# --- figures ---------------------------------------------------------------------------------------------------------


def pictures(projected, rows) -> list[Figure]:
    many, seen, found, recording = best_row(rows), projected.model.seen, projected.found, projected.recording
    drawn = [
        Figure(
            "project",
            f"Time to target against ranks by the cost model ({WATERMARK}): the best batch for each number of ranks, "
            f"the best batch of one rank kept on each (fixed b), and kept in all (fixed B). Bars are 95 % intervals of "
            f"{DRAWS:,} draws; numbers at points are batch sizes. Up to W = {seen} steps were timed.",
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
        line = projection.overlap(projected.model.at, many["W"], many["B*"], recording, 4)
        drawn.append(Figure("timeline", caption, lambda: draw_timeline(line)))
    return drawn


def draw_times(rows, seen):
    from matplotlib.ticker import LogLocator

    figure, axes = figures.new()
    series = (("T_target", "best B"), ("T_fixed_b", "fixed b"), ("T_fixed_B", "fixed B"))
    for i, (column, label) in enumerate(series):
        some = [row for row in rows if row[column] is not None]
        ends = [[r[f"{column}_{end}"] * 1e3 for r in some] for end in ("lo", "hi")] if i == 0 else (None, None)
        figures.points_with_interval(
            axes, [r["W"] for r in some], [r[column] * 1e3 for r in some], *ends, i=i, label=label, join=True
        )
    for row in rows[:: max(1, len(rows) // 5)]:
        place = {"xytext": (0, -9), "textcoords": "offset points", "fontsize": figures.SMALL - 1.5, "ha": "center"}
        axes.annotate(f"{row['B*']}", (row["W"], row["T_target"] * 1e3), **place)
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
