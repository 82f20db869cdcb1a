"""What goes wrong on some ranks: parameters that differ, gradients that are not finite."""

import math

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arena import arena_of
from allgrad.autograd.random import generator
from allgrad.ddp import (
    ArrayDataset,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    Diverged,
    LossScale,
    NoiseScale,
    OutOfStep,
    Trainer,
    evaluate,
)
from allgrad.ddp.comm import Communicator
from allgrad.ddp.parallel import consistency
from allgrad.ddp.parallel.consistency import checksum_on_device, compare_parameters
from allgrad.ddp.trainer import checkpoint
from tests.device.pretend import pretend

# --- parameters --------------------------------------------------------------------------------------------------


X = np.linspace(-1, 1, 24, dtype="f4").reshape(12, 2)
Y = np.arange(12) % 3


def trainer_of(comm=None, *, shards=3, noise=True, scale=None, spoil=None, lr=0.1, **options):
    """A small training; spoil(trainer, x) may change the logits of a shard."""
    ag.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    comm = comm or Communicator()
    parallel = DistributedDataParallel(model, comm, shards, noise=NoiseScale() if noise else None, scale=scale)

    def loss(x, y):
        factor = spoil(trainer, x) if spoil and model.training else 1.0
        return ag.cross_entropy(model(x * factor), y)

    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    loader = DataLoader((X, Y), 6, comm, shards)
    options = {"steps": 8, "validation": ArrayDataset(X, Y), **options}
    trainer = Trainer(parallel, optim.SGD(parallel, lr), loader, loss, metrics, **options)
    return trainer


class Growing(nn.Module):
    """Makes its last layer in the first call."""

    def __init__(self):
        self.first, self.last = nn.Linear(2, 3), None

    def __call__(self, x):
        if self.last is None:
            self.last = nn.Linear(3, 3)
        return self.last(self.first(x))


def from_another_optimizer(model):
    model.append(nn.Linear(3, 3))
    model.optimizer = optim.SGD(model[-1], lr=0.1)


@pytest.mark.parametrize("options", [{}, {"overlap": "bucket"}, {"batch_norm": "sync"}, {"sync_every": 2}], ids=str)
@pytest.mark.parametrize(
    "make, change, named",
    [
        (
            Growing,
            None,
            "'last.weight' of shape (3, 3) has a gradient, which the ranks do not exchange: keep parameters in",
        ),
        (lambda: nn.Sequential(nn.Linear(2, 3)), from_another_optimizer, "has got a parameter '1.weight' since"),
        (lambda: nn.Sequential(nn.Linear(2, 3)), lambda m: m.append(nn.Linear(3, 3)), "'1.weight' of shape (3, 3)"),
    ],
    ids=["in the first call", "with its own optimizer", "appended"],
)
def test_parameters_that_came_after_ddp_are_refused_on_all_ranks(make, change, named, options, simulate):
    def run(comm):
        model = make()
        parallel = DistributedDataParallel(model, comm, 2, **options)
        if change:
            change(model)
        loss = lambda x, y: ag.cross_entropy(model(x), y)
        metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
        loader = DataLoader((X, Y), 6, comm, 2)
        Trainer(parallel, optim.SGD(parallel, 0.1), loader, loss, metrics, steps=2, check_every=1).fit()

    def refused(comm):
        with pytest.raises(ConfigurationError) as caught:
            run(comm)
        return str(caught.value)

    first, second = simulate(2, refused)
    assert named in first and first == second


def test_a_layer_that_only_the_loss_knows_is_refused_and_one_trained_by_hand_is_not():
    model, head, probe = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(2, 1)
    parallel, (batch, *_) = DistributedDataParallel(model), DataLoader((X, Y), 6).epoch(0)
    probe(X).sum().backward()
    parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
    with pytest.raises(ConfigurationError, match=r"the parameter 'weight' of shape \(3, 3\) has a gradient, which"):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(head(model(x)), y))
    head.requires_grad_(False)
    parallel.backward(batch, lambda x, y: ag.cross_entropy(head(model(x)), y))


@pytest.mark.parametrize(
    "ranks, wrong, of", [(2, 1, "rank 0"), (3, 0, "the other 2 of 3 ranks"), (3, 2, "the other 2")]
)
@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_a_rank_whose_parameters_differ_is_named(ranks, wrong, of, name, simulate):
    def run(comm):
        trainer = trainer_of(comm, check_every=1)
        parameters = trainer.parallel.arena.parameters

        step = trainer.optimizer.step

        def step_and_stray():
            step()
            if comm.rank == wrong and trainer.step == 3:
                parameters[name].data[...] += 2.0**-10
                parameters["2.bias"].data[...] += 2.0**-10

        trainer.optimizer.step = step_and_stray
        with pytest.raises(OutOfStep) as caught:
            trainer.fit()
        return str(caught.value)

    (text,) = {*simulate(ranks, run)}
    assert f"the parameters of rank {wrong} differ from those of {of}" in text
    assert f"first in {name!r}, after step 3" in text


