"""Derivatives of functions, and of their derivatives, against torch and against differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import allgrad as ag
from allgrad import nn
from allgrad.autograd.engine import here, unwrap
from allgrad.autograd.random import generator

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func's own


class Torch:
    """torch's functions where ours are, so that one lambda serves both."""

    array = staticmethod(torch.as_tensor)

    def __getattr__(self, name):
        return getattr(F, name, None) or getattr(torch, name)


class Ours:
    array = staticmethod(np.asarray)

    def __getattr__(self, name):
        return getattr(ag, name)


def normal(*shape):
    return generator("transforms", *shape).standard_normal(shape)


X, V, U = normal(2, 3), normal(2, 3, 1)[..., 0], normal(1, 2, 3)[0]
W, B, W2 = normal(4, 3), normal(4), normal(3, 4)
K, LABELS = normal(1, 1, 2, 2), np.array([2, 0])
FUNCTIONS = {  # of x (2, 3); smooth around X where they have kinks
    "polynomial": lambda m, x: x**3 * x[0] - 2.0 * x,
    "ratio": lambda m, x: x.sin() / (1.0 + x * x),
    "products": lambda m, x: (x @ x.mT) @ x,
    "linear": lambda m, x: m.linear(x, m.array(W), m.array(B)).tanh(),
    "network": lambda m, x: m.linear(m.relu(m.linear(x, m.array(W), m.array(B))), m.array(W2)) ** 2,
    "log_softmax": lambda m, x: m.log_softmax(x, 1) * x,
    "softmax": lambda m, x: m.softmax(x * x, 0),
    "cross_entropy": lambda m, x: m.cross_entropy(x * x, m.array(LABELS), reduction="none"),
    "cross_entropy of images": lambda m, x: m.cross_entropy(x.reshape(1, 2, 3) ** 2, m.array([[1, 0, 1]])),
    "soft targets": lambda m, x: m.cross_entropy(x * x, m.softmax(x, 1)),
    "mse": lambda m, x: m.mse_loss(x.exp(), m.array(V)),
    "binary": lambda m, x: m.binary_cross_entropy_with_logits(x * 3.0, m.sigmoid(x), reduction="sum"),
    "reductions": lambda m, x: x.var(1) * x.mean(0)[:2] + x.amax(1) ** 2 + m.logsumexp(x, 1) ** 2,
    "indexing": lambda m, x: x[:, [0, 0, 2]] * x[1] + m.take_along_dim(x, m.array([[1], [2]]), 1) ** 2,
    "pieces": lambda m, x: m.concatenate((x * x, x.exp())) * m.stack((x[0], x[1], x[0], x[0])) ** 2,
    "selection": lambda m, x: m.where(x > 0, x**3, x.exp()) + m.maximum(x, x * x) + m.clamp(x, -0.5, 0.5) ** 2,
    "roots": lambda m, x: (x * x + 1.0).sqrt() * (x * x).log1p() + (2.0**x).log() * abs(x) ** 2.5,
    "activations": lambda m, x: m.gelu(x) * m.softplus(x) + m.silu(x) * m.elu(x) + m.erf(x) ** 2,
    "convolution": lambda m, x: m.conv2d(x.reshape(1, 2, 3) ** 2, m.array(K) * x[0, 0], padding=1, stride=(1, 2)),
    "transposed convolution": lambda m, x: m.conv_transpose2d(x.reshape(1, 2, 3), m.array(K) * x.mean(), stride=2) ** 2,
    "pooling": lambda m, x: m.max_pool2d(x.reshape(1, 2, 3), 2, 1) ** 3 + m.avg_pool2d(x.reshape(1, 2, 3), 2, 1) ** 2,
    "normalisation": lambda m, x: m.layer_norm(x, (3,)) * m.batch_norm(x, None, None, training=True, eps=0.1) * x,
    "attention": lambda m, x: m.scaled_dot_product_attention(x, x * x, x, is_causal=True),
    "einsum": lambda m, x: m.einsum("ij,ik,jk->k", x, x * x, m.einsum("ii->i", x[:, :2]).sum() * m.array(W[:3])),
    "prod and cumsum": lambda m, x: m.prod(x, 1) * m.cumsum(x * x, 0)[:, 1] + m.norm(x, 2, 1) * m.std(x, 1),
    "embedding": lambda m, x: m.embedding(m.array([[0, 1], [1, 1]]), x) ** 3,
    "padding": lambda m, x: m.pad(x * x, (2, 1), mode="reflect") * m.pad(x, (1, 2), mode="circular"),
}
each_function = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def pair(f):
    """f as a function of our tensors and as one of torch's."""
    return lambda x: f(Ours(), x), lambda x: f(Torch(), x)


