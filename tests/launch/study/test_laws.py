"""Best and critical batch sizes from planted losses, and power laws of them."""

import math

import numpy as np
import pytest

from allgrad.launch.study.intervals import Estimate, share
from allgrad.launch.study.laws import MARGIN, Cells, Point, found_in, power_law
from benchmarks.coverage_laws import BATCHES, CASES, Planted, hits

SIZES = 1000, 2000, 4000, 8000


def planted(**changes):
    """The cells of losses without noise but for a seed's own level."""
    case = Planted(**{"examples": SIZES, "seeds": 3, "noise": 0.0, "common": 0.1, **changes})
    return case, case.draw(np.random.default_rng(0))[1]


def point(size, batch, error=0.1, parameters=1.0):
    return Point(size, parameters, Estimate(batch, error, 4.0, True, 5))


# --- batch sizes -----------------------------------------------------------------------------------------------------


def test_batches_of_planted_parabolas_are_found_and_what_seeds_share_is_no_error():
    case, curves = planted()
    for found in found_in(curves):
        assert found.b_opt.value == pytest.approx(case.b_opt(found.examples, 1), rel=1e-6)
        assert found.b_crit.value == pytest.approx(case.b_crit(found.examples, 1), rel=1e-6)
        assert found.b_opt.error == pytest.approx(0.0, abs=1e-6) and found.b_opt.dof == pytest.approx(2.0)


def test_the_critical_batch_needs_the_margin_times_the_least_examples():
    _, curves = planted(common=0.0, fall=0.7)
    found, cells = found_in(curves)[-1], curves[-1]
    parabola = np.polyfit(np.log(BATCHES), np.log(cells.losses[:, 0]), 2)
    worse = np.polyval(parabola, math.log(found.b_crit.value)) - np.polyval(parabola, math.log(found.b_opt.value))
    assert math.exp(worse / 0.7) == pytest.approx(MARGIN, rel=1e-6)  # as the best loss goes as D^-0.7


def test_an_error_is_that_of_the_linear_formula():
    rng = np.random.default_rng(1)
    x, losses = np.log(BATCHES[:5]), []
    for seed_noise in 0.001 * rng.standard_normal((4, 5)):
        losses.append(0.1 * (x - x[2]) ** 2 + seed_noise)
    logs = np.array(losses).T
    (found,) = found_in([Cells(100, BATCHES[:5], np.exp(logs))])
    quadratic, linear, _ = np.polyfit(x - x[2], logs.mean(axis=1), 2)
    vertex = -linear / (2.0 * quadratic)
    single = np.polyfit(x - x[2], logs, 2)
    moved = single[1] + 2.0 * single[0] * vertex  # of each seed
    assert found.b_opt.error == pytest.approx(np.std(moved, ddof=1) / 2.0 / (2.0 * quadratic), rel=0.01)
    assert "one number of examples" in found.b_crit.why


@pytest.mark.parametrize(
    "change, opt, crit",
    [
        (lambda y: y[3:], "smallest batch tried", ""),
        (lambda y: y[:2], "largest batch tried, 8, is the best", "still within the margin"),
        (lambda y: y * 0.0 + 1.0, "smallest batch tried, 4, is the best", "more examples do not lower the loss"),
    ],
)
def test_what_cannot_be_told_is_said(change, opt, crit):
    _, curves = planted()
    changed = []
    for cells in curves:
        losses = change(cells.losses)
        batches = BATCHES[3:] if len(losses) == len(BATCHES) - 3 else BATCHES[: len(losses)]
        changed.append(Cells(cells.examples, batches, losses))
    found = found_in(changed)[0]
    assert opt in found.b_opt.why and not found.b_opt.known
    assert crit in found.b_crit.why


def test_a_failed_seed_near_the_best_batch_or_where_the_loss_leaves_the_margin_decides_nothing():
    _, curves = planted()
    losses = curves[0].losses.copy()
    losses[2, 1] = math.inf
    found = found_in([Cells(1000, BATCHES, losses), *curves[1:]])[0]
    assert "a seed failed" in found.b_opt.why and found.b_opt.failed == 1
    losses = curves[0].losses.copy()
    losses[5, 1] = math.nan  # B = 128, beyond both
    found = found_in([Cells(1000, BATCHES, losses), *curves[1:]])[0]
    assert found.b_opt.known and found.b_crit.known


def test_a_single_seed_has_no_interval():
    _, curves = planted(seeds=1)
    assert not found_in(curves)[0].b_opt.known and "needs 2 seeds" in found_in(curves)[0].b_opt.why


