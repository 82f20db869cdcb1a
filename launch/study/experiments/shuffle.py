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
from allgrad.launch.study import figures, runner, workload
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.intervals import Estimate, mean as mean_over_seeds, paired, ratio
from allgrad.launch.study.lr_tuning import NothingWorks, first_rate, tune
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import MARGIN, compared, with_interval
from allgrad.launch.study.workload import Workload

GRIDS = {
    "quick": {"rates": (0.02, 0.05, 0.2), "epochs": 40, "seeds": (0, 1, 2), "report_seeds": tuple(range(100, 108))},
    "full": {
        "rates": (0.02, 0.05, 0.1, 0.2), "epochs": 40, "seeds": (0, 1, 2, 3), "report_seeds": tuple(range(100, 116)),
    },
}  # fmt: skip
FLOOR_SEEDS = 5  # of the quick floors, which scatter little
BATCH, WORKERS, L2, NOISE, LAST = 16, 4, 0.01, 0.2, 10
BUG_RATE = 0.05  # at which all orders are compared
ARMS = {  # label: (sampler, what B is divided by, how often each sample is in a batch)
    "epoch": ("epoch", 1, 1),
    "once": ("once", 1, 1),
    "iid": ("iid", 1, 1),
    "never": ("never", 1, 1),
    "same_perm_per_rank": ("epoch", WORKERS, WORKERS),
    "small": ("epoch", WORKERS, 1),
}
NAMES = {"once": "one permutation for all epochs", "iid": "drawing with replacement", "never": "data sorted by label",
         "same_perm_per_rank": f"{WORKERS} ranks that draw the same samples"}  # fmt: skip


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
    """Tables, claims, figures and sentences from the floors and from {order: Tuned} of the workload's own model."""
    excess, least = floors
    intervals = {"over_lo": "95 % interval of over_epoch, from", "over_hi": "95 % interval of over_epoch, to"}
    orders = (
        f"epoch: a new permutation each; once: one for all epochs; iid: with replacement; never: sorted by label; "
        f"same_perm_per_rank: {WORKERS} ranks that all draw the same samples; small: the batch of one of them, as many "
        f"steps"
    )
    tables = [
        Table("floors", ["order", "B", "lr", "excess", "ci_lo", "ci_hi", "over_epoch", "over_lo", "over_hi", "n_seeds",
                         "n_fail", "budget"],
              [_row(excess, arm, rate, grid) for arm, rate in excess],
              f"Excess of the objective over its least value {least:.6g} at the ends of the last {LAST} epochs: "
              f"geometric means over {len(floor_seeds)} seeds with 95 % intervals, where none failed.",
              {**intervals, "order": orders, "excess": "objective above its least value",
               "over_epoch": "excess over that of epoch at the same rate", "budget": "length of the runs"}),
    ]  # fmt: skip
    if own:
        tables.append(
            Table("steps", ["order", "optimizer", "B", "lr", "S", "ci_lo", "ci_hi", "over_epoch", "over_lo", "over_hi",
                            "n_seeds", "n_fail", "at_edge", "n_trials", "budget", "eval_ratio"],
                  [_step_row(name, found, own.get("epoch"), optimizer) for name, found in own.items()],
                  "Steps to the target of the workload's own model, each order with its best rate.",
                  {**intervals, "order": "order of the samples", "over_epoch": "steps over those of epoch",
                   "budget": "what a run had to reach", "eval_ratio": "distance between evaluations"})
        )  # fmt: skip
    result = Result(
        "shuffle", "What does the order in which samples are drawn cost?", _headline(excess, own), [],
        tables, _figures(excess, grid, len(floor_seeds)),
        summary=Table(
            "summary", ["order", "excess", "over_epoch", *(("steps", "steps_over_epoch") if own else ())],
            [_summary(excess, own, arm) for arm in ARMS],
            f"Orders of the samples at rate {BUG_RATE:g}, with 95 % intervals over seeds.",
            {"order": orders, "excess": "objective of a convex problem above its least value",
             "over_epoch": "that over the excess of a new permutation each epoch",
             "steps": "steps of the workload's own model to its target",
             "steps_over_epoch": "these over the steps of a new permutation each epoch"},
        ),
        findings=_findings(excess, own, grid), advice=_advice(excess, own),
    )  # fmt: skip
    n = len(work.loaded.train_x)
    noise = f", {100 * NOISE:.0f} % of the labels drawn anew" if convex.label_noise else ""
    result.methods = (
        f"{convex.name}, {n:,} training samples{noise}, penalty {L2:g}/2 |w|^2: convex, least value by L-BFGS in "
        f"float64; SGD without momentum, B = {BATCH}, constant rates, {grid['epochs']} epochs, batches going on over "
        f"the end of an epoch, {len(floor_seeds)} seeds. The bug: all {WORKERS} ranks draw "
        f"with one seed, so that each sample is in a batch {WORKERS} times. 95 % intervals by Student's t on "
        f"logarithms over seeds; orders are compared seed by seed, but for small, which has other seeds (Welch's t)."
    )
    if own:
        config = next(iter(own.values())).rows[0]["config"]
        result.methods += (
            f" Steps: {work.name}, {optimizer}, B = {BATCH}, to {config['metric']} {config['target']:g}, rate tuned "
            f"for each order on a grid of factor sqrt 2 with {len(seeds)} seeds, "
            f"{len(next(iter(own.values())).rows)} fresh seeds."
        )
    result.notes = [
        "The floors are those of a convex problem with noisy labels; what orders cost on networks that come to fit all "
        "samples is not measured here.",
    ]
    steps_taken = math.ceil(grid["epochs"] * n / BATCH)
    kept = "; ".join(f"{math.exp(-rate * L2 * steps_taken):.2g} at rate {rate:g}" for rate in grid["rates"])
    result.notes.append(f"In {steps_taken:,} steps a run keeps this share of its initial weights in a direction that "
                        f"only the penalty bends: {kept}. Part of the excess is that, for any order.")  # fmt: skip
    if n % BATCH:
        result.notes.append(f"{n:,} samples are no whole number of batches of {BATCH}: the ends of epochs are those of "
                            f"the steps in which they lie.")  # fmt: skip
    if not own:
        result.notes.append("Steps to a target were not compared: give --target, or no learning rate has met it.")
    for (arm, rate), values in excess.items():
        if failed := sum(not math.isfinite(v) for v in values):
            result.notes.append(f"{arm} at rate {rate:g}: {failed} of {len(values)} seeds diverged, and the others "
                                f"decide nothing.")  # fmt: skip
    for name, found in own.items():
        result.notes += found.remarks(name)
    return result


