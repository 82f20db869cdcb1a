"""Schedules: beside torch.optim.lr_scheduler, step by step, and at steps computed by hand."""

import json
import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from allgrad import nn, optim
from allgrad.autograd import schedule
from allgrad.autograd.random import generator

STEPS = 200


def of_torch(make, steps=STEPS, lr=0.1):
    """The rates of the first steps under a scheduler of torch; it is told nothing."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def one_cycle(steps=STEPS, pct=0.3, **options):
    return lambda o: lr_scheduler.OneCycleLR(o, 0.1, steps, pct_start=pct, cycle_momentum=False, **options)


PAIRS = [
    (schedule.constant(0.1), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    (schedule.step(0.1, 30, 0.5), lambda o: lr_scheduler.StepLR(o, 30, 0.5)),
    (schedule.multistep(0.1, [30, 80, 80, 150], 0.3), lambda o: lr_scheduler.MultiStepLR(o, [30, 80, 80, 150], 0.3)),
    (schedule.exponential(0.1, 0.97), lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    (schedule.linear(0.1, 60, 0.02), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 60)),
    (schedule.polynomial(0.1, 150, 2.5), lambda o: lr_scheduler.PolynomialLR(o, 150, 2.5)),
    (schedule.polynomial(0.1, 250), lambda o: lr_scheduler.PolynomialLR(o, 250, 1.0)),
    (schedule.cosine(0.1, 200), lambda o: lr_scheduler.CosineAnnealingLR(o, 200)),
    (schedule.cosine(0.1, 200, 0.01), lambda o: lr_scheduler.CosineAnnealingLR(o, 200, 0.01)),
    (schedule.restarts(0.1, 30), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 30)),
    (schedule.restarts(0.1, 7, 2, 0.01), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, 2, 0.01)),
    (schedule.restarts(0.1, 1, 3), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1, 3)),
    (schedule.one_cycle(0.1, 200), one_cycle()),
    (schedule.one_cycle(0.1, 201, 0.13, 10.0, 100.0, "linear"), one_cycle(
        201, 0.13, div_factor=10.0, final_div_factor=100.0, anneal_strategy="linear")),
    (schedule.one_cycle(0.1, 200, three_phase=True), one_cycle(three_phase=True)),
    (schedule.one_cycle(0.1, 217, 0.4, 5.0, 9.0, "linear", True), one_cycle(
        217, 0.4, div_factor=5.0, final_div_factor=9.0, anneal_strategy="linear", three_phase=True)),
    (schedule.one_cycle(0.1, 200, 0.0), one_cycle(pct=0.0)),
    (schedule.warmup(0.1, 40), lambda o: lr_scheduler.LinearLR(o, 1 / 40, 1.0, 39)),
    (schedule.warmup(0.1, 40, 0.02), lambda o: lr_scheduler.LinearLR(o, 0.2 + 0.8 / 40, 1.0, 39)),
    (schedule.inverse(0.1, 5), lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i / 5))),
    (schedule.join([schedule.constant(0.1), schedule.exponential(0.1, 0.9)], [50]),
     lambda o: lr_scheduler.SequentialLR(
         o, [lr_scheduler.ConstantLR(o, 1.0), lr_scheduler.ExponentialLR(o, 0.9)], [50])),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's own use of it
@pytest.mark.parametrize("ours, theirs", PAIRS)
def test_rates_are_those_of_torch(ours, theirs):
    # torch multiplies its way from step to step, and its cosine passes through 0
    np.testing.assert_allclose([ours(step) for step in range(STEPS)], of_torch(theirs), rtol=1e-12, atol=1e-15)


def test_training_under_a_schedule_is_that_of_torch():
    x = generator("schedule").standard_normal((12, 6))
    model = nn.Linear(6, 1).to("float64")
    twin = torch.nn.Linear(6, 1).double()
    twin.load_state_dict({name: torch.tensor(a) for name, a in model.state_dict().items()})
    rate = schedule.warmup(schedule.restarts(0.1, 7, 2), 5)
    optimizer, theirs = optim.SGD(model, rate, momentum=0.9), torch.optim.SGD(twin.parameters(), lr=1.0, momentum=0.9)
    scheduler = lr_scheduler.LambdaLR(theirs, rate)
    for step in range(30):
        assert optimizer.current_lr == rate(step)
        optimizer.zero_grad()
        theirs.zero_grad()
        (model(x) ** 2).mean().backward()
        (twin(torch.tensor(x)) ** 2).mean().backward()
        optimizer.step()
        theirs.step()
        scheduler.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.detach(), rtol=1e-12, atol=1e-12)


def test_schedules_at_hand_computed_steps():
    s = schedule
    for f, values in [
        (s.step(1.0, 2), {0: 1.0, 1: 1.0, 2: 0.1, 4: 0.01}),
        (s.cosine(1.0, 10, 0.2), {0: 1.0, 5: 0.6, 10: 0.2, 99: 0.2}),
        (s.linear(1.0, 10), {0: 1.0, 4: 0.6, 10: 0.0, 99: 0.0}),
        (s.inverse(1.0, 4), {0: 1.0, 4: 0.5, 12: 0.25}),
        (s.multistep(1.0, [2, 2, 5]), {0: 1.0, 1: 1.0, 2: 0.01, 4: 0.01, 5: 0.001, 99: 0.001}),
        (s.polynomial(1.0, 10, 2.0, 0.2), {0: 1.0, 5: 0.4, 10: 0.2, 99: 0.2}),
        (s.wsd(1.0, 10, 4), {0: 1.0, 6: 1.0, 7: 0.75, 8: 0.5, 10: 0.0, 99: 0.0}),
        (s.wsd(1.0, 10, 4, "1-sqrt", 0.2), {0: 1.0, 6: 1.0, 7: 0.6, 10: 0.2, 99: 0.2}),
        (s.wsd(1.0, 10, 10), {0: 1.0, 5: 0.5, 10: 0.0}),
        (s.warmup(s.wsd(1.0, 8, 2.0), 4), {0: 0.25, 3: 1.0, 6: 1.0, 7: 0.5, 8: 0.0}),
        (s.restarts(1.0, 4, 2.0, 0.2), {0: 1.0, 2: 0.6, 4: 1.0, 8: 0.6, 12: 1.0, 20: 0.6, 28: 1.0}),
        (s.restarts(1.0, 4), {4 * 10**9 - 2: 0.5, 4 * 10**9: 1.0}),
        (s.one_cycle(1.0, 11, 0.5, 10.0, 10.0, "linear"), {0: 0.1, 4.5: 1.0, 10: 0.01, 99: 0.01}),
        (s.one_cycle(1.0, 11, 1.0), {0: 0.04, 5: 0.52, 10: 1.0}),
        (s.in_epochs(s.step(1.0, 30), 7), {0: 1.0, 209: 1.0, 210: 0.1, 419: 0.1, 420: 0.01}),
        (s.in_epochs(s.linear(1.0, 2), 5), {0: 1.0, 1: 0.9, 7: 0.3, 10: 0.0, 11: 0.0}),
        (s.in_samples(s.multistep(1.0, [100, 201]), 50), {1: 1.0, 2: 0.1, 4: 0.1, 5: 0.01}),
        (s.warmup(s.in_epochs(s.linear(1.0, 2), 5), 2), {0: 0.5, 1: 0.9, 2: 0.8}),
        (s.in_epochs(s.warmup(1.0, 2), 4), {0: 0.5, 2: 0.75, 4: 1.0, 7: 1.0, 8: 1.0}),
        (s.warmup(1.0, 4), {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0}),
        (s.warmup(1.0, 4, start=0.2), {0: 0.4, 3: 1.0, 50: 1.0}),
        (s.warmup(s.linear(1.0, 10), 2), {0: 0.5, 1: 0.9, 2: 0.8, 10: 0.0}),
        (s.warmup(s.constant(3.0), 0), {0: 3.0}),
        (s.join([s.constant(1.0), s.linear(1.0, 4), s.constant(7.0)], [2, 6]), {1: 1.0, 2: 1.0, 4: 0.5, 6: 7.0}),
    ]:
        for step, value in values.items():
            assert math.isclose(f(step), value, rel_tol=1e-12, abs_tol=1e-15)


# --- plateaus ----------------------------------------------------------------------------------------------------

noise = generator("plateau").standard_normal(STEPS)
VALUES = {
    "falling": 2.0 / (1.0 + np.arange(STEPS)),
    "noisy": 1.0 / (1.0 + np.arange(STEPS) / 20) + 0.1 * noise,
    "flat": np.ones(STEPS),
    "not a number": np.where(np.arange(STEPS) % 3 == 0, np.nan, 1.0 + 0.1 * noise),
}
OPTIONS = [
    {},
    {"factor": 0.5, "patience": 0},
    {"factor": 0.5, "patience": 2, "cooldown": 3},
    {"factor": 0.7, "patience": 1, "threshold": 0.05},
    {"factor": 0.3, "patience": 3, "final": 0.004},
]


@pytest.mark.parametrize("best", [3.0, -3.0])
def test_a_value_of_any_sign_is_better_only_if_it_is_lower_by_the_threshold(best):
    for value, scale in [(best - 0.2, 1.0), (best - 0.1, 0.1), (best, 0.1), (best + 0.1, 0.1), (math.nan, 0.1)]:
        plateau = schedule.Plateau(1.0, patience=0, threshold=0.05)
        plateau.observe(best)
        plateau.observe(value)
        assert plateau.scale == scale, value


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_plateaus_are_those_of_torch(values, options):
    ours = schedule.Plateau(0.1, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = {"min_lr" if key == "final" else key: value for key, value in options.items()}
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **theirs)
    for step, value in enumerate(values):
        np.testing.assert_allclose(ours(step), optimizer.param_groups[0]["lr"], rtol=1e-12)
        ours.observe(value)
        scheduler.step(value)
        saved = json.loads(json.dumps(ours.state_dict()))
        ours = schedule.Plateau(0.1, **options)
        ours.load_state_dict(saved)


def test_a_plateau_scales_another_schedule():
    plateau = schedule.Plateau(schedule.warmup(1.0, 4), factor=0.5, patience=0, final=0.3)
    assert [plateau(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for _ in range(2):
        plateau.observe(1.0, step=5)
    assert [plateau(step) for step in range(5)] == [0.25, 0.3, 0.375, 0.5, 0.5]
    for _ in range(9):
        plateau.observe(1.0, step=5)
    assert [plateau(step) for step in range(5)] == [0.25, 0.3, 0.3, 0.3, 0.3]
    model = nn.Parameter([1.0])
    optimizer = optim.SGD([model], plateau)
    optimizer.steps = 9
    assert optimizer.current_lr == 0.3
