"""How many steps to a target does a batch size take, if each has its own best learning rate?

Shallue et al. 2019 (JMLR 20:112) for the measurement, McCandlish et al. 2018 for the hyperbola it is described by.
"""

import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import critical, figures, fit, intervals, runner
from allgrad.launch.study.choices import Cell, against, curves_lead, findings, ratio_of_2x
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.intervals import Estimate, ratio
from allgrad.launch.study.lab import Lab
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, SEEDS, run_report_seeds, tune_batches
from allgrad.launch.study.result import Claim, Figure, Result, Table
from allgrad.launch.study.target import Missing
from allgrad.launch.study.wording import compared, number, with_interval
from allgrad.launch.study.workload import Workload

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "momentum", "adam"), "batches": tuple(4 * 2**i for i in range(9)), "seeds": SEEDS,
        "report_seeds": REPORT_SEEDS, "eval_ratio": 1.05,
    },
    "full": {
        "optimizers": ("sgd", "momentum", "nesterov", "adam", "rmsprop"), "batches": tuple(2**i for i in range(1, 11)),
        "seeds": (*SEEDS, 3), "report_seeds": tuple(range(100, 108)), "eval_ratio": 1.02,
    },
}  # fmt: skip
TIMED_BLOCKS, TIMED_SECONDS, LEAST_TIMED = 5, 0.02, 3  # of steps
TARGETS = {"train_loss": 0.05, "val_loss": 0.15, "train_accuracy": 0.99, "val_accuracy": 0.97}  # on digits


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=PRESET, target=None, metric="train_loss", sampler="epoch",
    seeds=PRESET, report_seeds=PRESET, cap=6000, eval_ratio=PRESET, sustain=1, lr=None, **more,
) -> Result:  # fmt: skip
    """The experiment. What is not given is the preset's; `more` goes into the runs' configurations."""
    batches = sorted(batches)
    if len(batches) < 3:
        raise ConfigurationError(f"--batches: steps against batch size need at least 3 batch sizes, got {len(batches)}")
    common = {
        "target": goal(work, metric, target), "metric": metric, "sampler": sampler, "eval_ratio": eval_ratio,
        "sustain": sustain, **more,
    }  # fmt: skip
    setting = Setting(lab, work, common, seeds, cap, lr)
    chains = lab.map(lambda optimizer: setting.tune_batches(optimizer, batches), optimizers)
    cells = [cell for chain in chains for cell in chain]
    lab.map(lambda cell: setting.run_report_seeds(cell, report_seeds), cells)
    found, left_out = findings(cells, common)
    chosen = [(f, batch) for f in found for batch in dict.fromkeys(f.choices.values())]
    configs = [setting.configure(f.name, b, kind="steps", lr=f.rate(b), seed=seeds[0]) for f, b in chosen]
    for (f, batch), row in zip(chosen, lab.run(configs, "steps")):
        f.seconds[batch] = intervals.mean(row.get("seconds_a_step", []), "timings")
    result = summarize(work, found, common, seeds, report_seeds, preset)
    result.notes += [f"Left out: {why}." for why in left_out]
    return result


def execute(config, comm):
    """Time steps: the row has seconds a step of several blocks, without evaluations."""
    run = runner.Run(config, comm)

    def seconds_of(steps):
        began = time.perf_counter()
        for _ in range(steps):
            run.step()
            run.t += 1
        return (time.perf_counter() - began) / steps

    first = seconds_of(LEAST_TIMED)  # warms up, and says how many steps a block has, on all ranks alike
    steps = comm.broadcast_object(max(LEAST_TIMED, math.ceil(TIMED_SECONDS / first)))
    found = [seconds_of(steps) for _ in range(TIMED_BLOCKS)]
    return {"status": "ok", "steps_to_target": None, "steps": run.t, "seconds_a_step": found}


def goal(work, metric, target=None, known=TARGETS):
    """The target given, or the one known of the default workload; what another has to reach, only its user knows."""
    if target is None and not work.is_default:
        raise Missing(f"--target: which {metric} is to be reached on {work.name}?")
    return known.get(metric) if target is None else target


