"""`gradcheck`: derivatives by rules beside finite differences."""

import numpy as np

from allgrad.autograd.engine import Tensor, grad, unwrap, vjp
from allgrad.autograd.random import generator


def gradcheck(f, *arrays, order=1, eps=1e-5, tolerance=1e-6, analytic=False):
    """Compare the derivatives of f with finite differences; returns True, or raises AssertionError where they disagree.

    f maps Tensors of these arrays, converted to float64, to one Tensor. Compared is <u, df/dx v>, for random u of the
    shape of the result and random v of those of the arguments: by the vjps, and by a central difference of step eps.
    With `analytic`, for functions that also take complex arrays, the latter is Im <u, f(x + i h v)> / h with h = 1e-20,
    exact to rounding (Squire and Trapp 1998). They may differ by `tolerance` times 1 + the sum of their magnitudes.

    order=2 checks the derivatives of the first derivatives too, by central differences of these. The error names the
    derivative that is furthest off: which argument, at which index.
    """
    return _check(f, [np.array(a, dtype=np.float64) for a in arrays], order, eps, tolerance, analytic, "the function")


def _check(f, xs, order, eps, tolerance, analytic, what):
    rng = generator("gradcheck", *[x.shape for x in xs])
    vs = [rng.standard_normal(x.shape) for x in xs]
    y, pullback = vjp(f, *xs)
    u = rng.standard_normal(y.shape)
    by_rule = sum(float((d * v).sum()) for d, v in zip(pullback(u), vs))
    by_difference = float((_along(f, xs, vs, eps, analytic) * u).sum())
    scale = 1.0 + abs(by_rule) + abs(by_difference)
    if not abs(by_rule - by_difference) <= tolerance * scale:
        raise AssertionError(f"gradcheck: the rules give {_furthest_off(f, xs, y, pullback, eps, analytic, what)}")
    if order > 1:
        for i in range(len(xs)):
            slope = grad(lambda *a: (f(*a) * u).sum(), i)
            _check(slope, xs, order - 1, eps, tolerance, False, f"the gradient by argument {i} of {what}")
    return True


def _along(f, xs, vs, eps, analytic):
    """df/dt along x + t v at t = 0."""

    def at(t):
        return np.asarray(unwrap(f(*[Tensor(x + t * v) for x, v in zip(xs, vs)])))

    return at(1e-20j).imag / 1e-20 if analytic else (at(eps) - at(-eps)) / (2.0 * eps)


def _furthest_off(f, xs, y, pullback, eps, analytic, what):
    """Compares every partial derivative by itself, and says in words which differs most."""
    worst = (-1.0, "")
    by_output = [pullback(e.reshape(y.shape)) for e in np.eye(y.size)]
    for i, x in enumerate(xs):
        for at in np.ndindex(x.shape):
            one = [np.zeros(z.shape) for z in xs]
            one[i][at] = 1.0
            column = _along(f, xs, one, eps, analytic)
            for row, out in enumerate(np.ndindex(y.shape)):
                ours, theirs = float(by_output[row][i][at]), float(column[out])
                off = abs(ours - theirs) / (1.0 + abs(theirs))
                off = off if off == off else np.inf
                if off > worst[0]:
                    element = f"element {out} of {what}" if y.shape else what
                    worst = off, f"{ours:.12g} for {element} by argument {i} at index {at}, differences {theirs:.12g}"
    return worst[1]
