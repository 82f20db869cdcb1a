"""Does a large batch generalise worse, or had it fewer steps? The same batches at equal epochs and at equal steps.

Shallue et al. 2019, section on budgets; Hoffer et al. 2017, "Train longer, generalize better".
"""

import math
from dataclasses import dataclass

import numpy as np

from allgrad.ddp import Sampler
from allgrad.launch.plan import steps_of
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, SEEDS, Tuned, tune_batches
from allgrad.launch.study.result import Check, Figure, Result, Table

GRIDS = {
    "quick": {
        "optimizers": ("sgd",), "batches": (4, 16, 64, 256, 1024), "budgets": ("2ep", "10ep", "50", "400"),
        "seeds": SEEDS, "report_seeds": REPORT_SEEDS,
    },
    "full": {
        "optimizers": ("sgd", "momentum", "adam"), "batches": tuple(4 * 2**i for i in range(9)),
        "budgets": ("2ep", "10ep", "40ep", "50", "400", "1600"), "seeds": (*SEEDS, 3),
        "report_seeds": tuple(range(100, 110)),
    },
}  # fmt: skip
FEW_STEPS = 5  # a cell with fewer says nothing about training


@dataclass
class Cell:
    """What an optimizer makes of a batch within a budget; `tuned.rows` are the report's seeds, if any rate works."""

    optimizer: str
    budget: str
    batch: int
    steps: int
    tuned: Tuned

    @property
    def losses(self):
        return [_loss(row) for row in self.tuned.rows]

    @property
    def finite(self):
        return [loss for loss in self.losses if math.isfinite(loss)]

    @property
    def loss(self):
        """Mean over the seeds that ended with one; nan if none did."""
        return _mean(self.finite)

    def average(self, key):
        """The mean of a row's value over the seeds; nan if it has none."""
        return _mean([row[key] for row in self.tuned.rows if row["status"] == "ok" and row.get(key) is not None])


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=PRESET, budgets=None, sampler="epoch", seeds=PRESET,
    report_seeds=PRESET, lr=None, steps=None, schedule="linear", **more,
) -> Result:  # fmt: skip
    """The experiment. budgets: steps as numbers, epochs as "10ep"; `steps` gives a single one."""
    batches = sorted(batches)
    budgets = budgets or ((str(steps),) if steps else GRIDS[preset]["budgets"])
    common = {
        "target": None, "metric": "val_loss", "sampler": sampler, "schedule": schedule, "eval_ratio": 2.0, **more,
    }  # fmt: skip

    def chain(pair):
        optimizer, budget = pair

        def configure(batch, **given):
            return runner.configuration(work, optimizer, batch=batch, steps=budget, **common, **given)

        found = tune_batches(
            lab, configure, optimizer, batches, lr, seeds=seeds, report_seeds=report_seeds, cap=10**9, measure=_loss,
            experiment="budgets",
        )  # fmt: skip
        n = len(work.loaded.train_x)
        return [
            Cell(optimizer, budget, batch, steps_of(budget, Sampler(n, batch, "epoch", 0, "carry")), tuned)
            for batch, tuned in found.items()
        ]

    pairs = [(optimizer, budget) for optimizer in optimizers for budget in budgets]
    cells = [cell for found in lab.map(chain, pairs) for cell in found]
    return summarize(work, cells, common, seeds, report_seeds)


def _loss(row):
    value = row["final_val_loss"] if row["status"] == "ok" else None
    return math.inf if value is None else value


def _mean(values):
    return float(np.mean(values)) if values else math.nan


# --- what the cells say ----------------------------------------------------------------------------------------------


