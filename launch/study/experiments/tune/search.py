"""Which hyper-parameters are best under an equal budget, how sure is that, and how much does each of them matter?

Search by grid, at random, quasi-random, or by successive halving: see `designs`.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch import models
from allgrad.launch.options import length
from allgrad.launch.study import runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments.tune import designs
from allgrad.launch.study.experiments.tune.designs import Dimension
from allgrad.launch.study.experiments.tune.findings import summarize
from allgrad.launch.study.result import Result

SPACE = {
    "lr": "log:1e-3..1", "batch": "16,32,64,128", "depth": "1,2,3", "width": "log:16..256",
    "activation": "relu,tanh,gelu", "optimizer": "sgd,momentum,adam", "weight_decay": "log:1e-6..1e-2",
}  # fmt: skip
GRIDS = {
    "quick": {"space": SPACE, "trials": 96, "steps": "10ep", "seeds": (0,), "report_seeds": tuple(range(100, 105))},
    "full": {
        "space": {
            **SPACE, "lr": "log:1e-4..2", "batch": "log:8..512", "depth": "1,2,3,4", "width": "log:16..512",
            "optimizer": "sgd,momentum,nesterov,adam,rmsprop", "dropout": "0..0.5", "init": "kaiming,xavier,gaussian",
            "schedule": "constant,linear,cosine", "warmup": "0,1ep",
        },
        "trials": 512, "steps": "30ep", "seeds": (0,), "report_seeds": tuple(range(100, 110)),
    },
}  # fmt: skip
OF_A_GRID = "lr", "batch", "optimizer"  # all that a grid by default has room for
SMALLEST = 27  # successive halving begins with at least this part of the budget
CAP = 10**9  # a trial ends with its budget
PLACES = "winner", "second", "third", "fourth", "fifth", "sixth"  # of the search, which are run on fresh seeds
WORDS = {"accuracy": "error", "r2": "1 - R2"}  # what is the smaller the better, of metrics that rise
SPARSE = 2.0  # factor between evaluations, which only look whether a trial has diverged
WITH_MOMENTUM = "sgd", "momentum", "nesterov", "rmsprop", "lars"
OF_THE_RUN = "lr", "batch", "momentum", "weight_decay", "l1", "schedule", "warmup"
SHAPE = "depth", "width", "activation"
SHAPED = {"mlp": SHAPE, "lstm": ("depth", "width"), "transformer": ("depth", "width")}


@experiment(GRIDS, as_given=("optimizers", "batches", "momentum", "weight_decay", "schedule"))
def run(
    lab, work, preset="quick", *, space=None, search="quasi", trials=None, steps=None, metric="val_loss", eta=None,
    search_seed=None, optimizers=None, batches=None, momentum=None, weight_decay=None, schedule=None, sampler="epoch",
    seeds=PRESET, report_seeds=PRESET,
) -> Result:  # fmt: skip
    """The experiment. What is not given is the preset's.

    space       {name: specification} or words "name=specification", see `designs.parse`
    steps       budget of each trial: steps, "10ep" or "20000samples"
    seeds       those that a trial is scored on, by their mean; report_seeds: fresh ones for the best trials
    optimizers, batches, momentum, weight_decay, schedule: one value or several, as if given in the space
    """
    grid = GRIDS[preset]
    if eta is not None and search != "halving":
        raise ConfigurationError(f"--eta has no effect on --search {search}: leave it out, or give --search halving")
    if search_seed is not None and search == "grid":
        raise ConfigurationError("--search-seed has no effect on --search grid, which draws nothing: leave it out")
    if search_seed is not None and search_seed < 0:
        raise ConfigurationError(f"--search-seed is at least 0, got {search_seed}")
    eta = 3 if eta is None else eta
    more = {"optimizer": optimizers, "batch": batches, "momentum": momentum, "weight_decay": weight_decay,
            "schedule": schedule}  # fmt: skip
    found = _space(work, grid["space"], search, space, {name: v for name, v in more.items() if v is not None})
    budget = _budget(grid["steps"] if steps is None else steps)
    trials = trials or (2 * SMALLEST * eta if search == "halving" and preset == "quick" else grid["trials"])
    setting = Setting(lab, work, found, search, budget, metric, sampler, seeds)
    tried = setting.tried(designs.design(found, search, trials, search_seed or 0))
    smallest = min(SMALLEST, budget) if isinstance(budget, int) else SMALLEST
    levels = designs.rungs(len(tried), eta, smallest) if search == "halving" else [designs.Rung(len(tried), 1)]
    scores = designs.halving(levels, range(len(tried)), lambda ids, level: setting.score(tried, ids, level))
    if not any(math.isfinite(value) for value in scores[0].values()):
        raise ConfigurationError(_complaint(tried))
    ranking = setting.confirm(tried, report_seeds)
    middle = designs.promoted(scores[0], len(scores[0]))
    middle = sorted(middle, key=lambda k: (scores[0][k], k))[len(middle) // 2]
    finalists = dict(zip(PLACES, ranking)) | ({"median": middle} if middle != ranking[0] else {})
    lab.map(lambda k: setting.again(tried[k], report_seeds), list(dict.fromkeys(finalists.values())))
    return summarize(setting, tried, levels, scores, finalists, report_seeds, eta)


@dataclass
class Trial:
    """A value of each hyper-parameter that applies; its rows by level, with more seeds, and of the fresh seeds."""

    values: dict[str, Any]
    rows: list[list[dict]] = field(default_factory=list)
    confirmed: list[dict] = field(default_factory=list)
    fresh: list[dict] = field(default_factory=list)

    @property
    def last(self) -> list[dict]:
        return self.confirmed or self.rows[-1]

    @property
    def failed(self) -> list[dict]:
        return [row for row in self.last if row["status"] != "ok"]


@dataclass
class Setting:
    """What all trials have in common; positive: whether all scores are above 0, so that their ratios mean something."""

    lab: Any
    work: Any
    space: dict[str, Dimension]
    search: str
    budget: int | str
    metric: str
    sampler: str
    seeds: tuple[int, ...]
    positive: bool = True

    def configure(self, values, seed, divisor=1) -> dict:
        """The configuration of a run of a trial with a part of the budget."""
        given = {key: values[key] for key in OF_THE_RUN if key in values}
        of_work: dict[str, Any] = {key: values[key] for key in ("dropout", "init") if key in values}
        work = replace(self.work, model=shaped(self.work.model, values), **of_work)
        steps, optimizer = designs.part(self.budget, divisor), values.get("optimizer", "sgd")
        given |= {"metric": self.metric, "sampler": self.sampler, "seed": seed}
        return runner.configuration(work, optimizer, steps=steps, cap=CAP, eval_ratio=SPARSE, **given)

    def tried(self, design) -> list[Trial]:
        """The trials of a design: without what does not apply, and each configuration once."""
        found = {}
        for values in design:
            applies = values.get("optimizer", "sgd") in WITH_MOMENTUM
            values = {name: v for name, v in values.items() if name != "momentum" or applies}
            found.setdefault(str(sorted(self.configure(values, 0).items())), Trial(values))
        return list(found.values())

    def score(self, tried, ids, level) -> dict[int, float]:
        """Run trials with the budget of a level: the mean of the metric over the seeds, inf if one of them failed."""
        configs = [self.configure(tried[k].values, seed, level.divisor) for k in ids for seed in self.seeds]
        rows, n = self.lab.run(configs, "tune"), len(self.seeds)
        for i, k in enumerate(ids):
            tried[k].rows.append(rows[i * n : (i + 1) * n])
        return {k: self.mean(tried[k].last) for k in ids}

    def again(self, trial, seeds):
        """Run a trial with the whole budget on fresh seeds."""
        trial.fresh = self.lab.run([self.configure(trial.values, seed) for seed in seeds], "tune")

    def value(self, row) -> float:
        """A row's metric, an accuracy or R2 as what is left to 1 (half a sample's at least); inf if it failed."""
        value = row[f"final_{self.metric}"] if row["status"] == "ok" else None
        if value is None:
            return math.inf
        if not self.rising:
            return value
        part = self.work.loaded.train_x if self.metric.startswith("train") else self.work.loaded.val_x
        return max(1.0 - value, 0.5 / min(len(part), row["config"]["eval_samples"]))

    def mean(self, rows) -> float:
        """The mean over seeds."""
        return sum(map(self.value, rows)) / len(rows)

    @property
    def rising(self) -> bool:
        return self.metric.endswith(runner.RISING)

    @property
    def measured(self) -> str:
        """The metric in words: what is the smaller the better."""
        part, name = self.metric.split("_")
        return f"{part} {WORDS.get(name, name)}"

    @property
    def compared(self) -> str:
        """What trials are compared by, in words: the logarithm of the metric, or itself if a trial's is not above 0."""
        return f"ln({self.measured})" if self.positive else self.measured

    def back(self, compared: float) -> float:
        """The metric of what is compared."""
        return math.exp(compared) if self.positive else compared

    def rank(self, tried) -> list[int]:
        """The trials that succeeded, the best first: those confirmed, those that got farthest, by score and number."""
        good = [k for k, trial in enumerate(tried) if math.isfinite(self.mean(trial.last))]
        reached = {k: math.inf if tried[k].confirmed else len(tried[k].rows) for k in good}
        return sorted(good, key=lambda k: (-reached[k], self.mean(tried[k].last), k))

    def confirm(self, tried, fresh) -> list[int]:
        """Run the best trials with more seeds, none of those kept fresh, and the whole budget: so that it is not one
        seed's luck who wins."""
        more = list(islice((s for s in count(max(self.seeds) + 1) if s not in fresh), designs.MORE_SEEDS))
        best = self.rank(tried)[: designs.BEST]
        rows = self.lab.run([self.configure(tried[k].values, s) for k in best for s in (*self.seeds, *more)], "tune")
        n = len(self.seeds) + len(more)
        for i, k in enumerate(best):
            tried[k].confirmed = rows[i * n : (i + 1) * n]
        if not (ranking := self.rank(tried)):
            raise ConfigurationError(_complaint(tried))
        return ranking

    @property
    def equal(self) -> str:
        """What the budget holds equal, in words."""
        if isinstance(self.budget, int):
            return f"{self.budget:,} steps each: equal steps, so that a large batch sees more examples"
        amount = self.budget.removesuffix("ep").removesuffix("samples")
        words = f"{amount} epoch{'s' * (amount != '1')}" if self.budget.endswith("ep") else f"{int(amount):,} examples"
        return f"{words} each: equal examples, so that a large batch takes fewer steps"


