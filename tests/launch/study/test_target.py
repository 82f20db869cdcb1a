"""Targets that short runs propose, beside what a tuned study then takes to them; and what is refused."""

import json
import math
import re

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.study import Lab, Workload, runner, steps, target
from allgrad.launch.study.target import Aim, checked, propose

SOFTMAX = Workload("digits", "softmax")


def line(noise=0.5, samples=400):
    """A regression on five numbers, whose loss has a floor of noise^2."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples + 100, 5))
    y = x @ np.arange(1.0, 6.0) + noise * rng.standard_normal(samples + 100)
    return Workload((x[:samples], y[:samples], x[samples:], y[samples:]), "softmax")


def of_batch(result):
    return {row["B"]: row["S"] for row in result.tables[0].rows}


def test_steps_to_what_is_proposed_on_digits_are_neither_too_few_nor_too_many(tmp_path):
    aim = Aim("sgd", (16, 64, 512))
    found = propose(SOFTMAX, aim)
    assert 0.0 < found.target < found.curve.points[0][1] and 20 <= found.steps <= 1600
    with Lab(tmp_path, jobs=1) as lab:
        took = of_batch(steps(lab, SOFTMAX, optimizers="sgd", batches=aim.batches, target=found.target, seeds=1,
                              report_seeds=2))  # fmt: skip
    assert took[16] >= 20.0 and took[512] >= 30.0 and all(map(math.isfinite, took.values()))


def test_a_regression_is_not_asked_for_less_than_its_floor(tmp_path):
    work, aim = line(), Aim("sgd", (4, 32, 256))
    found = propose(work, aim)
    x, y, *_ = (a.astype(float) for a in (work.loaded.train_x, work.loaded.train_y))
    x = np.c_[x, np.ones(len(x))]
    floor = np.mean((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2)
    assert 1.01 * floor < found.target < 2.0 * floor
    with Lab(tmp_path, jobs=1) as lab:
        took = of_batch(steps(lab, work, optimizers="sgd", batches=aim.batches, target=found.target, seeds=3,
                              report_seeds=2))  # fmt: skip
    assert took[4] >= 20.0 and all(map(math.isfinite, took.values()))


def test_it_is_a_function_of_its_arguments():
    first = propose(SOFTMAX, Aim("adam", (16, 256)))
    target._proposed.clear()
    again = propose(SOFTMAX, Aim("adam", (16, 256)))
    assert again is not first and (again.target, again.curve) == (first.target, first.curve)
    assert propose(SOFTMAX, Aim("adam", (16, 256))) is again


def test_in_python_nothing_is_printed(tmp_path, capfd):
    target._proposed.clear()
    with Lab(tmp_path, jobs=1) as lab:
        steps(lab, SOFTMAX, optimizers="sgd", batches=(16, 64, 256), target="auto", seeds=1, report_seeds=1)
    assert capfd.readouterr() == ("", "")


def test_an_accuracy_is_met_from_below():
    found = propose(SOFTMAX, Aim("sgd", (16, 256), metric="val_accuracy"))
    rise = [float(value) for value in re.findall(r"([\d.]+) after", found.course)]
    assert 0.5 < found.target < 1.0 and rise == sorted(rise) and rise[0] < 0.3


def test_where_nothing_is_learned_nothing_is_proposed():
    x = np.zeros((300, 3))
    nothing = Workload((x[:200], np.zeros(200), x[200:], np.zeros(100)), "softmax")
    with pytest.raises(
        ConfigurationError, match=r"^a short run of sgd with batch 64 does not come below train_loss 0, "
    ):
        propose(nothing, Aim("sgd", (16, 64)))


@pytest.mark.parametrize(
    "rising, goal, met", [(False, 3.0, True), (False, 2.9, False), (True, 0.02, True), (True, 0.9, False)]
)
def test_a_target_that_is_met_before_training_is_refused(rising, goal, met):
    aim = Aim(
        target=goal, metric="train_accuracy" if rising else "train_loss", seeds=(0, 1, 2)
    )  # losses 3.2, 2.99, 3.04
    if not met:
        assert checked(Workload(), aim) == []
        return
    with pytest.raises(ConfigurationError, match=rf"^--target {goal:g} is met before training, when {aim.metric} is "):
        checked(Workload(), aim)


def test_what_a_metric_before_training_raises_is_not_hidden(monkeypatch):
    monkeypatch.delattr(runner.Run, "evaluate")
    with pytest.raises(AttributeError, match="evaluate"):
        checked(Workload(), Aim(target=0.5))


@pytest.mark.parametrize("metric", ["train_loss", "val_loss", "val_mse"])
def test_a_target_that_a_loss_cannot_have_is_refused(metric):
    work = line() if metric == "val_mse" else Workload()
    with pytest.raises(ConfigurationError, match=rf"^{metric} is never below 0: give a --target above 0, got -1$"):
        runner.configuration(work, target=-1.0, metric=metric)
    own = Workload("digits", "softmax", objective=lambda model, data: None)
    assert runner.configuration(own, target=-1.0, metric="train_loss")["target"] == -1.0  # of the user's own loss


def test_batches_beyond_the_training_samples_are_refused_or_said():
    work = line(samples=100)
    said = "--batches: 256 is more than the 100 training samples of own, softmax: give --batches 4,64, or --sampler iid"
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        checked(work, Aim(batches=(4, 64, 256)))
    assert checked(work, Aim(batches=(4, 100))) == []
    (remark,) = checked(work, Aim(batches=(4, 256), sampler="iid"))
    assert remark.startswith("The largest batch, 256, is more than the 100 training samples")


# --- on the command line ---------------------------------------------------------------------------------------------

WORDS = [
    "study", "steps", "--jobs", "1", "--model", "softmax", "--optimizer", "sgd", "--batches", "16,64,256",
    "--seeds", "1", "--report-seeds", "2",
]  # fmt: skip


def test_what_is_missing_is_proposed_and_auto_takes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "--out", "a"]) == 2
    before, said = capsys.readouterr().err.splitlines(keepends=True)
    assert before.startswith("looking for a target")
    found = re.search(
        r"on digits, softmax\? give --target ([\d.]+) \(what sgd with batch 64 reaches after about \d+", said
    )
    assert found and said.count("\n") == 1 and "or auto, which takes it" in said, said
    target._proposed.clear()
    assert main([*WORDS, "--out", "a", "--target", "auto"]) == 0
    shown, told = capsys.readouterr()
    assert told.startswith("looking for a target of train_loss by short runs of sgd on digits, softmax ...\n")
    rows = [json.loads(text) for text in (tmp_path / "a" / "runs.jsonl").read_text().splitlines()]
    assert {row["config"]["target"] for row in rows} == {float(found[1])}
    chosen = f"The target, train_loss {found[1]}, was chosen by a short run (--target auto): it is what sgd with"
    for text in (shown, *((tmp_path / "a" / name).read_text() for name in ("report.html", "report.md"))):
        assert text.count(chosen) == 1


def test_a_target_of_auto_in_a_file_and_a_word_that_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('target = "soon"\n')
    assert main([*WORDS, "--config", "a.toml"]) == 2
    assert "--config a.toml: --target takes a number, or auto, got 'soon'" in capsys.readouterr().err
