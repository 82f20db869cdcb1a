"""What does the order of the samples cost? A new permutation each epoch, one for all, with replacement, none, a bug.

Where the loss is convex the floor that SGD reaches shows it (Guerbuezbalaban, Ozdaglar and Parrilo 2021, arXiv
1510.08560, for quadratics): a softmax regression with an L2 penalty and noisy labels is trained at a constant rate.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from allgrad.ddp.data import Batch, Shard
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import Frozen, mean
from allgrad.launch.study import figures, fit, runner, workload
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.lr_tuning import NothingWorks, first_rate, tune
from allgrad.launch.study.result import Check, Figure, Result, Table
from allgrad.launch.study.workload import Workload

GRIDS = {
    "quick": {"rates": (0.02, 0.05, 0.2), "epochs": 40, "seeds": (0, 1, 2), "report_seeds": tuple(range(100, 108))},
    "full": {
        "rates": (0.02, 0.05, 0.1, 0.2), "epochs": 40, "seeds": (0, 1, 2, 3), "report_seeds": tuple(range(100, 116)),
    },
}  # fmt: skip
FLOOR_SEEDS = 3  # of the quick floors, which scatter little
BATCH, WORKERS, L2, NOISE, LAST = 16, 4, 0.01, 0.2, 10
BUG_RATE = 0.05
ARMS = {  # label: (sampler, what B is divided by, how often each sample is in a batch)
    "epoch": ("epoch", 1, 1),
    "once": ("once", 1, 1),
    "iid": ("iid", 1, 1),
    "never": ("never", 1, 1),
    "same_perm_per_rank": ("epoch", WORKERS, WORKERS),
    "small": ("epoch", WORKERS, 1),
}


# --- a run -----------------------------------------------------------------------------------------------------------


def execute(config: dict, comm) -> dict:
    """A run over its budget, with the objective at the ends of its last epochs; or the least value there is."""
    run = Shuffled(config, comm)
    if config["minimum"]:
        return run.minimum()
    n = len(run.data.train_x)
    ends = [math.ceil(epoch * n / BATCH) for epoch in range(1, config["epochs"] + 1)]
    found, (initial, _), loss = [], run.start, 0.0
    for end in ends:
        while run.t < end and math.isfinite(loss):
            loss = run.step()
            run.t += 1
        value = run.objective() if math.isfinite(loss) else math.nan
        if run.diverged(value):
            return {"status": "diverged", "objective": None, "steps": run.t}
        found.append(value)
    return {"status": "ok", "objective": found[-LAST:], "steps": run.t, "initial_train_loss": initial}


class Shuffled(runner.Run):
    """A run with an L2 penalty in its objective; the data in the order of the labels where nothing shuffles them."""

    def load(self):
        data = super().load()
        if self.config["sampler"] != "never":
            return data
        order = np.argsort(data.train_y.reshape(len(data.train_y), -1)[:, 0], kind="stable")
        return replace(data, train_x=data.train_x[order], train_y=data.train_y[order])

    def step(self):
        """A step; with copies, every rank has the same samples, as if all had drawn with the same seed."""
        if (copies := self.config["copies"]) == 1:
            return super().step()
        samples = np.tile(self.loader.sampler.indices(self.t), copies)
        shard = Shard(0, samples, self.loader.dataset[samples])
        batch = Batch(self.t, 0, len(samples), 1, self.config["seed"], [shard])
        loss = self.parallel.backward(batch, self.loss)
        if math.isfinite(loss):
            self.optimizer.step()
        return loss

    def objective(self):
        """The mean loss of the training samples, and the penalty."""
        w = np.asarray(self.arena.data, np.float64)
        return self.evaluate()["loss"] + self.config["weight_decay"] / 2.0 * float(w @ w)

    def minimum(self):
        """The least value of the objective, by L-BFGS in float64."""
        frozen = Frozen(self.snapshot(), None, *self.parts["train"])
        loss, _ = workload.objective(self.config, frozen.model, self.data)
        penalty = self.config["weight_decay"]

        def at(w):
            frozen.arena.data[...] = w
            frozen.arena.bump_versions()
            frozen.arena.zero_grad()
            value, _ = mean(loss(*(arrays := frozen.samples())), len(arrays[0]))
            value.backward()
            frozen.arena.zero_missing_grads()
            return value.item() + penalty / 2.0 * float(w @ w), frozen.arena.grad + penalty * w

        options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-9}
        found = minimize(at, frozen.weights, jac=True, method="L-BFGS-B", options=options)
        return {"status": "ok", "minimum": float(found.fun), "slope": float(np.linalg.norm(found.jac))}


# --- the experiment --------------------------------------------------------------------------------------------------


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=("sgd",), seeds=PRESET, report_seeds=PRESET, target=None,
    metric="train_loss", cap=6000,
) -> Result:  # fmt: skip
    """Floors of a convex problem in each order, and steps to the target of the workload's own model."""
    grid = GRIDS[preset]
    data = work.loaded
    if data.vocabulary is not None:
        raise ConfigurationError(f"shuffle needs samples with one label or value each, and {data.name} is a text")
    convex: Workload = replace(
        work, model="softmax", label_noise=NOISE if data.classes else 0.0, objective=None, dropout=0.0, init="kaiming",
        shards=1, eval_samples=max(work.config()["eval_samples"], len(data.train_x)),  # the minimum is of all of them
    )  # fmt: skip
    floor_seeds = report_seeds[:FLOOR_SEEDS] if preset == "quick" else report_seeds
    known = target is not None or work.is_default
    parts: list = [lambda: _floors(lab, convex, grid, floor_seeds)]
    if known:
        goal = {"target": target or steps.TARGETS.get(metric), "metric": metric}
        parts.append(lambda: _steps(lab, work, optimizers[0], goal, seeds, report_seeds, cap))
    floors, *rest = lab.map(lambda part: part(), parts)
    return summarize(work, convex, floors, rest[0] if rest else {}, grid, floor_seeds, seeds, optimizers[0])


