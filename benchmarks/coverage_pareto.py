"""How often the 95 % intervals of `allgrad study pareto` hold the truth, which they should in 93 to 97 % of studies.

    python -m benchmarks.coverage_pareto [--repetitions 1000]

A study is simulated from its laws: steps to a target on a hyperbola, with the scatter of seeds and of the tuned rate,
to which the hyperbola is fitted again; and timings with laws of their own, in blocks which a machine's mood moves as a
whole. `pareto` computes seconds and cost from these as from a real study's. The cost is W times the seconds, and its
interval holds the truth in the same studies.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np

from allgrad.launch.study import fit, intervals
from allgrad.launch.study.costs import calibrate, cost_model
from allgrad.launch.study.costs.calibrate import Compute, Line, Timed
from allgrad.launch.study.costs.drawn import BlockErrors
from allgrad.launch.study.costs.projection import Model, Uncertain
from allgrad.launch.study.costs.target import Hyperbola, Measured, Target, of_rows

BYTES = 38440
LATE = np.exp(0.03 * np.random.default_rng(7).standard_normal(200_000))  # a step's compute over its median
TRUTH = Model(
    cost_model.Network("measured", 20e-6, 1e-9, 0.1e-9), "best",
    Compute(Line(200e-6, 3e-6, (), (), ()), tuple(LATE / np.median(LATE)), 1.2), BYTES, Hyperbola(13.0, 100.0),
)  # fmt: skip
BATCHES = tuple(4 * 2**k for k in range(9))
SEEDS, SEED_NOISE, RATE_NOISE = 5, 0.08, 0.04  # standard deviations of ln S
SIZES = calibrate.ALL_REDUCE_BYTES["quick"]
TIMED = 8, 32, 64, 128, 256
STEPS, MOOD, NOISE = 60, 0.04, 0.02  # steps a block; standard deviations of ln seconds, of blocks and of timings
SETTINGS = (1, 64), (4, 128), (16, 256), (64, 512)


@dataclass
class Laws:
    """How simulated studies are made: blocks; curve: whether steps are fitted, or taken as measured."""

    blocks: int = 7
    curve: bool = True


def steps_to_target(rng, curve=True) -> Target:
    """What `study steps` would have found: the steps of its batches, and the hyperbola fitted to them.

    The errors of the fit are those of its residual mean square on K - 2 degrees of freedom.
    """
    rate = RATE_NOISE * rng.standard_normal(len(BATCHES)) * curve
    cells = [TRUTH.target(B) * np.exp(r + SEED_NOISE * rng.standard_normal(SEEDS)) for B, r in zip(BATCHES, rate)]
    means = [intervals.mean(cell) for cell in cells]
    rows = [{"optimizer": "sgd", "B": B, "S": m.value, "ci_lo": m.low, "ci_hi": m.high, "n_seeds": SEEDS, "n_fail": 0}
            for B, m in zip(BATCHES, means)]  # fmt: skip
    found = fit.fit_hyperbola(BATCHES, [m.value for m in means])
    dof = len(BATCHES) - 2
    rise = found.b_crit / (np.array(BATCHES) + found.b_crit)
    jacobian = np.stack([np.ones(len(BATCHES)), rise], axis=1)
    square = found.rmse_log**2 * len(BATCHES) / dof
    reach = intervals.quantile(dof, 0.975) * np.sqrt(square * np.diag(np.linalg.inv(jacobian.T @ jacobian)))
    row = {"optimizer": "sgd", "lead": "B_crit" if curve else "B_2x", "B_2x": found.b_crit}
    for name, value, error in (("S_min", found.s_min, reach[0]), ("B_crit", found.b_crit, reach[1])):
        row |= {name: value, f"{name}_lo": value / math.exp(error), f"{name}_hi": value * math.exp(error)}
    target = of_rows([row], rows, "sgd")
    assert isinstance(target, Hyperbola if curve else Measured)
    return target


def timings(rng, blocks) -> Timed:
    """What `study project` would have timed, on one rank and on 2."""
    mood = np.exp(MOOD * rng.standard_normal((blocks, 1)))

    def around(seconds):
        seconds = np.asarray(seconds, float)
        return mood * seconds * np.exp(NOISE * rng.standard_normal((blocks, len(seconds))))

    net, line = TRUTH.net, TRUTH.compute.line
    late = rng.choice(LATE, (blocks, STEPS * len(TIMED)))
    exchanges = [cost_model.all_reduce(calibrate.exact(2, n), 2, n, net) for n in SIZES]
    crowding = TRUTH.compute.crowding * np.exp(NOISE * rng.standard_normal(blocks))
    return Timed(
        TIMED, around([line(b) for b in TIMED]), crowding, late / np.median(late, axis=1, keepdims=True),
        {2: (SIZES, around(exchanges))}, around([net.C])[:, 0],
    )  # fmt: skip


def study(rng, laws: Laws) -> Uncertain:
    """One simulated study, as `pareto` has it."""
    target, timed = steps_to_target(rng, laws.curve), timings(rng, laws.blocks)
    errors = BlockErrors(rng, laws.blocks)
    at = Model(timed.network(), "best", timed.compute, BYTES, target)
    own = timed.drawn_compute(errors, rng, [W for W, _ in SETTINGS])
    return Uncertain(at, Model(timed.drawn_network(errors, rng), "best", own, BYTES, target.drawn(rng, errors.n)), 2)


def coverage(laws: Laws, repetitions: int, seed=0) -> dict[tuple[int, int], int]:
    """In how many of so many studies the interval of the seconds holds the truth, for each of SETTINGS."""
    held, truth = dict.fromkeys(SETTINGS, 0), {(W, B): TRUTH.time(B, W) for W, B in SETTINGS}
    for k in range(repetitions):
        model = study(np.random.default_rng([seed, k]), laws)
        for W, B in SETTINGS:
            seconds = model.time(B, W)
            held[W, B] += seconds.low <= truth[W, B] <= seconds.high
    return held


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    n = parser.parse_args().repetitions
    print(f"coverage of 95 % intervals in {n:,} simulated studies, with its own exact 95 % interval")
    for name, laws in (("curve", Laws()), ("measured steps", Laws(curve=False)), ("curve, 9 blocks", Laws(9))):
        for (W, B), held in coverage(laws, n).items():
            share = intervals.share(held, n)
            print(f"{name:<16} W = {W:<3} B = {B:<4} {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]")


if __name__ == "__main__":
    main()
