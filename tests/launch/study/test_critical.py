"""Critical batch sizes: closed forms, what has none, and how often the intervals hold the truth."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from allgrad.launch.study.critical import Cells, cell, cells_of, curve, doubling, moderated, ranges, roughness, useful
from allgrad.launch.study.intervals import mean
from benchmarks.coverage import BATCHES, study
from benchmarks.planted import Curved

EXACT = {b: Curved(10.0, 128.0).steps(b) for b in BATCHES}


def scattered(rng, seeds=5, scatter=0.05, exact=EXACT):
    return {b: (s * np.exp(scatter * rng.standard_normal(seeds))).tolist() for b, s in exact.items()}


def test_a_hyperbola_is_recovered_by_the_curve_and_without():
    cells = cells_of({b: [s, s, s] for b, s in EXACT.items()})
    found = curve(cells)
    assert found.b_crit.value == pytest.approx(128.0) and found.s_min.value == pytest.approx(10.0)
    assert not found.rejected or math.isnan(found.p)
    assert doubling(cells).value == pytest.approx(128.0 / (1.0 + 2.0 * 128.0 / 1024.0), rel=0.01)
    assert useful(cells).value == pytest.approx(30.4, rel=0.01)  # where 1 + B / 128 is 1.2 (1 + 4 / 128)
    assert {round(part.b_crit) for part in ranges(cells)} == {128}


def test_linear_regression_has_no_hyperbola_and_says_so():
    exact = {b: math.log(1e3) / math.log1p(b / 31.0) for b in BATCHES}
    rng, rejected, held = np.random.default_rng(0), 0, 0
    at = math.exp(brent(lambda x: math.log1p(math.exp(x) / 31.0) - math.log1p(1024 / 31.0) / 2.0))
    for _ in range(100):
        cells = cells_of(scattered(rng, exact=exact))
        rejected += curve(cells).rejected
        held += (e := doubling(cells)).low <= at <= e.high
    assert rejected >= 95
    assert held >= 89  # binomial, 0.95 of 100, in all but 1 % of cases


def brent(f):
    from scipy.optimize import brentq

    return brentq(f, 0.0, 10.0)


def test_intervals_of_a_true_hyperbola_hold_it():
    rng = np.random.default_rng(1)
    held = dict.fromkeys(("b_crit", "s_min", "b_2x", "cbs20"), 0)
    rejected = 0
    for _ in range(200):
        cells = cells_of(scattered(rng))
        found = curve(cells)
        rejected += found.rejected
        truths = ((found.b_crit, 128.0), (found.s_min, 10.0), (doubling(cells), 102.4), (useful(cells), 30.4))
        for name, (e, truth) in zip(held, truths):
            held[name] += e.low <= truth <= e.high
    assert min(held.values()) >= 181  # binomial, 0.95 of 200, in all but 0.5 % of cases
    assert rejected <= 19  # binomial, 0.05 of 200, in all but 0.5 % of cases


@pytest.mark.parametrize("name", ["hyperbola", "linear regression, 99 features"])
def test_whole_studies_hold_the_truth(name):
    """100 studies with tuned rates; more, and other problems, by `python -m benchmarks.coverage`."""
    import json

    from benchmarks.coverage import TRUTHS

    truths = {int(b): s for b, s in json.loads(TRUTHS.read_text())[name].items()}
    b_2x = doubling(cells_of({b: [s] for b, s in truths.items()})).value
    held, cells_held = 0, 0
    for steps, doubts in map(partial(study, name, 5), range(100)):
        held += (e := doubling(cells_of(steps, doubts))).low <= b_2x <= e.high
        cells_held += sum((c := cell(s, doubts[b])).low <= truths[b] <= c.high for b, s in steps.items())
    assert held >= 89 and cells_held >= 819  # binomial, in all but 1 % of cases: 0.95 of 100, 0.93 of 900


def test_twice_the_fewest_steps_of_all_is_where_the_largest_batch_is_slower_again():
    """The fewest steps are the 12 at a batch of 512; the largest takes 24."""
    law = {**{b: 10.0 * (1.0 + 100.0 / b) for b in BATCHES if b < 1024}, 1024: 24.0}
    at = 100.0 / (1.0 + 200.0 / 512.0)
    assert doubling(cells_of({b: [s] for b, s in law.items()})).value == pytest.approx(at, rel=0.01)
    rng, held = np.random.default_rng(4), 0
    for _ in range(100):
        held += (e := doubling(cells_of(scattered(rng, exact=law)))).low <= at <= e.high
    assert held >= 89  # binomial, 0.95 of 100, in all but 1 % of cases


@pytest.mark.parametrize("overhead, known", [(1.0, False), (1.19, False), (1.3, False), (2.0, True)])
def test_a_batch_must_surely_be_too_large(overhead, known):
    """The largest batch needs so many times the examples of all others, with seeds that scatter by 30 %."""
    law = {b: 4000.0 / b for b in BATCHES} | {1024: overhead * 4000.0 / 1024}
    spread = np.exp(0.3 * np.array([-1.0, -0.5, 0.0, 0.5, 1.0]))
    e = doubling(cells_of({b: (s * spread).tolist() for b, s in law.items()}))
    assert e.known == known and ("no batch tried surely needs over 1.2 times" in e.why) != known
    sure = doubling(cells_of({b: [s, s * 1.001, s / 1.001] for b, s in law.items()}))
    assert sure.known == (overhead > 1.2)


def test_variances_lend_each_other_strength():
    rng = np.random.default_rng(2)
    along = np.array(BATCHES, float) ** -0.5  # of true variances that fall with the batch
    found, dofs = zip(*(moderated(along * stats.chi2(4).rvs(9, random_state=rng) / 4.0, [4] * 9, BATCHES)
                        for _ in range(200)))  # fmt: skip
    assert np.median(found, axis=0) == pytest.approx(along, rel=0.25)
    assert np.median(np.std(np.log(found / along), axis=1)) < 0.5  # 0.7 without
    assert np.median(dofs) > 20.0
    unlike, dofs = moderated([1e-4, 100.0, 1e-2, 10.0, 1e-3, 1.0], [4] * 6, BATCHES[:6])
    assert unlike == pytest.approx([1e-4, 100.0, 1e-2, 10.0, 1e-3, 1.0], rel=3.0) and dofs.max() < 8.0
    assert moderated([2.0], [4], [8])[0].tolist() == [2.0]


def test_rough_points_widen_the_intervals():
    b, smooth = np.array(BATCHES, float), np.log([*EXACT.values()])
    quiet = np.full(9, 1e-4)
    assert roughness(b, smooth, quiet) == 0.0
    zigzag = smooth + 0.1 * (-1.0) ** np.arange(9)
    assert roughness(b, zigzag, quiet) > 100e-4


def test_what_has_no_interval_says_why():
    flat, falling = ({b: [s, 1.01 * s, 0.99 * s] for b, s in steps.items()} for steps in (
        dict.fromkeys((4, 8, 16, 32), 10.0), {b: 4000.0 / b for b in (4, 8, 16, 32)},
    ))  # fmt: skip
    for steps in (flat, falling):
        found = curve(cells_of(steps))
        assert not found.b_crit.known and "do not bend" in found.b_crit.why and not found.rejected
    assert "less than twice" in doubling(cells_of(flat)).why
    assert useful(cells_of(falling)).value == 32.0 and "costs more" in useful(cells_of(falling)).why
    three = curve(cells_of({b: [s, 1.1 * s] for b, s in list(EXACT.items())[::4]}))
    assert not three.b_crit.known and three.b_crit.why == "3 batch sizes are too few, give 4"
    one = cells_of({b: [s] for b, s in EXACT.items()})
    assert not doubling(one).known and not useful(one).known and math.isnan(curve(one).p)


def test_a_batch_with_a_failed_seed_is_left_out():
    cells = cells_of({4: [9.0, 8.0], 8: [5.0, math.inf], 16: [3.0, 2.5], 32: []})
    assert isinstance(cells, Cells) and cells.batches.tolist() == [4.0, 16.0]
    assert not cell([5.0, math.inf]).known and cell([9.0, 8.0, 8.5], 0.1).high > mean([9.0, 8.0, 8.5]).high


def test_the_band_of_a_curve_is_narrow_in_the_middle():
    found = curve(cells_of(scattered(np.random.default_rng(3))))
    low, high = found.band(np.array([4.0, 64.0, 1024.0]))
    assert np.all(low < found([4, 64, 1024])) and np.all(found([4, 64, 1024]) < high)
    assert high[1] / low[1] < high[2] / low[2]
