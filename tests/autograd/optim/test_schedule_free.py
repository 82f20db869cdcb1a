"""Schedule-free rules beside the paper's formulas; what is evaluated, and that looking changes no bit of training."""

import copy

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd import schedule
from allgrad.autograd.arrays import cast_like
from allgrad.autograd.random import generator
from tests.autograd.optim.training import LABELS, X, model_and_twin, train

RULES = {
    "sgd": lambda m, **o: optim.ScheduleFreeSGD(m, **{"lr": 0.5, "weight_decay": 0.01, **o}),
    "adamw": lambda m, **o: optim.ScheduleFreeAdamW(m, **{"lr": 0.05, "weight_decay": 0.1, **o}),
}
CURVATURE = np.geomspace(1.0, 0.1, 6)
BEST = generator("schedule-free").standard_normal(6)


def quadratic(y, t, noise=0.0):
    """The gradient of sum curvature (y - best)^2 / 2, with noise that depends on the step."""
    return CURVATURE * (y - BEST) + noise * generator("schedule-free noise", t).standard_normal(6)


def descend(optimizer, w, steps, noise=0.0, each=lambda: None):
    for _ in range(steps):
        optimizer.zero_grad()
        (w * quadratic(np.array(w.numpy()), optimizer.steps, noise)).sum().backward()
        optimizer.step()
        each()


def transcribed(rates, steps, b, weight_decay, l1, noise, betas2=None, eps=0.0):
    """x, y and z of the paper, from all of them at BEST + 1."""
    x = y = z = BEST + 1.0
    v, total = np.zeros(6), 0.0
    for t in range(1, steps + 1):
        y = (1 - b) * z + b * x
        g = quadratic(y, t - 1, noise) + l1 * np.sign(y)
        rate = rates(t - 1)
        if betas2 is None:
            z = z - rate * (g + weight_decay * y)
        else:
            v = betas2 * v + (1 - betas2) * g**2
            rate = rate * np.sqrt(1 - betas2**t)
            z = z - rate * g / (np.sqrt(v) + eps) - rate * weight_decay * y
        total += rate**2
        c = rate**2 / total if total else 0.0
        x = (1 - c) * x + c * z
    return x, (1 - b) * z + b * x, z


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("l1", [0.0, 0.05])
@pytest.mark.parametrize("b", [0.0, 0.9, 0.98])
@pytest.mark.parametrize("name", RULES)
def test_training_is_that_of_the_paper(name, b, l1, device):
    module = nn.Module()
    module.w = nn.Parameter(BEST + 1.0, dtype="float64")
    module.to(device=device)
    rates = schedule.warmup(0.3, 5)
    options = {"beta": b} if name == "sgd" else {"betas": (b, 0.95), "eps": 1e-6}
    optimizer = RULES[name](module, lr=rates, l1=l1, weight_decay=0.1, **options)
    descend(optimizer, module.w, 40, 0.5)
    more = {} if name == "sgd" else {"betas2": 0.95, "eps": 1e-6}
    x, y, z = transcribed(rates, 40, b, 0.1, l1, 0.5, **more)
    np.testing.assert_allclose(module.w.numpy(), y, rtol=1e-10)
    np.testing.assert_allclose(np.asarray(optimizer.state["base"])[:6], z, rtol=1e-10)
    optimizer.eval()
    np.testing.assert_allclose(module.w.numpy(), x, rtol=1e-10)


def test_each_group_has_its_own_rates_and_averages():
    w = {key: nn.Parameter([1.0, -2.0], dtype="float64") for key in "ab"}
    groups = {"b": {"lr_scale": 3.0, "beta": 0.5}}
    a, b = (nn.Parameter([1.0, -2.0], dtype="float64") for _ in "ab")
    together = optim.ScheduleFreeSGD(w, lr=lambda t: 0.1 * (t + 1), groups=groups)
    alone = [optim.ScheduleFreeSGD({"w": p}, lambda t, rate=rate: rate * (t + 1), beta)
             for p, rate, beta in ((a, 0.1, 0.9), (b, 0.3, 0.5))]  # fmt: skip
    for _ in range(6):
        for each in (together, *alone):
            each.zero_grad()
        for p in (*w.values(), a, b):
            (p * p).sum().backward()
        for each in (together, *alone):
            each.step()
    np.testing.assert_allclose([*w["a"].data, *w["b"].data], [*a.data, *b.data], rtol=1e-14)