def summarize(work, cells, common, seeds, report_seeds) -> Result:
    """Tables, checks, figures and sentences from the cells."""
    cells_of: dict = {}
    for cell in cells:
        cells_of.setdefault((cell.optimizer, cell.budget), []).append(cell)
    several = len({name for name, _ in cells_of}) > 1
    table = Table(
        "cells",
        ["optimizer", "budget", "B", "steps", "epochs", "lr", "val_loss", "ci_lo", "ci_hi", "val_acc", "train_loss",
         "degenerate", "n_seeds", "n_fail", "at_edge", "n_trials", "schedule", "eval_ratio", "sampler"],
        [_row(cell, work, common) for cell in cells],
        "Loss on the validation part at the end of a budget: means over the report's seeds.",
        {"steps": "optimizer steps in the budget", "budget": "what every run may use: steps, or epochs (ep)",
         "degenerate": f"fewer than {FEW_STEPS} steps: says nothing about training"},
    )  # fmt: skip
    result = Result(
        "budgets", "Does a larger batch reach a worse loss because it is large, or because it has fewer steps?",
        _headline(cells_of, several), _checks(work, cells_of, several, len(report_seeds)), [table],
        [Figure(f"loss_{name}", f"Loss on the validation part against batch size with {name}, a line for each budget: "
                "means and 95 % intervals over seeds; the rate tuned in every cell. Hollow: fewer than "
                f"{FEW_STEPS} steps. Crosses: a seed, or every rate, failed.",
                lambda name=name: _draw({b: found for (n, b), found in cells_of.items() if n == name}))
         for name in dict.fromkeys(name for name, _ in cells_of)],
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {len(work.loaded.train_x):,} training samples; every run has its whole budget, its learning "
        f"rate by the schedule {common['schedule']} over it; the rate tuned for each batch and budget on the "
        f"validation loss at the end, on a grid of factor sqrt 2, {len(seeds)} seeds until two rates on both sides "
        f"were worse, the winner run on {len(report_seeds)} fresh seeds; sampler {common['sampler']}; 95 % intervals "
        f"by {fit.RESAMPLES} resamples of the seeds."
    )
    result.advice = _advice(cells_of)
    result.notes = _notes(cells)
    return result


def _row(cell, work, common):
    low, high = fit.mean_interval(cell.losses, mean=np.mean)
    return {
        "optimizer": cell.optimizer, "budget": cell.budget, "B": cell.batch, "steps": cell.steps,
        "epochs": cell.steps * cell.batch / len(work.loaded.train_x), "lr": cell.tuned.lr, "val_loss": cell.loss,
        "ci_lo": low, "ci_hi": high, "val_acc": cell.average("final_val_accuracy"),
        "train_loss": cell.average("final_train_loss"), "degenerate": cell.steps < FEW_STEPS,
        "n_seeds": len(cell.tuned.rows), "n_fail": cell.tuned.failures, "at_edge": cell.tuned.at_edge,
        "n_trials": cell.tuned.trials, "schedule": common["schedule"], "eval_ratio": common["eval_ratio"],
        "sampler": common["sampler"],
    }  # fmt: skip


def _epochs(budget):
    return not budget.isdigit()


def _words(budget):
    return f"{budget.removesuffix('ep')} epochs" if budget.endswith("ep") else \
        f"{budget} steps" if budget.isdigit() else budget  # fmt: skip


def _known(found):
    return [cell for cell in found if cell.finite]


def _headline(cells_of, several):
    said, gaps = [], {True: [], False: []}
    for (name, budget), found in cells_of.items():
        known = _known(found)
        if len(known) < 2:
            said.append(f"{_words(budget)}: {len(known)} of {len(found)} batches have a rate that works on fresh seeds")
            continue
        best = min(known, key=lambda cell: cell.loss)
        small, large = known[0], known[-1]
        gaps[_epochs(budget)].append((large.loss - small.loss) / (math.hypot(_error(large), _error(small)) or math.inf))
        said.append(
            f"{f'{name}, ' if several else ''}{_words(budget)}: validation loss {small.loss:.3g} at B = {small.batch}, "
            f"{large.loss:.3g} at {large.batch} (best {best.loss:.3g} at {best.batch})"
        )
    worse = bool(gaps[True]) and min(gaps[True]) > 2.0
    meaning = ""
    if worse and gaps[False]:
        lost = max(gaps[False]) > 2.0
        meaning = ": at equal epochs the large batch loses, at equal steps it " + (
            "loses in some budgets too" if lost else "does not, so that the gap is one of the budget"
        )
    return "; ".join(said) + meaning + "."


