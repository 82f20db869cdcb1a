"""Numbers and tables as a person reads them."""

import math

import numpy as np
import pytest

from allgrad.launch.study import cells
from allgrad.launch.study.intervals import Estimate, mean, share
from allgrad.launch.study.result import Claim, Table, judge
from tests.launch.study import samples


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "∞"),
        (True, "yes"),
        (1437, "1437"),
        (21750, "21,750"),
        (21750.4, "21,750"),
        (0.33941125, "0.3394"),
        (0.085, "0.085"),
        (48.8312, "48.83"),
        (0.0, "0"),
        (-0.31, "-0.31"),
        (1.234e-7, "1.23e-7"),
        ("sgd", "sgd"),
        (np.float64(0.5), "0.5"),
        (np.int64(12345), "12,345"),
        (np.bool_(False), "no"),
    ],
)
def test_numbers_are_rounded_as_a_person_reads_them(value, text):
    assert cells.number(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((107.31, 79.6, 143.2), "107 [80, 143]"),
        ((23.04, 22.3, 23.8), "23.0 [22.3, 23.8]"),
        ((0.011, 0.0102, 0.0118), "0.0110 [0.0102, 0.0118]"),
        ((9.6350, 9.6349, 9.6352), "9.6350 [9.6349, 9.6352]"),
        ((12100.0, 11000.0, 13300.0), "12,100 [11,000, 13,300]"),
        ((15.8, math.nan, None), "15.8, no interval"),
        ((421.0, 300.0, math.inf), "421 [300, ∞]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((None, 1.0, 2.0), "-"),
    ],
)
def test_a_number_and_its_interval_have_the_same_digits(numbers, text):
    assert cells.spanned(*numbers) == text


def test_intervals_stand_beside_their_numbers_and_units_in_the_heads():
    steps, fit = (cells.shown(table) for table in samples.steps().tables)
    assert [c.head for c in steps[0]] == [
        "optimizer", "batch B", "learning rate", "steps S", "examples E", "slope", "failed seeds", "rate at the edge",
    ]  # fmt: skip
    assert [c.unit for c in steps[0]] == ["", "examples", "", "", "", "", "", ""]  # that of S is in its head
    assert steps[1][0].cells[:5] == ["SGD", "4", "0.085", "375 [349, 405]", "1500"]
    assert [c.ends for c in fit[0]] == [None, None, ("B_crit_lo", "B_crit_hi")]
    assert (fit[0][1].meaning, fit[0][1].unit) == ("steps in the limit", "steps")
    assert fit[1][0].cells == ["SGD", "13", "103 [93, 124]"]


@pytest.mark.parametrize(
    ("columns", "ends"),
    [
        ("S ci_lo ci_hi B", {"S": ("ci_lo", "ci_hi")}),
        ("over_first over_lo over_hi B", {"over_first": ("over_lo", "over_hi")}),
        ("B S S_lo S_hi", {"S": ("S_lo", "S_hi")}),
        ("S B S_lo S_hi", {"S": ("S_lo", "S_hi")}),
        ("S S_lo B S_hi", {}),
    ],
)
def test_which_columns_are_the_interval_of_which(columns, ends):
    names = columns.split()
    found, _ = cells.shown(Table("t", names, [dict.fromkeys(names, 1.0)]))
    assert {c.name: c.ends for c in found if c.ends} == ends
    assert [c.name for c in found] == [n for n in names if n not in {end for pair in ends.values() for end in pair}]


def test_brackets_are_explained_where_a_caption_does_not():
    summary = samples.steps().summary
    assert cells.with_brackets(summary) == "Two batches to choose from."  # it has no interval
    table = samples.steps().tables[1]
    assert cells.with_brackets(table) == "The hyperbola. In brackets: 95 % intervals."
    table.caption = "With 95 % intervals."
    assert cells.with_brackets(table) == "With 95 % intervals."


@pytest.mark.parametrize(
    ("cell", "numeric"),
    [
        ("0.0214 [0.0205, 0.0223]", True), ("1", True), ("-0.5", True), ("12,100", True), ("107, no interval", True),
        ("16 to 32", True), ("3e-5", True), ("sgd", False), ("4 ranks that draw the same", False), ("-", False),
        (True, False), (None, False), (2.5, True), (np.int64(3), True),
    ],
)  # fmt: skip
def test_numbers_in_words_stand_like_numbers(cell, numeric):
    assert cells.shown(Table("t", ["x"], [{"x": None}, {"x": cell}]))[0][0].numeric is numeric


def test_rows_that_must_not_be_read_over_are_flagged():
    _, rows = cells.shown(samples.steps().tables[0])
    assert [k for k, row in enumerate(rows) if row.flagged] == [7, 8, 16, 25]


@pytest.mark.parametrize(
    ("estimates", "limits", "text"),
    [
        ([samples.estimate(105.31, 0.05)], (70, 150), "105 [92, 121] (5 seeds)"),
        ([samples.estimate(0.39021, 0.012)], (), "0.390 [0.377, 0.403] (5 seeds)"),
        ([Estimate(103.0, 12.0, 100.0, False, 5)], (79.5, 140), "103 [79, 127] (5 seeds)"),
        ([Estimate(103.0, 12.0, 100.0, False, 5)], (79.0, 140), "103.0 [79.2, 126.8] (5 seeds)"),
        ([Estimate(13.0)], (10, 17), "13.0"),
        ([Estimate(math.nan)], (), "undefined"),
        ([], (), "nothing"),
        ([share(5, 5)], (0.9,), "1.00 [0.48, 1.00] (5 of 5 seeds)"),
        ([mean([1.0, math.inf, 1.1])], (0.9,), "1.05 (3 seeds, 1 failed)"),
        (
            [samples.estimate(v, 0.01) for v in (1.0, 1.3, 1.1)],
            (-math.inf, 1.2),
            "1.300 [1.264, 1.337] (5 seeds), the least favourable of 3 from 1 to 1.3",
        ),
    ],
)
def test_what_was_measured_is_rounded_to_its_interval_and_stays_on_its_side(estimates, limits, text):
    assert cells.measured(Claim("", "", "", estimates, *limits)) == text


@pytest.mark.parametrize(
    ("limits", "text"),
    [((70.0, 150.0), "70 to 150"), ((1.2, math.inf), "at least 1.2"), ((-math.inf, 0.12), "at most 0.12"), ((), "any")],
)
def test_what_is_accepted_is_said_in_words(limits, text):
    assert cells.accepted(Claim("", "", "", [], *limits)) == text


def test_claims_are_counted_and_failures_come_first():
    claims = samples.steps().claims
    verdicts = judge(claims)
    assert cells.counts(verdicts) == "5 claims of the literature: 1 FAIL, 1 INCONCLUSIVE, 2 PASS, 1 NO VERDICT"
    assert cells.counts(verdicts[:1]) == "1 claim of the literature: 1 PASS" and cells.counts([]).startswith("0 claims")
    words = [verdict.word for _, verdict in cells.in_order(claims, verdicts)]
    assert words == ["FAIL", "INCONCLUSIVE", "PASS", "PASS", "NO VERDICT"]


def test_numbers_of_numpy_are_plain_in_a_csv_file():
    row = {"lr": np.float64(0.1), "B": np.int64(4), "seen": np.bool_(True), "S": np.float64("nan"), "b": np.float32(2)}
    assert Table("t", [*row], [row]).csv() == "lr,B,seen,S,b\n0.1,4,True,,2.0\n"
