"""How many steps to a target does a batch size take, if each has its own best learning rate?

Shallue et al. 2019 (JMLR 20:112) for the measurement, McCandlish et al. 2018 for the hyperbola it is described by.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.lab import Lab
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, SEEDS, Tuned, run_report_seeds, tune_batches
from allgrad.launch.study.result import Check, Figure, Result, Table
from allgrad.launch.study.target import Missing
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
TARGETS = {"train_loss": 0.05, "val_loss": 0.15, "train_accuracy": 0.99, "val_accuracy": 0.97}  # on digits
DIGITS = {"sgd": (70.0, 150.0), "momentum": (110.0, 220.0), "adam": (130.0, 260.0)}  # where B_crit lies on digits


@dataclass
class Cell:
    """What one optimizer needs with one batch size; `steps` of the report's seeds, inf where one failed."""

    optimizer: str
    batch: int
    tuned: Tuned

    @property
    def steps(self):
        return self.tuned.steps

    @property
    def meets(self):
        return any(map(math.isfinite, self.steps))


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
    return summarize(work, cells, common, seeds, report_seeds, preset)


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


# --- what the cells say ----------------------------------------------------------------------------------------------


def summarize(work, cells, common, seeds, report_seeds, preset) -> Result:
    """Tables, checks, figures and sentences from the cells."""
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    cells_of = {name: [cell for cell in cells if cell.optimizer == name] for name in optimizers}
    for name in optimizers:
        if (n := sum(cell.meets for cell in cells_of[name])) < 3:
            why = next(
                (f"; {cell.tuned.why}" for cell in cells_of[name] if cell.tuned.why),
                ": give other --batches or a larger --cap",
            )
            raise ConfigurationError(
                f"{name} meets {common['metric']} {common['target']:g} with {n} of {len(cells_of[name])} batch sizes, "
                f"where 3 are needed{why}"
            )
    fits = {name: fit.bootstrap({c.batch: c.steps for c in cells_of[name]}) for name in optimizers}
    rows = [row for name in optimizers for row in _rows(cells_of[name], work, common, len(seeds))]
    fit_rows = [_fit_row(name, cells_of[name], fits[name]) for name in optimizers]
    table = Table(
        "cells",
        ["optimizer", "B", "lr", "S", "ci_lo", "ci_hi", "E", "epochs", "eff", "slope", "region", "n_seeds", "n_fail",
         "at_edge", "n_rates", "n_trials", "budget", "eval_ratio", "sampler"],
        rows, "Steps S and examples E = B S to the target: geometric means over the report's seeds.",
        {"n_rates": "learning rates tried", "budget": "what a run had to reach",
         "eval_ratio": "distance between evaluations after the first 20 steps",
         "sampler": "order of the samples: epoch (a new permutation each), once, iid (with replacement), never"},
    )  # fmt: skip
    hyperbolas = Table(
        "fit",
        ["optimizer", "S_min", "S_min_lo", "S_min_hi", "B_crit", "B_crit_lo", "B_crit_hi", "rmse_log", "cbs20",
         "n_seeds"],
        fit_rows, "S(B) = S_min (1 + B_crit/B), fitted to log S; 95 % intervals by bootstrap over seeds. cbs20: the "
        "largest batch with at most 1.2 times the least examples (Zhang et al. 2024).",
        {"cbs20": "largest batch size with at most 1.2 times the fewest examples, interpolated"},
    )  # fmt: skip
    checks = _checks(work, common, cells_of, fits, len(report_seeds))
    n = len(work.loaded.train_x)
    measured = work.config()["eval_samples"]
    unit = "windows" if work.loaded.vocabulary is not None else "samples"
    result = Result(
        "steps", "How many steps does it take to reach the target, and up to which batch does doubling it halve them?",
        " ".join(_headline(name, cells_of[name], fits[name]) for name in optimizers), checks, [table, hyperbolas],
        _figures(cells_of, fits, common),
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {n:,} training {unit}; target {common['metric']} {common['target']:g}; batches "
        f"{rows[0]['B']} to {rows[-1]['B']}; sampler {common['sampler']}, batches going on over the end of an epoch; "
        f"{common.get('schedule', 'constant')} learning rate, tuned for each optimizer and batch on a grid of factor "
        f"sqrt 2, {len(seeds)} seeds until two rates on both sides were worse, the winner run on {len(report_seeds)} "
        f"fresh seeds; evaluations at the first 20 steps and then at distances of {common['eval_ratio']:g}, the "
        f"crossing interpolated between logarithms"
        f"{f', measured on {measured:,} training {unit}' if measured < n else ''}; 95 % intervals by "
        f"{fit.RESAMPLES} resamples of the seeds."
    )
    result.advice = _advice(work, cells_of, fits, fit_rows, common, len(report_seeds))
    result.notes = _notes(work, common, cells_of, fits, n)
    return result


