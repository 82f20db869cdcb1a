"""The protocol by which a learning rate is tuned, on runs that a formula stands in for."""

import math
from itertools import pairwise

import pytest

from allgrad.launch.study.lr_tuning import (
    DOUBT,
    FACTOR,
    MOST_DOUBT,
    STEPS_BACK,
    NothingWorks,
    Tuned,
    first_rate,
    run_report_seeds,
    tune,
    tune_batches,
)


@pytest.mark.parametrize(
    "optimizer, at_4, at_64",
    [("sgd", 0.1, 1.6), ("adam", 0.003, 0.012), ("soap", 0.008, 0.032), ("lion", 0.0004, 0.0064),
     ("muon", 0.007, 0.112), ("schedulefree-adamw", 0.008, 0.032), ("schedulefree-sgd", 0.2, 3.2)],
)  # fmt: skip
def test_where_to_look_first(optimizer, at_4, at_64):
    assert [first_rate(optimizer, batch) for batch in (4, 64)] == pytest.approx([at_4, at_64])


class Formula:
    """A laboratory whose runs take steps(lr) and diverge where that is inf; it notes what was asked for."""

    def __init__(self, steps, scatter=0.01):
        self.steps, self.scatter, self.configs = steps, scatter, []

    def run(self, configs, experiment=""):
        self.configs += configs
        return [self.row(config) for config in configs]

    def row(self, config):
        taken = self.steps(config["lr"]) * (1.0 + self.scatter * (config["seed"] % 3))
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
    tuned = tune(Formula(bowl(0.1, stable=0.5)), configure, start)
    assert tuned.lr == pytest.approx(0.1, rel=0.01) and not tuned.at_edge
    rates = sorted(tuned.tried)
    k = min(range(len(rates)), key=lambda k: tuned.tried[rates[k]])
    assert tuned.score == tuned.tried[rates[k]] and 0 < k < len(rates) - 1  # with worse ones on both sides


def test_the_rate_is_the_vertex_of_a_parabola_and_no_grid_point():
    alike = [tune(Formula(bowl(0.1)), configure, 0.1 * FACTOR**offset).lr for offset in (0.0, 0.11, 0.26, 0.4)]
    assert alike == pytest.approx([0.1] * 4, rel=0.01)  # where the nearest rates tried are up to 9 % away


def distances(tuned):
    """Distances between neighbouring rates that were tried, in steps of sqrt 2."""
    pairs = pairwise(sorted(tuned.tried))
    return sorted({round(8.0 * math.log(b / a) / math.log(FACTOR)) / 8.0 for a, b in pairs})


@pytest.mark.parametrize(
    "steps, finest",
    [(lambda lr: 100.0 * (1.0 + 0.01 * math.log(lr / 0.1) ** 2), 0.5),  # not 5 % worse at half a step
     (lambda lr: 100.0 * math.exp(3.0 * math.log(lr / 0.1) ** 2), 0.25),  # 9 % worse at a half, 2 % at a quarter
     (lambda lr: 10.0 / lr if lr < 0.11 else math.inf, 0.125)],  # up to the edge of stability
    ids=["flat", "steep", "up to an edge"],
)  # fmt: skip
def test_rates_get_finer_as_long_as_neighbours_are_worse(steps, finest):
    tuned = tune(Formula(steps), configure, 0.1, report_seeds=())
    assert min(distances(tuned)) == finest
    if finest == 0.125:
        assert 0.11 / FACTOR**0.125 <= tuned.lr < 0.11


def test_rates_that_chance_hides_get_no_finer():
    steep = lambda lr: 100.0 * math.exp(3.0 * math.log(lr / 0.1) ** 2)
    noisy = Formula(steep, scatter=0.3)
    assert min(distances(tune(noisy, configure, 0.1, report_seeds=()))) == 0.5


@pytest.mark.parametrize(
    "steps, doubt",
    [(lambda lr: 100.0, DOUBT), (bowl(0.1), math.log(1.0 + (math.log(FACTOR) / 2.0) ** 2) / 4.0),
     (lambda lr: 10.0 / lr if lr < 0.1001 else math.inf, 0.6 * math.log(FACTOR) / 8.0),
     (lambda lr: 100.0 * (lr / 0.1) ** -14.0 if lr < 0.1001 else math.inf, MOST_DOUBT),
     (lambda lr: 100.0 if abs(lr - 0.1) < 1e-4 else math.inf, MOST_DOUBT)],
    ids=["flat", "bowl", "up to an edge", "cliff", "no neighbour works"],
)  # fmt: skip
def test_the_doubt_is_a_part_of_how_much_worse_the_neighbours_are(steps, doubt):
    assert tune(Formula(steps), configure, 0.1, report_seeds=()).doubt == pytest.approx(doubt, rel=1e-3)


