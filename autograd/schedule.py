"""Learning rates as functions of the step, for `lr=` of an optimizer. They compose: `warmup(cosine(0.1, 1000), 50)`.

A schedule maps the step, counted from 0, to a learning rate. Steps may be measured in other units: `in_epochs(f, n)`
has f run over epochs of n steps, `in_samples(f, batch)` over samples. Only a `Plateau` depends on more than the step:
on the values that it is told to observe. Arguments out of range raise ValueError.
"""

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant(lr: float) -> Schedule:
    """lr at every step."""
    return lambda step: lr


def step(lr: float, every: int, gamma: float = 0.1) -> Schedule:
    """lr times gamma for each full `every` steps behind us."""
    _positive("step", every=every, gamma=gamma)
    return lambda step: lr * gamma ** (step // every)


def multistep(lr: float, milestones: Sequence[float], gamma: float = 0.1) -> Schedule:
    """lr times gamma for each milestone, a step, that has been reached."""
    _positive("multistep", gamma=gamma)
    if list(milestones) != sorted(milestones):
        raise ValueError(f"multistep: milestones must rise, got {list(milestones)}")
    return lambda step: lr * gamma ** sum(step >= m for m in milestones)


def exponential(lr: float, gamma: float) -> Schedule:
    """lr * gamma**step."""
    _positive("exponential", gamma=gamma)
    return lambda step: lr * gamma**step


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from lr at step 0 to `final` at step `steps`, and `final` from then on."""
    _positive("cosine", steps=steps)
    return lambda step: final + 0.5 * (lr - final) * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def linear(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """A straight line from lr at step 0 to `final` at step `steps`, and `final` from then on."""
    _positive("linear", steps=steps)
    return lambda step: lr + (final - lr) * min(step / steps, 1.0)


def polynomial(lr: float, steps: int, power: float = 1.0, final: float = 0.0) -> Schedule:
    """final + (lr - final) (1 - step / steps)**power until step `steps`, and `final` from then on."""
    _positive("polynomial", steps=steps, power=power)
    return lambda step: final + (lr - final) * (1.0 - min(step / steps, 1.0)) ** power


def wsd(lr: float, steps: int, decay: float, shape="linear", final: float = 0.0) -> Schedule:
    """Stable, then decay: lr until the last `decay` of the `steps`, over which it falls to `final`, and stays there.

    With s = the part of the decay that is behind, 0 to 1, it is final + (lr - final) (1 - s) for shape "linear", and
    final + (lr - final) (1 - sqrt(s)) for "1-sqrt" (Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training
    Beyond Fixed Training Durations"). Before the decay nothing depends on the length of the run, so that one run serves
    many lengths, each with a decay of its own: Hu et al. 2024, "MiniCPM". The warm-up of "WSD", warm-up, stable, decay,
    goes around it: `warmup(wsd(0.1, 1000, 200), 50)`.
    """
    _positive("wsd", steps=steps, decay=decay)
    if not decay <= steps:
        raise ValueError(f"wsd: decay is at most the {steps} steps of the run, got {decay}")
    if shape not in ("linear", "1-sqrt"):
        raise ValueError(f'wsd: shape is "linear" or "1-sqrt", got {shape!r}')

    def at(step):
        s = min(max((step - (steps - decay)) / decay, 0.0), 1.0)
        return final + (lr - final) * (1.0 - (s if shape == "linear" else math.sqrt(s)))

    return at


def restarts(lr: float, steps: int, mult: float = 1.0, final: float = 0.0) -> Schedule:
    """Half a cosine from lr to `final` again and again, the first over `steps`, each next one `mult` times as long.

    SGDR: Loshchilov and Hutter 2017.
    """
    _positive("restarts", steps=steps)
    if not mult >= 1.0:
        raise ValueError(f"restarts: mult is at least 1, got {mult}")

    def at(step):
        length = steps
        if mult == 1.0:
            step %= length
        while step >= length:
            step, length = step - length, length * mult
        return final + 0.5 * (lr - final) * (1.0 + math.cos(math.pi * step / length))

    return at


def one_cycle(lr: float, steps: int, rise=0.3, div=25.0, final_div=1e4, anneal="cos", three_phase=False) -> Schedule:
    """Rise from lr / div to lr over a fraction `rise` of the steps, then fall to lr / div / final_div at the last one.

    With `three_phase` the fall to lr / div takes as long as the rise, and the rest goes on from there. Each phase is
    half a cosine, or straight with anneal="linear". As in torch, the phases end on the steps rise * steps - 1 and
    steps - 1. Smith and Topin 2018.
    """
    _positive("one_cycle", steps=steps, div=div, final_div=final_div)
    if not 0.0 <= rise <= (0.5 if three_phase else 1.0):
        raise ValueError(f"one_cycle: rise is a fraction of the steps, below 0.5 with three_phase, got {rise}")
    if anneal not in ("cos", "linear"):
        raise ValueError(f'one_cycle: anneal is "cos" or "linear", got {anneal!r}')
    low, last = lr / div, lr / div / final_div
    points = [(0.0, low), (rise * steps - 1.0, lr), (steps - 1.0, last)]
    if three_phase:
        points.insert(2, (2.0 * rise * steps - 2.0, low))

    def at(step):
        i = sum(step > end for end, _ in points[1:-1])
        (begin, first), (end, then) = points[i : i + 2]
        x = min((step - begin) / (end - begin), 1.0) if end > begin else 1.0
        return first + (then - first) * (x if anneal == "linear" else 0.5 - 0.5 * math.cos(math.pi * x))

    return at


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
    return lambda step: after(step) if step >= steps else start + (after(step) - start) * min((step + 1) / steps, 1.0)


def join(schedules: list[Schedule], boundaries: list[int]) -> Schedule:
    """One schedule after another: boundaries[i] is the step at which schedules[i + 1] takes over, from its step 0."""
    n = len(schedules)
    if len(boundaries) != n - 1 or list(boundaries) != sorted(boundaries):
        raise ValueError(f"join: {n} schedules need {n - 1} rising boundaries, got {boundaries}")

    def joined(step):
        i = sum(step >= b for b in boundaries)
        return schedules[i](step - (boundaries[i - 1] if i else 0))

    return joined


def in_epochs(schedule: Schedule, steps_per_epoch: float) -> Schedule:
    """A schedule over epochs as one over steps; between epochs it goes on smoothly. A warm-up in steps goes around it:

    `warmup(in_epochs(cosine(0.1, 90), steps_per_epoch), 500)`.
    """
    _positive("in_epochs", steps_per_epoch=steps_per_epoch)
    return lambda step: schedule(step / steps_per_epoch)


def in_samples(schedule: Schedule, batch: int) -> Schedule:
    """A schedule over samples as one over steps of `batch` samples each."""
    _positive("in_samples", batch=batch)
    return lambda step: schedule(step * batch)


class Plateau:
    """A schedule, or a constant rate, times `factor` for each time that an observed value has stopped falling.

    `observe(value, step)` after each evaluation: the rate is reduced after more than `patience` evaluations in a row
    that did not bring the value below the best by more than the part `threshold` of its size; the `cooldown`
    evaluations after a reduction do not count. It never goes below `final`, and a reduction by less than 1e-8 is not
    made: torch's ReduceLROnPlateau, but of values below 0 torch takes one that is a little worse for a better one.
    What it has seen is in `state_dict`, which a run that goes on has to restore.
    """

    def __init__(
        self, lr: Schedule | float, factor=0.1, patience: int = 10, threshold=1e-4, cooldown: int = 0, final=0.0
    ):
        if not 0.0 < factor < 1.0:
            raise ValueError(f"Plateau: factor is between 0 and 1, got {factor}")
        if not (patience >= 0 and threshold >= 0.0 and cooldown >= 0):
            got = f"{patience}, {threshold} and {cooldown}"
            raise ValueError(f"Plateau: patience, threshold and cooldown are at least 0, got {got}")
        self.lr = lr if callable(lr) else constant(lr)
        self.factor, self.patience, self.threshold = factor, patience, threshold
        self.cooldown, self.final = cooldown, final
        self.scale, self.best = 1.0, None
        self.bad = self.cooling = 0  # evaluations since the best, and those that do not count yet

    def __call__(self, step):
        return self._at(step, self.scale)

    def _at(self, step, scale):
        lr = self.lr(step)
        return min(lr, max(lr * scale, self.final))

    def observe(self, value, step=0):
        """Take note of an evaluation after `step` steps."""
        value = float(value)
        if value < (math.inf if self.best is None else self.best * (1.0 - math.copysign(self.threshold, self.best))):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            self.cooling, self.bad = self.cooldown, 0
            if self(step) - self._at(step, self.scale * self.factor) > 1e-8:
                self.scale *= self.factor

    def state_dict(self):
        """What it has seen, as JSON values."""
        return {"scale": self.scale, "best": self.best, "bad": self.bad, "cooling": self.cooling}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned."""
        self.scale, self.best, self.bad, self.cooling = (state[key] for key in ("scale", "best", "bad", "cooling"))


def _positive(name, **values):
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: {key} must be above 0, got {value}")