def _rows(cells, work, common, tuning_seeds):
    n = len(work.loaded.train_x)
    means = [fit.gmean([s for s in cell.steps if math.isfinite(s)]) for cell in cells]
    least = min((c.batch * s for c, s in zip(cells, means) if math.isfinite(s)), default=math.nan)
    rows = []
    for k, (cell, s) in enumerate(zip(cells, means)):
        low, high = fit.mean_interval(cell.steps)
        slope = fit.slopes([cells[k - 1].batch, cell.batch], [means[k - 1], s])[0] if k else math.nan
        rows.append({
            "optimizer": cell.optimizer, "B": cell.batch, "lr": cell.tuned.lr, "S": s, "ci_lo": low, "ci_hi": high,
            "E": cell.batch * s, "epochs": cell.batch * s / n, "eff": least / (cell.batch * s), "slope": slope,
            "region": None if math.isnan(slope) else fit.region(slope),
            "n_seeds": len(cell.steps), "n_fail": cell.tuned.failures, "at_edge": cell.tuned.at_edge,
            "n_rates": len(cell.tuned.tried), "n_trials": cell.tuned.trials,
            "budget": f"{common['metric']} {common['target']:g}", "eval_ratio": common["eval_ratio"],
            "sampler": common["sampler"],
        })  # fmt: skip
    return rows


def _means(cells):
    """Batches and geometric means of the steps of the seeds that met the target, of cells where one did."""
    pairs = [(c.batch, fit.gmean([s for s in c.steps if math.isfinite(s)])) for c in cells]
    pairs = [(b, s) for b, s in pairs if math.isfinite(s)]
    return [b for b, _ in pairs], [s for _, s in pairs]


def _fit_row(name, cells, found):
    batches, steps = _means(cells)
    low, high = found.s_min_interval, found.b_crit_interval
    return {
        "optimizer": name, "S_min": found.fit.s_min, "S_min_lo": low[0], "S_min_hi": low[1],
        "B_crit": found.fit.b_crit, "B_crit_lo": high[0], "B_crit_hi": high[1], "rmse_log": found.fit.rmse_log,
        "cbs20": fit.useful_batch(batches, [b * s for b, s in zip(batches, steps)]),
        "n_seeds": max(len(c.steps) for c in cells),
    }  # fmt: skip


def _halving(batches, steps):
    """The largest batch tried up to which every doubling divides the steps by 1.8 (a slope of -0.85) or more."""
    last = batches[0]
    for batch, slope in zip(batches[1:], fit.slopes(batches, steps)):
        if slope > -0.85:
            break
        last = batch
    return last


def _headline(name, cells, found):
    batches, steps = _means(cells)
    perfect = _halving(batches, steps)
    low, high = found.b_crit_interval
    begin = f"S falls as 1/B up to B = {perfect}" if perfect > batches[0] else "S falls slower than 1/B from the start"
    gain = 100.0 * max(0.0, 1.0 - steps[-1] / steps[-2])
    cells = [cell for cell in cells if cell.meets]
    return (
        f"{name}: {begin}; S_min = {found.fit.s_min:.3g}, B_crit = {found.fit.b_crit:.0f} [{low:.0f}, {high:.0f}]; "
        f"from {batches[-2]} to {batches[-1]} the larger batch saves {gain:.0f} % of the steps; best rate "
        f"{cells[0].tuned.lr:.2g} at B = {cells[0].batch}, {cells[-1].tuned.lr:.2g} at {cells[-1].batch}."
    )


