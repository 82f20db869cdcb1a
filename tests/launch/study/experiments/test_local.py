"""`allgrad study local`."""

import math

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload, runner
from allgrad.launch.study.experiments import local

WORK = Workload(dtype="float64", model="mlp:16")


def steps(optimizer="momentum", count=7, work=WORK, **given):
    words = {"kind": "local", "batch": 24, "workers": 3, "every": 1, "by_class": False, "steps": count, "lr": 0.05}
    run = local.Local(runner.configuration(work, optimizer, **{**words, **given}))
    for run.t in range(count):
        run.step()
    run.t = count
    run.evaluate()
    return run


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_averages_at_every_step_are_synchronous_training(optimizer):
    synchronous = runner.Run(runner.configuration(WORK, optimizer, batch=24, lr=0.05, steps=7))
    for synchronous.t in range(7):
        synchronous.step()
    np.testing.assert_allclose(steps(optimizer).arena.data, synchronous.arena.data, rtol=1e-9, atol=1e-12)
    assert not np.allclose(steps(optimizer, every=7).arena.data, synchronous.arena.data, rtol=1e-6)


def test_one_worker_is_plain_training_however_rarely_it_averages():
    rare, often = (steps("adam", workers=1, every=every).arena.data for every in (1, 5))
    np.testing.assert_array_equal(rare, often)


@pytest.mark.parametrize("optimizer", ["soap", "schedulefree-sgd"])
def test_rules_that_keep_more_than_workers_exchange_are_refused(optimizer):
    with pytest.raises(ConfigurationError, match=f"local steps average the parameters, and {optimizer} keeps more"):
        steps(optimizer)


def test_evaluation_changes_nothing():
    seen = steps(every=4, count=6)
    seen.evaluate()
    seen.step()
    unseen = local.Local({**seen.config})
    for unseen.t in range(7):
        unseen.step()
    for a, b in zip(seen.weights, unseen.weights):
        np.testing.assert_array_equal(a, b)


def test_workers_with_classes_of_their_own_see_no_others():
    run = steps(by_class=True, workers=5, batch=20, count=0)
    n = len(run.data.train_x) // 5
    assert (np.diff(run.data.train_y) >= 0).all()
    for w, samples in enumerate(run._samples()):
        assert len(samples) == 4 and (samples // n == w).all()


def test_the_experiment(tmp_path, monkeypatch):
    part = {"workers": 4, "each": 8, "every": (1, 8), "budget": "1ep"}
    grid = {"optimizers": ("sgd",), "seeds": (0,), "report_seeds": (100, 101), "epochs": part, "shards": part,
            "rounds": {"workers": 4, "each": 8, "every": (4,), "rounds": 5}}  # fmt: skip
    monkeypatch.setitem(local.GRIDS, "quick", grid)
    with Lab(tmp_path, jobs=1) as lab:
        result = local.run(lab, Workload(), lr=0.17)
    rows = {(row["part"], row["H"]): row for row in result.tables[0].rows}
    assert rows["epochs", 1]["rounds"] == 45 and rows["epochs", 8]["rounds"] == 5
    assert rows["rounds", 4]["rounds"] == rows["large batch", 4]["rounds"] == 5 and rows["large batch", 4]["B"] == 128
    assert rows["by class", 8]["train_loss"] > 1.2 * rows["shards", 8]["train_loss"]
    assert all(row["n_fail"] == 0 and math.isfinite(row["ci_hi"]) for row in rows.values())
    assert "momentum" in result.notes[0] and len(result.checks) == 5
