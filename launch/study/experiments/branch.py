"""Which batch is too large depends on how far a run has come: branches of one run's checkpoints, with larger batches.

Merrill et al. 2025, "Critical Batch Size Revisited" (arXiv 2505.23971), section 3.1: from a checkpoint train the same
number of samples with k times the batch and f(k) times the rate; the local critical batch size is the largest k B0
whose loss is within a tolerance of those of all smaller ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.intervals import LEVEL, Estimate, mean, paired, share
from allgrad.launch.study.lr_tuning import SEEDS, lr_exponent
from allgrad.launch.study.result import Claim, Figure, Result, Table
from allgrad.launch.study.wording import number

GRIDS = {
    "quick": {
        "optimizers": ("sgd",), "checkpoints": (0, 50, 200, 400, 800, 1600),
        "batches": tuple(4 * 2**i for i in range(8)), "seeds": SEEDS, "report_seeds": tuple(range(100, 116)),
    },
    "full": {
        "optimizers": ("sgd", "momentum", "adam"), "checkpoints": (0, 25, 50, 100, 200, 400, 800, 1600),
        "batches": tuple(4 * 2**i for i in range(9)), "seeds": (*SEEDS, 3), "report_seeds": tuple(range(100, 120)),
    },
}  # fmt: skip
DELTA, TOLERANCE = "1ep", 0.15
_TOLERATED = f"{TOLERANCE:.0%}".replace("%", " %")
MEANINGS = {
    "checkpoint": "steps of the base batch before the branches begin", "samples": "samples of them",
    "loss": "training loss there", "cbs": "local critical batch size", "ci_lo": "largest batch that is surely small "
    "enough", "ci_hi": "smallest batch that is surely too large", "cap": "what makes the next batch too large: noise; "
    "stability: it ends above the checkpoint's loss; grid: none was too large; -: seeds differ",
    "budget": "length of a branch", "diverged": "seeds with a branch that diverged",
    "n_fail": "seeds whose base run ended before",
}  # fmt: skip


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=PRESET, target=None, metric="train_loss", sampler="epoch",
    seeds=PRESET, report_seeds=PRESET, cap=6000, eval_ratio=1.05, sustain=1, lr=None, checkpoints=PRESET, **more,
) -> Result:  # fmt: skip
    """The experiment. The smallest of `batches` is the base, the others are branches; its rate is tuned on steps to
    the target, as in `allgrad study steps`, or `lr` if given."""
    batches, checkpoints = sorted(batches), sorted(checkpoints)
    if checkpoints[0] < 0:
        raise ConfigurationError(f"--checkpoints are numbers of steps, 0 or more, got {checkpoints[0]}")

    def run_all(optimizer):
        rate, trials, edge = lr, 0, None
        if rate is None:
            common = {"target": steps.goal(work, metric, target), "metric": metric, "sampler": sampler,
                      "eval_ratio": eval_ratio, "sustain": sustain, **more}  # fmt: skip
            setting = steps.Setting(lab, work, common, seeds, cap, None)
            tuned = setting.tune_batches(optimizer, batches[:1])[0].tuned
            rate, trials, edge = tuned.lr, tuned.trials, tuned.at_edge
        configs = [
            runner.configuration(
                work, optimizer, kind="branch", lr=rate, batch=batches[0], branches=batches, checkpoints=checkpoints,
                steps=checkpoints[-1] or 1, delta=DELTA, power=lr_exponent(optimizer), sampler=sampler, seed=seed,
                cap=10**9, **more,
            ) for seed in report_seeds
        ]  # fmt: skip
        rows = lab.run(configs, "branch")
        runner.refuse_failed(rows, f"the branches of {optimizer} cannot be run")
        return {"lr": rate, "trials": trials, "at_edge": edge, "rows": rows}

    found = dict(zip(optimizers, lab.map(run_all, optimizers)))
    return summarize(work, found, batches, checkpoints, sampler, seeds, report_seeds)


# --- one run ---------------------------------------------------------------------------------------------------------


class Branching(runner.Run):
    """The run, whose rate is multiplied by `factor` in a branch."""

    factor = 1.0

    def learning_rate(self):
        return lambda step: self.factor * self.config["lr"]


def execute(config, comm):
    """Train the base, and from each checkpoint every branch; the row lists what these end with."""
    run = Branching(config, comm)
    sampler, base = run.loader.sampler, config["batch"]
    (initial, _), found, status = run.start, [], "ok"
    pieces = list(sampler.pieces)
    for checkpoint in config["checkpoints"]:
        if not _train(run, checkpoint):
            status = "diverged"
            break
        before, kept = run.evaluate()["loss"], state(run)
        for batch in config["branches"]:
            sampler.resize(run.t, batch)
            run.factor = (batch / base) ** config["power"]
            length = runner.steps_of(config["delta"], _sampler_of(run, batch))
            good = _train(run, checkpoint + length)
            loss = run.evaluate()["loss"] if good else math.nan
            good = good and not run.diverged(loss)
            found.append({"checkpoint": checkpoint, "batch": batch, "steps": length, "before": before,
                          "loss": loss if good else None})  # fmt: skip
            restore(run, kept, checkpoint)
            sampler.pieces[:], run.factor = pieces, 1.0
    return {"status": status, "steps_to_target": None, "censored_at": None if status == "ok" else run.t,
            "steps": run.t, "examples": run.examples, "epochs": run.examples / len(run.data.train_x),
            "initial_train_loss": initial, "branches": found}  # fmt: skip


def _train(run, stop):
    """Go on to this step; whether all losses were finite."""
    while run.t < stop:
        loss = run.step()
        if not math.isfinite(loss):
            return False
        run.t += 1
    return True


def _sampler_of(run, batch):
    return type(run.loader.sampler)(run.loader.sampler.samples, batch, boundary="carry")


def state(run):
    """A copy of all that a run goes on from, for `restore`."""
    buffers = {name: np.array(buffer.numpy()) for name, buffer in run.model.named_buffers()}
    of_optimizer = run.optimizer.state_dict()
    kept = {k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in of_optimizer.items()}
    return run.arena.data.copy(), buffers, kept


def restore(run, kept, step):
    """Be at a step again, as the run was when `state` returned this."""
    data, buffers, of_optimizer = kept
    run.arena.data[:] = data
    run.arena.bump_versions()
    for name, buffer in run.model.named_buffers():
        buffer.assign(buffers[name])
    run.optimizer.load_state_dict(of_optimizer)
    run.t = step


# --- what the branches say -------------------------------------------------------------------------------------------


def bounds(losses, tolerance=TOLERANCE, level=LEVEL) -> tuple[int, int]:
    """(the largest batch that is surely small enough, the smallest that is surely too large), as columns of `losses`.

    losses   (seeds, batches) of the branches from one checkpoint, by rising batch; inf where a branch diverged
    A batch is small enough if it and all smaller ones end with at most (1 + tolerance) times the loss of each smaller
    one: shown by the upper ends of t-intervals over seeds, one batch after another from below, and of the base batch by
    definition. It is too large if one of them is beyond: shown by lower ends, from above. Both ends are those of
    intervals of this level, corrected for the number of smaller batches where one comparison is enough; batches tested
    in order need no correction. A branch that diverged shows its batch to be too large, as no loss is the mean of its
    seeds; with no batch too large, the second number is the number of batches.
    """
    count = losses.shape[1]

    def over(k):
        return [_over(losses[:, k], losses[:, j]) for j in range(k) if np.isfinite(losses[:, j]).all()]

    small, large = 0, count
    while small + 1 < count and all(e.interval(level)[1] <= 1.0 + tolerance for e in over(small + 1)):
        small += 1
    for k in reversed(range(small + 1, count)):
        of_one = 1.0 - (1.0 - level) / k
        if not (np.isinf(losses[:, k]).any() or any(e.interval(of_one)[0] > 1.0 + tolerance for e in over(k))):
            break
        large = k
    return small, large


def _over(losses, base):
    """Losses over those of a smaller batch, seed by seed; if they are not all above 0, by their differences."""
    if np.all(losses > 0.0) and np.all(base > 0.0):
        return paired(losses, base)
    return mean(1.0 + (losses - base) / abs(base.mean()), log=False)


def crossing(losses, batches, tolerance=TOLERANCE) -> float:
    """The batch at which a curve of losses comes to (1 + tolerance) times the least before it.

    Between two batches the excess is linear in ln B; if the larger one diverged, their geometric mean; the largest
    batch if none is too large; nan if there is no loss of the base.
    """
    least = losses[0]
    if not math.isfinite(least):
        return math.nan
    for k in range(1, len(batches)):
        if not losses[k] <= least + tolerance * abs(least):
            if not math.isfinite(losses[k]):
                return math.sqrt(batches[k - 1] * batches[k])
            before, here = ((losses[i] - least) / abs(least) for i in (k - 1, k))
            return batches[k - 1] * (batches[k] / batches[k - 1]) ** ((tolerance - before) / (here - before))
        least = min(least, losses[k])
    return float(batches[-1])


@dataclass(frozen=True)
class Growth(Estimate):
    """How many times larger the critical batch size is at one checkpoint than at an earlier one.

    At least the largest batch that is surely small enough later over the smallest that is surely too large before, each
    by `bounds` at half the error that the interval may have. Where runs cross the tolerance says nothing of it: noise
    makes them cross early, and its scatter falls along a run.

    first, last   losses (seeds, batches) of the branches from both checkpoints
    """

    batches: Sequence[int] = ()
    first: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)
    last: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)

    def interval(self, level=LEVEL):
        if self.why:
            return math.nan, math.nan
        sizes = [*self.batches, math.inf]
        (small, large), (small_later, large_later) = (
            bounds(losses, level=1.0 - (1.0 - level) / 2.0) for losses in (self.first, self.last)
        )
        return sizes[small_later] / sizes[large], sizes[large_later] / sizes[small]

    def p_above(self, bound):
        return self._p(lambda low, high: low >= bound)

    def p_below(self, bound):
        return self._p(lambda low, high: high <= bound)

    def _p(self, shown):
        """Half of what the widest interval that shows it leaves out: by halving the range of its logarithm."""
        if self.why:
            return math.nan
        least, most = math.log(1e-6), math.log(0.5)
        if not shown(*self.interval(1.0 - 2.0 * math.exp(most) + 1e-9)):
            return 1.0
        for _ in range(12):
            middle = (least + most) / 2.0
            least, most = (least, middle) if shown(*self.interval(1.0 - 2.0 * math.exp(middle))) else (middle, most)
        return math.exp(most)


def _losses(rows, checkpoint, batches):
    """(losses (seeds, batches), and at the checkpoint (seeds,)): inf where a branch diverged, nan if it never was."""
    found, before = np.full((len(rows), len(batches)), math.nan), np.full(len(rows), math.nan)
    for i, row in enumerate(rows):
        here = {b["batch"]: b for b in row.get("branches", ()) if b["checkpoint"] == checkpoint}
        if here:
            found[i] = [math.inf if here[b]["loss"] is None else here[b]["loss"] for b in batches]
            before[i] = next(iter(here.values()))["before"]
    return found, before


def _mean(losses):
    """Geometric means over seeds, arithmetic ones if a loss is not above 0; inf where one failed."""
    return np.exp(np.log(losses).mean(axis=0)) if np.all(losses > 0.0) else losses.mean(axis=0)


def _cell(name, one, checkpoint, batches):
    """What a checkpoint says: the local critical batch with its interval, and what caps it."""
    losses, before = _losses(one["rows"], checkpoint, batches)
    start = mean(before.tolist())
    cell = {
        "optimizer": name, "checkpoint": checkpoint, "samples": checkpoint * batches[0], "loss": start.value,
        "loss_lo": start.low, "loss_hi": start.high, "cbs": math.nan, "ci_lo": math.nan, "ci_hi": math.nan,
        "cap": None, "lr": one["lr"], "n_seeds": len(one["rows"]), "at_edge": one["at_edge"],
        "n_trials": one["trials"], "budget": DELTA, "losses": losses, "base": batches[0],
        "n_fail": int(np.isnan(before).sum()), "diverged": int(np.isinf(losses).any(axis=1).sum()),
    }  # fmt: skip
    if np.isnan(losses).any() or len(losses) < 2:
        return cell
    small, large = bounds(losses)
    cell |= {"cbs": crossing(_mean(losses), batches), "ci_lo": batches[small], "ci_hi": math.inf, "cap": "grid"}
    if large < len(batches):
        above = share(int(np.sum(losses[:, large] > before)), len(losses))
        cap = "stability" if above.low > 0.5 else "noise" if above.high < 0.5 else None
        cell |= {"ci_hi": batches[large], "cap": cap}
    return cell


def summarize(work, found, batches, checkpoints, sampler, seeds, report_seeds) -> Result:
    """Tables, claims, figures and sentences from {optimizer: rate and rows}."""
    cells_of = {name: [_cell(name, one, c, batches) for c in checkpoints] for name, one in found.items()}
    cells, n = [cell for some in cells_of.values() for cell in some], len(report_seeds)
    growth = {name: _growth(some, batches) for name, some in cells_of.items()}
    result = Result(
        "branch", "How does the largest batch that costs nothing change while a run goes on?",
        " ".join(_headline(name, some) for name, some in cells_of.items()), _claims(cells_of, growth),
        [Table("checkpoints",
               ["optimizer", "checkpoint", "samples", "loss", "loss_lo", "loss_hi", "cbs", "ci_lo", "ci_hi", "cap",
                "diverged", "lr", "n_seeds", "n_fail", "at_edge", "n_trials", "budget"], cells,
               f"The local critical batch size: the largest batch of which it and all smaller ones end with at most "
               f"{1 + TOLERANCE:g} times the loss of each smaller one.", MEANINGS),
         Table("branches",
               ["optimizer", "checkpoint", "B", "k", "steps", "train_loss", "ci_lo", "ci_hi", "ratio", "ratio_lo",
                "ratio_hi", "within", "within_lo", "within_hi", "n_seeds", "n_fail"],
               [row for cell in cells for row in _branches(cell, batches, work)], "Where each branch ends.",
               {"checkpoint": "steps of the base batch before", "ratio": "train_loss over that of the smaller batch "
                "with the least", "ci_lo": "95 % interval of train_loss, from",
                "within": f"share of seeds with at most {1 + TOLERANCE:g} times the loss of every smaller batch"})],
        [Figure("cbs", f"Local critical batch size along the run, {n} seeds: bars go from the largest batch that is "
                "surely small enough to the smallest that is surely too large (95 %); hollow: no batch was too large, "
                "or the next one is unstable under the scaling rule.", lambda: _draw(cells_of, batches))]
        + [Figure(f"branches_{name}", f"Training loss after a branch of one epoch with {name}, a line for each "
                  f"checkpoint, over that of the base batch: geometric means over {n} seeds, compared seed by seed, "
                  "with 95 % intervals; the dashed level is the tolerance; no point where a seed's branch diverged.",
                  lambda some=some: _draw_branches(some, batches)) for name, some in cells_of.items()],
        Table("summary", ["optimizer", "checkpoint", "samples", "cbs", "ci_lo", "ci_hi", "cap"], cells, "", MEANINGS),
        [line for name, some in cells_of.items() for line in _findings(name, some, growth[name], batches)],
    )  # fmt: skip
    rates = ", ".join(f"{name} {one['lr']:.3g}" for name, one in found.items())
    result.methods = (
        f"{work.name}; base batch {batches[0]}, its rate ({rates}) tuned on steps to the target with {len(seeds)} "
        f"seeds unless given; branches of {DELTA.removesuffix('ep')} epoch with batches {batches[0]} to {batches[-1]}, "
        f"the rate times k (k^0.5 for adaptive optimizers), from the base run's weights, optimizer state and place in "
        f"the data; loss over the measured training samples at the end of a branch, {n} seeds; sampler "
        f"{sampler}; tolerance {_TOLERATED}. A batch is small enough if the upper ends of the 95 % t-intervals of its "
        f"loss over those of all smaller batches, seed by seed, are within the tolerance, and all smaller batches are "
        f"small enough; it is too large if a lower end is beyond it, or if a seed diverged, and all larger batches are "
        f"too large. The critical batch size is between; its estimate is where the mean losses cross the tolerance."
    )
    result.advice = " ".join(_advice(name, some, growth[name]) for name, some in cells_of.items())
    result.notes = _notes(cells_of, found)
    return result


def _branches(cell, batches, work):
    n, losses, rows = len(work.loaded.train_x), cell["losses"], []
    with np.errstate(invalid="ignore"):
        least = np.minimum.accumulate(losses, axis=1)
    for i, batch in enumerate(batches):
        here, inside = mean(losses[:, i]), losses[:, i] <= least[:, i - 1] + TOLERANCE * np.abs(least[:, i - 1])
        best = min(range(i), key=lambda j: mean(losses[:, j]).value, default=None)
        over = Estimate(math.nan) if best is None else _over(losses[:, i], losses[:, best])
        within = share(int(inside.sum()) if i else len(losses), len(losses))
        rows.append({
            "optimizer": cell["optimizer"], "checkpoint": cell["checkpoint"], "B": batch, "k": batch / batches[0],
            "steps": -(-n // batch), "train_loss": here.value, "ci_lo": here.low, "ci_hi": here.high,
            "ratio": over.value, "ratio_lo": over.low, "ratio_hi": over.high, "within": within.value,
            "within_lo": within.low, "within_hi": within.high, "n_seeds": len(losses), "n_fail": here.failed,
        })  # fmt: skip
    return rows


def _growth(cells, batches):
    """The critical batch size at the last checkpoint over that at the first; no number if one is beyond the grid."""
    first, last = cells[0], cells[-1]
    n, failed = len(last["losses"]), last["n_fail"]
    if failed or n < 2:
        why = f"{failed} of {n} seeds failed" if failed else f"an interval needs 2 seeds, there are {n}"
        return Estimate(math.nan, n=n, failed=failed, why=why)
    inside = max(first["cbs"], last["cbs"]) < batches[-1]
    value = last["cbs"] / first["cbs"] if inside else math.nan
    return Growth(value, n=n, batches=batches, first=first["losses"], last=last["losses"])


def _times(growth):
    """The growth in words."""
    low, high = growth.low, growth.high
    if not growth.known or (low <= 0.0 and math.isinf(high)):
        return f"not compared with ({growth.why or 'beyond the batches tried'})"
    if low <= 0.0:
        return f"less than {number(high)} times"
    if math.isinf(high):
        return f"more than {number(low)} times"
    return f"{number(low)} to {number(high)} times"


def _between(cell):
    """The critical batch size of a checkpoint in words, from its interval."""
    if math.isnan(cell["ci_lo"]):
        return "not known"
    unstable = " (stability)" * (cell["cap"] == "stability")
    if math.isinf(cell["ci_hi"]):
        return f"at least {cell['ci_lo']}"
    return f"{cell['ci_lo']} to {cell['ci_hi']}{unstable}"


def _headline(name, cells):
    along = ", ".join(f"{_between(c)} at step {c['checkpoint']}" for c in cells)
    return f"{name}: the local critical batch size is {along}."


def _claims(cells_of, growth):
    claims = []
    for name, cells in cells_of.items():
        first, last = (cells[k]["checkpoint"] for k in (0, -1))
        if len(cells) > 1 and first == 0:
            claims.append(Claim(
                f"{name}: the critical batch size increases from initialization (that at step {last} over that at step "
                "0)", "Merrill et al. 2025 (2505.23971), abstract, of language models",
                "'near 0 at initialization, increases rapidly at first, and then plateaus': above 1", [growth[name]],
                least=1.0,
            ))  # fmt: skip
    return claims


def _findings(name, cells, growth, batches):
    found = []
    if len(cells) > 1:
        first, last = (cells[k]["checkpoint"] for k in (0, -1))
        found.append(f"{name}: the critical batch size at step {last} is {_times(growth)} that at step {first}.")
    for tolerance in (TOLERANCE / 2.0, TOLERANCE * 2.0):
        along = []
        for cell in cells:
            small, large = (0, 0) if math.isnan(cell["ci_lo"]) else bounds(cell["losses"], tolerance)
            if large:
                ends = {"ci_lo": batches[small], "ci_hi": batches[large] if large < len(batches) else math.inf}
                along.append(_between(cell | ends | {"cap": None}))
            else:
                along.append("not known")
        found.append(f"{name}: with a tolerance of {tolerance:.3g} in place of {TOLERANCE:g} it is, at the same steps, "
                     f"{', '.join(along)}.")  # fmt: skip
    return found


def _advice(name, cells, growth):
    known = [c["ci_lo"] for c in cells if not math.isnan(c["ci_lo"])]
    if not known:
        return f"{name}: no advice: the base batch itself fails."
    everywhere = f"{name}: a batch of {min(known)} is small enough wherever it was looked"
    if len(known) < 2 or not growth.p_above(1.0) <= (1.0 - LEVEL) / 2.0:
        return f"{everywhere}; that larger ones are later on is not shown."
    last = next(c for c in cells if c["ci_lo"] == max(known))
    return (
        f"{everywhere}, and larger ones are later on, up to {max(known)} at step {last['checkpoint']}. `allgrad study "
        f"ramp` makes a schedule of it and runs it."
    )


def _notes(cells_of, found):
    notes = [
        "A loss over many samples ends each branch; Merrill et al. smooth losses of batches instead.",
        f"The tolerance of {_TOLERATED} is a choice of this study: with a smaller one, the critical batch size is.",
    ]
    for name, cells in cells_of.items():
        if lost := [row for row in found[name]["rows"] if row["status"] != "ok"]:
            notes.append(f"{name}: {len(lost)} of {len(found[name]['rows'])} base runs ended early "
                         f"({', '.join(sorted({row['status'] for row in lost}))}); what they did not reach has no "
                         f"interval.")  # fmt: skip
        if capped := [str(c["checkpoint"]) for c in cells if c["cap"] == "stability"]:
            notes.append(f"{name}: at steps {', '.join(capped)} the next batch ends above the loss it began with: the "
                         f"scaled rate is unstable, and a smaller rate might have allowed a larger batch.")  # fmt: skip
        if open_ended := [str(c["checkpoint"]) for c in cells if c["cap"] == "grid"]:
            notes.append(f"{name}: at steps {', '.join(open_ended)} no batch is shown to be too large.")
    return notes


def _draw(cells_of, batches):
    figure, axes = figures.new()
    axes.set_xscale("symlog", linthresh=25)
    figures.batches(axes.yaxis)
    for i, (name, cells) in enumerate(cells_of.items()):
        x, y, low = ([c[key] for c in cells] for key in ("checkpoint", "cbs", "ci_lo"))
        high = [min(c["ci_hi"], batches[-1]) for c in cells]
        hollow = [c["cap"] != "noise" for c in cells]
        figures.points_with_interval(axes, x, y, low, high, i=i, label=name, join=True, hollow=hollow)
        axes.set_xticks([c["checkpoint"] for c in cells], [f"{c['checkpoint']}" for c in cells])
    axes.set(xlabel="steps of the base batch before the branch", ylabel="local critical batch size (examples)")
    figures.legend(figure, 3)
    return figure


def _draw_branches(cells, batches):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, cell in enumerate(cells):
        over = [_over(cell["losses"][:, k], cell["losses"][:, 0]) for k in range(len(batches))]
        ends = [[math.nan if e.failed else getattr(e, key) for e in over] for key in ("value", "low", "high")]
        figures.points_with_interval(axes, batches, *ends, i=i, label=f"step {cell['checkpoint']}", join=True)
    axes.set(xlabel="batch size of the branch (examples)", ylabel="loss over that of the base batch")
    figures.guide(axes, 0.0, (batches[0], 1.0 + TOLERANCE), "")
    figures.legend(figure, 3)
    return figure
