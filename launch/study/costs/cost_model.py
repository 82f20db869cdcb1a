"""What a training step costs on W ranks, and a training run to a target. Seconds and bytes throughout.

All-reduce of n bytes over p ranks, each of which sends and receives one message at a time: a message of k bytes takes
A + k B, and adding k bytes to k others takes k C (Hockney 1994; Thakur, Rabenseifner, Gropp 2005).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allgrad.ddp.errors import ConfigurationError

# --- networks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A: seconds a message. B: seconds a byte sent. C: seconds a byte added. basis: what these numbers rest on.

    A, B and C are numbers, or arrays of draws of them.
    """

    name: str
    A: Any
    B: Any
    C: Any = 0.0
    basis: str = ""


def _line(name, latency_us, gigabits, c, basis):
    return Network(name, latency_us * 1e-6, 8e-9 / gigabits, c, f"line rate {gigabits} Gbit/s; {basis}")


NETWORKS = {
    network.name.lower(): network
    for network in (
        _line("10GbE", 30.0, 10, 1e-10, "a message through the kernel's TCP takes 20 to 50 us"),
        _line("25GbE", 20.0, 25, 1e-10, "a message through the kernel's TCP takes 10 to 40 us"),
        _line("100GbE", 4.0, 100, 1e-10, "a message through RoCE takes 2 to 5 us"),
        _line("IB-HDR", 1.5, 200, 1e-10, "MPI over InfiniBand HDR takes 1 to 2 us a message"),
        _line("IB-NDR", 1.3, 400, 1e-10, "MPI over InfiniBand NDR takes 1 to 2 us a message"),
        _line("shm", 0.5, 64, 1e-10, "copies of about 8 GB/s; MPI over shared memory takes 0.2 to 1 us a message"),
        _line("NVLink", 5.0, 2400, 1e-12, "about 300 GB/s each way; NCCL takes some us a step to start and signal"),
    )
}
NETWORKS["ib"] = NETWORKS["ib-hdr"]
FORMS = "10GbE, 25GbE, 100GbE, IB-HDR (or ib), IB-NDR, shm, NVLink or custom:A,B[,C] in seconds"


def network(spec: str) -> Network:
    """A network by name, with values that are typical and not measured here, or `custom:A,B[,C]` as `custom:2e-5,1e-9`.

    A in seconds a message, B and C in seconds a byte.
    """
    kind, _, rest = spec.partition(":")
    if kind.lower() in NETWORKS and not rest:
        return NETWORKS[kind.lower()]
    if kind != "custom":
        raise ConfigurationError(f"there is no network {spec!r}: give {FORMS}")
    try:
        values = [float(word) for word in rest.split(",")]
    except ValueError:
        values = []
    if len(values) not in (2, 3) or not all(0.0 <= v < math.inf for v in values):
        raise ConfigurationError(f"{spec!r} is not custom:A,B[,C], numbers of at least 0: write custom:2e-5,1e-9")
    return Network(spec, *values, basis="given by the user")


# --- all-reduce --------------------------------------------------------------------------------------------------
# Each in seconds, of p ranks, n bytes, and A, B, C as in `Network`. A sum over one rank costs nothing.


def ring(p, n, A, B, C=0.0):
    """Reduce-scatter and all-gather around a ring: every message has n / p bytes."""
    return 2 * (p - 1) * A + (p - 1) / p * n * (2 * B + C)


def rabenseifner(p, n, A, B, C=0.0):
    """Reduce-scatter by recursive halving, all-gather by recursive doubling (Rabenseifner 2004)."""
    lg, q, fold = _folded(p, n, A, B, C)
    return 2 * lg * A + (q - 1) / q * n * (2 * B + C) + fold


def recursive_doubling(p, n, A, B, C=0.0):
    """All n bytes exchanged at distances 1, 2, 4, ...: fewest messages, most bytes."""
    lg, _, fold = _folded(p, n, A, B, C)
    return lg * (A + n * (B + C)) + fold


def tree(p, n, A, B, C=0.0):
    """Reduce to one rank along a binomial tree, and broadcast from it."""
    return math.ceil(math.log2(p)) * (2 * (A + n * B) + n * C)


def hierarchical(nodes, ranks, n, A1, B1, A2, B2, C=0.0):
    """A ring within each node of so many ranks (A1, B1) around rings between the nodes, each of n / ranks bytes."""
    return ring(ranks, n, A1, B1, C) + ring(nodes, n / ranks, A2, B2, C)


def _folded(p, n, A, B, C):
    """lg q, q and what folding costs, of the largest power of two q <= p.

    The p - q ranks too many first send all they have to a partner, and get the sum back at the end.
    """
    lg = int(p).bit_length() - 1
    return lg, 1 << lg, (2 * (A + n * B) + n * C if p != 1 << lg else 0.0)


