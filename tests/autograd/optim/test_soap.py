"""SOAP beside its algorithm, written down with singular vectors; what it is without bases, and under rotations."""

import copy

import numpy as np
import pytest
import torch

from allgrad import nn, optim
from allgrad.autograd.random import generator

SHAPES = {"a": (5, 4), "b": (4, 4), "c": (3, 2, 2), "d": (6,), "e": ()}


def parameters(device=None, seed=0):
    rng = generator("soap", seed)
    found = {key: nn.Parameter(rng.standard_normal(shape), dtype="float64") for key, shape in SHAPES.items()}
    if device is None:
        return found
    module = nn.Module()
    for key, p in found.items():
        setattr(module, key, p)
    return dict(module.to(device=device).named_parameters())


def gradients(steps, seed=1):
    """Matrices of full rank, with which all that the algorithm leaves open is the sign of vectors."""
    rng = generator("soap gradients", seed)
    return [{key: rng.standard_normal(shape) for key, shape in SHAPES.items()} for _ in range(steps)]


def follow(optimizer, named, some):
    """Steps along given gradients."""
    for each in some:
        optimizer.zero_grad()
        for key, p in named.items():
            (p * each[key]).sum().backward()
        optimizer.step()
    return {key: np.array(p.numpy()) for key, p in named.items()}


def transcribed(w, gs, lr, betas, eps, weight_decay, frequency, max_dim, l1):
    """Algorithm 3 of the paper for one parameter: Q_L and Q_R are the identity where a side is too long."""
    b1, b2 = betas
    shape, t = w.shape, 0
    matrix = len(shape) > 1
    w = w.reshape(shape[0], -1) if matrix else w.reshape(1, -1)
    own = [matrix and side <= max_dim for side in w.shape]
    q, p = [np.eye(side) for side in w.shape], [np.zeros((side, side)) for side in w.shape]
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step, g in enumerate(gs):
        g = g.reshape(w.shape) + l1 * np.sign(w)
        if any(own) and step == 0:
            left, _, right = np.linalg.svd(g)  # the eigenvectors of g g^T and of g^T g
            q = [vectors if mine else one for vectors, mine, one in zip((left, right.T), own, q)]
            p = [(1 - b2) * g @ g.T, (1 - b2) * g.T @ g]
            continue
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (q[0].T @ g @ q[1]) ** 2
        direction = (q[0].T @ m @ q[1]) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * weight_decay * w - lr * q[0] @ direction @ q[1].T
        p = [b2 * p[0] + (1 - b2) * g @ g.T, b2 * p[1] + (1 - b2) * g.T @ g]
        if t % frequency == 0:
            for axis in (0, 1):
                if own[axis]:
                    order = np.argsort([-x @ p[axis] @ x for x in q[axis].T])
                    v = np.take(v, order, axis)
                    q[axis] = np.linalg.qr(p[axis] @ q[axis][:, order])[0]
    return w.reshape(shape)


USUAL = {
    "lr": 3e-3, "betas": (0.95, 0.95), "eps": 1e-8, "weight_decay": 0.01, "frequency": 10, "max_dim": 10_000, "l1": 0.0,
}  # fmt: skip
ROWS = [
    {},
    {"lr": 0.1, "frequency": 1},
    {"lr": 0.1, "frequency": 3, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3},
    {"lr": 0.1, "frequency": 2, "max_dim": 4},  # of `a` only the right side, of `c` both
    {"lr": 0.1, "frequency": 2, "max_dim": 3, "l1": 0.1},  # of `c` only the left side
]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("options", ROWS, ids=str)
def test_training_is_that_of_the_paper(options, device):
    named, gs = parameters(device), gradients(30)
    start = {key: np.array(p.numpy()) for key, p in named.items()}
    found = follow(optim.SOAP(named, **options), named, gs)
    for key, w in found.items():
        expected = transcribed(start[key], [g[key] for g in gs], **{**USUAL, **options})
        np.testing.assert_allclose(w, expected, rtol=1e-10, atol=1e-10, err_msg=key)


