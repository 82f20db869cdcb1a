"""`allgrad study budgets`."""

import pytest

from allgrad.launch.study import Lab, Workload
from allgrad.launch.study.experiments import budgets


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("budgets"), jobs=1) as lab:
        return budgets.run(
            lab, Workload(), batches=(16, 1024), budgets=("2ep", 25), seeds=(0,), report_seeds=(100, 101)
        )


def test_the_budget_decides_which_batch_is_better(small):
    rows = {(r["budget"], r["B"]): r for r in small.tables[0].rows}
    assert [rows[cell]["steps"] for cell in rows] == [180, 3, 25, 25]
    assert [rows[cell]["degenerate"] for cell in rows] == [False, True, False, False]
    assert rows["2ep", 1024]["val_loss"] > 2.0 * rows["2ep", 16]["val_loss"]
    assert rows["25", 1024]["val_loss"] < rows["25", 16]["val_loss"] and rows["25", 16]["epochs"] == 400 / 1437
    assert all(r["ci_lo"] <= r["val_loss"] <= r["ci_hi"] and r["n_trials"] > 4 for r in rows.values())
    assert small.checks[0].verdict == "PASS"
    assert "at equal epochs the large batch loses, at equal steps it does not" in small.headline
    assert any("B = 1024: 3 steps only" in note for note in small.notes)


def test_its_figure_is_drawn(small):
    pytest.importorskip("matplotlib")
    assert [text.get_text() for text in small.figures[0].draw().legends[0].get_texts()] == ["2 epochs", "25 steps"]
