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
from allgrad.launch.study.intervals import Estimate, mean, quantile, ratio
from allgrad.launch.study.lr_tuning import steps_of
from allgrad.launch.study.result import Claim, Figure, Result, Table
from allgrad.launch.study.wording import with_interval

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "momentum", "adam"), "at": (16, 64), "runs": tuple(range(200, 206)), "draws": 10,
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
PREDICTORS = {  # in words: tr(Sigma)/|G|^2, and tr(H Sigma)/G'HG
    "B_simple": "the noise scale (B_simple)",
    "B_noise": "the noise scale weighted by the curvature (B_noise)",
}
MEASURED = "B_2x", "B_crit"  # critical batch sizes by `steps`: without a model, and of the fitted curve
MEANINGS = {
    "growth": "last B_simple of a run over its first, geometric mean over runs",
    "undefined": "share of probes with no signal above the sampling noise of the samples there are",
    "S": "steps to the target of the probed runs", "budget": "what a run had to reach",
    "B_2x": "critical batch size without a model: the batch with twice the least steps (examples)",
    "predictor": "noise scale along the runs", "measured": "which critical batch size it is compared with",
    "ratio": "predicted over measured", "critical": "measured critical batch size (examples)",
    "simple_ratio": "B_simple over it", "noise_ratio": "B_noise over it",
}  # fmt: skip


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


def measured(found, name, batches, seeds) -> Estimate:
    """A critical batch size of the fit's table of `steps`, with the error that its 95 % interval means, on logarithms.

    name: "B_2x" or "B_crit"; the t-interval of a fit to so many batches has two degrees of freedom fewer
    """
    ends = [found.get(key) for key in _with_ends(name)]
    value, low, high = (math.nan if end is None else end for end in ends)
    if not (0.0 < low <= high < math.inf):
        return Estimate(value, n=seeds, of="runs", why=f"{name} has no interval")
    dof = max(batches - 2.0, 1.0)
    return Estimate(value, math.log(high / low) / 2.0 / quantile(dof, 0.975), dof, True, seeds, "runs")


def summarize(work, rows_of, fits, cells, common, first, grid) -> Result:
    """Tables, claims, figures and sentences from the rows of each (optimizer, batch)."""
    batches = {name: [cell for (at, _), cell in cells.items() if at == name] for name in fits}
    known = {
        name: {m: measured(found, m, len(batches[name]), min(cell["n_seeds"] for cell in batches[name]))
               for m in MEASURED}
        for name, found in fits.items()
    }  # fmt: skip
    predictions = {
        (*key, p): mean([predicted(row, p) if row["status"] == "ok" else math.nan for row in rows], "runs")
        for key, rows in rows_of.items() for p in PREDICTORS
    }  # fmt: skip
    ratios = {(*key, m): ratio(e, known[key[0]][m]) for key, e in predictions.items() for m in MEASURED}
    leads = {name: found.get("lead") or ("B_2x" if known[name]["B_2x"].known else "B_crit")
             for name, found in fits.items()}  # fmt: skip
    growths = {key: mean([growth(row) for row in rows], "runs") for key, rows in rows_of.items()}
    goal, n, runs = f"{common['metric']} {common['target']:g}", len(work.loaded.train_x), len(grid["runs"])
    table = [_row(key, rows, known[key[0]], predictions, growths[key], cells[key]) for key, rows in rows_of.items()]
    result = Result(
        "noise", "Does the noise scale along a run predict the critical batch size?",
        " ".join(_headline(name, known[name][leads[name]], leads[name], ratios) for name in fits), _claims(growths),
        [Table("predicted",
               ["optimizer", "B", "lr", "S", *_with_ends("B_simple", "B_noise", "B_2x", "B_crit", "growth"),
                "undefined", "n_seeds", "n_fail", "budget", "sampler"], table,
               f"Noise scales, step-weighted means over runs to {goal}, means over runs with 95 % intervals, beside "
               "the critical batch sizes that the steps to the target measure.", MEANINGS),
         Table("ratios", ["optimizer", "B", "predictor", "measured", "ratio", "ratio_lo", "ratio_hi"],
               [{"optimizer": name, "B": batch, "predictor": p, "measured": m, "ratio": e.value, "ratio_lo": e.low,
                 "ratio_hi": e.high} for (name, batch, p, m), e in ratios.items()],
               "Predicted over measured critical batch size.", MEANINGS),
         Table("trace", ["optimizer", "B", "t", "loss", "trS", "G2", "G2_corrected", "B_simple", "B_ema", "B_noise",
                         "eta_max", "lambda_max", "n_seeds"], _traces(rows_of),
               "Probes along the runs: means over the runs at the same step.",
               {"t": "steps taken", "trS": "trace of the covariance of one sample's gradient",
                "G2": "squared norm of the gradient of all training samples",
                "G2_corrected": "the same of the distribution they were drawn from",
                "B_ema": f"running estimate in training, decay {DECAY}", "eta_max": "best rate of a noiseless step",
                "lambda_max": "largest eigenvalue of the Hessian"})],
        _figures(rows_of, fits, leads, table, goal, runs),
        Table("summary", ["optimizer", "B", "measured", *_with_ends("critical", "simple_ratio", "noise_ratio")],
              [_summary_row(name, batch, leads[name], known[name], ratios) for name, batch in rows_of], "", MEANINGS),
        _findings(rows_of, ratios, leads, growths),
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {n:,} training samples; runs at the tuned rates of `study steps`, {runs} fresh "
        f"seeds, sampler {common.get('sampler', 'epoch')}, to {goal}; probes at frozen weights in float64 at step 0 "
        f"and at distances of {grid['ratio']:g}, over up to {work.config()['eval_samples']:,} training samples: "
        f"tr(Sigma) exactly from the gradients of all samples where the model is a stack of linear layers, else from "
        f"{PARTS} micro-batches; |G|^2 of the training set; tr(H Sigma) from {grid['draws']} pairs of random quarters "
        f"of the samples; {ITERATIONS} power iterations for lambda_max. A run's prediction is the step-weighted mean, "
        f"by trapezoids. The running estimate compares {SHARDS} shards of a batch. 95 % intervals by Student's t over "
        f"runs, of logarithms; a ratio has the errors of both its parts (Welch), that of the measured part being the "
        f"one of its interval. Measured: {first.methods}"
    )
    result.notes = _notes(rows_of, n, common)
    return result


