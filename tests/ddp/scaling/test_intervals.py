"""Intervals of the noise scale: each step of their making, and how often they hold a truth that is known."""

import math

import numpy as np
import pytest
from scipy import stats

from allgrad.autograd.random import generator
from allgrad.ddp.scaling import fieller
from allgrad.ddp.scaling.intervals import contrasts, course, of_parts, seen, student, tail, too_few, trend
from allgrad.ddp.scaling.probe import analysis
from benchmarks.coverage_noise import autoregression, cases, probe, running

SIMULATIONS = 200


def assert_covers(held, least=0.93, most=0.97):
    """That a coverage between these two may hold so many truths: each bound fails 1 time in 2000 where it is true."""
    n = len(held)
    assert stats.binom.ppf(5e-4, n, least) <= sum(held) <= stats.binom.ppf(1.0 - 5e-4, n, most)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 30, 127, 1023])
@pytest.mark.parametrize("level", [0.5, 0.6, 0.95, 0.975, 0.9995])
def test_students_quantile_is_scipys(degrees, level):
    assert student(degrees, level) == pytest.approx(stats.t.ppf(level, degrees), rel=1e-11, abs=1e-15)


# --- Fieller -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, y, errors, interval",
    [
        (4.0, 2.0, (0.0, 0.0, 0.0), (2.0, 2.0)),  # no scatter
        (4.0, -2.0, (0.0, 0.0, 1.0), (8.0, math.inf)),  # a signal of 0 is the nearest there is
        (4.0, -0.1, (1e-4, 0.0, 1.0), (8.0, math.inf)),
        (0.1, 0.1, (1.0, 0.0, 1.0), (0.0, math.inf)),  # nothing is known
        (4.0, 2.0, (1.0, 0.0, 0.0), (1.75, 2.25)),
        (4.0, 2.0, (0.0, 0.0, 1.0), (4 / 2.5, 4 / 1.5)),
        (4.0, 2.0, (1.0, 0.5, 0.25), (2.0, 2.0)),  # errors of x that are those of 2 y
    ],
)
def test_fiellers_interval(x, y, errors, interval):
    t = 1.7
    assert fieller(x, y, [0.25 / t**2 * e for e in errors], t) == pytest.approx(interval, rel=1e-2)


# --- steps ---------------------------------------------------------------------------------------------------------


def test_contrasts_are_orthonormal_and_see_none_of_the_columns():
    columns = [np.ones(90), np.arange(90.0), 0.95 ** np.arange(90.0)[::-1]]
    q = contrasts(columns, 5)
    np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-12)
    np.testing.assert_allclose([column @ q / np.linalg.norm(column) for column in columns], 0.0, atol=1e-12)
    turns = np.sum(np.diff(np.sign(q), axis=0) != 0, axis=0)
    assert (turns <= np.arange(5) + 5).all(), "slow"


def test_what_contrasts_see_is_the_same_without_making_them():
    rng = generator("seen")
    columns, values = [np.ones(120), np.arange(120.0), 0.98 ** np.arange(120.0)], rng.standard_normal((3, 120))
    found, expected = seen(columns, 4, values), values @ contrasts(columns, 4)
    np.testing.assert_allclose(found * np.sign(found[:1]), expected * np.sign(expected[:1]), rtol=1e-11)


@pytest.mark.parametrize("rate", [-0.05, 0.0, 0.02])
def test_a_trend_is_found_and_has_no_error_where_there_is_nothing_else(rate):
    found = trend(3.0 * np.exp(rate * np.arange(100)))
    assert found[0] == pytest.approx(rate, abs=1e-8)
    np.testing.assert_allclose(found[1], 1.0, rtol=1e-6)


@pytest.mark.parametrize("values", [-np.ones(100), np.zeros(100), np.exp(-np.arange(100.0))])
def test_what_has_no_trend_that_could_be_divided_out(values):
    assert trend(values) is None


def test_of_independent_steps_the_covariance_is_that_of_the_weighted_mean():
    decay, n, truth = 0.9, 128, np.array([[4.0, 1.0], [1.0, 2.0]])
    rng, found = generator("independent"), []
    for _ in range(200):
        steps = rng.multivariate_normal([100.0, 50.0], truth, n)
        found.append(course(steps, decay).covariance)
    expected = truth * (1.0 - decay) / (1.0 + decay)
    assert np.mean(found, axis=0) == pytest.approx([expected[0, 0], expected[0, 1], expected[1, 1]], rel=0.15)


