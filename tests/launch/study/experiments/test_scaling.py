"""Scaling from times that are given: blocks of ranks whose steps last as long as the test says."""

from types import SimpleNamespace

import numpy as np
import pytest
from pytest import approx

from allgrad import ddp
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import intervals
from allgrad.launch.study.costs import measure, target
from allgrad.launch.study.experiments import scaling
from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.workload import Workload

WORK = Workload(model="mlp:8")


@pytest.fixture
def lab(tmp_path):
    return SimpleNamespace(comm=ddp.Communicator(), out=tmp_path)


def block(W, seconds, losses=(2.0, 1.0), oversubscribed=False, core=1.0):
    """What `measure.times` says of two cells, strong and weak, whose steps last about `seconds`."""

    def cell(whole):
        step = np.tile(whole * np.array([0.5, 0.99, 1.01, 1.0, 0.99, 1.01, 1.0, 8.0]), (W, 5))
        shares = {"data": 0.1, "forward": 0.2, "backward": 0.3, "exchange": 0.3, "optimizer": 0.1}
        return {part: share * step for part, share in shares.items()} | {
            "step": step, "losses": list(losses), "bytes": 100, "core": core,
        }  # fmt: skip

    return {"oversubscribed": oversubscribed, "loadavg": 0.5, "cells": [cell(s) for s in seconds]}


def run(lab, monkeypatch, answers, **options):
    """The result if measuring W ranks gives, one after the other, answers[W]."""
    asked = {W: iter(found) for W, found in answers.items()}
    monkeypatch.setattr(measure, "times", lambda lab, W, cells, launcher: next(asked[W]))
    monkeypatch.setitem(scaling.GRIDS, "quick", {"steps": {"own": 2}, "blocks": len(next(iter(answers.values())))})
    return scaling.run(lab, WORK, large=None, ranks=tuple(answers), **options)


STEPS = {"s_min": (10.0, 9.0, 11.0), "b_crit": (64.0, 60.0, 68.0)}


def test_speedup_and_efficiency(lab, monkeypatch):
    answers = {1: [block(1, (1.0, 0.25))] * 3, 2: [block(2, (s, 0.48 * s)) for s in (0.625, 0.6, 0.65)]}
    result = run(lab, monkeypatch, answers, **STEPS)
    rows = {(row["mode"], row["W"]): row for row in result.tables[0].rows}
    strong, weak = rows["strong", 2], rows["weak", 2]
    assert (strong["b"], strong["B"], strong["t_step"]) == (128, 256, approx((0.625 * 0.6 * 0.65) ** (1 / 3)))
    expected = intervals.mean([0.5 / s for s in (0.625, 0.6, 0.65)])  # of the blocks, each with the one of its turn
    assert (strong["eff"], strong["eff_lo"], strong["eff_hi"]) == approx((expected.value, expected.low, expected.high))
    assert strong["speedup"] == approx(2 * expected.value)
    assert strong["karp_flatt"] == approx((1 / strong["speedup"] - 0.5) / 0.5)
    assert strong["ex_per_s"] == approx(256 / strong["t_step"])
    assert (strong["comm"], strong["t_comm_exposed"]) == (approx(0.3), approx(0.3 * strong["t_step"]))
    assert sum(strong[part] for part in scaling.PARTS.values()) == approx(strong["t_step"])
    assert strong["eff_target"] == strong["eff"]
    assert (weak["b"], weak["B"], weak["karp_flatt"]) == (64, 128, None)
    assert weak["eff"] == approx(0.25 / weak["t_step"])
    # S(64) = 20, S(128) = 15
    assert weak["eff_target"] == approx(20 * 0.25 / (2 * 15 * weak["t_step"]), rel=0.01)
    assert weak["eff_target_lo"] < weak["eff_target"] < weak["eff_target_hi"]
    assert result.claims == [] and result.headline.startswith("Strong scaling 1.6 [1.45, 1.77] times at W = 2, 30 (no")
    assert (
        "times the examples a second of one rank; exchange is 30 (no interval: the blocks do not differ) % of the step"
        ": more ranks are faster." in result.findings[0]
    )
    assert result.findings[-1].endswith("differ by less than 0.0001 between numbers of ranks (largest relative "
                                        "difference 0).")  # fmt: skip
    assert set(rows["weak", 1]) == set(result.tables[0].columns)
    assert [row["mode"] for row in result.summary.rows] == ["strong", "weak"]


def test_a_share_has_the_interval_of_its_odds():
    shares = np.array([0.9, 0.99, 0.97])
    odds = intervals.mean((shares / (1.0 - shares)).tolist())
    found = scaling._share(shares)
    assert (found.value, found.low, found.high) == approx(
        [o / (1.0 + o) for o in (odds.value, odds.low, odds.high)], rel=0.02
    )
    assert 0.5 < found.low < found.value < found.high < 1.0
    assert scaling._share([0.0, 0.0]).value == 0.0 and not scaling._share([0.3]).known


