"""Pictures of a graph, as text, by matplotlib or by Graphviz: every node with its value and partial derivative."""

import gc

import numpy as np

from allgrad.autograd.arrays import INTO_AN_ARRAY, Scattered, unbroadcast, xp
from allgrad.autograd.engine import Tensor, patched, topological_order, unwrap
from allgrad.autograd.tools.table import table


def draw_graph(f, leaves, precision=3, file=None):
    """Run the scalar-valued f(), walk back, and return the graph as text, one line a node, in order of computing.

    leaves: a module, or a dict of the tensors by name, whose part in the graph is wanted. Each line has the node's
    number, its name or how it was computed from which nodes, its value, and the partial derivative of the result by
    it. Gradients are accumulated into the leaves as in any backward.

    file: where to draw it as well ("graph.png", ".svg", ".pdf"; needs matplotlib), from the leaves on the left to the
    result on the right. Nodes have their value and the partial derivative of the result; edges between scalars the
    partial derivative of the one by the other, so that the chain rule can be followed: the partial of a node is the
    sum, over the edges that leave it, of the edge's partial times that of the node it leads to.
    """
    named = dict(leaves.named_parameters() if hasattr(leaves, "named_parameters") else leaves)
    names = {tensor.node: name for name, tensor in named.items()}
    values = {tensor.node: tensor.data for tensor in named.values()}
    result = _run_keeping_values(f, values)
    order = topological_order(root_of(result, "draw_graph"))
    partials, local = _partials(result, order)
    number = {node: f"#{i}" for i, node in enumerate(order)}
    rows: list[tuple] = [("", "node", "value", "d result / d node")]
    for node in order:
        sources = ", ".join(number[parent] for parent, _, _ in node.edges)
        label = f"{node.name}({sources})" if sources else names.get(node, node.name)
        rows.append((number[node], label, *(_number_text(x.get(node), precision) for x in (values, partials))))
    if file is not None:
        _figure(file, order, [row[1:] for row in rows[1:]], local, precision)
    result.backward()
    return table(rows, left=4)


def to_dot(loss, values=False, precision=3):
    """The graph of a tensor in the language of Graphviz, from the leaves down to the loss; `dot -Tsvg` draws it.

    Operations are ellipses with the shape of their value, leaves boxes with their names. values=True, for small
    graphs: adds to each node its value and the partial derivative of the loss by it, and to each edge between scalars
    the partial derivative of the one by the other. A graph keeps no values: give the function that computes the loss,
    `to_dot(lambda: loss(x), values=True)`, and all are shown; of a tensor, those that a tensor still alive holds.
    Nothing is accumulated or freed: draw before `backward`, or after one with retain_graph=True.
    """
    known: dict = {}
    if type(loss) is not Tensor and not callable(loss):
        raise TypeError(f"to_dot: give a tensor, or a function that computes one, not {type(loss).__name__}")
    result = loss if type(loss) is Tensor else _run_keeping_values(loss, known)
    order = topological_order(root_of(result, "to_dot"))
    partials, local = _partials(result, order) if values else ({}, {})
    if values:
        alive = [t for t in gc.get_referrers(*order) if type(t) is Tensor]
        known = {t.node: t.data for t in alive} | known
    number = {node: i for i, node in enumerate(order)}
    lines = ["digraph {", '  node [fontname="Helvetica"]; edge [fontname="Helvetica"];']
    for node in order:
        text = f"{node.name}\n{tuple(node.shape)}"
        if node in known:
            text += f"\nvalue {_number_text(known[node], precision)}"
        if node in partials:
            text += f"\npartial {_number_text(partials[node], precision)}"
        lines.append(f"  n{number[node]} [label={_dot_string(text)}, shape={'ellipse' if node.edges else 'box'}];")
    for node in order:
        for i, (parent, _, _) in enumerate(node.edges):
            label = f" [label={_dot_string(_number_text(local[node, i], precision))}]" if (node, i) in local else ""
            lines.append(f"  n{number[parent]} -> n{number[node]}{label};")
    return "\n".join([*lines, "}"])


