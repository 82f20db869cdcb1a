"""The numbers of a step on a device: what they are in the memory of the host, without waiting for them."""

import math

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import ddp, nn
from tests.device.pretend import pretend

X, Y = np.random.default_rng(0).standard_normal((24, 6)), np.arange(24) % 3
Y_PARTLY = np.where(np.arange(24) % 5 < 2, -100, Y)
Y_PARTLY[:6] = -100  # nothing in the first of four shards counts
WEIGHTS = np.array([0.5, 1.0, 3.0])


def mean(model, x, y):
    return ag.cross_entropy(model(x), y)


def each(model, x, y):
    return ag.cross_entropy(model(x), y, "none")


def with_class_weights(model, x, y):
    return ag.cross_entropy(model(x), y, weight=WEIGHTS.astype("f4") if x.dtype == torch.float32 else WEIGHTS)


def total(model, x, y):
    counts = y != -100
    return ddp.Weighted(ag.cross_entropy(model(x), y, "none").sum(), counts.sum())


def total_of_known_weight(model, x, y):
    return ddp.Weighted(ag.cross_entropy(model(x), y, "none").sum(), 2 * len(x))


def run(device, loss, labels, shards, dtype="float32", steps=2, noise=True, **options):
    """((loss, weight, gradient), (its norm, what the noise scale has seen), parallel), after some steps."""
    ag.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model.to(device=device).to(dtype=dtype)
    noise = ddp.NoiseScale(layers=True) if noise else None
    parallel = ddp.DistributedDataParallel(model, shards=shards, noise=noise, **options)
    place = ddp.Placement(device, dtype)
    loader = ddp.DataLoader((X, labels), 24, shards=shards, shuffle="never", place=place)
    for step in range(steps):
        report = parallel.enqueue(loader.batch(step), lambda x, y: loss(model, x, y), norm=True).read()
    gradient = parallel.arena.grad.double().cpu().tolist()
    layers = noise and noise.layer_averages
    seen = noise and [noise.trace, noise.signal, *np.ravel([layers.trace, layers.signal])]
    return (report.loss, parallel.weight, gradient), (report.norm, seen), parallel


LOSSES = [
    (mean, Y), (each, Y), (mean, Y_PARTLY), (total, Y_PARTLY), (total_of_known_weight, Y), (with_class_weights, Y),
]  # fmt: skip
names = [f"{loss.__name__}{', ignored' * (labels is Y_PARTLY)}" for loss, labels in LOSSES]


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss, labels", LOSSES, ids=names)
def test_loss_weight_and_gradient_are_those_of_the_host(loss, labels, dtype, shards):
    exact, near, _ = run("cpu", loss, labels, shards, dtype)
    with pretend():
        exact_there, near_there, _ = run("cuda:0", loss, labels, shards, dtype)
    assert exact[1] > 0
    if dtype == "float32":  # of a sum in float64, and a quotient by a weight of other digits, the last digits differ
        assert exact_there == exact
    for there, here in zip(exact_there, exact, strict=True):
        assert there == pytest.approx(here, rel=1e-6)
    assert near_there[0] == pytest.approx(near[0], rel=1e-6)
    assert near_there[1] == pytest.approx(near[1], rel=1e-3) and any(near[1]) == (shards > 1)


@pytest.mark.parametrize("options", [
    {"reduce": "native"}, {"reduce": "adasum"}, {"wire": "bfloat16"}, {"compress": "topk:0.2"},
    {"compress": "powersgd:1"}, {"batch_norm": "sync"},
], ids=lambda options: " ".join(options.values()))  # fmt: skip
def test_whatever_adds_up_the_gradients(options):
    exact, *_ = run("cpu", mean, Y_PARTLY, 4, noise=False, **options)
    with pretend():
        assert run("cuda:0", mean, Y_PARTLY, 4, noise=False, **options)[0] == exact


def test_in_half_precision():
    """Weights are parts of the batch there: 24 samples and more are no problem for sums in bfloat16."""
    exact, *_ = run("cpu", mean, Y_PARTLY, 4, "bfloat16", noise=False)
    with pretend():
        assert run("cuda:0", mean, Y_PARTLY, 4, "bfloat16", noise=False)[0] == exact


@pytest.mark.parametrize("shards, bad, suspect", [(1, 7, 0), (4, 7, 1), (4, 23, 3)])
def test_the_first_shard_that_is_not_finite_is_known(shards, bad, suspect):
    x = X.copy()
    x[bad] = math.inf
    with pytest.MonkeyPatch.context() as patch, pretend():
        patch.setitem(globals(), "X", x)
        *_, parallel = run("cuda:0", mean, Y, shards)
        assert parallel.suspect == suspect
        assert parallel.not_finite() == f"first in the gradient of '0.weight', from shard {suspect} on rank 0"


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_what_is_no_weight_makes_the_loss_nan(weight):
    def loss(model, x, y):
        return ddp.Weighted(model(x).sum(), y.sum() * 0 + torch.full((), weight, device=x.device))

    with pretend():
        (found, *_), *_ = run("cuda:0", loss, Y, 2, noise=False)
    assert math.isnan(found)
