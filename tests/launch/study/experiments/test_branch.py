"""`allgrad study branch`."""

import math

import pytest

from allgrad.launch.study import Lab, Workload, configuration, execute
from allgrad.launch.study.experiments import branch


@pytest.mark.parametrize(
    "losses, index",
    [((1.0, 1.0, 1.1, 1.2, 1.0), 2), ((1.0, 0.8, 0.93), 1), ((1.0, math.inf), 0), ((3.0, 2.0, 1.0), 2),
     ((1.0, math.nan, 1.0), 0)],
)  # fmt: skip
def test_the_first_batch_that_is_too_large_ends_the_search(losses, index):
    assert branch.local_critical(losses, [4 * 2**k for k in range(len(losses))]) == index


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
            lab, Workload(), lr=0.1, batches=(8, 64, 1024), checkpoints=(0, 50, 200), report_seeds=(100,)
        )
    cells = result.tables[0].rows
    assert [cell["cbs"] in (8, 64) and cell["cap"] != "grid" for cell in cells] == [True] * 3
    assert cells[0]["loss"] > cells[1]["loss"] > cells[2]["loss"]
    assert all(cell["ci_lo"] <= cell["cbs"] <= cell["ci_hi"] for cell in cells)
    diverged = [row for row in result.tables[1].rows if row["B"] == 1024]
    assert len(diverged) == 3 and len(result.checks) == 1 and "at step 200" in result.headline
    assert all(figure.draw().axes for figure in result.figures)
