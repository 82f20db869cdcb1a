"""Does the gradient noise scale, measured along a run, predict the critical batch size that many runs measure?

McCandlish et al. 2018 (arXiv 1812.06162): the step-weighted mean of B_noise = tr(H Sigma) / G'HG over a run is B_crit,
and B_simple = tr(Sigma) / |G|^2 is what remains of it if the Hessian H is a multiple of the identity.
"""

import copy
import math
from itertools import pairwise

import numpy as np

from allgrad import autograd as ag, ddp
from allgrad.autograd import random
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import Frozen, hessian_product, largest_eigenvalue, noise_of_examples
from allgrad.launch.study import figures, fit, runner, workload
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.result import Check, Figure, Result, Table

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "momentum", "adam"), "at": (16, 64), "runs": (200, 201, 202, 203), "draws": 10,
        "ratio": 1.5,
    },
    "full": {
        "optimizers": ("sgd", "momentum", "adam"), "at": (8, 16, 64, 256), "runs": tuple(range(200, 212)),
        "draws": 40, "ratio": 1.35,
    },
}  # fmt: skip
DECAY = 0.9  # of the running estimate
SHARDS = 4  # whose gradients the running estimate compares
PARTS = 32  # micro-batches, where gradients of single samples are not to be had
ITERATIONS = 10  # of the power method
PREDICTORS = {"B_simple": "tr(Sigma)/|G|^2", "B_noise": "tr(H Sigma)/G'HG"}


# --- a run -----------------------------------------------------------------------------------------------------------


def execute(config: dict, comm) -> dict:
    """A run to the target, with the noise scales at growing distances along it, the first and last step included."""
    run = Probed(config, comm)
    row = runner.to_target(run, lambda run: run.probe() if run.t >= run.next else None)
    row["probes"] = [probe for probe in row["probes"] if probe]
    if row["status"] == "ok" and row["probes"][-1]["t"] != run.t:
        row["probes"].append(run.probe())
    return row


class Probed(runner.Run):
    """A run that can measure the noise at its weights, which does not change it."""

    next = 0

    def exchange(self):
        self.noise = ddp.NoiseScale(DECAY)
        return {"noise": self.noise}

    def probe(self) -> dict:
        """The noise of the training part that is measured, and the curvature; None for what is not defined here."""
        self.next = max(self.t + 1, math.ceil(self.t * self.config["probe_ratio"]))
        model = self.snapshot()
        frozen = frozen_at(self, model)
        gradient, m, n = frozen.gradient(), len(frozen), len(self.data.train_x)
        trace = self._trace(frozen, model)
        measured = float(gradient @ gradient)
        corrected = measured - trace / m  # |G|^2 of the distribution that the samples were drawn from
        signal = measured if m == n else corrected + trace / n
        along = float(gradient @ hessian_product(frozen, gradient))
        hessian_trace = _hessian_trace(frozen, self.config["draws"], (self.config["seed"], self.t))
        bent = along > 0.0
        return {
            "t": self.t, "loss": self.evaluate()["loss"], "trace": trace, "signal": signal, "corrected": corrected,
            "B_simple": trace / signal if signal > 0.0 else None, "B_ema": self.noise.value if self.t else None,
            "B_noise": hessian_trace / along if bent else None, "eta_max": measured / along if bent else None,
            "sharpness": largest_eigenvalue(frozen, ITERATIONS),
        }  # fmt: skip

    def _trace(self, frozen, model):
        """tr(Sigma): exact if the model's gradients of single samples are, else of micro-batches that are all there."""
        try:
            if self.config["objective"] is not None or self.data.vocabulary is not None:
                raise ConfigurationError("the loss is not one of a sample's outputs")
            loss = ag.cross_entropy if self.data.classes else ag.mse_loss
            return noise_of_examples(model, loss, *self.parts["train"]).train_set.trace
        except ConfigurationError:
            each = len(frozen) // PARTS
            if not each:
                raise ConfigurationError(f"the noise needs {PARTS} samples or more, got {len(frozen)}") from None
            order = random.permutation(len(frozen), self.config["seed"], "parts", self.t)[: each * PARTS]
            rows = np.array([frozen.gradient(part) for part in order.reshape(PARTS, each)])
            return float(each * rows.var(axis=0, ddof=1).sum())


