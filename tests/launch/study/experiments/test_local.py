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
    for a, b in zip(seen.apart, unseen.apart):
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
    assert "momentum" in result.notes[0] and [claim.least for claim in result.claims] == [0.0]
    over = rows["rounds", 4]["train_loss"] / rows["large batch", 4]["train_loss"]
    assert f"over that with the large batch of equal cost, is {over:.3g} [" in result.headline
    assert [row["H"] for row in result.summary.rows] == [1, 8]


def cell(part, every, losses, accuracies, optimizer="sgd"):
    rows = [
        {"status": "ok" if math.isfinite(loss) else "diverged", "final_train_loss": loss, "final_val_loss": loss,
         "final_val_accuracy": accuracy, "steps": 64, "config": {"steps": "1ep", "sampler": "epoch"}}
        for loss, accuracy in zip(losses, accuracies)
    ]  # fmt: skip
    return local.Cell(part, optimizer, 4, every, 32, 0.1, rows)


def summarized(rare, apart=(0.91, 0.90, 0.92, 0.90)):
    """Four seeds: averages every 4 steps cost nothing, every 16 steps end with the accuracies `rare`."""
    loss, accuracy = [0.02, 0.021, 0.022, 0.02], [0.97, 0.975, 0.98, 0.972]
    near = [0.0201, 0.021, 0.0219, 0.0201]
    cells = [
        cell("epochs", 1, loss, accuracy), cell("epochs", 4, near, [0.969, 0.974, 0.979, 0.972]),
        cell("epochs", 16, [math.inf if math.isnan(a) else v for v, a in zip(near, rare)], rare),
        cell("rounds", 4, [0.01, 0.011, 0.012, 0.01], accuracy), cell("large batch", 4, loss, accuracy),
        cell("shards", 1, loss, accuracy), cell("shards", 16, near, accuracy),
        cell("by class", 1, loss, accuracy), cell("by class", 16, [0.1, 0.11, 0.12, 0.1], apart),
    ]  # fmt: skip
    setting = local.Setting(None, WORK, "epoch", (0,), (100, 101, 102, 103))  # pyright: ignore[reportArgumentType]
    return local.summarize(WORK, cells, local.GRIDS["quick"], setting, ("sgd",))


def test_what_is_said_follows_from_intervals():
    result = summarized([0.95, 0.955, 0.96, 0.951])
    assert result.verdicts[0].word == "PASS"  # 6.7 points lost, of 4 seeds
    assert "2 [1.9, 2.1] points of validation accuracy lost; training loss equal within 5 %" in result.headline
    assert "times if every worker has classes of its own, equal within 5 % with parts of all data" in result.headline
    assert result.advice.startswith("sgd: average every 4 steps: at equal examples that costs at most a point")
    near = summarized([0.97, 0.974, 0.981, 0.972], apart=(0.97, 0.975, 0.97, 0.976))
    assert near.verdicts[0].word == "INCONCLUSIVE" and "not told apart" in near.headline
    assert near.advice == "sgd: average every 16 steps: at equal examples that costs at most a point of validation " \
        "accuracy."  # fmt: skip


def test_survivors_decide_nothing():
    result = summarized([0.97, 0.975, 0.98, math.nan])
    assert "validation not compared (1 of 4 seeds failed); training loss not compared" in result.headline
    assert result.advice.startswith("sgd: average every 4 steps")
    assert "epochs, sgd, H = 16: 1 of 4 seeds failed, and the others decide nothing." in result.notes
