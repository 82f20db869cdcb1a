"""Scaling from times that are given: blocks of ranks whose steps last as long as the test says."""

from types import SimpleNamespace

import numpy as np
import pytest
from pytest import approx

from allgrad import ddp
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import measure
from allgrad.launch.study.experiments import scaling
from allgrad.launch.study.workload import Workload

WORK = Workload(model="mlp:8")


@pytest.fixture
def lab(tmp_path):
    return SimpleNamespace(comm=ddp.Communicator(), out=tmp_path)


def block(W, seconds, losses=(2.0, 1.0), oversubscribed=False):
    """What `measure.times` says of two cells, strong and weak, whose steps last `seconds` and 3 % more."""

    def cell(whole):
        step = np.tile([whole, 1.03 * whole], (W, 1))
        shares = {"data": 0.1, "forward": 0.2, "backward": 0.3, "exchange": 0.3, "optimizer": 0.1}
        return {part: share * step for part, share in shares.items()} | {
            "step": step, "losses": list(losses), "bytes": 100,
        }  # fmt: skip

    return {"oversubscribed": oversubscribed, "loadavg": 0.5, "cells": [cell(s) for s in seconds]}


def run(lab, monkeypatch, answers, **options):
    """The result if measuring W ranks gives, one after the other, answers[W]."""
    asked = {W: iter(found) for W, found in answers.items()}
    monkeypatch.setattr(measure, "times", lambda lab, W, cells, launcher: next(asked[W]))
    monkeypatch.setitem(scaling.GRIDS, "quick", {"steps": {"own": 2}, "blocks": len(next(iter(answers.values())))})
    return scaling.run(lab, WORK, large=None, ranks=tuple(answers), **options)


def test_speedup_and_efficiency(lab, monkeypatch):
    answers = {1: [block(1, (1.0, 0.25))] * 3, 2: [block(2, (s, 0.3)) for s in (0.625, 0.5, 0.8)]}
    result = run(lab, monkeypatch, answers, s_min=10.0, b_crit=64.0)
    rows = {(row["mode"], row["W"]): row for row in result.tables[0].rows}
    strong, weak = rows["strong", 2], rows["weak", 2]
    assert (strong["b"], strong["B"], strong["t_step"]) == (128, 256, 0.625)  # the middle one of the blocks
    assert (strong["speedup"], strong["eff"]) == (approx(1.6), approx(0.8))
    assert (strong["eff_low"], strong["eff_high"]) == (approx(1 / 1.6), approx(1.0))
    assert strong["karp_flatt"] == approx((1 / 1.6 - 0.5) / 0.5)
    assert strong["ex_per_s"] == approx(256 / 0.625)
    assert strong["t_comm_exposed"] == approx(0.3 * 0.625)
    assert strong["eff_target"] == strong["eff"]
    assert (weak["b"], weak["B"], weak["karp_flatt"]) == (64, 128, None)
    assert weak["eff"] == approx(0.25 / 0.3)
    # S(64) = 20, S(128) = 15: 20 * .25 / (2 * 15 * .3)
    assert weak["eff_target"] == approx(20 * 0.25 / (2 * 15 * 0.3))
    assert {check.verdict for check in result.checks} == {"PASS"}
    assert "strong 1.60x at W=2 (80%), 30% of the step is exposed communication" in result.headline
    assert set(rows["weak", 1]) == set(result.tables[0].columns)


def test_losses_that_differ_and_parts_that_are_missing_fail(lab, monkeypatch):
    slow = block(2, (0.5, 0.3), losses=(2.0, 1.1))
    slow["cells"][0]["forward"] = 0.0 * slow["cells"][0]["forward"]
    result = run(lab, monkeypatch, {1: [block(1, (1.0, 0.25))], 2: [slow]})
    assert [check.verdict for check in result.checks[:2]] == ["FAIL", "FAIL"]
    assert result.checks[1].value == approx(0.1)
    assert any("eff_target" in note for note in result.notes)


def test_nothing_rests_on_oversubscribed_ranks(lab, monkeypatch):
    answers = {1: [block(1, (1.0, 0.25))], 4: [block(4, (0.1, 0.1), oversubscribed=True)]}
    result = run(lab, monkeypatch, answers)
    assert [row["oversubscribed"] for row in result.tables[0].rows] == [False, True] * 2
    assert not any("Efficiency" in check.claim for check in result.checks)
    assert "nothing to say" in result.headline
    assert any("oversubscribed" in note for note in result.notes)


def test_efficiency_above_one_is_explained(lab, monkeypatch):
    result = run(lab, monkeypatch, {1: [block(1, (1.0, 0.25))], 2: [block(2, (0.4, 0.3))]})
    assert [check.verdict for check in result.checks] == ["PASS", "PASS", "FAIL", "PASS"]
    assert any("cache" in note for note in result.notes)


def test_fit_of_steps_is_read_from_the_directory(lab):
    assert scaling.fit_found(lab) is None
    (lab.out / "steps_fit.csv").write_text("optimizer,S_min,S_min_lo,B_crit\nsgd,13.0,12.0,103.0\nadam,8.0,7.0,187.0\n")
    assert scaling.fit_found(lab) == (13.0, 103.0)
    assert scaling.fit_found(lab, "adam") == (8.0, 187.0)
    assert scaling.fit_found(lab, "lars") is None


@pytest.mark.parametrize(
    "fit, left", [(None, None), ((20.0, 0.0), 0.45), ((10.0, 64.0), 0.6), ((0.0, np.inf), 0.9)]
)  # fmt: skip
def test_efficiency_towards_the_target_counts_the_examples(fit, left):
    assert scaling._towards_target(0.9, 64, 128, fit) == (left and approx(left))


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
        ({"s_min": -3.0, "b_crit": 1.0}, "--s-min is above 0"),
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
