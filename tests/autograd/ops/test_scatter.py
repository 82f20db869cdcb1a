"""Writing elements to places along an axis.

A new operator is a new row of TABLE: see `table.py`.
"""

from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

REDUCTIONS = "sum", "prod", "mean", "amax", "amin"
ALONE = "include_self=False"
TABLE = [
    *cases([(3, 4), (3, 2)], "m.scatter(a, 1, m.array(AT), b)", "m.scatter_add(a, 1, m.array(PLACES), b)"),
    *cases([(3, 4), (4, 3)], "a.scatter_add(0, m.array(PLACES[:2] % 3), b[:2, :2])"),
    *cases([(3, 4), (3, 2)], *[f"m.scatter_reduce(a, 1, m.array(PLACES), b, '{r}')" for r in REDUCTIONS]),
    *cases([(3, 4), (3, 2)], *[f"a.scatter_reduce(1, m.array(PLACES), b, '{r}', {ALONE})" for r in REDUCTIONS]),
    *cases([(3, 4), (3, 2)], "m.scatter_reduce(a, 1, m.array(PLACES), b * b, 'amax')"),
    *cases([(3, 4)], "a.scatter(1, m.array(PLACES), 0.5) * a"),
    *cases([(3, 4), (2, 4)], "m.index_add(a, 0, m.array([2, 2]), b)", "a.index_add(0, m.array([0, 2]), b, alpha=-2)"),
    *cases([(3, 4), (2, 4)], "m.index_copy(a, 0, m.array([2, 1]), b) * a[0]"),
    *cases([(3, 4)], "m.index_fill(a, 1, m.array([2, 1]), 0.5) * a", "m.masked_select(a, m.array(MASK))"),
    *cases([(3, 4), (7,)], "m.masked_scatter(a, m.array(MASK), b) * a", "m.masked_scatter(a, m.array(MASK[0]), b)"),
    *cases([(3, 4)], "m.take(a, m.array([[0, 5], [5, 11]]))", "a.take(m.array(3)) * a"),
    *cases([(3, 4)], "a[0].masked_select(m.array(MASK))"),
    *cases([(3, 4), (2,)], "m.index_put(a, (m.array([0, 2]), m.array([1, 1])), b)"),
    *cases([(3, 4), (2,)], "a.index_put((m.array([2, 0]),), b[0])"),
    *cases([(3, 4), (2,)], "a.index_put((m.array([1, 1]), m.array([1, 1])), b, accumulate=True)"),
    *cases([(), ()], "a.scatter_add(0, m.array(0), b)", "a.index_fill(0, m.array(0), 2.0) * b + a"),
]  # fmt: skip
KINKS = [f"m.scatter_reduce(a, 1, m.array([[0, 0, 1], [2, 2, 2]]), a, '{r}')" for r in ("amax", "amin", "prod")]
