"""What a step costs as batch, width, depth, parameters and ranks grow: where it is overhead, and where arithmetic.

    python -m benchmarks.scaling --out DIR
    python -m benchmarks.scaling --only batch,ranks --repeats 9

Networks of linear layers on one thread a rank, beside eager PyTorch (on ranks its DistributedDataParallel) where that
is installed, take turns as in `benchmarks.step`. A curve's floor is the time at its smallest value; "twice that at"
says how much one may ask for before a step takes twice as long; the slope is that of logarithms: 1 is in proportion.

Weak scaling gives each of W ranks 256 samples of M2, strong scaling a share of 256; the sum over ranks is exact, and
there are never more ranks than cores. Efficiency is the time on 1 rank, times the share of its work, over that on W.
W processes without exchange show what is lost by sharing caches, memory and clock alone.
"""

import argparse
import contextlib
import functools
import itertools
import math
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures
from benchmarks import report, step
from benchmarks.groups import Group, why_not
from benchmarks.workloads import Workload, mlp

ALONE, SEVERAL = {"allgrad": "", "torch": "fused"}, {"allgrad": "", "torch-ddp": "views static fused"}
APART = "allgrad, no exchange"
NUMBERS = {"allgrad": 0, "torch": 1, "torch-ddp": 1, APART: 2}  # of the series in the figures
BATCH = 256  # of M2, on 1 rank


class Point(NamedTuple):
    """A competitor's seconds a step, turn by turn, and what they are compared with: allgrad's, or those of 1 rank."""

    panel: str
    value: int
    peer: str
    seconds: list[float]
    other: list[float]


def network(*widths, batch=64, optimizer="sgd"):
    return Workload("mlp", "-".join(map(str, widths)), mlp(*widths), widths[:1], batch, optimizer, 1e-4)


SWEEPS = {
    "batch": {batch: network(784, 512, 512, 10, batch=batch) for batch in (1, 4, 16, 64, 256, 1024)},
    "width": {width: network(784, width, width, 10) for width in (4, 16, 64, 256, 1024, 2048)},
    "depth": {depth: network(784, *[64] * depth, 10) for depth in (1, 2, 4, 8, 16, 32)},
    "parameters": {795 * w + 10: network(784, w, 10, batch=8, optimizer="adam") for w in (1, 8, 64, 512, 2048, 8192)},
}
LABELS = {
    "batch": "batch (samples), 784-512-512-10", "width": "width w (units), 784-w-w-10, batch 64",
    "depth": "hidden layers of 64 units, batch 64", "parameters": "parameters, 784-w-10, batch 8, Adam",
    "weak": f"ranks, {BATCH} samples each", "strong": f"ranks, {BATCH} samples in all",
}  # fmt: skip


class Apart:
    """Groups of one rank that work at the same time, and are asked like one group."""

    name, setting = APART, ""

    def __init__(self, groups):
        self.groups = groups

    def ask(self, *command):
        with ThreadPoolExecutor(len(self.groups)) as pool:
            return list(itertools.chain(*pool.map(lambda group: group.ask(*command), self.groups)))


def started(stack, settings, ranks):
    """A group for each of these peers that can run on so many ranks."""
    groups = [Group(peer, setting, ranks) for peer, setting in settings.items() if why_not(peer, ranks) is None]
    return [stack.enter_context(contextlib.closing(group)) for group in groups]


def sweep(panel, groups, arguments):
    """The points of one sweep, on one rank, as they are measured."""
    for value, workload in SWEEPS[panel].items():
        rows = step.measure(groups, workload, 1, arguments.repeats, arguments.turn)
        yield from (Point(panel, value, row.peer, row.seconds, rows[0].seconds) for row in rows)


def on_ranks(groups, arguments):
    """The points of weak and strong scaling: 1 rank, several, and several that do not talk take turns."""
    m2 = functools.partial(network, 784, 512, 512, 10)
    for ranks in (2**k for k in range(1, (os.cpu_count() or 1).bit_length())):
        with contextlib.ExitStack() as stack:
            apart = [one for _ in range(ranks) for one in started(stack, {"allgrad": ""}, 1)]
            several = [*started(stack, SEVERAL, ranks), Apart(apart)]
            for panel, share in (("weak", 1), ("strong", 1 / ranks)):
                step.make(groups, m2(batch=BATCH), 1)
                found = step.make(several, m2(batch=round(BATCH * share)), ranks)
                times = step.take_turns([*groups, *found], arguments.repeats, arguments.turn)
                one = {group.name: [t * share for t in times[group]] for group in groups}
                for group in found:
                    other = "torch" if "torch" in group.name else "allgrad"
                    yield Point(panel, ranks, group.name, times[group], one[other])


