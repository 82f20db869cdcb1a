"""Does a large batch generalise worse, or had it fewer steps? The same batches at equal epochs and at equal steps.

Hoffer et al. 2017, "Train longer, generalize better"; Shallue et al. 2019, where budgets are compared.
"""

import math
from dataclasses import dataclass

from allgrad.ddp import Sampler
from allgrad.launch.plan import steps_of
from allgrad.launch.study import figures, intervals, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.intervals import Estimate, mean, paired
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, SEEDS, Tuned, tune_batches
from allgrad.launch.study.result import FAIL, LEAST_SEEDS, PASS, Claim, Figure, Result, Table, judge
from allgrad.launch.study.wording import MARGIN, compared, with_interval

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
HOFFER = "Hoffer et al. 2017, abstract"


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
        """On the validation part at the end, of each seed; inf where it failed."""
        return [_loss(row) for row in self.tuned.rows]

    @property
    def loss(self):
        return mean(self.losses)

    @property
    def counts(self):
        """Whether it says something about training: it took steps, with seeds enough, of which none failed."""
        return self.steps >= FEW_STEPS and self.loss.known and self.loss.n >= LEAST_SEEDS

    def average(self, key):
        """The mean of a row's value over the seeds that did not fail; nan if it has none."""
        rows = [row for row in self.tuned.rows if row["status"] == "ok"]
        return mean([row[key] for row in rows if row.get(key) is not None], log=False).value

    def over(self, other: "Cell"):
        """Its loss over that of another, seed by seed."""
        if not (self.tuned.rows and other.tuned.rows):
            return Estimate(math.nan, why="no learning rate works")
        return paired(self.losses, other.losses)


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


# --- what the cells say ----------------------------------------------------------------------------------------------


def summarize(work, cells, common, seeds, report_seeds) -> Result:
    """Tables, claims, figures and sentences from the cells."""
    cells_of: dict = {}
    for cell in cells:
        cells_of.setdefault((cell.optimizer, cell.budget), []).append(cell)
    several, n = len({name for name, _ in cells_of}) > 1, len(report_seeds)
    named = {key: f"{key[0]}, {_words(key[1])}" if several else _words(key[1]) for key in cells_of}
    table = Table(
        "cells",
        ["optimizer", "budget", "B", "steps", "epochs", "lr", "val_loss", "ci_lo", "ci_hi", "over_smallest", "over_lo",
         "over_hi", "val_acc", "train_loss", "degenerate", "n_seeds", "n_fail", "at_edge", "n_trials", "schedule",
         "eval_ratio", "sampler"],
        [_row(cell, found[0], work, common) for found in cells_of.values() for cell in found],
        f"Loss on the validation part at the end of a budget: geometric means over {n} seeds, with 95 % intervals "
        "where none failed.",
        {"steps": "optimizer steps in the budget", "budget": "what every run may use: steps, or epochs (ep)",
         "over_smallest": "validation loss over that of the smallest batch, seed by seed",
         "over_lo": "95 % interval of over_smallest, from", "over_hi": "95 % interval of over_smallest, to",
         "degenerate": f"fewer than {FEW_STEPS} steps: says nothing about training"},
    )  # fmt: skip
    claims = [claim for key, found in cells_of.items() if (claim := _claim(named[key], key[1], found))]
    result = Result(
        "budgets", "Does a larger batch reach a worse loss because it is large, or because it has fewer steps?",
        _headline(cells_of, named, claims), claims, [table],
        [Figure(f"loss_{name}", f"Loss on the validation part against batch size with {name}, a line for each budget: "
                f"geometric means of {n} seeds, the rate tuned in every cell; bars are 95 % intervals of the mean. "
                f"Hollow: fewer than {FEW_STEPS} steps. Crosses: a seed, or every rate, failed.",
                lambda name=name: _draw({b: found for (n, b), found in cells_of.items() if n == name}))
         for name in dict.fromkeys(name for name, _ in cells_of)],
        summary=Table(
            "summary", ["budget", "smallest", "largest", "over_smallest", "not_beaten"],
            [_summary(named[key], found) for key, found in cells_of.items()],
            f"Validation loss at the end of each budget, with 95 % intervals over {n} seeds.",
            {"budget": "what every run may use", "smallest": "validation loss with the smallest batch",
             "largest": f"validation loss with the largest batch that takes {FEW_STEPS} steps or more",
             "over_smallest": "the largest over the smallest, seed by seed",
             "not_beaten": "batch sizes that no other is surely better than"},
        ),
        findings=[_finding(named[key], found) for key, found in cells_of.items()],
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {len(work.loaded.train_x):,} training samples; every run has its whole budget, its learning "
        f"rate by the schedule {common['schedule']} over it; the rate tuned for each batch and budget on the "
        f"validation loss at the end, on a grid of factor sqrt 2, {len(seeds)} seeds until two rates on both sides "
        f"were worse, the winner run on {n} fresh seeds; sampler {common['sampler']}; batches compared seed by seed. "
        f"95 % intervals by Student's t on logarithms over seeds. A batch is surely better than another by a "
        f"one-sided t-test at 5 % over the number of others (Bonferroni)."
    )
    result.advice = _advice(cells_of, named)
    result.notes = _notes(cells)
    return result


