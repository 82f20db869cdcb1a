"""`detect_anomaly`: finds the operation, and the line of the user's code, where the first nan or infinity appears."""

from contextlib import contextmanager

import numpy as np

from allgrad.autograd.arrays import INTO_AN_ARRAY, Scattered, namespace
from allgrad.autograd.engine import (
    Leaf,
    Tensor,
    format_location,
    instrumented,
    patched,
    shape_of,
    topological_order,
    unwrap,
    users_line,
)


class Anomaly(RuntimeError):
    """A value or a gradient became nan or infinite."""


@contextmanager
def detect_anomaly():
    """Context in which the first operation that makes a nan or an infinity raises RuntimeError, forward or backward.

    The error names the operation, the line of the user's code that called it, and the shapes. Forward: a nan where
    no input has one, or an infinity from finite inputs, so that a mask of -inf may pass. Backward: any gradient that
    is not finite. What was recorded before the context is checked if `backward` is called inside, but has no line.
    Slow, for finding a fault; outside of the context it costs nothing.
    """
    name = "detect_anomaly"
    with (
        patched(name, Tensor, backward=_backward(Tensor.backward)),
        patched(name, Leaf, accumulate=_accumulate(Leaf.accumulate)),
        instrumented(name, _checked),
    ):
        yield


def _fault(x):
    """ "nan", "inf" or "-inf" if an array has one; None if all of it is finite, or if it is no array of numbers."""
    x = unwrap(x.value() if type(x) in (*INTO_AN_ARRAY, Scattered) else x)
    if isinstance(x, (float, complex)):
        x = np.asarray(x)
    if not hasattr(x, "dtype") or namespace(x).isfinite(x).all():
        return None
    return "nan" if bool((x != x).any()) else "inf" if bool((x == np.inf).any()) else "-inf"


def _checked(name, rule):
    def checked(*operands, **static):
        at = name, users_line()
        with np.errstate(all="ignore"):
            value, *vjps = rule(*operands, **static)
        shapes = [shape_of(x) for x in operands]
        fault = _fault(value)
        if fault is not None:
            before = {_fault(x) for x in (*operands, *static.values())} - {None}
            if "nan" not in before if fault == "nan" else not before:
                known = " and ".join(str(shape) for shape, x in zip(shapes, operands) if x is not None)
                raise Anomaly(f"{_described(at)} gave {fault} from inputs of shape {known}")
        return value, *[_watched(vjp, at, i, shape) for i, (vjp, shape) in enumerate(zip(vjps, shapes))]

    return checked


def _described(at):
    name, place = at
    return f"{name} recorded before detect_anomaly" if place is None else f"{name} at {format_location(place)}"


def _watched(vjp, at, i, shape):
    if vjp is None or hasattr(vjp, "watched"):
        return vjp

    def watched(g):
        if (fault := _fault(g)) is not None:
            seen = f"backward of {_described(at)}: the gradient of shape {shape_of(g)} that arrived there is {fault}"
            raise Anomaly(f"{seen}: backward() was given it, or the sum over the uses of the value overflowed")
        with np.errstate(all="ignore"):
            d = vjp(g)
        if (fault := _fault(d)) is not None:
            seen = f"backward of {_described(at)}: the gradient of its input {i}, of shape {shape}"
            raise Anomaly(f"{seen}, became {fault} from a finite gradient of shape {shape_of(g)}")
        return d

    watched.watched = True
    return watched


def _backward(usual):
    def backward(self, gradient=None, retain_graph=False):
        for node in topological_order(self.node) if self.node is not None and self.node.edges is not None else ():
            edges = enumerate(node.edges)
            node.edges = tuple([(p, _watched(vjp, (node.name, None), i, p.shape), v) for i, (p, vjp, v) in edges])
        with np.errstate(all="ignore"):
            return usual(self, gradient, retain_graph)

    return backward


def _accumulate(usual):
    def accumulate(self, g):
        if (fault := _fault(g)) is not None:
            raise Anomaly(f"backward: the gradient of {self.name!r}, of shape {self.shape}, became {fault} in the end")
        return usual(self, g)

    return accumulate
