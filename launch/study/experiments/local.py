"""How rarely can workers average their parameters, and is that better than one large batch?

Local SGD: Stich 2019 (arXiv 1805.09767); against mini-batches of the same communication: Woodworth et al. 2020
(arXiv 2002.07839). The workers are virtual: one process takes their steps in turn.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from allgrad.ddp.data import Batch, Sampler, Shard
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.lab import Lab
from allgrad.launch.study.lr_tuning import tune
from allgrad.launch.study.result import Check, Figure, Result, Table
from allgrad.launch.study.workload import Workload

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "momentum"), "seeds": (0, 1, 2), "report_seeds": (100, 101, 102),
        "epochs": {"workers": 8, "each": 8, "every": (1, 4, 16, 32), "budget": "12ep"},
        "rounds": {"workers": 4, "each": 8, "every": (4, 16), "rounds": 20},
        "shards": {"workers": 5, "each": 8, "every": (1, 16, 64), "budget": "12ep"},
    },
    "full": {
        "optimizers": ("sgd", "momentum", "adam"), "seeds": (0, 1, 2), "report_seeds": tuple(range(100, 108)),
        "epochs": {"workers": 8, "each": 8, "every": (1, 2, 4, 8, 16, 32, 64), "budget": "12ep"},
        "rounds": {"workers": 4, "each": 8, "every": (4, 8, 16, 32), "rounds": 20},
        "shards": {"workers": 5, "each": 8, "every": (1, 4, 16, 64), "budget": "12ep"},
    },
}  # fmt: skip


# --- a run -----------------------------------------------------------------------------------------------------------


def execute(config: dict, comm) -> dict:
    """A run of virtual workers over its budget."""
    if comm.size > 1:
        raise ConfigurationError("virtual workers are on one rank: leave --ranks-per-run 1")
    return runner.to_target(Local(config, comm))


class Local(runner.Run):
    """Workers that step by themselves on their slices of the batch, and average their parameters every H steps.

    What the optimizer keeps stays each worker's own. Evaluations see the mean, and change nothing.
    """

    looks_back = False

    def __init__(self, config, comm=None):
        super().__init__({**config, "shards": 1}, comm)
        self.workers, self.every = config["workers"], config["every"]
        self.each = config["batch"] // self.workers
        self.own: list = []
        self.weights = [self.arena.data.copy() for _ in range(self.workers)]
        self.kept = [{name: a.copy() for name, a in self.optimizer.state.items()} for _ in range(self.workers)]

    def load(self):
        data = super().load()
        if not self.config["by_class"]:
            return data
        order = np.argsort(data.train_y, kind="stable")
        return replace(data, train_x=data.train_x[order], train_y=data.train_y[order])

    def step(self):
        """One step of every worker, each with b samples."""
        losses = []
        for w, samples in enumerate(self._samples()):
            self.arena.data[...] = self.weights[w]
            self.arena.bump_versions()
            for name, values in self.optimizer.state.items():
                values[...] = self.kept[w][name]
            shard = Shard(0, samples, self.loader.dataset[samples])
            batch = Batch(self.t, 0, self.each, 1, self.config["seed"] * self.workers + w, [shard])
            losses.append(self.parallel.backward(batch, self.loss))
            if not math.isfinite(losses[-1]):
                return losses[-1]
            self.optimizer.steps = self.t
            self.optimizer.step()
            self.weights[w][...] = self.arena.data
            for name, values in self.optimizer.state.items():
                self.kept[w][name][...] = values
        if (self.t + 1) % self.every == 0:
            mean = self._mean()
            for weights in self.weights:
                weights[...] = mean
        return math.fsum(losses) / len(losses)

    def evaluate(self, part="train"):
        self.arena.data[...] = self._mean()
        self.arena.bump_versions()
        return super().evaluate(part)

    def _mean(self):
        return np.mean(self.weights, axis=0)

    def _samples(self):
        """Those of each worker: a slice of the batch, or of a permutation of its own part of the sorted classes."""
        if not self.config["by_class"]:
            return self.loader.sampler.indices(self.t).reshape(self.workers, self.each)
        n = len(self.data.train_x) // self.workers
        return [w * n + sampler.indices(self.t) for w, sampler in enumerate(self._samplers(n))]

    def _samplers(self, n):
        if not self.own:
            seed = self.config["seed"] * self.workers
            self.own = [Sampler(n, self.each, "epoch", seed + w, "carry") for w in range(self.workers)]
        return self.own


# --- the experiment --------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """Runs of one way to train: `part` of the experiment, how often parameters are averaged, and what came out."""

    part: str
    optimizer: str
    workers: int
    every: int
    batch: int
    lr: float
    rows: list[dict]
    at_edge: bool = False
    trials: int = 0

    def values(self, key):
        """A number of each seed's row; nan where it failed."""
        return [row[key] if row["status"] == "ok" and row.get(key) is not None else math.nan for row in self.rows]


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, seeds=PRESET, report_seeds=PRESET, target=None,
    metric="train_loss", sampler="epoch", lr=None,
) -> Result:  # fmt: skip
    """Three comparisons: equal examples, equal rounds and examples, and workers that have classes of their own.

    lr   rate of the workers in the first and third; if None, the one with which `steps` is fastest at a worker's batch
    """
    grid = GRIDS[preset]
    setting = Setting(lab, work, sampler, seeds, report_seeds)
    least = grid["epochs"]["each"]

    def rate(name):
        return lr or steps.rates(lab, work, preset, name, least, target=target, metric=metric, sampler=sampler)[least]

    rates = dict(zip(optimizers, lab.map(rate, optimizers)))
    jobs = [(setting.epochs, name, rates[name], grid["epochs"]) for name in optimizers]
    jobs.append((setting.rounds, optimizers[0], rates[optimizers[0]], grid["rounds"]))
    data = work.loaded
    if data.classes and data.vocabulary is None:
        jobs.append((setting.shards, optimizers[0], rates[optimizers[0]], grid["shards"]))
    cells = [cell for found in lab.map(lambda job: job[0](*job[1:]), jobs) for cell in found]
    runner.refuse_failed([row for cell in cells for row in cell.rows], "local steps cannot be taken")
    return summarize(work, cells, grid, setting, optimizers)


