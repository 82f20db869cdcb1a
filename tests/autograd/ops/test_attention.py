"""Scaled dot-product attention, with masks of every kind.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(2, 3, 4), (2, 5, 4), (2, 5, 6)], "m.scaled_dot_product_attention(a, b, c)"),
    *cases([(2, 3, 4), (2, 5, 4), (2, 5, 6)], "m.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3)"),
    *cases([(3, 4), (4, 4), (4, 2)], "m.scaled_dot_product_attention(a, b, c, m.array(MASK & (PLACES[:, :1] > 0)))"),
    *cases([(3, 4), (4, 4), (4, 2)], "m.scaled_dot_product_attention(a, b, c, b[:3])"),
    *cases([(3, 0), (3, 0), (3, 2)], "m.scaled_dot_product_attention(a, b, c)"),
    *cases([(4, 3, 2), (2, 3, 2), (2, 3, 5)], "m.scaled_dot_product_attention(a, b, c, enable_gqa=True)"),
]  # fmt: skip


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
@pytest.mark.parametrize("dtype", [np.float64, bool])
def test_attention_takes_masks_of_numpy_and_keeps_its_dtype(array, dtype):
    q = ag.tensor(array(np.arange(12.0, dtype=np.float32).reshape(3, 4) / 12), requires_grad=True)
    allowed = np.tri(3, dtype=bool)
    mask = allowed if dtype is bool else np.where(allowed, 0.0, -np.inf)
    y = ag.scaled_dot_product_attention(q, q, q, mask)
    expected = ag.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert y.dtype == q.dtype and np.array_equal(y.numpy(), expected.numpy())


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_numbers_too_large_for_half_precision_hide_as_infinities_do(array):
    mask = np.tri(3, dtype=np.float32) * 1e9 - 1e9
    mask[1] = -1e9
    found = []
    for hidden in (mask, np.where(mask < 0.0, -np.inf, 0.0)):
        q = ag.tensor(array(np.arange(12, dtype=np.float16).reshape(3, 4) / 12), requires_grad=True)
        y = ag.scaled_dot_product_attention(q, q, q, array(hidden))
        y.sum().backward()
        found.append((y.numpy().tobytes(), np.asarray(q.grad).tobytes()))
        assert not y.numpy()[1].any() and np.isfinite(np.asarray(q.grad)).all()
    assert found[0] == found[1]


def test_a_mask_of_booleans_may_be_a_tensor():
    q, mask = np.arange(12.0).reshape(3, 4) / 12, np.tri(3, dtype=bool)
    y, expected = (ag.scaled_dot_product_attention(q, q, q, m).numpy() for m in (ag.tensor(mask), mask))
    assert np.array_equal(y, expected)
