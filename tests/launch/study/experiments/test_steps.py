"""`allgrad study steps`."""

import math
from dataclasses import replace

import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import Lab, Workload, steps
from allgrad.launch.study.command import status, table
from allgrad.launch.study.experiments.steps import Cell, summarize
from allgrad.launch.study.lr_tuning import Tuned


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of three batch sizes, and its directory."""
    out = tmp_path_factory.mktemp("steps")
    with Lab(out, jobs=1) as lab:
        result = steps(
            lab, Workload(), optimizers=("sgd",), batches=(8, 64, 512), seeds=(0, 1), report_seeds=(100, 101)
        )
    return result, out


def test_digits_scale_perfectly_first_and_then_no_more(small):
    rows = small[0].tables[0].rows
    s = {row["B"]: row["S"] for row in rows}
    assert 4.0 <= s[8] / s[64] <= 8.0 and 1.5 <= s[64] / s[512] <= 3.0
    assert rows[0]["region"] is None and rows[1]["slope"] < rows[2]["slope"] < -0.1
    assert all(row["E"] == row["B"] * row["S"] and row["n_fail"] == 0 and not row["at_edge"] for row in rows)
    assert all(row["ci_lo"] <= row["S"] <= row["ci_hi"] for row in rows)
    assert all(check.verdict == "PASS" for check in small[0].checks)
    assert "B_crit = " in small[0].headline and not any("digits" in check.claim for check in small[0].checks)
    assert "sampler epoch" in small[0].methods and "S_min is" in " ".join(small[0].notes)


def test_its_figures_are_drawn(small):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    for figure in small[0].figures:
        drawn = figure.draw()
        drawn.canvas.draw()
        assert drawn.axes and all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
        plt.close(drawn)


def test_what_a_directory_holds(small):
    _, out = small
    said = status(out)
    runs = len((out / "runs.jsonl").read_text().splitlines())
    assert f"{runs} runs" in said and "steps " in said and " ok" in said
    shown = table(out).splitlines()
    assert len(shown) == runs + 1 and shown[0].split()[:4] == ["run_id", "exp", "data", "model"]
    every = table(out, csv=True).splitlines()
    assert len(every) == runs + 1 and "config.lr" in every[0] and "wall_s" in every[0]


def test_batch_sizes_at_which_nothing_works():
    row = {"status": "ok", "steps_to_target": 9.0, "config": {}}
    works, fails = (
        Tuned(0.1, 9.0, False, {0.1: 9.0}, 1, [row]),
        Tuned(math.nan, math.inf, True, {}, 0, why="it diverges"),
    )
    cells = [Cell("sgd", batch, works) for batch in (8, 16, 32)] + [Cell("sgd", 64, fails)]
    common = {"target": 0.5, "metric": "train_loss", "sampler": "epoch", "eval_ratio": 1.05}
    result = summarize(Workload(), cells, common, (0,), (100,), "quick")
    assert "best rate 0.1 at B = 8, 0.1 at 32." in result.headline
    assert "sgd at B = 64: no learning rate works: it diverges." in result.notes
    with pytest.raises(ConfigurationError, match="with 2 of 3 batch sizes, where 3 are needed; it diverges"):
        summarize(Workload(), cells[1:], common, (0,), (100,), "quick")


def _cells(steps, rate=0.1):
    rows = [[{"status": "ok", "steps_to_target": s, "config": {}} for s in some] for some in steps.values()]
    return [Cell("sgd", b, Tuned(rate, 9.0, False, {rate: 9.0}, 1, found)) for b, found in zip(steps, rows)]


def test_the_advice_gives_the_setting_the_choices_and_what_is_not_known():
    common = {"target": 0.5, "metric": "train_loss", "sampler": "epoch", "eval_ratio": 1.05}
    curve = {b: 10.0 * (1.0 + 128.0 / b) for b in (4, 8, 16, 32, 64, 128, 256, 512)}
    cells = _cells({b: (0.99 * s, s, 1.01 * s) for b, s in curve.items()})
    result = summarize(Workload(), cells, common, (0,), (100, 101, 102), "quick")
    first, choices, doubling, last = result.advice.splitlines()
    assert first.startswith("digits, mlp:128, to train_loss 0.5: batch sizes 4 to 512") and "3 report seeds" in first
    assert "B_crit = 128 [" in choices and "S_min = 10," in choices and "misses" not in choices
    assert "fastest tried B = 512 (12.5 steps, 4.8 times" in choices and "0.1 at B = 128" in choices
    assert (
        "up to 16 a doubling divides the steps by 1.8" in choices
        and "25 %" in doubling
        and last.startswith("Not known")
    )
    bent = {b: s * (1.3 if b in (8, 64) else 1.0) for b, s in curve.items()}
    cells = _cells({b: (0.99 * s, s, 1.01 * s) for b, s in bent.items()})
    result = summarize(Workload(), cells, common, (0,), (100, 101, 102), "quick")
    (said,) = [note for note in result.notes if "misses" in note]
    assert "of 8 points" in said and "without misfit and rate grid" in said and "of 8 points" in result.advice


@pytest.mark.parametrize("steps", [dict.fromkeys((4, 8, 16), 10.0), {b: 4000.0 / b for b in (4, 8, 16)}])
def test_steps_that_do_not_bend_have_no_compromise(steps):
    common = {"target": 0.5, "metric": "train_loss", "sampler": "epoch", "eval_ratio": 1.05}
    advice = summarize(Workload(), _cells({b: (s,) for b, s in steps.items()}), common, (0,), (100,), "quick").advice
    assert "no compromise" in advice and "25 %" not in advice and "misses" not in advice


@pytest.mark.parametrize(
    "sgd, momentum, verdict",
    [(30, 90, "PASS"), (30, 30, "FAIL"), (math.inf, 90, "FAIL"), (90, 0, "FAIL"), (0, 90, "INCONCLUSIVE"),
     (90, math.inf, "INCONCLUSIVE"), (0, 0, None), (math.inf, math.inf, None)],
)  # fmt: skip
def test_batches_of_two_optimizers_are_compared_also_where_steps_do_not_bend(sgd, momentum, verdict):
    common = {"target": 0.5, "metric": "train_loss", "sampler": "epoch", "eval_ratio": 1.05}
    cells = []
    for name, critical in (("sgd", sgd), ("momentum", momentum)):
        curve = {b: 4000.0 / b if math.isinf(critical) else 10.0 * (1.0 + critical / b) for b in (4, 16, 64, 256)}
        cells += [replace(cell, optimizer=name) for cell in _cells({b: (s, s) for b, s in curve.items()})]
    checks = summarize(Workload(), cells, common, (0,), (100, 101), "quick").checks
    found = [check.verdict for check in checks if "makes use of larger batches" in check.claim]
    assert found == ([verdict] if verdict else [])