def split_mix(values):
    """The checksum again, with NumPy's unsigned integers."""
    z = values.view(f"i{values.itemsize}").astype(np.uint64)
    z += np.arange(1, len(z) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))).sum().astype(np.int64))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_checksum_changes_with_every_bit_and_every_order(dtype, monkeypatch):
    values = generator("checksum").standard_normal(100).astype(dtype)
    monkeypatch.setattr(consistency, "CHECKED_ELEMENTS", 37)  # not all at once
    checksum = lambda a: checksum_on_device(torch.tensor(a))
    found = {checksum(values)}
    assert found == {split_mix(values)}
    for at in (0, 36, 37, 99):
        for bit in range(8 * values.itemsize):
            changed = values.copy()
            changed.view(f"u{values.itemsize}")[at] ^= 1 << bit
            found.add(checksum(changed))
    for swapped in ((0, 1), (36, 37), (5, 99)):
        changed = values.copy()
        changed[[*swapped]] = values[[*swapped][::-1]]
        found.add(checksum(changed))
    changed = values.copy()
    changed[[3, 50]] *= -1.0  # two changes that a plain sum would not see
    assert len({*found, checksum(changed)}) == 1 + 4 * 8 * values.itemsize + 3 + 1
    zeros = np.zeros(3, dtype)
    assert checksum(zeros) != checksum(-zeros) and checksum(zeros) != checksum(zeros[:2])


def test_on_a_device_parameters_are_compared_there(simulate):
    def run(comm):
        arena = arena_of(nn.Linear(2, 3).to(device="cuda"))
        arena.data[...] = 1.0
        device.reset()
        compare_parameters(comm, arena)
        waits = [*device.waits]
        arena.data[arena.spans["bias"]] += float(comm.rank)
        with pytest.raises(OutOfStep, match="rank 1 differ from those of rank 0, first in 'bias'"):
            compare_parameters(comm, arena)
        return waits

    with pretend() as device:
        assert all({what for what, _ in waits} == {"_local_scalar_dense"} for waits in simulate(2, run))


def test_comparisons_are_as_often_as_asked_and_change_nothing(simulate):
    def run(comm, every):
        trainer = trainer_of(comm, check_every=every)
        steps = []
        compare = trainer.parallel.compare_parameters
        trainer.parallel.compare_parameters = lambda: (steps.append(trainer.step), compare())
        return steps, trainer.fit()["weights_sha256"]

    found = {every: simulate(2, lambda comm: run(comm, every)) for every in (None, 0, 3)}
    assert [found[every][0][0] for every in found] == [[2, 4, 6, 8], [], [3, 6, 8]]
    assert len({digest for results in found.values() for _, digest in results}) == 1


# --- gradients ---------------------------------------------------------------------------------------------------