def _advice(cells_of):
    said = []
    for (name, budget), found in cells_of.items():
        known = [cell for cell in _known(found) if cell.steps >= FEW_STEPS]
        if known:
            least = min(cell.loss for cell in known)
            near = [cell for cell in known if cell.loss <= 1.05 * least or cell.loss - least <= 2.0 * _error(cell)]
            said.append(f"{_words(budget)} with {name}: B = {near[-1].batch}")
    return (
        f"The largest batch that loses nothing measurable depends on what is scarce, so name the budget when you name "
        f"a batch: {'; '.join(said)}."
    )


# --- checks ----------------------------------------------------------------------------------------------------------


def _checks(work, cells_of, several, seeds):
    reference = work.is_default
    checks = []
    for (name, budget), found in cells_of.items():
        by = {cell.batch: cell for cell in _known(found)}
        if len(by) < 2:
            continue
        prefix = f"{name}, {_words(budget)}" if several else _words(budget)
        large, smallest = max(by), min(by)
        if _epochs(budget):
            rest = [cell for cell in by.values() if cell.batch != large]
            claim = f"{prefix}: the largest batch is worse than the best (loss at B = {large} over the best)"
            checks.append(_ratio(claim, by[large], rest, seeds, least=1.5 if reference and large == 1024 else 1.0))
        elif int(budget) <= 100:
            high = 256 if 256 in by and smallest == 4 else large
            claim = f"{prefix}: a larger batch is better (loss at B = {smallest} over that at {high})"
            least = 2.0 if reference and (smallest, high) == (4, 256) else 1.0
            checks.append(_ratio(claim, by[smallest], [by[high]], seeds, least=least))
        else:
            middle = 64 if 64 in by and large > 64 else sorted(by)[len(by) // 2]
            if middle != large:
                checks.append(_equal(f"{prefix}: no gap to B = {middle} at B = {large} (standard errors)",
                                     by[large], by[middle], seeds))  # fmt: skip
    return checks


def _ratio(claim, cell, others, seeds, least):
    """A cell's loss over the least of the others', with its interval over seeds."""
    rng = np.random.default_rng(0)

    def draw(one):
        losses = np.array(one.finite)
        return losses[rng.integers(len(losses), size=(fit.RESAMPLES, len(losses)))].mean(axis=1)

    drawn = draw(cell) / np.min([draw(other) for other in others], axis=0)
    value = cell.loss / min(other.loss for other in others)
    return Check(claim, value, *fit.interval(drawn), least=least, seeds=seeds)


def _equal(claim, cell, other, seeds):
    """Whether two losses are within 2 standard errors of their difference: a number without interval."""
    error = math.hypot(_error(cell), _error(other))
    value = (cell.loss - other.loss) / error if error else math.nan
    return Check(claim, value, value, value, -2.0, 2.0, seeds)


def _error(cell):
    """Standard error of a cell's mean loss."""
    return float(np.std(cell.finite, ddof=1) / math.sqrt(len(cell.finite))) if len(cell.finite) > 1 else 0.0


def _notes(cells):
    notes = [
        "The rates were tuned on the validation part that is reported here, with other seeds: the losses are those of "
        "the best rate, and all cells are favoured alike.",
        "Conclusions hold for these budgets and this schedule; a schedule that ends at 0 within the budget is no "
        "point on the way of a longer run, so no hyperbola is fitted to these losses.",
    ]  # fmt: skip
    for cell in cells:
        where = f"{cell.optimizer}, {_words(cell.budget)}, B = {cell.batch}"
        if cell.steps < FEW_STEPS:
            notes.append(f"{where}: {cell.steps} step{'s' * (cell.steps != 1)} only; the cell is degenerate.")
        notes += cell.tuned.remarks(where)
    return notes


def _draw(found):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, (budget, cells) in enumerate(found.items()):
        low, high = zip(*(fit.mean_interval(cell.losses, mean=np.mean) for cell in cells))
        figures.points_with_interval(
            axes, [c.batch for c in cells], [c.loss for c in cells], low, high, i=i, label=_words(budget), join=True,
            hollow=[c.steps < FEW_STEPS for c in cells],
        )  # fmt: skip
    axes.set(xlabel="batch size B (examples)", ylabel="validation loss")
    for i, cells in enumerate(found.values()):
        figures.failed(axes, [c.batch for c in cells if c.tuned.failures or not c.tuned.rows], i=i)
    figures.legend(figure, 2)
    return figure
