"""Curvature along gradients, against quadratics and enumeration."""

import itertools

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError
from allgrad.ddp.scaling import Frozen, curvature, hessian_product, largest_eigenvalue
from tests.ddp.scaling.network import LABELS, X, network


def linear(size):
    """A model whose loss is linear: the gradient of a sample is the sample."""
    return nn.Sequential(nn.Linear(size, 1, bias=False)), lambda z: z.reshape(-1)


def quadratic(n=60, d=5):
    """Half of the squared error of a linear model: H is the mean of x x', and g_i = x_i (x_i w - y_i)."""
    rng = generator("quadratic")
    x, y = rng.standard_normal((n, d)) * np.arange(1, d + 1), rng.standard_normal(n)
    model = nn.Sequential(nn.Linear(d, 1, bias=False))
    w = model.layers[0].weight.numpy().astype("f8").reshape(-1)
    return model, lambda z, y: 0.5 * ((z.reshape(-1) - y) ** 2).mean(), x, y, x.T @ x / n, x * (x @ w - y)[:, None]


def test_the_hessian_of_a_quadratic():
    model, loss, x, y, H, g = quadratic()
    frozen, v = Frozen(model, loss, x, y), np.zeros(8)
    v[:5] = generator("v").standard_normal(5)
    np.testing.assert_allclose(hessian_product(frozen, v)[:5], H @ v[:5], rtol=1e-5)
    assert largest_eigenvalue(frozen) == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=1e-3)
    found, G = curvature(model, loss, x, y, examples=60), g.mean(0)
    trace = np.trace(H @ np.cov(g.T, ddof=0))
    expected = G @ G, G @ H @ G, trace, trace / (G @ H @ G), G @ G / (G @ H @ G)
    names = "signal", "along", "trace", "noise_scale", "eta_max"
    assert [getattr(found, name) for name in names] == pytest.approx(expected, rel=1e-6)
    some = curvature(model, loss, x, y, examples=30)
    assert abs(some.noise_scale - found.noise_scale) < 4.0 * some.noise_scale_error


def test_the_products_with_the_hessian_of_a_network_are_symmetric_and_its_gradients_slope():
    frozen = Frozen(network(), ag.cross_entropy, X, LABELS)
    u, v = (frozen.gradient(slice(i, i + 9)) for i in (0, 20))
    product = hessian_product(frozen, u)
    assert v @ product == pytest.approx(u @ hessian_product(frozen, v), rel=1e-10)
    ahead, behind = (frozen.gradient(weights=frozen.weights + e * u) for e in (1e-7, -1e-7))
    np.testing.assert_allclose((ahead - behind) / 2e-7, product, rtol=1e-4, atol=1e-7)
    assert (hessian_product(frozen, 0.0 * v) == 0.0).all()


def test_without_positive_curvature_along_the_gradient_there_is_no_best_rate():
    model, loss = linear(3)
    found = curvature(model, lambda z: loss(z) - 0.5 * loss(z) ** 2, np.eye(3), examples=3, iterations=2)
    assert found.along < 0.0 and found.largest < 0.0
    assert found.noise_scale is found.eta_max is found.noise_scale_error is None
    with pytest.raises(ConfigurationError, match="examples are 2 or more and iterations 1 or more, got 1 and 30"):
        curvature(model, loss, np.eye(3), examples=1)


def test_the_best_rate_is_where_the_loss_of_noisy_steps_is_least():
    """A quadratic, all batches of 2 of 6 samples with replacement enumerated: eta_max / (1 + B_noise / B)."""
    model, loss, x, y, H, g = quadratic(n=6, d=3)
    found, G = curvature(model, loss, x, y, examples=6), g.mean(0)
    steps = [(g[i] + g[j]) / 2 for i, j in itertools.product(range(6), repeat=2)]
    rates = found.eta_max / (1.0 + found.noise_scale / 2) * np.array([0.99, 1.0, 1.01])
    losses = [np.mean([-eta * (G @ s) + eta**2 / 2 * (s @ H @ s) for s in steps]) for eta in rates]
    assert losses[1] < min(losses[0], losses[2])
