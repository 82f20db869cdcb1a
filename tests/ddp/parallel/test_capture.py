"""Captured forward and backward of shards: the same bits as without, whatever is exchanged when."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    LossScale,
    NoiseScale,
    Placement,
    Timeline,
)
from allgrad.ddp.data import Batch, Shard
from tests.autograd.replay.steps import LIBRARIES

X = generator("captured").standard_normal((40, 36)).astype("f4")
LABELS = np.arange(40) % 3


def mlp():
    ag.manual_seed(5)
    return nn.Sequential(nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def normalised():
    """A network with running statistics and dropout."""
    ag.manual_seed(5)
    return nn.Sequential(nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def trained(
    comm, shards, capture, each=False, steps=8, noise=False, make=mlp, size=13, place=None, half=None, **options
):
    """Losses, the last gradient, parameters and statistics; batches of `size` of 40 samples: some are short."""
    calls, model = [], make()
    model.to(device="numpy" if place is None else place.device)
    noise = NoiseScale(0.5) if noise else None
    scale = LossScale() if half == "float16" else None
    parallel = DistributedDataParallel(model, comm, shards, noise=noise, scale=scale, capture=capture, **options)
    if half is not None:
        model.compute_in(half)
    optimizer = optim.SGD(parallel, 0.1, momentum=0.9)

    def loss(x, y):
        calls.append(len(x))
        return ag.cross_entropy(model(x), y, reduction="none" if each else "mean")

    losses = []
    for batch in DataLoader((X, LABELS), size, comm, shards, place=place).steps(0, steps):
        losses.append(parallel.backward(batch, loss))
        optimizer.step()
    statistics = [b.numpy().tobytes() for _, b in model.named_buffers()]
    found = losses, ag.tensor(parallel.arena.grad).numpy().tobytes(), parallel.arena.sha256(), statistics
    return (*found, noise and (noise.trace, noise.signal)), len(calls)


WAYS = {
    "one shard": (1, 1, {}),
    "a number for each sample": (1, 1, {"each": True}),
    "more shards than ranks": (2, 5, {"overlap": "after"}),
    "noise scale": (2, 4, {"noise": True}),
    "buckets": (2, 3, {"overlap": "bucket", "bucket": 333}),
    "adasum": (2, 2, {"reduce": "adasum"}),
    "halves on the wire": (2, 3, {"wire": "bfloat16"}),
    "local steps": (2, 2, {"sync_every": 3}),
    "dropout and running statistics": (1, 1, {"make": normalised, "size": 14}),
    "such of several shards": (2, 3, {"make": normalised, "size": 14}),
    "such in local steps": (2, 2, {"make": normalised, "size": 14, "sync_every": 3}),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", WAYS)
def test_training_has_the_same_bits(way, library, simulate):
    ranks, shards, options = WAYS[way]
    options = options if library == "numpy" else {**options, "place": Placement("cpu")}
    usual = simulate(ranks, lambda comm: trained(comm, shards, False, **options))
    captured = simulate(ranks, lambda comm: trained(comm, shards, True, **options))
    assert [found for found, _ in captured] == [found for found, _ in usual]
    assert all(few < many for (_, few), (_, many) in zip(captured, usual) if many > 12)


@pytest.mark.skipif("torch" not in LIBRARIES, reason="NumPy has no fast halves")
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_training_in_half_precision_has_the_same_bits(half):
    usual, captured = (
        trained(Communicator(), 3, capture, half=half, place=Placement("cpu", half)) for capture in (0, 1)
    )
    assert captured[0] == usual[0]


def test_too_few_samples_for_a_variance_are_told_as_without():
    found = []
    for capture in (False, True):
        with pytest.raises(ConfigurationError, match="no variance to train with in a shard with 1 of") as caught:
            trained(Communicator(), 1, capture, make=normalised)
        found.append(str(caught.value))
    assert found[0] == found[1]


def test_losses_made_anew_for_each_step_do_not_pile_up():
    model = mlp()
    parallel = DistributedDataParallel(model, capture=True)
    batch = Batch(0, 0, 40, 1, 0, [Shard(0, np.arange(40), (X, LABELS))])
    for _ in range(20):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
    assert len(parallel.shard_gradients.captured) <= 8


def refused(model, **options):
    with pytest.raises(ConfigurationError) as caught:
        DistributedDataParallel(model, capture=True, **options)
    return str(caught.value)


def test_what_cannot_be_captured_is_refused(tmp_path):
    text = "capture=True replays forward and backward of each shard in one go, which {} does not allow"
    assert refused(mlp(), batch_norm="sync").startswith(text.format("batch_norm='sync'"))
    assert refused(mlp(), timeline=Timeline(tmp_path / "t.json")).startswith(text.format("a Timeline"))
