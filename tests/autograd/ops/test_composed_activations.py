"""Activation functions composed of others.

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
    *cases([(3, 4)], "m.relu6(4 * a)", "m.hardswish(2 * a)", "m.mish(a)", "m.celu(a)", "m.celu(a, 0.5)", "m.selu(a)"),
    *cases([(3, 4)], "m.hardsigmoid(2 * a)", torch="m.hardtanh(2 * a, -3.0, 3.0) / 6 + 0.5"),  # with 1 / 6 exact
    *cases([(3, 4)], "m.logsigmoid(a)", "m.softsign(a)", "m.tanhshrink(a)", "m.threshold(a, 0.3, -2.0) * a"),
    *cases([(3, 4)], "m.hardshrink(a)", "a.hardshrink(0.8)", "m.softshrink(a)", "m.softshrink(a, 0.8)", "m.glu(a)"),
    *cases([(3, 4)], "m.glu(a, 1) * a[:, :2]", "m.softmin(a, 1)", "m.softmin(a, dim=0)"),
    *cases([(3, 4), (4,)], "m.prelu(a, b)", "m.prelu(a, b[:1])"),
    *cases([(3, 4)], "0.0 * m.gumbel_softmax(a) + a"),
]  # fmt: skip
KINKS = [
    "m.relu6(6 * a)", "m.hardswish(3 * a)", "m.celu(a)", "m.selu(a)", "m.threshold(a, 0.0, 2.0)",
    "m.hardshrink(a, 1.0)",
    "m.softshrink(a, 1.0)", "m.softsign(a)", "m.hardswish(-3 * a)",
]  # fmt: skip
LARGE = ["m.logsigmoid(a)", "m.mish(a)", "m.softsign(a)", "m.selu(a)", "m.celu(a)", "m.softmin(a, 1)"]


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
