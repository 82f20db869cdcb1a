"""Do large batches end where the loss is sharper, and is that worse? At equal training loss, each at its best rate.

Keskar et al. 2017 (arXiv 1609.04836) for the claim, of batches that train at one and the same rate. Jastrzebski et al.
2017 (arXiv 1711.04623) trace it to rate / batch: the smaller that is, the sharper the end. Where each batch has its own
best rate, after Shallue et al. 2019, the claim need not hold: the higher rate of the large batch keeps away from sharp
regions, as descent is unstable where rate times eigenvalue is above 2 (Wu et al. 2018; Cohen et al. 2021). Only long
training at a small loss to come brings full batches up to that edge.
"""

import math

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import largest_eigenvalue
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.experiments.noise import frozen_at
from allgrad.launch.study.lr_tuning import SEEDS, first_rate, tune
from allgrad.launch.study.result import Check, Figure, Result, Table

GRIDS = {
    "quick": {"batches": (8, 1024), "seeds": SEEDS, "report_seeds": tuple(range(100, 106)), "iterations": 30},
    "full": {
        "batches": (8, 64, 256, 1024), "seeds": SEEDS, "report_seeds": tuple(range(100, 112)), "iterations": 100,
    },
}  # fmt: skip
TARGETS = {"train_loss": 0.02}  # on digits
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
    return [row[key] for row in rows if row["status"] == "ok" and row.get(key) is not None]


