"""The graph behind tensors: nodes, leaves, and the walk back from a result to its leaves.

A node points to the nodes it was computed from. Of y = exp(x) * sin(x), with a leaf x, this is a diamond:

    mul ---> exp ---> x
      `----> sin ---'

`backward(mul, g)` counts the edges that lead into each node, 1 for exp, 1 for sin, 2 for x, and then walks:

    mul runs    its vjps give the gradients of exp and of sin; no other edge leads to them, so both are ready
    sin runs    its vjp gives g_sin cos(x), which waits at x, where one more gradient is due
    exp runs    its vjp gives g_exp exp(x), the last one due at x: the leaf accumulates the sum
"""

import threading
import warnings

from allgrad.autograd.arrays import INTO_AN_ARRAY, Scattered, unbroadcast, xp


class Node:
    """One recorded operation. It holds no arrays except those that its vjps refer to.

    name      of the operation
    edges     (parent, vjp, version of the parent when it was used) for each input that needs a gradient; () of a leaf,
              None once a backward has freed them
    shape     of the value
    incoming  during a backward: the sum of the gradients that have arrived so far
    pending   during a backward: how many gradients are still to arrive
    stamp     an object that stands for the backward that `incoming` and `pending` belong to
    mean_of   of a mean: the weight of what it is a mean over (see `engine.is_mean_of`), and else not there
    """

    __slots__ = ("name", "edges", "shape", "incoming", "pending", "stamp", "mean_of")
    version = 0
    keeps_memory = False  # whether a change in place keeps the array of the tensor

    def __init__(self, name, edges, shape):
        self.name, self.edges, self.shape = name, edges, shape
        self.incoming = self.stamp = None

    def grad_buffer(self):
        return None


class Leaf(Node):
    """Where the graph ends and gradients arrive: a parameter, or any tensor made with `requires_grad=True`.

    grad      the accumulated gradient: a view into an arena, or an array of its own, made when the first one arrives
    stale     True if `grad` counts for nothing: the next gradient overwrites it instead of adding to it
    hook      called as hook(leaf) the moment the gradient of a backward is complete
    version   counts in-place changes of the value, so that a graph that used an older value is refused
    dtype     that of the value and the gradient
    in_arena  whether `grad` is a view into an arena
    """

    __slots__ = ("grad", "stale", "hook", "version", "dtype", "in_arena")
    keeps_memory = True

    def __init__(self, name, shape, dtype):
        super().__init__(name, (), shape)
        self.dtype = dtype
        self.grad = self.hook = None
        self.stale, self.version, self.in_arena = True, 0, False

    def grad_buffer(self):
        """The array that a whole gradient may overwrite; None if it has to be added, or if there is no array yet."""
        return self.grad if self.stale else None

    def reset(self):
        """Forget the gradient. An array outside of an arena is let go, and not written to again."""
        self.stale = True
        if not self.in_arena:
            self.grad = None

    def accumulate(self, g):
        """Take in the complete gradient of one backward: add it to `grad`, or overwrite a stale one."""
        if g.dtype is not self.dtype and g.dtype != self.dtype:
            seen = f"gradient of {self.name!r} arrived as {g.dtype}, not {self.dtype}"
            warnings.warn(f"{seen}: an array of another dtype entered the graph", stacklevel=2)
        _accumulating.acquire()  # and not `with`, which takes twice as long
        try:
            if self.stale and self.grad is not None:
                if type(g) in INTO_AN_ARRAY:
                    g.into(self.grad)
                else:
                    self.grad[...] = g
            else:
                g = g.value() if type(g) in INTO_AN_ARRAY else g  # another thread has brought one since
                if self.stale:
                    self.grad = xp[type(g)].array(g, dtype=self.dtype)
                else:
                    self.grad += g
            self.stale = False
        finally:
            _accumulating.release()
        if self.hook is not None:
            self.hook(self)


_accumulating = threading.Lock()  # threads whose graphs share a leaf add to its gradient one after the other
_walking_on_nodes = threading.Lock()  # held by the one backward that counts on the nodes themselves


def backward(root, g, retain_graph=False):
    """Accumulate into the leaves below the node `root` their gradients, from g, that of the root's value.

    First count the edges that lead into every node below the root. Then let each node call its vjps once all gradients
    due to it have arrived (topological order: Kahn 1962). A leaf gets its sum at once, before the walk goes on, so that
    its exchange between ranks can start. Counts carry the stamp of this backward, so that one cut short by an exception
    leaves nothing behind. Edges are freed on the way unless retain_graph.

    Counts and sums are kept on the nodes. A backward that begins while another one walks, in another thread or inside
    a vjp, walks on a copy of the graph, since both may meet the same nodes.
    """
    if not root.edges:
        if root.edges is None:
            raise _consumed(root)
        return root.accumulate(g)
    if not _walking_on_nodes.acquire(False):
        return _walk(_copied(root, retain_graph), g, False)
    try:
        _walk(root, g, retain_graph)
    finally:
        _walking_on_nodes.release()


def _walk(root, g, retain_graph):
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
        edges = node.edges
        if edges is None:  # freed meanwhile, by another backward
            raise _consumed(node)
        for parent, vjp, version in edges:
            if parent.version != version:
                seen = f"{parent.name!r} was modified in place after {node.name!r} used it"
                raise RuntimeError(f"{seen}: run backward before optimizer.step()")
            d = vjp(g)
            if type(d) in INTO_AN_ARRAY and (
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
            elif parent.edges is None:
                raise _consumed(parent)
            else:  # a leaf: deliver now and not when its turn comes, so that its exchange can start
                parent.incoming = None
                parent.accumulate(d)
        if not retain_graph:
            node.edges = None


def _copied(root, retain_graph):
    """The graph below the root as nodes of its own, which takes it from the root's unless retain_graph."""
    copies = {root: Node(root.name, None, root.shape)}
    stack = [root]
    while stack:
        node = stack.pop()
        edges = node.edges
        if edges is None:
            raise _consumed(node)
        for parent, _, _ in edges:
            if parent not in copies:
                if parent.edges == ():
                    copies[parent] = _SameLeaf(parent)
                else:
                    copies[parent] = Node(parent.name, None, parent.shape)
                    stack.append(parent)
        copies[node].edges = tuple([(copies[parent], vjp, version) for parent, vjp, version in edges])
    if not retain_graph:
        for node in copies:
            if node.edges:
                node.edges = None
    return copies[root]


class _SameLeaf(Node):
    """A leaf in a copy of a graph: what arrives there is taken in by the leaf itself."""

    __slots__ = ("leaf",)
    version = property(lambda self: self.leaf.version)

    def __init__(self, leaf):
        super().__init__(leaf.name, (), leaf.shape)
        self.leaf = leaf

    def grad_buffer(self):
        return self.leaf.grad_buffer()

    def accumulate(self, g):
        self.leaf.accumulate(g)


def topological_order(root):
    """All nodes from the leaves to the root, each after those it was computed from."""
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
