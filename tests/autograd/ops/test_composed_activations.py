"""Activation functions made of others.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np

import allgrad as ag
from allgrad.autograd.random import keyed
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.large import *  # noqa: F403 - the test of each row of LARGE
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4)], "m.relu6(a * 4)", "m.hardswish(a * 2)", "m.mish(a)", "m.celu(a, 0.5)"),
    *cases([(3, 4)], "m.hardsigmoid(a * 2)", torch="m.relu6(a * 2 + 3) / 6"),  # whose own 1 / 6 is a float32
    *cases([(3, 4)], "m.selu(a)", "m.logsigmoid(a)", "m.glu(a)", "m.glu(a, 1)", "m.tanhshrink(a)"),
    *cases([(3, 4)], "m.softmin(a, 0)", "m.softmin(a, dim=1)"),
    *cases([(3, 4)], "m.softshrink(a, 0.3)", "m.threshold(a, 0.2, 3.0)"),
    *cases([(3, 4)], "m.hardshrink(a)", "m.hardshrink(a, 0.2)"),
    *cases([(2, 3, 2), (3,)], "m.prelu(a, b)"),
    *cases([(3, 4), (1,)], "m.prelu(a, b)"),
    *cases([(3, 4)], "m.softsign(a)", "0.0 * m.gumbel_softmax(a) + a", "a.hardshrink(0.8)"),
]
KINKS = [
    "m.relu6(a * 6)", "m.hardswish(a * 3)", "m.softshrink(a, 1.0)", "m.hardshrink(a, 1.0)",
    "m.celu(a)", "m.selu(a)", "m.threshold(a, 1.0, 0.0)", "m.softsign(a)", "m.hardswish(-3 * a)",
]  # fmt: skip


def test_nan_stays_nan():
    for activation in ag.hardswish, ag.hardsigmoid, ag.relu6, ag.softshrink, ag.hardshrink, ag.mish, ag.softsign:
        assert np.isnan(activation(ag.tensor([np.nan, 1.0])).data).tolist() == [True, False], activation


LARGE = ["m.mish(a)", "m.celu(a)", "m.softsign(a)", "m.softmin(a, 1)", "m.selu(a)", "m.logsigmoid(a)"]


def test_a_sample_of_classes_has_their_probabilities_and_the_gradient_of_the_soft_one():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32)) + np.zeros((20_000, 1), np.float32)
    with keyed("gumbel"):
        y = ag.gumbel_softmax(logits, hard=True).numpy()
    assert set(np.unique(y.round(6))) == {0.0, 1.0} and abs(y.mean(0) - [0.5, 0.3, 0.2]).max() < 5 * 0.5 / 20_000**0.5
    gradients = []
    for hard in (False, True):
        with keyed("gumbel"):
            _, pullback = ag.vjp(lambda x: ag.gumbel_softmax(x, 0.5, hard), logits[:5])
        gradients.append(pullback(np.cos(np.arange(15.0, dtype="f")).reshape(5, 3))[0])
    np.testing.assert_array_equal(*gradients)
