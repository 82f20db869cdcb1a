"""One run: what it trains, when it ends, what its row says."""

import math

import numpy as np
import pytest

from allgrad import ddp, nn
from allgrad.launch.data import digits
from allgrad.launch.study import workload
from allgrad.launch.study.ledger import run_id
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


def test_the_name_of_a_run_depends_on_every_number_and_on_no_order():
    config = configuration(DIGITS, "sgd", target=0.3)
    assert run_id(config) == run_id(dict(reversed(config.items())))
    assert len({run_id(configuration(DIGITS, "sgd", target=0.3, seed=seed)) for seed in range(9)}) == 9
    assert run_id(configuration(DIGITS, "momentum", target=0.3)) == run_id(
        configuration(DIGITS, "sgd", target=0.3, momentum=0.9)
    )


def test_label_noise_touches_the_training_labels_only():
    clean, noisy = DIGITS.loaded, Workload(label_noise=0.2).loaded
    share = (clean.train_y != noisy.train_y).mean()
    assert 0.15 < share < 0.2  # a tenth of the labels drawn anew are what they were
    assert (clean.val_y == noisy.val_y).all() and (Workload(label_noise=0.2).loaded.train_y == noisy.train_y).all()


def small(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def test_data_and_models_of_ones_own():
    data = digits.load()
    own = Workload((data.train_x, data.train_y, data.val_x, data.val_y), small)
    assert row(own)["status"] == "ok"
    config = own.config()
    assert config["data"] == "own" and config["data_sha256"] == data.sha256
    assert {*workload.context(config)} == {config["data_sha256"], config["model_sha256"]}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    line = Workload((x, x @ [1.0, 2.0, 3.0], x, x @ [1.0, 2.0, 3.0]), "softmax")
    assert row(line, lr=0.05, target=0.01)["status"] == "ok"
    assert row(line, lr=50.0, target=0.01)["status"] == "diverged"


@pytest.mark.parametrize(
    "given, message",
    [({"optimizer": "sdg"}, "optimizer 'sdg' is not one of adagrad, adam"),
     ({"sampler": "random"}, "sampler 'random' is not one of epoch, once, iid, never"),
     ({"metric": "f1"}, "metric 'f1' is not one of"), ({"target": None}, "needs a target to reach, or a budget"),
     ({"target": math.nan}, "target is a finite number"), ({"eval_ratio": 0.5}, "eval_ratio is at least 1.0, got 0.5"),
     ({"steps": "10epochs"}, "^--steps takes a number of steps, epochs as 10ep or .*, got '10epochs'$"),
     ({"warmup": "-1"}, "^--warmup takes a number of steps, epochs as 10ep or .*, got '-1'$")],
)  # fmt: skip
def test_what_cannot_be_run(given, message):
    with pytest.raises(ddp.ConfigurationError, match=message):
        configuration(DIGITS, given.pop("optimizer", None), **{"target": 0.1, **given})
