"""Runs trained side by side: the bits, the rows and the ledger of runs one by one."""

import math

import pytest

from allgrad.launch.study import Lab, Workload, configuration, runner, together
from allgrad.launch.study.runner import Run
from allgrad.launch.study.together import Stack, likeness

RATES = 0.01, 0.3, 0.05, 0.1


def configs(optimizer="sgd", work=None, **given):
    given = {"batch": 16, "steps": 12, **given}
    return [
        configuration(Workload(**work or {}), optimizer, lr=lr, seed=seed, **given) for seed, lr in enumerate(RATES)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", ["softmax", "mlp:128", "mlp:24,40:relu"])
@pytest.mark.parametrize(
    ("optimizer", "batch"),
    [("sgd", 1), ("adam", 2), ("momentum", 3), ("nesterov", 5), ("lars", 8), ("rmsprop", 31), ("muon", 64)],
)
def test_weights_and_losses_have_the_bits_of_each_run_by_itself(dtype, model, optimizer, batch):
    alike = configs(optimizer, {"model": model, "dtype": dtype}, batch=batch)
    alone, stack = [Run(config) for config in alike], Stack([Run(config) for config in alike])
    assert stack.advance(12) == [run.advance(12) for run in alone]
    for one, other in zip(alone, stack.runs):
        assert one.arena.data.tobytes() == other.arena.data.tobytes() and one.t == other.t == 12


@pytest.mark.parametrize(
    ("first", "given"),
    [(1.0, {"target": 0.3, "sampler": "iid"}), (1e4, {"optimizer": "momentum", "target": 0.3}),
     (1.0, {"target": 0.2, "schedule": "cosine", "metric": "val_accuracy", "weight_decay": 0.01, "steps": 20}),
     (1.0, {"target": 0.3, "trace": True}), (1.0, {"target": 0.3, "schedule": "spiral"})],
    ids=["iid", "one-diverges", "capped", "trace", "errors"],
)  # fmt: skip
def test_rows_are_those_of_each_run_by_itself(first, given):
    alike = configs(**{"steps": None, **given})
    alike[1]["lr"] *= first
    alike[2] |= {"cap": 25, "prune": 9}
    rows = {}
    together.execute(alike, rows.__setitem__)
    alone = [runner.execute(config) for config in alike]
    assert len({*map(likeness, alike)}) == 1 and {*rows} == {*range(len(alike))}
    for k, row in enumerate(alone):
        assert row.pop("wall_s") > 0.0 and rows[k].pop("wall_s") > 0.0
        assert rows[k] == row
    assert ("diverged" in {row["status"] for row in alone}) is (first > 1.0)


def test_a_run_that_cannot_begin_has_its_row_too(monkeypatch):
    alike, rows = configs(), {}
    monkeypatch.setattr(Run, "start", (math.nan, 0.0))
    together.execute(alike, rows.__setitem__)
    assert [rows[k]["status"] for k in range(4)] == ["diverged"] * 4 == [runner.execute(c)["status"] for c in alike]


def test_a_row_comes_when_its_run_has_ended():
    alike = configs(target=0.3, steps=None)
    order = []
    together.execute(alike, lambda k, row: order.append((k, row["steps"])))
    assert [steps for _, steps in order] == sorted(steps for _, steps in order) and order[0][0] == 1


def test_with_other_bits_every_run_is_done_by_itself(monkeypatch):
    alike, rows = configs(target=0.3, steps=None), {}
    honest = Stack._backward

    def other(stack):
        losses = honest(stack)
        for run in stack.runs:
            run.arena.grad *= 1.001
        return losses

    monkeypatch.setattr(Stack, "_backward", other)
    together.execute(alike, rows.__setitem__)
    alone = [runner.execute(config)["steps_to_target"] for config in alike]
    assert [rows[k]["steps_to_target"] for k in range(4)] == alone and None not in alone


@pytest.mark.parametrize(
    ("work", "given"),
    [({"model": "mlp:128:tanh"}, {}), ({"data": "text?context=8", "model": "lstm:8"}, {}), ({"dropout": 0.1}, {}),
     ({"shards": 2}, {}), ({"model": "mlp:4096"}, {}), ({}, {"batch": 1024}), ({}, {"kind": "noise"})],
    ids=["tanh", "text", "dropout", "shards", "large", "batch", "kind"],
)  # fmt: skip
def test_what_is_done_by_itself(work, given):
    assert likeness(configs(work=work, **given)[0]) is None


def test_runs_are_alike_but_for_seed_rate_and_cap():
    one, other = configs()[:2]
    assert likeness(one) == likeness({**other, "cap": 3, "prune": 2}) is not None
    assert likeness(one) != likeness({**one, "batch": 17}) and likeness(one) != likeness({**one, "momentum": 0.5})


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_ledger_has_the_rows_of_single_runs(tmp_path, jobs):
    asked = [*configs(target=0.3, steps=None), *configs(target=0.3, steps=None, batch=512)]
    with Lab(tmp_path, jobs=jobs) as lab:
        rows = lab.run(asked)
        assert lab.done == len(asked) and [row["config"] for row in rows] == asked
    for config, row in zip(asked, rows):
        alone = runner.execute(config)
        alone.pop("wall_s")
        assert {key: row[key] for key in alone} == alone
