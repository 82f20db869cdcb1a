"""Rows of a projection: what a step is bound by, and stragglers; draws of the best batch and number of ranks."""

import math

import numpy as np
import pytest
from pytest import approx

from allgrad.launch.study.costs import cost_model, projection
from allgrad.launch.study.costs.calibrate import Compute, Line
from allgrad.launch.study.costs.target import Hyperbola, Measured

US = 1e-6
NO_NET = cost_model.Network("", 0.0, 0.0)


def test_what_a_step_is_bound_by():
    assert projection.bound(3.0, 2.0, 1.0, B=64, b_crit=100.0) == "compute"
    assert projection.bound(3.0, 2.0, 1.0, B=128, b_crit=100.0) == "statistical"
    assert projection.bound(1.0, 3.0, 2.0, B=64, b_crit=100.0) == "latency"
    assert projection.bound(1.0, 2.0, 3.0, B=64, b_crit=100.0) == "bandwidth"


def of(target, relative=(1.0,), net=NO_NET, algorithm="ring", n=4000):
    """The model of (200 + 3 b) us a step, with draws of the target."""
    model = projection.Model(net, algorithm, Compute(Line(200 * US, 3 * US, (), (), ()), relative), 1000, target)
    drawn = projection.Model(net, algorithm, model.compute, 1000, target.drawn(np.random.default_rng(0), n))
    return projection.Uncertain(model, drawn)


def test_stragglers_slow_the_compute_of_many_ranks():
    model = of(Hyperbola(13.0, 100.0, why="given"), (1.0, 1.0, 1.0, 1.5))
    alone, many = projection.row(model, 1), projection.row(model, 64)
    assert alone["t_straggle"] == approx(0.125 * alone["t_compute"])
    assert many["t_straggle"] == approx(0.5 * many["t_compute"], rel=1e-6)
    assert math.isnan(alone["T_target_lo"])


@pytest.mark.parametrize("correlation", [0.0, -0.8])
def test_the_interval_of_a_time_is_that_of_its_steps(correlation):
    """ln T = ln S_min + ln(1 + B_crit / B) + ...: by the propagation of small errors."""
    model = of(Hyperbola(13.0, 100.0, (0.02, 0.05), correlation, batches=(4, 1024)), n=40000)
    T, g = model.time(64, 8), 100.0 / 164.0
    error = math.sqrt(0.02**2 + (g * 0.05) ** 2 + 2 * correlation * 0.02 * g * 0.05)
    assert T.value == approx(13.0 * (1 + 100 / 64) * (200 + 3 * 8) * US, rel=1e-3)
    assert [math.log(end / T.value) / error for end in (T.low, T.high)] == approx([-1.96, 1.96], abs=0.05)


def test_the_best_batch_of_draws_is_that_of_their_closed_form():
    model = of(Hyperbola(13.0, 100.0, (0.02, 0.7), batches=(4, 1024)))
    drawn = model.best_batch(16)
    closed = cost_model.best_batch(16, np.array(model.draws.target.b_crit)[0], 200 * US, 3 * US)
    assert abs(math.log2(drawn.draws[0] / closed)) <= 1.0
    assert drawn.low < drawn.value < drawn.high
    closed = [cost_model.best_batch(16, b, 200 * US, 3 * US) for b in model.draws.target.b_crit]
    assert max(abs(np.log2(drawn.draws / closed))) <= 1.0


def test_errors_that_numbers_of_ranks_have_in_common_cancel():
    model = of(Hyperbola(13.0, 100.0, (0.3, 0.0), batches=(4, 1024)))
    first, second = model.time(64, 1), model.time(64, 2)
    assert first.high / first.low > 2.0
    ratio = projection.ratio(first, second)
    assert ratio.low == approx(ratio.high) == approx((200 + 3 * 64) / (200 + 3 * 32))


def test_measured_steps_are_interpolated_and_never_left():
    target = Measured((8.0, 32.0, 128.0), np.log([40.0, 20.0, 16.0]), (0.1, 0.1, 0.1), (4.0, 4.0, 4.0), 32.0)
    model = of(target)
    assert model.at.batches(1) == [8, 16, 32, 64, 128] and model.at.batches(64) == [64, 128]
    assert model.ranks(4096) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert math.isnan(model.at.time(256, 1)) and math.isnan(model.at.time(4, 1))
    row = projection.row(model, 64)
    assert row["T_fixed_b"] is None and row["B_closed"] is None and row["beyond"] is False
    assert row["steps"] == approx(math.sqrt(20.0 * 16.0)) or row["B*"] == 128


def test_each_rank_has_an_example():
    assert of(Hyperbola(13.0, 100.0, why="given")).at.batches(5)[0] == 8
    assert projection.row(of(Hyperbola(13.0, 0.0, why="given")), 8)["B*"] == 8
