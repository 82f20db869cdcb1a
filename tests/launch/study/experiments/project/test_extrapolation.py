"""Projections: hand-computed ones, and those of a machine whose laws are given."""

from types import SimpleNamespace

import numpy as np
import pytest
from pytest import approx

from allgrad import ddp
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import calibrate, cost_model, measure, projection
from allgrad.launch.study.experiments import project, scaling
from allgrad.launch.study.workload import Workload

WORK = Workload(model="mlp:8")


US = 1e-6


HAND = {"compute": (200 * US, 3 * US), "size": 38440, "s_min": 13.02, "b_crit": 103.5}


@pytest.fixture
def lab(tmp_path):
    return SimpleNamespace(comm=ddp.Communicator(), out=tmp_path)


def of(result, column):
    return {row["W"]: row[column] for row in result.tables[0].rows}


@pytest.mark.parametrize(
    "net, algorithm, W, B, milliseconds",
    [
        ("custom:20e-6,1e-9", "ring", 4, 256, 10.42),
        ("custom:1e-6,1e-9", "ring", 32, 512, 6.02),
        ("custom:20e-6,1e-9", "rabenseifner", 64, 1024, 8.08),
        ("custom:1e-6,1e-9", "rabenseifner", 4096, 8192, 4.05),
    ],
)
def test_by_hand(lab, net, algorithm, W, B, milliseconds):
    result = project.run(lab, WORK, net=net, algorithm=algorithm, **HAND)
    times = of(result, "T_target")
    assert [*times] == [2**q for q in range(13)]
    assert min(times, key=lambda ranks: times[ranks]) == W
    assert times[W] * 1e3 == approx(milliseconds, abs=0.005)
    assert of(result, "B*")[W] == B
    assert f"W = {W:,} ranks and batch size B = {B:,}" in result.headline
    assert result.headline.startswith("Modelled, not measured, from the steps to target of the fit that was given: on ")
    assert "alpha = " in result.headline and "beta = 1 ns/byte" in result.headline
    assert ("still falling" in result.headline) == (W == 4096)
    assert [check.verdict for check in result.checks] == ["PASS"]
    assert result.tables[0].csv() == project.run(lab, WORK, net=net, algorithm=algorithm, **HAND).tables[0].csv()