def test_the_average_is_the_mean_of_z_by_the_squares_of_the_rates():
    w = nn.Parameter(BEST + 1.0, dtype="float64")
    rates = schedule.warmup(schedule.linear(0.5, 40), 10)
    optimizer, found = optim.ScheduleFreeSGD({"w": w}, lr=rates, beta=0.7), []
    descend(optimizer, w, 30, 0.3, lambda: found.append(optimizer.state["base"][:6].copy()))
    weights = np.array([rates(t) ** 2 for t in range(30)])
    optimizer.eval()
    np.testing.assert_allclose(w.data, weights @ np.array(found) / weights.sum(), rtol=1e-12)


def test_at_beta_0_z_goes_the_way_of_sgd():
    one, other = (nn.Parameter(BEST + 1.0, dtype="float64") for _ in "ab")
    free = optim.ScheduleFreeSGD({"w": one}, lr=0.3, beta=0.0, weight_decay=0.1)
    plain, way = optim.SGD({"w": other}, lr=0.3, weight_decay=0.1), []
    descend(free, one, 20, 0.5)
    descend(plain, other, 20, 0.5, lambda: way.append(other.data.copy()))
    np.testing.assert_allclose(one.data, way[-1], rtol=1e-13)
    free.eval()
    np.testing.assert_allclose(one.data, np.mean(way, 0), rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_it_finds_the_minimum_of_a_quadratic_without_a_schedule(name):
    """Under noise the average is nearer to the minimum than the point where gradients are taken."""
    w = nn.Parameter(BEST + 1.0, dtype="float64")
    optimizer = RULES[name]({"w": w}, weight_decay=0.0)
    descend(optimizer, w, 3000, 0.1)
    far = np.linalg.norm(optimizer.state["base"][:6] - BEST)
    optimizer.eval()
    assert np.linalg.norm(w.data - BEST) < min(0.05, 0.5 * far)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("name", RULES)
def test_looking_at_the_average_changes_no_bit_of_training(name, device):
    hashes, averages = [], []
    for look in (False, True):
        model = model_and_twin()[0].to("float32", device=device)
        optimizer = RULES[name](model, groups={"*.bias": {"lr_scale": 0.5}})
        assert not optimizer.eval()  # nothing has been learned yet, and a step may follow
        for _ in range(8):
            train(model, optimizer, 1)
            if look:
                before = optimizer.arena.sha256()
                assert optimizer.eval() and not optimizer.eval() and optimizer.arena.sha256() != before
                ag.cross_entropy(model(cast_like(X, optimizer.arena.data)), LABELS)
                assert optimizer.train() and not optimizer.train() and optimizer.arena.sha256() == before
        hashes.append(optimizer.arena.sha256())
        optimizer.eval()
        averages.append(optimizer.arena.sha256())
    assert hashes[0] == hashes[1] != averages[0] == averages[1]


@pytest.mark.parametrize("name", RULES)
def test_a_step_from_the_average_is_refused(name):
    model, _ = model_and_twin()
    optimizer = RULES[name](model)
    train(model, optimizer, 2)
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"the parameters are averages since eval\(\): call train\(\) first"):
        train(model, optimizer, 1)
    optimizer.train()
    train(model, optimizer, 1)
    assert optimizer.steps == 3


@pytest.mark.parametrize("name", RULES)
def test_a_state_saved_from_the_average_continues_exactly(name):
    model, _ = model_and_twin()
    optimizer = RULES[name](model)
    train(model, optimizer, 4)
    state = optimizer.state_dict()
    optimizer.eval()
    weights, shown = model.state_dict(), optimizer.state_dict()
    assert shown["sums"] == state["sums"] and all(
        (shown[key][n] == a).all() for key in optimizer.state for n, a in state[key].items()
    )
    kept = copy.deepcopy(shown)
    optimizer.train()
    train(model, optimizer, 4)
    other, _ = model_and_twin()
    again = RULES[name](other)
    train(other, again, 2)
    again.eval()
    other.load_state_dict(weights)
    again.load_state_dict(kept)
    assert again.training
    train(other, again, 4)
    assert again.arena.sha256() == optimizer.arena.sha256() and again.steps == 8
    with pytest.raises(ValueError, match="has 1 groups, and 'sums' of the state 0"):
        again.load_state_dict({key: value for key, value in kept.items() if key != "sums"})


def test_a_model_loaded_before_the_first_step_is_where_it_begins():
    model, _ = model_and_twin()
    optimizer = optim.ScheduleFreeSGD(model, lr=0.0)
    model.load_state_dict({name: a + 1.0 for name, a in model.state_dict().items()})
    before = optimizer.arena.sha256()
    train(model, optimizer, 1)
    optimizer.eval()
    assert optimizer.arena.sha256() == before
