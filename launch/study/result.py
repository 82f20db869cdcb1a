"""What an experiment says: one headline, checks with intervals, tables, figures, and what has to be known of them."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"


@dataclass
class Check:
    """A claim of the literature as a number that was measured, and the interval in which it is accepted.

    value, low, high    the estimate and its 95 % interval; low = high = value for a number without spread
    least, most         the accepted interval; -inf or inf where it is open
    seeds               how many seeds the interval rests on; 0 if on blocks of one run, or if there is none
    seed_kind           what these seeds are, in words
    """

    claim: str
    value: float
    low: float
    high: float
    least: float = -math.inf
    most: float = math.inf
    seeds: int = 0
    seed_kind: str = "report seeds"

    @property
    def verdict(self) -> str:
        """PASS or FAIL if the whole interval lies inside or outside what is accepted, else INCONCLUSIVE."""
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            return FAIL if math.isnan(self.value) else INCONCLUSIVE
        if self.least <= self.low and self.high <= self.most:
            return PASS
        return FAIL if self.high < self.least or self.low > self.most else INCONCLUSIVE

    @property
    def seeds_needed(self) -> int | None:
        """Seeds with which the interval, which narrows by their root, would lie on one side; None if decided."""
        if self.verdict != INCONCLUSIVE or not self.seeds:
            return None
        edges = [edge for edge in (self.least, self.most) if math.isfinite(edge) and self.low <= edge <= self.high]
        distance = min((abs(self.value - edge) for edge in edges), default=0.0)
        if not (distance and math.isfinite(self.high - self.low)):
            return None
        return math.ceil(self.seeds * ((self.high - self.low) / 2.0 / distance) ** 2)


@dataclass
class Table:
    """Rows of named numbers and words. `columns` says in which order, and which of the rows' keys are shown.

    meanings: what a column is, with its unit, for those that report.MEANINGS lacks: {"t_comm": "exposed ... (ms)"}
    """

    name: str
    columns: list[str]
    rows: list[dict[str, Any]]
    caption: str = ""
    meanings: dict[str, str] = field(default_factory=dict)

    def csv(self) -> str:
        """The table as text, the same bytes for the same rows: floats in full, nothing for None and nan."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(row.get(column)) for column in self.columns] for row in self.rows)
        return out.getvalue()


def _cell(value):
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value


@dataclass
class Figure:
    """`draw()` returns a matplotlib figure; matplotlib is imported only there."""

    name: str
    caption: str
    draw: Callable[[], Any]


@dataclass
class Result:
    """One experiment, ready to be printed and to become a page.

    name       the command's word: "steps", "lr-rules", ...
    question   what was asked, in one sentence
    headline   the answer, in one or two sentences with numbers
    methods    data, model, optimizer, batch sizes, seeds, tuning, target, sampling: enough to do it again
    notes      what a reader must know to not be misled: failures, edges of grids, budgets, limits
    command    the command line that gives this result again
    advice     what to do and why, for who reads nothing else: the report begins with it, a paragraph a line
    """

    name: str
    question: str
    headline: str
    checks: list[Check] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    methods: str = ""
    notes: list[str] = field(default_factory=list)
    command: str = ""
    advice: str = ""

    def save_tables(self, out: Path):
        """Write OUT/NAME.csv for the first table, OUT/NAME_TABLE.csv for the others."""
        for table in self.tables:
            (out / f"{self.stem(table)}.csv").write_text(table.csv(), encoding="utf-8")

    def stem(self, part: Table | Figure) -> str:
        """The name of a table's or figure's files: NAME for the first, NAME_PART for the others."""
        first = any(part is one for one in (*self.tables[:1], *self.figures[:1]))
        return self.name if first else f"{self.name}_{part.name}"