def _row(cell, smallest, work, common):
    loss, over = cell.loss, cell.over(smallest)
    return {
        "optimizer": cell.optimizer, "budget": cell.budget, "B": cell.batch, "steps": cell.steps,
        "epochs": cell.steps * cell.batch / len(work.loaded.train_x), "lr": cell.tuned.lr, "val_loss": loss.value,
        "ci_lo": loss.low, "ci_hi": loss.high, "over_smallest": over.value, "over_lo": over.low, "over_hi": over.high,
        "val_acc": cell.average("final_val_accuracy"), "train_loss": cell.average("final_train_loss"),
        "degenerate": cell.steps < FEW_STEPS, "n_seeds": len(cell.tuned.rows), "n_fail": cell.tuned.failures,
        "at_edge": cell.tuned.at_edge, "n_trials": cell.tuned.trials, "schedule": common["schedule"],
        "eval_ratio": common["eval_ratio"], "sampler": common["sampler"],
    }  # fmt: skip


def _epochs(budget):
    return not budget.isdigit()


def _words(budget):
    return f"{budget.removesuffix('ep')} epochs" if budget.endswith("ep") else \
        f"{budget} steps" if budget.isdigit() else budget  # fmt: skip


def _ends(found):
    """The smallest and the largest batch with steps enough to say something; None if that is one batch."""
    some = [cell for cell in found if cell.steps >= FEW_STEPS]
    return (some[0], some[-1]) if len(some) > 1 else None


def not_beaten(cells) -> list:
    """The cells than which no other is surely better, seed by seed; those that do not count are left out."""
    return intervals.not_beaten([cell for cell in cells if cell.counts], Cell.over)


def _listed(cells):
    return ", ".join(str(cell.batch) for cell in cells) or "none"


def _summary(name, found):
    ends, best = _ends(found), _listed(not_beaten(found))
    if ends is None:
        return {"budget": name, "not_beaten": best}
    small, large = ends
    return {
        "budget": name, "smallest": f"{with_interval(small.loss)} at B = {small.batch}",
        "largest": f"{with_interval(large.loss)} at B = {large.batch}",
        "over_smallest": with_interval(large.over(small)), "not_beaten": best,
    }  # fmt: skip


def _claim(name, budget, found):
    """What Hoffer et al. say of the largest batch with this kind of budget, against the smallest."""
    if (ends := _ends(found)) is None:
        return None
    small, large = ends
    what = f"validation loss at B = {large.batch} over that at B = {small.batch}"
    if _epochs(budget):
        return Claim(
            f"{name}: at equal epochs the large batch ends worse ({what})", HOFFER,
            '"a persistent degradation in generalization performance" with large batches: a ratio above 1',
            [large.over(small)], least=1.0,
        )  # fmt: skip
    return Claim(
        f"{name}: at equal steps the large batch does not end worse, up to {100 * MARGIN:g} % ({what})", HOFFER,
        'the gap "stems from the relatively small number of updates rather than the batch size, and can be completely '
        f'eliminated": a ratio of 1 at most, with {100 * MARGIN:g} % so that equal losses can be shown to be so',
        [large.over(small)], most=1.0 + MARGIN,
    )  # fmt: skip


