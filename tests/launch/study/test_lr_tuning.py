"""The protocol by which a learning rate is tuned, on runs that a formula stands in for."""

import math

import pytest

from allgrad.launch.study.lr_tuning import FACTOR, NothingWorks, first_rate, tune


@pytest.mark.parametrize(
    "optimizer, at_4, at_64",
    [("sgd", 0.1, 1.6), ("adam", 0.003, 0.012), ("soap", 0.008, 0.032), ("lion", 0.0004, 0.0064),
     ("muon", 0.007, 0.112), ("schedulefree-adamw", 0.008, 0.032), ("schedulefree-sgd", 0.2, 3.2)],
)  # fmt: skip
def test_where_to_look_first(optimizer, at_4, at_64):
    assert [first_rate(optimizer, batch) for batch in (4, 64)] == pytest.approx([at_4, at_64])


class Formula:
    """A laboratory whose runs take steps(lr) and diverge where that is inf; it notes what was asked for."""

    def __init__(self, steps):
        self.steps, self.configs = steps, []

    def run(self, configs, experiment=""):
        self.configs += configs
        return [self.row(config) for config in configs]

    def row(self, config):
        taken = self.steps(config["lr"]) * (1.0 + 0.01 * (config["seed"] % 3))
        limit = min(x for x in (config["cap"], config["prune"]) if x is not None)
        status = "diverged" if math.isinf(taken) else "ok" if taken <= limit else "pruned"
        found = {"config": config, "status": status, "steps_to_target": taken if status == "ok" else None}
        return {**found, "final_train_loss": 1.0, "error": ""}


def bowl(best, stable=math.inf):
    return lambda lr: 100.0 * (1.0 + math.log(lr / best) ** 2) if lr < stable else math.inf


def configure(**given):
    return {"optimizer": "sgd", "batch": 8, "metric": "train_loss", "target": 0.1, **given}


@pytest.mark.parametrize("start", [1e-3, 0.02, 0.1, 0.7, 3.0])
def test_the_best_rate_is_found_from_afar(start):
    lab = Formula(bowl(0.1, stable=0.5))
    tuned = tune(lab, configure, start)
    assert abs(math.log(tuned.lr / 0.1)) <= math.log(FACTOR) / 2 + 1e-5 and not tuned.at_edge
    rates = sorted(tuned.tried)
    k = rates.index(tuned.lr)
    assert 2 <= k < len(rates) - 2 and tuned.score == min(tuned.tried.values())  # two that are worse on both sides


def test_a_neighbour_saves_the_search_and_sets_the_limit():
    lab = Formula(bowl(0.1))
    alone = tune(lab, configure, 0.1, report_seeds=())
    lab.configs.clear()
    tuned = tune(lab, configure, 0.1, neighbour=alone, report_seeds=())
    assert tuned.trials == len(lab.configs) == 15 and len(tuned.tried) == 5
    assert max(c["prune"] for c in lab.configs) == math.ceil(3.0 * alone.score) + 20


def test_runs_that_must_be_worse_are_pruned_and_stay_infinite():
    lab = Formula(lambda lr: 10.0 if abs(math.log(lr / 0.1)) < 0.1 else 1000.0)
    tuned = tune(lab, configure, 0.1, report_seeds=())
    assert sorted({*tuned.tried.values()}) == pytest.approx([10.1, math.inf], rel=1e-3)
    pruned = [c for c in lab.configs if c["prune"] is not None]
    assert pruned and {c["prune"] for c in pruned} <= {50, 51}
    for rate, score in tuned.tried.items():  # a rate whose first seed failed is not tried with more seeds
        assert len([c for c in lab.configs if c["lr"] == rate]) == (3 if math.isfinite(score) else 1)


def test_the_winner_is_run_on_fresh_seeds_for_longer():
    lab = Formula(bowl(0.1))
    tuned = tune(lab, configure, 0.1, report_seeds=(100, 101))
    last = lab.configs[-2:]
    assert [c["seed"] for c in last] == [100, 101] and {c["lr"] for c in last} == {tuned.lr}
    assert {c["cap"] for c in last} == {10 * math.ceil(tuned.score)} and {c["prune"] for c in last} == {None}
    assert tuned.failures == 0 and len(tuned.steps) == 2


def test_a_rate_that_only_gets_better_is_given_up_at_the_edge():
    tuned = tune(Formula(lambda lr: 5000.0 / (1.0 + lr)), configure, 1e-3, report_seeds=())
    assert tuned.at_edge


def test_another_measure_of_a_row():
    lab = Formula(lambda lr: 5.0)
    tuned = tune(lab, configure, 0.02, measure=lambda row: (math.log(row["config"]["lr"] / 0.3)) ** 2)
    assert abs(math.log(tuned.lr / 0.3)) <= math.log(FACTOR) / 2 + 1e-5
    assert {c["prune"] for c in lab.configs} == {None}


def test_no_rate_works():
    with pytest.raises(
        NothingWorks, match=r"sgd with batch 8 meets train_loss 0.1 with no learning rate from .* \(div"
    ):
        tune(Formula(lambda lr: math.inf), configure, 0.1)
    with pytest.raises(NothingWorks, match=r"sgd with batch 8 comes to the end of its budget with no learning rate fr"):
        tune(Formula(lambda lr: math.inf), configure, 0.1, measure=lambda row: 1.0)
