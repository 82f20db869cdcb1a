"""Counts of operations and their work, against enumeration and by hand."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.engine import Leaf


def brute(result):
    """The counts by enumeration: every path from the root, every leaf's reach."""
    edges, leaves, paths, stack = {}, {}, [], [(result.node, ())]
    while stack:
        node, path = stack.pop()
        if isinstance(node, Leaf):
            leaves[node] = leaves.get(node, set()) | set(path)
            paths.append(len(path))
        for i, (parent, _, _) in enumerate(node.edges):
            edges[node, i] = None
            stack.append((parent, (*path, (node, i))))
    size = {leaf: int(np.prod(leaf.shape)) for leaf in leaves}
    return {
        "leaves": len(leaves), "weights": sum(size.values()), "forward": len({n for n, _ in edges}),
        "backward": len(edges), "leaf_by_leaf": sum(map(len, leaves.values())),
        "weight_by_weight": sum(size[leaf] * len(reach) for leaf, reach in leaves.items()), "paths": len(paths),
        "path_steps": sum(paths),
    }  # fmt: skip


def skips(x, w):
    for _ in range(5):
        x = x + (w * x).tanh() * x
    return x.sum()


@pytest.mark.parametrize("f, shapes", [(skips, [(3,), (3,)]), (lambda a: (a @ a.mT * a.sum()).mean(), [(2, 2)])])
def test_counts_equal_those_of_enumeration(f, shapes):
    arrays = [np.full(shape, 0.5) for shape in shapes]
    result = f(*[ag.tensor(a, requires_grad=True) for a in arrays])
    expected = brute(result)
    for counts in (ag.count_operations(f, *arrays), ag.count_operations(result)):
        assert {name: getattr(counts, name) for name in expected} == expected


def test_paths_double_at_each_layer_while_back_propagation_adds_two_steps():
    def doubled(x):
        for _ in range(2000):
            x = x + x
        return x

    counts = ag.count_operations(doubled, 0.0)
    assert (counts.backward, counts.paths, counts.path_steps) == (4000, 2**2000, 2000 * 2**2000)
    assert "1.148e+602 paths" in str(counts)


def test_work_is_in_multiply_adds_and_the_table_says_so():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = ag.tensor(np.ones((4, 3), "f"))
    counts = ag.count_operations(lambda: model(x).sum())
    first, relu, second, total = 4 * 3 * 5, 4 * 5, 4 * 5 * 2, 4 * 2
    assert counts.forward_work == first + relu + second + total
    tail = relu + second + total
    assert counts.backward_work == first + 4 * 5 + tail + second + 4 * 2
    below = [(15, first + tail), (5, 4 * 5 + tail), (10, second + total), (2, 4 * 2 + total)]
    assert counts.weight_by_weight_work == sum(n * cost for n, cost in below)
    assert counts.forward_work <= counts.backward_work <= 3 * counts.forward_work
    assert str(counts).split("\n") == [
        "                                                        steps  multiply-adds",
        "forward pass: operations                                    4            128",
        "back-propagation: every edge once, for all derivatives      7            196",
        "a forward sweep for each of 4 leaves                       12",
        "a forward sweep for each of 32 weights                    104          2,872",
        "each of 4 paths from the loss to a leaf by itself          12",
    ]
    assert len(str(ag.count_operations(model(x).sum())).split("\n")[0].split()) == 1
    for f, shapes, work in [
        (lambda x, w: ag.conv2d(x, w).sum(), [(2, 4, 5, 5), (6, 4, 3, 3)], 2 * 6 * 9 * 4 * 9 + 2 * 6 * 9),
        (lambda x, w: ag.conv_transpose2d(x, w).sum(), [(2, 4, 3, 3), (4, 6, 3, 3)], 2 * 4 * 9 * 6 * 9 + 2 * 6 * 25),
        (lambda a, b: ag.einsum("ij,jk->", a, b), [(2, 3), (3, 4)], 2 * 3 * 4),
        (lambda a, b: (a @ b).sum(), [(7, 2, 3), (3, 4)], 7 * 2 * 3 * 4 + 7 * 2 * 4),
    ]:
        assert ag.count_operations(f, *[np.ones(s) for s in shapes]).forward_work == work
