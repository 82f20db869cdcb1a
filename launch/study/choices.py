"""Which batch size to take with an optimizer: what the cells of a study say, by a curve and without one."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import critical
from allgrad.launch.study.critical import Cells, Curve, cells_of, curve, doubling, useful
from allgrad.launch.study.intervals import Estimate, ratio
from allgrad.launch.study.lr_tuning import Tuned
from allgrad.launch.study.wording import MARGIN


@dataclass
class Cell:
    """What one optimizer needs with one batch size; `steps` of the report's seeds, inf where one failed."""

    optimizer: str
    batch: int
    tuned: Tuned

    @property
    def steps(self):
        return self.tuned.steps


@dataclass
class Finding:
    """What the cells of one optimizer say, with and without a curve."""

    name: str
    cells: list[Cell]
    whole: Cells
    curve: Curve
    b_2x: Estimate
    cbs20: Estimate
    seconds: dict[int, Estimate] = field(default_factory=dict)  # a step, by batch size

    @classmethod
    def of(cls, name, cells) -> "Finding":
        whole = cells_of({c.batch: c.steps for c in cells}, {c.batch: c.tuned.doubt for c in cells})
        return cls(name, cells, whole, curve(whole), doubling(whole), useful(whole))

    @cached_property
    def curve_2x(self) -> Estimate:
        """B_2x as the curve has it, with the same largest batch."""
        found = self.curve.b_crit
        return found.times(1.0 / (1.0 + 2.0 * found.value / self.whole.batches[-1])) if found.known else found

    @property
    def disagree(self) -> bool:
        """Whether the curve and what needs none contradict each other: neither lies in the other's interval."""
        a, b = self.b_2x, self.curve_2x
        return a.known and b.known and not (a.low <= b.value <= a.high or b.low <= a.value <= b.high)

    @property
    def lead(self) -> str:
        """Which of the two is to be believed: "B_crit" of the curve, if it was tested and may well be true, or "B_2x".

        Below the smallest batch tried there is nothing that a curve could be seen to bend by.
        """
        tested = self.curve.b_crit.known and self.curve.p >= critical.REJECT
        return "B_crit" if tested and not self.disagree and self.curve.b_crit.value >= min(self.steps) else "B_2x"

    @property
    def critical(self) -> Estimate:
        """The one that leads."""
        return self.curve.b_crit if self.lead == "B_crit" else self.b_2x

    @cached_property
    def steps(self) -> dict[int, Estimate]:
        """{B: steps}, of batch sizes with which no seed failed."""
        return {c.batch: critical.cell(c.steps, c.tuned.doubt) for c in self.cells if c.steps and not c.tuned.failures}

    def fastest(self) -> int | None:
        """The smallest batch size that is not shown to need more steps than another, beyond the margin of equality.

        None without intervals, with which nothing is shown.
        """
        least = min(self.steps.values(), key=lambda e: e.value)
        if not least.known:
            return None
        near = [b for b, e in self.steps.items() if not ratio(e, least).low > 1.0 + MARGIN]
        return min(near)

    def cheapest(self) -> int:
        """The largest batch size tried with at most 1.2 times the least examples."""
        return max(b for b in self.steps if b <= self.cbs20.value * (1.0 + 1e-9))

    def compromise(self) -> int | None:
        """The batch size tried that is nearest to the critical one; None if that is unknown, or beyond those tried."""
        at = self.critical.value
        if not (self.critical.known and min(self.steps) <= at <= max(self.steps)):
            return None
        return min(self.steps, key=lambda b: abs(math.log(b / at)))

    @cached_property
    def choices(self) -> dict[str, int]:
        """{what a reader may want: the batch size to take}."""
        found = {"cheapest": self.cheapest(), "compromise": self.compromise(), "fastest": self.fastest()}
        return {choice: batch for choice, batch in found.items() if batch is not None}

    def rate(self, batch) -> float:
        """The learning rate that was tuned for a batch size."""
        return next(c.tuned.lr for c in self.cells if c.batch == batch)


def against(found: list[Finding], name="adamw") -> dict[str, tuple[str, Estimate]]:
    """{optimizer: (which, its critical batch size over that of another)}, none if the other is not among them.

    Both are read alike: as B_crit if the curve is to be believed for both, or else as B_2x.
    """
    base = next((f for f in found if f.name == name), None)
    ratios = {}
    for f in found if base is not None else ():
        if f is not base:
            by_curve = f.lead == base.lead == "B_crit"
            pair = (f.curve.b_crit, base.curve.b_crit) if by_curve else (f.b_2x, base.b_2x)
            ratios[f.name] = "B_crit" if by_curve else "B_2x", ratio(*pair)
    return ratios


def findings(cells, common) -> list[Finding]:
    """Those of each optimizer. Raises ConfigurationError where fewer than 3 batch sizes met the target on all seeds."""
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    found = []
    for name in optimizers:
        own = [cell for cell in cells if cell.optimizer == name]
        if (n := sum(bool(cell.steps) and not cell.tuned.failures for cell in own)) < 3:
            why = next((f"; {c.tuned.why}" for c in own if c.tuned.why), ": give other --batches or a larger --cap")
            raise ConfigurationError(
                f"{name} meets {common['metric']} {common['target']:g} on all seeds with {n} of {len(own)} batch "
                f"sizes, where 3 are needed{why}"
            )
        found.append(Finding.of(name, own))
    return found