def test_a_cell_with_failed_seeds_says_that_it_decides_nothing():
    rows = [{"status": "ok", "steps_to_target": 9.0}, {"status": "diverged", "steps_to_target": None}]
    (said,) = Tuned(0.1, 9.0, False, {}, 1, rows).remarks("sgd at B = 8")
    assert said.startswith("sgd at B = 8: 1 of 2 fresh seeds failed with the tuned rate (diverged)")
    assert said.endswith("has no interval, and decides nothing.")
    assert Tuned(0.1, 9.0, False, {}, 1, rows[:1]).remarks("here") == []
    assert "a better one may exist" in Tuned(0.1, 9.0, True, {}, 1, rows[:1]).remarks("here")[0]


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


class Unstable(Formula):
    """Fresh seeds, from 100 on, diverge above some rate."""

    def __init__(self, steps, stable):
        super().__init__(steps)
        self.stable = stable

    def row(self, config):
        row = super().row(config)
        if config["seed"] >= 100 and config["lr"] > self.stable:
            row.update(status="diverged", steps_to_target=None)
        return row


def test_a_rate_with_which_a_fresh_seed_fails_is_stepped_back_from_and_said():
    best = tune(Formula(bowl(0.1)), configure, 0.1, report_seeds=())
    below = sorted((rate for rate in best.tried if rate < 0.95 * best.lr), reverse=True)
    for steps, stable in enumerate((1.0, 0.0999, *(rate * 0.999 for rate in below[:1]))):
        lab = Unstable(bowl(0.1), stable)
        tuned = tune(lab, configure, 0.1, report_seeds=(100, 101))
        assert tuned.lr == pytest.approx([best.lr, *below][steps]) and tuned.failures == 0
        assert tuned.failed_rates == pytest.approx([best.lr, *below][:steps])
        assert [c["lr"] for c in lab.configs if c["seed"] == 101] == [*tuned.failed_rates, tuned.lr]
        said = tuned.remarks("sgd at B = 8")
        assert len(said) == (steps > 0)
        if said:
            assert said[0].startswith(f"sgd at B = 8: the rates {best.lr:.3g}") and "a fresh seed failed" in said[0]
            assert f"{tuned.lr:.3g} was taken, the next lower one that worked." in said[0]


def test_rates_that_failed_in_tuning_are_not_stepped_back_to():
    tried = {0.02: 110.0, 0.05: math.inf, 0.1: 100.0}
    tuned = Tuned(0.1, 100.0, False, tried, 9)
    run_report_seeds(Unstable(bowl(0.1), 0.07), configure, tuned, (100, 101))
    assert tuned.lr == 0.02 and tuned.failed_rates == [0.1] and not tuned.failures


def test_after_three_steps_back_the_failures_stay_and_are_said():
    tried = {0.1 / 2.0**k: 100.0 + k for k in range(6)}
    tuned = Tuned(0.1, 100.0, False, tried, 9)
    run_report_seeds(Unstable(bowl(0.1), 0.0), configure, tuned, (100, 101))
    assert tuned.failures == 2 and tuned.failed_rates == [0.1, 0.05, 0.025] and len(tuned.failed_rates) == STEPS_BACK
    (said,) = tuned.remarks("here")
    assert "2 of 2 fresh seeds failed with the tuned rate" in said
    only = Tuned(0.1, 100.0, False, {0.1: 100.0}, 3)  # no lower one
    run_report_seeds(Unstable(bowl(0.1), 0.0), configure, only, (100, 101))
    assert only.lr == 0.1 and only.failures == 2 and only.failed_rates == []


def by_batch(batch, **given):
    return configure(**given) | {"batch": batch}


class Fails(Formula):
    """No rate works with some batch sizes."""

    def __init__(self, *batches):
        super().__init__(bowl(0.1))
        self.batches = batches

    def row(self, config):
        row = super().row(config)
        return row | {"status": "diverged", "steps_to_target": None} if config["batch"] in self.batches else row


@pytest.mark.parametrize("fails", [(4,), (4, 8), (8,), (16,)], ids=str)
def test_batch_sizes_at_which_nothing_works_do_not_end_the_tuning(fails):
    found = tune_batches(Fails(*fails), by_batch, "sgd", [4, 8, 16], 0.1, report_seeds=())
    assert [*found] == [4, 8, 16]
    assert {batch for batch, tuned in found.items() if tuned.why} == {*fails}
    for batch, tuned in found.items():
        assert math.isnan(tuned.lr) if batch in fails else tuned.lr == pytest.approx(0.1, rel=0.02)
        assert ("no learning rate" in tuned.why) == (batch in fails)


def test_a_tuning_in_which_no_batch_size_works_is_refused():
    with pytest.raises(NothingWorks, match="sgd with batch 16 meets"):
        tune_batches(Fails(4, 8, 16), by_batch, "sgd", [4, 8, 16], 0.1, report_seeds=())


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
