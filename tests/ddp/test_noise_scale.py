"""The noise scale, against gradients whose noise scale is known."""

import itertools
import math

import numpy as np
import pytest

from autograd import nn
from autograd.random import generator
from ddp import DataLoader, DistributedDataParallel, NoiseScale, evaluate
from ddp.sampler import shard_bounds

SAMPLES, SIZE = 1000, 1000  # samples a step, numbers in a gradient
SIGMA = np.linspace(0.5, 1.5, SIZE) * math.sqrt(100.0 / np.sum(np.linspace(0.5, 1.5, SIZE) ** 2))  # tr(Sigma) = 100
MEAN = np.full(SIZE, 1.0 / math.sqrt(SIZE))  # |G|^2 = 1


def lengths_of(shards, kind):
    if kind == "even":
        return np.diff(shard_bounds(SAMPLES, shards))
    halves = [SAMPLES >> (v + 1) if v < 6 else 1 for v in range(shards)]  # 500, 250, 125, ...
    return np.array([SAMPLES - sum(halves[1:]), *halves[1:]])


def draws(shards, kind, count):
    """The arguments of `update` for gradients from N(MEAN, diag(SIGMA^2)), as that of a shard's mean follows."""
    rng = generator("noise scale", shards, kind)
    lengths = lengths_of(shards, kind)
    for _ in range(count):
        g = MEAN + rng.standard_normal((shards, SIZE)) * SIGMA / np.sqrt(lengths)[:, None]
        mean = lengths @ g / SAMPLES
        yield SAMPLES, shards, float(lengths @ np.sum(g * g, axis=1)), float(mean @ mean)


@pytest.mark.parametrize("kind", ["even", "uneven"])
@pytest.mark.parametrize("shards", [2, 8, 32])
def test_both_estimates_are_unbiased_and_their_ratio_is_the_noise_scale(shards, kind):
    count = 8000 // (shards + 6)
    average, traces, signals = NoiseScale(decay=0.998), [], []
    for draw in draws(shards, kind, count):
        single = NoiseScale(decay=0.0)
        single.update(*draw)
        average.update(*draw)
        traces.append(single.trace)
        signals.append(single.signal)
    for values, truth in [(traces, 100.0), (signals, 1.0)]:
        assert abs(np.mean(values) - truth) < 4.0 * np.std(values) / math.sqrt(count)
        assert np.std(values) / math.sqrt(count) < 0.005 * truth
    assert abs(average.value - 100.0) < 2.0


def test_a_mean_that_forgets_the_sizes_of_the_shards_is_biased():
    """What the weights b_v are for: with all shards counted alike the uneven case is far off."""
    shards, lengths = 8, lengths_of(8, "uneven")
    assert lengths.max() > 100 * lengths.min()
    rng = generator("unweighted")
    g = MEAN + rng.standard_normal((200, shards, SIZE)) * SIGMA / np.sqrt(lengths)[:, None]
    squared = np.sum(g.mean(axis=1) ** 2, axis=-1)
    trace = (SAMPLES / shards * np.sum(g * g, axis=(1, 2)) - SAMPLES * squared) / (shards - 1)
    assert trace.mean() > 300.0


def test_data_parallel_training_measures_what_the_definition_says():
    """A linear loss, whose gradient is the sample: tr(Sigma) and |G|^2 follow from the shards' means, uneven here."""
    x = generator("linear").standard_normal((10, 7)) + 1.0
    weights = nn.Parameter(np.zeros(7), "float64")
    model = nn.Module()
    model.w = weights
    noise = NoiseScale(decay=0.0)
    parallel = DistributedDataParallel(model, shards=4, noise=noise)
    batch = DataLoader((x,), 10, shards=4, shuffle="never").batch(0)
    parallel.backward(batch, lambda x: (x * model.w).sum(1))
    bounds = shard_bounds(10, 4)
    means = [x[a:b].mean(0) for a, b in itertools.pairwise(bounds)]
    between = sum(len(shard) * np.sum((m - x.mean(0)) ** 2) for shard, m in zip(batch.shards, means))
    np.testing.assert_allclose(noise.trace, between / 3, rtol=1e-12)
    np.testing.assert_allclose(noise.signal, np.sum(x.mean(0) ** 2) - between / 30, rtol=1e-12)


@pytest.mark.parametrize(
    "updates",
    [
        [],
        [(64, 1, 10.0, 0.1)],  # one shard says nothing about the spread
        [(64, 2, 6.4, 0.1)],  # shards that agree: no noise
        [(64, 2, 100.0, 0.1)],  # noise that explains the whole gradient: no signal
    ],
)
def test_where_it_is_undefined(updates):
    noise = NoiseScale()
    for update in updates:
        noise.update(*update)
    assert noise.value is None


def test_a_restored_state_goes_on():
    one, other = NoiseScale(), NoiseScale()
    first, *rest = draws(8, "even", 5)
    one.update(*first)
    other.load_state_dict(one.state_dict())
    for draw in rest:
        one.update(*draw)
        other.update(*draw)
    assert one.value == other.value is not None


# --- evaluation, the other mean over shards ----------------------------------------------------------------------


@pytest.mark.parametrize("samples", [82, 3, 1])
def test_a_metric_is_the_exact_mean_on_any_number_of_ranks(samples, simulate):
    x = generator("metric").standard_normal((samples, 4))
    model = nn.Linear(4, 3)

    def metrics(x):
        assert not model.training
        return {"first": x[:, 0], "positive": x[:, 1] > 0.0}

    results = set()
    for ranks in (1, 2, 3, 5):
        for means in simulate(ranks, lambda comm: evaluate(model, (x,), metrics, comm, 5, batch=20)):
            results.add(tuple(means.items()))
    ((_, first), (_, positive)), *more = results
    assert not more and model.training
    assert abs(first - x[:, 0].mean()) < 1e-15 and positive == (x[:, 1] > 0.0).mean()
