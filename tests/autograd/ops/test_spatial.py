"""Convolution and pooling of signals and volumes.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(2, 2, 3, 4, 3), (2, 2, 2, 2, 2), (2,)], "m.conv3d(a, b, c)"),
    *cases([(2, 2, 3, 4, 3), (2, 2, 2, 2, 2), (2,)], "m.conv3d(a[0], b, c, dilation=2, padding='same')"),
    *cases([(1, 2, 4, 4, 3), (4, 1, 2, 1, 2)], "m.conv3d(a, b, None, (2, 1, 1), (1, 0, 2), (2, 1, 1), 2)"),
    *cases([(2, 2, 5), (2, 1, 3), (2,)], "m.conv_transpose1d(a, b, c, 3, 1, 2, 2)"),
    *cases([(2, 2, 5), (2, 1, 3), (2,)], "m.conv_transpose1d(a[0], b, groups=2)"),
    *cases([(1, 2, 2, 2, 3), (2, 2, 2, 3, 1), (2,)], "m.conv_transpose3d(a, b, c)"),
    *cases([(2, 2, 2, 2, 1), (2, 1, 3, 2, 1)],
           "m.conv_transpose3d(a, b, None, (3, 1, 2), (2, 0, 0), (2, 0, 1), 2, (2, 1, 1))"),
    *cases([(2, 2, 7)], "m.max_pool1d(a, 3, 2, 1)", "m.max_pool1d(a[0], 2, dilation=2, ceil_mode=True)"),
    *cases([(2, 2, 7)], "m.avg_pool1d(a, 3, 2, 1, True, False)", "m.avg_pool1d(a[0], 2)"),
    *cases([(2, 2, 7)], "m.lp_pool1d(a, 2, 3, 2)", "m.adaptive_avg_pool1d(a, 3)", "m.adaptive_max_pool1d(a, 3)"),
    *cases([(1, 2, 4, 5)], "m.lp_pool2d(a, 2, (2, 3), ceil_mode=True)", "m.adaptive_max_pool2d(a, (None, 3))"),
    *cases([(1, 2, 4, 5, 3)], "m.max_pool3d(a, 2)"),
    *cases([(1, 2, 4, 5, 3)], "m.max_pool3d(a[0], (2, 3, 2), (1, 2, 1), (1, 1, 0), ceil_mode=True)"),
    *cases([(1, 2, 4, 5, 3)], "m.avg_pool3d(a, 2)", "m.avg_pool3d(a[0], 2, (1, 2, 2), 1, True, False)"),
    *cases([(1, 2, 4, 5, 3)], "m.avg_pool3d(a, 3, 2, 1, divisor_override=5)"),
    *cases([(1, 2, 4, 5, 3)], "m.adaptive_avg_pool3d(a, (2, 3, None))", "m.adaptive_max_pool3d(a, (3, 2, 1))"),
    *cases([(2, 4, 2, 3)], "m.pixel_shuffle(a, 2)", "m.pixel_shuffle(a[0], 1)"),
    *cases([(2, 4, 6)], "m.pixel_unshuffle(a, 2)"),
]  # fmt: skip
KINKS = [
    "m.max_pool1d(a, 2, 1)", "m.adaptive_max_pool1d(a, 2)", "m.adaptive_max_pool2d(a.reshape(1, 2, 3), (1, 2))",
    "m.max_pool3d(a.reshape(1, 1, 2, 3), (1, 2, 2), 1)",
]  # fmt: skip


@pytest.mark.parametrize("pool, axes", [("max_pool", 1), ("max_pool", 3), ("adaptive_max_pool", 1),
                                        ("adaptive_max_pool", 2), ("adaptive_max_pool", 3)])  # fmt: skip
def test_indices_are_places_of_the_flattened_input_also_among_equals(pool, axes):
    x = np.round(np.random.default_rng(0).normal(size=(2, 3, *(5, 6, 7)[:axes])))
    want = getattr(F, f"{pool}{axes}d")(torch.from_numpy(x), 2, return_indices=True)
    for array in (x, torch.from_numpy(x)):
        y, places = getattr(ag, f"{pool}{axes}d")(ag.tensor(array), 2, return_indices=True)
        assert np.array_equal(y.numpy(), want[0]) and np.array_equal(places, want[1])
