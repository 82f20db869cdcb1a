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
    assert result.headline.startswith("Modelled, not measured, from the fit that was given: on ")
    assert "These numbers have no interval: --s-min and --b-crit are given without intervals" in result.headline
    assert "alpha = " in result.headline and "beta = 1 ns/byte" in result.headline
    assert result.findings == []  # they need intervals
    # The best power of two is within one of the closed form.
    for row in result.tables[0].rows:
        assert row["B*"] == row["W"] or abs(np.log2(row["B*"] / row["B_closed"])) <= 1.0
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


def machine(slow=1.0, oversubscribed=(), noise=0.0, between=0.0, core=1.0, seed=0):
    """A `measure.times` of ranks that compute (100 us + 2 us b), 1.2 times that among others, and talk over NET.

    slow: by how much training steps on several ranks take longer than all this says
    noise, between: of the logarithms of steps, and of those of whole blocks; core: that a rank by itself has
    """
    rng = np.random.default_rng(seed)
    block = [1.0]

    def exchange(W, n):
        return cost_model.all_reduce(calibrate.exact(W, n), W, n, NET)

    def cell(W, asked):
        if asked["kind"] == "add":
            return {"size": asked["size"], "seconds": [asked["size"] * NET.C] * 3}
        if asked["kind"] == "all-reduce":
            return {"sizes": asked["sizes"], "seconds": [[exchange(W, n)] * 3 for n in asked["sizes"]]}
        n = 4 * 10**6 if asked["config"]["model"] == scaling.LARGE else 4096
        b = asked["batch"] / W if asked["kind"] == "steps" else asked["batch"]
        whole = block[0] * (100 + 2 * b) * US * (1.0 if W == 1 else CROWDING)
        if W > 1 and asked["kind"] == "steps":
            whole = slow * (whole + exchange(W, n))
        step = np.broadcast_to(whole * np.exp(noise * rng.standard_normal(20)), (W, 20))
        return {"step": step, "bytes": n, "core": core}

    def times(lab, W, cells, launcher):
        block[0] = np.exp(between * rng.standard_normal())
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
    assert max(abs(row["ratio"] - 1.0) for row in validation.rows) < 1e-6
    assert {row["W"] for row in validation.rows} == {2, 4} - ({4} if cores == 2 else set())
    # Each number of ranks is predicted by the network of the others, if there are any.
    found = {row["W"]: row["network_from"] for row in validation.rows}
    assert found == ({2: "2"} if cores == 2 else {2: "4", 4: "2"})
    assert any("there being no others" in note for note in result.notes) == (cores == 2)
    judged = [said for said in result.findings if "is predicted" in said]
    assert len(judged) == 3 * (cores // 2) and all(said.endswith(": right within 25 %.") for said in judged)
    assert result.claims == [] and [row["setting"] for row in result.summary.rows][-1] == "soonest"
    c, d = 1.2 * 100 * US + cost_model.all_reduce("best", 8, 4096, NET), 1.2 * 2 * US
    row = projected.rows[3]
    assert row["T_target"] == approx(cost_model.time_to_target(row["B*"], 8, 13.0, 100.0, c, d))
    assert row["extrapolation"] == 8 / cores
    assert row["T_overlap"] <= row["T_target"] * (1 + 1e-9)
    assert all(figure.draw() for figure in result.figures)
    assert [figure.name for figure in result.figures] == ["project", "project_step", "calibration", "timeline"]


def test_steps_that_take_longer_than_predicted_are_said(lab, monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 2)
    monkeypatch.setattr(measure, "times", machine(slow=1.5))
    result = project.run(lab, WORK, s_min=13.0, b_crit=100.0)
    judged = [said for said in result.findings if "is predicted" in said]
    assert len(judged) == 3 and all(said.endswith(": 33 % too short.") for said in judged)
    assert [row["ratio"] for row in result.tables[2].rows] == approx([1 / 1.5] * 3)


@pytest.mark.parametrize(
    "disturbed, said",
    [({"between": 0.3, "noise": 0.02}, "timings differ between their blocks more than within them"),
     ({"core": 0.4}, "had a core in 40 % of the time only")],
)  # fmt: skip
def test_a_disturbed_machine_gets_no_verdict(lab, monkeypatch, disturbed, said):
    monkeypatch.setattr(measure, "cores", lambda: 2)
    monkeypatch.setattr(measure, "times", machine(**disturbed))
    result = project.run(lab, WORK, s_min=(13.0, 12.0, 14.0), b_crit=(100.0, 80.0, 125.0))
    assert result.headline.startswith("No verdict, since the machine was not quiet (") and said in result.headline
    assert len(result.findings) == 3 and all(one.endswith(": No verdict.") for one in result.findings)
    assert any(note.startswith("The machine was not quiet") for note in result.notes)


def test_errors_of_the_steps_are_carried_to_the_time(lab):
    """Of S_min alone, by 4 %: the time has just that error, and which ranks and batch are best none."""
    given = {**HAND, "s_min": (13.02, 13.02 / 1.04, 13.02 * 1.04), "b_crit": (103.5, 103.5, 103.5)}
    result = project.run(lab, WORK, net="custom:20e-6,1e-9", algorithm="ring", **given)
    best = min(result.tables[0].rows, key=lambda row: row["T_target"])
    assert (best["T_target_lo"], best["T_target_hi"]) == approx((10.42e-3 / 1.04, 10.42e-3 * 1.04), rel=4e-3)
    assert (best["B*_lo"], best["B*_hi"], best["speedup_lo"]) == (256, 256, approx(best["speedup_hi"]))
    assert "in 10.4 [10, 10.8] ms" in result.headline and "not told apart" not in result.headline
    assert "the best number of ranks is 4 [4, 4]" in result.findings[0]
    assert any(said.startswith("At least half of each rank's time is of use") for said in result.findings)
    wide = project.run(
        lab, WORK, net="custom:20e-6,1e-9", algorithm="ring", **{**given, "b_crit": (103.5, 40.0, 270.0)}
    )
    assert "not told apart from it: W = " in wide.headline
    row = next(row for row in wide.tables[0].rows if row["W"] == best["W"])
    assert row["B*_lo"] < row["B*"] < row["B*_hi"]


def test_errors_of_what_was_timed_are_carried_to_the_time(lab, monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 2)
    widths = []
    for noise in (0.0, 0.02, 0.1):
        monkeypatch.setattr(measure, "times", machine(noise=noise))
        result = project.run(lab, WORK, s_min=(13.0, 13.0, 13.0), b_crit=(100.0, 100.0, 100.0), max_ranks=2)
        widths.append([row["T_target_hi"] / row["T_target_lo"] - 1.0 for row in result.tables[0].rows])
    (exact, _), (some, _), (much, _) = widths
    assert exact < 1e-3 < some and 2.0 < much / some < 12.0
    assert "7 blocks" in result.methods


def test_a_rejected_curve_is_interpolated_and_not_left(lab):
    (lab.out / "steps_fit.csv").write_text(
        "optimizer,S_min,S_min_lo,S_min_hi,B_crit,B_crit_lo,B_crit_hi,B_2x,lead\nsgd,1,,,900,,,100,B_2x\n"
    )
    steps = {8: 160.0, 32: 50.0, 128: 25.0, 512: 20.0}
    lines = "".join(f"sgd,{B},{S},{S / 1.05},{S * 1.05},5,0\n" for B, S in steps.items())
    (lab.out / "steps.csv").write_text(f"optimizer,B,S,ci_lo,ci_hi,n_seeds,n_fail\n{lines}")
    hand = {name: value for name, value in HAND.items() if name not in ("s_min", "b_crit")}
    result = project.run(lab, WORK, net="custom:0,0", **hand)
    rows = result.tables[0].rows
    assert [row["W"] for row in rows] == [2**k for k in range(10)]  # 1,024 ranks need a batch that was not measured
    assert all(8 <= row["B*"] <= 512 and not row["beyond"] and row["B_closed"] is None for row in rows)
    last = rows[-1]
    assert last["T_target"] == approx(20.0 * 203 * US, rel=2e-3)
    assert (last["T_target_lo"], last["T_target_hi"]) == approx(
        (20.0 * 203 * US / 1.05, 20.0 * 203 * US * 1.05), rel=0.01
    )
    assert any("More than 512 ranks would need a batch larger than those measured" in note for note in result.notes)
    assert any("those measured are interpolated instead" in note for note in result.notes)
    assert all(figure.draw() for figure in result.figures)


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
    (lab.out / "steps_fit.csv").write_text(
        "optimizer,S_min,S_min_lo,S_min_hi,B_crit,B_crit_lo,B_crit_hi\nsgd,13.02,12.5,13.6,103.5,80,130\nadam,0.0,,,inf,,\n"
    )
    cells = "".join(f"sgd,{B},{13.02 * (1 + 103.5 / B)},,,5,0\n" for B in (4, 16, 64, 256))
    (lab.out / "steps.csv").write_text(f"optimizer,B,S,ci_lo,ci_hi,n_seeds,n_fail\n{cells}")
    found, given = (project.run(lab, WORK, net="ib", **more) for more in (hand, HAND))
    assert of(found, "T_target") == approx(of(given, "T_target"), rel=0.01)
    assert found.tables[0].rows[0]["T_target_lo"] < found.tables[0].rows[0]["T_target_hi"]
    assert "The batch lies beyond those measured (4 to 256): an extrapolation of the curve" in found.headline
    assert [row["beyond"] for row in found.tables[0].rows][
        -1
    ] is True and "from study steps, sgd: on IB-HDR" in found.headline
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