def test_without_bases_it_is_adamw():
    options = {"lr": 0.05, "betas": (0.9, 0.95), "weight_decay": 0.1, "l1": 0.01}
    one, other = (
        follow(make(named), named, gradients(20))
        for make, named in (
            (lambda p: optim.SOAP(p, max_dim=0, **options), parameters()),
            (lambda p: optim.AdamW(p, **options), parameters()),
        )
    )
    for key in SHAPES:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-12, atol=1e-14)


def test_it_turns_with_its_parameters():
    """Of gradients U g V the steps are U d V, whatever the rotations U and V; Adam's are not."""
    rng = generator("rotations")
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (5, 4))
    gs = [g["a"] for g in gradients(20)]

    def moved(rule, turn):
        w = nn.Parameter(np.zeros((5, 4)), dtype="float64")
        return follow(rule({"a": w}, lr=0.1, eps=1e-3), {"a": w}, [{"a": turn(g)} for g in gs])["a"]

    for rule, turns in ((optim.SOAP, True), (optim.AdamW, False)):
        plain, turned = moved(rule, lambda g: g), moved(rule, lambda g: u @ g @ v)
        assert np.allclose(turned, u @ plain @ v, rtol=1e-9, atol=1e-9) == turns


def test_the_first_step_moves_what_has_no_bases_only():
    named = parameters()
    before = {key: p.numpy().copy() for key, p in named.items()}
    after = follow(optim.SOAP(named), named, gradients(1))
    assert [key for key in SHAPES if (after[key] != before[key]).all()] == ["d", "e"]
    assert all((after[key] == before[key]).all() for key in "abc")


def test_it_finds_the_minimum_of_a_quadratic_with_axes_askew():
    rng = generator("quadratic")
    a, b = (np.linalg.qr(rng.standard_normal((4, 4)))[0] * np.geomspace(1.0, 0.1, 4) for _ in "ab")
    best = rng.standard_normal((4, 4))
    w = nn.Parameter(np.zeros((4, 4)), dtype="float64")
    optimizer = optim.SOAP({"w": w}, lr=lambda step: 0.2 * 0.98**step, weight_decay=0.0)
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = ((a.T @ (w - best) @ b) ** 2).sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 1e-6 * losses[0]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_restored_state_continues_exactly(device):
    gs, named = gradients(20), parameters(device)
    optimizer = optim.SOAP(named, lr=0.1, frequency=3)
    kept = follow(optimizer, named, gs[:8])
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    expected = follow(optimizer, named, gs[8:])
    assert state["left"].keys() == {"a", "b", "c"} and state["right_basis"]["c"].shape == (4, 4)
    for name in ("left", "right", "left_basis", "right_basis"):
        assert all((state[name][key] == before[name][key]).all() for key in state[name])
    again = parameters(device, seed=5)
    other = optim.SOAP(again, lr=0.1, frequency=3)
    follow(other, again, gs[:2])
    for key, p in again.items():
        p.assign(kept[key])
    other.load_state_dict(state)
    found = follow(other, again, gs[8:])
    assert other.steps == 20 and all((found[key] == expected[key]).all() for key in SHAPES)


def test_states_and_options_that_cannot_be():
    state = optim.SOAP(parameters()).state_dict()
    with pytest.raises(ValueError, match=r"SOAP: 'left' of 'a' has shape \(5, 5\) in the state, and here None"):
        optim.SOAP(parameters(), max_dim=4).load_state_dict(state)
    with pytest.raises(ValueError, match="SOAP keeps the state"):
        optim.SOAP(parameters()).load_state_dict({k: v for k, v in state.items() if k != "mean"})
    for options in ({"frequency": 0}, {"max_dim": -1}):
        with pytest.raises(ValueError, match="frequency is at least 1 and max_dim at least 0, got"):
            optim.SOAP(parameters(), **options)


def test_a_gradient_that_is_not_finite_is_no_error_of_linear_algebra():
    w = nn.Parameter(np.ones((3, 3)), dtype="float64")
    optimizer = optim.SOAP({"w": w})
    with np.errstate(invalid="ignore"):
        follow(optimizer, {"w": w}, [{"w": np.full((3, 3), np.nan)}] * 3)
    assert np.isnan(w.data).all()


def test_torch_tensors_have_numpys_names():
    assert isinstance(next(iter(parameters("cpu").values())).data, torch.Tensor)
