"""The graph as a lecture draws it: every operation with its value and its partial derivative."""

import numpy as np

from autograd.core import Tensor


def draw_graph(f, leaves, precision=3):
    """Run the scalar-valued f(), walk back, and return the graph as text, one line a node, in order of computing.

    leaves: a module, or a dict of the tensors by name, whose part in the graph is wanted. Each line has the node's
    number, its name or how it was computed from which nodes, its value, and the partial derivative of the result by
    it. Gradients are accumulated into the leaves as in any backward.
    """
    named = dict(leaves.named_parameters() if hasattr(leaves, "named_parameters") else leaves)
    names = {tensor.node: name for name, tensor in named.items()}
    values = {tensor.node: tensor.data for tensor in named.values()}
    result = _remembering(f, values)
    if result.node is None:
        raise RuntimeError("draw_graph: the result does not depend on anything that requires a gradient")
    order, partials = _in_order(result.node), {result.node: np.ones_like(result.data)}
    number = {node: f"#{i}" for i, node in enumerate(order)}
    sources = {node: ", ".join(number[parent] for parent, _, _ in node.edges) for node in order}
    for node in order:
        node.edges = tuple((parent, _noting(vjp, node, partials), version) for parent, vjp, version in node.edges)
    earlier = {node: node.total.copy() for node in order if not sources[node] and not node.fresh}
    result.backward()
    rows: list[tuple] = [("", "node", "value", "d result / d node")]
    for node in order:
        label = f"{node.name}({sources[node]})" if sources[node] else names.get(node, node.name)
        partial = partials[node] if sources[node] else node.total - earlier.get(node, 0.0)
        rows.append((number[node], label, _short(values.get(node), precision), _short(partial, precision)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths)), row[3]]).rstrip() for row in rows)


def _remembering(f, values):
    """f(), with the value of every node that it computes noted: nodes themselves hold none."""
    create = Tensor.__init__

    def noting(self, data, node=None, level=0):
        create(self, data, node, level)
        if node is not None:
            values[node] = data

    Tensor.__init__ = noting
    try:
        return f()
    finally:
        Tensor.__init__ = create


def _noting(vjp, node, partials):
    def noted(g):
        partials[node] = g
        return vjp(g)

    return noted


def _in_order(root):
    """The nodes below the root, each after all those it was computed from."""
    order, stack = {}, [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order[node] = None
        elif node not in order:
            stack.append((node, True))
            stack.extend((parent, False) for parent, _, _ in reversed(node.edges))
    return list(order)


def _short(x, precision):
    return np.array2string(np.asarray(x), precision=precision, suppress_small=True, separator=" ").replace("\n", "")