def over(excess, arm, other="epoch", rate=BUG_RATE) -> Estimate:
    """The excess of an order over that of another, seed by seed where both have the same seeds."""
    first, second = excess[arm, rate], excess[other, rate]
    if "small" in (arm, other) and arm != other:
        return ratio(mean_over_seeds(first), mean_over_seeds(second))
    return paired(first, second)


def _steps_over(own, name):
    return paired(own[name].steps, own["epoch"].steps) if {name, "epoch"} <= own.keys() else None


def _row(excess, arm, rate, grid):
    found, against = mean_over_seeds(excess[arm, rate]), over(excess, arm, rate=rate)
    return {
        "order": arm, "B": BATCH // ARMS[arm][1] * ARMS[arm][2], "lr": rate, "excess": found.value,
        "ci_lo": found.low, "ci_hi": found.high, "over_epoch": against.value, "over_lo": against.low,
        "over_hi": against.high, "n_seeds": found.n, "n_fail": found.failed, "budget": f"{grid['epochs']} epochs",
    }  # fmt: skip


def _step_row(name, found, base, optimizer):
    config, s = found.rows[0]["config"], mean_over_seeds(found.steps)
    against = paired(found.steps, base.steps) if base else Estimate(math.nan)
    return {
        "order": name, "optimizer": optimizer, "B": BATCH, "lr": found.lr, "S": s.value, "ci_lo": s.low,
        "ci_hi": s.high, "over_epoch": against.value, "over_lo": against.low, "over_hi": against.high,
        "n_seeds": s.n, "n_fail": s.failed, "at_edge": found.at_edge, "n_trials": found.trials,
        "budget": f"{config['metric']} {config['target']:g}", "eval_ratio": config["eval_ratio"],
    }  # fmt: skip


def _summary(excess, own, arm):
    row = {
        "order": arm, "excess": with_interval(mean_over_seeds(excess[arm, BUG_RATE])),
        "over_epoch": "1" if arm == "epoch" else with_interval(over(excess, arm)),
    }  # fmt: skip
    if arm in own:
        row["steps"] = with_interval(mean_over_seeds(own[arm].steps))
        against = _steps_over(own, arm)
        row["steps_over_epoch"] = "1" if arm == "epoch" else with_interval(against) if against else ""
    return row


def _headline(excess, own):
    said = "; ".join(f"{name} {compared(over(excess, arm))}" for arm, name in NAMES.items())
    text = f"Excess loss at rate {BUG_RATE:g} against that of a new permutation each epoch: {said}."
    if against := _steps_over(own, "iid"):
        text += f" Steps to the target with replacement, against permutations: {compared(against)}."
    return text


