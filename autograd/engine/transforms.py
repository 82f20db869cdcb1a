"""Derivatives as functions of functions: vjp, grad, jvp, jacobian, hessian, hvp, and any nesting of them.

`vjp` wraps its inputs in Tensors one level higher than all that exist, runs the function and walks back. For the second
derivative of f at an array x, `ag.grad(ag.grad(f))(x)`:

    level 0    the outer grad makes X0 = Tensor(x, Leaf, level 0) and calls the inner one with it
    level 1    the inner grad makes X1 = Tensor(X0, Leaf, level 1) and calls f(X1)

Operations on X1 call their rules with its data, X0, which is a Tensor. So values and vjps are computed by operations on
X0, which record a graph of level 0, and the outer walk goes back through that. Rules need to know nothing of it: they
compute on Tensors as they do on arrays (`arrays.namespace`).
"""

import math

import numpy as np

from allgrad.autograd.arrays import cast_like, full, kind, xp
from allgrad.autograd.engine.graph import Leaf, backward
from allgrad.autograd.engine.modes import declare_modes, here, setting
from allgrad.autograd.engine.primitive import primitive, shared
from allgrad.autograd.engine.tensor import Tensor, check_floating, shape_of, tensor, unwrap


class _Input(Leaf):
    """The leaf of an input of `vjp`: keeps a copy of what arrives, for the pullback to take."""

    __slots__ = ()
    keeps_memory = False

    def grad_buffer(self):
        return None

    def accumulate(self, g):
        g = g if type(g) is Tensor else xp[type(g)].copy(g)[()]  # a NumPy scalar for ()
        self.grad = g if self.grad is None else self.grad + g  # a second part, of a backward inside a vjp
        self.stale = False


declare_modes(depth=0)  # the highest level at which a function is being evaluated right now


def _level(x):
    return x.level if type(x) is Tensor else -1


def vjp(f, *xs):
    """Evaluate y = f(*xs) and return (y, pullback), where pullback(g) is the tuple of vector-Jacobian products g dy/dx.

    f maps Tensors to one Tensor. Each x is a floating array, a number or a Tensor; g is one of y's shape, and each
    result has the shape of its x. pullback may be called again, for other g. y and the results are arrays; Tensors if
    one x is, or if f uses tensors that require a gradient, so that they can be differentiated in their turn.
    """
    given = max(map(_level, xs))
    level = 1 + max(given, here.depth)  # above every function around this one, whose tensors f may use
    with setting(recording=True, depth=level):
        inputs = [_input(x, level) for x in map(_asarray, xs)]
        y = f(*[Tensor(x.data, x.node, level) for x in inputs])  # which f may change in place
    if type(y) is not Tensor:
        todo = "differentiate by parts, and compute on Tensors, not on their data"
        raise TypeError(f"vjp: the function must return one Tensor, got {type(y).__name__}: {todo}")
    if kind(y.dtype) == "c":
        raise TypeError(f"vjp: the function must return real numbers, got {y.dtype}: differentiate parts of it")
    value, root = (y.data, y.node) if _level(y) == level else (y, None)  # no root: y does not depend on the inputs

    def pullback(g):
        ours, theirs = shape_of(value), shape_of(g)
        if ours != theirs:
            raise ValueError(f"vjp: the pullback of a value of shape {ours} got a gradient of shape {theirs}")
        for x in inputs:
            x.node.grad = None  # of a pullback cut short by an exception
        if root is not None:
            if type(g) is not Tensor:  # a view is a new object: no vjp takes a changed array for the last one
                g = cast_like(g, unwrap(y))[()]
            backward(root, g, retain_graph=True)
        return tuple(_as_given(_take(x), given) for x in inputs)

    return _as_given(value, given), pullback


def _input(x, level):
    return Tensor(x, _Input("input", x.shape, check_floating(x.dtype, "input")), level)


def _asarray(x):
    if hasattr(x, "dtype"):
        xp[type(unwrap(x))]  # loads a library's own rules now, and not in the midst of the first operation
        return x
    return tensor(x).data


def _take(x):
    """The gradient that arrived at an input, which forgets it; zeros if none did."""
    g, x.node.grad = x.node.grad, None
    return _zeros_like(x) if g is None else g


def _zeros_like(x):
    inside = unwrap(x)
    return xp[type(inside)].zeros_like(inside)


def _as_given(result, level):
    """Arrays for arrays (level -1), unless the result can be differentiated; constant Tensors for Tensors."""
    if level >= 0:
        return result if type(result) is Tensor else Tensor(result, None, level)
    while type(result) is Tensor and result.node is None:
        result = result.data
    return result


