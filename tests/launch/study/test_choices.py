"""What the cells of an optimizer say of batch sizes, where the law that they follow is known."""

import math
from dataclasses import replace

import pytest
from scipy.optimize import brentq

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.choices import Cell, against, findings
from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.lr_tuning import Tuned
from tests.launch.study.planted import BATCHES, COMMON, FALLING, FLAT, HYPERBOLA, REGRESSION, cells, with_failures


def finding(found):
    (one,) = findings(found, COMMON)
    return one


def holds(e, truth):
    return e.low <= truth <= e.high


def test_a_hyperbola_is_led_by_its_critical_batch_size():
    f = finding(cells(HYPERBOLA))
    assert f.lead == "B_crit" and not f.curve.rejected and not f.disagree
    assert holds(f.critical, 128.0) and holds(f.curve.s_min, 10.0) and f.critical is f.curve.b_crit
    assert holds(f.b_2x, 128.0 / (1.0 + 2.0 * 128.0 / 1024.0)) and holds(f.cbs20, 30.4)
    assert f.choices == {"cheapest": 16, "compromise": 128, "fastest": 1024} and f.rate(128) == 0.1
    assert all(holds(f.steps[b], HYPERBOLA[b]) for b in (4, 128, 1024))


def test_steps_without_a_hyperbola_are_led_by_what_needs_none():
    f = finding(cells(REGRESSION))
    half = math.log1p(1024.0 / 31.0) / 2.0  # of the logarithm that the steps of the largest batch are divided by
    truth = brentq(lambda b: math.log1p(b / 31.0) - half, 4.0, 1024.0)
    assert f.curve.rejected and f.lead == "B_2x" and f.critical is f.b_2x and holds(f.critical, truth)
    assert abs(math.log(f.choices["compromise"] / truth)) <= math.log(2.0) / 2.0


def test_a_curve_that_says_otherwise_does_not_lead():
    f = replace(finding(cells(HYPERBOLA)), b_2x=Estimate(300.0, 0.05, 10.0, n=5))
    assert f.disagree and f.lead == "B_2x"


def test_the_fastest_is_the_smallest_that_is_not_shown_to_be_slower():
    saturated = {b: 10.0 * (1.0 + 30.0 / b) for b in BATCHES}  # from 256 to 1,024 11.2, 10.6, 10.3
    assert finding(cells(saturated)).fastest() in (256, 512)
    assert finding(cells(HYPERBOLA)).fastest() == 1024
    assert finding(cells(HYPERBOLA, scatter=0.5)).fastest() < 1024  # seeds scatter more than batch sizes differ


def test_one_seed_tells_nothing_apart():
    f = finding(cells(HYPERBOLA, seeds=1))
    assert f.lead == "B_2x" and not f.critical.known and not f.cbs20.known and math.isnan(f.curve.p)
    assert f.fastest() is None and [*f.choices] == ["cheapest"]


def test_two_seeds_have_wide_intervals():
    few, many = finding(cells(HYPERBOLA, seeds=2)), finding(cells(HYPERBOLA, seeds=20))
    wide, narrow = (math.log(f.b_2x.high / f.b_2x.low) for f in (few, many))
    assert wide > 2.0 * narrow  # the root of 10, and Student's t
    assert holds(few.critical, 128.0) or few.lead == "B_2x"


def test_three_batch_sizes_have_no_interval():
    f = finding(cells({b: HYPERBOLA[b] for b in (4, 64, 1024)}))
    assert f.critical.why == "3 batch sizes are too few, give 4" == f.curve.b_crit.why
    assert not f.critical.known and not f.cbs20.known and "compromise" not in f.choices


def test_batch_sizes_that_are_far_apart_have_no_interval():
    f = finding(cells({b: HYPERBOLA[b] for b in (4, 8, 16, 1024)}))
    assert "are a factor of 64 apart, give some in between" in f.b_2x.why
    assert finding(cells({b: HYPERBOLA[b] for b in (4, 16, 128, 1024)})).b_2x.known


@pytest.mark.parametrize(
    "steps, why",
    [(FLAT, "already the smallest batch tried takes less than twice"),
     (FALLING, "the largest batch tried needs at most 1.2 times the fewest examples: give larger ones")],
    ids=["flat", "1/B"],
)  # fmt: skip
@pytest.mark.parametrize("scatter", [0.0, 0.02])
def test_steps_that_do_not_bend_have_no_critical_batch_size(steps, why, scatter):
    f = finding(cells(steps, scatter=scatter))
    assert f.lead == "B_2x" and not f.critical.known and f.critical.why.startswith(why)
    assert "compromise" not in f.choices and f.choices["cheapest"] == (4 if steps is FLAT else 32)
    assert f.choices["fastest"] == (4 if steps is FLAT else 32)


def test_a_batch_with_a_failed_seed_is_left_out():
    whole, part = finding(cells(HYPERBOLA)), finding(with_failures(cells(HYPERBOLA), 64))
    assert 64 not in part.steps and [*part.whole.batches] == [b for b in BATCHES if b != 64]
    others = finding([cell for cell in cells(HYPERBOLA) if cell.batch != 64])
    assert part.critical == others.critical != whole.critical
    assert 1024 not in finding(with_failures(cells(HYPERBOLA), 1024, 4)).choices.values()


def test_too_few_batch_sizes_without_a_failed_seed_are_refused():
    found = cells({b: HYPERBOLA[b] for b in (4, 64, 1024)})
    with pytest.raises(ConfigurationError, match="with 2 of 3 batch sizes, where 3 are needed: give other --batches"):
        findings(with_failures(found, 64), COMMON)
    fails = Cell("sgd", 64, Tuned(math.nan, math.inf, True, {}, 0, why="it diverges"))
    with pytest.raises(ConfigurationError, match=r"sgd meets train_loss 0.5 on all seeds .* are needed; it diverges"):
        findings([found[0], fails, found[2]], COMMON)


def test_optimizers_are_apart():
    assert [f.name for f in findings(cells(HYPERBOLA) + cells(REGRESSION, name="adam"), COMMON)] == ["sgd", "adam"]


# --- two optimizers --------------------------------------------------------------------------------------------------


def test_the_ratio_of_critical_batch_sizes_is_in_its_interval():
    twice = {b: 10.0 * (1.0 + 256.0 / b) for b in BATCHES}
    found = findings(cells(HYPERBOLA, name="adamw") + cells(twice, name="muon") + cells(HYPERBOLA, name="lion"), COMMON)
    ratios = against(found)
    assert ratios.keys() == {"muon", "lion"} and {which for which, _ in ratios.values()} == {"B_crit"}
    assert holds(ratios["muon"][1], 2.0) and ratios["muon"][1].low > 1.2 and holds(ratios["lion"][1], 1.0)


def test_where_a_curve_is_rejected_both_are_read_without_one():
    adamw, soap = findings(cells(HYPERBOLA, name="adamw") + cells(REGRESSION, name="soap"), COMMON)
    which, ratio = against([adamw, soap])["soap"]
    assert which == "B_2x" and ratio.value == pytest.approx(soap.b_2x.value / adamw.b_2x.value)


def test_without_the_other_or_its_interval_nothing_is_compared():
    assert against(findings(cells(HYPERBOLA, name="muon"), COMMON)) == {}
    (_, ratio) = against(findings(cells(HYPERBOLA, name="adamw") + cells(FLAT, name="muon"), COMMON))["muon"]
    assert not ratio.known and ratio.why.startswith("already the smallest batch")
