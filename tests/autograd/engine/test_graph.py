"""The graph and the walk back: what is recorded, when it dies, in which order gradients arrive, what is refused."""

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.engine import Node
from allgrad.autograd.random import generator


def leaf(*shape, name="x", dtype="float64"):
    return ag.tensor(generator(name, *shape).standard_normal(shape), requires_grad=True, dtype=dtype, name=name)


# --- memory ------------------------------------------------------------------------------------------------------


@contextmanager
def no_node_left():
    """What runs inside leaves no recorded operation alive, with no help from the garbage collector."""

    def count():
        return sum(type(x) is Node for x in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        yield
        assert count() == before
    finally:
        gc.enable()


class Net(nn.Module):
    """Nested and tied: a list, a dict, dropout, one matrix used twice."""

    def __init__(self):
        self.body = [nn.Linear(6, 6), {"drop": nn.Dropout(0.3), "norm": nn.Sequential(nn.Tanh(), nn.Linear(6, 6))}]
        self.body[1]["norm"][1].weight = self.body[0].weight
        self.head = nn.Linear(6, 3)

    def __call__(self, x):
        first, rest = self.body
        return self.head(ag.relu(rest["norm"](rest["drop"](first(x)))))


X = np.linspace(-1.0, 1.0, 48, dtype=np.float32).reshape(8, 6)
LABELS = np.arange(8) % 3


def loss_of(model):
    return ag.cross_entropy(model(X), LABELS)


def penalty(model):
    slope = ag.grad(lambda x: ag.log_softmax(model(x))[:, 0].sum())(ag.tensor(X))
    return loss_of(model) + (slope * slope).sum()


@pytest.mark.parametrize(
    "step",
    [
        lambda model: loss_of(model).backward(),
        lambda model: loss_of(model),
        lambda model: loss_of(model).backward(retain_graph=True),
        lambda model: [(loss_of(model) + loss_of(model)).backward() for _ in range(2)],
        lambda model: penalty(model).backward(),
        lambda model: penalty(model),
        lambda model: ag.hvp(lambda x: ag.cross_entropy(model(x), LABELS), X, X),
        lambda model: ag.hvp(lambda x: ag.cross_entropy(model(x), LABELS), ag.tensor(X, requires_grad=True), X),
        lambda model: ag.jvp(model, [X], [X])[1].sum().backward(),
        lambda model: ag.jacobian(lambda x: ag.log_softmax(model(x)).sum(0))(X).sum().backward(),
    ],
    ids=[
        "backward", "forward only", "retained", "shared", "penalty", "penalty forward only", "hvp of arrays",
        "hvp of a leaf", "jvp", "jacobian",
    ],
)  # fmt: skip
def test_nothing_recorded_survives_a_step(step):
    model = Net()
    optimizer = optim.SGD(model, lr=0.1)
    with no_node_left():
        step(model)
        optimizer.step()


def test_a_graph_of_a_million_nodes_walks_and_dies_without_recursion():
    x = leaf(3)
    with no_node_left():
        y = x
        for _ in range(1_000_000):
            y = -y
        y.backward(np.ones(3), retain_graph=True)
        del y
    np.testing.assert_array_equal(x.grad, np.ones(3))


def test_a_value_lives_only_while_a_needed_vjp_holds_it():
    def saved(constant):
        t = -leaf(1000)
        value, product = weakref.ref(t.data), t * constant
        del t
        return value() is not None, product  # the product's vjp by the constant would hold t

    assert not saved(np.ones(1000))[0]
    assert saved(leaf(1000, name="y"))[0]


def test_backward_frees_activations_while_the_loss_is_still_held():
    t = leaf(1000).exp()
    value, loss = weakref.ref(t.data), (t * t).sum()
    del t
    assert value() is not None
    loss.backward()
    assert value() is None


# --- the walk ----------------------------------------------------------------------------------------------------


def chain(*parameters):
    """((x @ w1) @ w2) ... with a probe between the layers that notes when the walk passes it."""
    passed = []

    @ag.primitive
    def probe(a, *, label):
        return a + 0.0, lambda g: passed.append(label) or g

    y = np.eye(3)
    for w in parameters:
        y = probe(y @ w, label=w.name)
    return y.sum(), passed


def test_a_hook_fires_before_the_walk_reaches_earlier_layers():
    parameters = [leaf(3, 3, name=name) for name in ("w1", "w2", "w3")]
    loss, events = chain(*parameters)
    for w in parameters:
        w.register_hook(lambda leaf: events.append(f"hook {leaf.name}"))
    loss.backward()
    assert events == ["w3", "hook w3", "w2", "hook w2", "w1", "hook w1"]


def test_a_hook_fires_once_for_a_tied_weight_after_its_last_use():
    w, v = leaf(3, 3, name="w"), leaf(3, 3, name="v")
    loss, events = chain(w, v, w)
    seen = []
    w.register_hook(lambda leaf: seen.append((list(events), leaf.grad.copy())))
    loss.backward()
    ((before, gradient),) = seen
    assert before == ["w", "v", "w"]
    np.testing.assert_array_equal(gradient, w.grad)
    one = np.ones((3, 3))
    expected = one @ (v.data @ w.data).T + (w.data @ v.data).T @ one
    np.testing.assert_allclose(w.grad, expected, rtol=1e-14)


@pytest.mark.parametrize("retain_graph", [False, True])
def test_a_walk_cut_short_leaves_the_next_one_exact(retain_graph):
    parameters = [leaf(3, 3, name=name) for name in ("w1", "w2", "w3")]
    chain(*parameters)[0].backward()
    exact = [w.grad.copy() for w in parameters]

    def interrupt(leaf):
        raise KeyboardInterrupt

    loss, _ = chain(*parameters)
    parameters[1].register_hook(interrupt)
    for w in parameters:
        w.grad = None
    with pytest.raises(KeyboardInterrupt):
        loss.backward(retain_graph=retain_graph)
    parameters[1].register_hook(None)
    assert parameters[0].grad is None
    for w in parameters:
        w.grad = None
    (loss if retain_graph else chain(*parameters)[0]).backward()
    for w, g in zip(parameters, exact):
        np.testing.assert_array_equal(w.grad, g)


def test_gradients_add_up_over_backwards_until_reset():
    x = leaf(4)
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_array_equal(x.grad, 4.0 * x.data)
    x.grad = None
    (3.0 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full(4, 3.0))
    x.backward(np.ones(4))  # a leaf may be its own root
    np.testing.assert_array_equal(x.grad, np.full(4, 4.0))


def test_a_diamond_runs_every_node_once_after_all_its_consumers():
    x = leaf(3)
    a = x.exp()
    b, c = a * 2.0, a.sin()
    ((b * c) + (c * a) + b).sum().backward()
    e = np.exp(x.data)
    expected = (2 * np.sin(e) + 2 * e * np.cos(e) + e * np.cos(e) + np.sin(e) + 2) * e
    np.testing.assert_allclose(x.grad, expected, rtol=1e-13)


def test_a_weight_used_by_layers_and_directly_collects_every_gradient():
    w = leaf(3, 3)
    twice = ag.linear(ag.linear(np.eye(3), w), w)
    (twice.sum() + (w * w).sum()).backward()
    one = np.ones((3, 3))
    np.testing.assert_allclose(w.grad, one @ w.data.T + w.data.T @ one + 2 * w.data, rtol=1e-14)


def test_a_leaf_assigned_after_use_is_refused_and_before_use_is_not():
    x = leaf(3)
    x.assign(np.arange(3.0))
    y = (x * x).sum()
    x.assign(np.zeros(3))
    with pytest.raises(RuntimeError, match=r"^'x' was modified in place after 'mul' used it: run backward before opt"):
        y.backward()
    (x * 2.0).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full(3, 2.0))


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_a_gradient_that_was_kept_stays_when_the_leaf_forgets_it(array):
    x = ag.tensor(array(np.float32([1.0, 2.0])), requires_grad=True)
    (x * 1.0).sum().backward()
    kept = x.grad
    x.grad = None
    (x * 5.0).sum().backward()
    assert (kept.tolist(), x.grad.tolist()) == ([1.0, 1.0], [5.0, 5.0])


