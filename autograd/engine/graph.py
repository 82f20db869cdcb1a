"""The graph behind tensors: nodes, leaves, and the walk back from a result to its leaves."""

import warnings

from allgrad.autograd.arrays import OuterProduct, Scattered, unbroadcast, xp


class Node:
    """One recorded operation; it holds no data, but for what its vjps have captured.

    name      of the operation
    edges     (parent, vjp, version of the parent when it was used) for each input that needs a gradient; () of a leaf,
              None once a backward has freed them
    shape     of the value
    incoming  in a backward: the sum of the gradients that have arrived so far
    pending   in a backward: how many are still to come
    stamp     the backward that these two belong to
    """

    __slots__ = ("name", "edges", "shape", "incoming", "pending", "stamp")
    version = 0

    def __init__(self, name, edges, shape):
        self.name, self.edges, self.shape = name, edges, shape
        self.incoming = self.stamp = None

    def grad_buffer(self):
        return None


class Leaf(Node):
    """Where the graph ends and gradients arrive: a parameter, or any tensor made with `requires_grad=True`.

    grad     the accumulated gradient: a view of an arena, or an array of its own once the first one arrives
    stale    True until something arrives: the next gradient overwrites `grad` instead of adding to it
    hook     called as hook(leaf) the moment the gradient is final for this backward
    version  counts in-place changes of the value, so that a stale graph is refused
    """

    __slots__ = ("grad", "stale", "hook", "version", "dtype", "in_arena")

    def __init__(self, name, shape, dtype):
        super().__init__(name, (), shape)
        self.dtype = dtype
        self.grad = self.hook = None
        self.stale, self.version, self.in_arena = True, 0, False

    def grad_buffer(self):
        """Where a whole gradient may be written straight away; None where it must be added, or has no place yet."""
        return self.grad if self.stale else None

    def reset(self):
        """Drop the gradient: an array of its own is left to whoever has kept it."""
        self.stale = True
        if not self.in_arena:
            self.grad = None

    def accumulate(self, g):
        """Take in the whole gradient of one backward: add it, or overwrite what is stale."""
        if g.dtype is not self.dtype and g.dtype != self.dtype:
            seen = f"gradient of {self.name!r} arrived as {g.dtype}, not {self.dtype}"
            warnings.warn(f"{seen}: an array of another dtype entered the graph", stacklevel=2)
        if type(g) is OuterProduct:
            g.into(self.grad)
        elif not self.stale:
            self.grad += g
        elif self.grad is None:
            self.grad = xp[type(g)].array(g, dtype=self.dtype)
        else:
            self.grad[...] = g
        self.stale = False
        if self.hook is not None:
            self.hook(self)


def backward(root, g, retain_graph=False):
    """Send g back from `root`: each node runs once all its consumers have, each leaf is final the instant it can be.

    First count, for every node below the root, how many edges of this graph lead into it; then walk in that
    order (Kahn 1962). Counts carry a stamp, so that a walk cut short by an exception leaves nothing behind.
    """
    if not root.edges:
        if root.edges is None:
            raise _consumed(root)
        return root.accumulate(g)
    stamp = root.stamp = object()
    root.incoming = g
    stack = [root]
    while stack:
        node = stack.pop()
        if node.edges is None:
            raise _consumed(node)
        for parent, _, _ in node.edges:
            if parent.stamp is stamp:
                parent.pending += 1
            else:
                parent.stamp, parent.pending, parent.incoming = stamp, 1, None
                if parent.edges != ():
                    stack.append(parent)
    ready = [root]
    while ready:
        node = ready.pop()
        g, node.incoming = node.incoming, None
        for parent, vjp, version in node.edges:
            if parent.version != version:
                seen = f"{parent.name!r} was modified in place after {node.name!r} used it"
                raise RuntimeError(f"{seen}: run backward before optimizer.step()")
            d = vjp(g)
            if type(d) is OuterProduct and (
                parent.pending > 1 or parent.incoming is not None or parent.grad_buffer() is None
            ):
                d = d.value()
            if d.shape != parent.shape:
                d = unbroadcast(d, parent.shape)
            if parent.incoming is not None:
                if type(parent.incoming) is Scattered:
                    d = parent.incoming.plus(d)
                else:  # never in place: a vjp may have returned g itself
                    d = parent.incoming + (d.value() if type(d) is Scattered else d)
            parent.pending -= 1
            if parent.pending:
                parent.incoming = d
                continue
            if type(d) is Scattered:
                d = d.value()
            if parent.edges:
                parent.incoming = d
                ready.append(parent)
            else:  # a leaf: deliver now and not when its turn comes, so that its exchange can start
                parent.incoming = None
                parent.accumulate(d)
        if not retain_graph:
            node.edges = None


def in_order(root):
    """The nodes from the leaves to the root, each after all those it was computed from."""
    order, stack = {}, [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order[node] = None
        elif node not in order:
            if node.edges is None:
                seen = f"the graph below {node.name!r} was freed by a backward"
                raise RuntimeError(f"{seen}: look at it before, or pass retain_graph=True to backward")
            stack.append((node, True))
            stack.extend((parent, False) for parent, _, _ in reversed(node.edges))
    return list(order)


def _consumed(node):
    seen = f"backward through {node.name!r} a second time"
    return RuntimeError(f"{seen}: the first pass freed what it saved (pass retain_graph=True to the first one)")
