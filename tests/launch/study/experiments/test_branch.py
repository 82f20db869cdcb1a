"""`allgrad study branch`."""

import math

import numpy as np
import pytest

from allgrad.launch.study import Lab, Workload, configuration, execute
from allgrad.launch.study.experiments import branch
from allgrad.launch.study.result import judge

BATCHES = [4 * 2**k for k in range(6)]


@pytest.mark.parametrize(
    "losses, batch",
    [((1.0, 1.0, 1.1, 1.2, 1.0, 1.0), 16 * 2**0.5), ((1.0, 0.8, 1.04, 2.0, 2.0, 2.0), 8 * 2**0.5),
     ((1.0, math.inf, 1.0, 1.0, 1.0, 1.0), 4 * 2**0.5), ((3.0, 2.0, 1.0, 1.0, 1.0, 1.0), 128.0),
     ((-2.0, -2.0, -1.4, 0.0, 0.0, 0.0), 8 * 2**0.5)],
)  # fmt: skip
def test_a_curve_crosses_the_tolerance_of_15_percent_halfway_between_two_batches(losses, batch):
    assert branch.crossing(losses, BATCHES) == pytest.approx(batch)


def drawn(truth, rng, seeds=8, scatter=0.1):
    """Losses of seeds whose branches scatter, and start from runs that scatter more: (seeds, batches)."""
    n = seeds, len(truth)
    return np.array(truth) * np.exp(0.3 * rng.standard_normal((seeds, 1)) + scatter * rng.standard_normal(n))


@pytest.mark.parametrize("truth", [(1.0, 1.0, 1.1499, 1.1501, 2.0, 4.0), (1.0, 1.1499, 1.1501, 1.1502, 1.2, 1.3)])
def test_its_interval_holds_the_truth_in_95_percent_of_studies(truth):
    """Where the critical batch is hardest to tell: two batches lie at the tolerance. 400 studies, 3 standard errors."""
    rng, held, last = np.random.default_rng(7), 0, max(k for k, loss in enumerate(truth) if loss <= 1.15)
    for _ in range(400):
        small, large = branch.bounds(drawn(truth, rng))
        held += small <= last < large
    assert held / 400 >= 0.95 - 3.0 * math.sqrt(0.95 * 0.05 / 400)


def test_its_interval_closes_where_nothing_scatters_and_a_divergence_is_a_loss_without_a_mean():
    rng = np.random.default_rng(3)
    losses = drawn((1.0, 1.0, 1.0, 1.6, 2.0, 4.0), rng, scatter=0.02)
    assert branch.bounds(losses) == (2, 3)
    losses[5, 1:] = math.inf
    assert branch.bounds(losses) == (0, 1)
    losses = drawn((1.0,) * 6, rng, scatter=0.02)
    assert branch.bounds(losses) == (5, 6)
    assert branch.bounds(losses - 2.0 * losses.max()) == (5, 6)  # below 0
    assert branch.bounds(drawn((1.0,) * 6, rng, scatter=2.0))[0] == 0  # not to differ is not to be equal


def of(optimizer, checkpoints, **more):
    config = configuration(
        Workload(), optimizer, kind="branch", batch=16, lr=0.02, steps=60, checkpoints=checkpoints, delta="1ep",
        branches=[16, 64, 512], power=1.0, seed=5, **more,
    )  # fmt: skip
    return execute(config)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_branches_leave_no_trace_in_the_base_run(optimizer):
    after, alone = of(optimizer, [0, 30, 60]), of(optimizer, [60])
    assert after["branches"][-3:] == alone["branches"] and after["steps"] == 60 == alone["steps"]
    assert [b["steps"] for b in alone["branches"]] == [90, 23, 3]


def test_a_branch_with_the_base_batch_is_the_base_run():
    first = of("momentum", [0, 90])["branches"]
    assert first[0]["loss"] == first[3]["before"]


def test_what_it_says(tmp_path):
    pytest.importorskip("matplotlib")
    with Lab(tmp_path, jobs=1) as lab:
        result = branch.run(
            lab, Workload(), lr=0.1, batches=(8, 64, 1024), checkpoints=(0, 50, 200), report_seeds=(100, 101, 102)
        )
    cells = result.tables[0].rows
    assert [cell["samples"] for cell in cells] == [0, 400, 1600] and all(cell["ci_lo"] in (8, 64) for cell in cells)
    assert cells[0]["loss"] > cells[1]["loss"] > cells[2]["loss"]
    assert all(cell["ci_lo"] <= cell["cbs"] <= cell["ci_hi"] <= 1024 for cell in cells)
    diverged = [row for row in result.tables[1].rows if row["B"] == 1024]
    assert len(diverged) == 3 and all(row["within"] == 0.0 for row in diverged)
    assert "at step 200" in result.headline and [claim.least for claim in result.claims] == [1.0]
    assert all(figure.draw().axes for figure in result.figures)


