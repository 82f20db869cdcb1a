"""Gradients that are still to be computed: outer products and scattered pieces, and where they are added up."""

import numpy as np
import pytest

import allgrad as ag


@pytest.mark.parametrize(
    "f",
    [
        lambda y: (y[0] * y[1] + y[1:, 2].sum() * y[0]).sum(),
        lambda y: (y[0] * y).sum() + (y[y.data > 0] ** 2).sum(),
        lambda y: (y * y[1]).sum() + (y[[0, 0]] * y[2]).sum(),
    ],
)
def test_pieces_of_an_array_add_up_with_each_other_and_the_whole(f):
    x = np.random.default_rng(0).normal(size=(3, 3))
    ag.gradcheck(lambda x: f(x * 1.0), x)
    hessian = ag.hessian(lambda x: f(x * 1.0))(x).reshape(9, 9)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12)
    leaf = ag.tensor(x, requires_grad=True)
    loss = f(leaf * 1.0)
    loss.backward(retain_graph=True)
    once = leaf.grad.copy()
    loss.backward()
    np.testing.assert_array_equal(leaf.grad, 2.0 * once)
