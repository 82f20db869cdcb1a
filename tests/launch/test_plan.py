"""Lengths and schedules of a run, from their texts."""

import pytest

from allgrad.ddp.data import Sampler
from allgrad.launch.options import defaults, length
from allgrad.launch.plan import plan, steps_of

LENGTHS = [
    ("7", 7, 7),
    ("0", 0, 0),
    ("1ep", 15, 15),
    ("2ep", 30, 29),
    ("2.5ep", 38, 36),
    ("0.1ep", 2, 2),
    ("30ep", 450, 432),
    ("100samples", 1, 1),
    ("1437samples", 15, 15),
    ("1438samples", 16, 15),
    ("1501samples", 16, 16),
]


@pytest.mark.parametrize("text, short, carried", LENGTHS)
def test_lengths_are_steps_epochs_or_samples(text, short, carried):
    """1,437 samples in batches of 100: an epoch of 15 steps, whose last batch has 37 samples or is filled up."""
    assert steps_of(length(text), Sampler(1437, 100)) == short
    assert steps_of(length(text), Sampler(1437, 100, boundary="carry")) == carried


def rates(schedule, n, **options):
    config = {**defaults(), "lr": 1.0, "schedule": schedule, "global_batch": 100, "steps": 100, **options}
    rate = plan(config, Sampler(1437, 100)).rate
    return [rate(step) for step in range(n)]


@pytest.mark.parametrize(
    "text, values",
    [
        ("linear", {0: 1.0, 50: 0.5}),
        ("cosine", {0: 1.0, 50: 0.5}),
        ("polynomial:2", {0: 1.0, 50: 0.25}),
        ("onecycle", {0: 0.04, 29: 1.0, 99: 4e-6}),
        ("onecycle:0.5", {0: 0.04, 49: 1.0}),
        ("wsd:0.2", {0: 1.0, 80: 1.0, 90: 0.5, 95: 0.25}),
        ("wsd:0.2,1-sqrt", {0: 1.0, 80: 1.0, 85: 0.5}),
        ("wsd:1.0", {0: 1.0, 50: 0.5}),
        ("wsd:2ep,linear", {70: 1.0, 85: 0.5}),
        ("wsd:1437samples", {85: 1.0, 91: 0.6}),
        ("wsd:10", {90: 1.0, 95: 0.5}),
        ("step:2ep,0.5", {29: 1.0, 30: 0.5, 60: 0.25}),
        ("multistep:10,2ep,2874samples,0.5", {9: 1.0, 10: 0.5, 29: 0.5, 30: 0.125}),
        ("exponential:0.5", {0: 1.0, 3: 0.125}),
        ("exponential:0.25,2ep", {0: 1.0, 15: 0.5, 30: 0.25}),
        ("inverse:1ep", {0: 1.0, 15: 0.5}),
        ("restarts:10", {0: 1.0, 5: 0.5, 10: 1.0, 15: 0.5, 20: 1.0}),
        ("restarts:1ep,2", {0: 1.0, 15: 1.0, 30: 0.5, 45: 1.0}),
        ("plateau:0.1,3", {0: 1.0, 99: 1.0}),
    ],
)
def test_schedules_by_their_texts(text, values):
    found = rates(text, 100)
    assert {step: pytest.approx(value, abs=1e-12) for step, value in values.items()} == {s: found[s] for s in values}
    warm = rates(text, 100, warmup="1ep")
    assert warm[15:] == found[15:] and warm[:15] == pytest.approx([f * (i + 1) / 15 for i, f in enumerate(found[:15])])
