"""Derivatives as functions of functions: vjp, grad, jvp, jacobian, hvp, and any nesting of them.

`vjp` wraps its inputs in tensors one level above all of them and above every function being transformed around it,
runs the function, and walks back. The level below may itself be recording, so derivatives of derivatives need nothing
more: the rules compute on Tensors as they do on arrays.
"""

from autograd.core import Leaf, Tensor, backward, enable_grad, floating, innermost, primitive, shared, tensor
from autograd.kernels import xp


class _Input(Leaf):
    """A leaf that hands over what arrives, as an array of the caller's own, instead of keeping it."""

    __slots__ = ()

    def place(self):
        return None

    def accumulate(self, g):
        self.total = g if type(g) is Tensor else xp[type(g)].array(g)[()]  # a NumPy scalar for ()
        self.fresh = False


_depth = 0  # the highest level at which a function is being evaluated right now


def _level(x):
    return x.level if type(x) is Tensor else -1


def vjp(f, *xs):
    """Evaluate y = f(*xs) and return (y, pullback), where pullback(g) gives the tuple of g @ dy/dx for each x.

    f takes and returns tensors. Each x, and g of y's shape, is an array, a number or a Tensor. y and the pullback's
    results are Tensors if one x is, or if f uses tensors that require a gradient, so that they can be differentiated
    in their turn.
    """
    global _depth
    given, before = max(map(_level, xs)), _depth
    level = _depth = 1 + max(given, before)  # above every function around this one, whose tensors f may use
    try:
        with enable_grad():
            inputs = [Tensor(x, _Input("input", x.shape, floating(x.dtype, "input")), level) for x in map(_asarray, xs)]
            y = f(*inputs)
    finally:
        _depth = before
    value, root = (y.data, y.node) if _level(y) == level else (y, None)  # no root: y does not depend on the inputs

    def pullback(g):
        if root is not None:
            if type(g) is not Tensor:  # a view is a new object: no vjp takes a changed array for the last one
                g = xp[type(innermost(y))].asarray(g, dtype=y.dtype)[()]
            if g.shape != y.shape:
                raise ValueError(f"vjp: a value of shape {y.shape} got a gradient of shape {g.shape}: they must agree")
            backward(root, g, retain_graph=True)
        return tuple(_as_given(_take(x), given) for x in inputs)

    return _as_given(value, given), pullback


def _asarray(x):
    return x if type(x) is Tensor or hasattr(x, "dtype") else tensor(x).data


def _take(x):
    """What arrived at an input, handed over and not kept; zeros if nothing did."""
    g, x.node.total = x.node.total, None
    return _zeros_like(x) if g is None else g


def _zeros_like(x):
    inside = innermost(x)
    return xp[type(inside)].zeros_like(inside)


def _as_given(result, level):
    """Arrays for arrays (level -1), unless the result can be differentiated; constant Tensors for Tensors."""
    if level >= 0:
        return result if type(result) is Tensor else Tensor(result, None, level)
    while type(result) is Tensor and result.node is None:
        result = result.data
    return result


def unfused(f, *xs):
    """A primitive's result `(value, *vjps)` from a composed formula: for fused rules of which an input is a Tensor."""
    value, pullback = vjp(f, *xs)
    return value, *shared(pullback, len(xs))


def linear_map(forward, transposed, a, *static):
    """forward(a, *static), for a map of arrays linear in a and its transpose: in a rule, where a may be a Tensor."""
    if type(a) is Tensor:
        return _linear_map(a, maps=(forward, transposed), static=static)
    return forward(a, *static)


@primitive
def _linear_map(a, *, maps, static):
    forward, transposed = maps
    return linear_map(forward, transposed, a, *static), lambda g: linear_map(transposed, forward, g, *static)


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
    y, pullback = vjp(f, *[x if type(x) is Tensor else Tensor(_asarray(x)) for x in xs])
    zero = _zeros_like(y)
    tangent = vjp(lambda g: _dot(pullback(g), vs), Tensor(zero))[1](_one(zero))[0]
    given = max(map(_level, xs))
    return _as_given(y, given), _as_given(tangent, given)


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