# --- several walks at once ---------------------------------------------------------------------------------------


def checkpointed(f):
    """f as an operation that keeps its input alone, and computes again in a backward inside its vjp."""

    @ag.primitive
    def segment(a):
        def vjp(g):
            x = ag.tensor(a, requires_grad=True)
            f(x).backward(g)
            return x.grad

        return f(ag.tensor(a)).data, vjp

    return segment


def test_a_backward_inside_a_vjp_shares_leaves_with_the_one_around_it():
    x, w = leaf(2, 3).detach(), leaf(3, 3, name="w")
    found = []
    for wrap in (lambda f: f, checkpointed, lambda f: checkpointed(checkpointed(f))):
        w.grad = None
        h = wrap(lambda h: ag.tanh(h @ w))(x @ w)
        (h @ w * (x @ w)).sum().backward()
        found.append(w.grad.copy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-12)


def test_threads_that_share_a_leaf_or_a_graph_lose_no_gradient():
    w = ag.tensor(np.full((6, 6), 0.125), requires_grad=True)  # powers of two: sums are exact in any order
    trunk = w * 2.0
    times, interval = 200, sys.getswitchinterval()

    def work():
        for _ in range(times):
            x = ag.tensor(np.ones((2, 6)))
            (x @ w + x @ trunk).sum().backward(retain_graph=True)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work) for _ in range(2)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_array_equal(w.grad, np.full((6, 6), 2 * times * (2.0 + 4.0)))


def test_a_walk_that_failed_leaves_the_next_one_alone():
    w, failing = leaf(3, name="w"), [True]

    @ag.primitive
    def fragile(a):
        def vjp(g):
            if failing[0]:
                raise ZeroDivisionError
            return g

        return a * 1.0, vjp

    y = fragile(w).sum() + (w * 2.0).sum()
    with pytest.raises(ZeroDivisionError):
        y.backward(retain_graph=True)
    w.grad, failing[0] = None, False
    y.backward()
    np.testing.assert_array_equal(w.grad, np.full(3, 3.0))


def test_a_backward_inside_another_frees_its_graph_and_refuses_what_any_other_would():
    called = []

    @ag.primitive
    def around(a):
        def vjp(g):
            w = leaf(3, name="w")
            y, z = (w * w).sum(), (w * w).sum()
            y.backward(retain_graph=True)
            y.backward()
            np.testing.assert_array_equal(w.grad, 4.0 * w.data)
            with pytest.raises(RuntimeError, match=r"^backward through 'sum' a second time"):
                y.backward()
            w.assign(np.ones(3))
            with pytest.raises(RuntimeError, match=r"^'w' was modified in place after 'mul' used it"):
                z.backward()
            called.append(True)
            return g

        return a * 1.0, vjp

    around(leaf(2)).sum().backward()
    assert called == [True]