def scalar(f):
    """f reduced to a number in which no two elements count alike."""
    return lambda m, x: ((y := f(m, x)) * m.array(np.cos(np.arange(np.prod(y.shape)).reshape(y.shape)))).sum()


def close(ours, theirs, rtol=1e-11):
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for a, t in zip(ours if isinstance(ours, tuple) else (ours,), theirs, strict=True):
        assert tuple(a.shape) == tuple(t.shape)
        np.testing.assert_allclose(np.asarray(a), t.detach().numpy(), rtol=rtol, atol=1e-11)


@each_function
def test_transformations_agree_with_torch(f):
    ours, theirs = pair(f)
    x, v = torch.tensor(X), torch.tensor(V)
    y, pullback = ag.vjp(ours, X)
    expected, torch_pullback = torch.func.vjp(theirs, x)
    g = np.cos(np.arange(y.size)).reshape(y.shape)
    close((y, *pullback(g)), (expected, *torch_pullback(torch.tensor(g))))
    close(pullback(2.0 * g), torch_pullback(torch.tensor(2.0 * g)))
    close(ag.jvp(ours, [X], [V]), torch.autograd.functional.jvp(theirs, x, v))
    close(ag.jacobian(ours)(X), torch.func.jacrev(theirs)(x))
    ours, theirs = pair(scalar(f))
    close(ag.grad(ours)(X), torch.func.grad(theirs)(x))
    close(ag.hvp(ours, X, V), torch.autograd.functional.hvp(theirs, x, v)[1])
    close(ag.jacobian(ag.grad(ours))(X), torch.func.hessian(theirs)(x), rtol=1e-9)


@each_function
def test_third_derivatives_agree_with_differences(f):
    ours, _ = pair(scalar(f))

    def curvature(x):
        return (ag.hvp(ours, x, V) * U).sum()

    h = 1e-5
    expected = (curvature(X + h * V) - curvature(X - h * V)) / (2 * h)
    np.testing.assert_allclose((ag.grad(curvature)(X) * V).sum(), expected, rtol=1e-6, atol=1e-6)
    ag.gradcheck(ours, X, order=3, tolerance=1e-5)


def test_weights_of_fused_layers_differentiate_to_the_third_order():
    def f(x, w, b):
        return ag.cross_entropy(ag.linear(x, w, b).tanh(), LABELS)

    ag.gradcheck(f, X, W, B, order=3, tolerance=1e-5)
    for others in [(X, W, ag.tensor(B, requires_grad=True)), (X, ag.tensor(W, requires_grad=True), B)]:
        for i in range(3):
            slope = ag.grad(f, i)(*others)
            np.testing.assert_allclose(unwrap(slope), ag.grad(f, i)(X, W, B), rtol=1e-12)


def model_and_twin():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.LogSoftmax()).to("float64")
    twin = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4), torch.nn.LogSoftmax(-1))
    twin.double().load_state_dict({k: torch.tensor(a) for k, a in model.state_dict().items()})
    return model, twin


