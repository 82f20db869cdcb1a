"""Training on torch tensors: the same bits on any number of ranks, half precision, and a GPU."""

import shutil

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    DataLoader,
    DistributedDataParallel,
    Diverged,
    LossScale,
    NoiseScale,
    Placement,
    Trainer,
)
from allgrad.ddp.trainer import checkpoint

X = generator("torch arrays").standard_normal((60, 1, 8, 8)).astype("f4")
LABELS = np.arange(60) % 3
HAS_GPU = torch.cuda.is_available()


def network():
    ag.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(64, 3),
    )  # fmt: skip


def trainer_of(comm=None, device="cpu", dtype="float32", steps=12, scale=None, lr=0.02, out=None, shards=5):
    comm, model = comm or Communicator(), network().to(dtype if dtype == "float64" else None, device)
    parallel = DistributedDataParallel(model, comm, shards, noise=NoiseScale(), scale=scale)
    if dtype in ("bfloat16", "float16"):
        model.compute_in(dtype)
    x = X.astype("f8") if dtype == "float64" else X
    loader = DataLoader((x, LABELS), 23, comm, shards, place=Placement(device, dtype))

    def metrics(x, y):
        logits = model(x)
        return {"loss": ag.cross_entropy(logits, y, "none"), "accuracy": logits.argmax(1) == y}

    return Trainer(
        parallel, optim.Adam(parallel, lr), loader, lambda x, y: ag.cross_entropy(model(x), y), metrics,
        validation=(x[:20], LABELS[:20]), steps=steps, out=out, checkpoint_every=5,
    )  # fmt: skip


def state(trainer):
    return {name: a.tobytes() for name, a in trainer.model.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bits_do_not_depend_on_the_ranks_nor_on_a_resume(dtype, simulate, tmp_path):
    alone = trainer_of(dtype=dtype)
    summary = alone.fit()
    assert (summary["arrays"], summary["device"], summary["dtype"]) == ("torch", "cpu", dtype)

    def train(comm):
        trainer = trainer_of(comm, dtype=dtype)
        return trainer.fit()["weights_sha256"], state(trainer)

    for ranks in (2, 3, 5):
        assert simulate(ranks, train) == [(summary["weights_sha256"], state(alone))] * ranks

    trainer_of(dtype=dtype, steps=5, out=tmp_path / "a").fit()
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    def go_on(comm, name, lazily):
        trainer = trainer_of(comm, dtype=dtype, out=tmp_path / name)
        trainer.resumes = True
        trainer.restore(checkpoint.load_latest(tmp_path / name / "checkpoints", lazily=lazily))
        return trainer.fit()["weights_sha256"]

    assert simulate(3, lambda comm: go_on(comm, "a", False)) == [summary["weights_sha256"]] * 3
    assert simulate(1, lambda comm: go_on(comm, "b", True)) == [summary["weights_sha256"]]


def test_torch_tensors_train_as_numpy_arrays_do():
    on_torch, on_numpy = trainer_of(dtype="float64"), trainer_of(device="numpy", dtype="float64")
    one, other = on_torch.fit(), on_numpy.fit()
    for key in ("train_loss", "val_loss", "noise_scale"):
        assert one[key] == pytest.approx(other[key], rel=1e-6)
    for name, a in on_torch.model.state_dict().items():
        np.testing.assert_allclose(a, on_numpy.model.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert {type(p.data) for p in on_torch.model.parameters()} == {torch.Tensor}


@pytest.mark.parametrize("dtype, bits", [("bfloat16", 8), ("float16", 11)])
def test_halves_compute_in_half_and_keep_everything_in_full(dtype, bits):
    trainer = trainer_of(dtype=dtype, scale=LossScale() if dtype == "float16" else None)
    full, summary = trainer_of().fit(), trainer.fit()
    arena = trainer.parallel.arena
    assert {str(p.dtype) for p in trainer.model.parameters()} == {f"torch.{dtype}"}
    assert (arena.data.dtype, arena.grad.dtype, trainer.optimizer.state["mean"].dtype) == (torch.float32,) * 3
    assert torch.equal(arena.compute_copy, arena.data.to(arena.compute_copy.dtype)) and not torch.equal(
        arena.compute_copy.float(), arena.data
    )
    assert {a.dtype for name, a in trainer.model.state_dict().items() if "tracked" not in name} == {np.dtype("f4")}
    assert summary["train_loss"] == pytest.approx(full["train_loss"], rel=2.0 ** (4 - bits))


def test_frozen_parameters_are_rounded_to_compute_and_saved_in_full():
    model = network().to(device="cpu")
    frozen, running = model[0].weight, model[1].running_mean
    frozen.node, before = None, model.state_dict()["0.weight"]
    parallel = DistributedDataParallel(model)
    model.compute_in("bfloat16")
    loss = ag.cross_entropy(model(torch.from_numpy(X).bfloat16()), torch.from_numpy(LABELS))
    loss.backward()
    assert (frozen.dtype, running.dtype, loss.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert np.array_equal(model.state_dict()["0.weight"], before)
    model.load_state_dict({**model.state_dict(), "0.weight": 2.0 * before})
    assert torch.equal(frozen.data, torch.from_numpy(2.0 * before).bfloat16())
    assert np.array_equal(model.state_dict()["0.weight"], 2.0 * before) and float(parallel.arena.grad.abs().max()) > 0.0


def test_a_gradient_that_overflows_halves_the_scale_and_leaves_the_step_out():
    trainer = trainer_of(dtype="float16", scale=LossScale(2.0**40), steps=3)
    before = trainer.parallel.arena.sha256()
    trainer.fit()
    assert trainer.parallel.scale.value == 2.0**37 and trainer.optimizer.steps == 0
    assert trainer.parallel.arena.sha256() == before


def test_a_gradient_that_overflows_without_any_scale_ends_the_run():
    with pytest.raises(Diverged):
        trainer_of(dtype="float16", scale=LossScale(1.0), lr=1e9).fit()


def test_the_scale_changes_no_bit_where_nothing_over_or_underflows():
    scaled, plain = trainer_of(scale=LossScale(2.0**10)), trainer_of()
    assert scaled.fit()["weights_sha256"] == plain.fit()["weights_sha256"]


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU that torch can use")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_trains_like_the_processor_and_alike_every_time(dtype):
    first, second = (
        trainer_of(device="cuda:0", dtype=dtype, scale=LossScale() if dtype == "float16" else None) for _ in range(2)
    )
    summary = first.fit()
    assert summary["weights_sha256"] == second.fit()["weights_sha256"]
    assert summary["train_loss"] == pytest.approx(trainer_of().fit()["train_loss"], rel=0.2)
    assert "gpu" in summary["fingerprint"] and first.parallel.arena.data.is_cuda
