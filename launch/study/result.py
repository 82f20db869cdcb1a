"""What an experiment says: one headline, findings, claims of the literature with verdicts, tables and figures."""

import bisect
import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allgrad.launch.study.intervals import Estimate, holm, quantile

PASS, FAIL, INCONCLUSIVE, NONE = "PASS", "FAIL", "INCONCLUSIVE", "NO VERDICT"
VERDICTS = FAIL, INCONCLUSIVE, PASS, NONE  # in the order of reading
ALPHA = 0.05  # of an experiment's claims together: how likely it is that any verdict is false
LEAST_SEEDS = 3  # with fewer there is no verdict
POWER = 0.8  # in how many studies, of 1, as many seeds as are named decide a claim
MOST_SEEDS = 1000  # more than so many decide nothing that matters


@dataclass
class Claim:
    """A claim of the literature as numbers that were measured, and the interval in which its source would have them.

    claim        in one line, with what the numbers are
    source       who says so, with the section: "Goyal et al. 2017, section 2.1"
    bound        how the accepted interval follows from the source's own words or numbers
    estimates    what was measured: the claim holds if all of them lie from `least` to `most`
    least, most  the accepted interval; -inf or inf where it is open. That two things are equal is a claim with both, at
                 the distance that the source calls equal
    why          why it has no verdict, if it has none whatever the numbers are
    """

    claim: str
    source: str
    bound: str
    estimates: Sequence[Estimate]
    least: float = -math.inf
    most: float = math.inf
    why: str = ""

    @property
    def worst(self) -> Estimate:
        """The estimate that speaks most against the claim."""
        return max(self.estimates, key=lambda e: (math.isnan(p := self._p_outside(e)), p))

    @property
    def p_holds(self) -> float:
        """How likely these numbers are if the claim is false: the largest p-value of all estimates and both bounds.

        All have to lie inside, so that nothing is corrected (Berger 1982, intersection-union tests); for equality these
        are the two one-sided tests of Schuirmann 1987.
        """
        return max((self._p_outside(e) for e in self.estimates), default=math.nan)

    @property
    def p_fails(self) -> float:
        """How likely they are if it is true: the smallest p-value, times the number of tests (Bonferroni)."""
        tests = [e.p_below(self.least) for e in self.estimates if math.isfinite(self.least)]
        tests += [e.p_above(self.most) for e in self.estimates if math.isfinite(self.most)]
        return min(1.0, len(tests) * min(tests)) if tests else math.nan

    def _p_outside(self, e):
        tests = [e.p_above(self.least)] * math.isfinite(self.least) + [e.p_below(self.most)] * math.isfinite(self.most)
        return max(tests, default=math.nan)

    @property
    def p(self) -> float:
        """Of the test on both sides whether the numbers lie at the bound; nan if there is no verdict."""
        return math.nan if self.no_verdict else min(1.0, 2.0 * min(self.p_holds, self.p_fails))

    @property
    def no_verdict(self) -> str:
        """Why there is none: too few seeds, failed ones, no interval; "" if there is one."""
        if self.why or not self.estimates:
            return self.why or "nothing was measured"
        for e in self.estimates:
            if e.failed:
                return f"{e.failed} of {e.n} {e.of} failed, and the others decide nothing"
            if e.n < LEAST_SEEDS:
                return f"{e.n} {e.of}, and a verdict needs {LEAST_SEEDS}"
            if not e.known:
                return e.why or "its interval is not known"
        return ""


class Verdict(NamedTuple):
    """word: PASS, FAIL, INCONCLUSIVE or NO VERDICT; p: corrected for the other claims; why, of the last two."""

    word: str
    p: float
    why: str = ""


def judge(claims: Sequence[Claim]) -> list[Verdict]:
    """The verdicts on the claims of one experiment, which are wrong anywhere in at most 5 % of experiments.

    PASS if the numbers lie inside the accepted interval beyond chance, FAIL if outside, INCONCLUSIVE if that cannot be
    told; for all claims together by Holm's correction.
    """
    found = []
    for claim, p in zip(claims, holm([claim.p for claim in claims])):
        if none := claim.no_verdict:
            found.append(Verdict(NONE, math.nan, none))
        elif p <= ALPHA:
            found.append(Verdict(PASS if claim.p_holds < claim.p_fails else FAIL, p))
        else:
            found.append(Verdict(INCONCLUSIVE, p, _undecided(claim, len(claims))))
    return found