@dataclass
class Setting:
    """What all cells have in common."""

    lab: Lab
    work: Workload
    sampler: str
    seeds: tuple
    report_seeds: tuple

    def configure(self, name, **given):
        return runner.configuration(
            self.work, name, **{"kind": "local", "sampler": self.sampler, "by_class": False, **given}
        )

    def epochs(self, name, lr, plan):
        """Equal examples: the same epochs, with parameters averaged ever more rarely."""
        return self._cells("epochs", name, lr, plan, (False,))

    def shards(self, name, lr, plan):
        """Workers with parts of all data, and workers with classes of their own."""
        return self._cells("shards", name, lr, plan, (False, True))

    def _cells(self, part, name, lr, plan, kinds):
        keys = [(by_class, every) for by_class in kinds for every in plan["every"]]
        batch = plan["workers"] * plan["each"]
        configs = [
            self.configure(
                name, batch=batch, workers=plan["workers"], every=every, by_class=by_class, steps=plan["budget"],
                eval_ratio=2.0, cap=10**6, lr=lr, seed=seed,
            )
            for by_class, every in keys for seed in self.report_seeds
        ]  # fmt: skip
        rows, n = self.lab.run(configs, "local"), len(self.report_seeds)
        return [
            Cell("by class" if by_class else part, name, plan["workers"], every, batch, lr, rows[i * n : (i + 1) * n])
            for i, (by_class, every) in enumerate(keys)
        ]

    def rounds(self, name, lr, plan):
        """Equal rounds and equal examples: local steps, and as many steps of the batch they would make together."""
        workers, each, rounds = plan["workers"], plan["each"], plan["rounds"]

        def tuned(job):
            every, local = job
            batch = workers * each * (1 if local else every)
            more = {"workers": workers, "every": every, "steps": rounds * every}
            if not local:
                more = {"kind": "steps_to_target", "steps": rounds}
            start = lr if local else lr * math.sqrt(batch / each)
            found = tune(
                self.lab,
                lambda **given: self.configure(name, **{"batch": batch, "eval_ratio": 2.0, **more, **given}),
                start, seeds=self.seeds, report_seeds=self.report_seeds, cap=10**6,
                measure=lambda row: row["final_train_loss"], experiment="local",
            )  # fmt: skip
            part = "rounds" if local else "large batch"
            return Cell(
                part, name, workers, every, batch, found.lr, found.rows, found.at_edge, found.trials
            )  # fmt: skip

        return self.lab.map(tuned, [(every, local) for every in plan["every"] for local in (True, False)])


