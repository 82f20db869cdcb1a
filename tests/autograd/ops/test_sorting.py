"""Order along an axis.

A new operator is a new row of TABLE: see `table.py`.
"""

from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases
from tests.autograd.ops.values import *  # noqa: F403 - the test of each row of VALUES

BETWEEN = "lower", "higher", "midpoint", "nearest"
TABLE = [
    *cases([(3, 4)], "m.sort(a).values * a", "m.sort(a, 0, True).values", "a.sort(descending=True)[0]"),
    *cases([(3, 4)], "m.msort(a) * a"),
    *cases([(3, 4)], "a[m.argsort(a[:, 0])]", "a.take_along_dim(a.argsort(1, descending=True), 1) * a"),
    *cases([(3, 4)], "m.topk(a, 2).values", "a.topk(2, 0, largest=False).values * a[:2]", "m.kthvalue(a, 2).values"),
    *cases([(3, 4)], "a.kthvalue(1, 0, True)[0] * a", "m.median(a)", "m.median(a, 1)[0]"),
    *cases([(3, 4)], "a.median(0, keepdim=True)[0] * a"),
    *cases([(3, 4)], "m.cummax(a, 1)[0] * a", "m.cummin(a, 0).values", "m.aminmax(a, dim=1)[0] * a.aminmax()[1]"),
    *cases([(3, 4)], "m.quantile(a, 0.3)", "a.quantile(m.array(np.array([0.2, 0.9])), 1)"),
    *cases([(3, 4)], "a.quantile(0.7, 0, True) * a"),
    *cases([(3, 4)], *[f"m.quantile(a, 0.4, 1, interpolation='{i}')" for i in BETWEEN]),
    *cases([()], "a.sort()[0] * a", "a.median()", "m.cummax(a, 0)[0]", "a.topk(1).values"),
]  # fmt: skip
KINKS = ["m.median(a)", "m.sort(a, stable=True)[0]", "m.cummax(a, 1)[0]", "m.cummin(a, 1)[0]", "m.aminmax(a)[0]"]
VALUES = [
    "m.sort(a)", "m.sort(b, 0, descending=True)", "m.argsort(i, stable=True)",
    "m.sort(i, descending=True, stable=True)",
    "m.cummax(a, 1)", "m.cummin(b, 0)", "m.median(a)", "m.median(b, 1, keepdim=True)[0]", "m.topk(b, 3, 0)",
    "m.median(i)",
    "m.kthvalue(a[1:], 2, 0)", "m.quantile(a[0], 0.3)", "m.quantile(p, p, keepdim=True)",
]  # fmt: skip
