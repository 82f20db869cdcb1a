"""Numbers computed from others whose errors are known: the errors are drawn, and carried through the computation.

What is drawn are logarithms with Student's t errors, so that a number of few degrees of freedom has the wide interval
that it deserves. The draws are seeded: the same data have the same intervals.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allgrad.launch.study.intervals import LEVEL, Estimate

DRAWS = 4000
FAR = 100.0  # a logarithm beyond which a number is as good as 0 or infinite, and has a square all the same


@dataclass(frozen=True, eq=False)
class Drawn(Estimate):
    """A number of which `draws` were computed: their median, and the interval of the middle 95 % of them."""

    draws: np.ndarray = field(default_factory=lambda: np.empty(0))

    def interval(self, level=LEVEL):
        if self.why or not self.draws.size or np.isnan(self.draws).any():
            return float("nan"), float("nan")
        tail = (1.0 - level) / 2.0
        low, high = np.quantile(self.draws, (tail, 1.0 - tail), method="nearest")
        return float(low), float(high)

    def p_above(self, bound):
        return float(np.mean(self.draws <= bound)) if self.known else float("nan")

    def p_below(self, bound):
        return float(np.mean(self.draws >= bound)) if self.known else float("nan")

    def times(self, factor):
        return drawn(self.draws * factor, self.why)


def drawn(draws: Any, why="") -> Drawn:
    """The estimate of these draws; why: why they have no interval, if they have none."""
    draws = np.asarray(draws, float)
    return Drawn(float(np.median(draws)), why=why, draws=draws)


def student(rng: np.random.Generator, n: int, dof: float, columns=1) -> np.ndarray:
    """(n, columns) errors of Student's t with unit scale; those of one draw have their estimate of the scale in common.

    dof = inf: normal errors.
    """
    z = rng.standard_normal((n, columns))
    return z if np.isinf(dof) else z * np.sqrt(dof / rng.chisquare(dof, (n, 1)))


def exp(logs: Any) -> np.ndarray:
    """The numbers of logarithms, which errors of one degree of freedom may take beyond what a float holds."""
    return np.exp(np.clip(logs, -FAR, FAR))


class BlockErrors:
    """Errors of means over blocks of measurements that took turns, all from the same blocks.

    A block counts once, however many steps it has: steps that follow each other are alike. What one slow block has done
    to several means, it does to them in the same draws.
    """

    def __init__(self, rng: np.random.Generator, blocks: int, n: int = DRAWS):
        self.blocks, self.n = blocks, n
        many = blocks > 1
        self.weights = student(rng, n, blocks - 1.0, blocks) / np.sqrt(blocks * (blocks - 1.0)) if many else None

    def __call__(self, logs: Any) -> np.ndarray:
        """(n, columns) errors of the means over blocks of `logs` (blocks, columns); 0 of a single block."""
        values = np.asarray(logs, float)
        if self.weights is None:
            return np.zeros((self.n, values.shape[1]))
        return self.weights @ (values - values.mean(axis=0))


def columns(name: str, e: Estimate | None) -> dict[str, float | None]:
    """A number and the ends of its interval as cells of a table, which shows them as one column."""
    return {name: e and e.value, f"{name}_lo": e and e.low, f"{name}_hi": e and e.high}