def _floors(lab, work, grid, seeds):
    """({(arm, rate): excess losses of the seeds}, the least loss there is)."""
    keys = [(arm, rate) for arm, (_, smaller, _) in ARMS.items() for rate in grid["rates"]
            if smaller == 1 or rate == BUG_RATE]  # fmt: skip

    def configure(arm, rate, seed, minimum=False):
        sampler, smaller, copies = ARMS[arm]
        return runner.configuration(
            work, "sgd", kind="shuffle", batch=BATCH // smaller, copies=copies, sampler=sampler,
            lr=rate, weight_decay=L2, epochs=grid["epochs"], steps=1, minimum=minimum,
            seed=seed + 1000 * (arm == "small"),  # which would otherwise take the steps of the bug
        )  # fmt: skip

    least, *rows = lab.run(
        [configure("epoch", 1.0, 0, True), *(configure(*key, seed) for key in keys for seed in seeds)], "shuffle"
    )
    runner.refuse_failed((least, *rows), "the softmax regression cannot be trained")
    excess = [
        float(np.mean(row["objective"])) - least["minimum"] if row["status"] == "ok" else math.inf for row in rows
    ]
    n = len(seeds)
    return {key: excess[i * n : (i + 1) * n] for i, key in enumerate(keys)}, least["minimum"]


def _steps(lab, work, optimizer, goal, seeds, report_seeds, cap):
    """{sampler: Tuned} of the workload's own model."""
    start = first_rate(optimizer, BATCH)

    def tuned(sampler):
        common = {"batch": BATCH, "sampler": sampler, **goal}
        try:
            return tune(
                lab, lambda **given: runner.configuration(work, optimizer, **common, **given), start, seeds=seeds,
                report_seeds=report_seeds, cap=cap, experiment="shuffle",
            )  # fmt: skip
        except NothingWorks:
            return None

    names = "epoch", "once", "iid"
    return {name: found for name, found in zip(names, lab.map(tuned, names)) if found}


# --- what the runs say -----------------------------------------------------------------------------------------------


