"""Where operators have kinks or ties, the derivative is torch's: run on the expressions in KINKS of each file."""

import numpy as np

import allgrad as ag
from tests.autograd.ops.table import OURS, TIES, Case, compare_with_torch, run, run_on_torch, weights

__all__ = ["test_kinks_and_ties_follow_torch", "test_kinks_and_ties_are_the_same_in_nested_transformations"]


def test_kinks_and_ties_follow_torch(kink):
    case = Case(kink, ((2, 3),))
    compare_with_torch(case, [TIES])
    y, gradients = run(case, [TIES])
    on_torch, gradients_on_torch = run_on_torch(case, [TIES])
    np.testing.assert_allclose(on_torch, y.data, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradients_on_torch[0], gradients[0], rtol=1e-12, atol=1e-14)


def test_kinks_and_ties_are_the_same_in_nested_transformations(kink):
    """There a rule computes on Tensors, so that the value it gives is differentiated too."""
    case = Case(kink, ((2, 3),))
    y, (gradient,) = run(case, [TIES])
    with np.errstate(invalid="ignore"):  # where the gradient is 0, the Hessian may not exist
        nested, pullback = ag.vjp(lambda x: ag.vjp(lambda x: case(OURS, x), x)[0], TIES)
    np.testing.assert_array_equal(nested, y.data)
    np.testing.assert_allclose(pullback(weights(y.shape))[0], gradient, rtol=1e-12, atol=1e-13)
