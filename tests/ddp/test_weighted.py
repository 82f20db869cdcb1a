"""The unit of a loss: a weighted sum over all shards, divided once, is the loss of the whole batch."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import (
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    Diverged,
    NoiseScale,
    Trainer,
    Weighted,
    evaluate,
)
from allgrad.ddp.weighted import weight_of_mean

N, T, D, CLASSES = 13, 6, 5, 4
PADDING = -100
RNG = generator("weighted")
X = RNG.standard_normal((N, T, D))
VALID = np.array([0, 6, 1, 0, 0, 5, 2, 6, 6, 6, 0, 1, 3])  # labels that count, of each sequence
LABELS = np.where(np.arange(T) < VALID[:, None], RNG.integers(0, CLASSES, (N, T)), PADDING)
CLASS_WEIGHTS = np.array([0.2, 3.0, 0.5, 1.7])
TARGETS = RNG.standard_normal((N, T, CLASSES))


def model_of(dtype="float64"):
    ag.manual_seed(3)
    return nn.Linear(D, CLASSES).to(dtype)


def counted(y):
    return (y != PADDING).reshape(-1)


def flat(z, y):
    return z.reshape(-1, CLASSES), y.reshape(-1)


# name: (the loss of a shard, the loss of the whole batch in torch), both of logits (n, T, C), labels (n, T) and targets
LOSSES = {
    "ignored": (lambda z, y, t: ag.cross_entropy(*flat(z, y)), lambda z, y, t: F.cross_entropy(*flat(z, y))),
    "ignored, by place": (
        lambda z, y, t: ag.cross_entropy(z.permute(0, 2, 1), y),
        lambda z, y, t: F.cross_entropy(z.permute(0, 2, 1), y),
    ),
    "another ignored label": (
        lambda z, y, t: ag.cross_entropy(*flat(z, np.where(y == PADDING, 2, y)), ignore_index=2),
        lambda z, y, t: F.cross_entropy(*flat(z, torch.where(y == PADDING, 2, y)), ignore_index=2),
    ),
    "classes weighted": (
        lambda z, y, t: ag.cross_entropy(*flat(z, y), weight=CLASS_WEIGHTS),
        lambda z, y, t: F.cross_entropy(*flat(z, y), weight=torch.tensor(CLASS_WEIGHTS)),
    ),
    "smoothed": (
        lambda z, y, t: ag.cross_entropy(*flat(z, y), weight=CLASS_WEIGHTS, label_smoothing=0.1),
        lambda z, y, t: F.cross_entropy(*flat(z, y), weight=torch.tensor(CLASS_WEIGHTS), label_smoothing=0.1),
    ),
    "nll": (
        lambda z, y, t: ag.nll_loss(ag.log_softmax(flat(z, y)[0], 1), flat(z, y)[1], CLASS_WEIGHTS),
        lambda z, y, t: F.nll_loss(F.log_softmax(flat(z, y)[0], 1), flat(z, y)[1], torch.tensor(CLASS_WEIGHTS)),
    ),
    "those that count, selected": (
        lambda z, y, t: ag.mse_loss(z.reshape(-1, CLASSES)[counted(y)], t.reshape(-1, CLASSES)[counted(y)]),
        lambda z, y, t: F.mse_loss(z[y != PADDING], t[y != PADDING]),
    ),
    "the mean of what was selected": (
        lambda z, y, t: ((z - t) ** 2.0).reshape(-1, CLASSES)[counted(y)].mean(),
        lambda z, y, t: ((z - t) ** 2.0)[y != PADDING].mean(),
    ),
    "twice and halved": (
        lambda z, y, t: 0.5 * ag.cross_entropy(*flat(z, y)) + ag.cross_entropy(*flat(z * 2.0, y)) / 4.0,
        lambda z, y, t: 0.5 * F.cross_entropy(*flat(z, y)) + F.cross_entropy(*flat(z * 2.0, y)) / 4.0,
    ),
    "a total and its weight": (
        lambda z, y, t: Weighted(
            (ag.cross_entropy(*flat(z, y), "none") - 7.0 * (y != PADDING).reshape(-1)).sum(), (y != PADDING).sum()
        ),
        lambda z, y, t: F.cross_entropy(*flat(z, y)) - 7.0,
    ),
    "all elements": (lambda z, y, t: ag.l1_loss(z, t), lambda z, y, t: F.l1_loss(z, t)),
    "batchmean": (
        lambda z, y, t: ag.kl_div(ag.log_softmax(z, 2), ag.softmax(ag.tensor(t), 2), "batchmean"),
        lambda z, y, t: F.kl_div(F.log_softmax(z, 2), F.softmax(t, 2), reduction="batchmean"),
    ),
}  # fmt: skip


def expected(loss, model):
    """(loss, gradient of the weight) of all samples as one batch, by torch."""
    w, b = (torch.tensor(p.numpy(), requires_grad=True) for p in (model.weight, model.bias))
    x, y, t = map(torch.tensor, (X, LABELS, TARGETS))
    value = loss(F.linear(x.to(w.dtype), w, b), y, t.to(w.dtype))
    value.backward()
    return value.item(), w.grad.numpy()


def backward(loss, comm=None, shards=1, dtype="float64", steps=1, batch=N, **way):
    """(loss, gradient of the weight, parallel) of the last of some batches."""
    model = model_of(dtype)
    parallel = DistributedDataParallel(model, comm, shards, **way)
    loader = DataLoader((X.astype(dtype), LABELS, TARGETS.astype(dtype)), batch, comm, shards, shuffle="never")
    of_shard = lambda x, y, t: loss(model(x), y, t)
    for one in loader.steps(0, steps):
        value = parallel.backward(one, of_shard)
    return value, model.weight.grad.copy(), parallel


@pytest.mark.parametrize("name", LOSSES)
def test_a_weighted_loss_is_that_of_the_whole_batch(name, simulate):
    ours, theirs = LOSSES[name]
    value, gradient = expected(theirs, model_of())
    for shards in (1, 2, 3, 5, 8, 13):
        bits = set()
        for ranks in {1, min(2, shards), min(3, shards)}:
            for found, own, _ in simulate(ranks, lambda comm: backward(ours, comm, shards)):
                np.testing.assert_allclose(found, value, rtol=1e-12)
                np.testing.assert_allclose(own, gradient, rtol=0, atol=1e-13)
                bits.add((found, own.tobytes()))
        assert len(bits) == 1


@pytest.mark.parametrize("way", [
    {"overlap": "bucket", "bucket": 16}, {"reduce": "native"}, {"noise": "a NoiseScale"}, {"compress": "topk:1.0"},
    {"batch_norm": "sync"},
], ids=lambda way: next(iter(way)))  # fmt: skip
def test_every_exchange_divides_once(way, simulate):
    ours, theirs = LOSSES["classes weighted"]
    made = lambda: {**way, "noise": NoiseScale()} if "noise" in way else way
    value, gradient = expected(theirs, model_of())
    for ranks in (1, 2):
        for found, own, _ in simulate(ranks, lambda comm: backward(ours, comm, 5, "float32", **made())):
            np.testing.assert_allclose(found, value, rtol=1e-6)
            np.testing.assert_allclose(own, gradient, rtol=0, atol=1e-6)


def test_a_wire_of_half_precision_divides_once(simulate):
    ours, theirs = LOSSES["ignored"]
    value, gradient = expected(theirs, model_of())
    for found, own, _ in simulate(2, lambda comm: backward(ours, comm, 4, "float32", wire="float16")):
        np.testing.assert_allclose(found, value, rtol=5e-3)  # three sums, each rounded to 11 bits
        np.testing.assert_allclose(own, gradient, rtol=0, atol=5e-3 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["ignored", "classes weighted", "twice and halved", "a total and its weight"])
def test_captured_shards_have_the_same_bits(name):
    """The weight of a shard is computed anew in each replay, from its own labels."""
    ours, _ = LOSSES[name]
    for batch in (6, 13):
        plain, captured = (backward(ours, None, 2, capture=way, steps=5, batch=batch) for way in (False, True))
        assert plain[0] == captured[0] and np.array_equal(plain[1], captured[1])


@pytest.mark.parametrize("name", ["ignored", "classes weighted", "smoothed", "twice and halved"])
def test_weights_of_torch_arrays(name):
    ours, theirs = LOSSES[name]
    value, gradient = expected(theirs, model_of())
    model = model_of().to(device="cpu")
    parallel = DistributedDataParallel(model, shards=3)
    arrays = [torch.tensor(a) for a in (X, LABELS, TARGETS)]
    (batch,) = DataLoader((X, LABELS, TARGETS), N, shards=3, shuffle="never").steps(0, 1)
    for shard in batch.shards:
        shard.arrays = tuple(a[shard.samples] for a in arrays)
    found = parallel.backward(batch, lambda x, y, t: ours(model(ag.tensor(x)), y, t))
    np.testing.assert_allclose(found, value, rtol=1e-12)
    np.testing.assert_allclose(model.weight.grad.numpy(), gradient, rtol=0, atol=1e-13)


def test_a_float16_loss_scale_and_a_weight():
    from allgrad.ddp import LossScale

    ours, theirs = LOSSES["ignored"]
    value, gradient = expected(theirs, model_of("float32"))
    found, own, _ = backward(ours, None, 4, "float32", scale=LossScale())
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(own, gradient, rtol=0, atol=1e-6)


# --- nothing counts ----------------------------------------------------------------------------------------------


def nothing_counts(model):
    return lambda x, y, t: ag.cross_entropy(model(x).reshape(-1, CLASSES), np.full(y.size, PADDING))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_batch_without_any_weight_has_no_gradient(shards):
    value, gradient, parallel = backward(
        lambda z, y, t: ag.cross_entropy(z.reshape(-1, CLASSES), np.full(y.size, PADDING)), shards=shards
    )
    assert math.isnan(value) and not gradient.any() and parallel.weight == 0


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_training_says_that_nothing_counts_or_skips_the_step(on_nonfinite):
    model = model_of("float32")
    parallel = DistributedDataParallel(model, shards=2)
    loader = DataLoader((X.astype("f"), LABELS, TARGETS.astype("f")), 4, shards=2)
    before = model.weight.numpy().copy()
    metrics = lambda x, y, t: {"loss": ag.cross_entropy(model(x).reshape(-1, CLASSES), y.reshape(-1))}
    trainer = Trainer(
        parallel, optim.SGD(parallel, 0.1), loader, nothing_counts(model), metrics, steps=2, on_nonfinite=on_nonfinite
    )
    if on_nonfinite == "raise":
        with pytest.raises(Diverged, match=r"nothing in the batch of step 0 counts.*on_nonfinite='skip'"):
            trainer.fit()
    else:
        trainer.fit()
    assert np.array_equal(model.weight.numpy(), before)


# --- what a loss may return ----------------------------------------------------------------------------------------


def test_a_penalty_beside_a_masked_loss_is_refused_or_weighted():
    model = model_of()
    masked = lambda x, y, t: ag.cross_entropy(*flat(model(x), y))
    parallel = DistributedDataParallel(model, shards=2)
    (batch,) = DataLoader((X, LABELS, TARGETS), N, shards=2, shuffle="never").steps(0, 1)
    with pytest.raises(ConfigurationError, match=r"means over \d+ and \d+ terms.*return ddp\.Weighted\(total, weight"):
        parallel.backward(batch, lambda x, y, t: masked(x, y, t) + ag.mse_loss(model(x), t))

    def penalised(x, y, t):
        weight = counted(y).sum()
        return Weighted((masked(x, y, t) + 0.1 * (model.weight * model.weight).mean()) * float(weight), weight)

    parallel.backward(batch, penalised)
    _, gradient = expected(LOSSES["ignored"][1], model)
    np.testing.assert_allclose(model.weight.grad, gradient + 0.2 * model.weight.numpy() / model.weight.size, atol=1e-13)


REFUSED = {
    "a function of a mean": lambda z, y, t: ag.mse_loss(z, t) ** 0.5,
    "a logarithm of a mean": lambda z, y, t: ag.log(ag.cross_entropy(*flat(z, y))) * 2.0,
    "a product of means": lambda z, y, t: ag.mse_loss(z, t) * ag.l1_loss(z, t),
    "a mean over steps": lambda z, y, t: ag.stack([ag.cross_entropy(z[:, i], y[:, i]) for i in range(T)]).mean(),
    "a mean over positions": lambda z, y, t: ((z - t) ** 2.0).mean(0).mean(),
    "a sum": lambda z, y, t: ag.cross_entropy(*flat(z, y), "sum"),
    "another sum": lambda z, y, t: ((z - t) ** 2.0).sum(),
    "weights beside a count": lambda z, y, t: ag.cross_entropy(*flat(z, y)) + 0.1 * (z * z).mean(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_put_together_is_refused_and_right_where_one_shard_is_all(name):
    loss = REFUSED[name]
    with pytest.raises(ConfigurationError, match=r"cannot be put together .* return ddp\.Weighted\(total, weight\)"):
        backward(loss, shards=3)
    value, gradient, _ = backward(loss)
    model = model_of()
    whole = loss(model(X), LABELS, TARGETS)
    whole.backward()
    assert value == whole.item() and np.array_equal(gradient, model.weight.grad)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4])
def test_the_size_of_class_weights_makes_no_difference(scale):
    loss = lambda unit: lambda z, y, t: ag.cross_entropy(*flat(z, y), weight=(CLASS_WEIGHTS * unit).astype("f4"))
    found, expected = (backward(loss(unit), shards=5, dtype="float32") for unit in (scale, 1.0))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_a_model_in_half_precision_have_room(dtype):
    """As many tokens and more in each shard than float16 has numbers for."""
    x = torch.ones(4, 40_000, 1)
    y = torch.arange(4 * 40_000).reshape(4, 40_000) % 2
    y[:2, 5:] = PADDING
    model = nn.Linear(1, 2).to(device="cpu").to(dtype)
    parallel = DistributedDataParallel(model, shards=2)
    (batch,) = DataLoader((x.numpy(), y.numpy()), 4, shards=2, shuffle="never").steps(0, 1)
    for shard in batch.shards:
        shard.arrays = x[shard.samples].to(getattr(torch, dtype)), y[shard.samples]
    logits = lambda x: model(ag.tensor(x)).reshape(-1, 2)
    value = parallel.backward(batch, lambda x, y: ag.cross_entropy(logits(x), y.reshape(-1)))
    expected = F.cross_entropy(torch.tensor(logits(x.to(getattr(torch, dtype))).numpy()).float(), y.reshape(-1)).item()
    np.testing.assert_allclose(value, expected, rtol=2e-2)  # sums of three numbers of 8 bits
    np.testing.assert_allclose(parallel.weight, 80_010, rtol=2e-2)


def test_a_rank_of_local_steps_whose_labels_do_not_count_stays_where_it_is(simulate):
    """Its neighbour has labels that count, and goes on."""
    labels = np.where(np.arange(N)[:, None] < 7, LABELS, PADDING)

    def run(comm):
        model = model_of("float32")
        parallel = DistributedDataParallel(model, comm, 2, sync_every=3)
        loader = DataLoader((X.astype("f"), labels), N, comm, 2, shuffle="never")
        metrics = lambda x, y: {"loss": ag.cross_entropy(*flat(model(x), y))}
        loss = lambda x, y: ag.cross_entropy(*flat(model(x), y))
        return Trainer(parallel, optim.SGD(parallel, 0.1), loader, loss, metrics, steps=4).fit()["weights_sha256"]

    assert len({*simulate(2, run)}) == 1


def test_a_mean_over_parameters_is_no_mean_over_samples():
    w = ag.tensor(np.ones(7), requires_grad=True)
    x = ag.tensor(np.ones((4, 3)), requires_grad=True)
    loss = ag.mse_loss(x, np.zeros((4, 3)))
    assert weight_of_mean(loss, 4) == 12
    assert weight_of_mean(loss + (w * w).mean(), 4) == 12  # the loss's
    assert weight_of_mean(loss + ag.l1_loss(x[:, 0], np.zeros(4)), 4) == 4  # as many terms of every sample: the samples
    assert weight_of_mean((x * x).sum(1).mean(), 4) == weight_of_mean((x * x).mean(0).sum(), 4) == 4


@pytest.mark.parametrize(("value", "seen"), [
    (lambda loss: (loss, 3), "got tuple"), (lambda loss: {"loss": loss}, "got dict"), (lambda loss: None, "NoneType"),
    (lambda loss: loss.item(), "got float"), (lambda loss: loss.numpy(), "got"),
    (lambda loss: Weighted(1.0, 2), "total of a Weighted loss is a tensor"),
    (lambda loss: Weighted(loss, -1), "0 or more, and finite, got -1"),
    (lambda loss: Weighted(loss, math.nan), "0 or more, and finite, got nan"),
    (lambda loss: Weighted(loss, np.ones(2)), r"or of shape \(\), got ndarray of shape \(2,\)"),
])  # fmt: skip
def test_what_a_loss_may_not_return(value, seen):
    with pytest.raises(ConfigurationError, match=seen):
        backward(lambda z, y, t: value(ag.mse_loss(z, t)), shards=2)


# --- noise and metrics ---------------------------------------------------------------------------------------------


def test_the_noise_scale_of_a_weighted_loss_is_that_of_its_shards_mean_gradients():
    """The analysis of variance of the shards' mean gradients, each with its share of the samples by weight."""
    ours, _ = LOSSES["ignored"]
    for shards in (3, 6):
        *_, parallel = backward(ours, None, shards, noise=NoiseScale(decay=0.0))
        bounds = np.cumsum([0, *(len(part) for part in np.array_split(np.arange(N), shards))])
        parts = [slice(a, b) for a, b in itertools.pairwise(bounds) if VALID[a:b].sum()]
        model = model_of()
        gradients = []
        for part in parts:
            model.zero_grad()
            ag.cross_entropy(*flat(model(X[part]), LABELS[part])).backward()
            gradients.append(np.concatenate([model.weight.grad.reshape(-1), model.bias.grad]))
        g, share = np.array(gradients), np.array([VALID[part].sum() for part in parts]) * (N / VALID.sum())
        mean = share @ g / N
        trace = (share @ (g * g).sum(1) - N * mean @ mean) / (len(parts) - 1)
        np.testing.assert_allclose(parallel.noise.trace, trace, rtol=1e-10)
        np.testing.assert_allclose(parallel.noise.signal, mean @ mean - trace / N, rtol=1e-8, atol=1e-12)


