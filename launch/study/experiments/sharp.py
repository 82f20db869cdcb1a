"""Do large batches end where the loss is sharper, and is that worse? At equal training loss, each at its best rate.

Keskar et al. 2017 (arXiv 1609.04836) for the claim, of batches that train at one and the same rate. Jastrzebski et al.
2017 (arXiv 1711.04623) trace it to rate / batch: the smaller that is, the sharper the end. Where each batch has its own
best rate, after Shallue et al. 2019, the claim need not hold: the higher rate of the large batch keeps away from sharp
regions, as descent is unstable where rate times eigenvalue is above 2 (Wu et al. 2018; Cohen et al. 2021). Only long
training at a small loss to come brings full batches up to that edge.
"""

import math
from dataclasses import replace

from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import largest_eigenvalue
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.experiments.noise import frozen_at
from allgrad.launch.study.intervals import mean, paired, slope
from allgrad.launch.study.lr_tuning import SEEDS, first_rate, tune
from allgrad.launch.study.result import Claim, Figure, Result, Table
from allgrad.launch.study.wording import compared, with_interval

GRIDS = {
    "quick": {"batches": (8, 1024), "seeds": SEEDS, "report_seeds": tuple(range(100, 110)), "iterations": 30},
    "full": {
        "batches": (8, 64, 256, 1024), "seeds": SEEDS, "report_seeds": tuple(range(100, 112)), "iterations": 100,
    },
}  # fmt: skip
TARGETS = {"train_loss": 0.02}  # on digits
KESKAR = "Keskar et al. 2017, abstract"
MEANINGS = {
    "lambda_max": "largest eigenvalue of the Hessian", "train_loss": "training loss at the end",
    "val_loss": "validation loss there", "val_accuracy": "validation accuracy there",
    "budget": "what a run had to reach",
}  # fmt: skip
LOWER = 4, 2  # the largest batch is run at its best rate over these too, and at the best of the smallest


def execute(config: dict, comm) -> dict:
    """A run to the target, and the largest eigenvalue of the Hessian where it ends."""
    run = runner.Run(config, comm)
    row = runner.to_target(run)
    if row["status"] == "ok" and config["iterations"]:
        row["sharpness"] = largest_eigenvalue(frozen_at(run, run.snapshot()), config["iterations"])
    return row


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=("sgd",), batches=PRESET, target=None, sampler="epoch", seeds=PRESET,
    report_seeds=PRESET, cap=6000, eval_ratio=1.02, lr=None,
) -> Result:  # fmt: skip
    """Train each batch to one training loss and measure the curvature there."""
    grid, (name,), batches = GRIDS[preset], optimizers, sorted(batches)
    target = steps.goal(work, "train_loss", target, TARGETS)
    if len(batches) < 2:
        raise ConfigurationError(f"--batches: sharpness is compared between 2 batch sizes or more, got {len(batches)}")
    least = lr or first_rate(name, batches[0])

    def configure(batch, measured=True, **given):
        return runner.configuration(
            work, name, kind="sharp", batch=batch, target=target, sampler=sampler, eval_ratio=eval_ratio,
            iterations=grid["iterations"] if measured else 0, **given,
        )  # fmt: skip

    def cell(batch):
        def each(**given):
            return configure(batch, given["seed"] in report_seeds, **given)

        start = least * math.sqrt(batch / batches[0])
        return tune(lab, each, start, seeds=seeds, report_seeds=report_seeds, cap=cap, experiment="sharp")

    cells = dict(zip(batches, lab.map(cell, batches)))
    small, best, n = cells[batches[0]], cells[batches[-1]], len(report_seeds)
    rates = sorted({small.lr, *(float(f"{best.lr / factor:.6g}") for factor in LOWER)} - {best.lr})
    configs = [configure(batches[-1], lr=rate, seed=seed, cap=cap) for rate in rates for seed in report_seeds]
    rows = lab.run(configs, "sharp")
    at = {rate: rows[i * n : (i + 1) * n] for i, rate in enumerate(rates)} | {best.lr: best.rows}
    return summarize(work, cells, at, name, target, sampler, grid, seeds)


def _values(rows, key):
    """A number of each seed's row; nan where it failed."""
    return [row[key] if row["status"] == "ok" and row.get(key) is not None else math.nan for row in rows]


