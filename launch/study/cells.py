"""Numbers and tables as a person reads them, on the page, in report.md and on a terminal."""

import math
import re
from dataclasses import dataclass

import numpy as np

from allgrad.launch.study import wording
from allgrad.launch.study.intervals import Estimate, Share
from allgrad.launch.study.result import VERDICTS, Claim, Table, Verdict

FLAGS = "at_edge", "n_fail", "fail"  # columns that mark a row which must not be read over
HEADS = {  # of columns whose names in the CSV files are symbols
    "B": "batch B",
    "lr": "learning rate",
    "S": "steps S",
    "E": "examples E",
    "t_step": "time of a step",
    "seconds": "time",
    "eff": "efficiency",
    "n_seeds": "seeds",
    "n_fail": "failed seeds",
    "fail": "failed seeds",
    "at_edge": "rate at the edge",
    "n_trials": "trials",
    "nlr": "rates",
}
MEANINGS = {  # a unit stands in brackets at the end
    "B": "global batch size (examples)",
    "b": "batch size of a rank (examples)",
    "W": "ranks",
    "k": "batch size over that of the base",
    "lr": "learning rate",
    "S": "steps to the target, geometric mean over seeds (steps)",
    "S_ideal": "steps if k times the batch took 1/k of the steps (steps)",
    "E": "examples to the target, B S (examples)",
    "eff": "efficiency of this batch size: fewest examples of all batch sizes tried over E",
    "epochs": "passes over the training samples to the target",
    "slope": "d ln S / d ln B from the batch size before; -1 is perfect scaling",
    "region": "perfect: slope below -0.9; flat: above -0.1; diminishing: between",
    "S_min": "steps to the target in the limit of a large batch (steps)",
    "B_crit": "critical batch size: there a run takes twice S_min and twice the fewest examples (examples)",
    "B_2x": "the batch size that takes twice the least steps, interpolated without a model (examples)",
    "B_simple": "noise scale: trace of the gradient's covariance over its squared norm (examples)",
    "B_noise": "noise scale weighted by the Hessian (examples)",
    "ci_lo": "95 % interval, from",
    "ci_hi": "95 % interval, to",
    "n_seeds": "seeds",
    "n_fail": "seeds that failed",
    "fail": "seeds that failed",
    "at_edge": "the best learning rate is the first or last that was tried",
    "n_trials": "configurations tried by the tuner",
    "nlr": "learning rates tried by the tuner",
    "rmse_log": "root mean square of the fit's residuals in ln S",
    "t_step": "time of a step (s)",
    "seconds": "time to the target (s)",
}


@dataclass
class Column:
    """A column of a table as it is shown: numbers with their intervals are one column."""

    name: str  # in the CSV file
    head: str
    ends: tuple[str, str] | None  # columns of the interval
    meaning: str
    unit: str
    numeric: bool
    words: bool  # without numbers, such as names


@dataclass
class Row:
    """Words of a row, and whether it must not be read over."""

    cells: list[str]
    flagged: bool


def shown(table: Table) -> tuple[list[Column], list[Row]]:
    """A table with its intervals beside their numbers: S, S_lo, S_hi or S, ci_lo, ci_hi become "107 [80, 143]".

    X_lo and X_hi are the interval of X, or of the column before them if there is no X.
    """
    meanings, columns, ends = {**MEANINGS, **table.meanings}, [], {}
    for before, low, high in zip(table.columns, table.columns[1:], table.columns[2:]):
        stem = low.removesuffix("_lo")
        if stem != low and high == f"{stem}_hi":
            ends[stem if stem in table.columns else before] = (low, high)
    within = {end for pair in ends.values() for end in pair}
    for name in table.columns:
        if name not in within:
            meaning, unit = _unit(meanings.get(name, ""))
            numeric = any(_is_number(row.get(name)) for row in table.rows)
            head = HEADS.get(name, name)
            words = not any(re.match(r"-?\d", number(row.get(name))) for row in table.rows)
            unit *= unit not in head.split()
            columns.append(Column(name, head, ends.get(name), meaning, unit, numeric, words))
    rows = [Row([_cell(row, column) for column in columns], any(row.get(flag) for flag in FLAGS)) for row in table.rows]
    return columns, rows


def with_brackets(table: Table) -> str:
    """A table's caption, and what its brackets are unless it says so itself."""
    said = (table.caption or table.name).rstrip(".") + "."
    bracketed = any("[" in cell for row in shown(table)[1] for cell in row.cells)
    return said + " In brackets: 95 % intervals." * (bracketed and "95 %" not in said)


def _cell(row, column):
    value = row.get(column.name)
    return number(value) if column.ends is None else spanned(value, *(row.get(end) for end in column.ends))


