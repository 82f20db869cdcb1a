"""Spaces of hyper-parameters, what a search tries of them, and successive halving."""

import math

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.experiments.tune.designs import Rung, design, halving, parse, part, promoted, rungs, spaces

# --- spaces ----------------------------------------------------------------------------------------------------------


def test_a_space_is_read_from_words_and_from_values():
    space = spaces(["lr=log:1e-3..1", "batch=16, 32", "width=int:32..256", "weight-decay=0..0.1", "warmup=0,1ep",
                    "schedule=constant|step:30ep,0.1", "momentum=0.9"])  # fmt: skip
    lr, width = space["lr"], space["width"]
    assert [lr.at(u) for u in (0.0, 1 / 3, 2 / 3, 1.0)] == [0.001, 0.01, 0.1, 1.0]
    assert space["batch"].choices == (16, 32) and width.at(0.0) == 32 and width.at(1.0) == 256
    assert type(width.at(0.3)) is int and space["weight_decay"].at(0.5) == 0.05
    assert space["schedule"].choices == ("constant", "step:30ep,0.1") and space["warmup"].choices == (0, "1ep")
    assert space["momentum"].fixed and not space["momentum"].at_edge(0.9)
    assert spaces({"batch": (16, 32), "lr": "log:1e-3..1"}) == {"batch": space["batch"], "lr": lr}
    assert parse("schedule", ["step:30ep,0.1"]).choices == ("step:30ep,0.1",)  # a list has no commas to split at


def test_whole_numbers_of_a_range_are_drawn_equally_often():
    depth = parse("depth", "1..3")
    counts = np.bincount([depth.at(u) for u in np.linspace(0.0, 1.0, 3001)])
    assert counts[0] == 0 and np.all(np.abs(counts[1:] - 1000) <= 2)


def test_an_edge_is_where_a_better_value_may_lie_beyond():
    lr, decay, depth = parse("lr", "log:0.001..1"), parse("weight_decay", "0..1"), parse("depth", "1,2,3")
    assert [lr.at_edge(v) for v in (0.0011, 0.01, 0.99)] == [True, False, True]
    assert [decay.at_edge(v) for v in (0.0, 0.5, 0.97)] == [False, False, True]
    assert [depth.at_edge(v) for v in (1, 2, 3)] == [False, False, True]
    assert not parse("optimizer", "sgd,adam").at_edge("adam")


@pytest.mark.parametrize(
    "words, message",
    [("beta=1,2", "beta is not one of lr, batch, depth"), ("lr", "--space lr has no values: write NAME=SPEC"),
     ("lr=log:0..1", "needs 0 < A < B, got 0 and 1|lr is above 0, got 0"), ("lr=1..0.1", "needs A < B, got 1 and 0.1"),
     ("lr=cube:1..2", "'cube' is not lin, log or int"), ("lr=int:1..2", "lr is no whole number; write lr=lin:1..2"),
     ("batch=16,x", "'x' is not a whole number"), ("batch=16,16", "has a value twice"), ("width=0,8", "at least 1"),
     ("width=1.5..8", "'1.5' is not a whole number"), ("momentum=0..1", "at least 0 and below 1, got 1"),
     ("lr=nan,1", "got nan"), ("activation=relu,tanhh", "'tanhh' is not one of relu"), ("warmup=1ep,-3", "is not a le"),
     ("schedule=spiral,linear", "'spiral' is not one of constant"), ("optimizer=,sgd", "empty value")],
)  # fmt: skip
def test_a_wrong_space_is_said_in_one_sentence(words, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        spaces([words])
    assert "\n" not in str(caught.value)


# --- designs ---------------------------------------------------------------------------------------------------------

SPACE = spaces(["lr=log:1e-3..1", "batch=16,32,64", "optimizer=sgd,adam", "depth=2"])


@pytest.mark.parametrize("kind", ["random", "quasi"])
def test_a_drawn_design_is_the_same_again_and_goes_on(kind):
    first = design(SPACE, kind, 20)
    assert design(SPACE, kind, 50)[:20] == first and design(SPACE, kind, 20, seed=1) != first
    assert {trial["depth"] for trial in first} == {2} and all(1e-3 <= trial["lr"] <= 1.0 for trial in first)


def test_a_quasi_random_design_fills_the_space_evenly():
    def worst(kind):  # the largest gap between neighbours, in shares of the range
        shares = sorted(SPACE["lr"].place(trial["lr"]) for trial in design(SPACE, kind, 64))
        return max(np.diff([0.0, *shares, 1.0]))

    assert worst("quasi") < 2.5 / 64 < worst("random")


def test_a_grid_is_as_fine_as_the_trials_allow():
    found = design(SPACE, "grid", 20)
    assert len(found) == 18 and {trial["lr"] for trial in found} == {0.001, 0.03162, 1.0}
    with pytest.raises(ConfigurationError, match="grid has 12 trials with 2 points a range, and --trials is 11"):
        design(SPACE, "grid", 11)
    with pytest.raises(ConfigurationError, match="nothing to search"):
        design(spaces(["lr=0.1"]), "grid", 11)


def test_the_levels_of_successive_halving():
    assert rungs(81, 3) == [Rung(81, 27), Rung(27, 9), Rung(9, 3), Rung(3, 1)]
    assert rungs(81, 3, most=9) == [Rung(81, 9), Rung(27, 3), Rung(9, 1)] and rungs(3, 2) == [Rung(3, 1)]
    assert promoted({0: 2.0, 1: 1.0, 2: math.inf, 3: 1.0, 4: 1.0}, 2) == [1, 3]
    assert promoted({0: math.inf, 1: 1.0}, 2) == [1]
    asked = []

    def score(ids, level):
        asked.append((list(ids), level.divisor))
        return {k: abs(k - 4) + (math.inf if k == 4 and level.divisor == 3 else 0.0) for k in ids}

    halving(rungs(9, 3), range(9), score)
    assert asked == [([*range(9)], 3), ([3, 5, 2], 1)] or asked == [([*range(9)], 3), ([2, 3, 5], 1)]


def test_parts_of_a_budget():
    assert [part(10, 3), part("9ep", 3), part("1000samples", 3)] == [4, "3.0000ep", "334samples"]
    assert part("9ep", 1) == "9ep"
