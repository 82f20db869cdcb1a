"""Activation functions made of others.

A new operator is a new row of TABLE: see `table.py`.
"""

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
]
KINKS = [
    "m.relu6(a * 6)", "m.hardswish(a * 3)", "m.softshrink(a, 1.0)", "m.hardshrink(a, 1.0)",
    "m.celu(a)", "m.selu(a)", "m.threshold(a, 1.0, 0.0)",
]  # fmt: skip
LARGE = ["m.mish(a)", "m.celu(a)", "m.selu(a)", "m.logsigmoid(a)"]
