"""`allgrad study schedule`."""

import math

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload, configuration
from allgrad.launch.study.experiments import schedule
from allgrad.launch.study.lr_tuning import Tuned


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, Lab(tmp_path_factory.mktemp("schedule"), jobs=1) as lab:
        patch.setitem(schedule.GRIDS, "quick", {**schedule.GRIDS["quick"], "epochs": 1})
        yield schedule.run(lab, Workload(), optimizers=("adam",), lr=0.005, report_seeds=(100,))


def test_what_the_arms_do(small):
    rows = {(r["arm"], r["phase"]): r for r in small.tables[0].rows}
    assert [rows["grow", phase]["B"] for phase in (1, 2, 3)] == [8, 32, 128]
    assert [rows["seesaw", phase]["updates"] for phase in (1, 2, 3)] == [180, 225, 237]
    assert [rows["decay", phase]["updates"] for phase in (1, 2, 3)] == [180, 360, 539]
    assert len({rows[arm, 1]["val_loss"] for arm in schedule.ARMS}) == 1, "the first phase is the same for all"
    assert len({rows[arm, 3]["val_loss"] for arm in schedule.ARMS}) == 5
    assert "44 % of the updates" in small.headline and "an interval needs 2 seeds" in small.headline
    assert "20%" in small.methods and "rate as given" in small.methods and not small.claims


@pytest.mark.parametrize("arm, rates", [("decay", (0.4, 0.1)), ("seesaw", (0.4, 0.2)), ("grow", (0.4, 0.4))])
def test_rates_of_the_phases(arm, rates):
    fall, rise = schedule.ARMS[arm]
    run = schedule.Phases(
        configuration(Workload(), lr=0.4, batch=8, steps="2ep", phases=2, factor=4.0, fall=fall, rise=rise)
    )
    rate = run.optimizer.lr
    assert [rate(step) if callable(rate) else rate for step in (179, 180)] == pytest.approx(rates)
    assert run.loader.batch(180).size == (8 if arm == "decay" else 32)


def test_its_figures_are_drawn_and_foreign_options_are_refused(small, tmp_path):
    pytest.importorskip("matplotlib")
    ratios, losses = (figure.draw() for figure in small.figures)
    assert len(losses.axes[0].lines) >= 5
    assert [label.get_text() for label in ratios.axes[0].get_xticklabels()] == ["grow", "seesaw", "const", "both"]
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match="its arms set both"):
        schedule.run(lab, Workload(), schedule="cosine")


def test_every_arm_is_tuned_by_itself_for_the_validation_loss_of_noisy_labels(tmp_path):
    """A laboratory in which the final losses are known functions of the rate, with a best rate for each arm."""
    best = {(1.0, 0.0): 0.1, (0.0, 1.0): 0.1, (0.0, 0.0): 0.025, (1.0, 1.0): 0.2}  # by (fall, rise)

    class Known:
        def map(self, function, items):
            return [function(item) for item in items]

        def run(self, configs, experiment=""):
            return [self.row(config) for config in configs]

        def row(self, config):
            arm = config["fall"], config["rise"]
            seed = 1.0 + config["seed"] / 1e4 + 1e-3 * math.sin(config["seed"] * (1.0 + arm[0] + 2.0 * arm[1]))
            loss = 0.4 * math.exp(math.log(config["lr"] / best[arm]) ** 2 / 10.0) * seed
            phases = [{"updates": 1, "examples": 1, "batch": 8, "train_loss": 1.0, "val_loss": loss}]
            return {"status": "ok", "steps": 100, "final_val_loss": loss, "final_train_loss": config["lr"],
                    "phases": phases, "config": config}  # fmt: skip

    lab = Known()
    result = schedule.run(lab, Workload(), optimizers=("sgd",), seeds=(0,), report_seeds=(100, 101, 102))
    rates = {row["arm"]: row["lr"] for row in result.summary.rows}
    for arm, rate in rates.items():
        assert abs(math.log2(rate / best[schedule.ARMS[arm]])) <= 0.25, f"{arm}: the best of a grid of sqrt 2"
    assert {row["lr"] for row in result.tables[1].rows} == {rates["decay"]}
    of = {row["arm"]: row for row in result.tables[1].rows}
    assert of["const"]["over_decay"] > 1.1, "at the rate of decay the constant one is worse"
    assert "a constant rate equal within 5 %" in result.headline, "and at its own best it is not"
    assert "memorising" in " ".join(result.notes) and "best is at most 5 % above decay" in result.advice