def summarize(work, convex, floors, own, grid, floor_seeds, seeds, optimizer) -> Result:
    """Tables, checks, figures and sentences."""
    excess, least = floors
    rows = [_row(arm, rate, values) for (arm, rate), values in excess.items()]
    tables = [
        Table("floors", ["order", "B", "lr", "excess", "ci_lo", "ci_hi", "over_epoch", "n_seeds", "n_fail", "budget"],
              [{**row, "budget": f"{grid['epochs']} epochs",
                "over_epoch": fit.ratio(excess[row["order"], row["lr"]], excess["epoch", row["lr"]])[0]}
               for row in rows],
              f"Excess of the objective over its least value {least:.6g} at the ends of the last {LAST} epochs: "
              "geometric means over seeds with 95 % intervals.",
              {"order": "epoch: a new permutation each; once: one for all epochs; iid: with replacement; never: sorted "
               f"by label; same_perm_per_rank: {WORKERS} ranks that all draw the same samples; small: the batch of one "
               "of them, as many steps", "excess": "objective above its least value",
               "over_epoch": "excess over that of epoch",
               "budget": "length of the runs"}),
    ]  # fmt: skip
    if own:
        tables.append(
            Table("steps", ["order", "optimizer", "B", "lr", "S", "ci_lo", "ci_hi", "over_epoch", "n_seeds", "n_fail",
                            "at_edge", "n_trials", "budget", "eval_ratio"],
                  [_step_row(name, found, own.get("epoch"), optimizer) for name, found in own.items()],
                  "Steps to the target of the workload's own model, each order with its best rate.",
                  {"order": "order of the samples", "over_epoch": "steps over those of epoch",
                   "budget": "what a run had to reach", "eval_ratio": "distance between evaluations"})
        )  # fmt: skip
    result = Result(
        "shuffle", "What does the order in which samples are drawn cost?", _headline(excess, own, grid),
        _checks(work, excess, own, grid, len(floor_seeds)), tables, _figures(excess, own, grid),
    )  # fmt: skip
    n = len(work.loaded.train_x)
    noise = f", {100 * NOISE:.0f} % of the labels drawn anew" if convex.label_noise else ""
    result.methods = (
        f"{convex.name}, {n:,} training samples{noise}, penalty {L2:g}/2 |w|^2: convex, least value by L-BFGS in "
        f"float64; SGD without momentum, B = {BATCH}, constant rates, {grid['epochs']} epochs, batches going on over "
        f"the end of an epoch, {len(floor_seeds)} seeds. The bug: all {WORKERS} ranks draw "
        f"with one seed, so that each sample is in a batch {WORKERS} times."
    )
    if own:
        config = next(iter(own.values())).rows[0]["config"]
        result.methods += (
            f" Steps: {work.name}, {optimizer}, B = {BATCH}, to {config['metric']} {config['target']:g}, rate tuned "
            f"for each order on a grid of factor sqrt 2 with {len(seeds)} seeds, "
            f"{len(next(iter(own.values())).rows)} fresh seeds."
        )
    result.notes = [
        "The floors are those of a convex problem with noisy labels. On networks that come to fit all samples the "
        "orders should end alike, with no noise left at the floor; that is not measured here.",
    ]
    if (slow := grid["rates"][0]) < BUG_RATE:
        result.notes.append(
            f"At rate {slow:g} the {grid['epochs']} epochs are too few to forget the initial weights: part of the "
            f"excess is that, for any order."
        )
    if n % BATCH:
        result.notes.append(f"{n:,} samples are no whole number of batches of {BATCH}: the ends of epochs are those of "
                            f"the steps in which they lie.")  # fmt: skip
    if not own:
        result.notes.append("Steps to a target were not compared: give --target, or no learning rate has met it.")
    for (arm, rate), values in excess.items():
        if failed := sum(not math.isfinite(v) for v in values):
            result.notes.append(f"{arm} at rate {rate:g}: {failed} of {len(values)} seeds diverged.")
    for name, found in own.items():
        result.notes += found.remarks(name)
    return result


def _finite(values):
    return [v for v in values if math.isfinite(v) and v > 0.0]


def _row(arm, rate, values):
    low, high = fit.mean_interval(_finite(values))
    return {
        "order": arm, "B": BATCH // ARMS[arm][1] * ARMS[arm][2], "lr": rate, "excess": fit.gmean(_finite(values)),
        "ci_lo": low, "ci_hi": high, "n_seeds": len(values), "n_fail": sum(not math.isfinite(v) for v in values),
    }  # fmt: skip


