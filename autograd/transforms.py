"""Derivatives as functions of functions: vjp, grad, jvp, jacobian, hvp, and any nesting of them.

`vjp` wraps its inputs in tensors one level above all of them, runs the function, and walks back. The level below may
itself be recording, so derivatives of derivatives need nothing more: the rules compute on Tensors as they do on arrays.
"""

from autograd.core import Leaf, Tensor, backward, enable_grad, innermost, shared
from autograd.kernels import xp


class _Input(Leaf):
    """A leaf that hands over what arrives instead of keeping it in an array."""

    __slots__ = ()

    def place(self):
        return None

    def accumulate(self, g):
        self.total, self.fresh = g, False


def _level(x):
    return x.level if type(x) is Tensor else -1


def vjp(f, *xs):
    """Evaluate y = f(*xs) and return (y, pullback), where pullback(g) gives the tuple of g @ dy/dx for each x.

    f takes and returns tensors. Each x is an array or a Tensor; y is a Tensor if one of them is (or if f uses
    tensors that require a gradient), so that the pullback can be differentiated in its turn.
    """
    level = 1 + max(0, *[_level(x) for x in xs])
    inputs = [Tensor(x, _Input("input", x.shape, x.dtype), level) for x in map(_asarray, xs)]
    with enable_grad():
        y = f(*inputs)
    value, root = (y.data, y.node) if _level(y) == level else (y, None)  # no root: y does not depend on the inputs

    def pullback(g):
        for x in inputs:
            x.node.fresh = True
        if root is not None:
            backward(root, g, retain_graph=True)
        return tuple(xp[type(x.data)].zeros_like(x.data) if x.node.fresh else x.node.total for x in inputs)

    return value, pullback


def _asarray(x):
    return x if type(x) is Tensor or hasattr(x, "dtype") else xp[float].asarray(x)


def unfused(f, *xs):
    """A primitive's result `(value, *vjps)` from a composed formula: for fused rules whose input is a Tensor."""
    value, pullback = vjp(f, *xs)
    return value, *shared(pullback, len(xs))


def grad(f, argnum=0):
    """The function that maps the arguments of the scalar-valued f to df/d(argument argnum)."""

    def gradient(*xs):
        y, pullback = vjp(lambda x: f(*xs[:argnum], x, *xs[argnum + 1 :]), xs[argnum])
        if y.shape != ():
            raise ValueError(f"grad: the function must return a scalar, got shape {y.shape}: use vjp or jacobian")
        return pullback(_one(y))[0]

    return gradient


def _one(like):
    return xp[type(innermost(like))].asarray(1.0, dtype=like.dtype)


def jvp(f, xs, vs):
    """Evaluate y = f(*xs) and the directional derivative of y as xs move along vs: the transpose of the pullback."""
    y, pullback = vjp(f, *[x if type(x) is Tensor else Tensor(x) for x in xs])
    inside = innermost(y)
    zero = xp[type(inside)].zeros_like(inside)
    tangent = vjp(lambda g: _dot(pullback(g), vs), Tensor(zero))[1](_one(zero))[0]
    return (y, tangent) if any(type(x) is Tensor for x in xs) else (inside, innermost(tangent))


def _dot(xs, vs):
    total = 0.0
    for x, v in zip(xs, vs):
        total = total + (x * v).sum()
    return total


def jacobian(f):
    """The function that maps x to the matrix of dy_i/dx_j, of shape y.shape + x.shape, row by row by pullbacks."""

    def matrix(x):
        y, pullback = vjp(f, x)
        n = xp[type(innermost(y))]
        basis = n.eye(innermost(y).size, dtype=innermost(y).dtype)
        rows = [pullback(e.reshape(y.shape))[0] for e in basis]
        stacked = xp[type(rows[0])].stack(rows)
        return stacked.reshape(tuple(y.shape) + tuple(x.shape))

    return matrix


def hvp(f, x, v):
    """The Hessian of the scalar-valued f at x times v, as the gradient of <grad f, v>."""
    return grad(lambda x: (grad(f)(x) * v).sum())(x)
