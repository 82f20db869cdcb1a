"""How rarely can workers average their parameters, and is that better than one large batch?

Local SGD: Stich 2019 (arXiv 1805.09767); against mini-batches of the same communication: Woodworth et al. 2020
(arXiv 2002.07839). The workers are virtual: one process takes their steps in turn.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from allgrad.ddp.data import Batch, Sampler, Shard
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.intervals import mean, paired
from allgrad.launch.study.lab import Lab
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, tune
from allgrad.launch.study.result import Claim, Figure, Result, Table
from allgrad.launch.study.wording import MARGIN, compared, with_interval
from allgrad.launch.study.workload import Workload

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "momentum"), "seeds": (0, 1, 2), "report_seeds": REPORT_SEEDS,
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
        if not self.optimizer.takes_local_steps:
            raise ConfigurationError(
                f"local steps average the parameters, and {config['optimizer']} keeps more that belongs to them: give "
                f"another optimizer"
            )
        self.workers, self.every = config["workers"], config["every"]
        self.each = config["batch"] // self.workers
        self.own: list = []
        self.apart = [self.arena.data.copy() for _ in range(self.workers)]
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
            self.arena.data[...] = self.apart[w]
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
            self.apart[w][...] = self.arena.data
            for name, values in self.optimizer.state.items():
                self.kept[w][name][...] = values
        if (self.t + 1) % self.every == 0:
            mean = self._mean()
            for weights in self.apart:
                weights[...] = mean
        return math.fsum(losses) / len(losses)

    def evaluate(self, part="train"):
        self.arena.data[...] = self._mean()
        self.arena.bump_versions()
        return super().evaluate(part)

    def _mean(self):
        return np.mean(self.apart, axis=0)

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
    """Tables, claims, figures and sentences from the cells."""
    cells_of = {
        (part, name): {c.every: c for c in cells if (c.part, c.optimizer) == (part, name)}
        for part, name in dict.fromkeys((c.part, c.optimizer) for c in cells)
    }
    accurate, n, first = "final_val_accuracy" in cells[0].rows[0], len(setting.report_seeds), optimizers[0]
    rows = [_row(c) for c in cells]
    summary = [_summary_row(c, cells_of["epochs", c.optimizer][1], accurate) for c in cells if c.part == "epochs"]
    lost = "points_lost" if accurate else "val_over"
    result = Result(
        "local", "How rarely can workers average their parameters, and is that better than one large batch?",
        _headline(cells_of, grid, first, accurate), _claims(cells_of, first, accurate),
        [Table("cells", ["part", "optimizer", "W", "b", "H", "B", "rounds", "lr", "train_loss", "ci_lo", "ci_hi",
                         "val_loss", "val_loss_lo", "val_loss_hi", "val_acc", "val_acc_lo", "val_acc_hi", "n_seeds",
                         "n_fail", "at_edge", "n_trials", "budget", "sampler"], rows,
               "Losses at the end of the budget, geometric means over seeds, and accuracies, means, with 95 % "
               "intervals; none where a seed failed.",
               {"part": "epochs: equal examples; rounds and large batch: equal rounds and examples; shards and by "
                        "class: workers with parts of all data, and with classes of their own",
                "H": "steps between averages (1: synchronous; of the large batch: whose examples it takes at once)",
                "rounds": "averages, of parameters or gradients", "budget": "steps of the run",
                "val_acc": "validation accuracy", "train_loss": "final training loss", "val_loss": "validation loss",
                "B": "examples of all workers a step"})],
        _figures(cells_of, grid, optimizers, n),
        Table("summary", ["optimizer", "H", "rounds", lost, f"{lost}_lo", f"{lost}_hi", "loss_over", "loss_over_lo",
                          "loss_over_hi"], summary, "At equal examples.",
              {"H": "steps between averages", "rounds": "averages of the parameters",
               "points_lost": "validation accuracy lost against H = 1, in points",
               "val_over": "validation loss over that of H = 1", "loss_over": "training loss over that of H = 1"}),
        _findings(cells_of, grid, optimizers, accurate),
    )  # fmt: skip
    result.methods = _methods(work, cells_of, grid, setting, first)
    result.advice = " ".join(_advice(name, cells_of["epochs", name], accurate) for name in optimizers)
    result.notes = [
        "Optimizer state, such as momentum, stays local and is not averaged.",
        "Rounds are counted, not timed: what one costs depends on the network, see `study project`.",
    ]
    if accurate:
        result.notes.append(
            f"Accuracies are of {len(work.loaded.val_x):,} validation samples, in steps of "
            f"{100.0 / len(work.loaded.val_x):.2g} points; their intervals are over seeds, not over other samples."
        )
    if any(module.running_statistics for module in work.build().modules()):
        result.notes.append("Running statistics of normalisation are shared by the virtual workers.")
    for cell in cells:
        failed = sum(row["status"] != "ok" for row in cell.rows)
        where = f"{cell.part}, {cell.optimizer}, H = {cell.every}"
        if failed:
            result.notes.append(f"{where}: {failed} of {n} seeds failed, and the others decide nothing.")
        if cell.at_edge:
            result.notes.append(f"{where}: the best rate is the last one tried.")
    return result


def _methods(work, cells_of, grid, setting, first):
    a, b = grid["epochs"], grid["rounds"]
    text = (
        f"{work.name}, {len(work.loaded.train_x):,} training samples, sampler {setting.sampler}; virtual workers in "
        f"one process, each with parameters and optimizer state of its own; every H steps the parameters become their "
        f"mean, while the optimizer's state, momentum too, stays each worker's own. Equal examples: W = "
        f"{a['workers']}, b = {a['each']}, {a['budget']}; the rate, for any H, is the one with which `study steps` is "
        f"fastest at B = {a['each']}. Equal rounds: W = {b['workers']}, b = {b['each']}, {b['rounds']} averages, "
        f"against {b['rounds']} steps of B = W b H; both rates tuned on the final loss, {len(setting.seeds)} seeds."
    )
    if ("by class", first) in cells_of:
        c = grid["shards"]
        text += (
            f" By class: W = {c['workers']}, b = {c['each']}, {c['budget']}; data sorted by label, in W equal parts."
        )
    return (
        f"{text} {len(setting.report_seeds)} fresh seeds; 95 % intervals by Student's t over seeds, of logarithms but "
        f"for accuracies; ways to train are compared seed by seed."
    )


def _row(c):
    loss, val = mean(c.values("final_train_loss")), mean(c.values("final_val_loss"))
    accuracy = mean(c.values("final_val_accuracy"), log=False)
    taken = max(row["steps"] for row in c.rows)
    return {
        "part": c.part, "optimizer": c.optimizer, "W": c.workers, "b": c.batch // c.workers, "H": c.every,
        "B": c.batch, "rounds": taken if c.part == "large batch" else taken // c.every, "lr": c.lr,
        "train_loss": loss.value, "ci_lo": loss.low, "ci_hi": loss.high, "val_loss": val.value,
        "val_loss_lo": val.low, "val_loss_hi": val.high, "val_acc": accuracy.value, "val_acc_lo": accuracy.low,
        "val_acc_hi": accuracy.high, "n_seeds": len(c.rows), "n_fail": sum(row["status"] != "ok" for row in c.rows),
        "at_edge": c.at_edge, "n_trials": c.trials, "budget": c.rows[0]["config"]["steps"],
        "sampler": c.rows[0]["config"]["sampler"],
    }  # fmt: skip


def _summary_row(c, base, accurate):
    row, loss, lost = _row(c), _over(c, base), _lost(c, base, accurate)
    name = "points_lost" if accurate else "val_over"
    return {
        "optimizer": c.optimizer, "H": c.every, "rounds": row["rounds"], name: lost.value, f"{name}_lo": lost.low,
        f"{name}_hi": lost.high, "loss_over": loss.value, "loss_over_lo": loss.low, "loss_over_hi": loss.high,
    }  # fmt: skip


def _over(first, second, key="final_train_loss"):
    """What one cell ends with over what the other does, seed by seed."""
    return paired(first.values(key), second.values(key))


def _lost(cell, base, accurate=True):
    """Points of validation accuracy lost against the base, seed by seed; without accuracies the ratio of losses."""
    if not accurate:
        return _over(cell, base, "final_val_loss")
    before, after = ([100.0 * v for v in c.values("final_val_accuracy")] for c in (base, cell))
    lost = paired(before, after, log=False)
    return replace(lost, value=round(lost.value, 9))  # nothing lost is 0, and not what is left of a sum of floats


def _lost_in_words(cell, base, accurate):
    lost = _lost(cell, base, accurate)
    if not lost.known:
        return f"validation not compared ({lost.why})"
    if not accurate:
        return f"validation loss {compared(lost, 'higher', 'lower')}"
    return f"{with_interval(lost, 2)} points of validation accuracy lost" + ", not told apart" * (
        lost.low <= 0.0 <= lost.high)  # fmt: skip


def _claims(cells_of, first, accurate):
    if ("by class", first) not in cells_of or not accurate:
        return []
    apart, mixed = cells_of["by class", first], cells_of["shards", first]
    last = max(apart)
    return [
        Claim(f"workers with classes of their own lose accuracy when parameters are averaged every {last} steps "
              "(points lost against workers with parts of all data)",
              "Zhao et al. 2018, Federated Learning with Non-IID Data (1806.00582), abstract",
              "'the accuracy of federated learning reduces significantly': above 0", [_lost(apart[last], mixed[last])],
              least=0.0),
    ]  # fmt: skip


def _headline(cells_of, grid, first, accurate):
    cells = cells_of["epochs", first]
    last = max(cells)
    said = [
        f"{first}: averages every {last} steps in place of every step, at equal examples: "
        f"{_lost_in_words(cells[last], cells[1], accurate)}; training loss "
        f"{compared(_over(cells[last], cells[1]), 'higher', 'lower')}."
    ]
    every = max(cells_of["rounds", first])
    over = _over(cells_of["rounds", first][every], cells_of["large batch", first][every])
    said.append(
        f"In {grid['rounds']['rounds']} rounds of {every} local steps the training loss, over that with the large "
        f"batch of equal cost, is {with_interval(over)}."
    )
    if ("by class", first) in cells_of:
        apart, mixed = cells_of["by class", first], cells_of["shards", first]
        last = max(apart)
        said.append(
            f"Averages every {last} steps in place of every step: training loss "
            f"{compared(_over(apart[last], apart[1]), 'higher', 'lower')} if every worker has classes of its own, "
            f"{compared(_over(mixed[last], mixed[1]), 'higher', 'lower')} with parts of all data."
        )
    return " ".join(said)


def _findings(cells_of, grid, optimizers, accurate):
    found = []
    for name in optimizers:
        cells = cells_of["epochs", name]
        for every in sorted(cells)[1:]:
            found.append(f"{name}, every {every} steps, equal examples: "
                         f"{_lost_in_words(cells[every], cells[1], accurate)}.")  # fmt: skip
    first = optimizers[0]
    for every, cell in sorted(cells_of["rounds", first].items()):
        over = _over(cell, cells_of["large batch", first][every])
        found.append(
            f"{first}, {grid['rounds']['rounds']} rounds of {every} local steps: training loss over that of one large "
            f"batch of equal cost {with_interval(over)}. Woodworth et al. 2020 prove that local steps win on "
            f"quadratics, and that they need not on other convex losses."
        )
    if ("by class", first) in cells_of:
        for part, words in (("by class", "classes of their own"), ("shards", "parts of all data")):
            cells = cells_of[part, first]
            over = ", ".join(
                f"{with_interval(_over(cells[every], cells[1]))} at every {every}" for every in sorted(cells)[1:]
            )
            found.append(f"Workers with {words}: training loss over that of averages at every step: {over}.")
    return found


def _advice(name, cells, accurate):
    """The rarest averages that are shown to cost little, all more frequent ones being so too."""
    most, limit, rare = "a point of validation accuracy" if accurate else "5 % of validation loss", 1.0, 1
    if not accurate:
        limit = 1.0 + MARGIN
    for every in sorted(cells)[1:]:
        if not _lost(cells[every], cells[1], accurate).high <= limit:
            break
        rare = every
    if rare == 1:
        return f"{name}: average at every step: rarer averages are not shown to cost at most {most}."
    return (
        f"{name}: average every {rare} steps: at equal examples that costs at most {most}"
        + "." * (rare == max(cells))
        + ", which is not shown of rarer averages that were tried." * (rare < max(cells))
    )  # fmt: skip


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(cells_of, grid, optimizers, n):
    first, bars = optimizers[0], f"geometric means over {n} seeds with 95 % intervals"
    found = [
        Figure("cells", "Final training loss against rounds of communication, at equal examples: each point is a "
               f"number of local steps H between averages; {bars}.",
               lambda: _draw_epochs({name: cells_of["epochs", name] for name in optimizers})),
        Figure("rounds", "Equal rounds and equal examples: local steps against one large batch, both at their best "
               f"rate: final training loss, {bars}.",
               lambda: _draw({"local steps": cells_of["rounds", first], "large batch": cells_of["large batch", first]},
                             f"training loss after {grid['rounds']['rounds']} rounds")),
    ]  # fmt: skip
    if ("by class", first) in cells_of:
        found.append(
            Figure("shards", "Workers that have classes of their own, and workers with parts of all data: final "
                   f"training loss against the steps between averages, {bars}.",
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