def _step_row(name, found, base, optimizer):
    config = found.rows[0]["config"]
    low, high = fit.mean_interval(found.steps)
    return {
        "order": name, "optimizer": optimizer, "B": BATCH, "lr": found.lr, "S": fit.gmean(_finite(found.steps)),
        "ci_lo": low, "ci_hi": high, "over_epoch": fit.ratio(found.steps, base.steps)[0] if base else None,
        "n_seeds": len(found.rows), "n_fail": found.failures, "at_edge": found.at_edge, "n_trials": found.trials,
        "budget": f"{config['metric']} {config['target']:g}", "eval_ratio": config["eval_ratio"],
    }  # fmt: skip


def _checks(work, excess, own, grid, seeds):
    default = work.is_default
    checks = []

    def check(claim, first, second, rate, least=-math.inf, most=math.inf):
        value, low, high = fit.ratio(excess[first, rate], excess[second, rate])
        checks.append(Check(f"{claim} (excess at rate {rate:g}, ratio)", value, low, high, least, most, seeds))

    check("drawing with replacement costs more than permutations", "iid", "epoch", BUG_RATE, 1.5 if default else 1.0)
    check("one permutation is as good as new ones", "once", "epoch", BUG_RATE, 0.65, 1.35)
    for rate in grid["rates"]:
        if rate >= BUG_RATE:
            check("sorted data is far worse than random draws", "never", "iid", rate, 3.0 if default else 1.0)
    check("ranks that draw the same samples have the floor of one alone", "same_perm_per_rank", "small", BUG_RATE,
          0.75, 1.33)  # fmt: skip
    check("and not that of the whole batch", "same_perm_per_rank", "epoch", BUG_RATE, 1.5)
    if {"epoch", "iid"} <= own.keys():
        value, low, high = fit.ratio(own["iid"].steps, own["epoch"].steps)
        claim = f"drawing with replacement takes more steps to the target at B = {BATCH} (ratio)"
        least, most = (1.2, 1.9) if default else (1.0, math.inf)
        checks.append(Check(claim, value, low, high, least, most, len(own["epoch"].rows)))
    return checks


def _headline(excess, own, grid):
    def over(arm, base):
        return f"{fit.ratio(excess[arm, BUG_RATE], excess[base, BUG_RATE])[0]:.2g}"

    said = (
        f"At rate {BUG_RATE:g} the excess loss of drawing with replacement is {over('iid', 'epoch')} times that of a "
        f"new permutation each epoch; of one permutation {over('once', 'epoch')}, of sorted data "
        f"{over('never', 'epoch')}, of {WORKERS} ranks that draw the same samples "
        f"{over('same_perm_per_rank', 'epoch')} times, {over('same_perm_per_rank', 'small')} times that of one alone."
    )
    if {"epoch", "iid"} <= own.keys():
        first, second = (fit.gmean(_finite(own[name].steps)) for name in ("epoch", "iid"))
        said += f" To the target it takes {first:.0f} steps with permutations and {second:.0f} with replacement."
    return said


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(excess, own, grid):
    return [
        Figure("floors", "How far above its least value the objective of a convex problem stays, against the "
               f"constant learning rate, for each order of the samples; B = {BATCH}, means over the last {LAST} epoch "
               "ends with 95 % intervals over seeds. Crosses: a seed diverged.",
               lambda: _draw(excess, grid)),
    ]  # fmt: skip


def _draw(excess, grid):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    names = {"same_perm_per_rank": "bug: same samples on all ranks", "small": f"epoch, B = {BATCH // WORKERS}"}
    for i, arm in enumerate(ARMS):
        rows = [_row(arm, rate, excess[arm, rate]) for rate in grid["rates"] if (arm, rate) in excess]
        x = [row["lr"] * (1.0 + 0.05 * (i - 4)) if arm in names else row["lr"] for row in rows]
        ends = [[row[key] for row in rows] for key in ("excess", "ci_lo", "ci_hi")]
        figures.points_with_interval(axes, x, *ends, i=i, label=names.get(arm, arm), join=len(rows) > 1)
    axes.set(xlabel="learning rate", ylabel="excess loss")
    for i, arm in enumerate(ARMS):
        rates = [rate for rate in grid["rates"] if any(not math.isfinite(v) for v in excess.get((arm, rate), ()))]
        figures.failed(axes, rates, i=i, row=i)
    figures.legend(figure, 2)
    return figure
