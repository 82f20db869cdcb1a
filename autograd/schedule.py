"""Learning rates as functions of the step, counted from 0. They compose: `warmup(cosine(0.1, 1000), 50)`."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """lr at every step."""
    return lambda step: lr


def step(lr: float, every: int, gamma: float = 0.1) -> Schedule:
    """lr times gamma for each full `every` steps behind us."""
    _positive("step", every=every)
    return lambda step: lr * gamma ** (step // every)


def exponential(lr: float, gamma: float) -> Schedule:
    """lr * gamma**step."""
    return lambda step: lr * gamma**step


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from lr at step 0 to `final` at step `steps`, and `final` from then on."""
    _positive("cosine", steps=steps)
    return lambda step: final + 0.5 * (lr - final) * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def linear(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """A straight line from lr at step 0 to `final` at step `steps`, and `final` from then on."""
    _positive("linear", steps=steps)
    return lambda step: lr + (final - lr) * min(step / steps, 1.0)


def inverse(lr: float, half: float = 1.0) -> Schedule:
    """lr / (1 + step / half), the 1/t decay of Robbins and Monro 1951: half of lr after `half` steps."""
    _positive("inverse", half=half)
    return lambda step: lr / (1.0 + step / half)


def warmup(schedule: Schedule | float, steps: int, start: float = 0.0) -> Schedule:
    """Rise in a straight line to the schedule over the first steps: Goyal et al. 2017, section 2.2.

    Step i < steps uses start + (schedule(i) - start) * (i + 1) / steps, so that no step is spent at a rate of zero.
    """
    after = schedule if callable(schedule) else constant(schedule)
    if not steps:
        return after
    _positive("warmup", steps=steps)
    return lambda step: after(step) if step >= steps else start + (after(step) - start) * (step + 1) / steps


def join(schedules: list[Schedule], boundaries: list[int]) -> Schedule:
    """One schedule after another: boundaries[i] is the step at which schedules[i + 1] takes over, from its step 0."""
    if len(boundaries) != len(schedules) - 1 or list(boundaries) != sorted(boundaries):
        raise ValueError(
            f"join: {len(schedules)} schedules need {len(schedules) - 1} rising boundaries, got {boundaries}"
        )

    def joined(step):
        i = sum(step >= b for b in boundaries)
        return schedules[i](step - (boundaries[i - 1] if i else 0))

    return joined


def _positive(name, **values):
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: {key} must be above 0, got {value}")
