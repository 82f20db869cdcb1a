"""Which batch makes the most of a fixed number of examples, and how does it grow with their number?

Bergsma et al. 2025, "Power Lines" (arXiv 2505.13738), and Zhang et al. 2024 (arXiv 2410.21676): the final loss at D
examples (tokens, of text) against batch size, each batch with a rate of its own, at several D and model sizes N; the
best batch size and the critical one as power laws of D and N.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from allgrad.ddp import Sampler
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.plan import steps_of
from allgrad.launch.study import figures, laws, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.intervals import mean
from allgrad.launch.study.lr_tuning import SEEDS, Tuned, tune_batches
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import number, with_interval

GRIDS = {
    "quick": {
        "optimizers": ("adamw",), "batches": tuple(2**i for i in range(9)),
        "budgets": ("0.125ep", "0.25ep", "0.5ep", "1ep", "2ep"), "seeds": SEEDS, "report_seeds": tuple(range(100, 108)),
    },
    "full": {
        "optimizers": ("sgd", "adamw"), "batches": tuple(2**i for i in range(10)),
        "budgets": ("0.125ep", "0.25ep", "0.5ep", "1ep", "2ep", "4ep"), "seeds": (*SEEDS, 3),
        "report_seeds": tuple(range(100, 116)),
    },
}  # fmt: skip
FEW_STEPS = 5  # a run with fewer says nothing about training


@dataclass
class Cell:
    """What an optimizer makes of D examples in batches of one size; `losses` of the report's seeds, inf for failed."""

    optimizer: str
    model: str
    parameters: int
    examples: int
    batch: int
    steps: int
    tuned: Tuned
    losses: list


@experiment(GRIDS, as_given=("models",))
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=PRESET, budgets=PRESET, models=None, metric="val_loss",
    sampler="epoch", seeds=PRESET, report_seeds=PRESET, lr=None, schedule="linear", **more,
) -> Result:  # fmt: skip
    """The experiment. budgets: numbers of examples, as "20000samples" or in epochs as "10ep"; models: names of models
    of different sizes in place of the workload's. The rate of each run follows the schedule over its budget."""
    if not metric.endswith("loss"):
        raise ConfigurationError(f"--metric of allgrad study tokens is train_loss or val_loss, got {metric}")
    if wrong := [budget for budget in budgets if budget.isdigit()]:
        raise ConfigurationError(f"--budgets of allgrad study tokens are examples, as {wrong[0]}samples, or epochs")
    samples, batches = len(work.loaded.train_x), sorted(batches)
    sizes = sorted({(steps_of(budget, Sampler(samples, 1, "epoch", 0, "carry")), budget) for budget in budgets})
    common = {
        "target": None, "metric": metric, "sampler": sampler, "schedule": schedule, "eval_ratio": 2.0, **more,
    }  # fmt: skip

    def measure(row):
        return row[f"final_{metric}"]

    def chain(task):
        optimizer, model, (examples, budget) = task
        sized = replace(work, model=model)
        steps = {b: steps_of(budget, Sampler(samples, b, "epoch", 0, "carry")) for b in batches}
        enough = [b for b in batches if steps[b] >= FEW_STEPS]
        if not enough:
            raise ConfigurationError(f"--budgets {budget}: no batch has {FEW_STEPS} steps or more")

        def configure(batch, **given):
            return runner.configuration(sized, optimizer, batch=batch, steps=budget, **common, **given)

        found = tune_batches(
            lab, configure, optimizer, enough, lr, seeds=seeds, report_seeds=report_seeds, cap=10**9, measure=measure,
            experiment="tokens",
        )  # fmt: skip
        many = sum(p.size for p in sized.build().parameters())
        value = lambda row: measure(row) if row["status"] == "ok" else math.inf
        return [
            Cell(optimizer, str(sized.config()["model"]), many, examples, batch, steps[batch], tuned,
                 [value(row) for row in tuned.rows] or [math.inf] * len(report_seeds))
            for batch, tuned in found.items()
        ]  # fmt: skip

    tasks = [(o, m, size) for o in optimizers for m in models or (work.model,) for size in sizes]
    cells = [cell for found in lab.map(chain, tasks) for cell in found]
    return summarize(work, cells, common, seeds, report_seeds)


# --- what the cells say ----------------------------------------------------------------------------------------------


