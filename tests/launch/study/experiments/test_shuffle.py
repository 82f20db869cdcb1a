"""`allgrad study shuffle`."""

from types import SimpleNamespace

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload, runner
from allgrad.launch.study.experiments import shuffle
from allgrad.launch.study.lr_tuning import Tuned

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
    assert of["iid", 0.05]["over_epoch"] == pytest.approx(of["iid", 0.05]["excess"] / of["epoch", 0.05]["excess"])
    assert result.claims == [] and any("here it is constant" in said for said in result.findings)
    assert "Excess loss at rate 0.05" in result.headline and "drawn anew" in result.methods
    pytest.importorskip("matplotlib")
    assert len(result.figures[0].draw().axes[0].lines) >= len(shuffle.ARMS)


SEEDS = np.array([1.0, 1.1, 0.9, 1.05, 0.95])
GRID = {"rates": (0.02, 0.05, 0.2), "epochs": 40}


def summarized(own=None, **times):
    """From floors that are so many times those of new permutations, a number or one for each seed."""
    usual = {"epoch": 1.0, "once": 1.0, "iid": 4.0, "never": 20.0, "same_perm_per_rank": 4.0, "small": 4.0, **times}
    scatter = {"small": SEEDS[::-1], "epoch": SEEDS * [1.0, 1.001, 0.999, 1.0, 1.001]}
    n = min((np.size(value) for value in times.values() if np.size(value) > 1), default=5)
    excess = {
        (arm, rate): [*(0.01 * scatter.get(arm, SEEDS)[:n] * usual[arm])]
        for arm, (_, smaller, _) in shuffle.ARMS.items() for rate in GRID["rates"]
        if smaller == 1 or rate == shuffle.BUG_RATE
    }  # fmt: skip
    seeds = tuple(range(100, 100 + n))
    return shuffle.summarize(Workload(), CONVEX, (excess, 0.5), own or {}, GRID, seeds, (0, 1, 2), "sgd")


def test_what_the_orders_cost_by_intervals():
    result = summarized(once=np.array([1.0, 1.01, 0.99, 1.01, 1.0]), iid=np.array([4.0, 4.1, 3.9, 4.0, 4.1]))
    assert "one permutation for all epochs equal within 5 %" in result.headline
    assert "drawing with replacement 3.92 to 4.12 times" in result.headline
    assert "At most 5 % worse: one permutation for all epochs." in result.advice
    assert "in excess or in steps: drawing with replacement, data sorted by label, 4 ranks" in result.advice
    alone = next(line for line in result.findings if "one of them alone" in line)
    assert "between" in alone, "other seeds, whose scatter of 8 % is in the interval"
    less = summarized(iid=np.array([0.5, 0.51, 0.49, 0.5, 0.5]))
    assert "Surely better, by more than 5 % in excess or in steps: drawing with replacement." in less.advice
    assert "Draw a new permutation" not in less.advice
    unknown = summarized(iid=np.array([0.8, 1.3, 1.0, 1.2, 0.9]))
    assert "Not told apart from it: drawing with replacement." in unknown.advice


def test_survivors_decide_nothing():
    result = summarized(iid=np.array([4.0, 4.1, np.inf, 4.0, 4.1]))
    assert "drawing with replacement not compared (1 of 5 seeds failed)" in result.headline
    assert "Not told apart from it: drawing with replacement." in result.advice
    assert "iid at rate 0.05: 1 of 5 seeds diverged, and the others decide nothing." in result.notes
    (row,) = [row for row in result.tables[0].rows if (row["order"], row["lr"]) == ("iid", 0.05)]
    assert row["n_fail"] == 1 and np.isnan(row["ci_lo"]) and np.isnan(row["over_lo"])


def test_the_advice_is_about_what_was_shown_to_cost():
    permute, shuffled, apart = (
        "Draw a new permutation",
        "Shuffle the samples.",
        "Let no two ranks draw the same samples.",
    )
    equal = {"once": np.array([1.0, 1.001, 0.999, 1.001, 1.0]), "iid": np.array([1.0, 1.001, 0.999, 1.001, 1.0])}
    for times, said in (
        ({}, [permute, apart]), (equal, [shuffled, apart]), ({**equal, "same_perm_per_rank": 1.0}, [shuffled]),
        ({**equal, "never": 1.0}, [apart]),
    ):  # fmt: skip
        advice = summarized(**times).advice
        assert [line for line in (permute, shuffled, apart) if line in advice] == said


def test_with_two_seeds_5_percent_is_hardly_ever_called_equal():
    rng = np.random.default_rng(2)
    drawn = [summarized(once=1.05 * np.exp(0.05 * rng.standard_normal(2))).headline for _ in range(200)]
    assert sum("for all epochs equal within" in headline for headline in drawn) <= 10, "5 expected at 2.5 %"


def test_steps_to_the_target_are_compared_seed_by_seed():
    def found(steps):
        config = {"metric": "train_loss", "target": 0.05, "eval_ratio": 1.05}
        rows = [{"status": "ok", "steps_to_target": s, "config": config} for s in steps]
        return Tuned(0.1, 100.0, False, {}, 9, rows)

    own = {"epoch": found(100 * SEEDS), "iid": found(130 * SEEDS + [0, 1, 0, -1, 0])}
    result = summarized(own, iid=1.0)
    assert "Steps to the target with replacement, against permutations: 29 to 31 % more." in result.headline
    assert "in excess or in steps: drawing with replacement" in result.advice
    assert result.summary.rows[0]["steps_over_epoch"] == "1" and "steps" not in result.summary.rows[3]