# --- what the cells say ----------------------------------------------------------------------------------------------


def summarize(work, cells, grid, setting, optimizers) -> Result:
    """Tables, checks, figures and sentences from the cells."""
    cells_of = {
        (part, name): {c.every: c for c in cells if (c.part, c.optimizer) == (part, name)}
        for part, name in dict.fromkeys((c.part, c.optimizer) for c in cells)
    }
    accurate = "final_val_accuracy" in cells[0].rows[0]
    n = len(work.loaded.train_x)
    seeds = len(setting.report_seeds)
    result = Result(
        "local", "How rarely can workers average their parameters, and is that better than one large batch?",
        _headline(cells_of, grid, optimizers, accurate), _checks(work, cells_of, optimizers, accurate, seeds),
        [Table("cells", ["part", "optimizer", "W", "b", "H", "B", "rounds", "lr", "train_loss", "ci_lo", "ci_hi",
                         "val_loss", "val_acc", "n_seeds", "n_fail", "at_edge", "n_trials", "budget", "sampler"],
               [_row(c) for c in cells], "Losses at the end of the budget: geometric means over seeds with 95 % "
               "intervals of the training loss; accuracy: mean.",
               {"part": "epochs: equal examples; rounds and large batch: equal rounds and examples; shards and by "
                        "class: workers with parts of all data, and with classes of their own",
                "H": "steps between averages (1: synchronous; of the large batch: whose examples it takes at once)",
                "rounds": "averages, of parameters or gradients", "budget": "steps of the run",
                "val_acc": "validation accuracy", "train_loss": "final training loss", "val_loss": "validation loss",
                "B": "examples of all workers a step"})],
        _figures(cells_of, grid, optimizers),
    )  # fmt: skip
    a, b = grid["epochs"], grid["rounds"]
    text = (
        f"{work.name}, {n:,} training samples, sampler {setting.sampler}; virtual workers in one process, each with "
        f"parameters and optimizer state of its own; every H steps the parameters become their mean, while the "
        f"optimizer's state, momentum too, stays each worker's own. Equal examples: W = {a['workers']}, b = "
        f"{a['each']}, {a['budget']}; the rate, for any H, is the one with which `study steps` is fastest at B = "
        f"{a['each']}. Equal rounds: W = {b['workers']}, b = {b['each']}, {b['rounds']} averages, against "
        f"{b['rounds']} steps of B = W b H; rates of both tuned on the final training loss, {len(setting.seeds)} seeds,"
        f" factor sqrt 2."
    )
    if ("by class", optimizers[0]) in cells_of:
        c = grid["shards"]
        text += (
            f" By class: W = {c['workers']}, b = {c['each']}, {c['budget']}; the data sorted by label and cut into W "
            f"equal parts."
        )
    result.methods = f"{text} {seeds} fresh seeds, 95 % intervals by {fit.RESAMPLES} resamples of them."
    result.notes = [
        "Optimizer state, such as momentum, stays local and is not averaged.",
        "Rounds are counted, not timed: what one costs depends on the network, see `study project`.",
    ]
    if any(module.running_statistics for module in work.build().modules()):
        result.notes.append("Running statistics of normalisation are shared by the virtual workers.")
    for cell in cells:
        failed = sum(row["status"] != "ok" for row in cell.rows)
        where = f"{cell.part}, {cell.optimizer}, H = {cell.every}"
        if failed:
            result.notes.append(f"{where}: {failed} of {seeds} seeds failed.")
        if cell.at_edge:
            result.notes.append(f"{where}: the best rate is the last one tried.")
    return result


