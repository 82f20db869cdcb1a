"""The learning rate of each cell of a study, tuned by one protocol, and what the winner does on fresh seeds.

Shallue et al. 2019 ask for it: a batch size must not win because its neighbour had the wrong rate. Every decision is a
function of finished rows, so that a sweep that was killed replays to where it was.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import fit, runner

FACTOR = math.sqrt(2.0)  # between neighbouring rates
START = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "lars": 1.0, "adagrad": 0.02}  # at a batch of 4, on digits
OTHERS = {"muon": 0.007, "lion": 0.0004, "soap": 0.008, "schedulefree-sgd": 0.2, "schedulefree-adamw": 0.008}
ADAPTIVE = 0.003  # of all that are neither here nor there
LINEAR = {*START, "muon", "lion", "schedulefree-sgd"}  # whose best rate grew by 11 to 23 from a batch of 4 to one of 64
COARSE = (0, 4)  # where to look first, in powers of FACTOR, if no neighbour tells
LOWER, ANYWHERE = (-2, -4, -8), (0, -2, -4, -8, -12, 4, 8, 12)  # and where next, as long as no rate works
FARTHEST = 24
FINEST = 1.0 / 8.0  # distance, in powers of FACTOR, at which rates are no longer told apart
NEAR = 0.05  # neighbours of the best that are at most so much worse are near enough
OFF = 0.3  # neighbours that are worse by so much are no part of the parabola
DOUBT, MOST_DOUBT = 0.005, 0.1  # the least and the most that is reckoned with for the choice of a rate
BETTER = 2.0  # standard errors of a difference beyond which neighbours are worse
SEEDS = (0, 1, 2)
REPORT_SEEDS = (100, 101, 102, 103, 104)
WORSE = 3.0  # how much worse than the best so far a run may become before it is pruned


@dataclass
class Tuned:
    """What tuning a cell has found.

    lr, score   the best rate and its score: the geometric mean of the seeds' steps, or another measure's mean
    at_edge     whether the climb was given up at the farthest rate tried, with none worse beyond it
    tried       {rate: score}, inf where a seed failed
    trials      how many runs that took
    rows        those of the winner on the report's seeds
    why         what is wrong if no rate works; `lr` is nan then, and `score` inf
    doubt       about how far the logarithm of the score may be from that of the very best rate: a quarter of how much
                worse its neighbours are; where these cannot be told apart, that is the scatter of the seeds
    """

    lr: float
    score: float
    at_edge: bool
    tried: dict[float, float]
    trials: int
    rows: list[dict] = field(default_factory=list)
    why: str = ""
    doubt: float = DOUBT

    @property
    def steps(self) -> list[float]:
        """Steps to the target of the report's seeds; inf for one that failed."""
        return [steps_of(row) for row in self.rows]

    @property
    def failures(self) -> int:
        """How many of the report's seeds failed."""
        return sum(row["status"] != "ok" for row in self.rows)

    def remarks(self, where) -> list[str]:
        """What a reader must know to not be misled: that no rate works, seeds failed, or a better rate may exist."""
        if not self.rows:
            return [f"{where}: no learning rate works: {self.why}."]
        endings = ", ".join(sorted({row["status"] for row in self.rows} - {"ok"}))
        failed = (
            f"{where}: {self.failures} of {len(self.rows)} fresh seeds failed with the tuned rate ({endings}), so that "
            f"it is at the edge of stability: the mean is that of the others, has no interval, and decides nothing."
        )
        edge = f"{where}: the best rate is the last one tried; a better one may exist."
        return [failed] * bool(self.failures) + [edge] * self.at_edge


class NothingWorks(ConfigurationError):
    """No learning rate leads to the target."""


def steps_of(row: dict) -> float:
    """A row's steps to the target; inf if it never met it."""
    return row["steps_to_target"] if row["status"] == "ok" else math.inf


def lr_exponent(optimizer) -> float:
    """By which power of a small batch its best rate grows: Malladi et al. 2022 for Adam and its like."""
    return 1.0 if optimizer in LINEAR else 0.5


def first_rate(optimizer, batch) -> float:
    """Where to look first for the rate of a batch."""
    return {**START, **OTHERS}.get(optimizer, ADAPTIVE) * (batch / 4.0) ** lr_exponent(optimizer)


def tune_batches(
    lab, configure: Callable[..., dict], optimizer, batches: Sequence[int], lr=None, **options
) -> dict[int, Tuned]:
    """Tune every batch size, from the smallest, `lr` being where to look first, to larger ones from their neighbour's.

    configure(batch, lr=, seed=, cap=, prune=) -> the configuration of a run; options: those of `tune`.
    Raises NothingWorks if no rate does at the smallest.
    """
    found: dict[int, Tuned] = {}
    rate, before, near = lr or first_rate(optimizer, batches[0]), batches[0], None
    for batch in batches:
        rate *= (batch / before) ** lr_exponent(optimizer)
        before = batch
        try:
            found[batch] = near = tune(lab, partial(configure, batch), rate, neighbour=near, **options)
            rate = near.lr
        except NothingWorks as error:
            if near is None:
                raise
            found[batch] = Tuned(math.nan, math.inf, True, {}, 0, why=str(error))
    return found


