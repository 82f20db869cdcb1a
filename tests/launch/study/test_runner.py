"""One run: what it trains, when it ends, what its row says."""

import math
import re
import tempfile

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn
from allgrad.autograd.random import generator
from allgrad.ddp.parallel import shard_gradients
from allgrad.launch.study import Lab, fit, outlook
from allgrad.launch.study.experiments import tune
from allgrad.launch.study.runner import Run, configuration, execute, to_target
from allgrad.launch.study.workload import Workload

DIGITS = Workload()


def row(work=DIGITS, **given):
    return execute(configuration(work, given.pop("optimizer", "sgd"), **{"target": 0.3, "lr": 0.5, **given}))


def test_a_run_is_that_of_the_trainer():
    config = configuration(DIGITS, "momentum", lr=0.05, batch=48, steps=40, seed=3)
    found = execute(config)
    data, model = DIGITS.loaded, DIGITS.build(3)
    parallel = ddp.DistributedDataParallel(model)
    from allgrad import cross_entropy, optim

    loader = ddp.DataLoader((data.train_x, data.train_y), 48, seed=3, boundary="carry")
    metrics = lambda x, y: {"loss": cross_entropy(model(x), y, "none")}
    trainer = ddp.Trainer(
        parallel, optim.SGD(parallel, 0.05, momentum=0.9), loader, lambda x, y: cross_entropy(model(x), y), metrics,
        validation=(data.val_x, data.val_y), steps=40,
    )  # fmt: skip
    summary = trainer.fit()
    assert found["status"] == "ok" and found["steps"] == 40 and found["examples"] == 40 * 48
    assert found["final_train_loss"] == pytest.approx(summary["train_loss"], rel=1e-6)
    assert found["final_val_loss"] == pytest.approx(summary["val_loss"], rel=1e-6)


@pytest.mark.parametrize("optimizer, lr", [("schedulefree-adamw", 0.03), ("schedulefree-sgd", 2.0)])
def test_a_schedule_free_rule_is_judged_by_its_average_and_looking_changes_nothing(optimizer, lr):
    losses = []
    for often in (True, False):
        run = Run(configuration(DIGITS, optimizer, lr=lr, steps=20, seed=1))
        assert run.start[0] > 2.0
        for run.t in range(20):
            run.step()
            if often:
                before = run.arena.sha256()
                run.evaluate()
                assert run.arena.sha256() == before
        losses.append(run.evaluate()["loss"])
        run.optimizer.eval()
        assert run.evaluate()["loss"] == losses[-1] < 1.0
    assert losses[0] == losses[1]


def test_the_target_is_met_between_two_evaluations():
    found = row(trace=True)
    t, losses = found["trace"]["step"], found["trace"]["train_loss"]
    k = next(k for k, loss in enumerate(losses) if loss <= 0.3)
    assert k == len(losses) - 1 and t[k - 1] <= found["steps_to_target"] <= t[k] == found["steps"]
    assert found["status"] == "ok" and found["censored_at"] is None and found["n_evals"] == len(t)
    later = row(trace=True, sustain=3)
    assert later["n_evals"] == found["n_evals"] + 2 and later["steps_to_target"] == found["steps_to_target"]
    accuracy = row(metric="val_accuracy", target=0.9)
    assert accuracy["status"] == "ok" and accuracy["final_val_accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("share", "given"),
    [(0.6, {"target": 0.1, "batch": 16}), (0.6, {"target": 0.1, "batch": 16, "optimizer": "adam", "lr": 0.004}),
     (0.9, {"metric": "val_loss", "target": 0.2, "lr": 0.05}),
     (0.9, {"metric": "val_accuracy", "target": 0.95, "lr": 0.05}),
     (0.7, {"target": 0.1, "cap": 40})],
    ids=["sgd", "adam", "val_loss", "val_accuracy", "capped"],
)  # fmt: skip
def test_most_points_are_passed_over_and_the_row_is_the_same(share, given):
    sparse, dense = row(**given), row(**given, trace=True)
    assert sparse.pop("n_evals") < share * dense.pop("n_evals")
    for key in ("trace", "wall_s"):
        dense.pop(key), sparse.pop(key, None)
    assert sparse == dense


