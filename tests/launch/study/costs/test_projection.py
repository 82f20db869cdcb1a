"""Rows of a projection: what a step is bound by, and stragglers."""

from pytest import approx

from allgrad.launch.study.costs import cost_model, projection
from allgrad.launch.study.costs.calibrate import Compute, Line

US = 1e-6


def test_what_a_step_is_bound_by():
    assert projection.bound(3.0, 2.0, 1.0, B=64, b_crit=100.0) == "compute"
    assert projection.bound(3.0, 2.0, 1.0, B=128, b_crit=100.0) == "statistical"
    assert projection.bound(1.0, 3.0, 2.0, B=64, b_crit=100.0) == "latency"
    assert projection.bound(1.0, 2.0, 3.0, B=64, b_crit=100.0) == "bandwidth"


def test_stragglers_slow_the_compute_of_many_ranks():
    compute = Compute(Line(200 * US, 3 * US, (), (), ()), (1.0, 1.0, 1.0, 1.5))
    model = projection.Model(cost_model.Network("", 0.0, 0.0), "ring", compute, 1000, 13.0, 100.0)
    alone, many = projection.row(model, 1, 1), projection.row(model, 64, 1)
    assert alone["t_straggle"] == approx(0.125 * alone["t_compute"])
    assert many["t_straggle"] == approx(0.5 * many["t_compute"], rel=1e-6)