@dataclass
class Series:
    """The cells of one optimizer and model by D, and what they say."""

    optimizer: str
    model: str
    parameters: int
    cells: dict[int, list[Cell]]
    found: list[laws.Found]


def summarize(work, cells, common, seeds, report_seeds) -> Result:
    """Tables, figures and sentences from the cells.

    Without verdicts: the preset was chosen after runs on the digits, which can confirm nothing then.
    """
    series = []
    for name, model in dict.fromkeys((cell.optimizer, cell.model) for cell in cells):
        by_size: dict = {}
        for cell in cells:
            if (cell.optimizer, cell.model) == (name, model):
                by_size.setdefault(cell.examples, []).append(cell)
        curves = [
            laws.Cells(
                size, [c.batch for c in row], np.array([c.losses for c in row]), [c.tuned.doubt for c in row]
            ) for size, row in by_size.items()
        ]  # fmt: skip
        series.append(Series(name, model, next(iter(by_size.values()))[0].parameters, by_size, laws.found_in(curves)))
    fits = {
        name: _laws([s for s in series if s.optimizer == name]) for name in dict.fromkeys(c.optimizer for c in cells)
    }
    part = "validation" if common["metric"].startswith("val") else "training"
    result = Result(
        "tokens", "Which batch size makes the most of a fixed number of examples, and how does it grow with them?",
        " ".join(_headline(name, series, fits[name]) for name in fits),
        tables=[_cells_table(cells, common), _laws_table(fits)],
        figures=[
            Figure(f"loss_{s.optimizer}_{k}", f"Final {part} loss against batch size with {s.optimizer} and {s.model}, "
                   f"a line for each number of examples D: geometric means of {len(report_seeds)} seeds, bars their "
                   "95 % intervals (t on logarithms), the rate tuned for every point; crosses: a seed, or every rate, "
                   "failed. Vertical dashes: the best batch size.", partial(_draw_losses, s, part))
            for k, s in enumerate(series)
        ] + [
            Figure(f"laws_{name}", f"Best and critical batch size with {name} against the number of examples: bars are "
                   f"95 % intervals over {len(report_seeds)} seeds (jackknife), lines the power laws with their 95 % "
                   "bands; hollow: no interval.",
                   partial(_draw_laws, [s for s in series if s.optimizer == name], fits[name]))
            for name in fits
        ],
        summary=_summary(series), findings=[line for name in fits for line in _findings(name, series, fits[name])],
    )  # fmt: skip
    result.methods = (
        f"{work.name if len({s.model for s in series}) == 1 else work.config()['data']}; every run takes all its D "
        f"examples, its rate by the schedule {common['schedule']} over them; the rate tuned for each model, D and "
        f"batch on the final {part} loss, on a grid of factor sqrt 2, with {len(seeds)} seeds until two rates on both "
        f"sides were worse, the winner run on {len(report_seeds)} fresh seeds; sampler {common['sampler']}. B_opt: "
        f"lowest point of a parabola of ln loss over ln B, fitted to the batches within a factor {laws.WINDOW:g} of "
        f"the best; B_crit: the largest B whose loss after D examples is at most that of the best batch after "
        f"D / {laws.MARGIN:g}, that loss by the slope of ln loss over ln D between the neighbouring D; errors by a "
        f"jackknife over seeds, and, for the choice of a rate, of a quarter of how much worse its neighbours are; laws "
        f"by weighted least squares of logarithms, their intervals by Student's t on the residuals."
    )
    result.advice = " ".join(_advice(name, series) for name in fits)
    result.notes = _notes(cells, series, len(work.loaded.train_x))
    return result


def _laws(series):
    """{"opt": a law, or why there is none; "crit": the same}"""
    found = {}
    for kind in ("opt", "crit"):
        points = [laws.Point(f.examples, s.parameters, getattr(f, f"b_{kind}")) for s in series for f in s.found]
        try:
            found[kind] = laws.power_law(points)
        except ValueError as error:
            found[kind] = str(error)
    return found