def rates(lab, work, preset, optimizer, batch, *, target=None, metric="train_loss", sampler="epoch") -> dict:
    """{B: best learning rate} of this experiment's batches up to one, found by the same runs as those of `run`."""
    grid = GRIDS[preset]
    common = {
        "target": goal(work, metric, target), "metric": metric, "sampler": sampler,
        "eval_ratio": grid["eval_ratio"], "sustain": 1,
    }  # fmt: skip
    setting = Setting(lab, work, common, grid["seeds"], 6000, None)
    cells = setting.tune_batches(optimizer, [b for b in grid["batches"] if b <= batch])
    return {cell.batch: cell.tuned.lr for cell in cells if math.isfinite(cell.tuned.score)}


@dataclass
class Setting:
    """What all cells have in common."""

    lab: Lab
    work: Workload
    common: dict
    seeds: tuple
    cap: int
    lr: float | None

    def configure(self, optimizer, batch, **given):
        return runner.configuration(self.work, optimizer, batch=batch, **self.common, **given)

    def tune_batches(self, optimizer, batches):
        """Tune every batch size, the larger ones from the rate of their smaller neighbour."""
        found = tune_batches(
            self.lab, partial(self.configure, optimizer), optimizer, batches, self.lr, seeds=self.seeds,
            report_seeds=(), cap=self.cap, experiment="steps",
        )  # fmt: skip
        return [Cell(optimizer, batch, tuned) for batch, tuned in found.items()]

    def run_report_seeds(self, cell, seeds):
        """Run a cell's best rate on fresh seeds, if there is one."""
        if math.isinf(cell.tuned.score):
            return
        configure = partial(self.configure, cell.optimizer, cell.batch)
        run_report_seeds(self.lab, configure, cell.tuned, seeds, experiment="steps")


# --- what the cells say -----------------------------------------------------------------------------------------------


def summarize(work, found, common, seeds, report_seeds, preset) -> Result:
    """Tables, claims, figures and sentences from the findings."""
    n = len(work.loaded.train_x)
    goal = f"{common['metric'].replace('_', ' ')} {common['target']:g}"
    result = Result(
        "steps", "How many steps does it take to reach the target, and up to which batch does doubling it pay?",
        _headline(found), _claims(found),
        [_cells_table(found, common, n), _fit_table(found), _ranges_table(found)], _figures(found, goal),
        summary=_summary(found), findings=[line for f in found for line in _findings(f)]
        + [f"{name}: its critical batch size ({which}) is {with_interval(e, 2)} times that of adamw "
           f"({compared(e, 'larger', 'smaller')})." for name, (which, e) in against(found).items()],
    )  # fmt: skip
    result.methods = _methods(work, common, seeds, report_seeds, preset, n)
    result.advice = _advice(work, found, common, len(report_seeds))
    result.notes = _notes(work, common, found, n)
    return result


def _methods(work, common, seeds, report_seeds, preset, n):
    measured = work.config()["eval_samples"]
    unit = "windows" if work.loaded.vocabulary is not None else "samples"
    part = f", measured on {measured:,} training {unit}" if measured < n else ""
    return (
        f"{work.name}, {n:,} training {unit}; target {common['metric']} {common['target']:g}; sampler "
        f"{common['sampler']}; learning rate tuned for each optimizer and batch size on a grid of factor sqrt 2 with "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}, made finer around the best as long as its neighbours could be "
        f"told from it, and taken at the vertex of a parabola through them; run on {len(report_seeds)} fresh seeds; "
        f"the step at which the target is met interpolated between logarithms{part}; preset {preset}. Seconds: steps "
        f"times the time of a step on one core, while other runs were under way.\n\n"
        f"95 % intervals: of a cell, Student's t on the logarithms of its seeds' steps, and a quarter of how much "
        f"worse neighbouring rates are, for the choice of its rate; of S_min and B_crit, Student's t on the misfit of "
        f"the curve, with K - 2 degrees of freedom for K batch sizes; of B_2x and CBS-20, all batch sizes at which the "
        f"interpolated steps may pass the level, from the scatter of the seeds (which cells lend each other as far as "
        f"it is alike) and the roughness of the points. The curve is tested by F: its misfit against the scatter of "
        f"the seeds; it is rejected at p < {critical.REJECT:g}."
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def _cells_table(found, common, n):
    rows = []
    for f in found:
        means = [fit.gmean([s for s in c.steps if math.isfinite(s)]) for c in f.cells]
        least = min(b * e.value for b, e in f.steps.items())
        for k, (c, s) in enumerate(zip(f.cells, means)):
            slope = fit.slopes([f.cells[k - 1].batch, c.batch], [means[k - 1], s])[0] if k else math.nan
            e = critical.cell(c.steps, c.tuned.doubt) if c.steps else Estimate(math.nan)
            rows.append({
                "optimizer": f.name, "B": c.batch, "lr": c.tuned.lr, "S": s, "ci_lo": e.low, "ci_hi": e.high,
                "E": c.batch * s, "epochs": c.batch * s / n, "eff": least / (c.batch * s), "slope": slope,
                "region": None if math.isnan(slope) else fit.region(slope), "n_seeds": len(c.steps),
                "n_fail": c.tuned.failures, "at_edge": c.tuned.at_edge, "n_rates": len(c.tuned.tried),
                "n_trials": c.tuned.trials, "budget": f"{common['metric']} {common['target']:g}",
                "eval_ratio": common["eval_ratio"], "sampler": common["sampler"],
            })  # fmt: skip
    return Table(
        "cells",
        ["optimizer", "B", "lr", "S", "ci_lo", "ci_hi", "E", "epochs", "eff", "slope", "region", "n_seeds", "n_fail",
         "at_edge", "n_rates", "n_trials", "budget", "eval_ratio", "sampler"],
        rows, "Steps S and examples E = B S to the target: geometric means over the report seeds, with the 95 % "
        "interval of S. Where a seed failed, S is the mean of the others and has no interval.",
        {"n_rates": "learning rates tried", "budget": "what a run had to reach",
         "eval_ratio": "distance of the steps at which a target may be met, after the first 20",
         "sampler": "order of the samples: epoch (a new permutation each), once, iid (with replacement), never"},
    )  # fmt: skip