def _row(c):
    config = c.rows[0]["config"]
    loss = [v for v in c.values("final_train_loss") if math.isfinite(v)]
    low, high = fit.mean_interval(loss)
    val = [v for v in c.values("final_val_loss") if math.isfinite(v)]
    accuracy = [v for v in c.values("final_val_accuracy") if math.isfinite(v)]
    taken = max(row["steps"] for row in c.rows)
    return {
        "part": c.part, "optimizer": c.optimizer, "W": c.workers, "b": c.batch // c.workers, "H": c.every,
        "B": c.batch, "rounds": taken if c.part == "large batch" else taken // c.every, "lr": c.lr,
        "train_loss": fit.gmean(loss), "ci_lo": low, "ci_hi": high, "val_loss": fit.gmean(val),
        "val_acc": float(np.mean(accuracy)) if accuracy else None, "n_seeds": len(c.rows),
        "n_fail": sum(row["status"] != "ok" for row in c.rows), "at_edge": c.at_edge, "n_trials": c.trials,
        "budget": config["steps"], "sampler": config["sampler"],
    }  # fmt: skip


def _ratio(first, second, key="final_train_loss") -> tuple[float, float, float]:
    """Geometric means of two cells as a ratio, with its interval over their seeds."""
    return fit.ratio(first.values(key), second.values(key))


def _drop(cell, base) -> tuple[float, float, float]:
    """Accuracy lost against the base with the same seeds, in points, with its interval."""
    lost = [100.0 * (a - b) for a, b in zip(base.values("final_val_accuracy"), cell.values("final_val_accuracy"))]
    return float(np.nanmean(lost)) if np.isfinite(lost).any() else math.nan, *fit.mean_interval(lost, mean=np.mean)


def _checks(work, cells_of, optimizers, accurate, seeds):
    checks = []
    for name in optimizers:
        cells = cells_of["epochs", name]
        base, rare = cells[1], cells[max(every for every in cells if every <= 16)]
        if accurate:
            claim = f"{name}: averaging every {rare.every} steps costs no accuracy (points lost, equal examples)"
            checks.append(Check(claim, *_drop(rare, base), most=1.0, seeds=seeds))
        else:
            claim = f"{name}: averaging every {rare.every} steps costs no validation loss (ratio, equal examples)"
            checks.append(Check(claim, *_ratio(rare, base, "final_val_loss"), most=1.1, seeds=seeds))
    first = optimizers[0]
    for every, cell in cells_of["rounds", first].items():
        claim = f"H = {every}: local steps beat the large batch of equal rounds and examples (ratio of train loss)"
        value = _ratio(cell, cells_of["large batch", first][every])
        checks.append(Check(claim, *value, most=0.5 if work.is_default else 1.0, seeds=seeds))
    if ("by class", first) in cells_of:
        apart, mixed = cells_of["by class", first], cells_of["shards", first]
        last, before = max(apart), sorted(apart)[-2]
        claim = f"workers with classes of their own: rare averages hurt (train loss at H = {last} over H = 1)"
        checks.append(Check(claim, *_ratio(apart[last], apart[1]), 3.0, seeds=seeds))
        claim = f"workers with classes of their own: the more rarely, the more (H = {last} over {before})"
        checks.append(Check(claim, *_ratio(apart[last], apart[before]), 1.0, seeds=seeds))
        claim = f"workers with parts of all data: rare averages do not hurt (train loss at H = {last} over H = 1)"
        checks.append(Check(claim, *_ratio(mixed[last], mixed[1]), most=1.5, seeds=seeds))
    return checks