def shaped(model: Any, values) -> Any:
    """The model of a trial: its own, or the study's with another depth, width or activation."""
    model = values.get("model", model)
    shape = {name: values[name] for name in SHAPE if name in values}
    if not shape:
        return model
    kind, _, rest = model.partition(":")
    rest, _, activation = rest.partition(":")
    given = [int(size) for size in rest.split(",")] if rest else []
    sizes = [*given, *(models.FAMILIES[kind].sizes or ())[len(given) :]]
    depth = shape.get("depth", len(sizes) if kind == "mlp" else sizes[-1])
    width = shape.get("width", sizes[0])
    if kind == "mlp":
        sizes = sizes if shape.keys() == {"activation"} else [width] * depth
    else:
        sizes = [width, *sizes[1:-1], depth]
    activation = shape.get("activation", activation)
    return f"{kind}:{','.join(map(str, sizes))}" + (f":{activation}" if activation not in ("", "relu") else "")


def _space(work, default, search, given, more):
    """The dimensions of a search: those given, or of the preset's those that have an effect on the model."""
    space = designs.spaces(given) if given else {}
    if twice := space.keys() & more.keys():
        raise ConfigurationError(f"--space {min(twice)} and --{min(twice).replace('_', '-')} say the same: give one")
    named = space["model"].choices if "model" in space else (work.model,)
    if not given:
        default = {name: default[name] for name in OF_A_GRID} if search == "grid" else default
        default = {name: spec for name, spec in default.items() if not _missing(name, named)}
        space = designs.spaces(default)
    space |= designs.spaces(more)
    for name in space:
        if name in SHAPE and "model" in space:
            raise ConfigurationError(f"--space model and --space {name} both say what the model is: give one of them")
        if model := _missing(name, named):
            raise ConfigurationError(f"--space {name} has no effect on {model}: leave it out, or give another --model")
    hidden = {*work.model.split(":")[1].split(",")} if str(work.model).startswith("mlp:") else ()
    if "depth" in space and "width" not in space and len(hidden) > 1:
        raise ConfigurationError(
            f"--space depth: the layers of {work.model} differ in width: give --space width as well"
        )
    optimizers = space["optimizer"].choices if "optimizer" in space else ("sgd",)
    for name in optimizers:
        runner.configuration(work, name, steps=1)
    if "momentum" in space and not {*optimizers} & {*WITH_MOMENTUM}:
        raise ConfigurationError(f"--space momentum has no effect on {', '.join(optimizers)}: leave it out")
    if "momentum" in space and {"sgd", "momentum"} <= {*optimizers}:
        raise ConfigurationError("--space momentum makes sgd and momentum the same optimizer: leave one of them out")
    return space


def _missing(name, named):
    """The first model on which a hyper-parameter has no effect; None if there is none."""
    for model in named:
        kind = model.partition(":")[0] if isinstance(model, str) else ""
        family = models.family_of(model) if isinstance(model, str) else None
        options = {*(family.options if family else ()), *SHAPED.get(kind, ())}
        if name in (*SHAPE, "init", "dropout") and name not in options:
            return model if isinstance(model, str) else model.__qualname__
    return None


def _budget(steps):
    try:
        found = length(steps)
        amount = float(re.sub("[a-z]+$", "", str(found)))
    except ValueError:
        amount = 0
    if not amount:
        raise ConfigurationError(f"--steps {steps} is no budget: give steps, epochs as 10ep, or 20000samples")
    return found


def _complaint(tried):
    rows = [row for trial in tried for row in trial.failed]
    endings = ", ".join(f"{n} {status}" for status, n in sorted(Counter(row["status"] for row in rows).items()))
    errors = [row["error"] for row in rows if row["status"] == "error"]
    why = f": {errors[0]}" if errors else ": give smaller learning rates"
    return f"all {len(tried)} trials failed ({endings}){why}"
