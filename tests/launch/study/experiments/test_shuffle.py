"""`allgrad study shuffle`."""

from types import SimpleNamespace

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload, runner
from allgrad.launch.study.experiments import shuffle

CONVEX = Workload(model="softmax", label_noise=0.2)


def config(**given):
    words = {"kind": "shuffle", "batch": 16, "copies": 1, "epochs": 2, "steps": 1, "weight_decay": 0.01, "lr": 0.05}
    return runner.configuration(CONVEX, "sgd", **{**words, "minimum": False, **given})


def test_the_least_value_is_one_and_runs_end_above_it():
    least = runner.execute(config(minimum=True))
    assert least["status"] == "ok" and least["slope"] < 1e-5
    again = runner.execute(config(minimum=True, seed=5))
    assert again["minimum"] == pytest.approx(least["minimum"], rel=1e-8)  # from other initial weights
    row = runner.execute(config())
    assert row["steps"] == 180 and len(row["objective"]) == 2 and min(row["objective"]) > least["minimum"]


def test_ranks_with_the_same_samples_step_as_one_of_them():
    alone, bug = (shuffle.Shuffled(config(batch=4, copies=copies)) for copies in (1, shuffle.WORKERS))
    for run in (alone, bug):
        for run.t in range(5):
            run.step()
    np.testing.assert_allclose(bug.arena.data, alone.arena.data, rtol=1e-4, atol=1e-6)


def test_the_floors_are_of_all_training_samples():
    asked = []

    def run(configs, name):
        asked.extend(config["eval_samples"] for config in configs)
        return [{"status": "error", "error": "enough"}] * len(configs)

    lab = SimpleNamespace(run=run, map=lambda f, jobs: [*map(f, jobs)])
    with pytest.raises(ConfigurationError, match=r"^the softmax regression cannot be trained: enough$"):
        shuffle.run(lab, Workload(eval_samples=100), target=1.0)
    assert {*asked} == {1437}


def test_never_is_the_order_of_the_labels():
    labels = shuffle.Shuffled(config(sampler="never")).data.train_y
    assert (np.diff(labels) >= 0).all() and (np.diff(CONVEX.loaded.train_y) < 0).any()


def test_the_experiment(tmp_path, monkeypatch):
    grid = {"rates": (0.05,), "epochs": 6, "seeds": (0,), "report_seeds": (100, 101)}
    monkeypatch.setitem(shuffle.GRIDS, "quick", grid)
    with Lab(tmp_path, jobs=1) as lab:
        result = shuffle.run(lab, Workload(), target=1.0)
    floors, steps = result.tables
    assert [row["order"] for row in steps.rows] == ["epoch", "once", "iid"]
    of = {(row["order"], row["lr"]): row for row in floors.rows}
    assert of["never", 0.05]["excess"] > 1.5 * of["iid", 0.05]["excess"] > 1.5 * of["epoch", 0.05]["excess"] > 0.0
    assert of["epoch", 0.05]["over_epoch"] == 1.0 and of["small", 0.05]["B"] == 4
    assert all(row["n_seeds"] == 2 and row["n_fail"] == 0 for row in floors.rows)
    checks = {check.claim: check for check in result.checks}
    over = of["iid", 0.05]["excess"] / of["epoch", 0.05]["excess"]
    assert min(abs(check.value - over) for check in checks.values()) < 1e-9
    assert "excess loss" in result.headline and "drawn anew" in result.methods