# --- power laws ------------------------------------------------------------------------------------------------------


def test_a_law_of_examples_and_parameters_is_that_of_least_squares():
    points = [point(d, 2.0 * d**0.4 * n**-0.1, parameters=n) for d in SIZES for n in (10, 100)]
    law = power_law(points)
    numbers = law.a.value, law.of_examples.value, law.of_parameters.value
    assert numbers == pytest.approx((2.0, 0.4, -0.1), rel=1e-9) and law.dof == 5
    assert law(500, 10) == pytest.approx(2.0 * 500**0.4 * 10**-0.1)


def test_the_interval_of_an_exponent_is_that_of_a_straight_line():
    from scipy.stats import linregress

    noise = np.exp(np.random.default_rng(2).standard_normal(len(SIZES)) * 0.1)
    law = power_law([point(d, d**0.5 * k) for d, k in zip(SIZES, noise)])
    line = linregress(np.log(SIZES), np.log(np.array(SIZES) ** 0.5 * noise))
    assert (law.of_examples.value, law.of_examples.error) == pytest.approx((line.slope, line.stderr))
    assert law.a.error == pytest.approx(line.intercept_stderr) and law.of_examples.dof == 2.0
    low, high = law.band([1.0])
    assert (low[0], high[0]) == pytest.approx(law.a.interval())


def test_a_point_that_is_less_known_weighs_less():
    points = [point(1, 1.0), point(10, 1.0), point(100, 1.0), point(1000, 100.0, error=10.0)]
    assert 0.0 < power_law(points).of_examples.value < 0.05
    equal = power_law([*points[:3], point(1000, 100.0)]).of_examples.value
    assert equal == pytest.approx(0.6)


LOST = Point(0, 1.0, Estimate(4.0, why="at the edge"))


def test_a_point_in_the_middle_may_be_unknown():
    points = [point(d, d**0.5) for d in SIZES]
    law = power_law([*points, Point(3000, 1.0, Estimate(4.0, why="a seed failed"))])
    assert law.points == 4 and law.of_examples.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    "points, why",
    [
        ([point(1, 1.0), point(2, 1.0)], "needs 3 numbers of them"),
        ([point(1, 1.0), point(2, 1.0), Point(3, 1.0, Estimate(2.0, why="lost"))], "there are 2"),
        ([point(1, 1.0), point(2, 1.0), point(3, 1.0, parameters=2.0)], "needs 4 batch sizes"),
        (
            [LOST, point(1, 1.0), point(2, 1.0), point(3, 1.0)],
            r"at 0 examples, where .* begin or end, .*\(at the edge\)",
        ),
        ([point(-1, 1.0), point(-2, 1.0), point(-3, 1.0), LOST], "at 0 examples"),
        ([*(point(k, 1.0, parameters=n) for n in (1, 2) for k in (1, 2, 3)), LOST._replace(parameters=2)], "at 0 ex"),
    ],
)
def test_too_few_points_are_refused(points, why):
    with pytest.raises(ValueError, match=why):
        power_law(points)


@pytest.mark.parametrize("case, simulations, names", [("5 seeds", 100, 4), ("rates that scatter", 40, 2)])
def test_intervals_hold_what_was_planted(case, simulations, names):
    found = hits(CASES[case], simulations, 0)
    assert len(found) == 4
    for name in sorted(found, key=len)[-names:]:  # where rates scatter this much, only exponents: see the benchmark
        low, high = share(*found[name]).interval(0.999)  # 93 to 97 %, as far as so few simulations can tell
        assert high > 0.93 and low < 0.97, name


def test_a_doubt_about_the_rate_adds_to_the_error():
    _, (cells, *others) = planted()
    sure, doubtful = (found_in([cells._replace(doubts=d), *others])[0] for d in ((), [0.02] * len(BATCHES)))
    case, x = Planted(), np.log(BATCHES)
    near = np.abs(x - x[BATCHES.index(sure.best)]) < math.log(4.5)
    far, h = x[near] - math.log(case.b_opt(1000, 1)), case.fall * math.log(MARGIN)
    h /= math.log(case.b_crit(1000, 1) / case.b_opt(1000, 1)) ** 2
    covariance = np.linalg.inv(np.vander(far, 3).T @ np.vander(far, 3))  # of c, b, a at the lowest point
    added = 0.02 * math.sqrt(covariance[1, 1]) / (2.0 * h)
    assert doubtful.b_opt.error == pytest.approx(added, rel=1e-3)
    assert doubtful.b_crit.error > 0.05 and sure.b_crit.error < 1e-6 and doubtful.b_crit.value == sure.b_crit.value