def _headline(cells_of, named, claims):
    said = []
    for key, found in cells_of.items():
        if (ends := _ends(found)) is None:
            said.append(f"{named[key]}: no two batches take {FEW_STEPS} steps or more")
        else:
            small, large = ends
            ratio = compared(large.over(small), "higher", "lower")
            said.append(f"{named[key]}, B = {large.batch} against {small.batch}: {ratio}")
    return f"Validation loss. {'; '.join(said)}.{_meaning(claims)}"


def _meaning(claims):
    """What the verdicts say together of the gap, if they say anything."""
    words = [(claim.least == 1.0, verdict.word) for claim, verdict in zip(claims, judge(claims))]
    at_epochs = [word for epochs, word in words if epochs]
    at_steps = [word for epochs, word in words if not epochs]
    if not at_epochs or set(at_epochs) != {PASS} or not at_steps:
        return ""
    if set(at_steps) == {PASS}:
        return (f" The large batch loses at equal epochs, and not at equal steps, up to {100 * MARGIN:g} %: the gap is "
                "one of the budget.")  # fmt: skip
    if FAIL in at_steps:
        return " The large batch loses at equal epochs, and in some budgets at equal steps too."
    return " The large batch loses at equal epochs; that it loses at equal steps is not shown."


def _finding(name, found):
    best, judged = not_beaten(found), [cell for cell in found if cell.counts]
    ranked = (
        f"of B = {_listed(judged)}, none is surely better than B = {_listed(best)}"
        if len(judged) > 1
        else "no two batches can be compared"
    )
    losses = ", ".join(f"{with_interval(cell.loss)} at B = {cell.batch}" for cell in found if cell.steps >= FEW_STEPS)
    return f"{name}: validation loss {losses or 'not measured'}; {ranked}."


def _advice(cells_of, named):
    said = []
    for key, found in cells_of.items():
        judged = [cell for cell in found if cell.counts]
        if len(judged) > 1:
            best = not_beaten(found)
            of = f" of {_listed(judged)}"
            told = f"the best{of}" if len(best) == 1 else f"not told apart from the best{of}, as {_listed(best[:-1])}"
            said.append(f"{named[key]} with {key[0]}: B = {best[-1].batch} ({told})")
    if not said:
        return "No batch can be recommended: no two have seeds enough that did not fail."
    return (
        f"The largest batch that is not surely worse than another depends on what is scarce, so name the budget when "
        f"you name a batch: {'; '.join(said)}."
    )


def _notes(cells):
    notes = [
        "The rates were tuned on the validation part that is reported here, with other seeds: the losses are those of "
        "the best rate, and all cells are favoured alike.",
        "The intervals are those of the runs at the rates found; that another search might have found other rates is "
        "not in them.",
        "Conclusions hold for these budgets and this schedule; a schedule that ends at 0 within the budget is no "
        "point on the way of a longer run, so no hyperbola is fitted to these losses.",
    ]  # fmt: skip
    for cell in cells:
        where = f"{cell.optimizer}, {_words(cell.budget)}, B = {cell.batch}"
        if cell.steps < FEW_STEPS:
            notes.append(f"{where}: {cell.steps} step{'s' * (cell.steps != 1)} only; the cell is degenerate, and is "
                         f"not compared.")  # fmt: skip
        notes += cell.tuned.remarks(where)
    return notes


def _draw(found):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, (budget, cells) in enumerate(found.items()):
        losses = [cell.loss for cell in cells]
        figures.points_with_interval(
            axes, [c.batch for c in cells], *([getattr(e, end) for e in losses] for end in ("value", "low", "high")),
            i=i, label=_words(budget), join=True, hollow=[c.steps < FEW_STEPS for c in cells],
        )  # fmt: skip
    axes.set(xlabel="batch size B (examples)", ylabel="validation loss")
    for i, cells in enumerate(found.values()):
        figures.failed(axes, [c.batch for c in cells if c.tuned.failures or not c.tuned.rows], i=i)
    figures.legend(figure, 2)
    return figure
