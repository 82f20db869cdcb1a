"""Running products and sums, differences, and what leaves nan out.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.large import *  # noqa: F403 - the test of each row of LARGE
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4)], "m.cumprod(a, 0)", "a.cumprod(-1) * a", "m.logcumsumexp(a, 1)", "a.logcumsumexp(0) * a"),
    *cases([(3, 4)], "m.diff(a)", "m.diff(a, 2, 0)", "a.diff(dim=0, prepend=a[:1] * 2)", "m.diff(a, append=a[:, :2])"),
    *cases([(3, 4)], "m.nansum(a, 0)", "m.nansum(a)", "m.nanmean(a, dim=1, keepdim=True)", "a.nanmean()"),
    *cases([()], "a.cumprod(0)", "a.logcumsumexp(0)"),
]  # fmt: skip
KINKS = ["m.cumprod(a, 1)", "m.logcumsumexp(a, 0)"]
LARGE = ["m.logcumsumexp(a, 1)"]


def test_nan_counts_for_nothing():
    x = np.array([[1.0, np.nan], [np.nan, 3.0], [5.0, 4.0]])
    y, pullback = ag.vjp(lambda x: ag.nanmean(x, 0) + ag.nansum(x, 0), x)
    assert y.tolist() == [9.0, 10.5] and pullback(np.ones(2))[0].tolist() == [[1.5, 0.0], [0.0, 1.5], [1.5, 1.5]]