def _missed(cells, found):
    """At how many of how many batch sizes the fitted curve is outside the 95 % interval of the steps."""
    ends = {cell.batch: fit.mean_interval(cell.steps) for cell in cells}
    ends = {b: (low, high) for b, (low, high) in ends.items() if low < high and math.isfinite(found.fit.b_crit)}
    return sum(not low <= found.fit(b) <= high for b, (low, high) in ends.items()), len(ends)


def _advice(work, cells_of, fits, fit_rows, common, seeds):
    """The setting, the batches to choose from with each optimizer, what doubling costs, and, last, what is not known.

    A line each.
    """
    tried = sorted({cell.batch for cells in cells_of.values() for cell in cells})
    lines = [
        f"{work.name}, to {common['metric']} {common['target']:g}: batch sizes {tried[0]} to {tried[-1]}, each with "
        f"its own tuned learning rate; {seeds} report seed{'s' * (seeds != 1)}."
    ]
    lines += [_choices(row, cells_of[row["optimizer"]], fits[row["optimizer"]]) for row in fit_rows]
    if any(0.0 < row["B_crit"] < math.inf for row in fit_rows):
        lines.append(
            "On the fitted curve S_min (1 + B_crit / B) a doubling far below B_crit halves the steps; from B_crit to "
            "twice it, it saves 25 % of the steps and costs 50 % more examples; every further one saves less for more."
        )
    unknown = "Not known from this: other data, models and targets, and more ranks than were timed."
    return "\n".join([*lines, unknown])


def _choices(row, cells, found):
    """The cheapest batch of an optimizer, the compromise, and the fastest tried, each with its price."""
    batches, steps = _means(cells)
    examples = [b * s for b, s in zip(batches, steps)]
    least, critical = min(examples), row["B_crit"]
    if row["cbs20"] < batches[-1]:
        cheap = (
            f"cheapest up to about B = {row['cbs20']:.0f} (at most 20 % more examples than the fewest, {least:,.0f})"
        )
    else:
        cheap = f"cheapest up to B = {batches[-1]} or more (20 % more examples than the fewest, {least:,.0f}, at most)"
    perfect = _halving(batches, steps)
    halved = f"up to {perfect} a doubling divides the steps by 1.8 or more" if perfect > batches[0] else (
        f"from {batches[0]} on a doubling divides the steps by less than 1.8"
    )  # fmt: skip
    if 0.0 < critical < math.inf:
        missed, n = _missed(cells, found)
        doubt = f"; the curve misses {missed} of {n} points" if 5 * missed > n else ""
        beyond = "" if batches[0] <= critical <= batches[-1] else ", an extrapolation"
        middle = (
            f"compromise B_crit = {critical:.0f} [{row['B_crit_lo']:.0f}, {row['B_crit_hi']:.0f}]{beyond} (on the "
            f"fitted curve twice the fewest steps, S_min = {row['S_min']:.3g}, and twice the fewest examples{doubt})"
        )
    else:
        middle = "no compromise, since the steps do not bend within the batch sizes tried"
    k = min(range(len(steps)), key=steps.__getitem__)
    near = min((c for c in cells if c.meets), key=lambda c: abs(math.log(c.batch / min(max(critical, 1.0), 1e9))))
    return (
        f"{row['optimizer']}: {cheap}, {halved}; {middle}; fastest tried B = {batches[k]} ({steps[k]:.3g} steps, "
        f"{examples[k] / least:.1f} times the fewest examples); best learning rate {near.tuned.lr:.2g} at "
        f"B = {near.batch}, to be tuned anew for each batch."
    )


