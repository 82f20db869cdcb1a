"""The training loop: what it writes, when it stops, and how it goes on from a checkpoint."""

import json
import math

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.autograd.schedule import Plateau
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    Diverged,
    NoiseScale,
    Trainer,
)
from allgrad.ddp.scaling import AdaScale, FollowNoise
from allgrad.ddp.trainer import checkpoint

SAMPLES, BATCH, STEPS = 50, 8, 18  # 7 steps an epoch, the last of 2 samples
X = generator("trainer").standard_normal((SAMPLES, 6)).astype("f4")
LABELS = np.arange(SAMPLES) % 3
VALIDATION = X[:11], LABELS[:11]


class Killed(BaseException):
    """What a signal would do."""


def trainer_of(comm=None, *, shards=3, lr=0.1, kill_at=None, rule=None, noise=True, features=6, **options):
    ag.manual_seed(3)
    model = nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    comm = comm or Communicator()
    parallel = DistributedDataParallel(model, comm, shards, noise=NoiseScale() if noise else None)
    optimizer = (rule or (lambda p: optim.SGD(p, lr, momentum=0.9)))(parallel)
    loader = DataLoader((X, LABELS), BATCH, comm, shards)

    def loss(x, y):
        if trainer.step == kill_at:
            raise Killed
        return ag.cross_entropy(model(x), y)

    def metrics(x, y):
        logits = model(x)
        return {"loss": ag.cross_entropy(logits, y, "none"), "accuracy": logits.argmax(1) == y}

    options = {"steps": STEPS, "log_every": 1, "validation": VALIDATION, **options}
    trainer = Trainer(parallel, optimizer, loader, loss, metrics, **options)
    return trainer


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def untimed(lines):
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


# --- what it writes ----------------------------------------------------------------------------------------------


def test_the_summary_has_what_is_promised(tmp_path):
    config = {"lr": 0.1}
    summary = trainer_of(out=tmp_path, config=config).fit()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    expected = {
        "world_size": 1, "launcher": "solo", "backend": "solo", "arrays": "numpy", "logical_shards": 3,
        "global_batch": BATCH, "steps": STEPS, "epochs": 132 / SAMPLES, "samples_seen": 132, "seed": 0,
        "stopped_early": False, "resumed_at": None, "config": config,
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert len(summary["weights_sha256"]) == 64 and summary["fingerprint"]["blas"]["num_threads"] >= 1
    for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "samples_per_second", "wall_seconds"):
        assert summary[key] > 0.0
    assert summary["noise_scale"] is None or summary["noise_scale"] > 0.0
    last = checkpoint.load_latest(tmp_path / "checkpoints")
    assert last[2]["step"] == STEPS and last[2]["samples_seen"] == 132 and last[2]["config"] == config


def test_without_validation_and_noise_the_summary_says_so(tmp_path):
    summary = trainer_of(out=tmp_path, validation=None, noise=False, steps=3).fit()
    assert [summary[key] for key in ("val_loss", "val_accuracy", "noise_scale")] == [None] * 3
    assert not any("val_loss" in line for line in lines_of(tmp_path))


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trainer_of(checkpoint_every=2).fit()["steps"] == STEPS
    assert list(tmp_path.iterdir()) == []


def test_only_rank_0_writes(tmp_path, simulate):
    simulate(3, lambda comm: trainer_of(comm, out=tmp_path / str(comm.rank)).fit())
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.parametrize("log_every, eval_every", [(1, None), (5, 4), (100, 100)])
def test_lines_are_written_at_the_steps_asked_for(log_every, eval_every, tmp_path):
    trainer_of(out=tmp_path, log_every=log_every, eval_every=eval_every).fit()
    lines = lines_of(tmp_path)
    evaluated = {step for step in range(1, STEPS + 1) if step % (eval_every or 7) == 0 or step == STEPS}
    assert {line["step"] for line in lines if "val_loss" in line} == evaluated
    assert [line["step"] for line in lines] == [
        step for step in range(1, STEPS + 1) if step % log_every == 0 or step in evaluated
    ]
    assert all({"val_loss", "val_accuracy"} <= line.keys() for line in lines if line["step"] in evaluated)


