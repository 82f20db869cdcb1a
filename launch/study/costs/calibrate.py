"""The numbers of the cost model from measured times: alpha and beta of the network, the compute of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allgrad.ddp.reduce import SHARED_MEMORY_BYTES
from allgrad.launch.study.costs import cost_model
from allgrad.launch.study.costs.cost_model import Network
from allgrad.launch.study.costs.drawn import BlockErrors, exp, student

ALL_REDUCE_BYTES = {"quick": [2**k for k in range(8, 25, 2)], "full": [2**k for k in range(8, 25)]}
REPEATS = {"quick": 15, "full": 30}
ADDED_BYTES = 2**18  # of the arrays that are added to find C: they stay in a core's cache


@dataclass(frozen=True)
class Line:
    """t = a + b x, fitted with weights 1 / t, and neither a nor b below zero.

    a, b     numbers, or arrays of draws of them
    errors   predicted / measured - 1 of each point, by a line fitted to the others
    """

    a: Any
    b: Any
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
    a, b = _fit(x_, t_)
    return Line(float(a), float(b), tuple(map(float, x_)), tuple(map(float, t_)), errors)


def _fit(x, t):
    """a and b of t (..., points)."""
    return least_squares(1.0 / t, x / t, np.ones(t.shape))


def least_squares(u, v, y) -> tuple[Any, Any]:
    """a, b >= 0 of the least |a u + b v - y|^2 over the last axis, one pair for each of the others.

    Inside, the normal equations; where these would leave it, the better of the two edges.
    """
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    uy, vy = (u * y).sum(-1), (v * y).sum(-1)
    square = uu * vv - uv * uv
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (vv * uy - uv * vy) / square, (uu * vy - uv * uy) / square
    only_a, only_b = np.maximum(uy / uu, 0.0), np.maximum(vy / vv, 0.0)
    inside = (square > 1e-12 * uu * vv) & (a >= 0.0) & (b >= 0.0)
    flat = only_a * uy >= only_b * vy  # what each edge takes off the squares
    return np.where(inside, a, np.where(flat, only_a, 0.0))[()], np.where(inside, b, np.where(flat, 0.0, only_b))[()]


def exact(ranks: int, nbytes: float) -> str:
    """Which of `cost_model.ALGORITHMS` has the costs of the exact all-reduce of `ddp` on one host.

    Each rank adds up a share of the others' memory and writes it back, between two meetings; with ranks that are no
    power of two, these are a ring's costs. What is short goes in one message between two ranks.
    """
    if ranks == 2 and nbytes < SHARED_MEMORY_BYTES:
        return "recursive-doubling"
    return "rabenseifner" if ranks & (ranks - 1) == 0 else "ring"


def network(times: Mapping[int, tuple[Sequence[float], Any]], c: float, name="measured") -> Network:
    """A and B from {ranks: (bytes, seconds)} of exact all-reduces, and from C, the seconds a byte added.

    t = a A + b B + c C with the costs of `exact`, by least squares of relative errors, A and B not below zero.
    """
    A, B = _network(times, c)
    least, most = min(min(n) for n, _ in times.values()), max(max(n) for n, _ in times.values())
    ranks = " and ".join(map(str, times))
    return Network(
        name, float(A), float(B), c, f"all-reduces of {least:,.0f} to {most:,.0f} bytes over {ranks} ranks, here"
    )


def _network(times, c):
    """A and B of seconds (..., sizes), with c of the same leading shape."""
    c = np.asarray(c, float)
    parts = []
    for p, (sizes, seconds) in times.items():
        t = np.asarray(seconds, float)
        unit = np.array(
            [[cost_model.ALGORITHMS[exact(p, m)](p, m, *one) for one in np.eye(3)] for m in map(float, sizes)]
        )
        parts.append((unit[:, 0] / t, unit[:, 1] / t, (t - unit[:, 2] * c[..., None]) / t))
    return least_squares(*(np.concatenate(part, axis=-1) for part in zip(*parts)))


@dataclass(frozen=True, eq=False)
class Compute:
    """What a rank computes in a step, without exchange.

    line        seconds against the batch b of one rank: c0 + d b
    relative    measured seconds / the median of their block, of all batches: what stragglers are drawn from
    crowding    median seconds with all cores at work / those of one rank alone; 1 if not measured
    late        {W: draws of `straggling`}, where line and crowding are draws as well
    """

    line: Line
    relative: tuple[float, ...]
    crowding: Any = 1.0
    late: Mapping[int, Any] = field(default_factory=dict)

    def __call__(self, b):
        return self.crowding * self.line(b)

    def straggling(self, W: int) -> Any:
        """By how much the slowest of W ranks is expected to take longer than the median."""
        return self.late[W] if W in self.late else cost_model.expected_maximum(self.relative, W)

    def slowest_median(self, W: int) -> float:
        """The median, over steps, of how much longer the slowest of W ranks takes than the median."""
        return float(np.quantile(self.relative, 0.5 ** (1.0 / W)))


def over_blocks(blocks: Any) -> np.ndarray:
    """The geometric means, over blocks, of seconds (blocks, ...)."""
    return np.exp(np.log(np.asarray(blocks, float)).mean(axis=0))


@dataclass(frozen=True, eq=False)
class Timed:
    """What was timed of a machine, all of it in each of the same blocks, which took turns. Seconds and bytes.

    batches, steps   batches of one rank, and medians of its steps (blocks, batches)
    crowding         (blocks,): seconds with all cores at work / those of one rank alone; () if not measured
    relative         of each block the seconds of steps / their median
    reduced          {ranks: (bytes, medians of all-reduces (blocks, sizes))}
    added            (blocks,): seconds a byte added
    """

    batches: Sequence[int]
    steps: Any
    crowding: Any
    relative: Sequence[Any]
    reduced: Mapping[int, tuple[Sequence[int], Any]] = field(default_factory=dict)
    added: Any = ()

    @property
    def blocks(self) -> int:
        return len(self.steps)

    @property
    def compute(self) -> Compute:
        every = tuple(float(v) for block in self.relative for v in block)
        return Compute(line(self.batches, over_blocks(self.steps)), every, max(1.0, float(self._crowding)))

    @property
    def _crowding(self):
        return over_blocks(self.crowding) if len(self.crowding) else 1.0

    def network(self, without: int | None = None) -> Network:
        """A and B of all numbers of ranks, or of all but one, if there are others."""
        return network(
            {W: (n, over_blocks(t)) for W, (n, t) in self._but(without).items()}, float(over_blocks(self.added))
        )

    def _but(self, without):
        return {W: found for W, found in self.reduced.items() if without != W} or self.reduced

    def drawn_compute(self, errors: BlockErrors, rng, ranks: Sequence[int] = ()) -> Compute:
        """Draws of `compute`, those of its `straggling` for these numbers of ranks."""
        at, b = self.compute, np.asarray(self.batches, float)
        a, b = _fit(b, _with_misfit(self.steps, at.line(b), errors, rng))
        crowding = np.ones(errors.n)
        if len(self.crowding):
            logs = np.log(np.asarray(self.crowding, float))[:, None]
            crowding = np.maximum(1.0, self._crowding * exp(errors(logs)[:, 0]))
        each = [[cost_model.expected_maximum(block, W) for W in ranks] for block in self.relative]
        scatter = exp(errors(np.log(each))) if ranks else np.empty((errors.n, 0))
        late = {W: at.straggling(W) * scatter[:, k] for k, W in enumerate(ranks)}
        return Compute(Line(a, b, at.line.x, at.line.t, at.line.errors), at.relative, crowding, late)

    def drawn_network(self, errors: BlockErrors, rng, without: int | None = None) -> Network:
        """Draws of `network`."""
        at = self.network(without)
        added = over_blocks(self.added) * exp(errors(np.log(np.asarray(self.added, float))[:, None])[:, 0])
        times = {}
        for W, (sizes, seconds) in self._but(without).items():
            fitted = np.array([cost_model.all_reduce(exact(W, n), W, n, at) for n in sizes])
            times[W] = sizes, _with_misfit(seconds, fitted, errors, rng)
        A, B = _network(times, added)
        return Network(at.name, A, B, added, at.basis)


def _with_misfit(blocks, fitted, errors, rng):
    """Draws (n, points) of the means over blocks of seconds, and of how far such means are from what was fitted.

    Their scatter about it is the mean square on K - 2 degrees of freedom, less what the blocks explain.
    """
    logs = np.log(np.asarray(blocks, float))
    middle, (n, points) = logs.mean(axis=0), logs.shape
    found, dof = middle + errors(logs), points - 2.0
    if dof > 0.0:
        away = middle - np.log(np.maximum(fitted, 1e-300))
        explained = logs.var(axis=0, ddof=1).mean() / n if n > 1 else 0.0
        misfit = max(0.0, float(away @ away) / dof - explained)
        found = found + np.sqrt(misfit) * student(rng, errors.n, dof, points)
    return exp(found)