def _checks(work, common, cells_of, fits, seeds):
    reference = work.is_default and common["metric"] == "train_loss" and common["target"] == TARGETS["train_loss"]
    spanned = all({4, 32, 1024} <= {cell.batch for cell in cells} for cells in cells_of.values())
    reference = reference and common["sampler"] == "epoch" and spanned
    checks = []
    for name, cells in cells_of.items():
        found, cells = fits[name], [cell for cell in cells if cell.meets]
        low, high = found.b_crit_interval
        known = reference and name == "sgd"
        # On the hyperbola the slope is -1 / (1 + B / B_crit), -0.75 at a third of B_crit.
        small = [c for c in cells if c.batch <= (32 if reference else found.fit.b_crit / 3.0)]
        if len(small) > 1:
            checks.append(
                _slope(f"{name}: S falls as 1/B over B = {small[0].batch} to {small[-1].batch} (slope -1)", small,
                       -1.1, -0.85 if reference else -0.7, seeds)
            )  # fmt: skip
        if cells[-2].batch > 4.0 * found.fit.b_crit or known:
            claim = (
                f"{name}: beyond B_crit a larger batch saves few steps (slope {cells[-2].batch} to {cells[-1].batch})"
            )
            checks.append(_slope(claim, cells[-2:], -0.25, math.inf, seeds))
        rmse = found.fit.rmse_log
        checks.append(Check(f"{name}: the hyperbola describes S (rmse of log S)", rmse, rmse, rmse, most=0.12))
        if reference and name in DIGITS:
            least, most = DIGITS[name]
            checks.append(Check(f"{name}: B_crit on digits", found.fit.b_crit, low, high, least, most, seeds))
        if known:
            s_low, s_high = found.s_min_interval
            checks.append(Check("sgd: S_min on digits", found.fit.s_min, s_low, s_high, 10.0, 17.0, seeds))
            checks += _rates(cells)
    for first, second, least in (("sgd", "momentum", 1.2), ("momentum", "adam", 1.0)):
        if first in cells_of and second in cells_of and (least > 1.0 or reference):
            with np.errstate(divide="ignore", invalid="ignore"):  # B_crit is 0 or inf where the steps do not bend
                ratio = float(np.divide(fits[second].fit.b_crit, fits[first].fit.b_crit))
                low, high = fit.interval(fits[second].b_crit / fits[first].b_crit)
            claim = f"{second} makes use of larger batches than {first} (ratio of B_crit)"
            if not math.isnan(ratio):  # neither of them bends: nothing is known
                checks.append(Check(claim, ratio, low, high, least, seeds=seeds))
    return checks


def _slope(claim, cells, least, most, seeds):
    batches, steps = _means(cells)
    finite = {c.batch: [s for s in c.steps if math.isfinite(s)] for c in cells}
    drawn = fit.resampled({b: finite[b] for b in batches})
    low, high = fit.interval([fit.slope(batches, row) for row in np.exp(drawn)])
    return Check(claim, fit.slope(batches, steps), low, high, least, most, seeds)


def _rates(cells):
    rate = {c.batch: c.tuned.lr for c in cells}
    checks = []
    if {4, 32} <= rate.keys():
        value = (rate[32] / rate[4]) ** (1.0 / 3.0)
        claim = "sgd: the best rate grows with B up to 32 (factor per doubling)"
        checks.append(Check(claim, value, value, value, 1.4))
    if {128, 1024} <= rate.keys():
        value = rate[1024] / rate[128]
        claim = "sgd: the best rate hardly grows from B = 128 to 1024 (factor in all)"
        checks.append(Check(claim, value, value, value, most=2.0))
    return checks