def test_a_trend_is_no_scatter_and_what_lasts_is():
    n, rng = 256, generator("scatter")
    still, falling, lasting = [], [], []
    for _ in range(100):
        noise = 0.1 * rng.standard_normal((n, 2))
        drift = np.exp(-0.02 * np.arange(n)[::-1, None])  # which ends where the others are
        for found, steps in (
            (still, 1.0 + noise),
            (falling, (1.0 + noise) / drift),
            (lasting, 1.0 + 0.1 * autoregression(rng, 0.8, (2, n)).T),
        ):
            found.append(course(steps, 0.95).covariance[2])
    mean = 0.05 / 1.95 * 0.01
    assert np.mean(still) == pytest.approx(mean, rel=0.15)
    # Of 1.02^age noise the weights are 0.95 1.02 to the age: sum of their squares over the squared sum of 0.95^age.
    assert np.mean(falling) == pytest.approx(0.01 * 0.05**2 / (1.0 - (0.95 * math.exp(0.02)) ** 2), rel=0.15)
    assert np.mean(lasting) == pytest.approx(mean * (1.0 + 0.95 * 0.8) / (1.0 - 0.95 * 0.8), rel=0.35)


@pytest.mark.parametrize(
    "n, decay, fall, grow, covariance, drift, exact",
    [
        (120, 0.95, 0.0, 0.0,
         (0.00011442955686330505, 0.00020742042532039987, 0.0013886405111070207),
         (0.0008491539702457845, 0.0006309160056991078), 1e-12),
        (256, 0.95, 0.0, 0.0,
         (0.0004260922786973154, -0.0001901855586089183, 0.0006404377270068818),
         (0.000387540146571298, 0.00021396040374027233), 1e-12),
        (256, 0.95, 0.01, 0.0,
         (0.0002946507718569799, 6.844212844631244e-05, 0.0006550733736554592),
         (0.013356282000557971, 0.0018547046066776849), 1e-10),
        (180, 0.95, -0.005, 0.02,
         (1.0514932500904963, 0.015876261561728024, 0.0007088035421118703),
         (-0.006768144222717791, 0.0016705177816684685), 1e-10),
    ],
)  # fmt: skip
def test_a_course_to_the_last_digits(n, decay, fall, grow, covariance, drift, exact):
    """Numbers that the formulas gave when each contrast and each power was made anew; less exact with more columns."""
    i = np.arange(n)
    x = 1.0 + 0.2 * np.exp(grow * i) * np.sin(i * i)
    y = np.exp(-fall * i) + 0.3 * np.sin(1.0 + 1.7 * i * i)
    found = course(np.stack([x, y], axis=1), decay)
    assert found.covariance == pytest.approx(covariance, rel=exact)
    assert found.drift == pytest.approx(drift, rel=exact)


def test_few_steps_say_nothing():
    steps = generator("few").standard_normal((100, 2)) + 5.0
    assert course(steps[:99], 0.95) is None and course(steps, 0.95).degrees == 2


def test_a_signal_that_is_not_there_has_no_drift():
    steps = generator("no signal").standard_normal((100, 2)) + [5.0, -1.0]
    found = course(steps, 0.95)
    assert found.drift is None and min(found.covariance[::2]) > 0.0


RUNNING = [
    "gaussian, 100 steps of 8 x 32", "1 in 200, 100 steps of 4 x 16", "AR(0.5), 256 steps", "AR(0.8), 256 steps",
    "AR(0.8) and as much noise, 256 steps", "SGD near a minimum, 256 steps", "signal falls 2% a step, 100 steps",
    "signal falls 5% a step, 100 steps", "signal falls 3 %, trace rises 1 % a step, 100 steps",
]  # fmt: skip