ALGORITHMS = {"ring": ring, "rabenseifner": rabenseifner, "recursive-doubling": recursive_doubling, "tree": tree}


def all_reduce(algorithm: str, p, n, net: Network) -> float:
    """Seconds of one of ALGORITHMS, or of the fastest of them if the algorithm is "best"."""
    if algorithm == "best":
        return all_reduce(best_algorithm(p, n, net), p, n, net)
    if algorithm not in ALGORITHMS:
        raise ConfigurationError(f"an algorithm is one of best, {', '.join(ALGORITHMS)}, got {algorithm!r}")
    return ALGORITHMS[algorithm](p, n, net.A, net.B, net.C)


def best_algorithm(p, n, net: Network) -> str:
    """Name of the fastest, the first in ALGORITHMS among equals."""
    return min(ALGORITHMS, key=lambda name: ALGORITHMS[name](p, n, net.A, net.B, net.C))


def crossover(p, A, B, C=0.0):
    """Bytes below which recursive doubling beats Rabenseifner's algorithm, p a power of two and at least 4."""
    lg, share = math.log2(p), (p - 1) / p
    return lg * A / (lg * (B + C) - share * (2 * B + C))


# --- a step --------------------------------------------------------------------------------------------------------


def overlap(ready: Sequence[float], exchange: Sequence[float]) -> list[float]:
    """When the exchange of each bucket ends, on one channel: f_j = max(f_(j-1), r_j) + T_j.

    ready     when each bucket's gradients are final, in the order of sending
    exchange  how long each bucket takes
    """
    ends, end = [], 0.0
    for r, t in zip(ready, exchange):
        end = max(end, r) + t
        ends.append(end)
    return ends


def step_time(ready: Sequence[float], exchange: Sequence[float], optimizer=0.0) -> float:
    """Seconds of a step whose buckets are exchanged while backward, which ends with the last of `ready`, goes on."""
    return max(ready[-1], overlap(ready, exchange)[-1]) + optimizer


def normal_maximum(W: int) -> float:
    """The mean of the largest of W standard normal numbers: a step waits mu + sigma times this for its compute."""
    x = np.linspace(-10.0, 10.0, 20001)
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x]) ** W
    # E[max] = int_0^inf (1 - F^W) dx - int_-inf^0 F^W dx
    return float(np.trapezoid(np.where(x > 0.0, 1.0 - below, -below), x) + 0.5 * (x[1] - x[0]))


def exponential_maximum(W: int) -> float:
    """The mean of the largest of W exponential numbers of mean 1: the harmonic number H_W."""
    return math.fsum(1.0 / k for k in range(1, W + 1))


def expected_maximum(times: Sequence[float], W: int) -> float:
    """The mean of the largest of W times drawn with replacement from those measured: the bootstrap, without drawing.

    The i-th smallest of n is the largest drawn with probability (i / n)^W - ((i - 1) / n)^W. No mean exceeds the
    largest time seen, so that for W above n this is a lower bound.
    """
    ordered = np.sort(np.asarray(times, float))
    return float(ordered @ np.diff(np.linspace(0.0, 1.0, len(ordered) + 1) ** W))


# --- scaling laws --------------------------------------------------------------------------------------------------


def amdahl(serial: float, p) -> float:
    """Speedup of a fixed problem on p ranks, of which this share of the time on one rank cannot be shared out."""
    return 1.0 / (serial + (1.0 - serial) / p)


def gustafson(serial: float, p) -> float:
    """Speedup of a problem that grows with p, of which this share of the time on p ranks is serial."""
    return p - serial * (p - 1)


def karp_flatt(speedup: float, p) -> float:
    """The serial share that explains a speedup: one that rises with p shows overhead, a constant one a serial part."""
    return (1.0 / speedup - 1.0 / p) / (1.0 - 1.0 / p)


# --- time to target --------------------------------------------------------------------------------------------------


def time_to_target(B, W, s_min, b_crit, c, d) -> float:
    """T = S_min (1 + B_crit / B) (c + d B / W): steps of McCandlish et al. 2018, of c + d b seconds at b a rank."""
    return s_min * (1.0 + b_crit / B) * (c + d * B / W)


def best_batch(W, b_crit, c, d) -> float:
    """The global batch of least time, B* = sqrt(B_crit c W / d)."""
    return math.sqrt(b_crit * c * W / d)


def least_time(W, s_min, b_crit, c, d) -> float:
    """`time_to_target` at `best_batch`: S_min (sqrt(c) + sqrt(B_crit d / W))^2."""
    return s_min * (math.sqrt(c) + math.sqrt(b_crit * d / W)) ** 2
