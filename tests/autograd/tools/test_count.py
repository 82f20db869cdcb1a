"""What shows a network and its graph: counts of operations, summaries, Graphviz and the drawing; Hessians."""

import numpy as np
import pytest
import torch

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


class Forked(nn.Module):
    """Children called in another order than defined, one of them twice, one never, one in a list, a frozen tensor."""

    def __init__(self):
        self.last = nn.Linear(4, 2)
        self.blocks = [nn.Sequential(nn.Linear(3, 4), nn.Tanh())]
        self.spare = nn.Linear(9, 9)
        self.scale = ag.tensor(np.ones(7))

    def __call__(self, x, *, twice=True):
        x = self.blocks[0](x)
        return self.last(x) + self.last(x) if twice else self.last(x)


def test_a_summary_has_names_types_shapes_parameters_and_totals():
    model = Forked()
    text = ag.summary(model, (6, 3))
    assert text.split("\n") == [
        "name            type        output    parameters  multiply-adds",
        "model           Forked      (6, 2)  0 + 7 frozen              0",
        "  blocks.0      Sequential  (6, 4)             0              0",
        "    blocks.0.0  Linear      (6, 4)            16             72",
        "    blocks.0.1  Tanh        (6, 4)             0              0",
        "  last          Linear      (6, 2)            10             96",
        "  spare         Linear      -                 90              0",
        "---------------------------------------------------------------",
        "116 parameters to train, 7 frozen, 123 in all",
        "168 multiply-adds in one forward pass",
    ]
    assert ag.summary(model, input_shape=(6, 3)) == ag.summary(model, np.zeros((6, 3), "f")) == text
    bare = ag.summary(model)
    assert "(6, 4)" not in bare and "Tanh" in bare and bare.endswith("116 parameters to train, 7 frozen, 123 in all")


def test_a_summary_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(0.5), nn.LSTM(4, 3))
    model[1].training = False
    ag.manual_seed(3)
    before = ag.dropout(ag.tensor(np.ones(20))).data
    ag.manual_seed(3)
    text = ag.summary(model, (7, 2))
    assert "(7, 2, 3), (1, 2, 3), (1, 2, 3)" in text
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert "training" not in vars(model) and nn.Embedding.__call__.__qualname__ == "Embedding.__call__"
    np.testing.assert_array_equal(ag.dropout(ag.tensor(np.ones(20))).data, before)
    with pytest.raises(ValueError, match="linear: shapes"):
        ag.summary(nn.Linear(3, 4), (2, 5))
    assert nn.Linear.__call__.__qualname__ == "Linear.__call__"


def test_dot_has_every_node_and_edge_and_with_values_the_partial_derivatives():
    w, x = ag.tensor(2.0, requires_grad=True, name="w"), ag.tensor(3.0, requires_grad=True, name='the "x"')
    product = w * x
    loss = product * product + w
    lines = ag.to_dot(loss).split("\n")
    assert '  n0 [label="w\\n()", shape=box];' in lines and '  n1 [label="the \\"x\\"\\n()", shape=box];' in lines
    assert sum(" -> " in line for line in lines) == 6 and lines.count("  n2 -> n3;") == 2
    for text in (ag.to_dot(loss, values=True), ag.to_dot(lambda: (w * x) ** 2 + w, values=True)):
        assert 'label="w\\n()\\nvalue 2.\\npartial 37."' in text and "value 6.\\npartial 12." in text
    text = ag.to_dot(loss, values=True)
    assert 'n2 -> n3 [label="6."]' in text and 'n0 -> n2 [label="3."]' in text
    loss.backward()
    assert w.grad == 37.0  # nothing had been accumulated or freed


