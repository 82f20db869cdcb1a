"""`count_operations`: the cost of the same derivatives by back-propagation, forward sweeps, and sums over paths."""

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from allgrad.autograd.arrays import kind
from allgrad.autograd.engine import Leaf, Tensor, instrumented, shape_of, topological_order
from allgrad.autograd.tools.draw import root_of
from allgrad.autograd.tools.table import table


@dataclass(frozen=True)
class OperationCounts:
    """What `count_operations` found. A step is the product with one edge's Jacobian; work is in multiply-adds.

    leaves, weights       leaves of the graph, and the numbers in all of them together
    forward               operations recorded by the forward pass
    backward              steps of one backward sweep: every edge once, for the derivatives by all weights
    leaf_by_leaf          steps of one forward sweep for each leaf, over the edges that the leaf can reach
    weight_by_weight      steps of one forward sweep for each number in the leaves
    paths, path_steps     paths from the loss to the leaves, and the edges of all of them together
    ..._work              the same in multiply-adds; None if a graph was counted that had been recorded before
    """

    leaves: int
    weights: int
    forward: int
    backward: int
    leaf_by_leaf: int
    weight_by_weight: int
    paths: int
    path_steps: int
    forward_work: int | None = None
    backward_work: int | None = None
    weight_by_weight_work: int | None = None

    def __str__(self):
        rows = [
            ("forward pass: operations", self.forward, self.forward_work),
            ("back-propagation: every edge once, for all derivatives", self.backward, self.backward_work),
            (f"a forward sweep for each of {_number_text(self.leaves)} leaves", self.leaf_by_leaf, None),
            (f"a forward sweep for each of {_number_text(self.weights)} weights", self.weight_by_weight,
             self.weight_by_weight_work),
            (f"each of {_number_text(self.paths)} paths from the loss to a leaf by itself", self.path_steps, None),
        ]  # fmt: skip
        cells = [
            ("", "steps", "multiply-adds"),
            *((a, _number_text(b), "" if c is None else _number_text(c)) for a, b, c in rows),
        ]
        return table(cells if self.forward_work is not None else [row[:2] for row in cells], left=1)


def _number_text(n):
    return f"{n:,}" if n < 10**15 else f"{Decimal(n):.3e}"


