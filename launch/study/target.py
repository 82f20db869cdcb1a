"""What a study is to reach: a value that short runs propose, and what no study can be made of.

A good target is met by the smallest batch after 20 steps or more, so that steps to it are counted finely enough, and by
the largest after 30 or more; not before training; and soon, since every run of the study trains until then.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import runner
from allgrad.launch.study.lr_tuning import first_rate
from allgrad.launch.study.workload import Workload

READ = "optimizers", "batches", "target", "metric", "sampler", "seeds"  # options of an experiment that make an `Aim`
PASSED_ON = "momentum", "nesterov", "weight_decay", "l1", "no_decay", "optimizer_options"  # and of its runs
BATCH = 64  # of the run whose curve is shown, or the nearest there is
LENGTHS = 400, 1600  # of that run, in steps; the second if the first does not come far enough
SMALLEST, LARGEST = 26, 40  # steps after which these batches may meet the target; rates of a study are tuned finer
SEARCHED = 100  # steps by which the rate of the shown run is chosen
ABOVE = 1.05  # times the least that the shown run comes to: what lies nearer may be reached by nobody else
APART = 1.25  # factor between steps at which a curve is measured


class Missing(ConfigurationError):
    """A target is needed and was not given."""


@dataclass(frozen=True)
class Aim:
    """What runs are to reach: `target` of `metric`; with the optimizer and batches of an experiment.

    batches   None if its batches are its own affair
    seeds     of initial weights with which a target must not be met yet
    more      further words of a run's configuration
    """

    optimizer: str = "sgd"
    batches: tuple[int, ...] | None = None
    target: Any = None
    metric: str = "train_loss"
    sampler: str = "epoch"
    seeds: tuple[int, ...] = (0,)
    more: Mapping = field(default_factory=dict)

    @property
    def rising(self) -> bool:
        """Whether the metric is the better the larger."""
        return self.metric.endswith(runner.RISING)

    def run(self, work, batch, lr, steps=1, seed=0) -> runner.Run:
        """A run of so many steps towards no target."""
        given = {"metric": self.metric, "sampler": self.sampler, "seed": seed, **self.more}
        return runner.Run(runner.configuration(work, self.optimizer, batch=batch, lr=lr, steps=steps, **given))

    def measured(self, run) -> float:
        """The metric, or what it lacks to 1, so that less is better; inf if it is not finite."""
        value = run.named(self.metric, run.evaluate(self.metric.partition("_")[0]))
        value = 1.0 - value if self.rising else value
        return value if math.isfinite(value) else math.inf

    def shown(self, value) -> str:
        """A value of `measured` as the metric itself, with three digits."""
        return f"{1.0 - value if self.rising else value:.3g}"


@dataclass(frozen=True)
class Curve:
    """What a run with a rate measured: (step, the best so far), from step 0 on."""

    batch: int
    lr: float
    points: tuple[tuple[int, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]

    def at(self, step) -> float:
        """The best up to a step."""
        return [value for t, value in self.points if t <= step][-1]


@dataclass(frozen=True)
class Proposal:
    """A target, and the short run that meets it after `steps`."""

    aim: Aim
    target: float
    steps: int
    curve: Curve

    def __str__(self):
        return f"what {self.aim.optimizer} with batch {self.curve.batch} reaches after about {self.steps} steps"

    @cached_property
    def course(self) -> str:
        """The curve in words."""
        ends = [t for t in (0, 25, 100, 400, 1600) if t <= self.curve.points[-1][0]]
        return ", ".join(f"{self.aim.shown(self.curve.at(t))} after {t}" for t in ends) + " steps"


def checked(work: Workload, aim: Aim) -> list[str]:
    """What a reader must know of batches and target; ConfigurationError if no study can be made of them."""
    remarks, n = [], len(work.loaded.train_x)
    if aim.batches is not None and (largest := max(aim.batches)) > n:
        if aim.sampler != "iid":
            fit = ",".join(str(batch) for batch in sorted(aim.batches) if batch <= n) or str(n)
            raise ConfigurationError(
                f"--batches: {largest} is more than the {n:,} training samples of {work.name}: give --batches {fit}, "
                f"or --sampler iid, which draws each sample by itself"
            )
        remarks.append(f"The largest batch, {largest}, is more than the {n:,} training samples: it repeats some.")
    if isinstance(aim.target, float):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of weights that are too large
            before = min(aim.measured(aim.run(work, work.shards, 0.1, seed=seed)) for seed in aim.seeds)
        goal = 1.0 - aim.target if aim.rising else aim.target
        if before <= goal:
            raise ConfigurationError(
                f"--target {aim.target:g} is met before training, when {aim.metric} is {aim.shown(before)} with one of "
                f"the seeds: give a value that is harder to meet, or auto"
            )
    return remarks


def refusal(missing: Missing, work: Workload, aim: Aim, say=None) -> str:
    """What is said where a target is missing: which one would do."""
    try:
        found = propose(work, aim, say)
    except ConfigurationError as error:
        return f"{missing} give a number ({error})"
    return (
        f"{missing} give --target {found.target:g} ({found}), or auto, which takes it, or another number (on that "
        f"run, with the rate {found.curve.lr:g}, it is {found.course})"
    )


def automatic(work: Workload, aim: Aim, say=None) -> tuple[float, str]:
    """The target that is proposed, and a sentence on where it comes from."""
    found = propose(work, aim, say)
    return found.target, (
        f"The target, {aim.metric} {found.target:g}, was chosen by a short run (--target auto): it is {found}, where "
        f"{aim.metric} is {found.course}."
    )


_proposed: dict[str, Proposal] = {}  # several experiments ask for the same


def propose(work: Workload, aim: Aim, say: Callable[[str], object] | None = None) -> Proposal:
    """A target for these batches, by runs of some hundred steps: a function of its arguments.

    It is the easiest that the largest batch meets after 30 steps or more and the smallest after 20, or, where a batch
    of 64 does not come that far within 1,600 steps, 1.05 times what that comes to. ConfigurationError if nothing is
    learned. say: what is told beforehand that this takes a while.
    """
    key = repr((work.config(), aim))
    if key not in _proposed:
        if say is not None:
            say(f"looking for a target of {aim.metric} by short runs of {aim.optimizer} on {work.name} ...")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of rates that are too high
            _proposed[key] = _propose(work, aim)
    return _proposed[key]


def _propose(work, aim):
    n = len(work.loaded.train_x)
    batches = [batch for batch in aim.batches or (BATCH,) if batch <= n or aim.sampler == "iid"] or [n]
    small, large = min(batches), max(batches)
    shown = min(max(BATCH, small), large)
    easiest = min(_searched(work, aim, small, SMALLEST).last, _searched(work, aim, large, LARGEST).last)
    rate = _searched(work, aim, shown, SEARCHED).lr
    for length in LENGTHS:
        curve = _curve(work, aim, shown, rate, length)
        within_reach = curve.last + (ABOVE - 1.0) * abs(curve.last)
        if within_reach <= easiest:
            break
    before = curve.points[0][1]
    goal = _rounded(max(easiest, within_reach), within_reach)
    if not goal < before:
        raise ConfigurationError(
            f"a short run of {aim.optimizer} with batch {shown} does not come below {aim.metric} {aim.shown(before)}, "
            f"where it begins"
        )
    met = next(t for t, value in curve.points if value <= goal)
    return Proposal(aim, float(f"{1.0 - goal if aim.rising else goal:.4g}"), _two_digits(met), curve)


def _rounded(value, least):
    """The value in few digits: rounded down if that is not below `least`, else up."""
    for digits in (1, 2, 3):
        unit = 10.0 ** (math.floor(math.log10(abs(value) or 1.0)) - digits)
        if (found := math.floor(value / unit) * unit) >= least:
            return found
    return math.ceil(value / unit) * unit


def _two_digits(count):
    unit = 10 ** max(0, len(str(count)) - 2)
    return round(count / unit) * unit


def _searched(work, aim, batch, steps) -> Curve:
    """The curve of the rate that comes farthest: by factors of 4 from where a study would begin, then by 2."""
    start, found = first_rate(aim.optimizer, batch), {}

    def best():
        return min(found, key=lambda k: (found[k].last, k))

    for apart in (2, 1):
        found = found or {0: _curve(work, aim, batch, start, steps)}
        while missing := [k for k in (best() - apart, best() + apart) if k not in found and abs(k) <= 12]:
            found |= {k: _curve(work, aim, batch, start * 2.0**k, steps) for k in missing}
    return found[best()]


def _curve(work, aim, batch, lr, steps) -> Curve:
    """A run of so many steps, or until it diverges."""
    run = aim.run(work, batch, lr, steps)
    run.start  # noqa: B018  what divergence is told by
    points = [(0, aim.measured(run))]
    while run.t < steps:
        stop = min(steps, max(run.t + 1, round(run.t * APART)))
        loss = 0.0
        while run.t < stop and math.isfinite(loss):
            loss = run.step()
            run.t += 1
        value = aim.measured(run) if math.isfinite(loss) else math.inf
        points.append((run.t, min(value, points[-1][1])))
        if not math.isfinite(value) or (not aim.rising and run.diverged(value)):
            break
    return Curve(batch, float(f"{lr:.3g}"), tuple(points))