def test_a_gradient_penalty_trains_through_backward():
    model, twin = model_and_twin()
    slope = ag.grad(lambda x: model(x)[:, 0].sum())(X)
    penalty = (((slope * slope).sum(1).sqrt() - 1.0) ** 2).mean()
    (penalty - model(X)[:, 1].mean()).backward()
    x = torch.tensor(X, requires_grad=True)
    (slope,) = torch.autograd.grad(twin(x)[:, 0].sum(), x, create_graph=True)
    penalty = (((slope * slope).sum(1).sqrt() - 1.0) ** 2).mean()
    (penalty - twin(x)[:, 1].mean()).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "transformed",
    [
        lambda model, x: ag.grad(lambda x: model(x)[:, 0].sum())(x),
        lambda model, x: ag.vjp(model, x)[1](np.ones((2, 4)))[0],
        lambda model, x: ag.vjp(model, x)[0],
        lambda model, x: ag.jvp(model, [x], [V])[0],
        lambda model, x: ag.jvp(model, [x], [V])[1],
        lambda model, x: ag.jacobian(model)(x),
        lambda model, x: ag.hvp(lambda x: model(x)[:, 0].sum(), x, V),
    ],
    ids=["grad", "pullback", "vjp", "jvp value", "jvp", "jacobian", "hvp"],
)
def test_results_reach_the_parameters_that_a_function_closes_over(transformed):
    model, _ = model_and_twin()
    weight = next(model.parameters())
    for x in (X, ag.tensor(X)):
        weight.grad = None
        (transformed(model, x) ** 2).sum().backward()
        h, at = 1e-6, (1, 2)
        values = []
        for sign in (1, -1):
            weight.data[at] += sign * h
            values.append((unwrap(transformed(model, x)) ** 2).sum())
            weight.data[at] -= sign * h
        np.testing.assert_allclose(weight.grad[at], (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-8)


ONE = np.array(1.0)


@pytest.mark.parametrize(
    "f, expected",
    [
        (lambda x: x * ag.grad(lambda y: x + y)(ONE), 1.0),
        (lambda x: ag.grad(lambda y: x * y)(ONE), 1.0),
        (lambda x: ag.grad(lambda y: x * y)(x), 1.0),
        (lambda x: x * ag.grad(lambda y: x * y * y)(ONE), 8.0),
        (lambda x: ag.grad(lambda y: ag.grad(lambda z: x * y * y * z * z)(ONE))(ONE), 4.0),
        (lambda x: ag.grad(lambda y: x * ag.grad(lambda z: x * y * z)(y))(ONE), 4.0),
        (lambda x: ag.jvp(lambda y: x * y * y, [ONE], [ONE])[1], 2.0),
        (lambda x: ag.jacobian(lambda y: x * x * y)(ONE * np.ones(2)).sum(), 8.0),
        (lambda x: ag.hvp(lambda y: x * x * y**3, ONE, ONE), 24.0),
        (lambda x: ag.vjp(lambda y: x * y, ONE)[1](x)[0], 4.0),
        (lambda x: ag.vjp(lambda y: y * y, x)[1](x)[0], 8.0),
        (lambda x: ag.grad(lambda y: ag.cross_entropy(ag.stack((x * y, y)), 0))(ONE * 0.0), -0.5),
        (lambda x: ag.grad(lambda y: y * y.detach())(x), 0.0),
        (lambda x: ag.vjp(lambda y: y * y.detach(), x)[0], 2.0),
    ],
)
def test_nested_derivatives_are_not_confused(f, expected):
    for x in (np.array(2.0), ag.tensor(2.0, dtype="float64"), ag.tensor(2.0, dtype="float64", requires_grad=True)):
        np.testing.assert_allclose(unwrap(ag.grad(f)(x)), expected, rtol=1e-14)
        np.testing.assert_allclose(unwrap(ag.jvp(f, [x], [ONE])[1]), expected, rtol=1e-14)


FORMS = [
    lambda f, x: [ag.grad(lambda x: f(x).sum())(x), ag.hvp(lambda x: f(x).sum(), x, V), ag.jacobian(f)(x)],
    lambda f, x: [*ag.vjp(f, x)[:1], *ag.vjp(f, x)[1](np.ones((2, 3)))],
    lambda f, x: [*ag.vjp(lambda x, y: f(y), x, x)[1](np.ones((2, 3)))],
    lambda f, x: [*ag.jvp(f, [x], [V])],
]
CONSTANT = ag.tensor(V)


@pytest.mark.parametrize("form", FORMS, ids=["grad", "vjp", "unused input", "jvp"])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.exp(), lambda x: x * 2.0, lambda x: x, lambda x: x * CONSTANT, lambda x: CONSTANT * 2.0,
        lambda x: x.detach() * 2.0, lambda x: ag.log_softmax(x @ x.mT @ x),
    ],
    ids=["exp", "linear", "identity", "closure", "constant", "detached", "fused"],
)  # fmt: skip
def test_arrays_give_arrays_and_tensors_give_tensors(form, f):
    arrays, tensors = form(f, X), form(f, ag.tensor(X))
    assert {type(a) for a in arrays} <= {np.ndarray, np.float64} and {type(t) for t in tensors} == {ag.Tensor}
    for a, t in zip(arrays, tensors):
        assert not t.requires_grad and t.level == 0 and t.dtype == np.float64
        np.testing.assert_allclose(a, t.data, rtol=1e-13)  # arrays take the fused path, tensors the composed one


