"""Callbacks: when they are called, what they may do, and that their state survives a checkpoint."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Callback, Communicator, ConfigurationError
from allgrad.ddp.comm import VARIABLES
from allgrad.ddp.trainer import checkpoint
from allgrad.launch.launchers import command

SAMPLES, BATCH, STEPS = 54, 8, 18  # 7 steps an epoch, the last of 6 samples
X = generator("callbacks").standard_normal((SAMPLES, 6)).astype("f4")
LABELS = np.arange(SAMPLES) % 3


def trainer_of(comm=None, *callbacks, shards=3, rule=None, sync_every=None, **options):
    ag.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    comm = comm or Communicator()
    parallel = ddp.DistributedDataParallel(model, comm, shards, sync_every=sync_every)
    loader = ddp.DataLoader((X, LABELS), BATCH, comm, shards, boundary="carry" if sync_every else "short")
    optimizer = (rule or (lambda p: optim.SGD(p, 0.1, momentum=0.9)))(parallel)
    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    options = {"steps": STEPS, "log_every": 1, "validation": (X[:11], LABELS[:11]), **options}
    loss = lambda x, y: ag.cross_entropy(model(x), y)
    return ddp.Trainer(parallel, optimizer, loader, loss, metrics, callbacks=callbacks, **options)


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def restored(trainer, out):
    trainer.resumes = True
    trainer.restore(checkpoint.load_latest(out / "checkpoints"))
    return trainer


class WeightAverage(Callback):
    """An exponential moving average of everything in the state dict, as a user would write it."""

    name = "ema"

    def __init__(self):
        self.mean: dict = {}
        self.since = []

    def on_start(self, trainer):
        self.mean = self.mean or trainer.model.state_dict()

    def on_step(self, trainer, step):
        for name, now in trainer.model.state_dict().items():
            self.mean[name] = np.asarray(0.9 * self.mean[name] + 0.1 * now)
        self.since.append(step.step)

    def state_dict(self):
        return {"mean": self.mean, "since": self.since}

    def load_state_dict(self, state):
        self.mean, self.since = state["mean"], state["since"]

    def bits(self):
        return {name: (a.dtype, a.shape, a.tobytes()) for name, a in self.mean.items()}


class Stop(Callback):
    def __init__(self, at):
        self.at = at

    def on_step(self, trainer, step):
        trainer.should_stop = step.step == self.at


class Events(Callback):
    """Takes note of all calls."""

    def __init__(self):
        self.seen = []

    def on_start(self, trainer):
        self.seen.append(("start", trainer.step))

    def on_gradient(self, trainer, batch):
        self.seen.append(("gradient", trainer.step, batch.step, batch.size))

    def on_step(self, trainer, step):
        self.seen.append(("step", trainer.step, step.step))

    def on_evaluation(self, trainer, values):
        self.seen.append(("evaluation", trainer.step, values))

    def on_checkpoint(self, trainer, path):
        trainer.writer.wait()
        self.seen.append(("checkpoint", trainer.step, path))
        if trainer.comm.rank == 0:
            assert path.is_dir()


# --- when they are called ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_is_called_when_it_says(ranks, simulate, tmp_path):
    def run(comm):
        events = Events()
        trainer_of(comm, events, steps=9, eval_every=4, checkpoint_every=5, out=tmp_path).fit()
        return events.seen

    found = simulate(ranks, run)
    losses = {line["step"]: line["val_loss"] for line in lines_of(tmp_path) if "val_loss" in line}
    assert [*losses] == [4, 8, 9]  # the last one lies between two that a longer run would have, and is not told
    expected: list = [("start", 0)]
    for step in range(1, 10):
        expected += [("gradient", step - 1, step - 1, 6 if step == 7 else 8), ("step", step, step)]
        if step in (4, 8):
            expected.append(("evaluation", step, {"val_loss": losses[step]}))
        if step in (5, 9):
            expected.append(("checkpoint", step, tmp_path / "checkpoints" / f"step-0000000{step}"))
    assert found == [expected] * ranks


def test_nothing_is_told_of_checkpoints_and_evaluations_that_are_not_there():
    events = Events()
    trainer_of(None, events, steps=8, checkpoint_every=2, eval_every=2, validation=None).fit()
    assert {event[0] for event in events.seen} == {"start", "gradient", "step"}


def test_a_run_that_goes_on_starts_where_it_was(tmp_path):
    trainer_of(None, steps=4, out=tmp_path).fit()
    events = Events()
    restored(trainer_of(None, events, steps=5, out=tmp_path), tmp_path).fit()
    assert [event[:2] for event in events.seen[:3]] == [("start", 4), ("gradient", 4), ("step", 5)]


def test_a_step_is_told_as_it_was(tmp_path):
    records = []

    class Keep(Callback):
        def on_step(self, trainer, step):
            records.append(step)

    rule = lambda p: optim.SGD(p, lambda step: 0.1 / (1 + step))
    trainer = trainer_of(None, Keep(), rule=rule, out=tmp_path, clip=1e-3)
    trainer.fit()
    lines = lines_of(tmp_path)
    same = ("step", "loss", "grad_norm", "lr", "samples_seen")
    for line, step in zip(lines, records, strict=True):
        assert {key: line[key] for key in same} == {key: getattr(step, key) for key in same}
        assert step.finite and step.seconds > 0.0 and line["samples_per_second"] == step.samples / step.seconds
    assert [step.samples for step in records[5:8]] == [8, 6, 8] and math.fsum(s.seconds for s in records) > 0.0
    with pytest.raises(AttributeError):
        records[0].loss = 0.0


def test_a_skipped_step_is_told_as_one():
    finite = []

    class Keep(Callback):
        def on_step(self, trainer, step):
            finite.append((step.finite, trainer.skips.count))

    trainer = trainer_of(None, Keep(), steps=4, on_nonfinite="skip")
    loss = trainer.loss
    trainer.loss = lambda x, y: loss(x, y) * (math.nan if trainer.step == 2 else 1.0)
    with np.errstate(all="ignore"):
        assert trainer.fit()["skipped_steps"] == 1
    assert finite == [(True, 0), (True, 0), (False, 1), (True, 1)]


# --- what they may do --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed():
    average = WeightAverage()
    summary = trainer_of(None, average).fit()
    return summary["weights_sha256"], average.bits()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_average_of_weights_has_the_same_bits_on_any_number_of_ranks(ranks, simulate, undisturbed):
    def run(comm):
        average = WeightAverage()
        return trainer_of(comm, average).fit()["weights_sha256"], average.bits()

    assert simulate(ranks, run) == [undisturbed] * ranks
    assert trainer_of().fit()["weights_sha256"] == undisturbed[0]


class Killed(BaseException):
    """What a signal would do."""


class Kill(Stop):
    def on_step(self, trainer, step):
        if step.step == self.at:
            raise Killed


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_average_of_weights_survives_a_kill(ranks, simulate, undisturbed, tmp_path):
    with pytest.raises(Killed):
        trainer_of(None, WeightAverage(), Kill(12), checkpoint_every=5, out=tmp_path).fit()

    def go_on(comm):
        average = WeightAverage()
        trainer = restored(trainer_of(comm, average, out=tmp_path), tmp_path)
        assert trainer.step == 10
        sha256 = trainer.fit()["weights_sha256"]
        assert average.since == [*range(1, STEPS + 1)]
        return sha256, average.bits()

    assert simulate(ranks, go_on) == [undisturbed] * ranks


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_callback_ends_all_ranks_at_the_same_step(ranks, simulate, tmp_path):
    whole = trainer_of(None, steps=5).fit()["weights_sha256"]
    summaries = simulate(ranks, lambda comm: trainer_of(comm, Stop(5), out=tmp_path, log_every=3).fit())
    for summary in summaries:
        assert (summary["steps"], summary["stopped_early"], summary["weights_sha256"]) == (5, True, whole)
    assert [line["step"] for line in lines_of(tmp_path)] == [3, 5]
    assert checkpoint.load_latest(tmp_path / "checkpoints")[2]["step"] == 5
    again = restored(trainer_of(None, out=tmp_path), tmp_path).fit()
    assert again["steps"] == STEPS and not again["stopped_early"]


def test_an_evaluation_may_end_the_run():
    class BelowTwo(Callback):
        def on_evaluation(self, trainer, values):
            trainer.should_stop = values["val_loss"] < 2.0

    trainer = trainer_of(None, BelowTwo(), eval_every=2)
    values = iter([3.0, 2.0, 1.0, 1.0, 1.0])
    trainer.evaluate = lambda dataset: {"loss": next(values)}
    assert trainer.fit()["steps"] == 6


def test_the_best_weights_can_be_kept():
    class Best(Callback):
        loss, weights = math.inf, {}

        def on_evaluation(self, trainer, values):
            if values["val_loss"] < self.loss:
                self.loss, self.weights = values["val_loss"], trainer.model.state_dict()

    best = Best()
    trainer = trainer_of(None, best, eval_every=1, rule=lambda p: optim.SGD(p, 2.0))
    summary = trainer.fit()
    assert summary["val_loss"] > best.loss == summary["best"]["val_loss"]
    trainer.model.load_state_dict(best.weights)
    assert trainer.evaluate(trainer.validation)["loss"] == best.loss


def test_gradients_may_be_changed_before_the_step(simulate):
    class Halve(Callback):
        def on_gradient(self, trainer, batch):
            for p in trainer.model.parameters():
                p.grad[...] *= 0.5

    rate = lambda lr: lambda parallel: optim.SGD(parallel, lr)
    plain = trainer_of(None, rule=rate(0.125)).fit()["weights_sha256"]
    halved = simulate(2, lambda comm: trainer_of(comm, Halve(), rule=rate(0.25)).fit()["weights_sha256"])
    assert halved == [plain, plain]  # a power of two changes no bits


def test_evaluating_between_local_steps_changes_nothing_and_shows_the_mean(simulate):
    class Look(Callback):
        def __init__(self):
            self.seen = []

        def on_step(self, trainer, step):
            self.seen.append((trainer.evaluate(trainer.validation)["loss"], trainer.parallel.arena.sha256()))

    def run(comm, *callbacks):
        return trainer_of(comm, *callbacks, shards=2, sync_every=4).fit()["weights_sha256"]

    def look(comm):
        callback = Look()
        return run(comm, callback), callback.seen

    plain = simulate(2, run)
    (one, seen), other = simulate(2, look)
    assert plain == [one, one] and other == (one, seen) and len({*seen}) == STEPS


# --- numbers for metrics.jsonl -----------------------------------------------------------------------------------


def test_numbers_of_callbacks_stand_in_the_next_line(tmp_path):
    class Log(Callback):
        def on_start(self, trainer):
            trainer.log({"start": 7})

        def on_step(self, trainer, step):
            trainer.log({"twice": np.float32(2 * step.step), "odd": math.inf if step.step % 2 else 1})

        def on_evaluation(self, trainer, values):
            trainer.log({"val_loss_twice": ag.tensor(2 * values["val_loss"])})

    trainer_of(None, Log(), steps=8, log_every=3, eval_every=4, out=tmp_path).fit()
    plain = trainer_of(None, steps=8, log_every=3, eval_every=4, out=tmp_path / "plain")
    plain.fit()
    lines, others = lines_of(tmp_path), lines_of(tmp_path / "plain")
    assert [line["step"] for line in lines] == [3, 4, 6, 8]
    assert [line["twice"] for line in lines] == [6.0, 8.0, 12.0, 16.0]
    assert [line["odd"] for line in lines] == [None, 1, 1, 1] and "Infinity" not in str(lines)
    assert ["start" in line for line in lines] == [True, False, False, False]
    evaluated = [line for line in lines if "val_loss" in line]
    assert len(evaluated) == 2
    for line in evaluated:
        assert line["val_loss_twice"] == pytest.approx(2 * line["val_loss"], rel=1e-6)
    for line, other in zip(lines, others, strict=True):
        assert [key for key in line if key in other] == [*other]


@pytest.mark.parametrize(
    "numbers, text",
    [({"loss": 1.0}, "a callback logs 'loss', which each line of metrics.jsonl has: log it under another name"),
     ({"text": "x"}, "metrics.jsonl takes numbers, and 'text' is 'x': log a number"),
     ({"list": [1.0]}, r"metrics.jsonl takes numbers, and 'list' is \[1.0\]: log a number")],
)  # fmt: skip
def test_what_no_line_can_have(numbers, text, simulate):
    class Log(Callback):
        def on_step(self, trainer, step):
            trainer.log(numbers)

    def run(comm):
        with pytest.raises(ConfigurationError, match=text):
            trainer_of(comm, Log()).fit()

    simulate(2, run)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["on_start", "on_evaluation", "on_checkpoint", "state_dict"])
@pytest.mark.parametrize("wrong", [0, 2])
def test_what_a_callback_refuses_on_one_rank_is_raised_on_all(method, wrong, simulate, tmp_path):
    def run(comm):
        callback = Callback()

        def refuse(*args):
            if comm.rank == wrong:
                raise ConfigurationError("the disk of the callback is full: delete something")
            return {}

        setattr(callback, method, refuse)
        with pytest.raises(ConfigurationError, match=r"^the disk of the callback is full: delete something$"):
            trainer_of(comm, callback, checkpoint_every=3, out=tmp_path).fit()
        return True

    assert simulate(3, run) == [True] * 3


FAULTY = """
import numpy as np
from allgrad import cross_entropy, ddp, nn, optim

