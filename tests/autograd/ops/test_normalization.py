"""Normalisation over a layer, a group of channels or a batch.

A new operator is a new row of TABLE: see `table.py`.
"""

from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(2, 4, 3), (3,), (3,)], "m.layer_norm(a, (3,), b, c)", "m.layer_norm(a, (4, 3), eps=0.1)"),
    *cases([(2, 4, 3), (4,), (4,)], "m.group_norm(a, 2, b, c)", "m.group_norm(a, 4, eps=0.1)"),
    *cases([(3, 4, 2), (4,), (4,)], "m.batch_norm(a, None, None, b, c, training=True)"),
    *cases([(3, 4), (4,)], *(f"m.batch_norm(a, None, None, {p}, True)" for p in ("b, None", "None, b"))),
]  # fmt: skip
