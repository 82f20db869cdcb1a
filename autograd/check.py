"""Derivatives checked against the definition."""

import numpy as np

from autograd.core import Tensor, innermost
from autograd.random import generator
from autograd.transforms import grad, vjp


def gradcheck(f, *arrays, order=1, eps=1e-5, tolerance=1e-6, analytic=False):
    """Compare the derivatives of f with differences along random directions; AssertionError where they disagree.

    f maps float64 arrays to one tensor. Numerically, d<u, f>/dt along x + t v is a central difference with step eps,
    or, for analytic functions, Im <u, f(x + i h v)> / h with h = 1e-20, which is exact to rounding (Squire and Trapp
    1998). order=2 checks the derivative of the derivative in the same way.
    """
    xs = [np.array(a, dtype=np.float64) for a in arrays]
    rng = generator("gradcheck", *[x.shape for x in xs])
    vs = [rng.standard_normal(x.shape) for x in xs]
    y, pullback = vjp(f, *xs)
    u = rng.standard_normal(y.shape)
    by_rule = sum(float((d * v).sum()) for d, v in zip(pullback(u), vs))
    by_difference = _directional(f, xs, vs, u, eps, analytic)
    scale = 1.0 + abs(by_rule) + abs(by_difference)
    if not abs(by_rule - by_difference) <= tolerance * scale:
        raise AssertionError(f"gradcheck: the rules give {by_rule:.12g}, differences {by_difference:.12g}")
    if order > 1:
        for i in range(len(xs)):
            slope = grad(lambda *a: (f(*a) * u).sum(), i)
            gradcheck(slope, *xs, order=order - 1, eps=eps, tolerance=tolerance, analytic=False)


def _directional(f, xs, vs, u, eps, analytic):
    def along(t):
        return (np.asarray(innermost(f(*[Tensor(x + t * v) for x, v in zip(xs, vs)]))) * u).sum()

    if analytic:
        return float(along(1e-20j).imag / 1e-20)
    return float((along(eps) - along(-eps)) / (2.0 * eps))