def test_the_unit_of_a_loss_is_not_that_of_the_noise_scale():
    """The same gradient in another unit of weight has the same noise scale, in samples."""
    found = []
    for unit in (1.0, 6.0):
        loss = lambda z, y, t, unit=unit: Weighted(((z - t) ** 2.0).sum() * unit, unit * len(y))
        *_, parallel = backward(loss, None, 4, noise=NoiseScale(decay=0.0))
        found.append((parallel.noise.trace, parallel.noise.signal))
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_metrics_are_means_rows_or_pairs(simulate):
    model = model_of()
    z, y = torch.tensor(model(X).numpy()), torch.tensor(LABELS)
    masked = F.cross_entropy(*flat(z, y)).item()

    def metrics(x, y, t):
        z = model(x)
        losses = ag.cross_entropy(*flat(z, y), "none")
        return {
            "mean": ag.cross_entropy(*flat(z, y)), "pair": (losses.sum(), counted(y).sum()),
            "weighted": Weighted(losses.sum().item(), int(counted(y).sum())), "rows": (z - t) ** 2.0,
            "mean over all": ag.mse_loss(z, t), "number": float(len(x)), "none": (0.0, 0),
            "samples": z.numpy()[:, 0, 0],
        }  # fmt: skip

    metrics_of_means = lambda x, y, t: {"bits": ag.cross_entropy(*flat(model(x), y)) / math.log(2.0)}
    found = evaluate(model, (X, LABELS, TARGETS), metrics_of_means, DataLoader((X,), N).comm, 5)
    np.testing.assert_allclose(found["bits"], masked / math.log(2.0), rtol=1e-12)
    wanted = {
        "mean": masked, "pair": masked, "weighted": masked, "rows": F.mse_loss(z, torch.tensor(TARGETS)).item(),
        "mean over all": F.mse_loss(z, torch.tensor(TARGETS)).item(), "samples": z[:, 0, 0].mean().item(),
    }  # fmt: skip
    for shards in (1, 4, 13):
        bits = set()
        for ranks in {1, min(3, shards)}:
            for found in simulate(ranks, lambda comm: evaluate(model, (X, LABELS, TARGETS), metrics, comm, shards)):
                assert math.isnan(found["none"])
                for name, value in wanted.items():
                    np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
                bits.add(repr(found))
        assert len(bits) == 1


@pytest.mark.parametrize("bad", ["text", None, np.ones(2), np.ones((3, 13)), (1.0, 2.0, 3.0), (1.0, -2.0)])
def test_what_a_metric_may_not_return(bad):
    with pytest.raises(ConfigurationError, match=r"a metric of 13 samples returns|a weight is 0 or more"):
        evaluate(model_of(), (X,), lambda x: {"bad": bad}, DataLoader((X,), N).comm, 1)


def test_modes_are_restored_when_a_metric_fails():
    model = nn.Sequential(nn.Linear(D, 2), nn.Dropout(0.5))
    model.layers[1].eval()

    def fails(x):
        raise KeyError("metric")

    with pytest.raises(KeyError):
        evaluate(model, (X,), fails, DataLoader((X,), N).comm, 1)
    assert model.training and model.layers[0].training and not model.layers[1].training
