"""What was measured, as a Markdown table and as bars."""

import importlib.metadata
import os
import platform
import statistics
from typing import NamedTuple

from allgrad.ddp.process import blas


class Row(NamedTuple):
    """A competitor's times of a workload: seconds a step in each of its turns, the slowest rank's.

    differs: the largest relative difference of one of its first losses from allgrad's
    """

    ranks: int
    workload: str
    peer: str
    setting: str
    seconds: list[float]
    differs: float

    @property
    def median(self):
        return statistics.median(self.seconds)


def machine():
    """What the figures depend on, in one line."""
    found = {"numpy": 0, "torch": 0, "jax": 0, "mpi4py": 0}
    for name in list(found):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            del found[name]
    library = blas()
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {platform.platform()}; "
        f"Python {platform.python_version()}, {versions}, {library.get('internal_api')} {library.get('version')} "
        f"({library.get('architecture')})"
    )


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def best(rows):
    """Of each peer's settings the fastest one for a workload, allgrad first."""
    found = {}
    for row in rows:
        key = row.ranks, row.workload, row.peer
        if key not in found or row.median < found[key].median:
            found[key] = row
    return list(found.values())


def ratio(these, those):
    """these / those: the ratio of the medians, the smallest and the largest ratio of one turn."""
    turns = [a / b for a, b in zip(these, those)]
    return statistics.median(these) / statistics.median(those), min(turns), max(turns)


def spread(middle, least, most, form):
    """A number with the smallest and the largest seen: 1.20 (1.15 .. 1.31)."""
    return f"{middle:{form}} ({least:{form}} .. {most:{form}})"


HEAD = (
    "| ranks | workload | peer | milliseconds a step | peer / allgrad | losses differ by |\n|--:|---|---|--:|--:|--:|"
)


def shown(peer, setting):
    """What a competitor is called: torch (fused)."""
    return f"{peer} ({setting})" if setting else peer


def lines(rows):
    """The table's rows, of one workload and number of ranks or of several."""
    rows = best(rows)
    ours = {(row.ranks, row.workload): row for row in rows if row.peer == "allgrad"}
    for row in rows:
        milliseconds = (1e3 * f(row.seconds) for f in (statistics.median, min, max))
        against = ratio(row.seconds, ours[row.ranks, row.workload].seconds)
        yield (
            f"| {row.ranks} | {row.workload} | {shown(row.peer, row.setting)} | "
            f"{spread(*milliseconds, '.3f')} | {spread(*against, '.2f')} | {row.differs:.0e} |"
        )


def draw(rows):
    """A figure with the ratios peer / allgrad as bars, the spread of the turns on them; one part a number of ranks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = best(rows)
    ours = {(row.ranks, row.workload): row for row in rows if row.peer == "allgrad"}
    parts = sorted({row.ranks for row in rows})
    peers = list(dict.fromkeys(row.peer for row in rows if row.peer != "allgrad"))
    labels = {ranks: list(dict.fromkeys(row.workload for row in rows if row.ranks == ranks)) for ranks in parts}
    height = sum(len(labels[ranks]) for ranks in parts)
    size = 9, 1.5 * len(parts) + 0.2 * height * max(len(peers), 1)
    shares = [len(labels[ranks]) for ranks in parts]
    figure, axes = plt.subplots(
        len(parts), figsize=size, layout="constrained", squeeze=False, sharex=True, height_ratios=shares
    )
    for ranks, ax in zip(parts, axes[:, 0]):
        for i, peer in enumerate(peers):
            mine = [row for row in rows if (row.ranks, row.peer) == (ranks, peer)]
            if mine:
                at = [labels[ranks].index(row.workload) + 0.8 * (i + 0.5) / len(peers) - 0.4 for row in mine]
                middle, least, most = zip(*(ratio(row.seconds, ours[ranks, row.workload].seconds) for row in mine))
                # Of two turns the median is between them, but the ratio of medians need not be.
                bars = [max(m - a, 0) for m, a in zip(middle, least)], [max(b - m, 0) for m, b in zip(middle, most)]
                more = [m - 1 for m in middle]  # bars begin at 1
                width, style = 0.8 / len(peers), {"color": f"C{i}", "label": peer, "error_kw": {"lw": 0.8}}
                ax.barh(at, more, width, left=1.0, xerr=bars, **style)
        ax.axvline(1.0, color="black", lw=1)
        ax.set_yticks(range(len(labels[ranks])), labels[ranks])
        ax.invert_yaxis()
        ax.set(xscale="log", title=f"{ranks} rank{'s' * (ranks > 1)}, one thread each")
        ax.legend(fontsize="small")
    axes[-1, 0].set_xlabel("time of a step, peer / allgrad (above 1: allgrad is faster)")
    return figure