def _undecided(claim, family):
    """Why a claim is not decided, and how many seeds would decide it if the estimate stays what it is."""
    e = claim.worst
    if claim.p <= ALPHA:
        return f"decided by itself, but not as one of {family} claims"
    needed, said = seeds_needed(claim), f"undecided with {e.n} {e.of}"
    if needed is None:
        return f"{said}: the number lies at the bound" if math.isfinite(e.value) else said
    return f"{said}; about {needed:,} would decide it in {100 * POWER:g} % of studies, if the number is what it seems"


def seeds_needed(claim: Claim) -> int | None:
    """With how many seeds a study decides the claim in 80 % of cases, if the number is what was measured.

    By the noncentral t distribution, the error falling as the root of the seeds; None beyond 1,000.
    """
    from scipy.special import nctdtr

    e, edges = claim.worst, [edge for edge in (claim.least, claim.most) if math.isfinite(edge)]
    inside, tests = claim.least < e.value < claim.most, 1
    if not inside:  # one bound is enough to fail by
        tests = len(edges) * len(claim.estimates)
        edges = [claim.least if e.value <= claim.least else claim.most]
    dof = e.dof if e.dof < math.inf else 1e6
    effects = []  # of one seed: how far from the edges, in standard deviations
    for edge in edges:
        end, bound, at = (_on_scale(e, x) for x in (e.low if edge < e.value else e.high, edge, e.value))
        if at in (end, bound):
            return None
        effects.append(abs(at - bound) / abs(at - end) * quantile(dof, 1.0 - ALPHA / 2.0) / math.sqrt(e.n))

    def missed(n):
        """How likely n seeds decide nothing."""
        of_n = dof * (n - 1.0) / (e.n - 1.0)
        line = quantile(of_n, 1.0 - ALPHA / 2.0 / tests)
        return sum(float(nctdtr(of_n, effect * math.sqrt(n), line)) for effect in effects)

    if not all(map(math.isfinite, effects)) or missed(MOST_SEEDS) > 1.0 - POWER:
        return None
    return bisect.bisect_left(range(MOST_SEEDS), True, lo=e.n, key=lambda n: missed(n) <= 1.0 - POWER)


def _on_scale(e, x):
    """A number on the scale of an estimate's error."""
    return x if not e.log else math.log(x) if x > 0.0 else -math.inf


@dataclass
class Table:
    """Rows of named numbers and words. `columns` says in which order, and which of the rows' keys are shown.

    meanings: what a column is, with its unit in brackets at the end, for those that cells.MEANINGS lacks:
              {"t_comm": "exposed communication (ms)"}
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
    """`draw()` returns a matplotlib figure; matplotlib is imported only there. None: already in its files.

    undrawn: why it could not be drawn, which a report says in its place; "" if nothing was in the way
    """

    name: str
    caption: str
    draw: Callable[[], Any] | None = field(default=None, compare=False)
    undrawn: str = ""


@dataclass
class Result:
    """One experiment, ready to be printed and to become a page.

    name       the command's word: "steps", "lr-rules", ...
    question   what was asked, in one sentence
    headline   the answer, in one or two sentences with numbers and their intervals
    summary    the small table that stands beside the first figure: what a reader has to know, in at most a few rows
    findings   a line each: what was measured beside the headline, each made of estimates and verdicts
    claims     what the literature says of it, with verdicts
    methods    data, model, optimizer, batch sizes, seeds, tuning, target, sampling: enough to do it again
    notes      what a reader must know to not be misled: failures, edges of grids, budgets, limits
    command    the command line that gives this result again
    advice     what to do and why, for who reads nothing else: the report begins with it, a paragraph a line
    """

    name: str
    question: str
    headline: str
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    summary: Table | None = None
    findings: list[str] = field(default_factory=list)
    methods: str = ""
    notes: list[str] = field(default_factory=list)
    command: str = ""
    advice: str = ""

    @property
    def verdicts(self) -> list[Verdict]:
        """One for each of the claims, which are judged together."""
        return judge(self.claims)

    def save_tables(self, out: Path):
        """Write OUT/NAME.csv for the first table, OUT/NAME_TABLE.csv for the others, the summary included."""
        for table in [*self.tables, *([self.summary] if self.summary else [])]:
            (out / f"{self.stem(table)}.csv").write_text(table.csv(), encoding="utf-8")

    def stem(self, part: Table | Figure) -> str:
        """The name of a table's or figure's files: NAME for the first, NAME_PART for the others."""
        first = any(part is one for one in (*self.tables[:1], *self.figures[:1]))
        return self.name if first else f"{self.name}_{part.name}"
