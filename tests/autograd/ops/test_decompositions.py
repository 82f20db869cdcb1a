"""Linear equations, inverses, determinants, Cholesky factors.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(2, 3, 3)], "m.det(a)", "m.slogdet(a)[1]", "m.linalg.inv(a) @ a[0]", "m.matrix_power(a, 3)", "a.inverse()"),
    *cases([(2, 3, 3)], "m.inv(a)", torch="m.inverse(a)"),
    *cases([(3, 3)], "m.matrix_power(a, -2)", "m.matrix_power(a, 0) * a", "a.det() * a", "a.slogdet().logabsdet"),
    *cases([(3, 3)], "m.cholesky(a @ a.mT + a.mT @ a)", torch="m.linalg.cholesky(a @ a.mT + a.mT @ a)"),
    *cases([(3, 3)], "m.logdet(a @ a.mT)", "m.linalg.cholesky(a @ a.T, upper=True)"),
    *cases([(3, 3), (3, 2)], "m.linalg.solve(a, b)", "m.linalg.solve(a, b[:, 0])"),
    *cases([(3, 3), (3, 2)], "m.linalg.solve(a, b.T, left=False)"),
    *cases([(2, 3, 3), (2, 3)], "m.linalg.solve(a, b)", "m.linalg.solve(a, b[..., None])"),
    *cases([(3, 3), (3, 2)], "m.solve(a, b)", torch="m.linalg.solve(a, b)"),
]  # fmt: skip


def minors(a, i, j):
    return np.linalg.det(np.delete(np.delete(a, i, 0), j, 1)) * (-1) ** (i + j)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_a_singular_matrix_has_a_determinant_with_derivatives(array):
    """Its minors with their signs, by definition: torch gives zeros for some."""
    for matrix in (np.array([[1.0, 2.0], [2.0, 4.0]]), np.zeros((2, 2)), np.diag([1.0, 0.0, 2.0])):
        y, pullback = ag.vjp(ag.det, array(matrix))
        np.testing.assert_allclose(y, 0.0, atol=1e-15)
        expected = [[minors(matrix, i, j) for j in range(len(matrix))] for i in range(len(matrix))]
        np.testing.assert_allclose(pullback(array(np.float64(1.0)))[0], expected, atol=1e-12)


def test_the_logarithm_of_a_negative_determinant_is_nan():
    assert np.isnan(ag.logdet(np.diag([1.0, -1.0])).item()) and ag.slogdet(np.diag([1.0, -2.0])).sign == -1.0
