"""`allgrad study budgets`."""

import math

import numpy as np
import pytest

from allgrad.launch.study import Lab, Workload
from allgrad.launch.study.experiments import budgets
from allgrad.launch.study.lr_tuning import Tuned
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, NONE, PASS, judge


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("budgets"), jobs=1) as lab:
        return budgets.run(
            lab, Workload(), batches=(16, 256, 1024), budgets=("2ep", 25), seeds=(0,), report_seeds=(100, 101, 102)
        )


def test_the_budget_decides_which_batch_is_better(small):
    rows = {(r["budget"], r["B"]): r for r in small.tables[0].rows}
    assert [rows[cell]["steps"] for cell in rows] == [180, 12, 3, 25, 25, 25]
    assert [rows[cell]["degenerate"] for cell in rows] == [False, False, True, False, False, False]
    assert rows["2ep", 256]["val_loss"] > 1.5 * rows["2ep", 16]["val_loss"]
    assert rows["25", 1024]["val_loss"] < rows["25", 16]["val_loss"] and rows["25", 16]["epochs"] == 400 / 1437
    assert all(r["ci_lo"] <= r["val_loss"] <= r["ci_hi"] and r["n_trials"] > 4 for r in rows.values())
    assert "B = 256 over that at B = 16" in small.claims[0].claim, "1024 takes 3 steps, which say nothing"
    assert any("B = 1024: 3 steps only" in note for note in small.notes)


def test_its_figure_is_drawn(small):
    pytest.importorskip("matplotlib")
    assert [text.get_text() for text in small.figures[0].draw().legends[0].get_texts()] == ["2 epochs", "25 steps"]


def cell(budget, batch, losses, steps=100):
    rows = [
        {"status": "ok" if math.isfinite(loss) else "diverged", "final_val_loss": loss, "final_train_loss": loss,
         "final_val_accuracy": 0.9}
        for loss in losses
    ]  # fmt: skip
    return budgets.Cell("sgd", budget, batch, steps, Tuned(0.1, 1.0, False, {}, 5, rows))


def summarized(*cells):
    common = {"schedule": "linear", "eval_ratio": 2.0, "sampler": "epoch"}
    seeds = range(len(cells[0].losses))
    return budgets.summarize(Workload(), cells, common, (0, 1, 2), tuple(100 + seed for seed in seeds))


SEEDS = np.array([0.10, 0.12, 0.09, 0.11, 0.10])
NOISE = np.array([0.01, -0.01, 0.0, 0.02, -0.02])


def test_verdicts_and_what_is_made_of_them():
    worse, better = SEEDS * (1.5 + NOISE), SEEDS * (0.7 + NOISE)
    both = summarized(cell("2ep", 4, SEEDS), cell("2ep", 64, worse), cell("50", 4, SEEDS), cell("50", 64, better))
    assert [verdict.word for verdict in both.verdicts] == [PASS, PASS] and "gap is one of the budget" in both.headline
    assert "2 epochs with sgd: B = 4 (the best of 4, 64); 50 steps with sgd: B = 64 (the best of 4, 64)" in both.advice
    lost = summarized(cell("2ep", 4, SEEDS), cell("2ep", 64, worse), cell("50", 4, SEEDS), cell("50", 64, worse))
    assert [verdict.word for verdict in lost.verdicts] == [PASS, FAIL] and "at equal steps too" in lost.headline
    equal = SEEDS * (1.0 + NOISE)
    open_end = summarized(cell("2ep", 4, SEEDS), cell("2ep", 64, worse), cell("50", 4, SEEDS), cell("50", 64, equal))
    assert [verdict.word for verdict in open_end.verdicts] == [PASS, PASS]
    slightly = SEEDS * (1.04 + NOISE)
    open_end = summarized(cell("2ep", 4, SEEDS), cell("2ep", 64, worse), cell("50", 4, SEEDS), cell("50", 64, slightly))
    assert [verdict.word for verdict in open_end.verdicts] == [PASS, INCONCLUSIVE]
    assert open_end.headline.endswith("that it loses at equal steps is not shown.")
    alike = summarized(cell("50", 4, SEEDS), cell("50", 64, equal))
    assert [verdict.word for verdict in alike.verdicts] == [PASS]
    assert alike.headline == "Validation loss. 50 steps, B = 64 against 4: equal within 5 %."
    assert "B = 64 (not told apart from the best of 4, 64, as 4)" in alike.advice


def test_at_equal_steps_equal_losses_are_shown_to_be_no_worse():
    """At the source's own truth, a ratio of 1, with 5 seeds that scatter by 2 %."""
    rng, words = np.random.default_rng(8), []
    for _ in range(100):
        losses = 0.1 * np.exp(0.02 * rng.standard_normal((2, 5)))
        words.append(budgets._claim("", "50", [cell("50", 4, losses[0]), cell("50", 64, losses[1])]))
    found = [judge([claim])[0].word for claim in words]
    assert found.count(PASS) >= 70 and found.count(FAIL) == 0


def test_without_seeds_enough_or_with_failed_ones_there_is_no_verdict():
    few = summarized(cell("50", 4, SEEDS[:2]), cell("50", 64, 0.5 * SEEDS[:2]))
    assert [verdict.word for verdict in few.verdicts] == [NONE]
    few = summarized(*(cell("50", 4 * b, b * SEEDS[:2] + NOISE[:2] / 1e3) for b in (1, 16, 64)))
    assert "No batch can be recommended" in few.advice and "the best" not in few.advice + few.findings[0]
    failed = summarized(cell("50", 4, SEEDS), cell("50", 64, [0.01, 0.01, 0.01, 0.01, math.inf]))
    assert [verdict.word for verdict in failed.verdicts] == [NONE]
    assert "not compared (1 of 5 seeds failed)" in failed.headline
    assert "No batch can be recommended" in failed.advice and "the best" not in failed.findings[0]
    assert math.isnan(failed.tables[0].rows[1]["ci_lo"]) and failed.tables[0].rows[1]["n_fail"] == 1
    nothing = summarized(cell("50", 4, SEEDS), cell("50", 64, []))
    assert "not compared" in nothing.headline and nothing.verdicts[0].word == NONE


def test_the_best_is_among_those_that_are_not_beaten():
    """In 95 % of studies at least, of five batches that are equal, and of which the first is named the best."""
    rng = np.random.default_rng(5)
    drawn = [[cell("50", 4 * 2**k, 0.1 * np.exp(0.1 * rng.standard_normal(5))) for k in range(5)] for _ in range(200)]
    held = sum(cells[0] in budgets.not_beaten(cells) for cells in drawn)
    assert 184 <= held < 200, "190 or more are expected, and fewer than 184 in 2.4 % of trials"
    clear = [cell("50", 4, SEEDS), cell("50", 8, 2.0 * SEEDS + NOISE / 10), cell("50", 16, 3.0 * SEEDS + NOISE / 10)]
    assert budgets.not_beaten(clear) == clear[:1]
