"""What is said of the trials of a search."""

import math
from types import SimpleNamespace

import pytest

from allgrad.launch.study import Workload, configuration
from allgrad.launch.study.experiments.tune import findings


@pytest.mark.parametrize(
    "winner, median, verdict",
    [((math.inf,), (0.5,), "FAIL"), ((math.inf,), (math.inf,), "FAIL"), ((0.5,), (math.inf,), "PASS"),
     ((0.5, math.inf), (0.6,), "PASS")],
)  # fmt: skip
def test_a_winner_that_fails_with_every_fresh_seed_is_no_winner(winner, median, verdict):
    assert (
        findings._better(SimpleNamespace(measured="loss"), {"winner": winner, "median": median}, "median trial").verdict
        == verdict
    )


@pytest.mark.parametrize("seed, said", [(0, True), (1, False)])
def test_a_file_that_a_run_splits_by_its_seed_has_no_command(seed, said, tmp_path):
    lines = [f"{0.1 * i},{i % 7},{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["u,v,label", *lines]))
    work = Workload(str(tmp_path / "rows.csv"), "softmax")
    row = {"config": configuration(work, "sgd", steps=4, batch=4, seed=seed), "steps": 4}
    assert (findings.command(work, row) is not None) == said
