"""`allgrad study tokens`."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import Lab, Workload
from allgrad.launch.study.experiments import tokens
from allgrad.launch.study.lr_tuning import Tuned
from allgrad.launch.study.options import typed
from benchmarks.coverage_laws import Planted

COMMON = {"metric": "train_loss", "schedule": "linear", "sampler": "epoch"}


def planted(case, seed=0):
    """The cells of an experiment that found the losses of a planted case."""
    rng = np.random.default_rng(seed)
    rows = [{"status": "ok"}] * case.seeds
    return [
        tokens.Cell("adamw", f"mlp:{n}", n, cells.examples, batch, 100, Tuned(0.1, 1.0, False, {}, 9, rows), [*losses])
        for n, curves in case.draw(rng).items()
        for cells in curves
        for batch, losses in zip(cells.batches, cells.losses)
    ]


def said(cells, seeds=5):
    loaded = SimpleNamespace(train_x=range(5000))
    work = SimpleNamespace(name="planted", config=lambda: {"data": "planted"}, loaded=loaded)
    return tokens.summarize(work, cells, COMMON, (0, 1, 2), tuple(range(seeds)))


def test_planted_laws_are_found_and_stand_beside_those_of_the_literature():
    case = Planted(noise=0.002)
    result = said(planted(case))
    assert result.claims == []  # the preset was chosen after runs on the digits
    literature = ("Bergsma et al. 2025 find about D^0.4", "Zhang et al. 2024 and Bergsma et al. 2025 find about D^0.5")
    for row, line, power, theirs in zip(result.tables[1].rows, result.findings, (case.p, case.q), literature):
        assert row["power_D_lo"] <= power <= row["power_D_hi"]
        interval = "[{:.2g}, {:.2g}]".format(row["power_D_lo"], row["power_D_hi"])
        assert interval in line and line.endswith(f"For language models {theirs}.")
    assert "best batch size grows as D^p with p = 0.4" in result.headline
    assert all(row["B_opt_lo"] <= case.b_opt(row["D"], 1) <= row["B_opt_hi"] for row in result.summary.rows)
    assert result.summary.rows[0]["B_crit"] == pytest.approx(case.b_crit(1000, 1), rel=0.1)
    assert all(figure.draw().axes for figure in result.figures)


def test_models_of_several_sizes_share_a_law():
    case = Planted(noise=0.002, parameters=(1, 4, 16), r=0.1, t=0.05)
    result = said(planted(case))
    assert len(result.figures) == 4 and result.tables[1].rows[0]["points"] == 15
    assert result.tables[1].rows[0]["power_N"] == pytest.approx(0.1, abs=0.05)
    assert "exponent of N" in result.findings[0] and "parameters, B_opt is" in result.headline


def test_what_two_numbers_of_examples_or_failed_seeds_leave_open_is_said():
    result = said(planted(Planted(noise=0.002, examples=(1000, 2000))))
    assert "no law of the best batch size" in result.headline and "needs 3 numbers" in result.findings[0]
    cells = planted(Planted(noise=0.002))
    for cell in cells:
        if cell.batch == 16:
            cell.losses[0] = math.inf
    result = said(cells)
    assert "a seed failed" in " ".join(result.notes)
    assert {row["n_fail"] for row in result.tables[0].rows if row["B"] == 16} == {1}
    assert result.figures[0].draw().axes


@pytest.mark.parametrize(
    "given, text",
    [({"metric": "val_accuracy"}, "train_loss or val_loss"), ({"budgets": ("100",)}, "100samples"),
     ({"budgets": ("10samples",), "batches": (4,)}, "no batch has 5 steps")],
)  # fmt: skip
def test_refusals(given, text, tmp_path):
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match=text):
        tokens.run(lab, Workload(), **given)


@pytest.mark.parametrize(
    "given, names",
    [("mlp:{32,128}", ("mlp:32", "mlp:128")), ("mlp:64,32,cnn:8,16", ("mlp:64,32", "cnn:8,16")),
     (["mlp:8", "mlp:16,8"], ("mlp:8", "mlp:16,8")), ("mlp:{8,16}:tanh", ("mlp:8:tanh", "mlp:16:tanh"))],
)  # fmt: skip
def test_names_of_models(given, names):
    assert typed("models", given) == names


@pytest.mark.parametrize("given", ["mlp:{8", "mlp:8,mlp:{8,16}"])
def test_names_of_models_that_are_none(given):
    with pytest.raises(ConfigurationError, match="models"):
        typed("models", given)


def test_it_runs(tmp_path):
    given = {"batches": (8, 32, 128), "budgets": ("0.25ep", "0.5ep", "1ep"), "seeds": (0,), "report_seeds": 3}
    with Lab(tmp_path, jobs=1) as lab:
        result = tokens.run(lab, Workload(), models=("mlp:8", "mlp:16"), **given)
    rows = result.tables[0].rows
    assert {row["model"]: row["N"] for row in rows} == {"mlp:8": 610, "mlp:16": 1210}
    assert all(row["steps"] >= tokens.FEW_STEPS and row["loss"] > 0.0 for row in rows)
    assert len(result.summary.rows) == 6 and all(figure.draw().axes for figure in result.figures)
