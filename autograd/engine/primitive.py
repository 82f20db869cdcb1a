"""Primitives: operations made of a rule, which record a graph behind the tensors they compute (`engine.graph`).

A rule computes a value from arrays and returns it with one vector-Jacobian product (vjp) for each array: the function
that maps the gradient of a loss by the value to the gradient by that array.

    @primitive
    def mul(a, b):
        return a * b, lambda g: g * b, lambda g: g * a

Called on tensors x (a constant) and w (a leaf), `mul` passes their arrays to the rule and returns

    Tensor(value, Node("mul", edges=((w.node, <the second vjp>, version of w),), shape))

The first vjp is dropped at once, as x needs no gradient, and with it the array b that it had captured. Nothing else is
recorded: an array lives on only while some vjp refers to it, and `backward` drops edges as it walks.
"""

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from allgrad.autograd.arrays import OPERAND_TYPES, as_operand, astype, beside_torch, promoted
from allgrad.autograd.engine import modes
from allgrad.autograd.engine.errors import named_error, shape_error
from allgrad.autograd.engine.graph import Node
from allgrad.autograd.engine.modes import here
from allgrad.autograd.engine.tensor import Tensor, tensor

ARGUMENT_TYPES = OPERAND_TYPES | {Tensor, type(None)}  # what a rule takes as it is; None: an argument left out
NUMBERS = {float, int, bool, complex}
DOUBLE = np.dtype("float64")
operations: weakref.WeakSet = weakref.WeakSet()  # all primitives, whose rules `engine.instrument` exchanges


def primitive(rule: Callable) -> Callable[..., Tensor]:
    """Make a differentiable operation of a rule `rule(a, b, ..., *, static) -> value, vjp_a, vjp_b, ...`.

    Positional arguments are the arrays to differentiate by, given as tensors, arrays or numbers; an optional one may be
    None. Keyword-only arguments are static: axes, shapes, labels. vjp_a maps the gradient of the value (an array of the
    value's shape) to that by a; where a was broadcast it may have the broadcast shape, which the engine sums over. A
    vjp that is never needed may be None. A rule must not write to its arguments, nor to its value if a vjp uses it.

    The rule is called with arrays, and with Tensors inside nested derivatives: see `arrays.namespace`. The operation is
    named after the rule, without underscores around it. ValueErrors and torch's errors about shapes are raised with the
    operation's name and the shapes.
    """
    signature = inspect.signature(rule)
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    name = rule.__name__.strip("_")
    promotes = getattr(rule, "promotes", False)

    def unary(a, **static):
        if type(a) is not Tensor:
            a = tensor(as_operand(a, name))
        try:
            value, vjp = rule(a.data, **static)
        except (ValueError, TypeError, IndexError) as error:
            raise named_error(name, error, a) from None
        node = a.node
        if node is None or (modes.pauses and not here.recording):
            return Tensor(value, None, a.level)
        return Tensor(value, Node(name, ((node, vjp, node.version),), value.shape), a.level)

    def binary(a, b):
        p: Any = None
        q: Any = None
        level = 0
        if type(a) is Tensor:
            x, p, level = a.data, a.node, a.level
        else:
            x = a if type(a) in NUMBERS else _constant(a, name, b if promotes else None)
        if type(b) is Tensor:
            if b.level == level:
                y, q = b.data, b.node
            elif b.level < level:
                y = b  # a constant, seen from the level of a
            else:
                if type(a) is Tensor:
                    x, p = a, None
                y, q, level = b.data, b.node, b.level
        else:
            y = b if type(b) in NUMBERS else _constant(b, name, a if promotes else None)
        try:
            value, u, v = rule(x, y)
            if promotes and getattr(value, "dtype", None) is DOUBLE:
                value, u, v = _as_torch_promotes(rule, x, y) or (value, u, v)
        except (ValueError, RuntimeError, TypeError) as error:
            value, u, v = _beside_torch(rule, (x, y), {}, error, name, (a, b))
        if p is q is None or (modes.pauses and not here.recording):
            return Tensor(value, None, level)
        if q is None:
            edges = ((p, u, p.version),)
        elif p is None:
            edges = ((q, v, q.version),)
        else:
            edges = ((p, u, p.version), (q, v, q.version))
        return Tensor(value, Node(name, edges, value.shape), level)

    def general(*args, **static):
        if static:  # arrays may be given by name too
            args += tuple(static.pop(n) for n in names[len(args) :] if n in static)
        level = 0
        for a in args:
            if type(a) is Tensor and a.level > level:
                level = a.level
        values, nodes = [], []
        for a in args:
            if type(a) is Tensor and a.level == level:
                values.append(a.data)
                nodes.append(a.node)
            else:
                values.append(a if type(a) in ARGUMENT_TYPES else as_operand(a, name))
                nodes.append(None)
        try:
            value, *vjps = rule(*values, **static)
        except (ValueError, RuntimeError, TypeError) as error:
            value, *vjps = _beside_torch(rule, values, static, error, name, args)
        if modes.pauses and not here.recording:
            return Tensor(value, None, level)
        edges = tuple([(n, vjp, n.version) for n, vjp in zip(nodes, vjps) if n is not None])
        return Tensor(value, Node(name, edges, value.shape) if edges else None, level)

    def wrap_rule(around):
        """Compute by around(rule) from now on; returns the rule so far."""
        nonlocal rule
        before, rule = rule, around(rule)
        return before

    fixed = len(names) == len(parameters)
    operation: Any = unary if len(names) == 1 else binary if len(names) == 2 and fixed else general
    operation.wrap_rule = wrap_rule
    operations.add(operation)
    operation.__name__ = operation.__qualname__ = name
    operation.__signature__, operation.__doc__ = signature, rule.__doc__
    operation.__module__ = rule.__module__
    return operation


def _constant(a, name, other):
    """An operand that is no Tensor as the rule takes it: an array of torch, if the other operand is one."""
    a = a if type(a) in OPERAND_TYPES else as_operand(a, name)
    return (beside_torch(a, other.data) or [a])[0] if type(other) is Tensor else a


def _beside_torch(rule, values, static, error, name, operands):
    """The rule with NumPy's arrays as torch's, if it failed because it was given both; else that error, with shapes."""
    mixed = beside_torch(*values)
    try:
        if mixed is not None:
            return rule(*mixed, **static)
    except (ValueError, RuntimeError, TypeError) as second:
        error = second
    raise (error if isinstance(error, TypeError) else shape_error(name, error, *operands)) from None


def _as_torch_promotes(rule, x, y):
    """The rule of two operands in torch's common dtype, if NumPy's is another; each gradient in its operand's own."""
    alike = promoted(x, y)
    if alike is None:
        return None
    value, *vjps = rule(*alike)

    def in_own_dtype(vjp, dtype):
        return lambda g: vjp(g) if type(g) is Tensor else astype(vjp(g), dtype)

    return value, *[in_own_dtype(vjp, a.dtype) for vjp, a in zip(vjps, (x, y))]


def shared(pullback, count):
    """Split a function `g -> (d_1, ..., d_count)` into `count` vjps, which together call it once for each g.

    For rules whose gradients share most of their work: `return value, *shared(pullback, 2)`.
    """
    seen: tuple = (None, None)

    def part(i):
        def vjp(g):
            nonlocal seen
            found = seen  # another thread may replace it
            if found[0] is not g:
                found = seen = g, pullback(g)
            return found[1][i]

        return vjp

    return [part(i) for i in range(count)]
