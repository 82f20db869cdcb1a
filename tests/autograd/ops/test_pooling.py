"""Pooling of images.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.properties import SEEDS, check_with_torch, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(2, 2, 5, 6)], "m.max_pool2d(a, 2)", "m.max_pool2d(a[0], (3, 2), 1, (1, 0), ceil_mode=True)"),
    *cases([(2, 2, 5, 6)], "m.avg_pool2d(a, 2)", "m.avg_pool2d(a, 3, 2, 1, True, False)"),
    *cases([(2, 2, 5, 6)], "m.avg_pool2d(a, 2, ceil_mode=True)"),
    *cases([(2, 2, 5, 6)], "m.adaptive_avg_pool2d(a, (2, 3))", "m.adaptive_avg_pool2d(a, (None, 4))"),
]  # fmt: skip
KINKS = ["m.max_pool2d(a.reshape(1, 2, 3), 2, 1)"]


@settings(max_examples=60)
@given(st.data(), SEEDS)
def test_pooling_is_that_of_torch_also_where_elements_are_equal(data, seed):
    name = data.draw(st.sampled_from(["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"]))

    def pair(least, most):
        return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    size, batch = pair(2, 7), data.draw(st.sampled_from([(), (2,)]))
    (x,) = normal(seed, (*batch, 2, *size))
    if name == "adaptive_avg_pool2d":
        args, options = (pair(1, 5),), {}
    else:
        kernel = pair(1, 4)
        args, options = (kernel,), {"padding": tuple(data.draw(st.integers(0, k // 2)) for k in kernel)}
        options["stride"] = pair(1, 3) if data.draw(st.booleans()) else None
        options["ceil_mode"] = data.draw(st.booleans())
        dilation = pair(1, 2) if name == "max_pool2d" else (1, 1)
        assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, options["padding"], dilation, kernel)))
        if name == "max_pool2d":
            options["dilation"], x = dilation, np.round(x)
        else:
            options["count_include_pad"] = data.draw(st.booleans())
            options["divisor_override"] = data.draw(st.sampled_from([None, 3]))
    check_with_torch(lambda m, x: getattr(ag if m is ag else F, name)(x, *args, **options), x, seed=seed)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_a_window_of_padding_alone_is_minus_infinity_and_has_no_gradient(array):
    """torch's own kernel writes out of bounds there."""
    x = ag.tensor(array(np.arange(18.0).reshape(2, 3, 1, 3)), requires_grad=True)
    y = ag.max_pool2d(x, (2, 1), None, (1, 0), (2, 3), True)
    y.sum().backward()
    assert y.shape == (2, 3, 1, 3) and np.isneginf(y.numpy()).all() and not np.asarray(x.grad).any()


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_integers_are_pooled_as_they_are_also_over_the_edge(array):
    y = ag.max_pool2d(ag.tensor(array(-np.arange(1, 19).reshape(1, 3, 6))), 3, 2, ceil_mode=True)
    assert "int64" in str(y.dtype) and y.tolist() == [[[-1, -3, -5]]]
