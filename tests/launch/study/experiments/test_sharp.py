"""`allgrad study sharp`."""

import math

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload
from allgrad.launch.study.experiments import sharp
from allgrad.launch.study.lr_tuning import Tuned


def test_the_experiment(tmp_path, monkeypatch):
    grid = {"batches": (32, 256), "seeds": (0,), "report_seeds": (100, 101), "iterations": 3}
    monkeypatch.setitem(sharp.GRIDS, "quick", grid)
    with Lab(tmp_path, jobs=1) as lab:
        result = sharp.run(lab, Workload(model="softmax"), target=0.5)
    cells, rates = (table.rows for table in result.tables)
    assert [row["B"] for row in cells] == [32, 256] and all(row["n_fail"] == 0 for row in cells)
    assert all(0.0 < row["ci_lo"] <= row["lambda_max"] <= row["ci_hi"] for row in cells + rates)
    assert all(row["train_loss"] <= 0.5 for row in cells)
    small, large = cells
    at = {row["lr"]: row["lambda_max"] for row in rates}
    wanted = {small["lr"], *(large["lr"] / k for k in (1, 2, 4))}
    assert sorted(at) == pytest.approx(sorted(wanted), rel=1e-4) and at[large["lr"]] == large["lambda_max"]
    sharper, worse = (claim.estimates[0] for claim in result.claims)
    assert sharper.value == pytest.approx(at[small["lr"]] / small["lambda_max"]) and sharper.n == worse.n == 2
    assert [row["lr"] for row in result.summary.rows] == [small["lr"], small["lr"], large["lr"]]
    assert [verdict.why for verdict in result.verdicts] == ["2 seeds, and a verdict needs 3"] * 2
    assert f"{large['lambda_max'] / small['lambda_max']:.3g}" in result.findings[0]


def rows(sharpness, accuracy):
    return [
        {"status": "ok" if math.isfinite(s) else "capped", "sharpness": s, "steps_to_target": 9.0,
         "final_val_accuracy": a, "final_val_loss": 1.0 - a, "final_train_loss": 0.02, "config": {"eval_ratio": 1.02}}
        for s, a in zip(sharpness, accuracy)
    ]  # fmt: skip


def summarized(sharpness):
    """The study of a small batch that ends at 1.0 to 1.2, and of a large one that ends at `sharpness` at its rate."""
    base = rows([1.0, 1.1, 1.2, 1.05], [0.98, 0.97, 0.975, 0.972])
    best = rows([2.0, 2.3, 2.2, 2.1], [0.975, 0.979, 0.97, 0.974])
    cells = {
        batch: Tuned(lr, 9.0, False, {}, 3, found)
        for batch, lr, found in ((8, 0.1, base), (1024, 0.8, best))
    }  # fmt: skip
    at = {0.1: rows(sharpness, [0.95, 0.94, 0.945, 0.943]), 0.8: best}
    grid = {"iterations": 3}
    return sharp.summarize(Workload(), cells, at, "sgd", 0.02, "epoch", grid, (0,))


def test_what_is_said_follows_from_intervals():
    result = summarized([4.0, 4.4, 4.5, 4.2])
    assert [verdict.word for verdict in result.verdicts] == ["PASS", "PASS"]
    assert "with B = 8: 3.74 to 4.14 times at the rate of B = 8" in result.headline
    assert "points lost; " in result.headline and result.headline.endswith("not told apart.")
    assert any("is 1.72 [1.56, 1.89], below 2, where descent" in line for line in result.findings)
    assert any("falls with the rate" in line for line in result.findings)


def test_survivors_decide_nothing():
    result = summarized([4.0, 4.4, 4.5, math.inf])
    assert [verdict.word for verdict in result.verdicts] == ["NO VERDICT", "NO VERDICT"]
    assert "not compared (1 of 4 seeds failed) at the rate of B = 8" in result.headline
    assert not any("with the rate, from" in line for line in result.findings)


def test_what_is_wrong_is_said(tmp_path):
    with Lab(tmp_path, jobs=1) as lab:
        with pytest.raises(ConfigurationError, match="one optimizer, got sgd, adam"):
            sharp.run(lab, Workload(), optimizers=("sgd", "adam"))
        with pytest.raises(ConfigurationError, match="which train_loss is to be reached on digits, softmax"):
            sharp.run(lab, Workload(model="softmax"))
