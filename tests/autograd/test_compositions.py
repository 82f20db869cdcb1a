"""Operators together: graphs that share nodes, and whose arrays and gradients are whose; hypothesis draws them."""

import numpy as np
import torch
from hypothesis import given, settings, strategies as st

import allgrad as ag
from tests.autograd.ops.properties import SEEDS, check_with_torch, normal

# --- compositions ----------------------------------------------------------------------------------------------

STEPS = {  # of one or two matrices (3, 3), smooth and bounded
    1: [
        "m.sin(a)", "m.tanh(a)", "m.exp(-a * a)", "m.softmax(a, -1)", "a.sum(0, keepdim=True) * 0.3 + a", "a.mT",
        "a[[0, 0, 2]]", "m.logsumexp(a, 1).reshape(3, 1) - a", "m.cat([a[1:], a[:1] * 0.5])", "m.sigmoid(a)",
        "a.reshape(9)[:, None].reshape(3, 3)", "a.mean() + a", "m.cumsum(a, 0) * 0.3", "a.flip((0, 1))",
        "a.expand(2, 3, 3)[1]", "m.log1p(a * a)", "m.sqrt(a * a + 1)", "a.detach() * a",
    ],
    2: [
        "a * b", "a + b", "a - b", "a @ b * 0.3", "a / (b * b + 1)", "m.einsum('ij,jk->ik', a, b) * 0.3",
        "m.stack([a, b])[1] * a", "m.where(a > b, a, b * 0.5)",
    ],
}  # fmt: skip
GRAPHS = st.lists(
    st.tuples(st.sampled_from(STEPS[1] + STEPS[2]), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


def graph(m, steps, *xs):
    """The sum of all nodes that a list of steps computes, each from earlier ones: subexpressions are shared."""
    nodes = list(xs)
    for step, i, j in steps:
        nodes.append(eval(step, {"m": m, "a": nodes[i % len(nodes)], "b": nodes[j % len(nodes)]}))
    return (nodes[-1] * nodes[-2]).sum() + m.sin(xs[0]).sum()


@settings(max_examples=60)
@given(GRAPHS, SEEDS)
def test_graphs_that_share_nodes_have_the_derivatives_of_torch(steps, seed):
    x, w = normal(seed, (3, 3), (3, 3))
    check_with_torch(lambda m, x, w: graph(m, steps, x, w), x, w, seed=seed)
    leaves = [ag.tensor(a, requires_grad=True) for a in (x, w)]
    graph(ag, steps, *leaves).backward()
    _, pullback = ag.vjp(lambda *xs: graph(ag, steps, *xs), x, w)
    for leaf, d in zip(leaves, pullback(np.float64(1.0))):
        np.testing.assert_allclose(np.zeros(d.shape) if leaf.grad is None else leaf.grad, d, rtol=1e-13, atol=1e-14)


@settings(max_examples=25)
@given(GRAPHS, SEEDS)
def test_second_derivatives_are_symmetric_and_those_of_torch(steps, seed):
    x, w, u, v = normal(seed, *[(3, 3)] * 4)

    def f(x):
        return graph(ag, steps, x, ag.tensor(w))

    t = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(graph(torch, steps, t, torch.tensor(w)), t, create_graph=True)
    (expected,) = torch.autograd.grad(slope, t, torch.tensor(v))
    along_v, along_u = ag.hvp(f, x, v), ag.hvp(f, x, u)
    np.testing.assert_allclose(along_v, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(np.sum(u * along_v), np.sum(v * along_u), rtol=1e-8, atol=1e-8)
    hessian = ag.jacobian(ag.grad(f))(x)
    np.testing.assert_allclose(np.tensordot(hessian, v, 2), along_v, rtol=1e-9, atol=1e-9)
    forward = ag.jvp(ag.grad(f), (x,), (v,))[1]  # forward over reverse, and reverse over reverse
    np.testing.assert_allclose(forward, along_v, rtol=1e-9, atol=1e-9)


# --- what belongs to whom --------------------------------------------------------------------------------------

USES = [  # each takes (3, 3) and gives a view where it can
    "x.reshape(-1)", "x.T", "x[1:]", "x[...]", "x.expand(2, 3, 3)", "x.flip(0)", "x.split(1)[0]", "x.squeeze()", "x.mT",
    "x.unsqueeze(0)", "x.flatten()", "x.permute(1, 0)", "m.einsum('ij->ji', x)", "m.dropout(x, 0.0)", "x.roll(1)",
    "m.conv_transpose2d(x.reshape(1, 1, 3, 3), x[:2, :2].reshape(1, 1, 2, 2))", "m.pad(x, (0, 0))", "m.cat([x])",
    "x.sum()", "x + 0", "m.clamp(x, -9, 9)", "m.relu(x)", "m.where(x < 9, x, 0)",
]  # fmt: skip


@given(st.sampled_from(USES), st.sampled_from(["y * y", "y * 2", "y + c", "m.exp(y)", "y"]), SEEDS)
def test_a_step_in_place_changes_no_gradient_unnoticed(use, then, seed):
    """Not of a graph made before, which is refused; nor what was handed out; nor the array a tensor was made of."""
    array, c = normal(seed, (3, 3), ())
    before = array.copy()
    x = ag.tensor(array, requires_grad=True)
    y = eval(then, {"m": ag, "y": eval(use, {"m": ag, "x": x}), "c": c})
    (g,) = normal(seed + 1, y.shape)
    y.backward(g, retain_graph=True)
    kept = x.grad.copy()
    g += 1.0
    np.testing.assert_array_equal(x.grad, kept)
    x.assign(x.data - 0.1 * x.grad)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(x.grad, kept)
    with np.testing.assert_raises_regex(RuntimeError, "was modified in place after"):
        y.backward(g)


@given(st.sampled_from(USES), SEEDS)
def test_gradients_of_a_pullback_are_arrays_of_the_caller(use, seed):
    x, w = normal(seed, (3, 3), (3, 3))
    y, pullback = ag.vjp(lambda x, w: eval(use, {"m": ag, "x": x}) + (w * 0).sum() + w.sum(), x, w)
    (g,) = normal(seed, y.shape)
    first, kept = pullback(g), [d.copy() for d in pullback(g)]
    for d in first:
        d *= 2.0  # in place: writeable, and not the other one, nor g
    for d, e in zip(pullback(g), kept):
        np.testing.assert_array_equal(d, e)
    for d, e in zip(first, kept):
        np.testing.assert_array_equal(d, 2.0 * e)
    g *= -3.0  # the same array with other numbers
    for d, e in zip(pullback(g), kept):
        np.testing.assert_allclose(d, -3.0 * e, rtol=1e-13)


@settings(max_examples=20)
@given(st.data(), SEEDS)
def test_the_layout_of_an_array_in_memory_does_not_matter(data, seed):
    x, w = normal(seed, (2, 4, 6, 6), (4, 2, 3, 3))
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1])] * 4))
    x = np.asfortranarray(x) if data.draw(st.booleans()) else x.transpose(0, 1, 3, 2)
    strided = x[tuple(slice(None, None, s) for s in (steps[0], 1, *steps[2:]))]
    name = data.draw(st.sampled_from(["conv2d", "max_pool2d", "avg_pool2d", "layer_norm", "matmul", "linear"]))
    f = {
        "conv2d": lambda x, w: ag.conv2d(x, w, padding=1, groups=2),
        "max_pool2d": lambda x, w: ag.max_pool2d(x, 2, 1, 1),
        "avg_pool2d": lambda x, w: ag.avg_pool2d(x, 2, 1, 1),
        "layer_norm": lambda x, w: ag.layer_norm(x, x.shape[-1]),
        "matmul": lambda x, w: ag.matmul(x, x.mT),
        "linear": lambda x, w: ag.linear(x, x[0, 0]),
    }[name]
    outcomes = []
    for a in (strided, np.ascontiguousarray(strided)):
        a.flags.writeable = False
        y, pullback = ag.vjp(f, a, w)
        (g,) = normal(seed, y.shape)
        outcomes.append([y, *pullback(g), *pullback(np.asfortranarray(g)), ag.jvp(f, (a, w), (a, w))[1]])
    for here, there in zip(*outcomes):
        np.testing.assert_allclose(here, there, rtol=1e-12, atol=1e-12)
