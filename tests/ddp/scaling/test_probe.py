"""Probes at frozen weights, against brute force and against problems whose answers are known."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import generator, permutation
from allgrad.ddp import ConfigurationError
from allgrad.ddp.scaling import Frozen, curvature, noise_of_batches, noise_of_examples
from allgrad.ddp.scaling.intervals import of_parts
from allgrad.ddp.scaling.probe import analysis
from tests.ddp.scaling.network import LABELS, N, X, network


def one_by_one(model):
    frozen = Frozen(model, ag.cross_entropy, X, LABELS)
    return np.array([frozen.gradient(slice(i, i + 1)) for i in range(N)])


# --- exact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [False, True])
def test_the_squared_gradients_of_examples_are_those_of_one_backward_an_example(each):
    model = nn.Sequential(nn.Flatten(), network(nn.Dropout(0.3), nn.Identity()))
    before, training = {name: a.copy() for name, a in model.state_dict().items()}, model.training
    loss = (lambda z, y: ag.cross_entropy(z, y, "none")) if each else ag.cross_entropy
    exact, g = noise_of_examples(model, loss, X.reshape(N, 2, 3), LABELS), one_by_one(network())
    np.testing.assert_allclose(exact.squares, np.sum(g * g, axis=1), rtol=1e-9)
    G, trace = g.mean(0), np.sum(np.var(g, axis=0, ddof=1))
    assert (exact.train_set.trace, exact.train_set.signal) == pytest.approx((trace, G @ G), rel=1e-9)
    assert exact.population.signal == pytest.approx(G @ G - trace / N, rel=1e-9)
    products = g @ g.sum(0)
    both, pseudo = analysis(exact.squares, products, products, np.ones(N), 1)
    expected, why = of_parts(*both, pseudo, N, "samples")
    assert exact.population.interval == pytest.approx(expected, rel=1e-9) and exact.population.why == why
    assert exact.train_set.interval is None
    if exact.population.noise_scale:
        train_set = exact.train_set.noise_scale
        assert exact.population.noise_scale == pytest.approx(1.0 / (1.0 / train_set - 1.0 / N), rel=1e-9)
    assert training == model.training and all((a == before[name]).all() for name, a in model.state_dict().items())


def test_frozen_parameters_have_no_part_in_it():
    model = network()
    model.layers[0].weight, model.layers[4].bias = (p.detach() for p in (model.layers[0].weight, model.layers[4].bias))
    np.testing.assert_allclose(
        noise_of_examples(model, ag.cross_entropy, X, LABELS).squares, np.sum(one_by_one(model) ** 2, axis=1), rtol=1e-9
    )


def test_a_set_whose_gradients_say_nothing_has_no_noise_scale():
    """Gradients +1 and -1: the samples cancel, and the population's |G|^2 is estimated below 0."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    exact = noise_of_examples(
        model, lambda z, y: (z.reshape(-1) * y).mean(), np.ones((4, 1)), np.array([1.0, -1, 1, -1])
    )
    assert exact.population.noise_scale is None and exact.population.signal < 0.0


tied = nn.Linear(4, 4)


@pytest.mark.parametrize(
    "model, shape, text",
    [
        (nn.Linear(4, 4), (3, 4), "a Sequential of Linear and elementwise layers, got Linear: use noise_of_batches"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (3, 4), "elementwise layers, got LayerNorm"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax()), (3, 4), "elementwise layers, got Softmax"),
        (nn.Sequential(tied, tied), (3, 4), "layers that share no parameters"),
        (nn.Sequential(nn.Linear(4, 4)), (3, 2, 4), r"samples of one axis, got inputs of shape \(3, 2, 4\)"),
        (nn.Sequential(nn.Linear(4, 4)), (1, 4), "2 samples or more, got 1"),
    ],
)
def test_other_models_are_refused(model, shape, text):
    with pytest.raises(ConfigurationError, match=text):
        noise_of_examples(model, lambda z: z.mean(), np.ones(shape))


# --- micro-batches -------------------------------------------------------------------------------------------------


def linear(size):
    """A model whose loss is linear: the gradient of a sample is the sample."""
    return nn.Sequential(nn.Linear(size, 1, bias=False)), lambda z: z.reshape(-1)


