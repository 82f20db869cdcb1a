"""`allgrad study pareto`: fronts whose closed forms are known, and what is said of them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from pytest import approx

from allgrad import ddp
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import cost_model
from allgrad.launch.study.experiments import pareto
from allgrad.launch.study.workload import Workload
from benchmarks import coverage_pareto

US = 1e-6
WORK = Workload(model="mlp:8")
S_MIN, B_CRIT, C, D = 10.0, 64.0, 64 * US, 1 * US  # B* = 64 sqrt(W): a power of two for W = 1, 4, 16, ...
GIVEN = {"compute": (C, D), "size": 1000, "s_min": (10.0, 9.5, 10.6), "b_crit": (64.0, 56.0, 73.0)}


@pytest.fixture
def lab(tmp_path):
    return SimpleNamespace(comm=ddp.Communicator(), out=tmp_path)


def front_of(result):
    return {row["W"]: row for row in result.tables[0].rows if row["front"]}


def test_the_front_is_that_of_the_closed_form(lab):
    """T = S_min (sqrt(c) + sqrt(B_crit d / W))^2 falls and W T rises with W, so that each W is on the front once."""
    exact = {**GIVEN, "s_min": (S_MIN,) * 3, "b_crit": (B_CRIT,) * 3}
    result = pareto.run(lab, WORK, net="custom:0,0", max_ranks=256, **exact)
    found = front_of(result)
    assert [*found] == [2**k for k in range(9)]
    assert sum(row["front"] for row in result.tables[0].rows) == 9
    for W, row in found.items():
        least, best = cost_model.least_time(W, S_MIN, B_CRIT, C, D), 64.0 * math.sqrt(W)
        if math.log2(W) % 2 == 0:
            assert row["B"] == best and row["seconds"] == approx(least, rel=1e-12)
        else:  # the best power of two beside it
            assert row["B"] in (best / math.sqrt(2.0), best * math.sqrt(2.0)) or abs(math.log2(row["B"] / best)) < 0.51
            assert least < row["seconds"] < 1.05 * least
        assert row["rank_seconds"] == approx(W * row["seconds"])
        assert row["seconds_lo"] == approx(row["seconds_hi"]) and row["on_front"] == 1.0
    # W T^2 = S_min^2 (sqrt(c W) + sqrt(B_crit d))^2 (sqrt(c) + sqrt(B_crit d / W))^2 is least where c W = B_crit d.
    assert [row["setting"] for row in result.summary.rows] == ["cheapest", "knee", "fastest"]
    assert [row["W"] for row in result.summary.rows] == [1, 1, 256]
    assert "cheapest, knee: W = 1, B = 64, 2.56 [2.56, 2.56] ms for 0.00256 [" in result.headline


def test_a_network_ends_the_front_where_more_ranks_are_slower(lab):
    result = pareto.run(lab, WORK, net="custom:2e-5,1e-9", algorithm="ring", max_ranks=256, **GIVEN)
    found = front_of(result)
    times = {W: cost_model.least_time(W, S_MIN, B_CRIT, C + cost_model.ring(W, 1000, 2e-5, 1e-9), D) for W in
             (2**k for k in range(9))}  # fmt: skip
    fastest = min(times, key=lambda W: times[W])
    assert 1 <= fastest < 256 and max(found) == fastest
    assert result.findings[-1].startswith(f"Beyond the fastest, W = {2 * fastest}, B = ")
    assert "is as soon as the fastest within 5 %" in result.headline
    assert any("256 ranks are 256 times as many as were timed (1)" in note for note in result.notes)
    assert all(0.0 <= row["on_front"] <= 1.0 for row in result.tables[0].rows)
    assert min(row["on_front"] for row in result.tables[0].rows) < 0.5


def test_a_knee_lies_where_both_cost_the_same(lab):
    """With c W = B_crit d at W = 16: there a per cent of time costs a per cent of rank-seconds."""
    result = pareto.run(lab, WORK, net="custom:0,0", max_ranks=1024, **{**GIVEN, "compute": (4 * US, 1 * US)})
    assert [row["W"] for row in result.summary.rows] == [1, 16, 1024]


def test_neighbours_are_told_apart_or_not(lab):
    """What neighbours have in common cancels: errors of S_min tell all apart, and those of B_crit do not hide them."""
    result = pareto.run(lab, WORK, net="custom:0,0", max_ranks=8, **GIVEN)
    said = [line for line in result.findings if line.startswith("From W = ")]
    assert len(said) == 3 and not any("not told apart" in line for line in said)
    assert said[0].startswith("From W = 1, B = 64 to W = 2, B = ") and "% sooner, for" in said[0]
    unsure = {**GIVEN, "b_crit": (64.0, 0.5, 8192.0)}
    result = pareto.run(lab, WORK, net="custom:3e-6,1e-9", algorithm="ring", max_ranks=8, **unsure)
    assert any(line.endswith(": not told apart.") for line in result.findings)
    assert "Not told apart: W = " in result.figures[0].caption


def test_money(lab):
    result = pareto.run(lab, WORK, net="custom:0,0", max_ranks=4, price=3.6e6, **GIVEN)
    for row in (*result.tables[0].rows, *result.summary.rows):
        assert row["money"] == approx(1000.0 * row["rank_seconds"])
    assert "rank-seconds, 2.56 [2." in result.headline and "in money" in result.headline
    assert result.figures[0].draw().axes[0].get_ylabel() == "money"
    with pytest.raises(ConfigurationError, match="--price takes a number above 0, got '-1'"):
        pareto.run(lab, WORK, net="ib", price=-1, **GIVEN)


def test_without_intervals_none_is_invented(lab):
    result = pareto.run(lab, WORK, net="ib", max_ranks=4, **{**GIVEN, "s_min": 10.0, "b_crit": 64.0})
    assert "These numbers have no interval: --s-min and --b-crit are given without intervals" in result.headline
    assert result.findings == [] and math.isnan(result.tables[0].rows[0]["seconds_lo"])
    assert result.figures[0].draw().axes


def test_the_figure_names_every_point_of_the_front(lab):
    result = pareto.run(lab, WORK, net="custom:0,0", max_ranks=64, **GIVEN)
    axes = result.figures[0].draw().axes[0]
    words = {text.get_text() for text in axes.texts}
    assert words >= {f"W={W} B={row['B']}" for W, row in front_of(result).items()}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time to the target (s)", "cost (rank-seconds)")


def test_points_beaten_by_others_are_not_on_the_front():
    def point(W, T):
        return pareto.Point(W, 1, pareto.drawn(np.array([T, 2.0 * T])))

    best, beaten, also = point(1, 4.0), point(2, 4.0), point(2, 3.0)
    assert pareto.front([beaten, also, best]) == [best, also]
    assert pareto.on_front([best, beaten, also]) == [1.0, 0.0, 1.0]
    assert pareto.told_apart(best, also) and not pareto.told_apart(best, beaten)


@pytest.mark.parametrize("curve", [True, False])
def test_intervals_hold_the_truth(curve):
    """An interval that holds the truth in 95 % of studies does so in fewer than 52 of 60 with a probability of 0.003.

    By the binomial distribution; `python -m benchmarks.coverage_pareto` has bounds on both sides.
    """
    held = coverage_pareto.coverage(coverage_pareto.Laws(curve=curve), 60)
    assert min(held.values()) >= 52
