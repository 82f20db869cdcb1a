"""The numbers of the cost model from measured times: alpha and beta of the network, the compute of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from allgrad.ddp.reduce import SHARED_MEMORY_BYTES
from allgrad.launch.study.costs import cost_model
from allgrad.launch.study.costs.cost_model import Network

ALL_REDUCE_BYTES = {"quick": [2**k for k in range(8, 25, 2)], "full": [2**k for k in range(8, 25)]}
REPEATS = {"quick": 15, "full": 30}
ADDED_BYTES = 2**18  # of the arrays that are added to find C: they stay in a core's cache


@dataclass(frozen=True)
class Line:
    """t = a + b x, fitted with weights 1 / t, and neither a nor b below zero.

    errors   predicted / measured - 1 of each point, by a line fitted to the others
    """

    a: float
    b: float
    x: tuple[float, ...]
    t: tuple[float, ...]
    errors: tuple[float, ...]

    def __call__(self, x):
        return self.a + self.b * x

    @property
    def worst(self) -> float:
        """The largest of `errors`, without its sign."""
        return max(map(abs, self.errors))


def line(x: Sequence[float], t: Any) -> Line:
    """The line of the least squares of relative errors, sum_i ((a + b x_i) / t_i - 1)^2, with a, b >= 0."""
    x_, t_ = np.asarray(x, float), np.asarray(t, float)
    others = [np.arange(len(x_)) != i for i in range(len(x_))]
    lines = [_fit(x_[o], t_[o]) if len(x_) > 2 else (np.nan, np.nan) for o in others]
    errors = tuple(float((a + b * one) / seen - 1.0) for (a, b), one, seen in zip(lines, x_, t_))
    return Line(*_fit(x_, t_), tuple(map(float, x_)), tuple(map(float, t_)), errors)


def _fit(x, t):
    scale = x.max()
    a, b = nnls(np.stack([1.0 / t, x / scale / t], 1), np.ones(len(t)))[0]
    return float(a), float(b / scale)


def exact(ranks: int, nbytes: float) -> str:
    """Which of `cost_model.ALGORITHMS` has the costs of the exact all-reduce of `ddp` on one host.

    Each rank adds up a share of the others' memory and writes it back, between two meetings; with ranks that are no
    power of two, these are a ring's costs. What is short goes in one message between two ranks.
    """
    if ranks == 2 and nbytes < SHARED_MEMORY_BYTES:
        return "recursive-doubling"
    return "rabenseifner" if ranks & (ranks - 1) == 0 else "ring"


def network(times: Mapping[int, tuple[Sequence[float], Sequence[float]]], c: float, name="measured") -> Network:
    """A and B from {ranks: (bytes, seconds)} of exact all-reduces, and from C, the seconds a byte added.

    t = a A + b B + c C with the costs of `exact`, by least squares of relative errors, A and B not below zero.
    """
    rows, targets = [], []
    for p, (sizes, seconds) in times.items():
        n, t = np.asarray(sizes, float), np.asarray(seconds, float)
        unit = [[cost_model.ALGORITHMS[exact(p, m)](p, m, *one) for one in np.eye(3)] for m in n]
        rows.append(np.array(unit)[:, :2] / t[:, None])
        targets.append((t - np.array(unit)[:, 2] * c) / t)
    matrix = np.concatenate(rows)
    scale = matrix.max(0)
    A, B = nnls(matrix / scale, np.concatenate(targets))[0] / scale
    least, most = min(min(n) for n, _ in times.values()), max(max(n) for n, _ in times.values())
    ranks = " and ".join(map(str, times))
    return Network(
        name, float(A), float(B), c, f"all-reduces of {least:,.0f} to {most:,.0f} bytes over {ranks} ranks, here"
    )


@dataclass(frozen=True)
class Compute:
    """What a rank computes in a step, without exchange.

    line        seconds against the batch b of one rank: c0 + d b
    relative    measured seconds / their median, of all batches: what stragglers are drawn from
    crowding    median seconds with all cores at work / those of one rank alone; 1 if not measured
    """

    line: Line
    relative: tuple[float, ...]
    crowding: float = 1.0

    def __call__(self, b):
        return self.crowding * self.line(b)

    def straggling(self, W: int) -> float:
        """By how much the slowest of W ranks is expected to take longer than the median."""
        return cost_model.expected_maximum(self.relative, W)

    def slowest_median(self, W: int) -> float:
        """The median, over steps, of how much longer the slowest of W ranks takes than the median."""
        return float(np.quantile(self.relative, 0.5 ** (1.0 / W)))


def compute(times: Mapping[int, Any], crowding=1.0, relative: Sequence[float] = ()) -> Compute:
    """From the seconds of steps of one rank, {batch: seconds of each step without exchange}.

    relative: as in Compute, if it was measured apart; else that of these times
    """
    medians = {b: float(np.median(seconds)) for b, seconds in sorted(times.items())}
    own = [t / medians[b] for b in medians for t in times[b]]
    return Compute(line(list(medians), list(medians.values())), tuple(map(float, relative or own)), crowding)