def _fit_table(found):
    def ends(name, e):
        return {name: e.value, f"{name}_lo": e.low, f"{name}_hi": e.high}

    rows = [
        {"optimizer": f.name, **ends("S_min", f.curve.s_min), **ends("B_crit", f.curve.b_crit), "p_fit": f.curve.p,
         "rmse_log": f.curve.rmse_log, "rho": f.curve.correlation, **ends("B_2x", f.b_2x), **ends("cbs20", f.cbs20),
         "lead": f.lead, "n_batches": len(f.whole.batches), "n_seeds": f.whole.n}
        for f in found
    ]  # fmt: skip
    return Table(
        "fit",
        ["optimizer", "lead", "B_2x", "B_2x_lo", "B_2x_hi", "B_crit", "B_crit_lo", "B_crit_hi", "S_min", "S_min_lo",
         "S_min_hi", "p_fit", "rmse_log", "rho", "cbs20", "cbs20_lo", "cbs20_hi", "n_batches", "n_seeds"],
        rows, "Critical batch sizes with 95 % intervals: B_2x without a model, B_crit and S_min of the curve "
        "S(B) = S_min (1 + B_crit/B), and CBS-20 (Zhang et al. 2024).",
        {"lead": "which of the two to believe: B_2x where the curve is rejected, or contradicts it",
         "B_2x": "batch size (examples) with twice the fewest steps of all tried, interpolated",
         "p_fit": "p-value of the test that the curve describes the steps; below 0.05 it is rejected",
         "rho": "correlation of the errors of ln S_min and ln B_crit",
         "cbs20": "largest batch size (examples) with at most 1.2 times the fewest examples, interpolated",
         "n_batches": "batch sizes without a failed seed, which the numbers are made of"},
    )  # fmt: skip


def _ranges_table(found):
    rows = [{"optimizer": f.name, **part._asdict()} for f in found for part in f.ranges]
    return Table(
        "ranges", ["optimizer", "first", "last", "b_crit", "b_2x"], rows,
        "How much the critical batch sizes depend on which batch sizes were tried: the same from fewer of them.",
        {"first": "smallest batch size used (examples)", "last": "largest batch size used (examples)",
         "b_crit": "of the curve (examples)", "b_2x": "twice the fewest steps of those used (examples)"},
    )  # fmt: skip