def test_what_is_not_told_apart_is_not_called_faster(lab, monkeypatch):
    answers = {1: [block(1, (1.0, 0.25))] * 3, 2: [block(2, (s, s)) for s in (0.96, 0.98, 1.03)]}
    result = run(lab, monkeypatch, answers)
    strong, weak = result.findings[:2]
    assert strong.endswith("not told apart from one rank.") and weak.endswith("more ranks are slower.")
    result = run(lab, monkeypatch, {1: [block(1, (1.0, 0.25))], 2: [block(2, (0.5, 0.3))]})
    assert all(said.endswith("No verdict.") for said in result.findings[:2])  # of one block there is no interval
    assert "no interval" in result.headline


@pytest.mark.parametrize(
    "third, core, said",
    [(1.6, 1.0, "timings differ between their blocks more than within them"), (1.0, 0.5, "had a core in 50 % of")],
)
def test_a_disturbed_machine_gets_no_verdict(lab, monkeypatch, third, core, said):
    answers = {1: [block(1, (s, 0.25), core=core) for s in (1.0, 1.3, third)], 2: [block(2, (0.5, 0.3))] * 3}
    result = run(lab, monkeypatch, answers)
    assert result.headline.startswith("No verdict, since the machine was not quiet") and said in result.headline
    assert any(said in note for note in result.notes)
    assert all(finding.endswith("No verdict.") for finding in result.findings[:-1])


def test_losses_that_differ_are_said(lab, monkeypatch):
    slow = block(2, (0.5, 0.3), losses=(2.0, 1.1))
    result = run(lab, monkeypatch, {1: [block(1, (1.0, 0.25))], 2: [slow]})
    assert "DIFFER by more than 0.0001" in result.findings[-1] and "difference 0.1)" in result.findings[-1]
    assert any("eff_target" in note for note in result.notes)


def test_nothing_rests_on_oversubscribed_ranks(lab, monkeypatch):
    answers = {1: [block(1, (1.0, 0.25))], 4: [block(4, (0.1, 0.1), oversubscribed=True)]}
    result = run(lab, monkeypatch, answers)
    assert [row["oversubscribed"] for row in result.tables[0].rows] == [False, True] * 2
    assert len(result.findings) == 1 and result.summary is None
    assert "nothing to say" in result.headline
    assert any("oversubscribed" in note for note in result.notes)


def test_efficiency_above_one_is_explained(lab, monkeypatch):
    answers = {1: [block(1, (1.0, 0.25))] * 3, 2: [block(2, (s, 0.3)) for s in (0.4, 0.41, 0.42)]}
    assert "more than 2 times, which caches explain" in run(lab, monkeypatch, answers).findings[0]


@pytest.mark.parametrize(
    "steps, left", [(None, None), ((20.0, 0.0), 0.45), ((10.0, 64.0), 0.6), ((0.01, 1e9), 0.9)]
)  # fmt: skip
def test_efficiency_towards_the_target_counts_the_examples(steps, left):
    found = scaling._towards_target(Estimate(0.9), 64, 128, steps and target.given(*steps))
    assert (found and found.value) == (left and approx(left))


def test_batches_outside_of_those_measured_say_nothing_of_the_target():
    measured = target.Measured((8.0, 64.0), np.log([9.0, 3.0]), (0.1, 0.1), (4.0, 4.0))
    assert scaling._towards_target(Estimate(0.9, 0.01, 4.0), 64, 128, measured) is None


def test_numbers_of_ranks(lab, monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 6)
    assert scaling.counts(lab) == [1, 2, 4, 6]
    lab.comm.size = 4
    assert scaling.counts(lab) == [1, 2, 4]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ranks": (0, 2)}, "--ranks takes numbers of at least 1, got .0,2."),
        ({"weak": 0}, "--weak is at least 1, got 0"),
        ({"ranks": (2,), "strong": 1}, "2 ranks cannot share a batch of 1"),
        ({"s_min": 3.0}, "give both or none"),
        ({"s_min": "3:4", "b_crit": 1.0}, "--s-min takes a number, or VALUE:LOW:HIGH, got '3:4'"),
    ],
)
def test_refusals(lab, options, message):
    with pytest.raises(ConfigurationError, match=message):
        scaling.run(lab, WORK, **options)


def test_figures_can_be_drawn(lab, monkeypatch):
    result = run(lab, monkeypatch, {1: [block(1, (1.0, 0.25))] * 2, 2: [block(2, (0.5, 0.3))] * 2})
    speedups, parts = (figure.draw() for figure in result.figures)
    assert speedups.axes[0].get_xlabel() == "ranks W"
    assert len(parts.axes[0].patches) == 5 * 4
