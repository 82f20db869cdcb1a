"""Which batch size to take with an optimizer: what the cells of a study say, by a curve and without one."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import critical
from allgrad.launch.study.critical import Cells, Curve, Range, cells_of, curve, doubling, ranges, useful
from allgrad.launch.study.intervals import Estimate, ratio
from allgrad.launch.study.lr_tuning import Tuned
from allgrad.launch.study.wording import MARGIN

WIDEST = 4.0  # factor between the ends of an interval of B_crit that may lead
STILL = 0.1  # share of the steps that a doubling saves where they still fall
ALIKE = 1.5  # how many times the fewest steps a batch may need, at the upper end, that is taken for as good


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
    def ranges(self) -> list[Range]:
        """What parts of the batch sizes say, all of them first."""
        return ranges(self.whole)

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

        It must lie among the batches tried, with an interval no wider than a factor of 4: a straight line is no curve.
        """
        e = self.curve.b_crit
        sharp = e.known and min(self.steps) <= e.value <= max(self.steps) and e.high <= WIDEST * e.low
        return "B_crit" if sharp and self.curve.p >= critical.REJECT and not self.disagree else "B_2x"

    @property
    def critical(self) -> Estimate:
        """The one that leads."""
        return self.curve.b_crit if self.lead == "B_crit" else self.b_2x

    @cached_property
    def steps(self) -> dict[int, Estimate]:
        """{B: steps}, of batch sizes with which no seed failed."""
        return {c.batch: critical.cell(c.steps, c.tuned.doubt) for c in self.cells if c.steps and not c.tuned.failures}

    @property
    def flat(self) -> bool:
        """Whether the last doubling of the batch is shown to save less than a tenth of the steps: they fall no more."""
        (a, first), (b, last) = [*self.steps.items()][-2:]
        saved = ratio(last, first)
        return saved.known and saved.low > (1.0 - STILL) ** math.log2(b / a)

    def fewest(self) -> int | None:
        """The smallest batch size that is not shown to need more steps than the one with the fewest, or that one.

        Not beyond the margin of equality, and shown to need at most half as many again: what cannot be told apart at
        all is not called the same. None without intervals.
        """
        batch, least = min(self.steps.items(), key=lambda item: item[1].value)
        if not least.known:
            return None
        ratios = {b: ratio(e, least) for b, e in self.steps.items() if b < batch}
        return min([b for b, r in ratios.items() if r.low <= 1.0 + MARGIN and r.high <= ALIKE], default=batch)

    def cheapest(self) -> int | None:
        """The largest batch size tried that surely needs at most 1.2 times the least examples; None if unknown."""
        if not self.cbs20.known:
            all_cheap = self.whole.n > 1 and self.cbs20.value == max(self.steps)
            return max(self.steps) if all_cheap else None
        return max((b for b in self.steps if b <= self.cbs20.low * (1.0 + 1e-9)), default=None)

    def compromise(self) -> int | None:
        """The batch size tried that is nearest to the critical one; None if that is unknown, or beyond those tried."""
        at = self.critical.value
        if not (self.critical.known and min(self.steps) <= at <= max(self.steps)):
            return None
        return min(self.steps, key=lambda b: abs(math.log(b / at)))

    @cached_property
    def choices(self) -> dict[str, int]:
        """{what a reader may want: the batch size to take}."""
        found = {"cheap": self.cheapest(), "critical": self.compromise(), "fast": self.fewest()}
        return {choice: batch for choice, batch in found.items() if batch is not None}

    def rate(self, batch) -> float:
        """The learning rate that was tuned for a batch size."""
        return next(c.tuned.lr for c in self.cells if c.batch == batch)


def curves_lead(found: list[Finding]) -> bool:
    """Whether critical batch sizes are said by the curves: those of all optimizers are to be believed."""
    return all(f.lead == "B_crit" for f in found)


def against(found: list[Finding], name="adamw") -> dict[str, tuple[str, Estimate]]:
    """{optimizer: (which, its critical batch size over that of another)}, none if the other is not among them.

    Both are read alike: as B_crit if the curve is to be believed for both, or else as B_2x of the batch sizes that both
    have.
    """
    base = next((f for f in found if f.name == name), None)
    ratios: dict[str, tuple[str, Estimate]] = {}
    if base is None:
        return ratios
    for f in found:
        if f is not base:
            by_curve = f.lead == base.lead == "B_crit"
            e = ratio(f.curve.b_crit, base.curve.b_crit) if by_curve else ratio_of_2x(f, base)
            ratios[f.name] = "B_crit" if by_curve else "B_2x", e
    return ratios


def ratio_of_2x(first: Finding, second: Finding) -> Estimate:
    """B_2x of one optimizer over that of another, from the batch sizes with which no seed of either failed.

    B_2x is measured by the fewest steps of all batch sizes that there are.
    """
    common = {*first.whole.batches} & {*second.whole.batches}
    return ratio(*(doubling(f.whole.only(common)) for f in (first, second)))


def findings(cells, common) -> tuple[list[Finding], list[str]]:
    """Those of each optimizer, and why others are left out.

    Where fewer than 3 batch sizes met the target with all seeds. Raises ConfigurationError if that is all of them.
    """
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    found, left_out = [], []
    for name in optimizers:
        own = [cell for cell in cells if cell.optimizer == name]
        if (n := sum(bool(cell.steps) and not cell.tuned.failures for cell in own)) < 3:
            why = next((f"; {c.tuned.why}" for c in own if c.tuned.why), ": give other --batches or a larger --cap")
            left_out.append(
                f"{name} meets {common['metric']} {common['target']:g} on all seeds with {n} of {len(own)} batch "
                f"sizes, where 3 are needed{why}"
            )
            continue
        found.append(Finding.of(name, own))
    if not found:
        raise ConfigurationError("; ".join(left_out))
    return found, left_out
