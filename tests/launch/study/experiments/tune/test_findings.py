"""What is said of the trials of a search."""

import math

import numpy as np
import pytest

from allgrad.launch.study import Workload, configuration
from allgrad.launch.study.experiments.tune import findings


def finalists(**fresh):
    return findings.judged({role: k for k, role in enumerate(fresh)}, fresh)


def test_others_are_compared_with_the_winner_seed_by_seed():
    seeds = np.random.default_rng(0).lognormal(0.0, 0.3, 6)  # what a seed does to all of them
    noise = np.random.default_rng(1).lognormal(0.0, 0.01, (3, 6))
    found = finalists(winner=0.5 * seeds, second=0.5 * seeds * noise[0], third=0.55 * seeds * noise[1],
                      median=0.3 * seeds * noise[2])  # fmt: skip
    assert [one.verdict for one in found.values()] == ["", "not told apart", "worse", "better"]
    assert found["third"].over.value == pytest.approx(1.1, rel=0.02)
    assert findings.chosen(found) == "median"


def test_verdicts_are_corrected_for_their_number():
    """Of 200 searches whose six trials are all alike, at most 5 % may tell any apart; here by the binomial at most 19,
    which 5 % exceed with a probability of 0.003."""
    rng = np.random.default_rng(0)
    names = "winner", "second", "third", "fourth", "fifth", "sixth"
    found = [finalists(**dict(zip(names, rng.lognormal(0.0, 0.1, (6, 5))))) for _ in range(200)]
    assert sum(any(one.verdict in ("worse", "better") for one in each.values()) for each in found) <= 19


def test_two_fresh_seeds_decide_nothing():
    found = finalists(winner=[0.5, 0.51], second=[0.9, 0.91])
    assert found["second"].verdict == "no verdict: 2 seeds, and it needs 3" and findings.chosen(found) == "winner"


@pytest.mark.parametrize(
    "winner, second, best",
    [((0.5, 0.5, math.inf), (0.9, 0.9, 0.9), "second"), ((0.5, 0.5, 0.5), (0.1, 0.1, math.inf), "winner"),
     ((math.inf,) * 3, (math.inf,) * 3, "winner")],
)  # fmt: skip
def test_who_fails_on_fresh_seeds_is_not_compared_by_the_others(winner, second, best):
    found = finalists(winner=winner, second=second)
    assert found["second"].verdict.startswith("no verdict: ") and "failed" in found["second"].verdict
    assert findings.chosen(found) == best


@pytest.mark.parametrize(
    "second, said",
    [((0.6,) * 3, "not compared (the seeds do not differ)"), ((0.6, 0.60001, 0.6), "20 % more than the winner"),
     ((1.5, 1.5001, 1.5), "3 times that of the winner"),
     ((0.501, 0.5, 0.5), "equal within 5 %"), ((0.4, 0.5, 0.7), "between 48 % less and 109 % more than the winner"),
     ((0.5, 0.5, math.inf), "not compared (1 of 3 seeds failed)")],
)  # fmt: skip
def test_how_far_from_the_winner(second, said):
    assert findings._beside(finalists(winner=[0.5] * 3, second=second)["second"].over) == said


def test_what_is_below_0_is_compared_by_differences():
    found = finalists(winner=[-1.0, -1.1, -0.9], second=[1.0, 0.9, 1.103])
    assert found["second"].verdict == "worse" and found["second"].over.value == pytest.approx(2.001)


@pytest.mark.parametrize("seed, said", [(0, True), (1, False)])
def test_a_file_that_a_run_splits_by_its_seed_has_no_command(seed, said, tmp_path):
    lines = [f"{0.1 * i},{i % 7},{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["u,v,label", *lines]))
    work = Workload(str(tmp_path / "rows.csv"), "softmax")
    row = {"config": configuration(work, "sgd", steps=4, batch=4, seed=seed), "steps": 4}
    assert (findings.command(work, row) is not None) == said