def _summary(series):
    rows = [
        {"optimizer": s.optimizer, "N": s.parameters, "D": f.examples, "loss": f.loss, "best": f.best,
         "B_opt": f.b_opt.value, "B_opt_lo": f.b_opt.low, "B_opt_hi": f.b_opt.high,
         "B_crit": f.b_crit.value, "B_crit_lo": f.b_crit.low, "B_crit_hi": f.b_crit.high}
        for s in series for f in s.found
    ]  # fmt: skip
    return Table(
        "batches", list(rows[0]), rows, "The best batch size and the largest useful one.",
        {"N": "parameters of the model", "D": "examples that a run sees", "loss": "final loss at the best batch size",
         "best": "batch size of the least loss among those tried",
         "B_opt": "batch size of the least loss (examples)",
         "B_crit": f"largest batch that needs at most {laws.MARGIN:g} times the least examples (examples)",
         **{f"B_{kind}_{end}": f"95 % interval, {word}" for kind in ("opt", "crit")
            for end, word in (("lo", "from"), ("hi", "to"))}},
    )  # fmt: skip


def _cells_table(cells, common):
    rows = []
    for cell in cells:
        loss = mean(cell.losses)
        rows.append({
            "optimizer": cell.optimizer, "model": cell.model, "N": cell.parameters, "D": cell.examples,
            "B": cell.batch, "steps": cell.steps, "lr": cell.tuned.lr, "loss": loss.value, "ci_lo": loss.low,
            "ci_hi": loss.high, "n_seeds": len(cell.losses), "n_fail": loss.failed, "at_edge": cell.tuned.at_edge,
            "n_trials": cell.tuned.trials, "metric": common["metric"], "schedule": common["schedule"],
            "sampler": common["sampler"],
        })  # fmt: skip
    return Table(
        "cells", list(rows[0]), rows, "Final loss of each cell, geometric means over fresh seeds.",
        {"D": "examples that a run sees", "N": "parameters of the model", "steps": "optimizer steps in D examples",
         "loss": "final loss by the metric"},
    )  # fmt: skip


def _laws_table(fits):
    rows = []
    for name, both in fits.items():
        for kind, law in both.items():
            if isinstance(law, laws.Law):
                powers = {"power_D": law.of_examples, **({"power_N": p} if (p := law.of_parameters) else {})}
                rows.append({
                    "optimizer": name, "batch": f"B_{kind}", "a": law.a.value, "points": law.points,
                    "scatter": law.scatter,
                    **{k: v for key, e in powers.items()
                       for k, v in ((key, e.value), (f"{key}_lo", e.low), (f"{key}_hi", e.high))},
                })  # fmt: skip
    columns = ["optimizer", "batch", "a", *(f"power_{x}{end}" for x in "DN" for end in ("", "_lo", "_hi")), "points",
               "scatter"]  # fmt: skip
    return Table(
        "laws", columns, rows, "Power laws a D^power_D N^power_N of batch sizes, and how well they are known.",
        {"a": "factor of the law", "power_D": "exponent of the number of examples", "power_N": "exponent of the number "
         "of parameters; empty with one model", "points": "batch sizes that the law was fitted to",
         "scatter": "root of the mean square of ln B about the law", "batch": "which batch size"},
    )  # fmt: skip


WORDS = {"opt": "best batch size", "crit": "critical batch size"}
LITERATURE = {  # exponents of D
    "opt": "Bergsma et al. 2025 find about D^0.4",
    "crit": "Zhang et al. 2024 and Bergsma et al. 2025 find about D^0.5",
}


def _law_in_words(kind, law):
    p = law.of_examples
    what = f"the {WORDS[kind]} goes as D^p with p = {with_interval(p, 2)}"
    if p.low > 0.0:
        return what.replace("goes", "grows")
    return what if p.high < 0.0 else f"{what}, which does not tell whether it grows"


def _headline(name, series, fits):
    said = [
        _law_in_words(kind, law) if isinstance(law, laws.Law) else f"no law of the {WORDS[kind]} is known"
        for kind, law in fits.items()
    ]
    largest = [(s, s.found[-1]) for s in series if s.optimizer == name]
    ends = [
        f"{f.examples:,} examples{f' and {s.parameters:,} parameters' * (len(largest) > 1)}, B_opt is "
        f"{with_interval(f.b_opt)} and B_crit {with_interval(f.b_crit)}"
        for s, f in largest if f.b_opt.known and f.b_crit.known
    ]  # fmt: skip
    return f"{name}: {', and '.join(said)}{'; at ' * bool(ends)}{'; at '.join(ends)}."