def tune(
    lab, configure: Callable[..., dict], start: float, *, neighbour: Tuned | None = None, seeds: Sequence[int] = SEEDS,
    report_seeds: Sequence[int] = REPORT_SEEDS, cap=6000, measure: Callable[[dict], float] | None = None,
    experiment="",
) -> Tuned:  # fmt: skip
    """Find the best learning rate of a cell, by climbing from `start` in steps of sqrt 2, and then by finer ones.

    configure(lr=, seed=, cap=, prune=) -> the configuration of a run
    neighbour   the cell that `start` comes from: its steps say when a run takes too long. Without one, a rate
                4 times as high is tried as well before the climb
    cap         steps after which a run has failed
    measure     a row's score, the smaller the better; None: its steps to the target, and runs that are sure to be worse
                than 3 times the best are pruned
    The climb ends when the rates on both sides of the best are worse. Then the distance between rates is halved around
    the best, once, and again as long as the neighbours are worse by 5 % and by more than chance: where steps fall up to
    the edge of stability, a grid of sqrt 2 would cost several per cent. The rate is the lowest point of the parabola
    through the best and its neighbours: with so few seeds the best of them alone is often so by luck. It is run on
    fresh seeds, see `run_report_seeds`, if there are any. Raises NothingWorks if no rate does.
    """
    search = _Search(lab, configure, start, tuple(seeds), cap, measure, experiment)
    if neighbour is not None and math.isfinite(neighbour.score) and measure is None:
        search.limit = min(cap, math.ceil(WORSE * neighbour.score) + 20)
    search.score([0] if neighbour is not None else COARSE)
    if not search.works():
        search.score(LOWER)  # most often the rate is beyond what is stable
    if not search.works():
        search.limit = cap  # or the neighbour has promised too much
        search.score(ANYWHERE)
    if not search.works():
        raise NothingWorks(search.complaint())
    best, at_edge = search.best(), False
    while missing := [k for k in (best - 1, best + 1) if k not in search.found]:
        search.score(missing)
        best = search.best()
        if at_edge := abs(best) > FARTHEST:
            break
    lowest = best if at_edge else search.refine(best)
    tuned = Tuned(
        search.rate(lowest), search.found[search.best()], at_edge, search.tried(), search.trials, doubt=search.doubt()
    )
    return (
        run_report_seeds(lab, configure, tuned, report_seeds, cap if measure else None, experiment)
        if report_seeds
        else tuned
    )


def run_report_seeds(
    lab, configure, tuned: Tuned, seeds: Sequence[int] = REPORT_SEEDS, cap=None, experiment=""
) -> Tuned:
    """Run a cell's best rate on fresh seeds, by default until 10 times its score: who fails then is at the edge."""
    cap = cap or 10 * math.ceil(tuned.score)
    tuned.rows = lab.run([configure(lr=tuned.lr, seed=seed, cap=cap, prune=None) for seed in seeds], experiment)
    return tuned


