"""Steps to a target against the batch size, with the errors of what was measured: what `study steps` has found.

A hyperbola where it describes the steps; else the steps that were measured, interpolated between the batches and never
beyond them.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs.drawn import exp, student
from allgrad.launch.study.intervals import quantile


@dataclass(frozen=True, eq=False)
class Hyperbola:
    """S(B) = s_min (1 + b_crit / B), McCandlish et al. 2018.

    s_min, b_crit  numbers, or arrays of draws of them
    errors         standard errors of their logarithms
    correlation    of these errors; dof: their degrees of freedom
    batches        the smallest and the largest that were measured; nan if not known
    why            why there are no errors, if there are none
    source         where it comes from, in words
    """

    s_min: Any
    b_crit: Any
    errors: tuple[float, float] = (math.nan, math.nan)
    correlation: float = 0.0
    dof: float = math.inf
    batches: tuple[float, float] = (math.nan, math.nan)
    why: str = ""
    source: str = ""

    least, most = 1.0, math.inf  # batches of which it says the steps

    def __call__(self, batch):
        """Steps with a batch size."""
        return self.s_min * (1.0 + self.b_crit / batch)

    def drawn(self, rng: np.random.Generator, n: int) -> "Hyperbola":
        """The same with n draws of s_min and b_crit."""
        if self.why:
            return replace(self, s_min=np.full(n, self.s_min), b_crit=np.full(n, self.b_crit))
        first, second = student(rng, n, self.dof, 2).T
        second = self.correlation * first + math.sqrt(1.0 - self.correlation**2) * second
        s_min, b_crit = self.s_min * exp(self.errors[0] * first), self.b_crit * exp(self.errors[1] * second)
        return replace(self, s_min=s_min, b_crit=b_crit)

    def beyond(self, batch) -> bool:
        """Whether a batch size lies outside of those measured."""
        return not math.isnan(self.batches[0]) and not self.batches[0] <= batch <= self.batches[1]

    @property
    def words(self) -> str:
        return f"{self.s_min:.4g} (1 + {self.b_crit:.4g} / B) steps to target ({self.source})"


@dataclass(frozen=True, eq=False)
class Measured:
    """The steps that were measured at some batch sizes; between two of them ln S is linear in ln B.

    sizes    the batch sizes (K,), in order
    logs     logarithms of the steps (K,), or draws of them (n, K)
    errors   their standard errors (K,), each of dofs (K,) degrees of freedom
    b_crit   the batch size of twice the least steps
    """

    sizes: tuple[float, ...]
    logs: np.ndarray
    errors: tuple[float, ...]
    dofs: tuple[float, ...]
    b_crit: float = math.nan
    why: str = ""
    source: str = ""

    @property
    def least(self):
        return self.sizes[0]

    @property
    def most(self):
        return self.sizes[-1]

    @property
    def batches(self):
        return self.sizes[0], self.sizes[-1]

    def __call__(self, batch):
        """Steps with a batch size; nan outside of those measured."""
        if self.beyond(batch):
            return np.full(self.logs.shape[:-1], math.nan)[()]
        k = min(int(np.searchsorted(self.sizes, batch, side="right")) - 1, len(self.sizes) - 2)
        share = math.log(batch / self.sizes[k]) / math.log(self.sizes[k + 1] / self.sizes[k])
        return exp((1.0 - share) * self.logs[..., k] + share * self.logs[..., k + 1])

    def drawn(self, rng: np.random.Generator, n: int) -> "Measured":
        """The same with n draws of the steps."""
        if self.why:
            return replace(self, logs=np.tile(self.logs, (n, 1)))
        errors = [e * student(rng, n, dof)[:, 0] for e, dof in zip(self.errors, self.dofs)]
        return replace(self, logs=self.logs + np.stack(errors, axis=1))

    def beyond(self, batch) -> bool:
        """Whether a batch size lies outside of those measured."""
        return not self.least <= batch <= self.most

    @property
    def words(self) -> str:
        listed = ", ".join(f"{math.exp(log):.4g} at B = {size:g}" for size, log in zip(self.sizes, self.logs))
        return f"steps to target as measured, interpolated between batches ({self.source}): {listed}"


Target = Hyperbola | Measured


def given(s_min, b_crit) -> Hyperbola | None:
    """The hyperbola of numbers, or of (number, low, high) with the ends of 95 % intervals; None if neither is given."""
    if s_min is None and b_crit is None:
        return None
    if s_min is None or b_crit is None:
        raise ConfigurationError("--s-min and --b-crit are the two numbers of one hyperbola: give both or none")
    (s, *s_ends), (b, *b_ends) = (v if isinstance(v, Sequence) else (v,) for v in (s_min, b_crit))
    if not (0.0 < s < math.inf and 0.0 <= b < math.inf):
        raise ConfigurationError(f"--s-min is above 0 and --b-crit at least 0, got {s} and {b}")
    for flag, value, ends in (("--s-min", s, s_ends), ("--b-crit", b, b_ends)):
        if ends and not (len(ends) == 2 and 0.0 < ends[0] <= value <= ends[1] < math.inf):
            raise ConfigurationError(
                f"{flag} with an interval is VALUE:LOW:HIGH, 0 < LOW <= VALUE <= HIGH, got "
                f"{':'.join(f'{v:g}' for v in (value, *ends))}"
            )
    if not (s_ends and b_ends):
        why = "--s-min and --b-crit are given without intervals: write --b-crit 107:80:143, and --s-min alike"
        return Hyperbola(s, b, why=why, source="the fit that was given")
    errors = _error(s_ends, math.inf), _error(b_ends, math.inf)
    return Hyperbola(s, b, errors, source="the fit that was given, whose two intervals are taken as independent")


def found(directory, optimizer="sgd") -> Target | None:
    """What `study steps` has written into a directory; None if it has not, or not of this optimizer."""
    path = directory / "steps_fit.csv"
    if not path.is_file():
        return None
    cells = directory / "steps.csv"
    return of_rows(_rows(path), _rows(cells) if cells.is_file() else [], optimizer)


def _rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of_rows(fits: Sequence[Mapping], cells: Sequence[Mapping], optimizer: str) -> Target | None:
    """The steps of an optimizer, from the rows of the two tables of `study steps`: of its fits, and of its cells."""
    row = next((row for row in fits if row["optimizer"] == optimizer), None)
    if row is None:
        return None
    own = [{k: _number(cell.get(k)) for k in ("B", "S", "ci_lo", "ci_hi", "n_seeds", "n_fail")}
           for cell in cells if cell["optimizer"] == optimizer]  # fmt: skip
    own = sorted((cell for cell in own if cell["S"] > 0.0 and math.isfinite(cell["S"])), key=lambda cell: cell["B"])
    source = f"study steps, {optimizer}"
    if row.get("lead") == "B_2x":
        return _measured(row, [cell for cell in own if not cell["n_fail"] > 0.0], source)
    s_min, b_crit = _number(row["S_min"]), _number(row["B_crit"])
    ends = [_number(row.get(key)) for key in ("S_min_lo", "S_min_hi", "B_crit_lo", "B_crit_hi")]
    sizes = np.array([cell["B"] for cell in own])
    batches = (sizes[0], sizes[-1]) if len(sizes) else (math.nan, math.nan)
    if len(sizes) < 3 or not all(0.0 < end < math.inf for end in ends):
        why = f"the fit of {source} has no interval"
        return Hyperbola(s_min, b_crit, batches=batches, why=why, source=source)
    dof = len(sizes) - 2.0
    rise = b_crit / (sizes + b_crit)  # of ln S by ln B_crit; by ln S_min it rises as 1
    correlation = -rise.sum() / math.sqrt(len(sizes) * (rise @ rise))
    errors = _error(ends[:2], dof), _error(ends[2:], dof)
    return Hyperbola(s_min, b_crit, errors, float(correlation), dof, batches, source=source)


def _measured(row, cells, source):
    if len(cells) < 2:
        raise ConfigurationError(
            f"the curve of {source} does not describe its steps, and only {len(cells)} batch size was measured without "
            f"a failed seed, where 2 are needed to interpolate: run allgrad study steps with more --batches"
        )
    dofs = [cell["n_seeds"] - 1.0 for cell in cells]
    whole = all(0.0 < cell["ci_lo"] <= cell["ci_hi"] < math.inf and dof > 0.0 for cell, dof in zip(cells, dofs))
    errors = [_error((cell["ci_lo"], cell["ci_hi"]), dof) if whole else math.nan for cell, dof in zip(cells, dofs)]
    logs = np.log([cell["S"] for cell in cells])
    why = "" if whole else f"the steps of {source} have no interval"
    sizes = tuple(cell["B"] for cell in cells)
    return Measured(sizes, logs, tuple(errors), tuple(dofs), _number(row.get("B_2x")), why, source)


def _number(text):
    return math.nan if text in (None, "") else float(text)


def _error(ends, dof):
    """The standard error of a number's logarithm, from the ends of its 95 % interval."""
    low, high = ends
    return math.log(high / low) / 2.0 / (1.959964 if math.isinf(dof) else quantile(dof, 0.975))