def root_of(result, name):
    """The node of a result; RuntimeError, in the name of a tool, if it has none."""
    if type(result) is not Tensor or result.node is None:
        raise RuntimeError(f"{name}: the result does not depend on anything that requires a gradient")
    return result.node


def _run_keeping_values(f, values):
    """f(), keeping in `values` the value of every node that it computes, since nodes hold none."""
    create = Tensor.__init__

    def noting(self, data, node=None, level=0):
        create(self, data, node, level)
        if node is not None:
            values[node] = data

    with patched("draw_graph", Tensor, __init__=noting):
        return f()


def _partials(result, order):
    """d result / d node for every node, and d node / d parent for every edge (node, i) between scalars."""
    data = unwrap(result)
    n = xp[type(data)]
    partials, local = {result.node: n.ones_like(data)[()]}, {}
    for node in reversed(order):
        for i, (parent, vjp, _) in enumerate(node.edges):
            d = _apply_vjp(vjp, partials[node], parent)
            partials[parent] = partials[parent] + d if parent in partials else d
            if node.shape == parent.shape == ():
                local[node, i] = _apply_vjp(vjp, n.ones_like(data)[()], parent)
    return partials, local


def _apply_vjp(vjp, g, parent):
    d = vjp(g)
    d = d.value() if type(d) in (*INTO_AN_ARRAY, Scattered) else d
    return unbroadcast(d, parent.shape) if d.shape != parent.shape else d


def _figure(file, order, texts, local, precision):
    """The graph drawn by matplotlib, each node in the column after the last of those it was computed from."""
    from matplotlib.figure import Figure

    column, places = {}, {}
    for node in order:
        column[node] = max((column[parent] + 1 for parent, _, _ in node.edges), default=0)
    for node in order:
        if not node.edges:  # a leaf stands just before its first use
            column[node] = min(column[user] for user in order for p, _, _ in user.edges if p is node) - 1
    for node in order:
        row = sum(column[other] == column[node] for other in places)
        places[node] = 3.2 * column[node], -1.6 * row - 0.4 * (column[node] % 2)
    width, height = (max(p[i] * s for p in places.values()) for i, s in ((0, 1), (1, -1)))
    room = 0.75 + 0.1 * width  # for the longest bend
    figure = Figure(figsize=(width + 2.5, height + 2 * room))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1.25, width + 1.25), ylim=(-height - room, room))
    axes.set_axis_off()
    for node, (label, value, partial) in zip(order, texts):
        x, y = places[node]
        box = {"boxstyle": "round", "facecolor": "white" if node.edges else "lightgrey"}
        name = node.name if node.edges else label
        axes.text(x, y, f"{name}\nvalue {value}\npartial {partial}", ha="center", va="center", fontsize=8, bbox=box)
        parents = [parent for parent, _, _ in node.edges]
        for i, parent in enumerate(parents):
            u, v = places[parent]
            bent = parents.count(parent) > 1 or column[node] - column[parent] > 1  # past what stands between
            bend = 0.2 * (1 if i else -1) if bent else 0.0
            arrow = {"arrowstyle": "->", "shrinkA": 30, "shrinkB": 30, "connectionstyle": f"arc3,rad={bend}"}
            axes.annotate("", (x, y), (u, v), arrowprops=arrow, zorder=0)
            if (node, i) in local:
                at = (u + x + bend * (y - v)) / 2, (v + y - bend * (x - u)) / 2  # the middle of the arc
                text = _number_text(local[node, i], precision)
                axes.text(*at, text, color="tab:red", fontsize=8, ha="center", backgroundcolor="white")
    figure.savefig(file)


def _dot_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _number_text(x, precision):
    x = np.asarray(unwrap(x))
    return np.array2string(x, precision=precision, suppress_small=True, separator=" ").replace("\n", "")
