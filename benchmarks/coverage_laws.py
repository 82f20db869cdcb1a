"""How often the 95 % intervals of the best and the critical batch size, and of their power laws, hold the truth.

`python -m benchmarks.coverage_laws [SIMULATIONS] [SEED]`
"""

import math
import sys
from dataclasses import dataclass

import numpy as np

from allgrad.launch.study.intervals import share
from allgrad.launch.study.laws import MARGIN, Cells, Point, found_in, power_law

BATCHES = tuple(4 * 2**k for k in range(10))


@dataclass(frozen=True)
class Planted:
    """Losses ln L = -fall ln D + h (ln B - ln B_opt)^2 with B_opt = 0.5 D^p N^r, and h such that B_crit = 1.6 D^q N^t.

    noise: standard deviation of ln L between runs; common: between seeds, the same at all batches; rate: between
    batches, the same in all seeds, as that of a rate which tuning has not found exactly
    """

    examples: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000)
    parameters: tuple[int, ...] = (1,)
    seeds: int = 5
    noise: float = 0.02
    common: float = 0.05
    rate: float = 0.0
    fall: float = 0.5
    p: float = 0.4
    q: float = 0.5
    r: float = 0.0
    t: float = 0.0

    def b_opt(self, examples, parameters):
        """The best batch size."""
        return 0.5 * examples**self.p * parameters**self.r

    def b_crit(self, examples, parameters):
        """The largest that needs no more than MARGIN times the least examples."""
        return 1.6 * examples**self.q * parameters**self.t

    def draw(self, rng):
        """{N: the cells of all D} of one study."""
        found = {}
        for n in self.parameters:
            seeds = self.common * rng.standard_normal(self.seeds)
            curves = []
            for d in self.examples:
                far = np.log(np.array(BATCHES) / self.b_opt(d, n))
                h = self.fall * math.log(MARGIN) / math.log(self.b_crit(d, n) / self.b_opt(d, n)) ** 2
                means = 1.0 - self.fall * math.log(d) + h * far**2 + self.rate * rng.standard_normal(len(BATCHES))
                noise = self.noise * rng.standard_normal((len(BATCHES), self.seeds))
                doubts = [self.rate] * len(BATCHES)
                curves.append(Cells(d, BATCHES, np.exp(means[:, None] + noise + seeds), doubts))
            found[n] = curves
        return found


def hits(case: Planted, simulations: int, seed: int) -> dict[str, tuple[int, int]]:
    """{number: (how often its interval held the truth, of how many intervals)} of simulated studies."""
    counts: dict[str, list[bool]] = {}
    for k in range(simulations):
        rng = np.random.default_rng([seed, k])
        points: dict[str, list[Point]] = {"opt": [], "crit": []}
        for n, curves in case.draw(rng).items():
            for found in found_in(curves):
                for name, batch, truth in (("opt", found.b_opt, case.b_opt), ("crit", found.b_crit, case.b_crit)):
                    points[name].append(Point(found.examples, n, batch))
                    if batch.known:
                        held = batch.low <= truth(found.examples, n) <= batch.high
                        counts.setdefault(f"B_{name}", []).append(held)
        for name, powers in (("opt", (case.p, case.r)), ("crit", (case.q, case.t))):
            try:
                law = power_law(points[name])
            except ValueError:
                continue
            for what, power, truth in zip(("D", "N"), (law.of_examples, law.of_parameters), powers):
                if power is not None:
                    counts.setdefault(f"B_{name}: power of {what}", []).append(power.low <= truth <= power.high)
    return {name: (sum(held), len(held)) for name, held in counts.items()}


CASES = {
    "5 seeds": Planted(),
    "3 seeds": Planted(seeds=3),
    "10 seeds": Planted(seeds=10),
    "3 numbers of examples": Planted(examples=(1000, 4000, 16000)),
    "8 numbers of examples": Planted(examples=tuple(1000 * 2**k for k in range(8))),
    "rates that scatter": Planted(rate=0.02),
    "3 models": Planted(parameters=(1, 4, 16), r=0.1, t=0.05),
}


def tables(simulations: int, seed: int) -> dict[str, dict[str, tuple[int, int]]]:
    """{case: {number: (held, of)}}"""
    return {name: hits(case, simulations, seed) for name, case in CASES.items()}


def main(simulations=400, seed=0):
    """Print the shares with their exact 95 % intervals."""
    for case, found in tables(simulations, seed).items():
        for name, (held, of) in found.items():
            e = share(held, of, "intervals")
            print(f"{case:<24}{name:<22}{held:>6} of {of:<6}{e.value:7.1%} [{e.low:.1%}, {e.high:.1%}]")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