HEAD = "| varied | value | peer | milliseconds a step | peer / allgrad, or efficiency |", "|---|--:|---|--:|--:|"


def milliseconds(point):
    return [1e3 * f(point.seconds) for f in (statistics.median, min, max)]


def line(point):
    """A row of the table; ratio: peer / allgrad of a sweep, the efficiency of ranks."""
    turns = (point.seconds, point.other) if point.panel in SWEEPS else (point.other, point.seconds)
    cells = report.spread(*milliseconds(point), ".3f"), report.spread(*report.ratio(*turns), ".2f")
    return f"| {point.panel} | {point.value:,} | {point.peer} | {' | '.join(cells)} |"


def curve(points):
    """Floor in milliseconds, the value at which a step takes twice that (nan if none does), slope at the end."""
    x, y = np.log([(point.value, milliseconds(point)[0]) for point in points]).T
    twice = y[0] + math.log(2)
    after = next((i for i, level in enumerate(y) if level > twice), None)
    at = math.nan if after is None else math.exp(np.interp(twice, y[after - 1 : after + 1], x[after - 1 : after + 1]))
    return math.exp(y[0]), at, (y[-1] - y[-2]) / (x[-1] - x[-2])


def curves(points):
    """The lines of the table of what each curve says."""
    yield "| varied | peer | floor, ms | twice that at | slope at the end |\n|---|---|--:|--:|--:|"
    for panel, peer in dict.fromkeys((p.panel, p.peer) for p in points if p.panel in SWEEPS):
        floor, twice, slope = curve([p for p in points if (p.panel, p.peer) == (panel, peer)])
        yield f"| {panel} | {peer} | {floor:.3f} | {twice:,.0f} | {slope:.2f} |"


def draw(points):
    """A panel for each sweep, with a guide of slope 1, and for weak and strong scaling; bars are the spread."""
    panels = [panel for panel in LABELS if any(point.panel == panel for point in points)]
    figure, axes = figures.new(-(-len(panels) // 2), 2, figures.PAGE, squeeze=False)
    for panel, ax in zip(panels, axes.flat):
        ranked, mine = panel not in SWEEPS, [point for point in points if point.panel == panel]
        ax.set(xlabel=LABELS[panel], ylabel=f"{panel} scaling efficiency" if ranked else "time of a step (ms)")
        for peer in dict.fromkeys(point.peer for point in mine):
            theirs = [point for point in mine if point.peer == peer]
            y = [report.ratio(point.other, point.seconds) if ranked else milliseconds(point) for point in theirs]
            x = [point.value for point in theirs]
            figures.points_with_interval(ax, x, *zip(*y), i=NUMBERS[peer], label=peer, join=True)
        if ranked:
            ax.axhline(1.0, color=figures.GREY, lw=0.6)
            ax.set(ylim=(0, None), xticks=sorted({p.value for p in mine}))
        else:
            figures.logarithmic(ax.yaxis)
            (figures.logarithmic if panel == "parameters" else figures.batches)(ax.xaxis)
            last, slope = [point for point in mine if point.peer == "allgrad"][-1], 1 + (panel == "width")
            figures.guide(ax, slope, (last.value, milliseconds(last)[0]), f"slope {slope}", 0.8, below=True)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    figures.legend(figure, 4)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(SWEEPS)}, ranks [all]")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each competitor [7]")
    parser.add_argument("--turn", type=float, default=0.1, metavar="SECONDS", help="length of a turn [0.1]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write scaling.md, scaling.svg and scaling.png")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else [*SWEEPS, "ranks"]
    if unknown := {*chosen} - {*SWEEPS, "ranks"}:
        parser.error(f"--only {min(unknown)} is not one of {', '.join(SWEEPS)}, ranks")
    points, said = [], [report.machine(), "", *HEAD]
    print(*said, sep="\n", flush=True)
    with contextlib.ExitStack() as stack:
        groups = started(stack, ALONE, 1)
        for panel in chosen:
            for point in on_ranks(groups, arguments) if panel == "ranks" else sweep(panel, groups, arguments):
                points.append(point)
                said.append(line(point))
                print(said[-1], flush=True)
    said += ["", *curves(points)]
    print("", *curves(points), sep="\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "scaling.md").write_text("\n".join([*said, ""]), encoding="utf-8")
        try:
            figures.save(draw(points), arguments.out / "scaling")
        except ConfigurationError as error:
            print(f"left out: the figure ({error})")


if __name__ == "__main__":
    main()