def found(growth, lost=0, seeds=6):
    """Rows of runs whose critical batch is 8 at step 0, and 8 `growth` at step 100; `lost` of them end before."""
    rng, rows = np.random.default_rng(1), []
    for i in range(seeds):
        noise = 1.0 + 0.01 * rng.standard_normal((2, len(BATCHES)))
        branches = [
            {"checkpoint": at, "batch": b, "before": 2.0, "loss": (0.5 if b <= top else 1.0) * noise[k, j]}
            for k, (at, top) in enumerate(((0, 8), (100, 8 * growth))) for j, b in enumerate(BATCHES)
        ]  # fmt: skip
        gone = i < lost
        rows.append(
            {"status": "diverged" if gone else "ok", "branches": branches[: len(BATCHES)] if gone else branches}
        )
    return {"sgd": {"lr": 0.1, "trials": 0, "at_edge": None, "rows": rows}}


def summarized(**given):
    return branch.summarize(Workload(), found(**given), BATCHES, [0, 100], "epoch", (0,), tuple(range(6)))


def test_what_is_said_follows_from_intervals():
    grown, same = summarized(growth=4), summarized(growth=1)
    assert grown.headline == "sgd: the local critical batch size is 8 to 16 at step 0, 32 to 64 at step 100."
    assert grown.verdicts[0].word == "PASS" and "up to 32 at step 100" in grown.advice
    assert same.verdicts[0].word != "PASS" and "that larger ones are later on is not shown" in same.advice


def cells_with(first, last, rng, scatter=(0.3, 0.005), seeds=8):
    """What is made of branches from two checkpoints with these true losses, whose seeds scatter so much."""
    rows = [{"status": "ok", "branches": []} for _ in range(seeds)]
    for at, truth, spread in zip((0, 100), (first, last), scatter):
        for row, losses in zip(rows, drawn(truth, rng, seeds, spread)):
            row["branches"] += [{"checkpoint": at, "batch": b, "before": 2.0, "loss": loss}
                                for b, loss in zip(BATCHES, losses)]  # fmt: skip
    one = {"lr": 0.1, "trials": 0, "at_edge": None, "rows": rows}
    return [branch._cell("sgd", one, at, BATCHES) for at in (0, 100)]


@pytest.mark.parametrize("seeds", [5, 16])
def test_scatter_that_falls_along_the_run_is_no_growth(seeds):
    """The same true critical batch, 16 to 32, at both checkpoints; crossings run by run would say it grows in most."""
    rng, truth = np.random.default_rng(11), (1.0, 1.0, 1.05, 1.3, 1.6, 2.0)
    grown = held = 0
    for _ in range(30):
        cells = cells_with(truth, truth, rng, seeds=seeds)
        growth = branch._growth(cells, BATCHES)
        (claim,) = branch._claims({"sgd": cells}, {"sgd": growth})
        grown += judge([claim])[0].word == "PASS"
        held += growth.low <= 1.0 <= growth.high
    assert grown <= 4 and held >= 26  # 1.5 expected at most; more than 4 in 1.6 % of cases (binomial)


def test_growth_is_between_what_is_surely_small_enough_and_surely_too_large():
    rng, scatter = np.random.default_rng(4), (0.01, 0.01)
    at_8, at_32 = (1.0, 1.0, 1.6, 2.0, 3.0, 4.0), (1.0, 1.0, 1.0, 1.0, 1.6, 2.0)
    growth = branch._growth(cells_with(at_8, at_32, rng, scatter), BATCHES)
    assert growth.interval() == (32 / 16, 64 / 8) and growth.low < growth.value < growth.high
    assert growth.p_above(1.0) < 0.001 and growth.p_above(8.0) == 1.0 and growth.p_below(8.0) < 0.001
    assert branch._times(growth) == "2 to 8 times"
    beyond = branch._growth(cells_with(at_8, (1.0,) * 6, rng, scatter), BATCHES)
    assert math.isnan(beyond.value) and beyond.interval() == (128 / 16, math.inf)
    assert branch._times(beyond) == "more than 8 times"
    both = branch._growth(cells_with((1.0,) * 6, (1.0,) * 6, rng, scatter), BATCHES)
    assert both.p_above(1.0) == 1.0 and "beyond the batches tried" in branch._times(both)


def test_survivors_decide_nothing():
    result = summarized(growth=4, lost=1)
    assert "8 to 16 at step 0, not known at step 100" in result.headline and result.tables[0].rows[1]["n_fail"] == 1
    assert result.verdicts[0].word == "NO VERDICT" and "is not shown" in result.advice