def _with_ends(*names):
    """Columns of numbers and of their intervals."""
    return [column for name in names for column in (name, f"{name}_lo", f"{name}_hi")]


def _ends(name, e):
    return {name: e.value, f"{name}_lo": e.low, f"{name}_hi": e.high}


def _row(key, rows, known, predictions, grown, cell):
    probes = [p for row in rows for p in row.get("probes", ())]
    config = rows[0]["config"]
    out = {
        "optimizer": key[0], "B": key[1], "lr": cell["lr"], "n_seeds": len(rows),
        "n_fail": sum(row["status"] != "ok" for row in rows), "S": mean([steps_of(row) for row in rows]).value,
        "undefined": sum(p["corrected"] <= 0.0 for p in probes) / max(len(probes), 1),
        "budget": f"{config['metric']} {config['target']:g}", "sampler": config["sampler"], **_ends("growth", grown),
    }  # fmt: skip
    for name in PREDICTORS:
        out |= _ends(name, predictions[*key, name])
    for name, e in known.items():
        out |= _ends(name, e)
    return out


def _summary_row(name, batch, lead, known, ratios):
    return {
        "optimizer": name, "B": batch, "measured": lead, **_ends("critical", known[lead]),
        **_ends("simple_ratio", ratios[name, batch, "B_simple", lead]),
        **_ends("noise_ratio", ratios[name, batch, "B_noise", lead]),
    }  # fmt: skip


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


def _claims(growths):
    return [
        Claim("the noise scale increases along a run (last B_simple over first)", "McCandlish et al. 2018, abstract",
              "'the noise scale increases as the loss decreases over a training run': above 1", [*growths.values()],
              least=1.0),
    ]  # fmt: skip


def _headline(name, critical, lead, ratios):
    """How far the predictions of an optimizer's runs are from what is measured."""
    said = []
    for predictor in PREDICTORS:
        found = {batch: e for (at, batch, p, m), e in ratios.items() if (at, p, m) == (name, predictor, lead)}
        each = [f"{with_interval(e)} times that at B = {batch}" for batch, e in found.items() if e.known]
        if missing := [e.why for e in found.values() if not e.known]:
            each.append(f"not compared ({missing[0]})")
        said.append(f"{PREDICTORS[predictor]} is {', '.join(each)}")
    return f"{name}: the measured critical batch size ({lead}) is {with_interval(critical)}; {'; '.join(said)}."