def at(*steps, shard=1, factor=math.nan):
    """Spoil a shard in these steps: shards have two samples, and come in order."""
    seen = {}

    def spoil(trainer, x):
        key = trainer.comm.rank, trainer.step
        seen[key] = seen.get(key, trainer.parallel.own_shards[0] - 1) + 1
        return factor if trainer.step in steps and seen[key] == shard else 1.0

    return spoil


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_gradient_that_is_not_finite_is_named_with_its_shard(ranks, shard, simulate):
    def run(comm):
        with np.errstate(all="ignore"), pytest.raises(Diverged) as caught:
            trainer_of(comm, spoil=at(3, shard=shard)).fit()
        return str(caught.value)

    (text,) = {*simulate(ranks, run)}
    rank = next(r for r in range(ranks) if shard < (r + 1) * 3 // ranks)
    assert f"at step 3 with learning rate 0.1 (first in the gradient of '0.weight', from shard {shard} on rank" in text
    assert f"on rank {rank}): lower lr" in text


def test_the_first_parameter_is_named_even_if_the_loss_is_finite():
    trainer = trainer_of(noise=False, clip=1.0, clip_value=1.0)
    head = trainer.parallel.arena.parameters["2.weight"]
    trainer.loss = lambda x, y: ag.cross_entropy(trainer.model(x), y) + ag.sqrt((head * 0.0).sum())
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=r"\(first in the gradient of '2.weight'\): lower"):
        trainer.fit()


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("shards", [3, 1])
def test_skipped_steps_are_left_out_and_counted(ranks, shards, simulate, tmp_path):
    if ranks > shards:
        return

    def run(comm):
        out = tmp_path / str(comm.rank)
        trainer = trainer_of(
            comm, shards=shards, spoil=at(1, 2, 5, shard=0), on_nonfinite="skip", log_every=1, out=out, clip=1.0,
            clip_value=0.5,
        )  # fmt: skip
        before = {}
        skip_or_raise = trainer.skips.skip_or_raise

        def state():
            return {name: a.tobytes() for name, a in trainer.model.state_dict().items()}

        def checked(*args):
            skip_or_raise(*args)
            assert state() == before[trainer.step]

        step = trainer._one_step

        def noted():
            before[trainer.step] = state()
            return step()

        trainer.skips.skip_or_raise, trainer._one_step = checked, noted
        with np.errstate(all="ignore"):
            summary = trainer.fit()
        assert len(before) == 8 and trainer.skips.in_a_row == 0
        return summary

    for summary in simulate(ranks, run):
        assert summary["skipped_steps"] == 3 and math.isfinite(summary["train_loss"])
        assert summary["noise_scale"] is None or math.isfinite(summary["noise_scale"])
    lines = (tmp_path / "0" / "metrics.jsonl").read_text()
    assert len(lines.splitlines()) == 8 and "NaN" not in lines and '"loss": null' in lines
    assert checkpoint.load_latest(tmp_path / "0" / "checkpoints")[2]["skipped"] == [3, 0]


def test_twenty_in_a_row_are_too_many_also_over_a_restart(tmp_path):
    always = lambda trainer, x: math.nan
    options = {"spoil": always, "on_nonfinite": "skip", "out": tmp_path}
    with np.errstate(all="ignore"):
        assert trainer_of(**options, steps=15, validation=None).fit()["skipped_steps"] == 15
        again = trainer_of(**options, steps=40, validation=None)
        again.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
        with pytest.raises(Diverged, match=r"at step 20 .* after 20 steps left out in a row: lower lr"):
            again.fit()


def test_an_overflow_of_half_precision_is_skipped_anyway():
    scale = LossScale(4.0)
    trainer = trainer_of(spoil=at(2, factor=math.inf), scale=scale)
    with np.errstate(all="ignore"):
        summary = trainer.fit()
    assert summary["skipped_steps"] == 1 and scale.value == 2.0


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigurationError, match="on_nonfinite is raise or skip, got 'ignore'"):
        trainer_of(on_nonfinite="ignore")


# --- batches -----------------------------------------------------------------------------------------------------


def loader_of(comm, *, x=X, y=Y, batch=6, at=0, **options):
    return DataLoader((x, y), batch, comm, 3, **options), at


@pytest.mark.parametrize("other", [
    {"seed": 1}, {"x": X[:11], "y": Y[:11]}, {"x": X + 1.0}, {"batch": 4}, {"shuffle": "never"}, {"at": 1},
    {"boundary": "carry"},
], ids=lambda given: ",".join(given))  # fmt: skip
@pytest.mark.parametrize("way", [{}, {"wire": "bfloat16"}, {"overlap": "bucket"}], ids=str)
def test_ranks_with_other_batches_are_told_apart(other, way, simulate):
    """A rank that has a part of the data only, another seed, or is a step ahead, is no rank of this training."""

    def run(comm):
        model = nn.Linear(2, 3)
        parallel = DistributedDataParallel(model, comm, 3, **way)
        loader, at = loader_of(comm, **(other if comm.rank else {}))
        for step in range(6):  # a sum of half precision has room for few keys: two batches may have the same one
            batch = loader.batch(step + at)
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))

    with pytest.raises(ConfigurationError, match=r"the data differ between ranks: rank 0 has .*step \d of"):
        simulate(2, run)


def test_ranks_evaluate_the_same_data(simulate):
    def run(comm):
        return evaluate(nn.Linear(2, 3), (X[: 12 - comm.rank],), lambda x: {"x": x[:, 0]}, comm, 3)

    with pytest.raises(ConfigurationError, match=r"rank 0 has 12 samples .* where rank 1 has 11 samples"):
        simulate(2, run)


def test_ranks_that_train_other_parameters_are_told_apart(simulate):
    def run(comm):
        model = nn.Linear(2, 3)
        if comm.rank:
            model.weight.requires_grad_(False)
        DistributedDataParallel(model, comm, 2)

    with pytest.raises(ConfigurationError, match="the models differ between ranks"):
        simulate(2, run)