def summarize(work, cells, at, name, target, sampler, grid, seeds) -> Result:
    """Tables, claims, figures and sentences from {batch: Tuned}, and of the largest {rate: rows}."""
    small, large = min(cells), max(cells)
    base, best, same = cells[small].rows, cells[large].rows, at[cells[small].lr]
    key = "val_loss" if math.isnan(mean(_values(base, "final_val_accuracy")).value) else "val_accuracy"
    said = {where: _Compared(base, runs, key) for where, runs in (("one", same), ("best", best))}
    rows = [_row(batch, found, target, sampler) for batch, found in cells.items()]
    rates = [_at_rate(large, rate, runs) for rate, runs in sorted(at.items())]
    lower = f"the rate of B = {small}"
    result = Result(
        "sharp", "Do large batches end where the loss is sharper, at the same training loss, and is that worse?",
        f"{name}, at train loss {target:g}: the largest eigenvalue of the Hessian with B = {large}, compared with "
        f"B = {small}: {said['one'].sharper} at {lower}, {said['best'].sharper} with the best rate of each. "
        f"Validation {key.split('_')[1]}, in the same order: {said['one'].worse}; {said['best'].worse}.",
        [
            Claim(f"at one learning rate, B = {large} ends where the loss is sharper than B = {small} does (largest "
                  "eigenvalue of the Hessian, ratio)", KESKAR, "'sharp minimizers': a ratio above 1",
                  [said["one"].sharpness], least=1.0),
            Claim(f"at one learning rate, B = {large} generalises less well than B = {small} ({said['one'].what})",
                  KESKAR, "'a degradation in the quality of the model, as measured by its ability to generalize': "
                  f"above {said['one'].none}", [said["one"].loss], least=said["one"].none),
        ],
        [Table("cells", ["B", "lr", "S", "lambda_max", "ci_lo", "ci_hi", "lr_lambda", "train_loss", "val_loss",
                         "val_loss_lo", "val_loss_hi", "val_accuracy", "val_accuracy_lo", "val_accuracy_hi", "n_seeds",
                         "n_fail", "at_edge", "n_trials", "budget", "eval_ratio", "sampler"], rows,
               "The largest eigenvalue of the Hessian of the training loss where the target is met: geometric means "
               "over seeds with 95 % intervals.", {**MEANINGS, "lr_lambda": "rate times it"}),
         Table("rates", ["B", "lr", "S", "lambda_max", "ci_lo", "ci_hi", "val_loss", "val_accuracy", "n_seeds",
                         "n_fail"], rates,
               "The same for the largest batch at its best rate, at lower ones and at that of the smallest batch.",
               MEANINGS)],
        _figures(rows, rates, key, len(base), large),
        _summary(rows, rates[[*sorted(at)].index(cells[small].lr)], key),
        _findings(name, small, large, cells, at, said, best),
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {len(work.loaded.train_x):,} training samples; {name}, sampler {sampler}, constant rate tuned "
        f"for each batch on the steps to train_loss {target:g}, factor sqrt 2, {len(seeds)} seeds; "
        f"{len(base)} fresh seeds; {grid['iterations']} power iterations with exact Hessian products in "
        f"float64 over up to {work.config()['eval_samples']:,} training samples, at the evaluation that met the "
        f"target; 95 % intervals by Student's t over seeds, of logarithms but for accuracies; batches are compared "
        f"seed by seed."
    )
    result.notes = [
        "Keskar et al. 2017 train all batches at one rate, until the training loss has converged; here all stop at "
        "the same training loss. Of batches that have each their own best rate they say nothing.",
    ]
    for batch, found in cells.items():
        result.notes += found.remarks(f"B = {batch}")
    return result


class _Compared:
    """Runs of the largest batch beside those of the smallest, seed by seed: curvature, and what it costs."""

    def __init__(self, base, runs, key):
        self.sharpness = paired(_values(runs, "sharpness"), _values(base, "sharpness"))
        self.sharper = compared(self.sharpness, "larger", "smaller")
        before, after = (_values(rows, f"final_{key}") for rows in (base, runs))
        if key == "val_accuracy":
            self.what, self.none = "points of validation accuracy lost", 0.0
            lost = paired([100.0 * v for v in before], [100.0 * v for v in after], log=False)
            self.loss = replace(lost, value=round(lost.value, 9))  # 0, and not what is left of a sum of floats
        else:
            self.what, self.none = "validation loss, ratio", 1.0
            self.loss = paired(after, before)

    @property
    def worse(self):
        """In words."""
        if not self.loss.known:
            return f"not compared ({self.loss.why})"
        found = f"{with_interval(self.loss, 2)} {'points lost' if self.none == 0.0 else 'times the loss'}"
        return found + ", not told apart" * (self.loss.low <= self.none <= self.loss.high)


def _row(batch, found, target, sampler):
    sharpness = mean(_values(found.rows, "sharpness"))
    return {
        "B": batch, "lr": found.lr, "S": mean(found.steps).value, "lambda_max": sharpness.value,
        "ci_lo": sharpness.low, "ci_hi": sharpness.high, "n_seeds": len(found.rows), "n_fail": found.failures,
        "at_edge": found.at_edge, "n_trials": found.trials, "budget": f"train_loss {target:g}", "sampler": sampler,
        "lr_lambda": found.lr * sharpness.value, "eval_ratio": found.rows[0]["config"]["eval_ratio"],
        **_final(found.rows),
    }  # fmt: skip


