"""Captured forward and backward of shards: the same bits as without, whatever is exchanged when."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError, DataLoader, DistributedDataParallel, NoiseScale, Timeline
from allgrad.ddp.data import Batch, Shard

X = generator("captured").standard_normal((40, 36)).astype("f4")
LABELS = np.arange(40) % 3


def mlp():
    ag.manual_seed(5)
    return nn.Sequential(nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def trained(comm, shards, capture, each=False, steps=8, noise=False, **options):
    """Losses, gradients of the last step and parameters; batches of 13 from 40 samples, so that some are short."""
    calls, model = [], mlp()
    noise = NoiseScale(0.5) if noise else None
    parallel = DistributedDataParallel(model, comm, shards, noise=noise, capture=capture, **options)
    optimizer = optim.SGD(parallel, 0.1, momentum=0.9)

    def loss(x, y):
        calls.append(len(x))
        return ag.cross_entropy(model(x), y, reduction="none" if each else "mean")

    losses = []
    for batch in DataLoader((X, LABELS), 13, comm, shards).steps(0, steps):
        losses.append(parallel.backward(batch, loss))
        optimizer.step()
    found = losses, parallel.arena.grad.tobytes(), parallel.arena.sha256(), noise and (noise.trace, noise.signal)
    return found, len(calls)


WAYS = {
    "one shard": (1, 1, {}),
    "a number for each sample": (1, 1, {"each": True}),
    "more shards than ranks": (2, 5, {"overlap": "after"}),
    "noise scale": (2, 4, {"noise": True}),
    "buckets": (2, 3, {"overlap": "bucket", "bucket": 333}),
    "adasum": (2, 2, {"reduce": "adasum"}),
    "halves on the wire": (2, 3, {"wire": "bfloat16"}),
    "local steps": (2, 2, {"sync_every": 3}),
}


@pytest.mark.parametrize("way", WAYS)
def test_training_has_the_same_bits(way, simulate):
    ranks, shards, options = WAYS[way]
    usual = simulate(ranks, lambda comm: trained(comm, shards, False, **options))
    captured = simulate(ranks, lambda comm: trained(comm, shards, True, **options))
    assert [found for found, _ in captured] == [found for found, _ in usual]
    assert all(few < many for (_, few), (_, many) in zip(captured, usual) if many > 12)


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
    text = "capture=True replays forward and backward as one list of NumPy's functions, which {} does not allow"
    normalised = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert refused(normalised).startswith(text.format("a model with running statistics"))
    assert refused(mlp(), batch_norm="sync").startswith(text.format("batch_norm='sync'"))
    assert refused(mlp(), timeline=Timeline(tmp_path / "t.json")).startswith(text.format("a Timeline"))
    assert refused(mlp().to(device="cpu")).startswith(text.format("a device of torch"))