class Faulty(ddp.Callback):
    def on_step(self, trainer, step):
        if step.step == 3 and trainer.comm.rank == 1:
            raise RuntimeError("the callback of rank 1 is wrong")

comm, model = ddp.init(), nn.Linear(4, 3)
parallel = ddp.DistributedDataParallel(model, comm)
loader = ddp.DataLoader((np.ones((32, 4), "f4"), np.arange(32) % 3), 4, comm)
loss = lambda x, y: cross_entropy(model(x), y)
optimizer, metrics = optim.SGD(parallel, 0.1), lambda x, y: {"loss": cross_entropy(model(x), y, "none")}
ddp.Trainer(parallel, optimizer, loader, loss, metrics, steps=100_000_000, callbacks=[Faulty()]).fit()
"""


def test_an_error_of_one_rank_ends_all(tmp_path):
    (tmp_path / "script.py").write_text(FAULTY)
    words, needed = command("mpirun", 2, [])
    words = [*words[: words.index("allgrad") - 1], "script.py"]
    left = {name for names in VARIABLES.values() for name in names}
    clean = {name: value for name, value in os.environ.items() if name not in left}
    environment = {**clean, "PYTHONPATH": os.pathsep.join([str(Path(ddp.__file__).parents[1]), *sys.path]), **needed}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert "rank 1 of 2 failed: RuntimeError: the callback of rank 1 is wrong" in done.stderr


@pytest.mark.parametrize(
    "callbacks, text",
    [([WeightAverage(), WeightAverage()], "'ema' is the name of two callbacks: give each a `name` of its own"),
     ([Stop(1), Stop(2)], "'Stop' is the name of two callbacks: give each"),
     ([WeightAverage], "callbacks are instances of classes derived from ddp.Callback, got <class "),
     ([lambda step: None], "callbacks are instances of classes derived from ddp.Callback, got <function ")],
)  # fmt: skip
def test_what_is_no_list_of_callbacks(callbacks, text):
    with pytest.raises(ConfigurationError, match=text):
        trainer_of(None, *callbacks)


@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_names_that_the_files_of_a_checkpoint_cannot_have(name):
    callback = Callback()
    callback.name = name
    with pytest.raises(ConfigurationError, match=f"'{name}' is no name of a callback: give each a `name`"):
        trainer_of(None, callback)
