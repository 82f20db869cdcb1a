"""Normalisation over a layer, a group of channels or a batch.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases, over

TABLE = [
    *cases([(2, 4, 3), (3,), (3,)], "m.layer_norm(a, (3,), b, c)", "m.layer_norm(a, (4, 3), eps=0.1)"),
    *cases([(2, 4, 3), (4,), (4,)], "m.group_norm(a, 2, b, c)", "m.group_norm(a, 4, eps=0.1)"),
    *cases([(3, 4, 2), (4,), (4,)], "m.batch_norm(a, None, None, b, c, training=True)"),
    *over("m.layer_norm(a, a.shape[-1:], b, c)", [(3, 0), (0,), (0,)], [(0, 3), (3,), (3,)]),
    *cases([(0, 4, 2), (4,), (4,)], "m.batch_norm(a, None, None, b, c, training=True)"),
    *cases([(3, 4), (4,)], *(f"m.batch_norm(a, None, None, {p}, True)" for p in ("b, None", "None, b"))),
]  # fmt: skip


def test_a_long_batch_of_large_float32_numbers_is_normalised_by_its_own_variance():
    """Added one by one, 200,000 numbers near 1000 have another mean, and so a variance above 1."""
    x = (np.random.default_rng(0).standard_normal((200_000, 3)) + 1000).astype(np.float32)
    y = ag.batch_norm(x, training=True).data
    np.testing.assert_allclose(y.std(0, dtype=float), 1.0, rtol=1e-4)
    np.testing.assert_allclose(y.mean(0, dtype=float), 0.0, atol=1e-3)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_an_empty_batch_leaves_the_running_statistics(array):
    mean, variance = np.zeros(2), np.ones(2)
    assert ag.batch_norm(ag.tensor(array(np.zeros((0, 2)))), mean, variance, training=True).shape == (0, 2)
    assert mean.tolist() == [0.0, 0.0] and variance.tolist() == [1.0, 1.0]
    y = ag.batch_norm(ag.tensor(array(np.ones((3, 2), np.float32))), mean, variance)  # NumPy's, of another dtype
    assert "float32" in str(y.dtype)