def _findings(excess, own, grid):
    lines = []
    for rate in grid["rates"]:
        arms = [arm for arm in NAMES if (arm, rate) in excess]
        said = "; ".join(f"{NAMES[arm]} {with_interval(over(excess, arm, rate=rate))}" for arm in arms)
        lines.append(f"Excess at rate {rate:g} over that of a new permutation each epoch: {said}.")
    alone = over(excess, "same_perm_per_rank", "small")
    lines.append(f"{WORKERS} ranks that draw the same samples against one of them alone, excess at rate {BUG_RATE:g}: "
                 f"{compared(alone)}, {with_interval(alone)}.")  # fmt: skip
    sorted_data = over(excess, "never", "iid")
    lines.append(f"Data sorted by label against drawing with replacement, excess at rate {BUG_RATE:g}: "
                 f"{compared(sorted_data)}, {with_interval(sorted_data)}.")  # fmt: skip
    drawn = over(excess, "iid")
    lines.append(f"Drawing with replacement against a new permutation each epoch, excess at rate {BUG_RATE:g}: "
                 f"{compared(drawn)}, {with_interval(drawn)}. That 'random reshuffling beats stochastic gradient "
                 f"descent' is a theorem of Guerbuezbalaban, Ozdaglar and Parrilo 2021 for averages and a rate that "
                 f"falls; here it is constant.")  # fmt: skip
    for arm in ("once", "iid"):
        if against := _steps_over(own, arm):
            lines.append(f"Steps to the target, {NAMES[arm]} against a new permutation each epoch, each at its best "
                         f"rate: {compared(against)}, {with_interval(against)}.")  # fmt: skip
    return lines


def _advice(excess, own):
    costs, gains, free, unknown = [], [], [], []
    for arm, name in NAMES.items():
        known = [e for e in (over(excess, arm), _steps_over(own, arm)) if e is not None]
        if any(e.low > 1.0 + MARGIN for e in known):
            costs.append(name)
        elif any(e.high < 1.0 / (1.0 + MARGIN) for e in known):
            gains.append(name)
        elif all(e.high <= 1.0 + MARGIN for e in known):
            free.append(name)
        else:
            unknown.append(name)
    less = f"by more than {100 * MARGIN:g} % in excess or in steps"
    said = []
    if not gains and (NAMES["iid"] in costs or NAMES["once"] in costs):
        said.append("Draw a new permutation each epoch.")
    elif NAMES["never"] in costs:
        said.append("Shuffle the samples.")
    said += ["Let no two ranks draw the same samples."] * (NAMES["same_perm_per_rank"] in costs)
    for words, names in (
        (f"Surely worse than a new permutation each epoch, {less}", costs), (f"Surely better, {less}", gains),
        (f"At most {100 * MARGIN:g} % worse", free), ("Not told apart from it", unknown),
    ):  # fmt: skip
        said += [f"{words}: {', '.join(names)}."] * bool(names)
    return " ".join(said)


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(excess, grid, n):
    return [
        Figure("floors", "How far above its least value the objective of a convex problem stays, against the "
               f"constant learning rate, for each order of the samples; B = {BATCH}, means over the last {LAST} epoch "
               f"ends, geometric means of {n} seeds; bars are 95 % intervals of the mean. Crosses: a seed diverged, "
               "and nothing else is drawn there.",
               lambda: _draw(excess, grid)),
    ]  # fmt: skip


def _draw(excess, grid):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    names = {"same_perm_per_rank": "bug: same samples on all ranks", "small": f"epoch, B = {BATCH // WORKERS}"}
    for i, arm in enumerate(ARMS):
        found = {rate: mean_over_seeds(excess[arm, rate]) for rate in grid["rates"] if (arm, rate) in excess}
        whole = {rate: e for rate, e in found.items() if not e.failed}
        x = [rate * (1.0 + 0.05 * (i - 4)) if arm in names else rate for rate in whole]
        ends = ([getattr(e, end) for e in whole.values()] for end in ("value", "low", "high"))
        figures.points_with_interval(axes, x, *ends, i=i, label=names.get(arm, arm), join=len(whole) > 1)
    axes.set(xlabel="learning rate", ylabel="excess loss")
    for i, arm in enumerate(ARMS):
        rates = [rate for rate in grid["rates"] if any(not math.isfinite(v) for v in excess.get((arm, rate), ()))]
        figures.failed(axes, rates, i=i, row=i)
    figures.legend(figure, 2)
    return figure