class _Search:
    """Scores of rates start * FACTOR**k, k in eighths."""

    def __init__(self, lab, configure, start, seeds, cap, measure, experiment):
        self.lab, self.configure, self.start, self.seeds = lab, configure, start, seeds
        self.limit, self.cap, self.measure, self.experiment = cap, cap, measure, experiment
        self.found: dict[float, float] = {}
        self.values: dict[float, list[float]] = {}  # of each seed, of the rates with which none failed
        self.trials = 0
        self.rows: list[dict[str, Any]] = []

    def rate(self, k):
        return float(f"{self.start * FACTOR**k:.6g}")

    def score(self, ks):
        """Try these rates: the first seed of all, then the others of those that did not fail."""
        ks = [k for k in dict.fromkeys(ks) if not math.isfinite(self.found.get(k, math.inf))]
        values: dict[float, list[float]] = {k: [] for k in ks}
        for seeds in (self.seeds[:1], self.seeds[1:]):
            prune = None if self.measure else self._prune([v[0] for v in values.values() if v])
            hopeful = [k for k in ks if all(math.isfinite(v) and (prune is None or v <= prune) for v in values[k])]
            pairs = [(k, seed) for k in hopeful for seed in seeds]
            configs = [self.configure(lr=self.rate(k), seed=seed, cap=self.cap, prune=prune) for k, seed in pairs]
            rows = self.lab.run(configs, self.experiment)
            self.trials += len(rows)
            self.rows += rows
            for (k, _), row in zip(pairs, rows):
                values[k].append(self._value(row))
        for k in ks:
            whole = len(values[k]) == len(self.seeds)
            mean = fit.gmean if self.measure is None else _mean
            self.found[k] = mean(values[k]) if whole else math.inf
            if math.isfinite(self.found[k]):
                self.values[k] = values[k]

    def refine(self, best) -> float:
        """Rates in between, as long as they can be told apart; where the lowest point is."""
        step = 1.0
        while step > FINEST and (step == 1.0 or self._above(best, step) > max(NEAR, BETTER * self._error())):
            step /= 2.0
            self.score([k for k in (best - step, best + step) if k not in self.found])
            best = self.best()
        return best + self._vertex(best, 2.0 * step)

    def doubt(self):
        """A quarter of how much worse the neighbours of the best are, on average of those that work."""
        best, order = self.best(), sorted(self.found)
        k = order.index(best)
        near = [self._relative(other, best) for other in (*order[max(k - 1, 0) : k], *order[k + 1 : k + 2])]
        near = [gap for gap in near if math.isfinite(gap)]
        return float(min(max(sum(near) / len(near) / 4.0, DOUBT), MOST_DOUBT)) if near else MOST_DOUBT

    def _relative(self, k, best):
        """How much worse a rate is than the best: the logarithm of the ratio of scores.

        Of scores that are not above 0 their difference, as a share of the best.
        """
        score, least = self.found[k], self.found[best]
        return math.log(score / least) if least > 0.0 else (score - least) / max(abs(least), 1e-300)

    def _above(self, best, step):
        """How much worse the worse of the neighbours is."""
        return max(self._relative(k, best) for k in (best - step, best + step))

    def _error(self):
        """The standard error of the difference of two scores, from the scatter of the seeds at all rates that work."""
        if len(self.seeds) < 2 or min(min(v) for v in self.values.values()) <= 0.0:
            return 0.0
        scatter = [math.fsum((x - y) ** 2 for x in logs for y in logs) / (2 * len(logs) * (len(logs) - 1))
                   for logs in ([math.log(x) for x in v] for v in self.values.values())]  # fmt: skip
        return math.sqrt(2.0 * sum(scatter) / len(scatter) / len(self.seeds))

    def _vertex(self, best, reach):
        """How far from the best the parabola through it and its neighbours is lowest, at most as far as these are."""
        near = sorted(k for k, score in self.found.items() if abs(k - best) <= reach and math.isfinite(score))
        near = [k for k in near if self._relative(k, best) < OFF]
        below, above = [k for k in near if k < best], [k for k in near if k > best]
        if not (below and above):
            return 0.0
        a, b, _ = np.polyfit([k - best for k in near], [self._relative(k, best) for k in near], 2)
        lowest = -b / (2.0 * a) if a > 0.0 else 0.0
        return float(min(max(lowest, below[-1] - best), above[0] - best))

    def _prune(self, first):
        best = min([*self.found.values(), *first], default=math.inf)
        limit = min(self.limit, math.ceil(WORSE * best) + 20) if math.isfinite(best) else self.limit
        return limit if limit < self.cap else None

    def _value(self, row):
        if self.measure is None:
            return steps_of(row)
        value = self.measure(row) if row["status"] == "ok" else None
        return value if value is not None and math.isfinite(value) else math.inf

    def works(self):
        return any(map(math.isfinite, self.found.values()))

    def best(self):
        return min(self.found, key=lambda k: (self.found[k], k))

    def tried(self):
        return {self.rate(k): self.found[k] for k in sorted(self.found)}

    def complaint(self):
        errors = [row["error"] for row in self.rows if row["status"] == "error"]
        if errors:
            return f"every learning rate fails: {errors[0]}"
        config = self.rows[-1]["config"]
        endings = ", ".join(sorted({row["status"] for row in self.rows}))
        rates = f"from {self.rate(min(self.found)):g} to {self.rate(max(self.found)):g}"
        if self.measure is not None:
            return (
                f"{config['optimizer']} with batch {config['batch']} comes to the end of its budget with no learning "
                f"rate {rates} ({endings}): give smaller ones to begin with by --lr, or other data or another model"
            )
        ends = [row[f"final_{config['metric']}"] for row in self.rows]
        closest = max if config["metric"].endswith(runner.RISING) else min
        best = closest((end for end in ends if end is not None), default=math.nan)
        return (
            f"{config['optimizer']} with batch {config['batch']} meets {config['metric']} {config['target']} with no "
            f"learning rate {rates} ({endings}; the best run came to {best:.4g}): give a target that is easier to "
            f"meet, or more steps with --cap"
        )


def _mean(values):
    return sum(values) / len(values)
