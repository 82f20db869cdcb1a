"""Optimizers and schedules: whole training runs beside torch.optim in float64, and what an optimizer promises."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

import autograd as ag
from autograd import nn, optim, schedule
from autograd.random import generator

X = generator("optim").standard_normal((12, 6))
LABELS = np.arange(12) % 3


def rule(name, **options):
    return name, options


RULES = [
    rule("SGD", lr=0.3),
    rule("SGD", lr=0.3, weight_decay=0.1),
    rule("SGD", lr=0.1, momentum=0.9),
    rule("SGD", lr=0.1, momentum=0.9, weight_decay=0.1),
    rule("SGD", lr=0.1, momentum=0.9, nesterov=True),
    rule("SGD", lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
    rule("Adam"),
    rule("Adam", lr=0.05, betas=(0.8, 0.95), eps=1e-3),
    rule("Adam", lr=0.05, weight_decay=0.1),
    rule("AdamW"),
    rule("AdamW", lr=0.05, weight_decay=0.3, betas=(0.0, 0.9)),
    rule("AdamW", lr=0.05, weight_decay=0.0),
    rule("Adagrad"),
    rule("Adagrad", lr=0.1, eps=1e-3, weight_decay=0.1),
]
each_rule = pytest.mark.parametrize("name, options", RULES, ids=lambda x: str(x).replace(" ", ""))


def mlp(n):
    return n.Sequential(n.Linear(6, 8), n.Tanh(), n.Linear(8, 5), n.ReLU(), n.Linear(5, 3))


def model_and_twin():
    ag.manual_seed(7)
    model, twin = mlp(nn).to("float64"), mlp(torch.nn).double()
    twin.load_state_dict({name: torch.tensor(a) for name, a in model.state_dict().items()})
    return model, twin


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        ag.cross_entropy(model(X.astype(optimizer.arena.dtype)), LABELS).backward()
        optimizer.step()


def train_torch(model, optimizer, steps, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.tensor(X)), torch.tensor(LABELS)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def close(model, twin):
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.detach(), rtol=1e-12, atol=1e-12)


def make(name, options, dtype="float64"):
    model = model_and_twin()[0].to(dtype)
    return model, getattr(optim, name)(model, **options)


# --- optimizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 50])
@each_rule
def test_training_is_that_of_torch(name, options, steps):
    model, twin = model_and_twin()
    train(model, getattr(optim, name)(model, **options), steps)
    train_torch(twin, getattr(torch.optim, name)(twin.parameters(), **options), steps)
    close(model, twin)


@each_rule
def test_the_length_of_chunks_changes_no_bit(name, options, monkeypatch):
    hashes = set()
    for chunk in (optim.CHUNK, 5, 64, 1):
        monkeypatch.setattr(optim, "CHUNK", chunk)
        model, optimizer = make(name, options, "float32")
        train(model, optimizer, 5)
        hashes.add(optimizer.arena.sha256())
    assert len(hashes) == 1


@each_rule
def test_a_step_leaves_gradients_as_they_are(name, options):
    model, optimizer = make(name, options)
    ag.cross_entropy(model(X), LABELS).backward()
    before = optimizer.arena.grad.copy()
    optimizer.step()
    np.testing.assert_array_equal(optimizer.arena.grad, before)
    assert next(model.parameters()).grad is not None


def test_a_graph_of_the_values_before_a_step_is_refused():
    model, optimizer = make("SGD", {"lr": 0.1})
    loss = ag.cross_entropy(model(X), LABELS)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"^'4.weight' was modified in place after 'linear' used it: run backward"):
        loss.backward()


@each_rule
def test_a_restored_state_continues_exactly(name, options):
    model, optimizer = make(name, options)
    train(model, optimizer, 4)
    state, weights = optimizer.state_dict(), model.state_dict()
    kept = copy.deepcopy(state)
    train(model, optimizer, 4)
    assert state["steps"] == 4 and state.keys() - {"steps"} == optimizer.state.keys()
    for key in optimizer.state:
        assert {n: a.shape for n, a in state[key].items()} == {n: p.shape for n, p in model.named_parameters()}
        for n, a in state[key].items():
            assert a.flags.c_contiguous
            np.testing.assert_array_equal(a, kept[key][n])
    other, again = make(name, options)
    train(other, again, 1)
    other.load_state_dict(weights)
    again.load_state_dict(state)
    train(other, again, 4)
    assert other.arena.sha256() == model.arena.sha256() and again.steps == 8


@each_rule
def test_numpy_scalars_are_the_same_hyperparameters(name, options):
    hashes = set()
    for number, lr in [(float, float), (np.float64, np.float64), (np.float64, lambda x: lambda step: np.float64(x))]:
        given = {key: number(x) if type(x) is float else x for key, x in options.items()}
        model, optimizer = make(name, {**given, "lr": lr(options.get("lr", 0.01))}, "float32")
        train(model, optimizer, 3)
        hashes.add(optimizer.arena.sha256())
    assert len(hashes) == 1


def test_a_parameter_without_gradient_takes_a_step_with_gradient_zero():
    used, unused = nn.Parameter([1.0, 1.0]), nn.Parameter([2.0])
    optimizer = optim.SGD({"used": used, "unused": unused}, lr=0.5, momentum=0.5, weight_decay=0.5)
    for expected in (1.5, 1.0 - 0.125):
        optimizer.zero_grad()
        used.sum().backward()
        optimizer.step()
        assert unused.tolist() == [expected]


def test_owners_of_parameters():
    class Holder:
        def __init__(self, model):
            self.arena = ag.Arena(model)

    hashes = set()
    for owner in (lambda m: m, ag.Arena, Holder, lambda m: dict(m.named_parameters()), lambda m: list(m.parameters()),
                  lambda m: m.parameters()):  # fmt: skip
        model, _ = model_and_twin()
        train(model, optim.SGD(owner(model), lr=0.1), 3)
        hashes.add(ag.Arena(model).sha256())
    assert len(hashes) == 1
    model, _ = model_and_twin()
    first, second = optim.SGD(model[0], lr=0.1), optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.1)
    for _ in range(3):
        for optimizer in (first, second):
            optimizer.zero_grad()
        ag.cross_entropy(model(X), LABELS).backward()
        for optimizer in (first, second):
            optimizer.step()
    assert ag.Arena(model).sha256() in hashes


def test_one_arena_serves_several_optimizers_of_a_module_in_turn():
    model, twin = model_and_twin()
    train(model, optim.SGD(model, lr=0.1), 3)
    train(model, optim.Adam(model, lr=0.1), 3)
    train_torch(twin, torch.optim.SGD(twin.parameters(), lr=0.1), 3)
    train_torch(twin, torch.optim.Adam(twin.parameters(), lr=0.1), 3)
    close(model, twin)


# --- clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters(), lambda m: optim.SGD(m, lr=0.1), ag.Arena])
def test_clipping_is_that_of_torch(owner, max_norm):
    model, twin = model_and_twin()
    held = owner(model)
    ag.cross_entropy(model(X), LABELS).backward()
    torch.nn.functional.cross_entropy(twin(torch.tensor(X)), torch.tensor(LABELS)).backward()
    expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), max_norm).item()
    np.testing.assert_allclose(optim.clip_grad_norm(held, max_norm), expected, rtol=1e-12)
    np.testing.assert_allclose(optim.grad_norm(list(model.parameters())), min(max_norm, expected), rtol=1e-12)
    for p, q in zip(model.parameters(), twin.parameters()):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-3)  # torch adds 1e-6 to the norm


def test_clipping_counts_no_gradient_of_an_earlier_step():
    used, unused = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD({"used": used, "unused": unused}, lr=0.1)
    (used * 3.0 + unused * 4.0).sum().backward()
    assert optim.grad_norm(optimizer) == 5.0
    optimizer.zero_grad()
    (used * 3.0).sum().backward()
    assert optim.clip_grad_norm(optimizer, 1.5) == 3.0 and used.grad == 1.5 and unused.grad == 0.0


def test_clipping_by_the_parameters_leaves_them_to_their_optimizer():
    model, _ = model_and_twin()
    optimizer = optim.SGD(model, lr=0.1)
    ag.cross_entropy(model(X), LABELS).backward()
    optim.clip_grad_norm(model.parameters(), 1e-3)
    assert math.isclose(optim.grad_norm(optimizer), 1e-3, rel_tol=1e-12)
    before = optimizer.arena.sha256()
    optimizer.step()
    assert model.arena.sha256() == ag.Arena(model).sha256() != before


# --- schedules ---------------------------------------------------------------------------------------------------

SCHEDULES = [
    (schedule.step(0.1, 7, 0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    (schedule.exponential(0.1, 0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    (schedule.cosine(0.1, 30), lambda o: lr_scheduler.CosineAnnealingLR(o, 30)),
    (schedule.cosine(0.1, 30, 0.01), lambda o: lr_scheduler.CosineAnnealingLR(o, 30, 0.01)),
    (schedule.linear(0.1, 20, 0.02), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 20)),
    (schedule.warmup(0.1, 4), lambda o: lr_scheduler.LinearLR(o, 0.25, 1.0, 3)),
    (schedule.inverse(0.1, 5), lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i / 5))),
    (schedule.constant(0.1), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
]


@pytest.mark.parametrize("ours, theirs", SCHEDULES)
def test_schedules_and_training_under_them_are_those_of_torch(ours, theirs):
    model, twin = model_and_twin()
    torch_optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    scheduler = theirs(torch_optimizer)
    optimizer = optim.SGD(model, lr=ours, momentum=0.9)
    for step in range(30):
        assert optimizer.current_lr == ours(step)
        np.testing.assert_allclose(ours(step), scheduler.get_last_lr()[0], rtol=1e-11)
        train(model, optimizer, 1)
        train_torch(twin, torch_optimizer, 1, scheduler)
    close(model, twin)


def test_schedules_at_hand_computed_steps():
    s = schedule
    for f, values in [
        (s.step(1.0, 2), {0: 1.0, 1: 1.0, 2: 0.1, 4: 0.01}),
        (s.cosine(1.0, 10, 0.2), {0: 1.0, 5: 0.6, 10: 0.2, 99: 0.2}),
        (s.linear(1.0, 10), {0: 1.0, 4: 0.6, 10: 0.0, 99: 0.0}),
        (s.inverse(1.0, 4), {0: 1.0, 4: 0.5, 12: 0.25}),
        (s.warmup(1.0, 4), {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0}),
        (s.warmup(1.0, 4, start=0.2), {0: 0.4, 3: 1.0, 50: 1.0}),
        (s.warmup(s.linear(1.0, 10), 2), {0: 0.5, 1: 0.9, 2: 0.8, 10: 0.0}),
        (s.warmup(s.constant(3.0), 0), {0: 3.0}),
        (s.join([s.constant(1.0), s.linear(1.0, 4), s.constant(7.0)], [2, 6]), {1: 1.0, 2: 1.0, 4: 0.5, 6: 7.0}),
    ]:
        for step, value in values.items():
            assert math.isclose(f(step), value, rel_tol=1e-12, abs_tol=1e-15)