@pytest.mark.parametrize("case", RUNNING)
def test_the_running_interval_holds_the_truth_as_often_as_it_says(case):
    found = [running(cases()[case], generator("intervals", case, i))["noise scale"] for i in range(SIMULATIONS)]
    assert_covers([low <= truth <= high for low, high, truth in found])
    assert np.mean([math.isfinite(high) for _, high, _ in found]) > 0.9, "an upper end is there to be wrong"


@pytest.mark.parametrize("case", ["signal falls 1% a step, 100 steps", "AR(0.8), 256 steps"])
def test_so_does_that_of_the_drift(case):
    found = [running(cases()[case], generator("drift", case, i))["drift a step"] for i in range(SIMULATIONS)]
    assert_covers([low <= truth <= high for low, high, truth in found])


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, batch", [(128, 8), (256, 8), (1024, 1)])
def test_the_interval_of_a_probe_holds_the_truth_as_often_as_it_says(count, batch):
    held = []
    for i in range(SIMULATIONS):
        low, high, truth = probe(generator("probe", count, i), "gaussian", count, batch, 50, 30.0)
        held.append(low <= truth <= high)
    assert_covers(held)


@pytest.mark.parametrize("count, batch", [(8, 8), (32, 8), (128, 8)])
@pytest.mark.parametrize("kind", ["t3", "t3 norm", "1 in 200"])
def test_what_may_not_have_been_drawn_is_not_ruled_out(kind, count, batch):
    found = [probe(generator("tail", kind, count, i), kind, count, batch, 50, 30.0) for i in range(SIMULATIONS)]
    assert_covers([low <= truth <= high for low, high, truth in found], most=1.0)
    assert np.mean([low > 0.0 for low, _, _ in found]) > 0.5, "the lower end says something"


def test_why_there_is_no_upper_end():
    even, heavy = np.tile([-0.1, 0.1], 100), np.zeros(200)
    heavy[0] = 1.0
    assert too_few(1000) is None and "999 samples may miss rare ones" in too_few(999)
    assert tail(even, 0.01, "parts") is None
    assert "99 parts cannot show how heavy the tail" in tail(even[:99], 0.01, "parts")
    assert "is known to 11% only" in tail(even, 0.11, "parts")
    assert "a tail heavier than a Gaussian's" in tail(heavy - heavy.mean(), 0.01, "parts")


def test_a_lower_end_alone_is_a_bound_at_95_percent():
    pseudo = np.stack([np.tile([9.0, 11.0], 50), np.full(100, 2.0)], axis=1)
    (low, high), why = of_parts(10.0, 2.0, pseudo, 500, "parts")
    error = math.sqrt(1.0 / 99.0)
    assert low == pytest.approx((10.0 - student(99, 0.95) * error) / 2.0) and high == math.inf and why
    (low, high), why = of_parts(10.0, 2.0, pseudo, 1000, "parts")
    assert [low, high] == pytest.approx([(10.0 + s * student(99, 0.975) * error) / 2.0 for s in (-1, 1)]) and not why


def test_a_skewed_mean_has_its_interval_further_up():
    skewed = stats.gamma(2.0).ppf((np.arange(400) + 0.5) / 400)
    pseudo = np.stack([skewed, np.ones(400)], axis=1)
    (low, high), why = of_parts(skewed.mean(), 1.0, pseudo, 4000, "parts")
    assert why is None and 1.05 < (high - skewed.mean()) / (skewed.mean() - low) < 1.5


def test_pseudo_values_are_those_of_leaving_parts_out():
    rng = generator("left out")
    g, w = rng.standard_normal((9, 4)), rng.random(9) + 0.5

    def estimates(g, w):
        w = w / w.mean()
        residuals = w[:, None] * (g - w @ g / len(w))
        trace = 5 * np.sum(residuals**2) / (len(w) - 1)
        return np.array([trace, np.sum((w @ g / len(w)) ** 2) - trace / (5 * len(w))])

    whole = estimates(g, w)
    w = w / w.mean()
    both, pseudo = analysis(np.sum(g * g, axis=1), g @ (w @ g), g @ (w * w @ g), w, 5)
    np.testing.assert_allclose(both, whole, rtol=1e-12)
    for i in range(9):
        others = np.arange(9) != i
        np.testing.assert_allclose(pseudo[i], 9 * whole - 8 * estimates(g[others], w[others]), rtol=1e-9)