def count_operations(f, *arrays):
    """Count what the derivatives of the scalar f(*arrays) cost in three ways, exactly, over the graph it records.

    f maps tensors to one tensor of one element; floating arrays become leaves, as the parameters are that f uses:
    `count_operations(lambda: ag.cross_entropy(model(x), y))` counts those of a model. A tensor computed before may
    stand in the place of f. Each edge of the graph carries one local derivative, a Jacobian J.

    Back-propagation multiplies by each J once, on the way back, whatever the number of weights: what arrives at a node
    from all its uses is summed first, and then sent on (Linnainmaa 1970; Rumelhart, Hinton and Williams 1986). That is
    dynamic programming over the paths of the graph. Differentiating forward, for one weight at a time, multiplies by
    the same J, in the other direction and as costly, on every edge that the weight can reach, and again for the next
    weight. The chain rule written out is a sum over all paths from the loss to a leaf, of the product of the J along
    each: wherever paths meet again, their number multiplies, so that it grows exponentially with depth.

    The unit of work is the multiply-add of a product (matmul, linear, einsum, convolutions), and one for each element
    of anything else. J of a product is as costly as the product, since a linear map and its transpose have the same
    coefficients; so the backward sweep of a network is about twice the forward pass, and at most a small constant
    times it for any function (the cheap gradient principle: Griewank and Walther 2008, section 4.6). Not counted are
    the forward pass that each way needs first, sums where edges meet, operations on constants only, and that the sweep
    for one weight could skip the zeros in its first Jacobian.
    """
    costs: dict = {}
    if type(f) is not Tensor and not callable(f):
        raise TypeError(f"count_operations: give a function, or a tensor it computed, not {type(f).__name__}")
    if isinstance(f, Tensor):
        result = f
    else:
        inputs = [_leaf(a, f"argument {i}") for i, a in enumerate(arrays)]
        with instrumented("count_operations", lambda name, rule: _counting(name, rule, costs)):
            result = f(*inputs)
    root = root_of(result, "count_operations")
    if math.prod(result.shape) != 1:
        raise ValueError(f"count_operations: the result must be a scalar, got shape {result.shape}: reduce it first")
    order = topological_order(root)
    edges = [(node, parent, vjp) for node in order for parent, vjp, _ in node.edges]
    leaves = [node for node in order if isinstance(node, Leaf)]
    reach = {leaf: 1 << i for i, leaf in enumerate(leaves)}  # for each node, the set of leaves it depends on, as bits
    for node, parent, _ in edges:
        reach[node] = reach.get(node, 0) | reach[parent]
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    weights = {bits: sum(n for i, n in enumerate(sizes) if bits >> i & 1) for bits in set(reach.values())}
    paths = dict.fromkeys(order, 0) | {root: 1}  # from the loss to each node, and their length in sum
    lengths = dict.fromkeys(order, 0)
    for node in reversed(order):
        for parent, _, _ in node.edges:
            paths[parent] += paths[node]
            lengths[parent] += lengths[node] + paths[node]
    work: dict = {}
    if costs:
        at = [(weights[reach[parent]], costs[vjp][1]) for _, parent, vjp in edges]
        work["forward_work"] = sum(costs[node.edges[0][1]][0] for node in order if node.edges)
        work["backward_work"] = sum(cost for _, cost in at)
        work["weight_by_weight_work"] = sum(n * cost for n, cost in at)
    return OperationCounts(
        leaves=len(leaves),
        weights=sum(sizes),
        forward=len(order) - len(leaves),
        backward=len(edges),
        leaf_by_leaf=sum(reach[parent].bit_count() for _, parent, _ in edges),
        weight_by_weight=sum(weights[reach[parent]] for _, parent, _ in edges),
        paths=sum(paths[leaf] for leaf in leaves),
        path_steps=sum(lengths[leaf] for leaf in leaves),
        **work,
    )


def _leaf(a, name):
    if type(a) is Tensor:
        return a
    a = a if hasattr(a, "dtype") else np.asarray(a)
    return Tensor(a, Leaf(name, tuple(a.shape), a.dtype)) if kind(a.dtype) == "f" else a


def _counting(name, rule, costs):
    def counting(*operands, **static):
        value, *vjps = rule(*operands, **static)
        n = multiply_adds(name, value, operands, static)
        for i, vjp in enumerate(vjps):
            costs[vjp] = n, math.prod(value.shape) if name in BIASED and i == 2 else n  # a bias is only summed
        return value, *vjps

    return counting


def _einsum(y, *operands, inputs, **_):
    lengths = {c: n for labels, shape in zip(inputs, operands) for c, n in zip(labels, shape)}
    return math.prod(lengths.values())


BIASED = "linear", "conv2d", "conv_transpose2d"
PRODUCTS = {  # multiply-adds, from the shapes of the value and the operands
    "matmul": lambda y, a, b: math.prod(y) * a[-1],
    "linear": lambda y, x, w, *bias: math.prod(y) * w[-1],
    "conv2d": lambda y, x, w, *bias, **_: math.prod(y) * math.prod(w[1:]),
    "conv_transpose2d": lambda y, x, w, *bias, **_: math.prod(x) * math.prod(w[1:]),
    "conv2d_by_weight": lambda y, g, x, **_: math.prod(g) * math.prod(y[1:]),
    "einsum": _einsum,
}


def multiply_adds(name, value, operands, static):
    """The multiply-adds of an operation that computed this value of these operands."""
    shapes = [shape_of(x) for x in (value, *operands)]
    return PRODUCTS[name](*shapes, **static) if name in PRODUCTS else max(map(math.prod, shapes))
