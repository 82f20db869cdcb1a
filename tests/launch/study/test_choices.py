"""What the cells of an optimizer say of batch sizes, where the law that they follow is known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scipy import stats
from scipy.optimize import brentq

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.choices import WIDEST, Cell, against, findings, ratio_of_2x
from allgrad.launch.study.critical import cells_of
from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.lr_tuning import Tuned
from allgrad.launch.study.result import PASS, Claim, judge
from tests.launch.study.planted import BATCHES, COMMON, FALLING, FLAT, HYPERBOLA, REGRESSION, cells, with_failures


def finding(found):
    ((one,), left_out) = findings(found, COMMON)
    assert not left_out
    return one


def all_of(*groups):
    """The findings of cells of several optimizers."""
    found, left_out = findings([cell for group in groups for cell in group], COMMON)
    assert not left_out
    return found


def holds(e, truth):
    return e.low <= truth <= e.high


def test_a_hyperbola_is_led_by_its_critical_batch_size():
    f = finding(cells(HYPERBOLA))
    assert f.lead == "B_crit" and not f.curve.rejected and not f.disagree
    assert holds(f.critical, 128.0) and holds(f.curve.s_min, 10.0) and f.critical is f.curve.b_crit
    assert holds(f.b_2x, 128.0 / (1.0 + 2.0 * 128.0 / 1024.0)) and holds(f.cbs20, 30.4)
    assert f.choices == {"cheap": 16, "critical": 128, "fast": 1024} and f.rate(128) == 0.1
    assert all(holds(f.steps[b], HYPERBOLA[b]) for b in (4, 128, 1024))


def test_steps_without_a_hyperbola_are_led_by_what_needs_none():
    f = finding(cells(REGRESSION))
    half = math.log1p(1024.0 / 31.0) / 2.0  # of the logarithm that the steps of the largest batch are divided by
    truth = brentq(lambda b: math.log1p(b / 31.0) - half, 4.0, 1024.0)
    assert f.curve.rejected and f.lead == "B_2x" and f.critical is f.b_2x and holds(f.critical, truth)
    assert abs(math.log(f.choices["critical"] / truth)) <= math.log(2.0) / 2.0


def test_a_curve_that_says_otherwise_does_not_lead():
    f = replace(finding(cells(HYPERBOLA)), b_2x=Estimate(300.0, 0.05, 10.0, n=5))
    assert f.disagree and f.lead == "B_2x"


@pytest.mark.parametrize(
    "value, factor, leads",
    [(128.0, 0.95 * WIDEST, True), (128.0, 1.05 * WIDEST, False), (1100.0, 1.5, False), (3.9, 1.5, False)],
    ids=["sharp", "wide", "beyond the largest", "below the smallest"],
)
def test_only_a_sharp_number_among_the_batches_tried_leads(value, factor, leads):
    f = finding(cells(HYPERBOLA))
    error = math.log(factor) / 2.0 / stats.t(7.0).ppf(0.975)  # of an interval whose ends are that factor apart
    there = replace(f, curve=f.curve._replace(b_crit=Estimate(value, error, 7.0, n=5)), b_2x=Estimate(math.nan))
    assert there.curve.b_crit.high / there.curve.b_crit.low == pytest.approx(factor)
    assert (there.lead == "B_crit") == leads


@pytest.mark.parametrize("scatter", [0.05, 0.2])
def test_a_straight_line_never_leads_to_where_its_curve_bends(scatter):
    found = [finding(cells({b: 1600.0 / b for b in BATCHES}, scatter=scatter, draw=draw)) for draw in range(100)]
    bent = [f for f in found if f.curve.b_crit.known]
    assert len(bent) > 30 and min(f.curve.b_crit.value for f in bent) > 1024.0  # by chance, far beyond what was tried
    assert {f.lead for f in found} == {"B_2x"}
    assert sum(f.critical.known for f in found) <= 11  # binomial, 0.05 of 100, in all but 1 % of cases


def test_steps_that_rise_again_are_measured_by_the_fewest():
    risen = {**HYPERBOLA, 1024: 20.0}  # 12.5 at 512
    f = finding(cells(risen))
    assert f.lead == "B_2x" and holds(f.b_2x, 128.0 / (1.0 + 2.0 * 128.0 / 512.0))
    assert f.choices["fast"] == 512 and f.flat
    assert f.b_2x.high < finding(cells({b: 20.0 * s / 11.25 for b, s in HYPERBOLA.items()})).b_2x.value * 1.1
    (f,) = all_of(cells({b: s for b, s in risen.items() if b <= 512}))
    assert holds(f.b_2x, 128.0 / 1.5)  # with or without it


def test_the_fewest_steps_are_those_of_the_smallest_batch_that_is_not_shown_to_need_more():
    saturated = {b: 10.0 * (1.0 + 30.0 / b) for b in BATCHES}  # from 256 to 1,024 11.2, 10.6, 10.3
    assert finding(cells(saturated)).fewest() in (256, 512)
    assert finding(cells(HYPERBOLA)).fewest() == 1024
    loud = finding(cells(HYPERBOLA, scatter=0.5))
    assert loud.fewest() < 1024  # seeds scatter more than batch sizes differ


def test_what_cannot_be_told_apart_at_all_is_not_called_the_same():
    found = cells(HYPERBOLA, scatter=0.0)
    for cell in found:
        if cell.batch < 1024:
            for i, row in enumerate(cell.tuned.rows):
                row["steps_to_target"] *= math.exp((i - 2.0) / 2.0)  # from 0.37 to 2.7 times
    f = finding(found)
    assert f.steps[512].low < f.steps[1024].low and f.steps[512].high > 1.5 * f.steps[1024].high
    assert f.fewest() == 1024


@pytest.mark.parametrize(
    "last, flat",
    [(0.97, True), (0.94, True), (0.8, False), (1.3, True)],
    ids=["saves 3 %", "saves 6 %", "saves 20 %", "rises"],
)
def test_steps_fall_no_more_where_a_doubling_is_shown_to_save_less_than_a_tenth(last, flat):
    assert finding(cells({**HYPERBOLA, 1024: last * HYPERBOLA[512]})).flat == flat
    two = {b: s for b, s in HYPERBOLA.items() if b <= 256} | {1024: last**2 * HYPERBOLA[256]}  # two doublings at once
    assert finding(cells(two)).flat == flat
    assert not finding(cells({**HYPERBOLA, 1024: last * HYPERBOLA[512]}, scatter=0.5)).flat


def test_the_cheapest_surely_needs_few_examples():
    f = finding(cells(HYPERBOLA))
    for low, batch in ((17.0, 16), (15.9, 8), (3.9, None)):
        surely = replace(f, cbs20=Estimate(30.0, math.log(30.0 / low) / stats.t(7.0).ppf(0.975), 7.0))
        assert surely.cbs20.low == pytest.approx(low) and surely.cheapest() == batch
    assert replace(f, cbs20=Estimate(30.0, why="it has no interval")).cheapest() is None
    assert finding(cells(FALLING)).cheapest() == 32  # all of them are


def test_one_seed_tells_nothing_apart():
    f = finding(cells(HYPERBOLA, seeds=1))
    assert f.lead == "B_2x" and not f.critical.known and not f.cbs20.known and math.isnan(f.curve.p)
    assert f.fewest() is None and f.cheapest() is None and f.choices == {} and not f.flat
    assert finding(cells(FALLING, seeds=1)).choices == {}


def test_two_seeds_have_wide_intervals():
    few, many = finding(cells(HYPERBOLA, seeds=2)), finding(cells(HYPERBOLA, seeds=20))
    wide, narrow = (math.log(f.b_2x.high / f.b_2x.low) for f in (few, many))
    assert wide > 2.0 * narrow  # the root of 10, and Student's t
    assert holds(few.critical, 128.0) or few.lead == "B_2x"


def test_three_batch_sizes_have_no_interval():
    f = finding(cells({b: HYPERBOLA[b] for b in (4, 64, 1024)}))
    assert f.critical.why == "3 batch sizes are too few, give 4" == f.curve.b_crit.why
    assert not f.critical.known and not f.cbs20.known and "critical" not in f.choices


def test_batch_sizes_that_are_far_apart_have_no_interval():
    f = finding(cells({b: HYPERBOLA[b] for b in (4, 8, 16, 1024)}))
    assert "are a factor of 64 apart, give some in between" in f.b_2x.why
    assert finding(cells({b: HYPERBOLA[b] for b in (4, 16, 128, 1024)})).b_2x.known


@pytest.mark.parametrize(
    "steps, why",
    [(FLAT, "already the smallest batch tried takes less than twice"),
     (FALLING, "no batch tried surely needs over 1.2 times the fewest examples: give larger ones")],
    ids=["flat", "1/B"],
)  # fmt: skip
@pytest.mark.parametrize("scatter", [0.0, 0.02])
def test_steps_that_do_not_bend_have_no_critical_batch_size(steps, why, scatter):
    f = finding(cells(steps, scatter=scatter))
    assert f.lead == "B_2x" and not f.critical.known and f.critical.why.startswith(why)
    assert "critical" not in f.choices and f.choices["cheap"] == (4 if steps is FLAT else 32)
    assert f.choices["fast"] == (4 if steps is FLAT else 32)


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


def test_an_optimizer_that_is_left_out_costs_the_others_nothing():
    whole, fails = cells(HYPERBOLA), with_failures(cells({b: HYPERBOLA[b] for b in (4, 64, 1024)}, name="adam"), 64)
    found, left_out = findings(whole + fails, COMMON)
    assert [f.name for f in found] == ["sgd"] and found[0].critical == finding(whole).critical
    assert left_out == ["adam meets train_loss 0.5 on all seeds with 2 of 3 batch sizes, where 3 are needed: give "
                        "other --batches or a larger --cap"]  # fmt: skip
    alike = cells({4: 9.0, 8: 5.0}, name="lion")
    with pytest.raises(ConfigurationError, match=r"^adam meets .*; lion meets .* with 2 of 2 batch sizes"):
        findings(fails + alike, COMMON)


def test_optimizers_are_apart():
    assert [f.name for f in all_of(cells(HYPERBOLA), cells(REGRESSION, name="adam"))] == ["sgd", "adam"]


# --- two optimizers --------------------------------------------------------------------------------------------------


def test_the_ratio_of_critical_batch_sizes_is_in_its_interval():
    twice = {b: 10.0 * (1.0 + 256.0 / b) for b in BATCHES}
    found = all_of(cells(HYPERBOLA, name="adamw"), cells(twice, name="muon"), cells(HYPERBOLA, name="lion"))
    ratios = against(found)
    assert ratios.keys() == {"muon", "lion"} and {which for which, _ in ratios.values()} == {"B_crit"}
    assert holds(ratios["muon"][1], 2.0) and ratios["muon"][1].low > 1.2 and holds(ratios["lion"][1], 1.0)


def test_where_a_curve_is_rejected_both_are_read_without_one():
    adamw, soap = all_of(cells(HYPERBOLA, name="adamw"), cells(REGRESSION, name="soap"))
    which, ratio = against([adamw, soap])["soap"]
    assert which == "B_2x" and ratio.value == pytest.approx(soap.b_2x.value / adamw.b_2x.value)


def test_ratios_are_of_the_batch_sizes_that_both_have():
    """B_2x grows with the largest batch: two that are the same, of which one lacks it, must not differ for that."""
    judged = []
    for draw in range(100):
        pair = [{c.batch: c.steps for c in cells(HYPERBOLA, scatter=0.05, draw=2 * draw + i)} for i in (0, 1)]
        pair[0][1024][0] = math.inf  # a seed that failed
        sgd, momentum = (SimpleNamespace(whole=cells_of(steps)) for steps in pair)
        assert 1024 in momentum.whole.batches and 1024 not in sgd.whole.batches
        (verdict,) = judge([Claim("larger", "", "", [ratio_of_2x(momentum, sgd)], least=1.0)])
        judged.append(verdict.word)
    assert judged.count(PASS) <= 7  # binomial, 0.025 of 100, in all but 1 % of cases; without the rule 66


def test_without_the_other_or_its_interval_nothing_is_compared():
    assert against(all_of(cells(HYPERBOLA, name="muon"))) == {}
    (_, ratio) = against(all_of(cells(HYPERBOLA, name="adamw"), cells(FLAT, name="muon")))["muon"]
    assert not ratio.known and ratio.why.startswith("already the smallest batch")