@pytest.mark.parametrize("size, batch, truth", [(200, 8, 100.0), (10, 16, 30.0)])
def test_micro_batches_find_the_noise_scale_of_gaussian_gradients(size, batch, truth):
    model, loss = linear(size)
    found = []
    for seed in range(100):
        x = generator("gaussian", size, seed).standard_normal((128 * batch, size)) * np.sqrt(truth / size)
        found.append(noise_of_batches(model, loss, x + 1.0 / np.sqrt(size), batch=batch))
    assert abs(np.mean([f.trace for f in found]) / truth - 1.0) < 0.02
    error = np.std([f.signal for f in found]) / 10.0
    assert abs(np.mean([f.signal for f in found]) - 1.0) < 4.0 * error < 0.3
    assert sum(f.interval[0] <= truth <= f.interval[1] for f in found) >= 90
    assert all(f.interval[0] <= f.noise_scale <= f.interval[1] for f in found if f.noise_scale)
    assert sum(f.why is None and f.interval[1] < 2 * truth for f in found) > 80
    few = noise_of_batches(model, loss, x, batch=batch, count=16)
    assert few.interval[1] == np.inf and "samples may miss rare ones" in few.why


def test_of_a_finite_set_it_is_the_population_that_is_measured():
    """Batches without replacement: the mean of trace is the set's S^2, that of the signal |G_N|^2 - S^2 / N."""
    model, loss = linear(50)
    x = generator("finite").standard_normal((256, 50)) * 0.5 + 0.05
    exact = noise_of_examples(model, loss, x)
    found = [noise_of_batches(model, loss, x, batch=4, count=8, seed=seed) for seed in range(150)]
    for name in ("trace", "signal"):
        values = [getattr(f, name) for f in found]
        assert abs(np.mean(values) - getattr(exact.population, name)) < 4.0 * np.std(values) / np.sqrt(len(values))
        assert np.std(values) / np.sqrt(len(values)) < 0.1 * exact.train_set.signal + 0.01 * exact.population.trace


def test_the_ranks_share_the_micro_batches(simulate):
    model = network()
    results = [
        result
        for ranks in (1, 3)
        for result in simulate(
            ranks, lambda c: noise_of_batches(model, ag.cross_entropy, X, LABELS, batch=3, count=10, comm=c)
        )
    ]
    assert len(results) == 4 and len({*results}) == 1
    with pytest.raises(ConfigurationError, match="got 128 of 2 from 40 samples: take fewer or smaller ones"):
        noise_of_batches(model, ag.cross_entropy, X, LABELS, batch=2)


# --- losses that weigh samples ---------------------------------------------------------------------------------------


def test_micro_batches_count_by_the_labels_that_count():
    """The trace is that of the ratio of sums: each micro-batch's part in it, less its share of the whole gradient."""
    labels = np.where(np.arange(N) % 3 == 0, -100, LABELS)
    found = noise_of_batches(network(), ag.cross_entropy, X, labels, batch=5, count=N // 5)
    order = permutation(N, 0, "probe")[: N // 5 * 5].reshape(-1, 5)
    frozen = Frozen(network(), ag.cross_entropy, X, labels)
    weights = (labels[order] >= 0).sum(1)
    sums = np.array([w * frozen.gradient(at) for w, at in zip(weights, order)])
    G = frozen.gradient(order.reshape(-1))
    residuals = (sums - weights[:, None] * G) / weights.mean()
    trace = 5 * np.sum(residuals**2) / (len(order) - 1)
    assert (found.trace, found.signal) == pytest.approx((trace, G @ G - trace / order.size), rel=1e-9)


def test_exact_probes_refuse_samples_that_count_for_more_or_less():
    labels = np.where(np.arange(N) % 3 == 0, -100, LABELS)
    with pytest.raises(ConfigurationError, match=r"every sample counts alike.*use noise_of_batches"):
        noise_of_examples(network(), ag.cross_entropy, X, labels)
    with pytest.raises(ConfigurationError, match=r"every sample counts alike, got weights 0 and 1"):
        curvature(network(), ag.cross_entropy, X, labels, iterations=1)