@pytest.mark.parametrize("metric", ["train_loss", "val_loss", "train_accuracy", "val_accuracy"])
@pytest.mark.parametrize("optimizer", ["sgd", "schedulefree-sgd"])
def test_a_few_samples_say_what_a_metric_is_not_below(metric, optimizer):
    run = Run(configuration(DIGITS, optimizer, lr=0.1, steps=60, seed=1))
    part, _, name = metric.partition("_")
    assert run.least(metric) is None
    run.advance(20)
    run.evaluate(part)
    run.advance(30)
    before, least, found = run.arena.sha256(), run.least(metric), run.evaluate(part)[name]
    value = 1.0 - found if name == "accuracy" else found
    assert 0.4 * value < least < value and run.arena.sha256() == before
    assert least <= run.least(metric) * 1.001 and run.least(metric) <= value  # of the samples that are hardest by now


def test_training_goes_on_from_where_it_was_after_a_search_in_vain():
    losses = []
    for searches in (True, False):
        run = Run(configuration(DIGITS, "schedulefree-sgd", lr=2.0, steps=60, seed=1))
        assert run.start[0] > 2.0
        run.advance(10)
        kept = run.t, run.weights()
        run.advance(20)
        if searches:
            falling = lambda run=run: run.evaluate()["loss"]
            assert outlook.first_crossing(run, (0, 2.5, None), [kept], (20, falling()), 0.0, falling, True) is None
        losses.append((run.advance(30), run.t, run.evaluate()["loss"]))
    assert losses[0] == losses[1]


class Scripted(Run):
    """A run whose batches have a loss of 10, and whose metric is told by the step that its weights are of."""

    script: dict

    def step(self):
        self.arena.data[...] = self.t + 1
        return 0.2 if self.t + 1 >= self.script["near"] else 10.0

    def evaluate(self, part="train"):
        t = int(self.arena.data[0])
        return {"loss": self.script.get(t, 1.0 if t < self.script["met"] else 0.01)}

    start = (10.0, 0.0)


@pytest.mark.parametrize(
    "script, at",
    [({"met": 7, "near": 99}, 7), ({"met": 12, "near": 14}, 12), ({"met": 30, "near": 20}, 31),
     ({"met": 30, "near": 99, 5: 0.5, 16: 0.05, 20: 0.08}, 31),
     ({"met": 30, "near": 99, 1: 0.12, 16: 0.05, 21: 0.2}, 16),
     ({"met": 1000, "near": 10, 12: 0.05}, 12)],
    ids=["passed", "a-little", "not-passed", "falls-on", "back-after-a-rise", "seen"],
)  # fmt: skip
def test_the_search_goes_back_over_points_that_were_passed(script, at):
    config = configuration(DIGITS, "sgd", target=0.1, batch=256)
    run = Scripted(config)
    run.arena.data[...] = 0.0
    run.script = script
    found = to_target(run)
    points = [0]
    while points[-1] < at:
        points.append(fit.eval_steps(points[-1]))
    assert found["status"] == "ok" and found["steps"] == run.t == at == int(run.arena.data[0])
    assert points[-2] < found["steps_to_target"] <= at
    assert found["n_evals"] <= 20


def test_no_more_weights_are_kept_than_there_is_room_for(monkeypatch):
    config = configuration(DIGITS, "sgd", target=0.1, batch=256)
    kept = []
    for room in (outlook.KEPT_BYTES, 0):
        monkeypatch.setattr(outlook, "KEPT_BYTES", room)
        run = Scripted(config)
        run.arena.data[...], run.script = 0.0, {"met": 70, "near": 99}
        run.weights = lambda run=run, weights=run.weights: kept.append(run.t) or weights()
        kept.clear()
        found = to_target(run)
        assert found["steps"] == 70 and len(kept) == (1 if room == 0 else 45)