def test_a_pullback_is_differentiable_by_its_argument_and_by_the_inputs():
    x, g = ag.tensor(X, requires_grad=True), ag.tensor(V, requires_grad=True)
    (slope,) = ag.vjp(lambda x: x**3, x)[1](g)
    slope.sum().backward()
    np.testing.assert_allclose(x.grad, 6 * X * V, rtol=1e-14)
    np.testing.assert_allclose(g.grad, 3 * X**2, rtol=1e-14)


def test_numbers_argnum_and_no_grad():
    assert ag.grad(lambda x: x * x)(3.0) == 6.0 and ag.grad(ag.grad(lambda x: x**4))(2.0) == 48.0
    assert ag.grad(lambda a, b: a * b * b, 1)(np.array(2.0), np.array(3.0)) == 12.0
    with ag.no_grad():
        np.testing.assert_allclose(ag.hvp(lambda x: (x**3).sum(), X, V), 6 * X * V, rtol=1e-14)


def test_a_function_that_raises_leaves_no_level_behind():
    with pytest.raises(ZeroDivisionError):
        ag.grad(lambda x: ag.grad(lambda y: 1 / 0)(x))(ONE)
    assert here.depth == 0


GRID = np.linspace(-1.0, 1.0, 6).reshape(2, 3)
SCALAR = {
    "cross_entropy": lambda m, x: m.cross_entropy(x * x, m.array([2, 0])),
    "layer_norm": lambda m, x: (m.layer_norm(x, (3,)) ** 3).sum(),
    "batch_norm": lambda m, x: (m.batch_norm(x * x, None, None, training=True, eps=0.1) ** 3).sum(),
    "attention": lambda m, x: (m.scaled_dot_product_attention(x, x * x, x) ** 2).sum(),
    "conv2d": lambda m, x: (m.conv2d(x.reshape(1, 1, 2, 3), x[:, :2].reshape(1, 1, 2, 2)) ** 2).sum(),
    "gelu": lambda m, x: (m.gelu(x) * x).sum(),
    "constant": lambda m, x: (x * 0.0).sum(),
}


@pytest.mark.parametrize("name", SCALAR)
def test_hessians_agree_with_torch(name):
    f, ours, theirs = SCALAR[name], Ours(), Torch()
    expected = torch.autograd.functional.hessian(lambda x: f(theirs, x), torch.tensor(GRID))
    found = ag.hessian(lambda x: f(ours, x))(GRID)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ag.hessian(lambda n, x: f(ours, x) * n, 1)(2.0, GRID), 2 * expected.numpy(), atol=1e-9)
    ag.gradcheck(lambda x: f(ours, x), GRID, order=2, tolerance=1e-5)


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
    y, pullback = ag.vjp(lambda x: ag.cross_entropy(x, [2, 0], reduction), GRID)
    g = np.cos(np.arange(y.size)).reshape(y.shape)
    (expected,) = pullback(g)
    np.testing.assert_allclose(pullback(ag.tensor(g))[0], expected, rtol=1e-14)
    slope = ag.tensor(g, requires_grad=True)
    (pullback(slope)[0] * GRID).sum().backward()
    np.testing.assert_allclose(slope.grad, ag.jvp(lambda x: ag.cross_entropy(x, [2, 0], reduction), [GRID], [GRID])[1])