def _summary(found):
    """A row for each choice that a reader has."""
    rows = []
    for f in found:
        for choice, batch in f.choices.items():
            steps = f.steps[batch]
            row = {"optimizer": f.name, "choice": choice, "batch": batch, "rate": f.rate(batch),
                   "steps": with_interval(steps), "examples": with_interval(steps.times(batch))}  # fmt: skip
            if batch in f.seconds:
                row["seconds"] = steps.value * f.seconds[batch].value
            rows.append(row)
    return Table(
        "choices", ["optimizer", "choice", "batch", "rate", "steps", "examples", "seconds"], rows,
        "Which batch size to take, of those tried: cheap, surely at most 20 % more examples than the fewest; critical, "
        "nearest to the critical batch size; fast, beyond which nothing is shown to save over 5 % of the steps. Steps "
        "and examples with 95 % intervals.",
        {"choice": "cheap: the largest that surely needs at most 1.2 times the fewest examples; critical: nearest to "
                   "the critical batch size; fast: the smallest that is not shown to need over 5 % more steps",
         "batch": "batch size (examples a step)", "rate": "learning rate tuned for it", "steps": "steps to the target",
         "examples": "examples to the target",
         "seconds": "about, on one core: time to the target without evaluations (s)"},
    )  # fmt: skip


# --- sentences -------------------------------------------------------------------------------------------------------


def _headline(found):
    """The critical batch size of each optimizer, of all in the same way, or that there is none."""
    by_curve = curves_lead(found)
    pairs = [(f, f.curve.b_crit if by_curve else f.b_2x) for f in found]
    known = [f"{f.name} {with_interval(e, 2)}" for f, e in pairs if e.known]
    unknown = [f"{f.name}: critical batch size not known, {e.why}." for f, e in pairs if not e.known]
    how = "by the curve" if by_curve else "read off the measured points"
    begin = f"Critical batch size (with it a run takes twice the fewest steps; {how}; examples, 95 % intervals)"
    falling = [f.name for f, e in pairs if e.known and not by_curve and not f.flat]
    last = f"{max(int(f.whole.batches[-1]) for f in found):,}"
    grows = f"At least so for {', '.join(falling)}: batches above {last}, not tried, may take fewer steps still."
    return " ".join([f"{begin}: {', '.join(known)}."] * bool(known) + [grows] * bool(falling) + unknown)


def _p(p):
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def _findings(f):
    """A line each, made of intervals."""
    batches = [int(b) for b in f.whole.batches]
    lines = [_proportional(f, batches)]
    e = f.cbs20
    if e.known:
        lines.append(f"{f.name}: at most 20 % more examples than the fewest up to {with_interval(e, 2)} (CBS-20).")
    else:
        lines.append(f"{f.name}: up to which batch 20 % more examples are enough (CBS-20) is not known: {e.why}.")
    saved = ratio(f.steps[batches[-1]], f.steps[batches[-2]])
    lines.append(f"{f.name}: from {batches[-2]:,} to {batches[-1]:,} the steps are {compared(saved, 'more', 'fewer')}.")
    parts = f.ranges[1:]
    if f.b_2x.known:
        lines.append(
            f"{f.name}: read off the measured points (B_2x), the critical batch size is {with_interval(f.b_2x, 2)}"
            f"{_moves([part.b_2x for part in parts])}."
        )
    if f.curve.b_crit.known:
        fits = "is rejected" if f.curve.rejected else "is not rejected"
        lines.append(
            f"{f.name}: the curve S_min (1 + B_crit / B) {fits} ({_p(f.curve.p)}); its B_crit is "
            f"{with_interval(f.curve.b_crit, 2)}{_moves([part.b_crit for part in parts])}, its S_min "
            f"{with_interval(f.curve.s_min)} steps."
        )
    return lines


def _moves(others):
    """How much a number depends on the batch sizes tried."""
    finite = [value for value in others if 0.0 < value < math.inf]
    if not finite:
        return ""
    known = number(min(finite), 2), number(max(finite), 2)
    return f" (without some of the smallest or largest batch sizes {known[0]} to {known[1]})"


def _proportional(f, batches):
    """Up to which batch size each doubling is shown to halve the steps: with slopes that are -1 within a tenth."""
    groups = {c.batch: c.steps for c in f.cells}
    for k in range(len(batches), 1, -1):
        slope = intervals.slope(batches[:k], [groups[b] for b in batches[:k]], "report seeds")
        last = intervals.slope(batches[k - 2 : k], [groups[b] for b in batches[k - 2 : k]], "report seeds")
        if slope.known and slope.low >= -1.1 and slope.high <= -0.9 and last.low <= -0.9:
            return (
                f"{f.name}: from {batches[0]:,} to {batches[k - 1]:,} the steps fall as 1/B (slope of logarithms "
                f"{with_interval(slope)}, within 0.1 of -1)."
            )
    return f"{f.name}: whether the steps fall as 1/B anywhere cannot be told within a tenth of the slope."


