"""Time to a target on W ranks, by the cost model: what `study project` tabulates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allgrad.launch.study.costs import cost_model, replay
from allgrad.launch.study.costs.calibrate import Compute
from allgrad.launch.study.costs.cost_model import Network
from allgrad.launch.study.costs.drawn import Drawn, columns, drawn
from allgrad.launch.study.costs.target import Hyperbola, Target

COLUMNS = [
    "W", "algo", "B*", "B*_lo", "B*_hi", "b*", "B_closed", "steps", "t_compute", "t_straggle", "t_latency",
    "t_bandwidth", "t_step", "T_target", "T_target_lo", "T_target_hi", "speedup", "speedup_lo", "speedup_hi", "eff",
    "T_fixed_b", "T_fixed_B", "T_overlap", "bound", "beyond", "extrapolation",
]  # fmt: skip
BUCKETS = 1, 2, 4, 8, 16  # into how many the gradients may be cut where exchange overlaps with backward
FARTHEST = 6  # doublings beyond the best batch at which draws look for theirs


@dataclass(frozen=True, eq=False)
class Model:
    """All that the time to target is computed from: seconds and bytes, as in `cost_model`.

    The numbers in net, compute and target are single ones, or arrays of as many draws of them.
    """

    net: Network
    algorithm: str
    compute: Compute
    bytes: int
    target: Target

    def exchange(self, W: int) -> Any:
        if self.algorithm != "best":
            return cost_model.all_reduce(self.algorithm, W, self.bytes, self.net)
        every = [cost_model.all_reduce(name, W, self.bytes, self.net) for name in cost_model.ALGORITHMS]
        return np.min(np.broadcast_arrays(*every), axis=0)[()]

    def coefficients(self, W: int) -> tuple[Any, Any]:
        """c_W and d of a step c_W + d b: what does not, and what does depend on the examples b of a rank."""
        slow = self.compute.crowding * self.compute.straggling(W)
        return slow * self.compute.line.a + self.exchange(W), slow * self.compute.line.b

    def time(self, B: float, W: int) -> Any:
        """Seconds to the target with global batch B; nan where the target does not tell the steps."""
        c, d = self.coefficients(W)
        return self.target(B) * (c + d * B / W)

    def batches(self, W: int) -> list[int]:
        """Powers of two from W on, so that each rank has an example, of which the target tells the steps; all of them
        for a target with an end, else up to FARTHEST doublings beyond the best."""
        B, found, best = 1 << max(W - 1, 0).bit_length(), [], None
        while self.target.most >= B and B < 1 << 50:
            if self.target.least <= B:
                found.append(B)
                time = self.time(B, W)
                if best is None or time < best[0]:
                    best = time, len(found)
                if self.target.most == np.inf and len(found) >= best[1] + FARTHEST:
                    break
            B *= 2
        return found

    def best(self, W: int) -> tuple[int, float]:
        """The best of `batches`, and its seconds."""
        return min(((B, self.time(B, W)) for B in self.batches(W)), key=lambda pair: pair[1])


@dataclass(frozen=True, eq=False)
class Uncertain:
    """A model at its best estimates, the same with draws of them, and why there are none of some.

    seen   how many ranks were timed
    lacks  what of it has no interval, in words
    """

    at: Model
    draws: Model
    seen: int = 1
    lacks: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Why times have no interval; "" if they have one."""
        return self.at.target.why

    def time(self, B: int, W: int) -> Drawn:
        """Seconds to the target with batch B on W ranks."""
        return drawn(self.draws.time(B, W), self.why)

    def ranks(self, most: int) -> list[int]:
        """Powers of two of ranks that have a batch, at most so many."""
        return [W for W in (1 << k for k in range(most.bit_length())) if self.at.batches(W)]

    def best_batch(self, W: int) -> Drawn:
        """The best batch on W ranks: of each draw."""
        batches = self.at.batches(W)
        times = np.array([self.draws.time(B, W) for B in batches])
        return drawn(np.array(batches)[times.argmin(axis=0)], self.why)

    def best_ranks(self, ranks: Sequence[int]) -> Drawn:
        """How many ranks are soonest at the target, each number of them with its best batch: of each draw."""
        times = np.array([np.min([self.draws.time(B, W) for B in self.at.batches(W)], axis=0) for W in ranks])
        return drawn(np.array(ranks)[times.argmin(axis=0)], self.why)


def ratio(first: Drawn, second: Drawn) -> Drawn:
    """One number over another of the same draws, whose common errors so cancel."""
    return drawn(first.draws / second.draws, first.why or second.why)


def row(model: Uncertain, W: int, recording=None) -> dict:
    """COLUMNS for W ranks; `recording` of a backward, for T_overlap."""
    at = model.at
    B, _ = at.best(W)
    first, _ = at.best(1)
    T, T1, batch = model.time(B, W), model.time(first, 1), model.best_batch(W)
    speedup = ratio(T1, T)
    c, d = at.coefficients(W)
    exchange, seconds = at.exchange(W), at.compute(B / W)
    algorithm = at.algorithm
    if algorithm == "best":
        algorithm = cost_model.best_algorithm(W, at.bytes, at.net)
    latency = cost_model.all_reduce(algorithm, W, 0, at.net)
    step, steps = c + d * B / W, float(at.target(B))
    straggle = seconds * (at.compute.straggling(W) - 1.0)
    overlapped = None
    if recording is not None:
        overlapped = steps * min(overlap(at, W, B, recording, k).step for k in BUCKETS)
    closed = cost_model.best_batch(W, at.target.b_crit, c, d) if isinstance(at.target, Hyperbola) else None
    return {
        "W": W, "algo": algorithm if W > 1 else "none", **columns("B*", batch), "B*": B, "b*": B // W,
        "B_closed": closed, "steps": steps, "t_compute": seconds,
        "t_straggle": straggle, "t_latency": latency, "t_bandwidth": exchange - latency, "t_step": step,
        **columns("T_target", T), **columns("speedup", speedup), "eff": speedup.value / W,
        "T_fixed_b": _known(at.time(first * W, W)),
        "T_fixed_B": _known(at.time(first, W)) if first >= W else None, "T_overlap": overlapped,
        "bound": bound(seconds + straggle, latency, exchange - latency, B, at.target.b_crit),
        "beyond": at.target.beyond(B), "extrapolation": max(1.0, W / model.seen),
    }  # fmt: skip


def _known(time):
    return None if np.isnan(time) else float(time)


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