def _findings(rows_of, ratios, leads, growths):
    found = []
    led = {key: e for key, e in ratios.items() if e.known and key[3] == leads[key[0]]}
    if led:
        (name, batch, p, m), far = max(led.items(), key=lambda one: abs(math.log(max(one[1].value, 1e-300))))
        found.append(
            f"Of {len(led)} predictions the furthest from what is measured is {p} of {name} at B = {batch}: "
            f"{with_interval(far)} times {m}. McCandlish et al. 2018 claim the order of magnitude; Merrill et al. "
            f"2025 find predictions for language models that are far too low."
        )
    for m in MEASURED:
        for predictor in PREDICTORS:
            some = {key: e for key, e in ratios.items() if key[2:] == (predictor, m) and e.known}
            if some:
                each = ", ".join(f"{with_interval(e)} ({name}, B = {batch})" for (name, batch, *_), e in some.items())
                found.append(f"{predictor} over {m}: {each}.")
    for (name, batch), e in growths.items():
        found.append(f"{name}, B = {batch}: B_simple ends at {with_interval(e, 2)} times what it begins with.")
    for (name, batch), rows in rows_of.items():
        ends = [row["probes"][-1] for row in rows if row["status"] == "ok"]
        lags = [p["B_ema"] / p["B_simple"] for p in ends if p["B_ema"] and p["B_simple"]]
        lag = mean(lags, "runs") if len(lags) == len(rows) else Estimate(math.nan)
        if lag.known:
            found.append(
                f"{name}, B = {batch}: the running estimate (decay {DECAY}) ends at {with_interval(lag, 2)} times what "
                f"the probe finds; it lags where the noise scale grows."
            )
    return found


def _notes(rows_of, n, common):
    probes = [p for rows in rows_of.values() for row in rows for p in row.get("probes", ())]
    gone = sum(p["corrected"] <= 0.0 for p in probes) / max(len(probes), 1)
    notes = [
        f"The noise scales are those of the training set of {n:,} samples. Of the distribution it was drawn from they "
        f"are larger, B = 1 / (1/B_simple - 1/N), and not defined at {100 * gone:.0f} % of the probes, where the "
        f"gradient is below the noise of {n:,} samples.",
        f"The theory is for plain SGD on samples drawn independently (here: sampler {common.get('sampler', 'epoch')}), "
        f"for a loss that is quadratic along a step, and for the best rate at every step. Momentum and Adam are beyond "
        f"it, and a constant rate is not the best at every step.",
    ]
    failed = sum(row["status"] != "ok" for rows in rows_of.values() for row in rows)
    if failed:
        notes.append(
            f"{failed} of {sum(map(len, rows_of.values()))} runs failed: cells with such a run have no interval."
        )
    return notes


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(rows_of, fits, leads, table, goal, runs):
    name = next(iter(rows_of))[0]
    lead = leads[name]
    return [
        Figure("trace", f"Noise scales along runs of {name} to {goal}: geometric means over {runs} runs (curves), and "
               f"their range (bands). Band across: the critical batch size {lead} measured by steps to the target.",
               lambda: _draw_trace({key: rows for key, rows in rows_of.items() if key[0] == name}, fits[name], lead)),
        Figure("predicted", "Predicted against measured critical batch sizes (" + ", ".join(
                   f"{lead} of {name}" for name, lead in leads.items()) + f"), means over {runs} runs with 95 % "
               "intervals, the batch size of the run beside each. Thin line: equality.",
               lambda: _draw_predicted(table, leads)),
    ]  # fmt: skip


def _draw_trace(rows_of, found, lead):
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
        low, high = (found.get(f"{lead}_{end}") or math.nan for end in ("lo", "hi"))
        if math.isfinite(low) and math.isfinite(high):
            figures.band(axes, low, high, f"measured {lead}")
    panels[0][0].set_ylabel("noise scale (examples)")
    figures.legend(figure, 3)
    return figure


def _draw_predicted(table, leads):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    pairs = [(p, name) for p in PREDICTORS for name in dict.fromkeys(row["optimizer"] for row in table)]
    for i, (predictor, name) in enumerate(pairs):
        rows, lead = [row for row in table if row["optimizer"] == name], leads[name]
        x, x_low, x_high = ([row[column] for row in rows] for column in _with_ends(lead))
        y, low, high = ([row[column] for row in rows] for column in _with_ends(predictor))
        figures.points_with_interval(
            axes, x, y, low, high, i=i, label=f"{predictor}, {name}", x_low=x_low, x_high=x_high
        )
        for at, level, row in zip(x, y, rows):
            if math.isfinite(at) and math.isfinite(level):
                place = {"xytext": (3, 3), "textcoords": "offset points"}
                axes.annotate(f"{row['B']}", (at, level), color=figures.GREY, fontsize=figures.SMALL - 0.5, **place)
    known = [row[leads[row["optimizer"]]] for row in table]
    known = [b for b in known if b and math.isfinite(b)] or [1.0]
    axes.set(xlabel="measured critical batch size (examples)", ylabel="predicted (examples)")
    middle = fit.gmean(known)
    axes.set_xlim(min(known) / 1.6, max(known) * 1.6)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, middle / 4.0), max(high, 4.0 * middle))
    figures.guide(axes, 1.0, (middle, middle), "equal", at=0.12)
    figures.legend(figure, 2)
    return figure