def arms(**ratios):
    """{arm: Arm} of a decay with losses 0.4, and of others that many times as large, seed by seed; inf: it failed."""
    decay = np.array([0.40, 0.42, 0.38, 0.41, 0.39])

    def arm(name, times):
        rows = [
            {"status": "ok" if math.isfinite(loss) else "diverged", "final_val_loss": loss, "steps": updates,
             "phases": [{"batch": 8, "updates": updates, "val_loss": loss, "train_loss": loss}]}
            for loss in decay[: len(times)] * times
            for updates in [50 if name == "grow" else 100]
        ]  # fmt: skip
        return schedule.Arm("sgd", name, "val_loss", Tuned(0.1, 0.4, False, {}, 3, rows), rows)

    n = len(next(iter(ratios.values())))
    whole = {"decay": np.ones(n), "const": np.full(n, 1.5), "both": np.full(n, 1.2), **ratios}
    return {name: arm(name, np.asarray(whole[name], float)) for name in schedule.ARMS if name in whole}


COMMON = {"metric": "val_loss", "batch": 8, "steps": "24ep", "sampler": "epoch"}


def summarized(seeds=5, **ratios):
    work = Workload(model="mlp:32", label_noise=0.2)
    grid = schedule.GRIDS["quick"]
    return schedule.summarize(work, {"sgd": arms(**ratios)}, COMMON, (0,), tuple(range(100, 100 + seeds)), grid)


def test_equal_more_and_not_told():
    equal = summarized(grow=[1.0, 1.01, 0.99, 1.0, 1.01])
    assert "grow equal within 5 %, with 50 % of the updates" in equal.headline
    assert "grow costs at most 5 % of the validation loss and needs 50 updates for 100" in equal.advice
    more = summarized(grow=[1.2, 1.21, 1.19, 1.2, 1.2])
    assert "grow 19 to 21 % more" in more.headline and "do not grow the batch" in more.advice
    unknown = summarized(grow=[0.9, 1.2, 1.1, 0.95, 1.05])
    assert "less and" in unknown.headline and "is not told" in unknown.advice
    assert "equal" not in unknown.headline and "costs at most" not in unknown.advice
    assert "not surely worse" in " ".join(summarized(grow=np.ones(5), const=[1.1, 0.9, 1.0, 1.1, 0.9]).notes)


def test_survivors_decide_nothing():
    result = summarized(grow=[1.0, math.inf, 1.0, 1.0, 1.0])
    assert "grow not compared (1 of 5 seeds failed)" in result.headline
    assert "grow and decay are not compared (1 of 5 seeds failed)" in result.advice
    (row,) = [row for row in result.tables[0].rows if row["arm"] == "grow"]
    assert row["n_fail"] == 1 and math.isnan(row["ci_lo"])
    assert any("grow: 1 of 5 fresh seeds failed" in note for note in result.notes)
    assert "grow not compared" in summarized(grow=[math.inf] * 5).headline
    found = arms(grow=np.ones(5))
    found["grow"].tuned = Tuned(math.nan, math.inf, True, {}, 9, why="it diverges")
    result = schedule.summarize(Workload(), {"sgd": found}, COMMON, (0,), (1, 2, 3, 4, 5), schedule.GRIDS["quick"])
    assert "grow not compared (no learning rate works)" in result.headline
    assert "sgd, grow: no learning rate works: it diverges." in result.notes


def test_a_real_difference_of_5_percent_is_hardly_ever_called_equal_with_2_seeds():
    rng = np.random.default_rng(3)
    drawn = [summarized(2, grow=1.05 * np.exp(0.05 * rng.standard_normal(2))) for _ in range(200)]
    equal = sum("grow equal within 5 %" in result.headline for result in drawn)
    assert equal <= 10, "by a one-sided test at 2.5 %, 5 of 200 are expected, and more than 10 in 1.3 % of trials"