def _findings(name, series, fits):
    lines = []
    for kind, law in fits.items():
        if not isinstance(law, laws.Law):
            lines.append(f"{name}: no law of the {WORDS[kind]}: {law}.")
            continue
        r = law.of_parameters
        of_n = "" if r is None else f" N^{number(r.value, 2)}"
        powers = "" if r is None else f", exponent of N {with_interval(r, 2)}"
        few = ", which is as little as a law can be fitted to" * (law.dof < 2)
        lines.append(
            f"{name}: B_{kind} = {number(law.a.value, 2)} D^{number(law.of_examples.value, 2)}{of_n}, exponent of D "
            f"{with_interval(law.of_examples, 2)}{powers}; from {law.points} batch sizes{few}, which scatter by "
            f"{number(100.0 * law.scatter, 2)} % about it. For language models {LITERATURE[kind]}."
        )
    return lines


def _advice(name, series):
    said = []
    for s in (s for s in series if s.optimizer == name):
        f = s.found[-1]
        where = f"for {f.examples:,} examples with {name} and {s.model}"
        if f.b_opt.known:
            said.append(f"{where} take a batch of about {with_interval(f.b_opt)}")
        else:
            said.append(f"{where} the best batch is not known ({f.b_opt.why})")
        if f.b_crit.known and f.b_crit.low > f.best:
            said.append(f"a larger one, up to {number(f.b_crit.low)}, costs at most {laws.MARGIN:g} times the examples")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def _notes(cells, series, samples):
    notes = []
    for cell in cells:
        notes += cell.tuned.remarks(f"{cell.optimizer}, {cell.model}, D = {cell.examples:,}, B = {cell.batch}")
    for s in series:
        for f in s.found:
            for name, batch in (("B_opt", f.b_opt), ("B_crit", f.b_crit)):
                if not batch.known:
                    notes.append(f"{s.optimizer}, {s.model}, D = {f.examples:,}: no {name}: {batch.why}.")
    if (most := max(s.found[-1].examples for s in series)) > samples:
        notes.append(f"The training set has {samples:,} samples: with up to {most:,} examples they come again, where "
                     f"the laws of the literature are of fresh ones.")  # fmt: skip
    if len({s.model for s in series}) > 1:
        notes.append("Models of different sizes are taken to share the exponent of D.")
    return notes


def _draw_losses(s, part):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    failed = []
    for i, (size, cells) in enumerate(s.cells.items()):
        means = [mean(cell.losses) for cell in cells]
        figures.points_with_interval(
            axes, [c.batch for c in cells], [m.value for m in means], [m.low for m in means], [m.high for m in means],
            i=i, label=f"D = {size:,}", join=True, hollow=[bool(m.failed) for m in means],
        )  # fmt: skip
        best = s.found[i].b_opt
        if best.known:
            axes.plot([best.value] * 2, [0.93 * s.found[i].loss, 1.07 * s.found[i].loss], color=figures.GREY,
                      linestyle="--", linewidth=1.0, zorder=3)  # fmt: skip
        failed.append([c.batch for c, m in zip(cells, means) if m.failed])
    axes.set(xlabel="batch size B (examples)", ylabel=f"{part} loss")
    for i, where in enumerate(failed):
        figures.failed(axes, where, i=i, row=i if any(failed[:i]) else 0)
    figures.legend(figure, 2)
    return figure


def _draw_laws(series, fits):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.batches)
    several = len(series) > 1
    for k, s in enumerate(series):
        sizes = [f.examples for f in s.found]
        grid = np.geomspace(min(sizes), max(sizes), 50)
        for j, kind in enumerate(WORDS):
            values = [getattr(f, f"b_{kind}") for f in s.found]
            i = 2 * k + j
            figures.points_with_interval(
                axes, sizes, [e.value for e in values], [e.low for e in values], [e.high for e in values], i=i,
                label=f"B_{kind}{f', N = {s.parameters:,}' * several}", hollow=[not e.known for e in values],
            )  # fmt: skip
            if isinstance(law := fits[kind], laws.Law):
                figures.line_with_interval(axes, grid, law(grid, s.parameters), *law.band(grid, s.parameters), i=i)
    axes.set(xlabel="examples D", ylabel="batch size (examples)")
    figures.legend(figure, 2)
    return figure