def _headline(cells_of, grid, optimizers, accurate):
    first = optimizers[0]
    cells = cells_of["epochs", first]
    last = max(cells)
    key = "final_val_accuracy" if accurate else "final_val_loss"
    ends = [float(np.nanmean(cells[every].values(key))) for every in (1, last)]
    said = [f"{first}: {last}x fewer rounds at equal examples change validation {key.split('_')[2]} from "
            f"{ends[0]:.3f} to {ends[1]:.3f}."]  # fmt: skip
    every = max(cells_of["rounds", first])
    losses = [fit.gmean(cells_of[part, first][every].values("final_train_loss")) for part in ("rounds", "large batch")]
    said.append(
        f"In {grid['rounds']['rounds']} rounds of {every} local steps the train loss comes to {losses[0]:.2g}, with "
        f"the large batch of equal cost to {losses[1]:.2g}."
    )
    if ("by class", first) in cells_of:
        last = max(cells_of["by class", first])
        apart, mixed = (
            _ratio(cells_of[part, first][last], cells_of[part, first][1])[0] for part in ("by class", "shards")
        )
        said.append(
            f"If every worker has classes of its own, averaging every {last} steps multiplies the loss by {apart:.1f} "
            f"(with parts of all data by {mixed:.2f})."
        )
    return " ".join(said)


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(cells_of, grid, optimizers):
    first = optimizers[0]
    found = [
        Figure("cells", "Final training loss against rounds of communication, at equal examples: each point is a "
               "number of local steps H between averages, with 95 % intervals over seeds.",
               lambda: _draw_epochs({name: cells_of["epochs", name] for name in optimizers})),
        Figure("rounds", "Equal rounds and equal examples: local steps against one large batch, both at their best "
               "rate. Final training loss with 95 % intervals over seeds.",
               lambda: _draw({"local steps": cells_of["rounds", first], "large batch": cells_of["large batch", first]},
                             f"training loss after {grid['rounds']['rounds']} rounds")),
    ]  # fmt: skip
    if ("by class", first) in cells_of:
        found.append(
            Figure("shards", "Workers that have classes of their own, and workers with parts of all data: final "
                   "training loss against the steps between averages, with 95 % intervals over seeds.",
                   lambda: _draw({"classes of their own": cells_of["by class", first],
                                  "all data": cells_of["shards", first]}, "final training loss"))
        )  # fmt: skip
    return found


def _losses(cells):
    rows = [_row(cell) for cell in cells]
    return [[row[key] for row in rows] for key in ("train_loss", "ci_lo", "ci_hi")]


def _draw_epochs(cells_of):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, (name, cells) in enumerate(cells_of.items()):
        rounds = [_row(cell)["rounds"] for cell in cells.values()]
        figures.points_with_interval(axes, rounds, *_losses(cells.values()), i=i, label=name, join=True)
        for every, x in zip(cells, rounds):
            if not i:
                place = {"xytext": (4, 4), "textcoords": "offset points"}
                y = _row(cells[every])["train_loss"]
                if math.isfinite(y):
                    axes.annotate(f"H = {every}", (x, y), color=figures.GREY, fontsize=figures.SMALL - 0.5, **place)
    axes.set(xlabel="rounds of communication", ylabel="final training loss")
    axes.margins(y=0.2)
    figures.legend(figure, 3)
    return figure


def _draw(cells_of, label):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, (name, cells) in enumerate(cells_of.items()):
        figures.points_with_interval(axes, [*cells], *_losses(cells.values()), i=i, label=name, join=True)
    axes.set(xlabel="steps between averages H", ylabel=label)
    for i, cells in enumerate(cells_of.values()):
        figures.failed(axes, [e for e, c in cells.items() if any(r["status"] != "ok" for r in c.rows)], i=i)
    figures.legend(figure, 2)
    return figure
