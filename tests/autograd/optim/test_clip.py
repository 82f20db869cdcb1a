"""Gradient clipping, against torch's."""

import math

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from tests.autograd.optim.training import LABELS, X, model_and_twin


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters(), lambda m: optim.SGD(m, lr=0.1), ag.Arena])
def test_clipping_is_that_of_torch(owner, max_norm):
    model, twin = model_and_twin()
    held = owner(model)
    ag.cross_entropy(model(X), LABELS).backward()
    torch.nn.functional.cross_entropy(twin(torch.tensor(X)), torch.tensor(LABELS)).backward()
    expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), max_norm).item()
    np.testing.assert_allclose(optim.clip_grad_norm(held, max_norm), expected, rtol=1e-12)
    np.testing.assert_allclose(optim.grad_norm(list(model.parameters())), min(max_norm, expected), rtol=1e-4)
    for p, q in zip(model.parameters(), twin.parameters()):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-12)


@pytest.mark.parametrize("kind", [1.0, 2, 3.5, math.inf, "inf"])
@pytest.mark.parametrize("values", [[3.0, -4.0, 0.0], [3e-6, 4e-6, 0.0], [math.nan, 1.0, 2.0], [math.inf, 1.0, 0.0]])
def test_norms_of_every_kind_and_size_are_those_of_torch(kind, values):
    p, t = ag.tensor(np.ones(3), requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)
    p.backward(np.array(values))
    t.grad = torch.tensor(values, dtype=torch.float64)
    norm = torch.nn.utils.clip_grad_norm_([t], 1e-6, norm_type=kind).item()
    np.testing.assert_allclose(optim.clip_grad_norm([p], 1e-6, norm_type=kind), norm, rtol=1e-12)
    np.testing.assert_allclose(p.grad, t.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
def test_a_norm_of_nan_is_over_with_its_step(arrays):
    """Though it makes all gradients nan, and these lie in one array with zeros in between."""
    model = nn.Linear(5, 3)
    if arrays == "torch":
        model.to(device="cpu")
    optimizer = optim.SGD(model, 0.1)

    def norm(*values):
        optimizer.zero_grad()
        x = np.array([values], "f4")
        model(ag.Tensor(torch.from_numpy(x) if arrays == "torch" else x)).sum().backward()
        return optim.clip_grad_norm(model, 1.0)

    before = norm(1, 2, 3, 4, 5)
    assert math.isnan(norm(1, 2, math.nan, 4, 5)) and all(
        np.isnan(np.asarray(p.grad)).all() for p in model.parameters()
    )
    assert norm(1, 2, 3, 4, 5) == before
    optim.clip_grads_with_norm(model, 1.0, torch.tensor(math.nan) if arrays == "torch" else math.nan)
    assert norm(1, 2, 3, 4, 5) == before


def test_a_norm_that_is_not_finite_may_be_an_error():
    p = ag.tensor(np.ones(2), requires_grad=True)
    p.backward(np.array([math.nan, 1.0]))
    with pytest.raises(RuntimeError, match="norm of the gradients is nan"):
        optim.clip_grad_norm([p], 1.0, error_if_nonfinite=True)
    assert p.grad[1] == 1.0


@pytest.mark.parametrize("limit", [0.0, 0.01, 1e6])
@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters(), lambda m: optim.SGD(m, lr=0.1), ag.Arena])
def test_clipping_by_value_is_that_of_torch(owner, limit):
    model, twin = model_and_twin()
    held = owner(model)
    ag.cross_entropy(model(X), LABELS).backward()
    torch.nn.functional.cross_entropy(twin(torch.tensor(X)), torch.tensor(LABELS)).backward()
    torch.nn.utils.clip_grad_value_(twin.parameters(), limit)
    optim.clip_grad_value(held, limit)
    for p, q in zip(model.parameters(), twin.parameters()):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-10, atol=1e-15)


def test_clipping_counts_no_gradient_of_an_earlier_step():
    used, unused = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD({"used": used, "unused": unused}, lr=0.1)
    (used * 3.0 + unused * 4.0).sum().backward()
    assert optim.grad_norm(optimizer) == 5.0
    optimizer.zero_grad()
    (used * 3.0).sum().backward()
    assert optim.clip_grad_norm(optimizer, 1.5) == 3.0 and unused.grad == 0.0
    assert math.isclose(used.grad.item(), 1.5, rel_tol=1e-6)


def test_clipping_by_the_parameters_leaves_them_to_their_optimizer():
    model, _ = model_and_twin()
    optimizer = optim.SGD(model, lr=0.1)
    ag.cross_entropy(model(X), LABELS).backward()
    optim.clip_grad_norm(model.parameters(), 1e-3)
    assert math.isclose(optim.grad_norm(optimizer), 1e-3, rel_tol=1e-4)
    before = optimizer.arena.sha256()
    optimizer.step()
    assert model.arena.sha256() == ag.Arena(model).sha256() != before


@pytest.mark.parametrize("max_norm", [0.3, 1e-3, 7.0, 0.0])
def test_a_norm_that_is_a_tensor_clips_to_the_same_bits(max_norm):
    gradient = torch.linspace(-1.0, 1.0, 37)
    clipped = []
    for as_given in (float, lambda norm: norm):
        p = ag.tensor(torch.zeros(37), requires_grad=True)
        p.backward(gradient)
        norm = (p.grad @ p.grad).double().sqrt()
        optim.clip_grads_with_norm([p], max_norm, as_given(norm))
        clipped.append(p.grad.numpy().tobytes())
    assert clipped[0] == clipped[1]