def summarize(work, cells, at, name, target, sampler, grid, seeds) -> Result:
    """Tables, checks, figures and sentences from {batch: Tuned}, and of the largest {rate: rows}."""
    rows = []
    for batch, found in cells.items():
        sharpness = _values(found.rows, "sharpness")
        row = {
            "B": batch, "lr": found.lr, "S": fit.gmean([s for s in found.steps if math.isfinite(s)]),
            "lambda_max": fit.gmean(sharpness), "n_seeds": len(found.rows), "n_fail": found.failures,
            "at_edge": found.at_edge, "n_trials": found.trials, "budget": f"train_loss {target:g}", "sampler": sampler,
            "lr_lambda": found.lr * fit.gmean(sharpness), "eval_ratio": found.rows[0]["config"]["eval_ratio"],
        }  # fmt: skip
        row["ci_lo"], row["ci_hi"] = fit.mean_interval(sharpness)
        for key in ("train_loss", "val_loss", "val_accuracy"):
            values = _values(found.rows, f"final_{key}")
            row[key] = float(np.mean(values)) if values else None
            low, high = fit.mean_interval(values, mean=np.mean)
            row[f"{key}_lo"], row[f"{key}_hi"] = low, high
        rows.append(row)
    small, large = rows[0]["B"], rows[-1]["B"]
    found = [_values(runs, "sharpness") for runs in (at[cells[small].lr], cells[large].rows, cells[small].rows)]
    one, value = (fit.ratio(over, found[2]) for over in found[:2])
    claim = f"B = {large} ends where the loss is sharper than B = {small}"
    n = len(cells[large].rows)
    edge = [cells[large].lr * v for v in found[1]]
    checks = [
        Check(f"{claim}, at one rate (ratio of lambda_max)", *one, 1.0, seeds=n),
        Check(f"{claim}, each at its best rate (ratio of lambda_max)", *value, 1.0, seeds=n),
        Check(f"B = {large} ends where its rate is stable (rate times lambda_max)", fit.gmean(edge),
              *fit.mean_interval(edge), most=2.0, seeds=n),
    ]  # fmt: skip
    rates = [_at_rate(large, rate, found) for rate, found in sorted(at.items())]
    accuracy = rows[0]["val_accuracy"] is not None
    key, unit = ("val_accuracy", "points") if accuracy else ("val_loss", "of validation loss")
    gap = _gap(cells[small], cells[large], f"final_{key}", 100.0 if accuracy else -1.0)
    said = f"{gap[0]:.2g} [{gap[1]:.2g}, {gap[2]:.2g}] {unit}"
    result = Result(
        "sharp", "Do large batches end where the loss is sharper, at the same training loss, and is that worse?",
        f"{name}, at train loss {target:g}: lambda_max = {rows[0]['lambda_max']:.2g} with B = {small} and "
        f"{rows[-1]['lambda_max']:.2g} with {large}, {value[0]:.2g} times [{value[1]:.2g}, {value[2]:.2g}], each at "
        f"its best rate, and {one[0]:.2g} times [{one[1]:.2g}, {one[2]:.2g}] at that of the small batch; "
        f"validation {key.split('_')[1]} of the small batch better by {said}.",
        checks,
        [Table("cells", ["B", "lr", "S", "lambda_max", "ci_lo", "ci_hi", "lr_lambda", "train_loss", "val_loss",
                         "val_accuracy", "val_accuracy_lo", "val_accuracy_hi", "n_seeds", "n_fail", "at_edge",
                         "n_trials", "budget", "eval_ratio", "sampler"], rows,
               "The largest eigenvalue of the Hessian of the training loss where the target is met: geometric means "
               "over seeds with 95 % intervals.",
               {"lambda_max": "largest eigenvalue of the Hessian", "lr_lambda": "rate times it; full batches need < 2",
                "train_loss": "training loss at the end", "val_loss": "validation loss there",
                "val_accuracy": "validation accuracy there", "budget": "what a run had to reach"}),
         Table("rates", ["B", "lr", "S", "lambda_max", "ci_lo", "ci_hi", "n_seeds", "n_fail"], rates,
               "The same for the largest batch at its best rate, at lower ones and at that of the smallest batch.",
               {"lambda_max": "largest eigenvalue of the Hessian"})],
        [Figure("cells", "The largest eigenvalue of the Hessian at equal training loss against the batch size (left), "
                f"and validation {key.split('_')[1]} (right): means and 95 % intervals over seeds.",
                lambda: _draw(rows, key)),
         Figure("rates", f"The largest eigenvalue where runs with B = {large} end, against their learning rate: "
                "geometric means, 95 % intervals over seeds. Thin line: 2 / rate, above which "
                "descent along the eigenvector is unstable.", lambda: _draw_rates(rates))],
    )  # fmt: skip
    measured = work.config()["eval_samples"]
    result.methods = (
        f"{work.name}, {len(work.loaded.train_x):,} training samples; {name}, sampler {sampler}, constant rate tuned "
        f"for each batch on the steps to train_loss {target:g}, factor sqrt 2, {len(seeds)} seeds; "
        f"{len(cells[small].rows)} fresh seeds; {grid['iterations']} power iterations with exact Hessian products in "
        f"float64 over up to {measured:,} training samples, at the evaluation that met the target; 95 % intervals by "
        f"{fit.RESAMPLES} resamples of the seeds."
    )
    result.notes = [
        "No claim is made about the validation part: the difference is reported with its interval.",
        f"The eigenvalue depends on the learning rate as well as on the batch (Jastrzebski et al. 2017: on their "
        f"ratio): with B = {large} it goes from {rates[0]['lambda_max']:.2g} at rate {rates[0]['lr']:.2g} to "
        f"{rates[-1]['lambda_max']:.2g} at {rates[-1]['lr']:.2g}. The claim of Keskar et al. 2017 is of one rate for "
        f"all batches; where each has its own best, it may fail.",
    ]
    for batch, found in cells.items():
        result.notes += found.remarks(f"B = {batch}")
    return result


def _at_rate(batch, rate, found):
    sharpness = _values(found, "sharpness")
    low, high = fit.mean_interval(sharpness)
    return {
        "B": batch, "lr": rate, "S": fit.gmean(_values(found, "steps_to_target")), "lambda_max": fit.gmean(sharpness),
        "ci_lo": low, "ci_hi": high, "n_seeds": len(found), "n_fail": sum(row["status"] != "ok" for row in found),
    }  # fmt: skip


def _gap(small, large, key, unit) -> tuple[float, float, float]:
    """How much better the small batch is, with its interval over the seeds of both."""
    first, last = ([unit * v for v in _values(found.rows, key)] for found in (small, large))
    if not (first and last):
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(0)
    drawn = [rng.choice(first, len(first)).mean() - rng.choice(last, len(last)).mean() for _ in range(fit.RESAMPLES)]
    return float(np.mean(first) - np.mean(last)), *fit.interval(drawn)


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