@pytest.mark.parametrize(
    ("work", "given"),
    [({}, {}), ({"dtype": "float64"}, {"optimizer": "adam", "batch": 5}), ({"shards": 2}, {}), ({"dropout": 0.2}, {}),
     ({"model": "cnn"}, {"batch": 8}), ({"data": "text?context=8", "model": "lstm:8"}, {"batch": 4})],
    ids=["sgd", "adam", "shards", "dropout", "statistics", "text"],
)  # fmt: skip
def test_captured_steps_have_the_same_bits(monkeypatch, work, given):
    config = configuration(Workload(**work), given.pop("optimizer", "sgd"), lr=0.01, steps=30, **given)
    plain = Run(config)
    losses = plain.advance(30)
    monkeypatch.setattr(shard_gradients, "AFTER", 5)
    run = Run(config)
    assert run.advance(30) == losses and run.arena.data.tobytes() == plain.arena.data.tobytes()
    assert run.parallel.shard_gradients.captured


def test_what_cannot_be_captured_is_computed_itself(monkeypatch):
    config = configuration(DIGITS, "sgd", lr=0.01, steps=9)
    losses = Run(config).advance(9)
    monkeypatch.setattr(shard_gradients, "AFTER", 5)
    run = Run(config)
    loss, run.loss = run.loss, lambda x, y: loss(x, y) * float(ag.relu(run.model(x)).sum() * 0.0 + 1.0)
    assert run.advance(9) == losses and run.parallel.shard_gradients.capture == "off"
    run.loss = lambda x, y: exec("raise RuntimeError('its own')")
    with pytest.raises(RuntimeError, match="its own"):
        run.advance(10)


class Normalized(nn.Module):
    def __init__(self, inputs, outputs):
        self.norm, self.fc = nn.BatchNorm1d(inputs), nn.Linear(inputs, outputs)

    def __call__(self, x):
        return self.fc(self.norm(x))


def test_running_statistics_go_back_too():
    run = Run(configuration(Workload(model=Normalized), "sgd", lr=0.1, steps=20))
    run.advance(3)
    before, weights = run.evaluate(), run.weights()
    run.advance(9)
    assert run.t == 9 and run.evaluate() != before
    run.go_back(3, weights)
    assert run.t == 3 and run.evaluate() == before


@pytest.mark.parametrize(
    "given, status, at",
    [({"lr": 1e6}, "diverged", None), ({"cap": 3}, "capped", 3), ({"prune": 3, "cap": 9}, "pruned", 3),
     ({"steps": 3}, "capped", 3), ({"steps": "128samples", "target": None}, "ok", None)],
)  # fmt: skip
def test_how_runs_end(given, status, at):
    found = row(**given)
    assert found["status"] == status and found["steps_to_target"] is None
    assert at is None or found["censored_at"] == at
    assert not any(isinstance(v, float) and not math.isfinite(v) for v in found.values())


def test_what_an_exception_says_becomes_a_row():
    found = row(schedule="spiral")
    assert found["status"] == "error" and found["error"].startswith("ConfigurationError: --schedule spiral is not")


def test_a_kind_of_run_changes_what_it_has_to():
    class Slow(Run):
        def learning_rate(self):
            return lambda step: 0.0

    config = configuration(DIGITS, "sgd", steps=5)
    seen = []
    found = to_target(Slow(config), lambda run: seen.append(run.t) or run.examples)
    assert found["final_train_loss"] == found["initial_train_loss"]
    assert seen == [0, 1, 2, 3, 4, 5] and found["probes"] == [64 * t for t in seen]


def test_shards_of_one_process_are_those_of_ranks():
    one, two = (row(Workload(dtype="float64", shards=shards)) for shards in (1, 2))
    assert two["steps_to_target"] == pytest.approx(one["steps_to_target"], rel=1e-9)