class Through:
    """Stands for a model where the loss takes the samples themselves, as an objective does."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return x

    def modules(self):
        return self.model.modules()


def frozen_at(run, model) -> Frozen:
    """The run's loss at the weights of a model, over the training samples that are measured."""
    frozen = Frozen(model, None, *run.parts["train"])
    frozen.model = Through(frozen.model)
    frozen.loss, _ = workload.objective(run.config, frozen.model.model, run.data)
    return frozen


def _hessian_trace(frozen, draws, key):
    """tr(H Sigma), as a mean of v'Hv over vectors v of covariance Sigma, each time with the H of other samples.

    The gradients of two random parts of h samples differ by d, of covariance 2 Sigma / h; v = d sqrt(h / 2). Quarters
    for h cost a third of what halves and the whole H do, and scatter as little.
    """
    h, values = max(len(frozen) // 4, 1), []
    for i in range(draws):
        first, second = (random.permutation(len(frozen), *key, name, i) for name in ("gradients", "curvature"))
        d = frozen.gradient(first[:h]) - frozen.gradient(first[h : 2 * h])
        part = copy.copy(frozen)
        part.arrays = [a[second[:h]] for a in frozen.arrays]
        values.append(h / 2.0 * float(d @ hessian_product(part, d)))
    return math.fsum(values) / len(values)


# --- the experiment --------------------------------------------------------------------------------------------------


@experiment(GRIDS, others=lambda first=steps.run: [first])
def run(lab, work, preset="quick", *, optimizers=PRESET, **options) -> Result:
    """Measure B_crit by `steps` with these options, and the noise along runs at its learning rates."""
    grid = GRIDS[preset]
    first = steps.run(lab, work, preset, optimizers=optimizers, **options)
    cells = {(row["optimizer"], row["B"]): row for row in first.tables[0].rows if math.isfinite(row["S"])}
    fits = {row["optimizer"]: row for row in first.tables[1].rows}
    keys = ("seeds", "report_seeds", "batches", "cap", "lr")
    given = {key: value for key, value in options.items() if key not in keys and value is not None}
    common = {"metric": "train_loss", **given}
    common["target"] = common.get("target") or steps.TARGETS[common["metric"]]
    chosen = list(dict.fromkeys(
        min((key for key in cells if key[0] == name), key=lambda key: abs(math.log(key[1] / wanted)))
        for name in optimizers for wanted in grid["at"]
    ))  # fmt: skip
    configs = [
        runner.configuration(
            work, name, **{**common, "kind": "noise", "batch": batch, "lr": cells[name, batch]["lr"], "seed": seed,
            "cap": 10 * math.ceil(cells[name, batch]["S"]), "shards": max(min(SHARDS, batch), work.shards),
            "draws": grid["draws"], "probe_ratio": grid["ratio"]},
        )
        for name, batch in chosen for seed in grid["runs"]
    ]  # fmt: skip
    rows = lab.run(configs, "noise")
    runner.refuse_failed(rows, "the noise cannot be measured")
    rows_of = {key: rows[i * len(grid["runs"]) :][: len(grid["runs"])] for i, key in enumerate(chosen)}
    return summarize(work, rows_of, fits, cells, common, first, grid)


def predicted(row, key) -> float:
    """The step-weighted mean of a noise scale over a run: trapezoids between probes; nan if hardly defined."""
    points = [(p["t"], p[key]) for p in row.get("probes", ()) if p[key] is not None]
    if len(points) < 2:
        return math.nan
    area = math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2.0 for a, b in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def growth(row) -> float:
    """The last B_simple of a run over its first."""
    values = [p["B_simple"] for p in row.get("probes", ()) if p["B_simple"]]
    return values[-1] / values[0] if len(values) > 1 else math.nan


def summarize(work, rows_of, fits, cells, common, first, grid) -> Result:
    """Tables, checks, figures and sentences from the rows of each (optimizer, batch)."""
    table = [_row(key, rows, fits[key[0]], cells[key]) for key, rows in rows_of.items()]
    goal = f"{common['metric']} {common['target']:g}"
    columns = ["optimizer", "B", "lr", "S"]
    for name in PREDICTORS:
        columns += [name, f"{name}_lo", f"{name}_hi", f"{name}/B_crit"]
    columns += ["B_crit", "ci_lo", "ci_hi", "growth", "undefined", "n_seeds", "n_fail", "budget", "sampler"]
    result = Result(
        "noise", "Does the noise scale along a run predict the critical batch size?", _headline(table, fits),
        _checks(work, common, rows_of, fits, table),
        [Table("predicted", columns, table, f"Noise scales, step-weighted means over runs to {goal}, means over seeds "
               "with 95 % intervals by bootstrap, beside the critical batch size that the steps to the target measure.",
               {"growth": "last B_simple of a run over its first, geometric mean over seeds",
                "undefined": "share of probes with no signal above the sampling noise of the samples there are",
                "ci_lo": "95 % interval of B_crit, from", "ci_hi": "95 % interval of B_crit, to",
                "S": "steps to the target of the probed runs", "budget": "what a run had to reach"}),
         Table("trace", ["optimizer", "B", "t", "loss", "trS", "G2", "G2_corrected", "B_simple", "B_ema", "B_noise",
                         "eta_max", "lambda_max", "n_seeds"], _traces(rows_of),
               "Probes along the runs: means over the seeds at the same step.",
               {"t": "steps taken", "trS": "trace of the covariance of one sample's gradient",
                "G2": "squared norm of the gradient of all training samples",
                "G2_corrected": "the same of the distribution they were drawn from",
                "B_ema": f"running estimate in training, decay {DECAY}", "eta_max": "best rate of a noiseless step",
                "lambda_max": "largest eigenvalue of the Hessian"})],
        _figures(rows_of, fits, table, goal),
    )  # fmt: skip
    n = len(work.loaded.train_x)
    result.methods = (
        f"{work.name}, {n:,} training samples; runs at the tuned rates of `study steps`, {len(grid['runs'])} fresh "
        f"seeds, sampler {common.get('sampler', 'epoch')}, to {goal}; probes at frozen weights in float64 at step 0 "
        f"and at distances of {grid['ratio']:g}, over up to {work.config()['eval_samples']:,} training samples: "
        f"tr(Sigma) exactly from the gradients of all samples where the model is a stack of linear layers, else from "
        f"{PARTS} micro-batches; |G|^2 of the training set; tr(H Sigma) from {grid['draws']} pairs of random quarters "
        f"of the samples; {ITERATIONS} power iterations for lambda_max. A run's prediction is the step-weighted mean, "
        f"by trapezoids. The running estimate compares {SHARDS} shards of a batch. 95 % intervals over seeds by "
        f"bootstrap; those of a ratio to B_crit add both in quadrature, in logarithms. B_crit: {first.methods}"
    )
    result.notes = _notes(rows_of, n, common, grid)
    return result


def _row(key, rows, found, cell):
    name, batch = key
    out: dict = {"optimizer": name, "B": batch, "lr": cell["lr"], "n_seeds": len(rows)}
    out["n_fail"] = sum(row["status"] != "ok" for row in rows)
    reached = [row["steps_to_target"] for row in rows if row["status"] == "ok"]
    out["S"] = fit.gmean(reached)
    for predictor in PREDICTORS:
        values = [predicted(row, predictor) for row in rows if row["status"] == "ok"]
        known = [value for value in values if math.isfinite(value)]
        out[predictor] = float(np.mean(known)) if known else math.nan
        out[f"{predictor}_lo"], out[f"{predictor}_hi"] = fit.mean_interval(values, mean=np.mean)
        out[f"{predictor}/B_crit"] = out[predictor] / found["B_crit"] if found["B_crit"] else math.nan
    out |= {"B_crit": found["B_crit"], "ci_lo": found["B_crit_lo"], "ci_hi": found["B_crit_hi"]}
    out["growth"] = fit.gmean([g for g in map(growth, rows) if math.isfinite(g)])
    probes = [p for row in rows for p in row.get("probes", ())]
    out["undefined"] = sum(p["corrected"] <= 0.0 for p in probes) / max(len(probes), 1)
    out["budget"], out["sampler"] = (rows[0]["config"][k] for k in ("metric", "sampler"))
    out["budget"] = f"{out['budget']} {rows[0]['config']['target']:g}"
    return out


def _traces(rows_of):
    out = []
    names = {"loss": "loss", "trS": "trace", "G2": "signal", "G2_corrected": "corrected", "B_simple": "B_simple",
             "B_ema": "B_ema", "B_noise": "B_noise", "eta_max": "eta_max", "lambda_max": "sharpness"}  # fmt: skip
    for (name, batch), rows in rows_of.items():
        at: dict[int, list] = {}
        for row in rows:
            for probe in row.get("probes", ()):
                at.setdefault(probe["t"], []).append(probe)
        for t, probes in sorted(at.items()):
            means = {k: _mean([p[source] for p in probes]) for k, source in names.items()}
            out.append({"optimizer": name, "B": batch, "t": t, **means, "n_seeds": len(probes)})
    return out


def _mean(values):
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _ratio(row, predictor):
    """Predicted over measured, and its interval from those of both."""
    value = row[f"{predictor}/B_crit"]
    edges = row[f"{predictor}_lo"], row[f"{predictor}_hi"], row["ci_lo"], row["ci_hi"]
    if not (math.isfinite(value) and min(value, *edges) > 0.0 and all(map(math.isfinite, edges))):
        return value, math.nan, math.nan
    down = math.hypot(math.log(row[predictor] / edges[0]), math.log(edges[3] / row["B_crit"]))
    up = math.hypot(math.log(edges[1] / row[predictor]), math.log(row["B_crit"] / edges[2]))
    return value, value * math.exp(-down), value * math.exp(up)


def _checks(work, common, rows_of, fits, table):
    factor = 3.0 if work.is_default and common["metric"] == "train_loss" else 10.0
    checks = []
    for row in table:
        where = f"{row['optimizer']}, B = {row['B']}"
        for predictor in PREDICTORS:
            claim = f"{where}: {predictor} predicts B_crit within {factor:g}x (ratio)"
            seeds = row["n_seeds"] - row["n_fail"]
            checks.append(Check(claim, *_ratio(row, predictor), 1.0 / factor, factor, seeds, "probed runs"))
    for (name, batch), rows in rows_of.items():
        grown = [g for g in map(growth, rows) if math.isfinite(g)]
        low, high = fit.mean_interval(grown)
        claim = f"{name}, B = {batch}: B_simple grows along the run (last over first)"
        least = 5.0 if work.is_default else 1.0
        checks.append(Check(claim, fit.gmean(grown), low, high, least, seeds=len(grown), seed_kind="probed runs"))
    return checks


def _headline(table, fits):
    sentences = []
    for name, found in fits.items():
        rows = [row for row in table if row["optimizer"] == name]
        off = max(abs(math.log(max(row[f"{p}/B_crit"], 1e-9))) for row in rows for p in PREDICTORS)
        spans = ", ".join(f"{p} = {_span([row[p] for row in rows])}" for p in PREDICTORS)
        grown = _span([row["growth"] for row in rows])
        sentences.append(
            f"{name}: predicted {spans}; measured B_crit = {found['B_crit']:.0f} [{found['B_crit_lo']:.0f}, "
            f"{found['B_crit_hi']:.0f}]: within {math.exp(off):.1f}x; B_simple grew {grown}x along the run."
        )
    return " ".join(sentences)


def _span(values):
    low, high = (f"{end(values):.0f}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _notes(rows_of, n, common, grid):
    probes = [p for rows in rows_of.values() for row in rows for p in row.get("probes", ())]
    gone = sum(p["corrected"] <= 0.0 for p in probes) / max(len(probes), 1)
    lags = [
        rows["probes"][-1]["B_ema"] / rows["probes"][-1]["B_simple"]
        for some in rows_of.values() for rows in some
        if rows["status"] == "ok" and rows["probes"][-1]["B_ema"] and rows["probes"][-1]["B_simple"]
    ]  # fmt: skip
    notes = [
        f"The noise scales are those of the training set of {n:,} samples. Of the distribution it was drawn from they "
        f"are larger, B = 1 / (1/B_simple - 1/N), and not defined at {100 * gone:.0f} % of the probes, where the "
        f"gradient is below the noise of {n:,} samples.",
        f"Sampler {common.get('sampler', 'epoch')}: it is part of what B_crit means; the theory draws samples "
        f"independently, and is for plain SGD at its best rate.",
        "An order of magnitude is what the theory claims: print measured beside predicted, never predicted alone.",
    ]
    if lags:
        notes.append(
            f"The running estimate (decay {DECAY}) lags where the noise scale grows: at the end of a run it is "
            f"{fit.gmean([abs(lag) for lag in lags]):.2g} times what the probe finds (geometric mean over runs)."
        )
    failed = sum(row["status"] != "ok" for rows in rows_of.values() for row in rows)
    if failed:
        notes.append(f"{failed} of {sum(map(len, rows_of.values()))} runs failed, and have no prediction.")
    return notes


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(rows_of, fits, table, goal):
    name = next(iter(rows_of))[0]
    return [
        Figure("trace", f"Noise scales along runs of {name} to {goal}: geometric means over the seeds (curves), and "
               "their range (bands). Band across: the critical batch size that the steps to the target measure.",
               lambda: _draw_trace({key: rows for key, rows in rows_of.items() if key[0] == name}, fits[name])),
        Figure("predicted", "Predicted against measured critical batch sizes of all optimizers and batches, with 95 % "
               "intervals. Thin lines: equality, and a factor of 3 to both sides.",
               lambda: _draw_predicted(table)),
    ]  # fmt: skip


def _draw_trace(rows_of, found):
    figure, panels = figures.new(columns=len(rows_of), width=figures.PAGE, sharey=True, squeeze=False)
    for axes, ((name, batch), rows) in zip(panels[0], rows_of.items()):
        figures.logarithmic(axes.yaxis)
        figures.logarithmic(axes.xaxis)
        for i, key in enumerate(("B_simple", "B_noise", "B_ema")):
            at: dict[int, list] = {}
            for row in rows:
                for p in row.get("probes", ()):
                    if p[key] is not None and p[key] > 0.0:
                        at.setdefault(p["t"] + 1, []).append(p[key])
            at = {t: values for t, values in sorted(at.items()) if len(values) > len(rows) / 2}
            label = key if key != "B_ema" else "B_simple, running estimate"
            low, high = [min(v) for v in at.values()], [max(v) for v in at.values()]
            figures.line_with_interval(axes, [*at], [fit.gmean(v) for v in at.values()], low, high, i=i, label=label)
        axes.set(xlabel="step + 1", title=f"{name}, B = {batch}")
        if all(map(math.isfinite, (found["B_crit_lo"], found["B_crit_hi"]))):
            figures.band(axes, found["B_crit_lo"], found["B_crit_hi"], "measured B_crit")
    panels[0][0].set_ylabel("noise scale (examples)")
    figures.legend(figure, 3)
    return figure


def _draw_predicted(table):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    pairs = [(p, name) for p in PREDICTORS for name in dict.fromkeys(row["optimizer"] for row in table)]
    for i, (predictor, name) in enumerate(pairs):
        rows = [row for row in table if row["optimizer"] == name]
        columns = ("B_crit", predictor, f"{predictor}_lo", f"{predictor}_hi")
        x, y, low, high = ([row[column] for row in rows] for column in columns)
        ends = ([row[end] for row in rows] for end in ("ci_lo", "ci_hi"))
        x_low, x_high = ends
        figures.points_with_interval(
            axes, x, y, low, high, i=i, label=f"{predictor}, {name}", x_low=x_low, x_high=x_high
        )
    measured = [row["B_crit"] for row in table if row["B_crit"] and math.isfinite(row["B_crit"])] or [1.0]
    axes.set(xlabel="measured B_crit (examples)", ylabel="predicted (examples)")
    middle = fit.gmean(measured)
    axes.set_xlim(min(measured) / 1.6, max(measured) * 1.6)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, middle / 4.0), max(high, 4.0 * middle))
    for factor, label in ((1.0, "equal"), (3.0, "3x"), (1.0 / 3.0, "1/3")):
        figures.guide(axes, 1.0, (middle, factor * middle), label, at=0.12)
    figures.legend(figure, 2)
    return figure