def test_a_drawing_is_written_where_it_is_wanted(tmp_path):
    w, x = (ag.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    text = ag.draw_graph(lambda: (w * x).tanh() * w, {"w": w, "x": x}, file=tmp_path / "graph.svg")
    assert text == ag.draw_graph(lambda: (w * x).tanh() * w, {"w": w, "x": x})
    assert (tmp_path / "graph.svg").read_text().startswith("<?xml")


X = np.linspace(-1.0, 1.0, 6).reshape(2, 3)
SCALAR = {
    "cross_entropy": lambda m, x: m.cross_entropy(x * x, m.array([2, 0])),
    "layer_norm": lambda m, x: (m.layer_norm(x, (3,)) ** 3).sum(),
    "batch_norm": lambda m, x: (m.batch_norm(x * x, None, None, training=True, eps=0.1) ** 3).sum(),
    "attention": lambda m, x: (m.scaled_dot_product_attention(x, x * x, x) ** 2).sum(),
    "conv2d": lambda m, x: (m.conv2d(x.reshape(1, 1, 2, 3), x[:, :2].reshape(1, 1, 2, 2)) ** 2).sum(),
    "gelu": lambda m, x: (m.gelu(x) * x).sum(),
    "constant": lambda m, x: (x * 0.0).sum(),
}


class Library:
    def __init__(self, array, *modules):
        self.array, self.modules = array, modules

    def __getattr__(self, name):
        return next(getattr(m, name) for m in self.modules if hasattr(m, name))


@pytest.mark.parametrize("name", SCALAR)
def test_hessians_agree_with_torch(name):
    f, ours, theirs = SCALAR[name], Library(np.asarray, ag), Library(torch.as_tensor, torch.nn.functional, torch)
    expected = torch.autograd.functional.hessian(lambda x: f(theirs, x), torch.tensor(X))
    found = ag.hessian(lambda x: f(ours, x))(X)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ag.hessian(lambda n, x: f(ours, x) * n, 1)(2.0, X), 2 * expected.numpy(), atol=1e-9)
    ag.gradcheck(lambda x: f(ours, x), X, order=2, tolerance=1e-5)


@pytest.mark.parametrize("out, given", [((2,), (3,)), ((), (3,)), ((2, 2), (1, 3)), ((0,), (3,)), ((2,), ())])
def test_jacobians_have_the_shape_of_the_result_and_then_of_the_argument(out, given):
    p, q = int(np.prod(out)), int(np.prod(given))
    a = np.arange(1.0, 1 + p * q).reshape(p, q)
    np.testing.assert_array_equal(
        ag.jacobian(lambda n, x: ag.reshape(a @ x.reshape(-1), out) * n, 1)(1.0, np.ones(given)), a.reshape(out + given)
    )
    assert ag.jacobian(lambda x: ag.tensor(np.ones(out)))(np.ones(given)).shape == out + given


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_pullbacks_of_arrays_take_tensors_and_are_differentiable_by_them(reduction):
    y, pullback = ag.vjp(lambda x: ag.cross_entropy(x, [2, 0], reduction), X)
    g = np.cos(np.arange(y.size)).reshape(y.shape)
    (expected,) = pullback(g)
    np.testing.assert_allclose(pullback(ag.tensor(g))[0], expected, rtol=1e-14)
    slope = ag.tensor(g, requires_grad=True)
    (pullback(slope)[0] * X).sum().backward()
    np.testing.assert_allclose(slope.grad, ag.jvp(lambda x: ag.cross_entropy(x, [2, 0], reduction), [X], [X])[1])


def test_gradcheck_names_the_derivative_that_is_off():
    @ag.primitive
    def scaled(a, b):
        off = np.ones(np.shape(b.data if type(b) is ag.Tensor else b))
        off[1, 2] = 1.5
        return a * b, lambda g: g * b, lambda g: g * a * off

    message = r"rules give 3 for element \(1, 2\) of the function by argument 1 at index \(1, 2\), differences 2(\.0)?"
    with pytest.raises(AssertionError, match=message):
        ag.gradcheck(scaled, np.full((2, 3), 2.0), X, eps=1e-3)
    assert ag.gradcheck(lambda a, b: a * b, X, X, order=2) is True
