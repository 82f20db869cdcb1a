"""How much a hyper-parameter matters, where the answer is known."""

import math

import numpy as np
import pytest

from allgrad.launch.study.experiments.tune.designs import parse
from allgrad.launch.study.experiments.tune.importance import additive_share, bins, crossed, importance

# --- importance ------------------------------------------------------------------------------------------------------


def test_importance_finds_known_shares():
    """y = 2 a + b + noise, of variances 4/4, 1/4, 1/4 with a and b 0 or 1: shares 2/3, 1/6 and 0."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(2, size=400).tolist() for _ in range(3))
    y = 2.0 * np.array(a) + np.array(b) + rng.normal(0.0, 0.5, 400)
    found = [importance(g, y) for g in (a, b, c)]
    for one, share in zip(found, (2 / 3, 1 / 6, 0.0)):
        assert one.low <= share <= one.high and abs(one.share - share) < 0.08 and (one.groups, one.n) == (2, 400)
    assert found[0].low > found[1].high and found[1].share > found[1].chance and found[2].share <= found[2].chance
    assert additive_share([a, b, c], y) == pytest.approx(5 / 6, abs=0.04)


def test_many_groups_of_few_trials_do_not_look_important():
    rng = np.random.default_rng(1)
    shares = [importance(rng.integers(6, size=24), rng.normal(size=24), n=50).share for _ in range(100)]
    assert np.mean(shares) < 0.08  # the plain R^2 would be 5/23 on average


def test_two_that_matter_only_together():
    a, b = np.arange(80) % 2, np.arange(80) // 2 % 2
    y = (a ^ b) + np.random.default_rng(3).normal(0.0, 0.3, 80)
    assert importance(a, y).share < 0.05 and additive_share([a, b], y) < 0.05
    assert importance(crossed(a, b), y).share == pytest.approx(0.25 / (0.25 + 0.09), abs=0.1)


def test_failures_and_what_does_not_apply_are_in_no_share():
    rng = np.random.default_rng(2)
    g = rng.integers(3, size=60)
    y = g + rng.normal(0.0, 0.3, 60)
    assert np.array_equal(importance(g, y).draws, importance(g, y).draws)
    more = importance([*g, 0, 1, None], [*y, math.inf, math.inf, 50.0])
    assert more == importance(g, y) and more.n == 60
    assert math.isnan(importance([0, 1, 0], [1.0, math.inf, 2.0]).share)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_intervals_of_shares_hold_the_truth(share):
    """In 95 % of 100 cases: fewer than 89 with a probability of 0.004, by the binomial distribution."""
    rng = np.random.default_rng(4)
    effect = np.array([-1.0, 0.0, 0.0, 1.0]) / math.sqrt(0.5)
    held = 0
    for _ in range(100):
        g = rng.permutation(np.arange(96) % 4)
        y = math.sqrt(share) * effect[g] + math.sqrt(1.0 - share) * rng.standard_normal(96)
        found = importance(g, y, n=100)
        held += found.low <= share <= found.high
    assert held >= 89


def test_chance_alone_is_told_in_one_of_twenty():
    rng = np.random.default_rng(5)
    found = [importance(rng.integers(4, size=40), rng.standard_normal(40), n=100).p for _ in range(100)]
    assert sum(p <= 0.05 for p in found) <= 12  # of 5 expected: more with a probability of 0.002
    assert 35 <= sum(p <= 0.5 for p in found) <= 65  # of 50 expected: fewer or more with one of 0.002


def test_a_curve_with_its_best_in_the_middle_matters():
    lr = parse("lr", "log:1e-3..1")
    values = [lr.at(u) for u in np.linspace(0.0, 1.0, 60)]
    group, labels = bins(lr, values)
    assert len(labels) == 4 and set(np.bincount(group)) <= {14, 15, 16}
    assert importance(group, [(lr.place(v) - 0.5) ** 2 for v in values]).share > 0.6