def _claims(found):
    """What the literature says of critical batch sizes of optimizers."""
    by_name = {f.name: f for f in found}
    known = (
        ("sgd", "momentum", "Shallue et al. 2019 (JMLR 20:112): momentum makes use of larger batches than plain SGD"),
        ("momentum", "adam", "Zhang et al. 2019 (arXiv 1907.04164), abstract: preconditioning, Adam's included, "
                             "results in much larger critical batch sizes than momentum"),
    )  # fmt: skip
    return [
        Claim(f"{second} makes use of larger batches than {first} (ratio of B_2x)", source,
              "larger: a ratio above 1", [ratio_of_2x(by_name[second], by_name[first])], least=1.0)
        for first, second, source in known if first in by_name and second in by_name
    ]  # fmt: skip


def _advice(work, found, common, seeds):
    """The setting, what to take with each optimizer, and, last, what is not known; a line each."""
    tried = sorted({cell.batch for f in found for cell in f.cells})
    lines = [
        f"{work.name}, to {common['metric']} {common['target']:g}: batch sizes {tried[0]:,} to {tried[-1]:,}, each "
        f"with its own tuned learning rate; {seeds} report seed{'s' * (seeds != 1)}."
    ]
    lines += [_choices(f) for f in found]
    return "\n".join([*lines, "Not known from this: other data, models and targets, and time on more processors."])


def _choices(f):
    """What each choice costs, one after the other."""
    cheap, fast, last = f.choices.get("cheap"), f.choices.get("fast"), int(f.whole.batches[-1])
    if fast is None:
        return f"{f.name}: with {f.whole.n} report seed nothing can be told apart: give --report-seeds 3 or more."
    said = []
    if cheap is not None:
        said.append(f"Up to a batch of {cheap:,} the examples are surely at most 20 % more than the fewest.")
    if cheap is not None and cheap < fast:
        saved, times = ratio(f.steps[fast], f.steps[cheap]), fast / cheap
        paid = f"{number(times * saved.low, 2)} to {number(times * saved.high, 2)} times the examples"
        said.append(f"Going from {cheap:,} to {fast:,} takes {compared(saved, 'more', 'fewer')} steps and {paid}.")
    if fast < last:
        said.append(f"That a batch above {fast:,} saves more than 5 % of the steps is not shown.")
    elif not f.flat:
        said.append(f"At {last:,}, the largest tried, the steps may still fall.")
    return f"{f.name}: {' '.join(said)} {_why(f)}"


def _why(f):
    """Where the critical batch size comes from, and whether a curve says the same."""
    if f.lead == "B_crit":
        return (
            f"The curve S_min (1 + B_crit / B) is not rejected ({_p(f.curve.p)}), with B_crit "
            f"{with_interval(f.critical, 2)}; read off the points it is "
            f"{with_interval(f.b_2x, 2) if f.b_2x.known else 'not known'}."
        )
    if not f.b_2x.known:
        return "No critical batch size is to be had from these batch sizes."
    if f.curve.rejected:
        why = f"no curve S_min (1 + B_crit / B) describes the steps ({_p(f.curve.p)})"
    elif f.disagree:
        why = f"the curve S_min (1 + B_crit / B) says otherwise, {with_interval(f.curve.b_crit, 2)}"
    else:
        why = "a curve says nothing sharp enough"
    return f"The critical batch size is read off the measured points: {why}."