def test_rows_are_consistent(lab):
    result = project.run(lab, WORK, net="10GbE", max_ranks=200, **HAND)
    rows = result.tables[0].rows
    assert [row["W"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128]
    for row in rows:
        parts = [row[f"t_{part}"] for part in ("compute", "straggle", "latency", "bandwidth")]
        assert row["t_step"] == approx(sum(parts))
        assert row["T_target"] == approx(row["steps"] * row["t_step"])
        assert row["B*"] == row["b*"] * row["W"] >= row["W"]
        assert all(row[c] is None or row[c] >= row["T_target"] * (1 - 1e-12) for c in ("T_fixed_b", "T_fixed_B"))
        assert row["extrapolation"] == row["W"]
        assert row["algo"] == ("none" if row["W"] == 1 else cost_model.best_algorithm(row["W"], 38440, TEN))
    assert of(result, "eff")[1] == 1.0
    assert set(rows[0]) == set(projection.COLUMNS)


TEN = cost_model.network("10GbE")


# --- a machine whose laws are known ------------------------------------------------------------------------------

NET = cost_model.Network("", 30 * US, 0.5e-9, 0.1e-9)


CROWDING = 1.2


def machine(slow=1.0, oversubscribed=()):
    """A `measure.times` of ranks that compute (100 us + 2 us b), 1.2 times that among others, and talk over NET.

    slow: by how much training steps on several ranks take longer than all this says
    """

    def exchange(W, n):
        return cost_model.all_reduce(calibrate.exact(W, n), W, n, NET)

    def cell(W, asked):
        if asked["kind"] == "add":
            return {"size": asked["size"], "seconds": [asked["size"] * NET.C] * 3}
        if asked["kind"] == "all-reduce":
            return {"sizes": asked["sizes"], "seconds": [[exchange(W, n)] * 3 for n in asked["sizes"]]}
        n = 4 * 10**6 if asked["config"]["model"] == scaling.LARGE else 4096
        b = asked["batch"] / W if asked["kind"] == "steps" else asked["batch"]
        whole = (100 + 2 * b) * US * (1.0 if W == 1 else CROWDING)
        if W > 1 and asked["kind"] == "steps":
            whole = slow * (whole + exchange(W, n))
        return {"step": np.full((W, 4), whole), "bytes": n}

    def times(lab, W, cells, launcher):
        return {"oversubscribed": W in oversubscribed, "loadavg": 0.0, "cells": [cell(W, asked) for asked in cells]}

    return times


@pytest.mark.parametrize("cores", [2, 4])
def test_laws_are_found_and_steps_predicted(lab, monkeypatch, cores):
    monkeypatch.setattr(measure, "cores", lambda: cores)
    monkeypatch.setattr(measure, "times", machine())
    monkeypatch.setattr(calibrate, "SHARED_MEMORY_BYTES", 0)  # one law for all sizes, which a line describes
    result = project.run(lab, WORK, s_min=13.0, b_crit=100.0)
    projected, calibration, validation = result.tables
    lines = {(row["what"], row["W"]): row for row in calibration.rows}
    assert lines["all-reduce, median", 2]["a"] == approx(2 * NET.A)
    assert lines["all-reduce, median", 2]["worst_error"] == approx(0.0, abs=1e-6)
    assert (lines["compute, own", 1]["a"], lines["compute, own", 1]["b"]) == (approx(100 * US), approx(2 * US))
    assert lines["compute, own", 1]["crowding"] == approx(CROWDING)
    assert max(abs(row["error"]) for row in validation.rows) < 1e-6
    assert {row["W"] for row in validation.rows} == {2, 4} - ({4} if cores == 2 else set())
    # Each number of ranks is predicted by the network of the others, if there are any.
    found = {row["W"]: row["network_from"] for row in validation.rows}
    assert found == ({2: "2"} if cores == 2 else {2: "4", 4: "2"})
    assert any("there being no others" in note for note in result.notes) == (cores == 2)
    assert [check.verdict for check in result.checks] == ["PASS"] * (3 if cores == 2 else 5)
    c, d = 1.2 * 100 * US + cost_model.all_reduce("best", 8, 4096, NET), 1.2 * 2 * US
    row = projected.rows[3]
    assert row["T_target"] == approx(cost_model.time_to_target(row["B*"], 8, 13.0, 100.0, c, d))
    assert row["extrapolation"] == 8 / cores
    assert row["T_overlap"] <= row["T_target"] * (1 + 1e-9)
    assert all(figure.draw() for figure in result.figures)
    assert [figure.name for figure in result.figures] == ["project", "project_step", "calibration", "timeline"]


def test_steps_that_take_longer_than_predicted_fail(lab, monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 2)
    monkeypatch.setattr(measure, "times", machine(slow=1.5))
    result = project.run(lab, WORK, s_min=13.0, b_crit=100.0)
    assert [check.verdict for check in result.checks] == ["FAIL", "FAIL", "PASS"]
    assert result.checks[0].value == approx(1 / 3)


def test_oversubscribed_ranks_are_left_out(lab, monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 4)
    monkeypatch.setattr(measure, "times", machine(oversubscribed=(4,)))
    result = project.run(lab, WORK, s_min=13.0, b_crit=100.0)
    assert {row["W"] for table in result.tables[1:] for row in table.rows} == {1, 2}
    assert any("Runs on 4 ranks" in note for note in result.notes)
    monkeypatch.setattr(measure, "times", machine(oversubscribed=(2, 4)))
    with pytest.raises(ConfigurationError, match=r"share cores.*--net"):
        project.run(lab, WORK, s_min=13.0, b_crit=100.0)


def test_a_named_network_needs_one_rank_only(lab, monkeypatch):
    asked = []
    monkeypatch.setattr(
        measure, "times", lambda lab, W, cells, launcher: asked.append(W) or machine()(lab, W, cells, "")
    )
    result = project.run(lab, WORK, net="IB-NDR", s_min=13.0, b_crit=100.0, max_ranks=16)
    assert {*asked} == {1}
    assert [table.name for table in result.tables] == ["projection", "calibration"]
    assert "line rate 400 Gbit/s" in result.methods


def test_steps_to_target_come_from_the_directory(lab):
    hand = {name: value for name, value in HAND.items() if name not in ("s_min", "b_crit")}
    with pytest.raises(ConfigurationError, match=r"run allgrad study steps into it before, or give --s-min"):
        project.run(lab, WORK, net="ib", **hand)
    (lab.out / "steps_fit.csv").write_text("optimizer,S_min,B_crit\nsgd,13.02,103.5\nadam,0.0,inf\n")
    found = project.run(lab, WORK, net="ib", **hand)
    assert found.tables[0].rows == project.run(lab, WORK, net="ib", **HAND).tables[0].rows
    with pytest.raises(ConfigurationError, match="of adam do not bend"):
        project.run(lab, WORK, net="ib", optimizers=("adam",), **hand)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_ranks": 0}, "--max-ranks is at least 1, got 0"),
        ({"compute": (1e-4, 0.0)}, "d above 0"),
        ({"compute": (1e-4,)}, "d above 0"),
        ({"algorithm": "star"}, "an algorithm is one of best"),
        ({"optimizers": ("sgd", "adam")}, "one optimizer"),
        ({"b_crit": None}, "give both or none"),
        ({"net": "token-ring"}, "there is no network"),
    ],
)
def test_refusals(lab, options, message):
    with pytest.raises(ConfigurationError, match=message):
        project.run(lab, WORK, **{"net": "ib", **HAND, **options})


def test_one_core_has_no_network(lab, monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 1)
    with pytest.raises(ConfigurationError, match="one core, or one rank, has no network"):
        project.run(lab, WORK, s_min=13.0, b_crit=100.0)
