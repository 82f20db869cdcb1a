"""`checkpoint`: part of a graph that keeps no arrays for its backward, and computes them again there.

The function is run once as ever. Then its nodes are let go, and one node stands for all of them, with an edge to
each node outside that they had used: arguments, parameters, whatever else. The vjp of that node runs the function once
more, and walks back through what that has recorded, as far as leaves that stand in for the nodes outside.
"""

import sys
from copy import copy
from typing import Any

from allgrad.autograd.arrays import Scattered, namespace
from allgrad.autograd.engine import graph, modes
from allgrad.autograd.engine.graph import Leaf, Node
from allgrad.autograd.engine.instrument import in_this_thread, patched
from allgrad.autograd.engine.modes import copy_modes, declare_modes, here, setting
from allgrad.autograd.engine.primitive import primitive, shared
from allgrad.autograd.engine.tensor import Tensor

RECORDS = sys.modules[primitive.__module__]  # the module whose `Node` operations record


def checkpoint(function, *args, use_reentrant=False, preserve_rng_state=True, **kwargs):
    """function(*args, **kwargs), whose intermediate arrays are not kept for backward but computed again there.

    Values and gradients are the bits of the function itself: it draws the same random numbers the second time, unless
    preserve_rng_state is False. Memory is exchanged for time: that of one forward more. The function returns a tensor,
    or a tuple or list in which those that need a gradient have one dtype (TypeError); it may use parameters and other
    tensors that are no arguments. What it does besides, it does twice, but running averages move once. RuntimeError in
    backward if it computes something else then. Inside nested derivatives nothing is let go. torch's
    use_reentrant=True is refused (ValueError). Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    if use_reentrant:
        raise ValueError("checkpoint: use_reentrant=True is not here: leave it out, gradients are the same")
    compute = lambda: function(*args, **kwargs)
    if (modes.pauses and not here.recording) or any(type(a) is Tensor and type(a.data) is Tensor for a in args):
        return compute()
    before, kept = copy_modes(), _Kept(here.kept) if preserve_rng_state else here.kept
    with setting(kept=kept):
        result, y, inside = _recorded(compute)
    if y is None:
        return result
    if type(y.data) is Tensor:  # the graph of the level below keeps the arrays anyway
        with _modes_of(before, preserve_rng_state):
            return compute()
    shape = y.data.shape  # of y the vjp must not hold more, such as the graph
    outside: dict = {}  # node: its version when it was used
    for node in _nodes(y.node, inside):
        for parent, _, version in node.edges:
            if type(parent) is not inside:
                outside[parent] = version

    def pullback(g):
        again_kept = kept.again() if preserve_rng_state else None
        with _modes_of(before, preserve_rng_state), setting(kept=again_kept, second_run=True):
            again: Any
            _, again, inside = _recorded(compute)
        leaves = {node: _Gradient("outside", node.shape, None) for node in outside}
        nodes = [] if again is None else _nodes(again.node, inside)
        used = {parent for node in nodes for parent, *_ in node.edges if type(parent) is not inside}
        if again is None or used != outside.keys() or again.data.shape != shape:
            raise RuntimeError("checkpoint: the function computed something else in backward than before")
        for node in nodes:
            node.edges = tuple([(leaves[p], vjp, 0) if p in leaves else (p, vjp, v) for p, vjp, v in node.edges])
        graph.backward(again.node, g)
        return [leaves[node].grad for node in outside]

    edges = zip(outside, shared(pullback, len(outside)), outside.values())
    whole = Tensor(y.data, RECORDS.Node("checkpoint", tuple(edges), y.data.shape), y.level)
    return _with_parts_of(whole, result, inside)


# What `checkpoint` keeps of the function that is being run, and whether this runs for the second time.
declare_modes(kept=None, second_run=False)


class _Kept:
    """What a function has made by chance on a device, whose generator cannot be asked for it a second time.

    values  in the order in which they were made
    taken   how many of them have been taken again; None in the first run
    outer   that of the function around
    """

    def __init__(self, outer):
        self.outer, self.values, self.taken = outer, [], None

    def again(self):
        """The same for one more run."""
        run = copy(self)
        run.taken = 0
        return run

    def next(self, make):
        if self.taken is None:
            self.values.append(make() if self.outer is None else self.outer.next(make))
            return self.values[-1]
        self.taken += 1
        return self.values[self.taken - 1]


def remembered(make):
    """What make() returns; when `checkpoint` runs a function again, what it returned in the first run."""
    return make() if here.kept is None else here.kept.next(make)


class _Gradient(Leaf):
    """A leaf that takes the gradient as it comes."""

    __slots__ = ()

    def grad_buffer(self):
        return self  # so that what can be computed into an array later is left as it is

    def accumulate(self, g):
        self.grad = g


def _recorded(compute) -> tuple[Any, Any, Any]:
    """What compute() returned, all of it that needs a gradient as one tensor or None, and the class of its nodes."""
    inside = type("Inside", (Node,), {"__slots__": ()})
    with patched("checkpoint", RECORDS, Node=in_this_thread(RECORDS.Node, inside)):
        result = compute()
        found = [y for y in _listed(result) if type(y) is Tensor and type(y.node) is inside]
        if len({str(y.dtype) for y in found}) > 1:
            raise TypeError(f"checkpoint: results need one dtype, got {', '.join(str(y.dtype) for y in found)}")
        return result, None if not found else found[0] if len(found) == 1 else _joined(*found), inside


def _listed(result):
    return result if isinstance(result, (tuple, list)) else [result]


def _with_parts_of(whole, result, inside):
    """The result with parts of `whole` in the place of the tensors that it was joined of."""
    if not isinstance(result, (tuple, list)):
        return whole
    wanted = [type(y) is Tensor and type(y.node) is inside for y in result]
    if sum(wanted) == 1:
        return type(result)([whole if w else y for w, y in zip(wanted, result)])
    parts, stop = [], 0
    for y, w in zip(result, wanted):
        start, stop = stop, stop + y.size if w else stop
        parts.append(_part(whole, where=slice(start, stop), shape=y.shape) if w else y)
    return type(result)(parts)


@primitive
def _joined(*arrays):
    sizes = [a.reshape(-1).shape[0] for a in arrays]
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = zip(arrays, sizes, stops)
    vjps = [lambda g, a=a, part=slice(stop - n, stop): g[part].reshape(a.shape) for a, n, stop in parts]
    return namespace(*arrays).concatenate([a.reshape(-1) for a in arrays]), *vjps


@primitive
def _part(a, *, where, shape):
    return a[where].reshape(shape), lambda g: Scattered(g.reshape(-1), where, a.shape)


def _nodes(root, inside):
    """All nodes of the class below the root, in an order that does not change."""
    found, stack = {root: None}, [root]
    while stack:
        for parent, *_ in stack.pop().edges:
            if type(parent) is inside and parent not in found:
                found[parent] = None
                stack.append(parent)
    return list(found)


def _modes_of(values, with_random):
    """Context in which modes are as they were; also where random numbers come from, if wanted."""
    again = {name: copy(value) for name, value in values.items() if with_random or name != "stream"}
    return setting(**{**again, "depth": max(values["depth"], here.depth)})