def _notes(work, common, cells_of, fits, n):
    notes = []
    for name, cells in cells_of.items():
        for cell in cells:
            notes += cell.tuned.remarks(f"{name} at B = {cell.batch}")
        _, steps = _means(cells)
        if steps[0] < 20.0:
            notes.append(f"{name}: the smallest batch needs {steps[0]:.0f} steps only: give a harder target.")
        if fits[name].fit.s_min < 30.0:
            notes.append(
                f"{name}: S_min is {fits[name].fit.s_min:.3g} steps, so that S is coarse at large batches; a harder "
                f"target resolves it better."
            )
        missed, of_all = _missed(cells, fits[name])
        if 5 * missed > of_all:  # far more than by chance
            notes.append(
                f"{name}: the fitted curve misses {missed} of {of_all} points (it is outside their 95 % intervals): "
                f"the interval of B_crit is that of the seeds, without misfit and rate grid."
            )
        low, high = fits[name].b_crit_interval
        if cells[0].batch > 0.2 * fits[name].fit.b_crit:  # on the hyperbola, 20 % more than the fewest examples
            notes.append(
                f"{name}: the smallest batch tried, {cells[0].batch}, is above a fifth of B_crit, so that smaller ones "
                f"should be cheaper still: give some, to see S fall as 1/B and which is the largest at little cost."
            )
        if not cells[0].batch < low <= high < cells[-1].batch:
            notes.append(f"{name}: the interval of B_crit reaches beyond the batches tried: an extrapolation.")
    if cells[-1].batch > n / 4 and common["sampler"] != "iid":
        notes.append(
            f"The sampler is part of what B_crit means: with {common['sampler']} and {n:,} samples the largest batches "
            f"are much of an epoch, while the theory draws samples independently (--sampler iid)."
        )
    if work.loaded.vocabulary is not None:
        length = work.loaded.features[0]
        notes.append(f"An example is a window of {length} characters, each of which is predicted.")
    if common["metric"].startswith("val"):
        notes.append("The rates were tuned on the validation part that is reported here.")
    return notes


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(cells_of, fits, common):
    goal = f"{common['metric'].replace('_', ' ')} {common['target']:g}"
    return [
        Figure("steps", f"Steps to {goal} against batch size: geometric means and 95 % intervals over seeds, and the "
               "fitted hyperbola in its interval. Along the thin line every doubling of the batch halves the steps; "
               "crosses: batch sizes at which a seed failed.",
               lambda: _draw_steps(cells_of, fits, goal)),
        Figure("pareto", f"The price of speed: examples against steps to {goal}; each point is a batch size.",
               lambda: _draw_pareto(cells_of, goal)),
        Figure("rates", "The best learning rate of each batch size, on a grid of factor sqrt 2. Thin lines: "
               "proportional to B, and to its root; hollow: at the edge of what was tried.",
               lambda: _draw_rates(cells_of)),
    ]  # fmt: skip


def _draw_steps(cells_of, fits, goal):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, (name, cells) in enumerate(cells_of.items()):
        batches, steps = _means(cells)
        low, high = zip(*(fit.mean_interval(cell.steps) for cell in cells if cell.batch in batches))
        figures.points_with_interval(axes, batches, steps, low, high, i=i, label=name)
        x = np.geomspace(batches[0], batches[-1], 100)
        found = fits[name]
        if math.isfinite(found.fit.b_crit):
            drawn = [s * (1.0 + b / x) for s, b in zip(found.s_min, found.b_crit) if math.isfinite(b)]
            figures.line_with_interval(axes, x, found.fit(x), *np.quantile(drawn, (0.025, 0.975), axis=0), i=i)
    batches, steps = _means(next(iter(cells_of.values())))
    axes.set(xlabel="batch size B (examples)", ylabel=f"steps to {goal}")
    figures.guide(axes, -1.0, (batches[0], steps[0]), "1/B", at=0.7, below=True)
    for i, cells in enumerate(cells_of.values()):
        figures.failed(axes, [c.batch for c in cells if c.tuned.failures or not c.steps], i=i)
    figures.legend(figure, 3)
    return figure


def _draw_pareto(cells_of, goal):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, (name, cells) in enumerate(cells_of.items()):
        batches, steps = _means(cells)
        examples = [b * s for b, s in zip(batches, steps)]
        ends = list(zip(*(fit.mean_interval(cell.steps) for cell in cells if cell.batch in batches)))
        low, high = ([b * s for b, s in zip(batches, end)] for end in ends)
        figures.points_with_interval(axes, steps, examples, low, high, i=i, label=name, join=True)
    axes.set(xlabel=f"steps to {goal}", ylabel="examples seen")
    figures.legend(figure, 3)
    return figure


def _draw_rates(cells_of):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, (name, cells) in enumerate(cells_of.items()):
        found = [cell for cell in cells if cell.steps]
        rates = [cell.tuned.lr for cell in found]
        hollow = [cell.tuned.at_edge for cell in found]
        figures.points_with_interval(
            axes, [cell.batch for cell in found], rates, i=i, label=name, hollow=hollow, join=True
        )
    axes.set(xlabel="batch size B (examples)", ylabel="best learning rate")
    first = next(iter(cells_of.values()))[0]
    figures.guide(axes, 1.0, (first.batch, first.tuned.lr), "B", at=0.4)
    figures.guide(axes, 0.5, (first.batch, first.tuned.lr), "√B", at=0.6, below=True)
    figures.legend(figure, 3)
    return figure
