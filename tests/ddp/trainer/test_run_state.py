"""What a checkpoint keeps of a run, and how a run goes on from it."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd.schedule import Plateau
from allgrad.ddp import Callback, ConfigurationError
from allgrad.ddp.scaling import AdaScale, FollowNoise
from allgrad.ddp.trainer import checkpoint, run_state, tensor_file
from tests.device.pretend import pretend

X = np.linspace(-1.0, 1.0, 32 * 4, dtype="f4").reshape(32, 4)
LABELS = np.arange(32) % 3


def trainer_of(*callbacks, comm=None, model=None, rate=0.1, noise=False, shards=2, exchange=None, rule=None,
               ema=None, **options):  # fmt: skip
    ag.manual_seed(1)
    model = model or nn.Linear(4, 3)
    noise = ddp.NoiseScale() if noise else None
    parallel = ddp.DistributedDataParallel(model, comm, shards, noise=noise, **(exchange or {}))
    loader = ddp.DataLoader((X, LABELS), 4, comm, shards)
    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    options = {"steps": 6, "validation": (X, LABELS), **options}
    optimizer = rule(parallel) if rule else optim.SGD(parallel, rate, momentum=0.9)
    ema = None if ema is None else optim.EMA(parallel, ema)
    loss = lambda x, y: ag.cross_entropy(model(x), y)
    return ddp.Trainer(parallel, optimizer, loader, loss, metrics, callbacks=callbacks, ema=ema, **options)


def saved_in(out, lazily=False):
    return checkpoint.load_latest(out / "checkpoints", lazily=lazily)


@pytest.mark.parametrize("out", [True, False])
@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"exchange": {"compress": "topk:0.5"}}], ids=str)
def test_ranks_that_write_nothing_copy_no_arrays(options, out, simulate, tmp_path):
    def run(comm):
        trainer = trainer_of(comm=comm, out=tmp_path / "out" if out else None, steps=2, **options)
        trainer.fit()
        optimizer, _ = run_state.collect(trainer)
        return bool(optimizer)

    assert simulate(2, run) == [out, False]


def test_a_device_hands_over_each_array_of_an_optimizer_at_once():
    with pretend() as device:
        model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).to(device="cuda")
        optimizer = optim.Adam(model.parameters(), 0.1)
        model(ag.tensor(X, device="cuda")).sum().backward()
        optimizer.step()
        device.reset()
        optimizer.state_dict()
        assert device.waits.total() == len(optimizer.state) == 2


# What the reader of version 1 of state.json looks up, and when.
ALWAYS = {"step", "config", "samples_seen", "epochs", "fingerprint", "optimizer"} | {
    "noise_scale", "loss_scale", "best", "skipped", "plateau", "adascale", "batches",
}  # fmt: skip
NOISE = {"noise_scale": "recent signal trace weights"}
PARTS = {  # arguments of trainer_of, and the keys of those parts that are then not None
    "plain": ({}, {}),
    "noise": ({"noise": True}, NOISE),
    "scale": ({"exchange": {"scale": ddp.LossScale(4.0)}}, {"loss_scale": "good value"}),
    "plateau": ({"rate": Plateau(0.1)}, {"plateau": "bad best cooling scale"}),
    "adascale": (
        {"rate": AdaScale(0.1, 2, 99.0), "noise": True},
        {"adascale": "gain seen squared tau variance", **NOISE},
    ),
    "batches": ({"batches": FollowNoise("0.25", 2, 16, 1.0), "noise": True}, NOISE),
}


@pytest.mark.parametrize("part", PARTS)
def test_state_json_has_the_keys_that_its_first_readers_look_up(part, tmp_path):
    options, expected = PARTS[part]
    trainer_of(out=tmp_path, **options).fit()
    state = json.loads((tmp_path / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state.keys() == ALWAYS and state["skipped"] == [0, 0]
    assert " ".join(sorted(state["best"])) == "evaluations_since step val_loss"
    assert state["batches"] == [[0, 0, 4]]
    optional = ("noise_scale", "loss_scale", "plateau", "adascale")
    assert {key: " ".join(sorted(state[key])) for key in optional if state[key] is not None} == expected


def test_a_checkpoint_from_before_there_were_some_of_the_keys_is_read(tmp_path):
    trainer_of(out=tmp_path, steps=3).fit()
    model, optimizer, state = saved_in(tmp_path)
    for key in ("skipped", "plateau"):
        del state[key]
    trainer = trainer_of(rate=Plateau(0.1))
    trainer.restore((model, optimizer, state))
    assert trainer.step == 3 and trainer.skips.count == 0
    assert trainer.fit()["steps"] == 6


# --- callbacks ---------------------------------------------------------------------------------------------------


class Holder(Callback):
    """Has whatever state it is given."""

    def __init__(self, state=None, name=None):
        self.state, self.name, self.found = state, name, None

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.found = state


ARRAYS = {"0.weight": np.arange(6.0).reshape(2, 3), "count": np.asarray(7), "flag": np.array([True])}


@pytest.mark.parametrize(
    "state",
    [{"steps": 3, "nested": {"a": [1, None, "x"]}, "empty": {}}, ARRAYS, {"mean": ARRAYS, "other/x": 1.5},
     {"mean": ARRAYS, "bare": np.ones(2, "f4"), "of": {"mean": 0.5}},
     {"mean": {"a/b:c": np.ones(1)}, "a/b:c": np.ones(1)}],
)  # fmt: skip
def test_a_state_of_numbers_and_arrays_comes_back(state, tmp_path):
    trainer_of(Holder(state), Holder({"other": 1}, "other"), out=tmp_path).fit()
    one, other = Holder(), Holder(name="other")
    trainer_of(one, other).restore(saved_in(tmp_path))
    assert other.found == {"other": 1}
    assert one.found is not None and one.found.keys() == state.keys()

    def same(mine, theirs):
        if isinstance(mine, dict):
            assert mine.keys() == theirs.keys()
            return all(same(mine[key], theirs[key]) for key in mine)
        if isinstance(mine, np.ndarray):
            return (mine.dtype, mine.shape, mine.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
        return mine == theirs

    assert same(state, one.found)


def test_tensors_of_torch_come_back_as_arrays(tmp_path):
    trainer_of(Holder({"t": torch.arange(3.0), "d": {"t": torch.ones(2, 2)}}), out=tmp_path).fit()
    holder = Holder()
    trainer_of(holder).restore(saved_in(tmp_path))
    assert holder.found is not None
    np.testing.assert_array_equal(holder.found["t"], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(holder.found["d"]["t"], np.ones((2, 2)))


def test_a_callback_without_a_state_in_the_checkpoint_begins_anew(tmp_path):
    trainer_of(Callback(), Holder({"n": 1}, "one"), out=tmp_path).fit()
    assert saved_in(tmp_path)[2]["callbacks"] == {"one": {"n": 1}}
    one, new = Holder(name="one"), Holder(name="new")
    trainer_of(one, new).restore(saved_in(tmp_path))
    assert (one.found, new.found) == ({"n": 1}, None)


def test_the_state_of_a_callback_that_is_gone_is_named_and_left_out(tmp_path, simulate, capsys):
    trainer_of(Holder({"n": 1, "a": ARRAYS}, "gone"), out=tmp_path, steps=3).fit()

    def go_on(comm):
        trainer = trainer_of(comm=comm, out=tmp_path, resumes=True)
        trainer.restore(saved_in(tmp_path))
        return trainer.fit()["weights_sha256"]

    assert {*simulate(2, go_on)} == {trainer_of().fit()["weights_sha256"]}
    text = "the checkpoint has the state of a callback 'gone', which this run does not have: it is left out\n"
    assert capsys.readouterr().err == text
    assert "callbacks" not in saved_in(tmp_path)[2] and not any("gone" in name for name in saved_in(tmp_path)[1])


def test_a_state_that_a_callback_does_not_take_is_refused(tmp_path):
    class Other(Holder):
        def load_state_dict(self, state):
            self.found = state["mean"]

    trainer_of(Holder({"n": 1}, "ema"), out=tmp_path).fit()
    with pytest.raises(
        ConfigurationError, match=r"callback 'ema' cannot take back its state .* \(KeyError\('mean'\)\)"
    ):
        trainer_of(Other(name="ema")).restore(saved_in(tmp_path))


@pytest.mark.parametrize(
    "state", [{"x": np.float32(1.0)}, {"x": SimpleNamespace()}, {"x": {"a": np.ones(1), "b": 1}}, [1, 2],
              {"x": np.array(["a"])}],
)  # fmt: skip
def test_a_state_that_no_file_can_hold_is_refused_on_all_ranks(state, simulate, tmp_path):
    def run(comm):
        holder = Holder(state if comm.rank == 1 else {"n": 1})
        with pytest.raises(ConfigurationError, match=r"^the state of callback 'Holder' cannot be kept \("):
            trainer_of(holder, comm=comm, out=tmp_path / str(comm.size)).fit()
        return True

    assert simulate(2, run) == [True, True]


# --- while training goes on --------------------------------------------------------------------------------------


class Momentum(Callback):
    """Changes its arrays in place."""

    def __init__(self):
        self.total = np.zeros(4, "f4")

    def on_step(self, trainer, step):
        self.total += step.step

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total[...] = state["total"]


WAYS = {
    "exact": {}, "powersgd": {"exchange": {"compress": "powersgd:1"}}, "topk": {"exchange": {"compress": "topk:0.3"}},
    "local": {"shards": 1, "exchange": {"sync_every": 2}},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_in_the_background_is_the_state_of_its_step(way, monkeypatch, tmp_path):
    """The writer is held up until training is two steps further."""
    whole = trainer_of(**WAYS[way]).fit()["weights_sha256"]
    go_on, save = threading.Event(), checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: (go_on.wait(60), save(*args))[1])

    class Release(Callback):
        def on_step(self, trainer, step):
            if step.step == 5:
                go_on.set()

    trainer_of(Momentum(), Release(), **WAYS[way], checkpoint_every=3, steps=6, out=tmp_path).fit()
    monkeypatch.undo()
    saved = checkpoint.load(tmp_path / "checkpoints" / "step-00000003")
    momentum = Momentum()
    trainer = trainer_of(momentum, **WAYS[way])
    trainer.restore(saved)
    assert momentum.total.tolist() == [1 + 2 + 3] * 4
    assert trainer.fit()["weights_sha256"] == whole


def test_a_parameter_without_axes_goes_on_too(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            self.fc, self.scale = nn.Linear(4, 3), ag.tensor(np.ones((), "f4"), requires_grad=True)

        def __call__(self, x):
            return self.fc(x) * self.scale

    def train(steps, **options):
        ag.manual_seed(2)
        return trainer_of(model=Scaled(), steps=steps, **options)

    train(3, out=tmp_path).fit()
    again = train(6)
    again.restore(saved_in(tmp_path))
    assert again.fit()["weights_sha256"] == train(6).fit()["weights_sha256"]


# --- from files that rank 0 alone can read ------------------------------------------------------------------------

RESUMED = {  # arguments of trainer_of
    "plain": {},
    "ZeRO": {"zero": True},
    "residuals of compression": {"exchange": {"compress": "topk:0.5"}},
    "local steps": {"exchange": {"sync_every": 4}},
}


@pytest.mark.parametrize("kind", RESUMED)
def test_ranks_resume_from_the_files_of_rank_0_piece_by_piece(kind, tmp_path, monkeypatch, simulate):
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 10)
    options = dict(RESUMED[kind])
    zero = options.pop("zero", False)

    def made(comm, holder, **more):
        trainer = trainer_of(holder, comm=comm, **options, **more)
        if zero:
            trainer.optimizer = ddp.Zero(trainer.optimizer, comm)
        return trainer

    def whole(comm):
        return made(comm, Holder({"mean": ARRAYS})).fit()["weights_sha256"]

    def first(comm):
        made(comm, Holder({"mean": ARRAYS}), steps=3, out=tmp_path).fit()

    def second(comm):
        saved = checkpoint.load_latest(tmp_path / "checkpoints", lazily=True) if comm.rank == 0 else None
        saved = comm.broadcast_object(saved)
        checkpoint.read_by_rank_0(comm, saved)
        if comm.rank:
            monkeypatch.setattr(saved[0]["weight"], "path", "not here")
        holder = Holder()
        trainer = made(comm, holder)
        trainer.restore(saved)
        assert all(np.array_equal(holder.found["mean"][name], array) for name, array in ARRAYS.items())
        holder.state = holder.found
        return trainer.fit()["weights_sha256"]

    expected = simulate(2, whole)
    simulate(2, first)
    assert simulate(2, second) == expected


def test_a_file_that_rank_0_cannot_read_any_more_ends_all_ranks(tmp_path, simulate):
    trainer_of(out=tmp_path).fit()

    def run(comm):
        saved = comm.broadcast_object(saved_in(tmp_path, lazily=True) if comm.rank == 0 else None)
        checkpoint.read_by_rank_0(comm, saved)
        trainer = trainer_of(comm=comm)
        comm.barrier()
        if comm.rank == 0:
            (tmp_path / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"")
        with pytest.raises(ConfigurationError, match=r"model.safetensors has changed while it was read: start again"):
            trainer.restore(saved)

    simulate(2, run)


# --- averages of the weights -------------------------------------------------------------------------------------


def batch_normalized():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


AVERAGING = {  # arguments of trainer_of
    "ema": {"ema": 0.7},
    "ema of soap": {"ema": 0.7, "rule": lambda p: optim.SOAP(p, 0.05, frequency=2)},
    "soap": {"rule": lambda p: optim.SOAP(p, 0.05, frequency=2)},
    "sgd": {"rule": lambda p: optim.ScheduleFreeSGD(p, 0.3)},
    "adamw": {"rule": lambda p: optim.ScheduleFreeAdamW(p, 0.05)},
    "adamw in parts": {"rule": lambda p: ddp.Zero(optim.ScheduleFreeAdamW(p, 0.05), p.comm)},
}
averaging = pytest.mark.parametrize("kind", AVERAGING)


def averaging_trainer(kind, **options):
    ag.manual_seed(1)
    return trainer_of(model=batch_normalized(), **AVERAGING[kind], **options)


def files(out, step=6):
    directory = out / "checkpoints" / f"step-{step:08d}"
    state = json.loads((directory / "state.json").read_text())
    return [(directory / name).read_bytes() for name in checkpoint.FILES[:2]], state.get("ema"), state["best"]


@averaging
def test_evaluations_and_checkpoints_change_no_bit_of_training(kind, tmp_path):
    class Looks(Callback):
        def on_step(self, trainer, step):
            trainer.evaluate(trainer.validation)

    found = []
    for name, callbacks, often in (("rare", (), 0), ("often", (Looks(),), 1)):
        ag.manual_seed(1)
        trainer = trainer_of(
            *callbacks, model=batch_normalized(), **AVERAGING[kind], out=tmp_path / name, eval_every=often,
            checkpoint_every=often,
        )  # fmt: skip
        found.append(trainer.fit()["weights_sha256"])
        assert found[-1] == trainer.parallel.arena.sha256()
    assert found[0] == found[1] and files(tmp_path / "rare")[:2] == files(tmp_path / "often")[:2]


@averaging
def test_a_run_with_averages_resumes_to_the_same_bits(kind, tmp_path, simulate):
    whole = averaging_trainer(kind, out=tmp_path / "whole", eval_every=1)
    summary = whole.fit()
    averaging_trainer(kind, out=tmp_path / "parts", eval_every=1, steps=3).fit()
    for lazily in (True, False):
        trainer = averaging_trainer(kind, out=tmp_path / "parts", eval_every=1, resumes=True)
        trainer.restore(checkpoint.load(tmp_path / "parts" / "checkpoints" / "step-00000003", lazily=lazily))
        assert trainer.fit()["weights_sha256"] == summary["weights_sha256"]
        assert files(tmp_path / "parts") == files(tmp_path / "whole")

    def go_on(comm):
        trainer = averaging_trainer(kind, comm=comm)
        trainer.restore(checkpoint.load(tmp_path / "parts" / "checkpoints" / "step-00000003"))
        return trainer.fit()["weights_sha256"]

    assert {*simulate(2, go_on)} == {summary["weights_sha256"]}


@averaging
def test_the_average_is_what_is_saved_and_measured_and_fit_goes_on_from_the_weights(kind, tmp_path):
    trainer = averaging_trainer(kind, out=tmp_path, steps=4, eval_every=1)
    summary = trainer.fit()
    loss = lambda model: ag.cross_entropy(model.eval()(X), LABELS).item()
    model = batch_normalized()
    model.load_state_dict(saved_in(tmp_path)[0])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_loss"] == pytest.approx(loss(model), rel=1e-6) == summary["val_loss"]
    assert loss(trainer.model) == loss(model)
    trainer.steps = 6
    trainer.model.train()
    again = trainer.fit()
    assert again["weights_sha256"] == averaging_trainer(kind).fit()["weights_sha256"] != summary["weights_sha256"]


def test_the_average_of_a_run_is_that_of_its_weights(tmp_path):
    class Weights(Callback):
        def __init__(self):
            self.found = []

        def on_step(self, trainer, step):
            self.found.append(trainer.model.weight.data.copy())

    notes = Weights()
    trainer = trainer_of(notes, ema=0.7, out=tmp_path)
    trainer.fit()
    share = np.array([0.7 ** (5 - t) for t in range(6)])
    expected = np.tensordot(share / share.sum(), np.array(notes.found, "f8"), 1)
    np.testing.assert_allclose(trainer.model.weight.data, expected, rtol=1e-5, atol=1e-7)
    model, optimizer, state = saved_in(tmp_path)
    assert (model["weight"] == trainer.model.weight.data).all() and state["ema"] == {"decay": 0.7, "updates": 6}
    assert (optimizer["ema_weights"]["weight"] == notes.found[-1]).all()


def test_a_skipped_step_is_no_part_of_the_average():
    trainer = trainer_of(ema=0.7, on_nonfinite="skip")
    usual, calls = trainer.loss, []

    def loss(x, y):
        calls.append(1)
        return usual(x, y) * (np.nan if len(calls) == 3 else 1.0)

    trainer.loss = loss
    trainer.fit()
    assert trainer.skips.count == 1 and trainer.ema.updates == 5


def test_a_trainer_without_the_average_goes_on_from_the_weights(tmp_path):
    trainer_of(ema=0.7, out=tmp_path, steps=3).fit()
    plain = trainer_of()
    plain.restore(saved_in(tmp_path))
    assert plain.fit()["weights_sha256"] == trainer_of().fit()["weights_sha256"]


def test_an_average_that_was_not_there_before_begins_anew(tmp_path):
    trainer_of(out=tmp_path, steps=3).fit()
    trainer = trainer_of(ema=0.7)
    trainer.restore(saved_in(tmp_path))
    trainer.fit()
    assert trainer.ema.updates == 3


def test_averages_that_cannot_be():
    local = {"exchange": {"sync_every": 2}, "shards": 1}
    with pytest.raises(ConfigurationError, match="sync_every=2 gives each rank parameters of its own, and ema"):
        trainer_of(ema=0.7, **local)
    for kind, name in (("sgd", "ScheduleFreeSGD"), ("soap", "SOAP")):
        with pytest.raises(ConfigurationError, match=f"sync_every=2 averages the parameters, and {name} keeps more"):
            trainer_of(**AVERAGING[kind], **local)
    with pytest.raises(ConfigurationError, match=r"ema=0\.7 has no effect with ScheduleFreeAdamW"):
        trainer_of(**AVERAGING["adamw in parts"], ema=0.7)