def _final(runs):
    """What runs end with: geometric means of losses, arithmetic ones of accuracies, and their intervals."""
    out = {}
    for key in ("train_loss", "val_loss", "val_accuracy"):
        e = mean(_values(runs, f"final_{key}"), log=None if key.endswith("loss") else False)
        out |= {key: e.value, f"{key}_lo": e.low, f"{key}_hi": e.high}
    return out


def _at_rate(batch, rate, runs):
    sharpness = mean(_values(runs, "sharpness"))
    return {
        "B": batch, "lr": rate, "S": mean(_values(runs, "steps_to_target")).value, "lambda_max": sharpness.value,
        "ci_lo": sharpness.low, "ci_hi": sharpness.high, "n_seeds": len(runs),
        "n_fail": sum(row["status"] != "ok" for row in runs), **_final(runs),
    }  # fmt: skip


def _summary(rows, same, key):
    return Table(
        "summary", ["B", "lr", "lambda_max", "ci_lo", "ci_hi", key, f"{key}_lo", f"{key}_hi"],
        [rows[0], same, rows[-1]], "The smallest batch, the largest at the rate of the smallest, and at its own.",
        MEANINGS,
    )  # fmt: skip


def _findings(name, small, large, cells, at, said, best):
    """What is measured beside the claims: the best rates, the edge of stability, the rate's own part."""
    ratio = with_interval(said["best"].sharpness)
    found = [
        f"Each batch at its best rate: the largest eigenvalue with B = {large} over that with B = {small} is {ratio}."
    ]
    edge = mean([cells[large].lr * v for v in _values(best, "sharpness")])
    if name == "sgd" and edge.known:
        side = "below" if edge.high < 2.0 else "above" if edge.low > 2.0 else "not told apart from"
        found.append(
            f"With B = {large} the best rate times the largest eigenvalue is {with_interval(edge)}, {side} 2, where "
            f"descent along the eigenvector becomes unstable (Cohen et al. 2021, of batches of all samples)."
        )
    rates = sorted(at)
    trend = slope(rates, [_values(at[rate], "sharpness") for rate in rates])
    if trend.known:
        way = "rises" if trend.low > 0.0 else "falls" if trend.high < 0.0 else "is not seen to change"
        found.append(
            f"With B = {large} the largest eigenvalue {way} with the rate, from {rates[0]:.3g} to {rates[-1]:.3g}: as "
            f"its power {with_interval(trend, 2)}. Jastrzebski et al. 2017 expect lower rates to end sharper."
        )
    return found


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(rows, rates, key, n, large):
    bars = f"means over {n} seeds with 95 % intervals"
    return [
        Figure("cells", f"The largest eigenvalue of the Hessian at equal training loss against the batch size (left), "
               f"and validation {key.split('_')[1]} (right), each batch at its best rate: {bars}.",
               lambda: _draw(rows, key)),
        Figure("rates", f"The largest eigenvalue where runs with B = {large} end, against their learning rate: "
               f"geometric {bars}. Thin line: 2 / rate, above which descent along the eigenvector is unstable.",
               lambda: _draw_rates(rates)),
    ]  # fmt: skip


def _draw(rows, key):
    figure, (left, right) = figures.new(columns=2, width=figures.PAGE)
    batches = [row["B"] for row in rows]
    for axes in (left, right):
        figures.batches(axes.xaxis)
    figures.logarithmic(left.yaxis)
    y, low, high = ([row[name] for row in rows] for name in ("lambda_max", "ci_lo", "ci_hi"))
    figures.points_with_interval(left, batches, y, low, high, join=True)
    left.set(xlabel="batch size B (examples)", ylabel="lambda_max of the Hessian")
    y, low, high = ([row[name] for row in rows] for name in (key, f"{key}_lo", f"{key}_hi"))
    figures.points_with_interval(right, batches, y, low, high, i=1, join=True)
    right.set(xlabel="batch size B (examples)", ylabel=key.replace("val_", "validation "))
    return figure


def _draw_rates(rates):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    x, y, low, high = ([row[name] for row in rates] for name in ("lr", "lambda_max", "ci_lo", "ci_hi"))
    figures.points_with_interval(axes, x, y, low, high, join=True)
    axes.set(xlabel="learning rate", ylabel="largest eigenvalue of the Hessian")
    axes.set_ylim(top=max(axes.get_ylim()[1], 3.0 / rates[-1]["lr"]))
    figures.guide(axes, -1.0, (rates[-1]["lr"], 2.0 / rates[-1]["lr"]), "2 / rate", at=0.7)
    figures.failed(axes, [row["lr"] for row in rates if row["n_fail"]])
    return figure
