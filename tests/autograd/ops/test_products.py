"""Products of vectors and matrices, distances and angles.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(4,), (4,)], "m.dot(a, b)", "m.inner(a, b)", "m.kron(a, b)", "m.dist(a, b)"),
    *cases([(4,), (4,)], "m.cosine_similarity(a, b, dim=0)"),
    *cases([(3, 4), (4,)], "m.mv(a, b)", "m.addmv(a[:, 0], a, b, beta=0.5)", "a.inner(b)", "m.kron(a, b)"),
    *cases([(3, 4), (3,), (4,)], "m.addr(a, b, c, alpha=2)"),
    *cases([(3, 2), (3, 4), (4, 2)], "m.addmm(a, b, c, beta=0.5, alpha=2)", "m.addmm(a[0], b, c)"),
    *cases([(3, 2), (3, 4), (4, 2)], "a.addmm(b, c, beta=0)"),
    *cases([(2, 3, 2), (2, 3, 4), (2, 4, 2)], "m.baddbmm(a, b, c, alpha=-1)"),
    *cases([(2, 3, 4), (3, 4, 5)], "m.tensordot(a, b)", "m.tensordot(a, b, ([1], [0]))", "m.tensordot(a, b[0], 1)"),
    *cases([(2, 3), (4, 3)], "m.cdist(a, b)", "m.cdist(a, b, p=1.0)", "m.cross(a[0], b[1], dim=0)"),
    *cases([(2, 3), (4, 3)], "m.cross(a, b[:2], dim=-1)"),
    *cases([(3, 4), (3, 4)], "m.cosine_similarity(a, b)", "m.pairwise_distance(a, b)", "m.dist(a, b, 3)"),
    *cases([(3, 4)], "m.normalize(a)", "m.normalize(a, p=3.0, dim=0)"),
]  # fmt: skip


def test_beta_0_takes_nothing_from_what_is_added_to():
    assert ag.addmm(np.full((1, 1), np.nan), np.ones((1, 1)), np.ones((1, 1)), beta=0).tolist() == [[1.0]]


def test_equal_vectors_have_distance_0_with_derivative_0():
    _, pullback = ag.vjp(lambda x: ag.cdist(x, x), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert np.isfinite(pullback(np.ones((2, 2)))[0]).all()
