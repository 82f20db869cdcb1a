"""The arithmetic and the figures of `project`: time to target on W ranks by the cost model."""

import math
from dataclasses import dataclass

import numpy as np

from allgrad.launch.study import cost_model, replay
from allgrad.launch.study.calibrate import Compute
from allgrad.launch.study.cost_model import Network
from allgrad.launch.study.result import Figure

COLUMNS = [
    "W", "algo", "B*", "b*", "B_closed", "steps", "t_compute", "t_straggle", "t_latency", "t_bandwidth", "t_step",
    "T_target", "speedup", "eff", "T_fixed_b", "T_fixed_B", "T_overlap", "bound", "extrapolation",
]  # fmt: skip
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
BUCKETS = 1, 2, 4, 8, 16  # into how many the gradients may be cut where exchange overlaps with backward
WATERMARK = "model, not measurement"


@dataclass(frozen=True)
class Model:
    """All that the time to target is computed from: seconds and bytes, as in `cost_model`."""

    net: Network
    algorithm: str
    compute: Compute
    bytes: int
    s_min: float
    b_crit: float

    def exchange(self, W: int) -> float:
        return cost_model.all_reduce(self.algorithm, W, self.bytes, self.net)

    def coefficients(self, W: int) -> tuple[float, float]:
        """c_W and d of a step c_W + d b: what does not, and what does depend on the examples b of a rank."""
        slow = self.compute.crowding * self.compute.straggling(W)
        return slow * self.compute.line.a + self.exchange(W), slow * self.compute.line.b

    def time(self, B: float, W: int) -> float:
        """Seconds to the target with global batch B."""
        c, d = self.coefficients(W)
        return cost_model.time_to_target(B, W, self.s_min, self.b_crit, c, d)

    def best(self, W: int) -> tuple[int, float]:
        """The best power of two of at least W, and its seconds."""
        c, d = self.coefficients(W)
        return cost_model.best_power_of_two(lambda B: cost_model.time_to_target(B, W, self.s_min, self.b_crit, c, d), W)


def row(model: Model, W: int, seen: int, recording=None) -> dict:
    """COLUMNS for W ranks, if `seen` of them were timed; `recording` of a backward, for T_overlap."""
    B, T = model.best(W)
    first, T1 = model.best(1)
    c, d = model.coefficients(W)
    exchange, seconds = model.exchange(W), model.compute(B / W)
    algorithm = model.algorithm
    if algorithm == "best":
        algorithm = cost_model.best_algorithm(W, model.bytes, model.net)
    latency = cost_model.all_reduce(algorithm, W, 0, model.net)
    step, steps = c + d * B / W, model.s_min * (1.0 + model.b_crit / B)
    straggle = seconds * (model.compute.straggling(W) - 1.0)
    overlapped = None
    if recording is not None:
        overlapped = steps * min(overlap(model, W, B, recording, k).step for k in BUCKETS)
    return {
        "W": W, "algo": algorithm if W > 1 else "none", "B*": B, "b*": B // W,
        "B_closed": cost_model.best_batch(W, model.b_crit, c, d), "steps": steps, "t_compute": seconds,
        "t_straggle": straggle, "t_latency": latency, "t_bandwidth": exchange - latency, "t_step": step, "T_target": T,
        "speedup": T1 / T, "eff": T1 / T / W, "T_fixed_b": model.time(first * W, W),
        "T_fixed_B": model.time(first, W) if first >= W else None, "T_overlap": overlapped,
        "bound": bound(seconds + straggle, latency, exchange - latency, B, model.b_crit),
        "extrapolation": max(1.0, W / seen),
    }  # fmt: skip


def bound(compute, latency, bandwidth, B, b_crit) -> str:
    """What a step costs most: "latency", "bandwidth", or compute.

    Compute is "statistical" if B exceeds B_crit: most of it then goes into S_min steps that no larger batch saves.
    """
    if compute >= max(latency, bandwidth):
        return "statistical" if b_crit < B else "compute"
    return "latency" if latency >= bandwidth else "bandwidth"


def overlap(model: Model, W: int, B: int, recording, buckets: int):
    """The recorded backward, stretched to the compute of B / W examples, with its exchange in so many buckets."""
    course = recording.scaled(model.compute(B / W))

    def all_reduce(n):
        return cost_model.all_reduce(model.algorithm, W, n, model.net)

    most = max(1.0, sum(recording.sizes) / buckets)
    return replay.replay(course, all_reduce, most, slowdown=model.compute.straggling(W))


def headline(model: Model, rows, source: str) -> str:
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


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(model: Model, rows, seen, found, recording) -> list[Figure]:
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
        line = overlap(model, many["W"], many["B*"], recording, 4)
        drawn.append(Figure("timeline", caption, lambda: draw_timeline(line)))
    return drawn


def draw_times(rows, seen):
    from matplotlib.ticker import LogLocator

    from allgrad.launch.study import figures

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
    from allgrad.launch.study import figures

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
    from allgrad.launch.study import figures

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
    from allgrad.launch.study import figures

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