def _is_number(value):
    """Whether a cell is a number, or words of one: "107", "107 [80, 143]", "10 to 20 %"."""
    if isinstance(value, str):
        return (
            re.fullmatch(r"[-<>~]*\d[\d,.]*(e-?\d+)?( to \S+)?( %| times)?( \[.*\]|, no interval)?", value) is not None
        )
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _unit(meaning):
    """A meaning, and the unit in brackets at its end."""
    found = re.search(r"\s*\(([^()]{1,24})\)$", meaning)
    return (meaning[: found.start()], found[1]) if found else (meaning, "")


def number(value) -> str:
    """A cell as a person reads it: four digits, thousands apart, words as they are, a dash for nothing."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 1e9 or 0 < abs(value) < 1e-4:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return number(round(value)) if abs(value) >= 1000 else f"{value:.4g}"


def spanned(value, low, high) -> str:
    """ "107 [80, 143]", with so many digits that the ends differ; "107, no interval" without one."""
    numbers = [math.nan if x is None else float(x) for x in (value, low, high)]
    if math.isnan(numbers[0]):
        return "-"
    if any(map(math.isnan, numbers[1:])):
        return f"{wording.number(numbers[0])}, no interval"
    if not all(map(math.isfinite, numbers)) or not 1e-4 <= max(map(abs, numbers)) < 1e9:
        value, low, high = map(wording.number, numbers)
        return f"{value} [{low}, {high}]"
    decimals = max(0, 2 - math.floor(math.log10(max(map(abs, numbers)))))
    while decimals < 9 and numbers[1] < numbers[2] and len({round(x, decimals) for x in numbers}) < 3:
        decimals += 1
    value, low, high = (f"{x:,.{decimals}f}" for x in numbers)
    return f"{value} [{low}, {high}]"


def measured(claim: Claim) -> str:
    """What speaks most against a claim: "1.06 [1.01, 1.12] (5 seeds), the least favourable of 8 from 0.9 to 1.1"."""
    if not claim.estimates:
        return "nothing"
    e = claim.worst
    if isinstance(e, Share):
        count = f" ({e.hits} of {e.n} {e.of})" if e.n else ""
    else:
        count = f" ({e.n} {e.of}{f', {e.failed} failed' * bool(e.failed)})" if e.n else ""
    several = ""
    if len(claim.estimates) > 1:
        ends = min(known := [x.value for x in claim.estimates if not math.isnan(x.value)] or [math.nan]), max(known)
        least, most = map(wording.number, ends)
        several = f", the least favourable of {len(claim.estimates)} from {least} to {most}"
    return _sided(e, claim) + count + several


def _sided(e: Estimate, claim):
    """An estimate rounded to two digits of its interval's width, but on its side of every limit."""
    if math.isnan(e.value):
        return "undefined"
    numbers = [e.value, e.low, e.high] if e.known else [e.value]
    if not all(map(math.isfinite, numbers)):
        return wording.with_interval(e) if e.known else wording.number(e.value)
    limits = [limit for limit in (claim.least, claim.most) if math.isfinite(limit)]
    spread = (e.high - e.low) / 2 if e.known else 0.0
    spread = spread or abs(e.value) / 10
    digits = max(0, 1 - math.floor(math.log10(spread))) if spread else 0
    sides = [[(x > limit) - (x < limit) for limit in limits] for x in numbers]
    while [[(r > t) - (r < t) for t in limits] for r in (round(x, digits) for x in numbers)] != sides and digits < 15:
        digits += 1
    value, *ends = (f"{x:,.{digits}f}" for x in numbers)
    return f"{value} [{', '.join(ends)}]" if ends else value


def accepted(claim: Claim) -> str:
    """The accepted interval in words."""
    least, most = math.isfinite(claim.least), math.isfinite(claim.most)
    if least and most:
        return f"{number(claim.least)} to {number(claim.most)}"
    return f"at least {number(claim.least)}" if least else f"at most {number(claim.most)}" if most else "any"


def in_order(claims: list[Claim], verdicts: list[Verdict]) -> list[tuple[Claim, Verdict]]:
    """Claims with their verdicts, failures first."""
    return sorted(zip(claims, verdicts), key=lambda pair: VERDICTS.index(pair[1].word))


def counts(verdicts: list[Verdict]) -> str:
    """ "6 claims of the literature: 4 PASS, 1 FAIL, 1 NO VERDICT"."""
    words = [verdict.word for verdict in verdicts]
    listed = ", ".join(f"{words.count(word)} {word}" for word in sorted({*words}, key=VERDICTS.index))
    return f"{len(words)} claim{'s' * (len(words) != 1)} of the literature" + f": {listed}" * bool(listed)
