"""Time to a target on W ranks, by the cost model: what `study project` tabulates."""

from dataclasses import dataclass

from allgrad.launch.study.costs import cost_model, replay
from allgrad.launch.study.costs.calibrate import Compute
from allgrad.launch.study.costs.cost_model import Network

COLUMNS = [
    "W", "algo", "B*", "b*", "B_closed", "steps", "t_compute", "t_straggle", "t_latency", "t_bandwidth", "t_step",
    "T_target", "speedup", "eff", "T_fixed_b", "T_fixed_B", "T_overlap", "bound", "extrapolation",
]  # fmt: skip
BUCKETS = 1, 2, 4, 8, 16  # into how many the gradients may be cut where exchange overlaps with backward


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
