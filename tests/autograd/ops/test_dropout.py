"""Dropout: its masks, the mean that they keep, and the key that they depend on.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import keyed
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(6, 7)], "m.dropout(a, 0.25)", torch="a * m.array(ag.dropout(np.ones((6, 7)), 0.25).data)"),
    *cases([(3, 4)], "m.dropout(a, 0.25, training=False) * a", "m.dropout(a, 0.0) * a", "m.dropout(a, 1.0) * a"),
]  # fmt: skip


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_keeps_the_mean_and_depends_on_the_key_alone(p):
    def draw(*key):
        with keyed(*key):
            return nn.Dropout(p)(ag.tensor(np.ones((300, 100)))).data

    y, n = draw("a"), 30_000
    kept = y[y > 0.0]
    assert abs(kept.size - n * (1 - p)) <= 4.0 * np.sqrt(n * p * (1 - p))
    np.testing.assert_allclose(kept, 1.0 / (1.0 - p) if p < 1.0 else [], rtol=2.0**-12)
    np.testing.assert_array_equal(y, draw("a"))
    assert p in (0.0, 1.0) or (y != draw("b")).any()


def test_dropout_masks_belong_to_the_key_in_force():
    def draw(*key):
        with keyed(*key):
            return ag.dropout(np.ones(64)).tolist(), ag.dropout(np.ones(64)).tolist()

    assert draw(0, 1) == draw(0, np.int64(1)) != draw(1, 0)
    assert draw(0)[0] != draw(0)[1]
