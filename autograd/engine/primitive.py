"""Primitives: operations that record a graph behind the tensors they compute (`engine.graph`).

A primitive computes a value and declares, beside it, one vector-Jacobian product (vjp) for each array it took. Calling
it on tensors records a `Node` whose edges hold those vjps. Nothing else is recorded: a value lives on only while some
vjp has captured it, and the walk of `backward` drops edges as it goes.
"""

import inspect
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from allgrad.autograd.arrays import OPERANDS, as_operand
from allgrad.autograd.engine import modes
from allgrad.autograd.engine.graph import Node
from allgrad.autograd.engine.tensor import Tensor, shape_of, tensor

RULE_ARGUMENTS = OPERANDS | {Tensor, type(None)}  # what a rule takes as it is: None stands for an argument left out


# --- recording -------------------------------------------------------------------------------------------------

operations: weakref.WeakSet = weakref.WeakSet()  # all primitives, for those who look on (`engine.instrument`)


def primitive(rule: Callable) -> Callable[..., Tensor]:
    """Make a differentiable operation of a rule `rule(a, b, ..., *, static) -> value, vjp_a, vjp_b, ...`.

    Positional arguments are the arrays to differentiate by; keyword-only arguments are static (axes, shapes,
    labels). vjp_a maps the gradient of the value to that of `a`, in the value's broadcast shape if that is easier:
    the engine sums broadcast axes away. vjps of arguments that need no gradient are dropped at once, with whatever
    they captured. A rule must not mutate its arguments, nor its value once a vjp has captured it.
    """
    signature = inspect.signature(rule)
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    name = rule.__name__.strip("_")

    def unary(a, **static):
        if type(a) is not Tensor:
            a = tensor(as_operand(a, name))
        try:
            value, vjp = rule(a.data, **static)
        except (ValueError, TypeError, IndexError) as error:
            raise _refused(name, error, a) from None
        node = a.node
        if node is None or not modes.recording:
            return Tensor(value, None, a.level)
        return Tensor(value, Node(name, ((node, vjp, node.version),), value.shape), a.level)

    def binary(a, b):
        p: Any = None
        q: Any = None
        level = 0
        if type(a) is Tensor:
            x, p, level = a.data, a.node, a.level
        else:
            x = a if type(a) in OPERANDS else as_operand(a, name)
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
            y = b if type(b) in OPERANDS else as_operand(b, name)
        try:
            value, u, v = rule(x, y)
        except (ValueError, RuntimeError) as error:
            raise _misfit(name, error, a, b) from None
        if not modes.recording or p is q is None:
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
                values.append(a if type(a) in RULE_ARGUMENTS else as_operand(a, name))
                nodes.append(None)
        try:
            value, *vjps = rule(*values, **static)
        except (ValueError, RuntimeError) as error:
            raise _misfit(name, error, *args) from None
        if not modes.recording:
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


# --- what an operation says when the array library refuses its arguments -----------------------------------------

HINTS = {
    "matmul": "the last axis of the first must be as long as the last but one of the second, or its only one",
    "linear": "the last axis of the input must be as long as that of the weight (out, in), and the bias (out,)",
    "concatenate": "all axes but the one along which they are joined must be equally long",
}
_SIZES = re.compile("size|shape|dimension")  # what torch's errors of this sort speak of, all of them RuntimeErrors


def _misfit(name, error, *args):
    """The array library's error, saying which operation and which shapes; as it is if it is about something else."""
    text = str(error).splitlines()[0]
    of_sizes = type(error) in (RuntimeError, np.exceptions.AxisError) and _SIZES.search(text)
    if " do not fit together (" in text or not (of_sizes or type(error) is ValueError):
        return error
    shapes = " and ".join(str(shape_of(a)) for a in args if a is not None)
    hint = HINTS.get(name) or ("axes count from the last: equally long, or 1" if "broadcast" in text else text)
    return ValueError(f"{name}: shapes {shapes} do not fit together ({hint})")


def _refused(name, error, a):
    """The array library's error, saying which operation and which shape; as it is if one inside has done so."""
    if re.match(r"\w+: ", str(error)):
        return error
    kind = next(c for c in (np.exceptions.AxisError, IndexError, TypeError, ValueError) if isinstance(error, c))
    return kind(f"{name}: {error}, for an array of shape {tuple(a.shape)}")


# --- for rules -------------------------------------------------------------------------------------------------


def shared(pullback, count):
    """Split one pullback `g -> (d_1, ..., d_count)` into `count` vjps that compute it once for each g."""
    seen: list = [None, None]

    def part(i):
        def vjp(g):
            if seen[0] is not g:
                seen[0], seen[1] = g, pullback(g)
            return seen[1][i]

        return vjp

    return [part(i) for i in range(count)]