def test_a_line_has_the_mean_over_the_samples_since_the_line_before(tmp_path):
    """Batches of 8 and of 2 samples: the mean weighs samples, not steps."""
    for every in (1, 3):
        trainer_of(out=tmp_path / str(every), log_every=every).fit()
    each, windows = (lines_of(tmp_path / str(every)) for every in (1, 3))
    before = 0
    for line in windows:
        parts = each[before : line["step"]]
        counts = np.diff([0, *(one["samples_seen"] for one in each)])[before : line["step"]]
        mean = math.fsum(one["loss"] * n for one, n in zip(parts, counts, strict=True)) / sum(counts)
        assert math.isclose(line["loss"], mean, rel_tol=1e-12)
        same = ("samples_seen", "epoch", "grad_norm", "noise_scale", "lr")
        assert [line[key] for key in same] == [parts[-1][key] for key in same]
        before = line["step"]
    assert before == STEPS and [line["epoch"] for line in each] == [step // 7 for step in range(STEPS)]
    assert [line["samples_seen"] for line in each[5:9]] == [48, 50, 58, 66]


def test_the_rate_of_a_line_is_that_of_its_step(tmp_path):
    rule = lambda p: optim.SGD(p, lambda step: 0.1 / (1 + step))
    trainer_of(out=tmp_path, rule=rule).fit()
    assert [line["lr"] for line in lines_of(tmp_path)] == [0.1 / (1 + step) for step in range(STEPS)]


def test_clipping_reports_the_norm_before(tmp_path):
    trainer_of(out=tmp_path / "free", steps=1).fit()
    summary = trainer_of(out=tmp_path / "clipped", steps=1, clip=1e-9).fit()
    free, clipped = (lines_of(tmp_path / name)[0]["grad_norm"] for name in ("free", "clipped"))
    assert free == clipped > 1e-3
    start = trainer_of()
    np.testing.assert_allclose(summary["train_loss"], start.evaluate((X, LABELS))["loss"], rtol=1e-6)


def test_clipping_by_value_comes_after_the_norm_is_taken():
    trainer, free = trainer_of(clip_value=1e-3), trainer_of()
    norms = [one._one_step().grad_norm for one in (trainer, free)]
    assert norms[0] == norms[1] > 0.1
    flat = np.clip(free.parallel.arena.grad, -1e-3, 1e-3)
    np.testing.assert_array_equal(trainer.parallel.arena.grad, flat)


# --- plateaus ----------------------------------------------------------------------------------------------------


def plateau_of(out, comm=None, **options):
    rule = lambda p: optim.SGD(p, Plateau(0.5, factor=0.5, patience=0), momentum=0.9)
    return trainer_of(comm, rule=rule, out=out, eval_every=2, **options)


def test_a_plateau_follows_the_validation_loss(tmp_path):
    trainer = plateau_of(tmp_path, steps=9)
    values = iter([5.0, 4.0, 4.0, 3.0, 9.0, 1.0, 1.0])  # after steps 2, 4, 6, 8, at the end, and for the summary
    trainer.evaluate = lambda dataset: {"loss": next(values)}
    trainer.fit()
    assert [line["lr"] for line in lines_of(tmp_path)] == [0.5] * 6 + [0.25] * 3
    saved = checkpoint.load_latest(tmp_path / "checkpoints")[2]["plateau"]
    assert saved == {"scale": 0.5, "best": 3.0, "bad": 0, "cooling": 0}  # the last step lies between evaluations


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_plateau_goes_on_where_it_was(stop, ranks, tmp_path, simulate):
    whole = plateau_of(tmp_path / "whole").fit()
    plateau_of(tmp_path / "out", steps=stop).fit()

    def go_on(comm):
        trainer = plateau_of(tmp_path / "out", comm, resumes=True)
        trainer.restore(checkpoint.load_latest(tmp_path / "out" / "checkpoints"))
        return trainer.fit()

    assert {summary["weights_sha256"] for summary in simulate(ranks, go_on)} == {whole["weights_sha256"]}
    rates = [line["lr"] for line in lines_of(tmp_path / "whole")]
    assert [line["lr"] for line in lines_of(tmp_path / "out")] == rates and len({*rates}) > 1


def test_a_plateau_needs_a_validation_set(tmp_path):
    with pytest.raises(ConfigurationError, match="a Plateau follows the validation loss: give the trainer a validatio"):
        plateau_of(tmp_path, validation=None)


# --- when it stops -----------------------------------------------------------------------------------------------


def test_patience_stops_after_so_many_evaluations_without_a_better_one(tmp_path):
    trainer = trainer_of(out=tmp_path, patience=3, eval_every=2, steps=100)
    values = iter([5.0, 4.0, 4.0, 3.0, 3.5, 3.0, 7.0, 1.0, 1.0])
    trainer.evaluate = lambda dataset: {"loss": next(values)}
    summary = trainer.fit()
    assert summary["steps"] == 14 and summary["stopped_early"]
    assert summary["best"] == {"val_loss": 3.0, "step": 8, "evaluations_since": 3}
    assert checkpoint.load_latest(tmp_path / "checkpoints")[2]["step"] == 14


def test_a_run_that_has_stopped_early_stays_stopped(tmp_path):
    first = trainer_of(out=tmp_path, patience=1, eval_every=1, lr=0.0).fit()
    assert first["stopped_early"] and first["steps"] == 2
    again = trainer_of(out=tmp_path, patience=1, eval_every=1, lr=0.0)
    again.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
    summary = again.fit()
    assert summary["stopped_early"] and summary["steps"] == 2
    assert summary["weights_sha256"] == first["weights_sha256"]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("lr", [1e30, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_what_was_written(lr, tmp_path):
    trainer = trainer_of(out=tmp_path, lr=lr, checkpoint_every=1, rule=lambda p: optim.SGD(p, lambda step: lr * step))
    with pytest.raises(Diverged, match=r"at step [1-4] with learning rate .*: lower lr, or give clip or warmup"):
        trainer.fit()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, trainer.step + 1)) and lines
    assert checkpoint.load_latest(tmp_path / "checkpoints")[2]["step"] == trainer.step
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_gradient_that_is_not_finite_ends_the_run_too():
    trainer = trainer_of()
    trainer.loss = lambda x, y: ag.sqrt((trainer.model(x) * 0.0).sum())
    with pytest.raises(Diverged, match="the loss is 0 and its gradient's norm nan at step 0"):
        trainer.fit()


def test_every_rank_diverges_at_the_same_step(simulate):
    def run(comm):
        with pytest.raises(Diverged) as caught:
            trainer_of(comm, rule=lambda p: optim.SGD(p, lambda step: 1e15)).fit()
        return str(caught.value)

    with np.errstate(all="ignore"):
        assert len({*simulate(3, run)}) == 1


# --- how it goes on ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    return trainer_of(out=out, eval_every=4).fit()["weights_sha256"], untimed(lines_of(out))


@pytest.mark.parametrize("point", [1, 3, 6, 7, 8, 16])  # mid-epoch, before its end, at its end, just after
@pytest.mark.parametrize("ranks", [1, 3])
def test_going_on_gives_the_run_that_was_never_killed(point, ranks, undisturbed, tmp_path, simulate):
    kill_at = min(2 * point - 1, point + 2, STEPS - 1)
    with pytest.raises(Killed):
        trainer_of(out=tmp_path, eval_every=4, checkpoint_every=point, kill_at=kill_at).fit()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # the process died while writing

    def go_on(comm):
        trainer = trainer_of(comm, out=tmp_path, eval_every=4)
        trainer.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
        assert trainer.step == point
        return trainer.fit()

    for summary in simulate(ranks, go_on):
        assert (summary["weights_sha256"], summary["resumed_at"]) == (undisturbed[0], point)
    assert untimed(lines_of(tmp_path)) == undisturbed[1]


def test_going_on_from_the_end_changes_nothing(undisturbed, tmp_path):
    trainer_of(out=tmp_path, eval_every=4).fit()
    trainer = trainer_of(out=tmp_path, eval_every=4)
    trainer.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
    summary = trainer.fit()
    assert summary["weights_sha256"] == undisturbed[0] and untimed(lines_of(tmp_path)) == undisturbed[1]
    assert summary["samples_per_second"] is None


def test_a_disk_that_refuses_does_not_stop_the_training(undisturbed, tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError("No space left on device")

    trainer = trainer_of(out=tmp_path, eval_every=4, checkpoint_every=3)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", refuse)
        with pytest.raises(ConfigurationError, match=r"final weights are lost: .*No space left on device"):
            trainer.fit()
    told = capsys.readouterr().err.splitlines()
    assert told == [f"checkpoint of step {s} not written: No space left on device" for s in (3, 6, 9, 12, 15, STEPS)]
    assert untimed(lines_of(tmp_path)) == undisturbed[1] and (tmp_path / "summary.json").exists()
    assert trainer.parallel.arena.sha256() == undisturbed[0]


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path, simulate):
    trainer_of(out=tmp_path, steps=2).fit()
    before = lines_of(tmp_path)

    def start(comm):
        with pytest.raises(ConfigurationError, match="holds checkpoints of another run: give a new directory"):
            trainer_of(comm, out=tmp_path).fit()

    simulate(2, start)
    assert lines_of(tmp_path) == before


@pytest.mark.parametrize("other", [{"features": 5}, {"rule": lambda p: optim.Adam(p, 0.1)}])
def test_a_checkpoint_of_another_model_or_optimizer_is_refused(other, tmp_path):
    trainer_of(out=tmp_path, steps=2).fit()
    trainer = trainer_of(**other)
    with pytest.raises(ConfigurationError, match=r"checkpoint is that of another model or optimizer: .* (shape|state)"):
        trainer.restore(checkpoint.load_latest(tmp_path / "checkpoints"))


@pytest.mark.parametrize("first, second", [(True, False), (False, True)])
def test_the_noise_scale_may_be_asked_for_on_the_way(first, second, tmp_path):
    trainer_of(out=tmp_path, steps=2, noise=first).fit()
    trainer = trainer_of(noise=second)
    trainer.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
    assert trainer.fit()["steps"] == STEPS


# --- what follows the noise scale ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [True, False])
def test_gains_and_batches_that_follow_the_noise_scale_do_not_depend_on_the_ranks(gain, simulate, tmp_path):
    def rule(parallel):
        return optim.SGD(parallel, AdaScale(0.1, base=3, total=14) if gain else 0.1)

    follow = {} if gain else {"batches": FollowNoise("0.2", 3, 30, price=2.0), "steps": None, "epochs": 3}

    def train(comm):
        trainer = trainer_of(comm, rule=rule, out=tmp_path / f"{comm.size}", **follow)
        summary = trainer.fit()
        return summary["weights_sha256"], summary["steps"], summary["noise_scale"]

    results = [result for ranks in (1, 2, 3) for result in simulate(ranks, train)]
    assert all(result == results[0] for result in results)
    lines = lines_of(tmp_path / "1")
    assert len({line["gain" if gain else "batch"] for line in lines}) > 2
    assert lines[-1]["samples_seen"] == 3 * SAMPLES or gain


def test_what_follows_the_noise_scale_needs_one():
    with pytest.raises(ConfigurationError, match="AdaScale and FollowNoise follow the noise scale: give the model a"):
        trainer_of(noise=False, batches=FollowNoise(1, 3, 30))


# --- how often and how long ----------------------------------------------------------------------------------------


def test_zero_is_never_but_at_the_end(tmp_path):
    every = dict.fromkeys(("log_every", "eval_every", "checkpoint_every", "check_every"), 0)
    trainer_of(out=tmp_path, **every).fit()
    (line,) = lines_of(tmp_path)
    assert line["step"] == STEPS and "val_loss" in line
    (saved,) = checkpoint.steps_in(tmp_path / "checkpoints")
    assert saved.name.endswith(str(STEPS))
    trainer_of(out=tmp_path / "evaluated", **{**every, "eval_every": 7}).fit()
    assert [line["step"] for line in lines_of(tmp_path / "evaluated")] == [7, 14, STEPS]


@pytest.mark.parametrize(("given", "text"), [
    ({"steps": None}, "a run has a length: give steps or epochs"),
    ({"steps": -1}, "steps is at least 0, got -1"),
    ({"steps": None, "epochs": -0.5}, "epochs is at least 0, got -0.5"),
    ({"log_every": -1}, "log_every is at least 0, got -1"),
    ({"patience": 0}, "patience is at least 1, got 0"),
])  # fmt: skip
def test_a_run_without_sense_is_refused(given, text):
    with pytest.raises(ConfigurationError, match=text):
        trainer_of(**given)


def test_metrics_without_a_loss_are_refused():
    trainer = trainer_of(steps=1)
    trainer.metrics = lambda x, y: {"accuracy": trainer.model(x).argmax(1) == y}
    with pytest.raises(
        ConfigurationError, match=r"metrics return a loss among others, got val_accuracy: name it 'loss'"
    ):
        trainer.fit()