@pytest.mark.parametrize(
    "given, message",
    [({"optimizer": "sdg"}, "optimizer 'sdg' is not one of adadelta, adagrad, adam"),
     ({"sampler": "random"}, "sampler 'random' is not one of epoch, once, iid, never"),
     ({"metric": "f1"}, "metric 'f1' is not one of"), ({"target": None}, "needs a target to reach, or a budget"),
     ({"target": math.nan}, "target is a finite number"), ({"eval_ratio": 0.5}, "eval_ratio is at least 1.0, got 0.5"),
     ({"steps": "10epochs"}, "^--steps takes a number of steps, epochs as 10ep or .*, got '10epochs'$"),
     ({"warmup": "-1"}, "^--warmup takes a number of steps, epochs as 10ep or .*, got '-1'$")],
)  # fmt: skip
def test_what_cannot_be_run(given, message):
    with pytest.raises(ddp.ConfigurationError, match=message):
        configuration(DIGITS, given.pop("optimizer", None), **{"target": 0.1, **given})


class Gaussian(nn.Module):
    """A regression whose loss is a log-likelihood: of any sign."""

    def __init__(self, inputs, outputs):
        self.fc, self.log_deviation = nn.Linear(inputs, outputs), nn.Parameter(np.array(-1.0))

    def __call__(self, x):
        return self.fc(x)


def likelihood(unit, shift):
    def objective(model, data):
        def losses(x, y):
            z = (model(x) - y) * ag.exp(-model.log_deviation)
            return ((z * z * 0.5 + model.log_deviation).reshape(len(x)) + shift) * unit

        return lambda x, y: losses(x, y).mean(), lambda x, y: {"loss": losses(x, y)}

    return objective


X = generator("likelihood").standard_normal((256, 3)).astype("f4")
Y = (X @ np.array([[1.0], [2.0], [3.0]], "f4")).astype("f4")
DATA = X[:200], Y[:200], X[200:], Y[200:]


@pytest.mark.parametrize(("unit", "shift"), [(1.0, 0.0), (1.0, -100.0), (1.0, -61.5), (1e3, -61.5), (1e-4, 50.0)])
def test_neither_sign_nor_unit_of_a_loss_makes_a_run_diverge(unit, shift):
    work = Workload(DATA, Gaussian, objective=likelihood(unit, shift))
    found = execute(configuration(work, "adam", lr=0.01, batch=50, steps=100))
    assert found["status"] == "ok" and found["steps"] == 100
    run = Run(configuration(work, "adam", lr=0.01, batch=50, steps=100))
    first, spread = run.start
    assert not run.diverged(first + 10.0 * spread) and run.diverged(first + 25.0 * max(spread, abs(first)))
    assert run.diverged(math.inf) and run.diverged(math.nan)


def test_trials_are_ranked_by_losses_below_zero():
    work = Workload(DATA, Gaussian, objective=likelihood(1.0, -100.0))
    with tempfile.TemporaryDirectory() as directory, Lab(directory, jobs=1) as lab:
        found = tune.run(
            lab,
            work,
            space={"lr": "log:1e-4..1e-1", "optimizer": "sgd,adam"},
            trials=8,
            steps=20,
            report_seeds=(100, 101),
        )
    losses = [(row["rank"], row["val_loss"]) for row in found.tables[0].rows if row["rank"]]
    assert len({loss for _, loss in losses}) == 8 and [loss for _, loss in sorted(losses)] == sorted(
        x for _, x in losses
    )
    assert "ln(" not in found.headline and found.claims == []
    for line in found.findings[:5]:  # differences, and no ratios
        assert (
            re.search(r"val loss -[\d.]+ \[.*\], [\d.]+ \[.*\] (more|less) than the winner", line) and "%" not in line
        )
    for figure in found.figures:
        figure.draw()