def unfused(f, *xs):
    """What a rule returns, (value, *vjps), for f(*xs) by way of `vjp`: f is composed of operations.

    For a rule that computes on arrays by a kernel of its own: where an input is a Tensor, inside a nested derivative,
    it returns `unfused(formula, *inputs)` instead, which can be differentiated again. A vjp for each x.
    """
    value, pullback = vjp(f, *xs)
    return value, *shared(pullback, len(xs))


def linear_map(forward, transposed, a, *static):
    """forward(a, *static) for a function of arrays that is linear in a; `transposed(g, *static)` is its transpose.

    For use in rules, where a may be a Tensor. The gradient of a linear map is its transpose, and that of the transpose
    the map, so these two functions of arrays are enough for derivatives of any order. forward maps the shape of a to
    that of the value, transposed the shape of the value to that of a; <forward(a), g> = <a, transposed(g)>.
    """
    if type(a) is Tensor:
        return _linear_map(a, maps=(forward, transposed), static=static)
    return forward(a, *static)


@primitive
def _linear_map(a, *, maps, static):
    forward, transposed = maps
    return linear_map(forward, transposed, a, *static), lambda g: linear_map(transposed, forward, g, *static)


def grad(f, argnum=0):
    """The gradient of a scalar-valued f: a function of the same arguments that returns df / d(argument argnum).

    It has the shape of that argument. argnum counts from 0. Raises ValueError if f returns no scalar.
    """
    return _gradient(f, argnum, "grad")


def _gradient(f, argnum, name):
    def gradient(*xs):
        y, pullback = vjp(*_of_argument(f, xs, argnum, name))
        if y.shape != ():
            raise ValueError(f"{name}: the function must return a scalar, got shape {y.shape}: use vjp or jacobian")
        return pullback(_one(y))[0]

    return gradient


def _of_argument(f, xs, argnum, name):
    """f as a function of its argument number argnum, and that argument."""
    if not 0 <= argnum < len(xs):
        raise ValueError(f"{name}: argnum {argnum} of {len(xs)} arguments: they are counted from 0")
    return lambda x: f(*xs[:argnum], x, *xs[argnum + 1 :]), xs[argnum]


def _one(like):
    return full((), 1.0, unwrap(like))[()]


def jvp(f, xs, vs):
    """Evaluate y = f(*xs) and its derivative along vs: the pair (y, sum of dy/dx v over the inputs), both of y's shape.

    xs and vs are lists of as many arrays of the same shapes. By two reverse passes: the pullback is linear in g, and
    its own vjp is the jvp.
    """
    given = [[shape_of(x) for x in each] for each in (xs, vs)]
    if given[0] != given[1] or not all(isinstance(each, (list, tuple)) for each in (xs, vs)):
        raise ValueError(f"jvp: directions of shapes {given[1]} for inputs {given[0]}: give a list of as many alike")
    y, pullback = vjp(f, *[x if type(x) is Tensor else Tensor(_asarray(x)) for x in xs])
    zero = _zeros_like(y)
    transposed = vjp(lambda g: sum((x * v).sum() for x, v in zip(pullback(g), vs)), Tensor(zero))[1]
    tangent = transposed(_one(zero))[0]
    given = max(map(_level, xs))
    return _as_given(y, given), _as_given(tangent, given)


def jacobian(f, argnum=0):
    """The Jacobian of f: a function of the same arguments that returns dy_i / dx_j for x = argument argnum.

    An array of shape y.shape + x.shape: (p, q) for a p-vector y of a q-vector x. Computed row by row, by p pullbacks.
    """

    def matrix(*xs):
        y, pullback = vjp(*_of_argument(f, xs, argnum, "jacobian"))
        inside = unwrap(y)
        basis = cast_like(np.eye(math.prod(y.shape)), inside)
        rows = [pullback(e.reshape(y.shape))[0] for e in basis]
        if not rows:
            return full((*y.shape, *shape_of(xs[argnum])), 0.0, inside)
        stacked = xp[type(rows[0])].stack(rows)
        return stacked.reshape(tuple(y.shape) + tuple(rows[0].shape))

    return matrix


def hessian(f, argnum=0):
    """The Hessian of a scalar-valued f: a function of the same arguments that returns d2f / dx_i dx_j.

    x is argument argnum; the result, the Jacobian of the gradient, has the shape x.shape + x.shape.
    """
    return jacobian(_gradient(f, argnum, "hessian"), argnum)


def hvp(f, x, v):
    """The Hessian of the scalar-valued f at x times v, without the Hessian: the gradient of <grad f(x), v>.

    x and v have one shape, and so has the result. Pearlmutter 1994, "Fast Exact Multiplication by the Hessian".
    """
    if shape_of(x) != shape_of(v):
        raise ValueError(f"hvp: a direction {shape_of(v)} for an input {shape_of(x)}: give one alike")
    return grad(lambda x: (_gradient(f, 0, "hvp")(x) * v).sum())(x)