def _notes(work, common, found, n):
    notes = []
    for f in found:
        for cell in f.cells:
            notes += cell.tuned.remarks(f"{f.name} at B = {cell.batch}")
        steps = f.whole.steps
        if steps[0] < 20.0:
            notes.append(f"{f.name}: the smallest batch needs {steps[0]:.0f} steps only: give a harder target.")
        if steps[-1] < 30.0:
            notes.append(
                f"{f.name}: the largest batch needs {steps[-1]:.3g} steps only, so that steps are coarse there; a "
                f"harder target is resolved better."
            )
        if f.curve.b_crit.why and len(f.whole.batches) < critical.LEAST_BATCHES:
            notes.append(
                f"{f.name}: {f.curve.b_crit.why}: two numbers through three points leave hardly any misfit to judge a "
                f"curve by."
            )
        if f.curve.rejected:
            notes.append(
                f"{f.name}: B_crit and S_min of the curve are numbers of a shape that the steps do not have; their "
                f"intervals hold the misfit, but there is no such truth for them to hold. B_2x needs no shape, and is "
                f"measured by the fewest steps of those tried: with larger ones it grows as long as the steps fall."
            )
    if max(c.batch for f in found for c in f.cells) > n / 4 and common["sampler"] != "iid":
        notes.append(
            f"The sampler is part of what a critical batch size means: with {common['sampler']} and {n:,} samples the "
            f"largest batches are much of an epoch, while the theory draws samples independently (--sampler iid)."
        )
    if work.loaded.vocabulary is not None:
        length = work.loaded.features[0]
        notes.append(f"An example is a window of {length} characters, each of which is predicted.")
    if common["metric"].startswith("val"):
        notes.append("The rates were tuned on the validation part that is reported here.")
    return notes


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(found, goal):
    n = max(f.whole.n for f in found)
    return [
        Figure("steps", f"Steps to {goal} against batch size: geometric means and 95 % intervals over {n} seeds. Along "
               "the thin line every doubling of the batch halves the steps. Curves: S_min (1 + B_crit / B) with 95 % "
               "bands, where it is not rejected; else the points are joined. Shaded upright: the critical batch size. "
               "Crosses above: batch sizes at which a seed failed.", lambda: _draw_steps(found, goal)),
        Figure("pareto", f"The price of speed: examples against steps to {goal}, means and 95 % intervals over {n} "
               "seeds; the batch size stands at each point.", lambda: _draw_pareto(found, goal)),
        Figure("rates", "The learning rate that was tuned for each batch size. Thin lines: proportional to B, and to "
               "its root; hollow: at the edge of what was tried.", lambda: _draw_rates(found)),
    ]  # fmt: skip


def _draw_steps(found, goal):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, f in enumerate(found):
        steps = f.steps
        ends = ([getattr(e, end) for e in steps.values()] for end in ("value", "low", "high"))
        fitted = f.curve.b_crit.known and not f.curve.rejected
        figures.points_with_interval(axes, [*steps], *ends, i=i, label=f.name, join=not fitted)
        if fitted:
            x = np.geomspace(min(steps), max(steps), 100)
            figures.line_with_interval(axes, x, f.curve(x), *f.curve.band(x), i=i)
    first = found[0]
    axes.set(xlabel="batch size B (examples)", ylabel=f"steps to {goal}")
    figures.guide(axes, -1.0, (first.whole.batches[0], first.whole.steps[0]), "1/B", at=0.7, below=True)
    for i, f in enumerate(found):
        critical = f.curve.b_crit if curves_lead(found) else f.b_2x
        if critical.known:
            figures.band(axes, critical.low, min(critical.high, f.whole.batches[-1]), axis="x", i=i)
        figures.failed(axes, [c.batch for c in f.cells if c.tuned.failures or not c.steps], i=i)
    figures.legend(figure, 3)
    return figure


def _draw_pareto(found, goal):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, f in enumerate(found):
        steps = f.steps
        x, low, high = ([getattr(e, end) for e in steps.values()] for end in ("value", "low", "high"))
        y = ([b * s for b, s in zip(steps, end)] for end in (x, low, high))
        figures.points_with_interval(axes, x, *y, i=i, label=f.name, join=True)
    axes.set(xlabel=f"steps to {goal}", ylabel="examples seen")
    figures.legend(figure, 3)
    return figure


def _draw_rates(found):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, f in enumerate(found):
        cells = [cell for cell in f.cells if cell.steps]
        rates, hollow = [cell.tuned.lr for cell in cells], [cell.tuned.at_edge for cell in cells]
        figures.points_with_interval(axes, [c.batch for c in cells], rates, i=i, label=f.name, hollow=hollow, join=True)
    axes.set(xlabel="batch size B (examples)", ylabel="tuned learning rate")
    first = found[0].cells[0]
    figures.guide(axes, 1.0, (first.batch, first.tuned.lr), "B", at=0.4)
    figures.guide(axes, 0.5, (first.batch, first.tuned.lr), "√B", at=0.6, below=True)
    figures.legend(figure, 3)
    return figure
