"""What dropout layers drop; without dropping they are rows of test_layers."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("axes, shape, channels", [(1, (40, 30, 7), 2), (1, (900, 7), 1), (2, (40, 30, 3, 2), 2),
                                                   (2, (40, 30, 7), 2), (3, (40, 30, 2, 2, 2), 2),
                                                   (3, (900, 2, 2, 2), 1)])  # fmt: skip
def test_whole_channels_are_dropped(axes, shape, channels, device):
    layer = getattr(nn, f"Dropout{axes}d")(0.25)
    x = ag.tensor(torch.ones(shape) if device == "cpu" else np.ones(shape, "f"), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    rows = y.numpy().reshape(np.prod(shape[:channels]), -1)
    assert np.all(rows == rows[:, :1]) and np.array_equal(x.grad, y.data)
    assert {*np.unique(rows)} == {np.float32(0.0), np.float32(4 / 3)}
    assert abs(np.mean(rows == 0.0) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / len(rows))
    layer.eval()
    assert layer(x) is x


def test_alpha_dropout_keeps_the_moments_of_a_normal_variable():
    x, n = np.random.default_rng(0).normal(size=(200, 500)), 100_000
    y = nn.AlphaDropout(0.3)(ag.tensor(x)).numpy()
    assert abs(y.mean()) < 5 / np.sqrt(n) and abs(y.var() - 1.0) < 5 * np.sqrt(3 / n)
    values, counts = np.unique(y, return_counts=True)
    assert abs(counts.max() / n - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)  # all that were dropped are one number
    a = 1 / np.sqrt((1.7580993408473766**2 * 0.3 + 1) * 0.7)
    assert values[counts.argmax()] == pytest.approx(-1.7580993408473766 * a * 0.7)
    assert not nn.AlphaDropout(1.0)(ag.tensor(x)).numpy().any()
