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
    Weighted,
)
from allgrad.ddp.data import Batch, Shard
from allgrad.ddp.parallel import shard_gradients
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
        trained(Communicator(), 3, capture, half=half, place=Placement("cpu", half)) for capture in (False, True)
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


def automatic(model, loss=None, steps=8, shards=2, after=5, anew=False, **options):
    """What has become of capture="auto", and the parameters; with fewer shards before than usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_gradients, "AFTER", after)
        parallel = DistributedDataParallel(model, shards=shards, **{"capture": "auto", **options})
        optimizer, batches = optim.SGD(parallel, 0.1), DataLoader((X, LABELS), 20, parallel.comm, shards)
        loss = loss or (lambda x, y: ag.cross_entropy(model(x), y))
        for batch in batches.steps(0, steps):
            parallel.backward(batch, (lambda x, y: loss(x, y)) if anew else loss)
            optimizer.step()
    return parallel.shard_gradients, parallel.arena.sha256()


def test_auto_captures_small_shards_after_some():
    found, weights = automatic(normalised())
    assert found.capture == "auto" and len(found.captured) == 1 and found.seen == 16
    assert weights == automatic(normalised(), capture="off")[1]
    found, _ = automatic(normalised(), steps=2)
    assert not found.captured and found.capture_why.startswith("small shards, after ")


@pytest.mark.parametrize("limit", ["MOST_WORK", "MOST_ELEMENTS"])
def test_auto_does_not_capture_large_shards(limit, monkeypatch):
    monkeypatch.setattr(shard_gradients, limit, 100)
    assert not automatic(normalised())[0].captured


def test_auto_computes_as_without_what_cannot_be_replayed():
    model = normalised()
    loss = lambda x, y: ag.cross_entropy(model(x), y) * float(ag.relu(model[0](x)).sum() * 0.0 + 1.0)
    found, weights = automatic(model, loss)
    assert found.capture == "off" and "takes values as Python numbers" in found.capture_why
    assert weights == automatic(normalised(), capture="off")[1]


def test_auto_computes_itself_what_has_other_things_than_arrays():
    losses = []
    for capture in ("off", "auto"):
        model = mlp()
        parallel = DistributedDataParallel(model, shards=1, capture=capture)
        parallel.shard_gradients.seen = shard_gradients.AFTER
        batch = Batch(0, 0, 40, 1, 0, [Shard(0, np.arange(40), (X, LABELS.tolist()))])
        losses.append(parallel.backward(batch, lambda x, y, model=model: ag.cross_entropy(model(x), np.array(y))))
    assert losses[0] == losses[1]


def test_weights_that_a_gradient_is_divided_by_may_change():
    def loss(x, y):
        counts = (y > 0).astype("f4")
        return Weighted((ag.cross_entropy(model(x), y, "none") * counts).sum(), counts.sum())

    model, found = mlp(), []
    for capture in ("off", "on"):
        parallel = DistributedDataParallel(model, shards=1, reduce="adasum", capture=capture)
        for labels in ([1, 0, 2], [2, 1, 0], [1, 1, 2], [0, 0, 1], [0, 0, 0]):
            batch = Batch(0, 0, 3, 1, 0, [Shard(0, np.arange(3), (X[:3] + np.float32(labels[0]), np.array(labels)))])
            parallel.backward(batch, loss)
            found.append(parallel.arena.grad.tobytes())
    assert found[:5] == found[5:]


def test_what_turns_out_not_to_be_replayable_is_told_with_what_to_do():
    model = normalised()
    with pytest.raises(ConfigurationError, match=r"\(item\): give capture='auto', which computes as"):
        automatic(model, lambda x, y: ag.cross_entropy(model(x), y) * ag.relu(model[0](x)).sum().item(), capture="on")


def test_auto_computes_itself_where_anomalies_are_looked_for():
    with ag.detect_anomaly():
        found, weights = automatic(normalised())
    assert found.capture == "off" and "detect_anomaly" in found.capture_why
    assert weights == automatic(normalised(), capture="off")[1]


def test_auto_does_not_record_a_loss_that_is_another_function_every_time():
    found, weights = automatic(mlp(), steps=14, anew=True)
    assert found.capture == "off" and "another function every time" in found.capture_why and not found.captured
    assert weights == automatic(mlp(), steps=14, capture="off")[1]


def test_auto_leaves_out_what_contradicts_it(tmp_path):
    for options, text in (
        ({"batch_norm": "sync"}, "batch_norm='sync'"),
        ({"timeline": Timeline(tmp_path / "t")}, "a Timeline"),
    ):
        found, _ = automatic(normalised(), steps=1, **options)
        assert found.capture == "off" and text in found.capture_why


def test_another_value_of_capture_is_refused():
    with pytest.raises(ConfigurationError, match="capture is off, on, auto, True or False, got 'sometimes'"):
        DistributedDataParallel(mlp(), capture="sometimes")


def refused(model, **options):
    with pytest.raises(ConfigurationError) as caught:
        DistributedDataParallel(model, capture=True, **options)
    return str(caught.value)


def test_what_cannot_be_captured_is_refused(tmp_path):
    text = "capture='on' replays forward and backward of each shard in one go, which {} does not allow"
    assert refused(mlp(), batch_norm="sync").startswith(text.format("batch_norm='sync'"))
    assert refused(mlp(), timeline=Timeline(tmp_path / "t.json")).startswith(text.format("a Timeline"))
