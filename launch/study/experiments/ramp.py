"""A batch that grows with the critical batch size: designed from its measurement along a run, written for several
trainers, and run beside the small batch.

Merrill et al. 2025, "Critical Batch Size Revisited" (arXiv 2505.23971): begin with a small batch, and double it once
the critical batch size is above twice the batch. The critical batch sizes are those of `allgrad study branch`.
"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from allgrad.ddp.scaling import follow_batch
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.experiments import branch
from allgrad.launch.study.intervals import Estimate, mean, paired, share
from allgrad.launch.study.lr_tuning import lr_exponent
from allgrad.launch.study.result import Claim, Figure, Result, Table
from allgrad.launch.study.wording import compared, number, with_interval

GRIDS = {
    "quick": {"runs": tuple(range(300, 312))},
    "full": {"runs": tuple(range(300, 324))},
}
ARMS = {"small": "the base batch all along", "ramp": "the ramp", "large": "the ramp's last batch all along"}
MERRILL = "Merrill et al. 2025 (2505.23971), abstract"
MARGIN = 0.01  # up to which a loss is called no higher
_MARGIN = f"{100 * MARGIN:g} %"


class Phase(NamedTuple):
    """From so many samples on, batches of this size."""

    samples: int
    batch: int


# --- the design ------------------------------------------------------------------------------------------------------


def design(points: Sequence[tuple[float, float]], first: int, total: float) -> list[Phase]:
    """The batch over a run of `total` samples: `first`, and twice as much as soon as that is small enough for good.

    points   (samples seen, largest batch that is surely small enough there), by rising samples: the lower ends of the
             critical batch size
    Between two points the logarithm of the batch is linear in that of the samples; from 0 samples and after the last
    point it stays what it is. Where a later point is lower, earlier ones count as no higher: no batch is ever above
    what is measured later on.
    """
    ceiling = [min(batch for _, batch in points[i:]) for i in range(len(points))]
    known = [(samples, batch) for (samples, _), batch in zip(points, ceiling)]
    phases = [Phase(0, first)]
    while (samples := _first_at(known, 2 * phases[-1].batch)) < total:
        new = Phase(int(samples), 2 * phases[-1].batch)
        phases = [*phases[:-1], new] if samples == phases[-1].samples else [*phases, new]
    return phases


def _first_at(points, batch) -> float:
    """After how many samples, whole ones, so large a batch is small enough; inf if it never is."""
    before = None
    for samples, highest in points:
        if highest >= batch:
            if before is None or before[0] <= 0.0 or highest == batch:
                return math.ceil(samples)
            share_of_way = math.log(batch / before[1]) / math.log(highest / before[1])
            return math.ceil(round(before[0] * (samples / before[0]) ** share_of_way, 6))
        before = samples, highest
    return math.inf


def steps_in(phases: Sequence[Phase], total: float) -> int:
    """How many steps the phases take for so many samples: each begins with the first step that does not come early."""
    steps = seen = 0
    for (_, batch), stop in zip(phases, [*(p.samples for p in phases[1:]), total]):
        here = max(math.ceil((stop - seen) / batch), 0)
        steps, seen = steps + here, seen + here * batch
    return steps


# --- the same for other trainers -------------------------------------------------------------------------------------


def for_allgrad(phases, base, lr, power) -> str:
    """Options of `allgrad train`."""
    rule = {0.5: "sqrt", 1.0: "linear"}[power]
    later = ",".join(f"{samples}samples:{batch}" for samples, batch in phases[1:])
    batch = f"--global-batch {phases[0].batch}" + f" --batch-schedule ramp:{later}" * bool(later)
    return f"{batch} --lr {lr:.6g} --lr-rule {rule} --base-batch {base} --boundary carry"


def for_megatron(phases) -> str:
    """The schedule of Megatron-LM's --step-batch-size-schedule, in samples."""
    return '--step-batch-size-schedule "' + " ".join(f"{samples}:{batch}" for samples, batch in phases) + '"'


class Linear(NamedTuple):
    """Megatron-LM's ramp: from `start` to `end` in steps of `increment` that are equally long, over `samples`."""

    start: int
    increment: int
    samples: int
    end: int

    def batch_at(self, seen: float) -> int:
        """The batch after so many samples."""
        if seen > self.samples:
            return self.end
        count = (self.end - self.start) // self.increment
        return self.start + int(seen / (self.samples / count)) * self.increment

    def steps(self, total: float) -> float:
        """Steps of a run of so many samples, not whole."""
        count = (self.end - self.start) // self.increment
        each = self.samples / count
        edges = [*(min(i * each, total) for i in range(count + 1)), total]
        batches = [self.start + i * self.increment for i in range(count + 1)]
        return math.fsum((b - a) / batch for a, b, batch in zip(edges, edges[1:], batches))


def linear_ramp(phases: Sequence[Phase], total: float) -> Linear | None:
    """Of the ramps that Megatron-LM's --rampup-batch-size can say, the one with the fewest steps that is never above
    the phases; None if there is one phase only.

    Increments are multiples of the first batch. Number i of n begins after i / n of the ramp's samples, so that the
    shortest ramp that is never too early is the longest of n t_i / i, t_i being when the phases have that batch.
    """
    start, end = phases[0].batch, phases[-1].batch
    found = []
    for count in range(1, (end - start) // start + 1):
        increment, rest = divmod(end - start, count)
        if rest or increment % start:
            continue
        begins = [next(p.samples for p in phases if p.batch >= start + i * increment) for i in range(1, count + 1)]
        samples = max(math.ceil(count * t / i) for i, t in enumerate(begins, 1))
        found.append(Linear(start, increment, samples, end))
    return min(found, key=lambda ramp: ramp.steps(total), default=None)


def for_old_megatron(ramp: Linear) -> str:
    """Options of versions of Megatron-LM that know no other ramp."""
    return f"--global-batch-size {ramp.end} --rampup-batch-size {ramp.start} {ramp.increment} {ramp.samples}"


def for_torchtitan(phases, total, base, lr, power) -> str:
    """One run after another, each from the checkpoint of the one before: JSON of torchtitan's own options."""
    found = []
    for i, (_, batch) in enumerate(phases):
        until = phases[i + 1].samples if i + 1 < len(phases) else total
        found.append({
            "training.global_batch_size": batch, "training.steps": steps_in(phases[: i + 1], until),
            "optimizer.lr": float(f"{lr * (batch / base) ** power:.6g}"),
        })  # fmt: skip
    return json.dumps(found)


# --- a run -----------------------------------------------------------------------------------------------------------


class Ramped(runner.Run):
    """A run with the batches of its phases, and the rate that goes with them."""

    def __init__(self, config, comm=None):
        super().__init__(config, comm)
        sampler = self.loader.sampler
        for samples, batch in config["phases"][1:]:
            sampler.resize(sampler.steps_for(samples), batch)
        self.budget = sampler.steps_for(config["total"])

    def learning_rate(self):
        return follow_batch(lambda step: self.config["lr"], self.loader.sampler, self.config["power"])


def execute(config: dict, comm) -> dict:
    """A run over its samples."""
    return runner.to_target(Ramped(config, comm))


# --- the experiment --------------------------------------------------------------------------------------------------


@experiment(GRIDS, others=lambda first=branch.run: [first])
def run(lab, work, preset="quick", *, optimizers=("sgd",), **options) -> Result:
    """Measure the critical batch size along a run by `branch` with these options, design the ramp, and run it."""
    grid, (name,) = GRIDS[preset], optimizers
    first = branch.run(lab, work, preset, optimizers=(name,), **options)
    cells = [row for row in first.tables[0].rows if row["optimizer"] == name]
    base, lr, power, n = cells[0]["base"], cells[0]["lr"], lr_exponent(name), len(work.loaded.train_x)
    points = [(cell["samples"], base if math.isnan(cell["ci_lo"]) else cell["ci_lo"]) for cell in cells]
    total = math.ceil(points[-1][0] + n)
    phases = design(points, base, total)
    plans = {"small": [Phase(0, base)]}
    if phases[-1].batch > base:
        plans |= {"ramp": phases, "large": [Phase(0, phases[-1].batch)]}
    given = {key: options[key] for key in ("sampler", *runner.PASSED_ON) if options.get(key) is not None}
    configs = [
        runner.configuration(
            work, name, **{**given, "kind": "ramp", "batch": plan[0].batch, "phases": plan, "total": total,
            "steps": f"{total}samples", "power": power, "lr": lr * (plan[0].batch / base) ** power, "seed": seed,
            "cap": 10**9, "eval_ratio": 2.0},
        )
        for plan in plans.values() for seed in grid["runs"]
    ]  # fmt: skip
    rows = lab.run(configs, "ramp")
    runner.refuse_failed(rows, "the ramp cannot be run")
    count = len(grid["runs"])
    found = {arm: rows[i * count : (i + 1) * count] for i, arm in enumerate(plans)}
    return summarize(work, name, cells, phases, found, total, power, first)


def summarize(work, name, cells, phases, found, total, power, first) -> Result:
    """Tables, claims, figures and sentences from the phases and the rows of each arm."""
    base, lr, n = cells[0]["base"], cells[0]["lr"], len(work.loaded.train_x)
    losses = {arm: [_loss(row) for row in rows] for arm, rows in found.items()}
    over = {arm: paired(losses[arm], losses["small"]) for arm in found if arm != "small"}
    plans = {"small": [Phase(0, base)], "ramp": phases, "large": [Phase(0, phases[-1].batch)]}
    taken = {arm: steps_in(plans[arm], total) for arm in found}
    saved = 1.0 - taken["ramp"] / taken["small"] if "ramp" in found else 0.0
    linear = linear_ramp(phases, total)
    table = [_row(arm, losses[arm], over.get(arm), plans[arm], taken[arm], lr * (plans[arm][0].batch / base) ** power)
             for arm in found]  # fmt: skip
    rows = [
        {"samples": samples, "epochs": samples / n, "step": steps_in(phases[: i + 1], samples), "B": batch,
         "lr": lr * (batch / base) ** power}
        for i, (samples, batch) in enumerate(phases)
    ]  # fmt: skip
    count = len(losses["small"])
    result = Result(
        "ramp", "Which batch at which time costs nothing, and is it so?", _headline(name, phases, base, over, saved),
        _claims(name, base, over, saved),
        [Table("phases", ["samples", "epochs", "step", "B", "lr"], rows, "The ramp.",
               {"samples": "samples seen when the phase begins", "epochs": "the same in passes over the training set",
                "step": "steps taken when it begins"}),
         Table("arms", ["arm", "B", "lr", "steps", "train_loss", "ci_lo", "ci_hi", "over_small", "over_small_lo",
                        "over_small_hi", "n_seeds", "n_fail"], table,
               f"Runs of {total:,} samples: final training loss, geometric means over seeds with 95 % intervals.",
               {"arm": "; ".join(f"{key}: {words}" for key, words in ARMS.items()), "B": "batch at first",
                "lr": "learning rate at first", "steps": "steps of the run", "train_loss": "training loss at the end",
                "over_small": "that over the one with the base batch, seed by seed"})],
        [Figure("phases", "The batch of the ramp against the samples seen (line), and the critical batch size that it "
                f"is made of (bars: from surely small enough to surely too large, 95 %, {cells[0]['n_seeds']} seeds).",
                lambda: _draw_phases(cells, phases, linear, total)),
         Figure("arms", f"Final training loss after {total:,} samples against the steps that they take: geometric "
                f"means over {count} seeds with 95 % intervals; batch sizes at the points.",
                lambda: _draw_arms(table, plans))],
        Table("summary", ["samples", "B", "lr"], rows, "", {"samples": "samples seen when the phase begins"}),
        _findings(name, base, phases, over, saved, taken, linear, total, losses),
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {n:,} training samples; {name}; the batch is doubled when twice as much is at most the largest "
        f"batch that `study branch` shows to be small enough (lower ends of 95 % intervals, log-linear in the samples "
        f"between checkpoints, held after the last, and nowhere above what is measured later); the rate times "
        f"{'the batch' if power == 1.0 else 'the root of the batch'} over {base}. Runs of {total:,} samples, "
        f"{count} fresh seeds, batches going on over the end of an epoch; ratios seed by seed, 95 % intervals by "
        f"Student's t of logarithms. Critical batch sizes: {first.methods}"
    )
    result.advice = _advice(name, phases, base, lr, power, over, saved, linear, total)
    result.notes = [
        "After the last checkpoint of `study branch` nothing is measured, and the batch stays what it is.",
        "A branch is one epoch long: what it tolerates may add up over a run, and Adam's mean square of the gradient "
        "remembers smaller batches for longer than that. The run of the whole ramp is what tells.",
        "The rate that goes with the batch is part of the schedule: Megatron-LM and torchtitan do not change it by "
        "themselves.",
        "Newer versions of Megatron-LM have --step-batch-size-schedule, whose thresholds are in tokens where "
        "--seq-length is given: multiply the samples by it. Older ones have --rampup-batch-size alone. torchtitan has "
        "no schedule of the batch: its phases are runs, each going on from the checkpoint of the one before.",
        *first.notes,
    ]  # fmt: skip
    return result


def _loss(row):
    return row["final_train_loss"] if row["status"] == "ok" and row["final_train_loss"] is not None else math.nan


def _row(arm, losses, over, plan, steps, lr):
    loss = mean(losses)
    over = Estimate(1.0 if arm == "small" else math.nan) if over is None else over
    return {
        "arm": arm, "B": plan[0].batch, "lr": lr, "steps": steps, "train_loss": loss.value, "ci_lo": loss.low,
        "ci_hi": loss.high, "over_small": over.value, "over_small_lo": over.low, "over_small_hi": over.high,
        "n_seeds": len(losses), "n_fail": loss.failed,
    }  # fmt: skip


def _ramp_in_words(phases):
    first, *later = phases
    return ", ".join([f"{first.batch} at first", *(f"{batch} after {samples:,} samples" for samples, batch in later)])


def _headline(name, phases, base, over, saved):
    if "ramp" not in over:
        return f"{name}: no batch above {base} is shown to be small enough all along: there is no ramp."
    return (
        f"{name}: a batch of {_ramp_in_words(phases)}: {number(100.0 * saved, 2)} % fewer steps than with {base} all "
        f"along; final training loss over that: {with_interval(over['ramp'])}, "
        f"{compared(over['ramp'], 'higher', 'lower')}."
    )


def _claims(name, base, over, saved):
    if "ramp" not in over:
        return []
    return [
        Claim(f"{name}: a batch that grows with the critical batch size ends with no higher loss than B = {base}, up "
              f"to {_MARGIN} ({100 * saved:.0f} % fewer steps; ratio of final training losses)", MERRILL,
              "'to slightly better loss than the original training run with 43% fewer gradient steps': a ratio of 1 at "
              f"most, with {_MARGIN} so that equal losses can be shown to be so", [over["ramp"]], most=1.0 + MARGIN),
    ]  # fmt: skip


def _findings(name, base, phases, over, saved, taken, linear, total, losses):
    if "ramp" not in over:
        return []
    last = phases[-1].batch
    found = [f"{name}: {taken['ramp']:,} steps in place of {taken['small']:,}, {number(100.0 * saved, 2)} % fewer; "
             "Merrill et al. 2025 save 43 % with a language model."]  # fmt: skip
    if phases[0].batch > base:
        constant = steps_in([Phase(0, phases[0].batch)], total)
        found.append(f"{name}: beside {phases[0].batch} all along, which is small enough as well, these are "
                     f"{number(100.0 * (1.0 - taken['ramp'] / constant), 2)} % fewer.")  # fmt: skip
    if over["large"].failed:
        lost = share(sum(not math.isfinite(v) for v in losses["large"]), len(losses["large"]))
        found.append(f"The last batch, {last}, from the start diverges with {lost.hits} of {lost.n} seeds.")
    else:
        found.append(f"The last batch, {last}, from the start ends with {with_interval(over['large'])} times the loss "
                     f"of B = {base}, in {taken['large']:,} steps.")  # fmt: skip
    if linear is not None:
        found.append(f"The linear ramp of Megatron-LM that is never above this one takes {linear.steps(total):,.0f} "
                     "steps.")  # fmt: skip
    return found


def _advice(name, phases, base, lr, power, over, saved, linear, total):
    if "ramp" not in over:
        return f"{name}: keep B = {base}: no larger batch is shown to be small enough all along."
    ratio, ramp = over["ramp"], _ramp_in_words(phases)
    paid = f"the final training loss is {with_interval(ratio)} times that with B = {base} all along"
    fewer = f"{number(100.0 * saved, 2)} % fewer steps"
    if ratio.high <= 1.0 + MARGIN:
        said = f"{name}: let the batch grow: {ramp}. It takes {fewer}, and {paid}."
    elif ratio.low > 1.0:
        said = f"{name}: the ramp ({ramp}) takes {fewer}, and costs loss: {paid}. Choose which of the two you need."
    else:
        said = (f"{name}: keep B = {base}: the ramp ({ramp}) takes {fewer}, and is not shown to end with a loss no "
                f"more than {_MARGIN} higher: {paid}.")  # fmt: skip
    lines = [said, f"allgrad train: {for_allgrad(phases, base, lr, power)}", f"Megatron-LM: {for_megatron(phases)}"]
    if linear is not None:
        lines.append(f"Megatron-LM, older: {for_old_megatron(linear)}")
    return "\n".join([*lines, f"torchtitan, a run each: {for_torchtitan(phases, total, base, lr, power)}"])


# --- figures ---------------------------------------------------------------------------------------------------------


def _draw_phases(cells, phases, linear, total):
    figure, axes = figures.new(y=figures.batches)
    known = [cell for cell in cells if not math.isnan(cell["ci_lo"])]
    top = max([p.batch for p in phases] + [cell["cbs"] for cell in known])
    x, y, low = ([cell[key] for cell in known] for key in ("samples", "cbs", "ci_lo"))
    figures.points_with_interval(
        axes, x, y, low, [min(cell["ci_hi"], 2.0 * top) for cell in known], label="critical batch size"
    )
    edges = [*(p.samples for p in phases), total]
    stairs = [(at, p.batch) for p, a, b in zip(phases, edges, edges[1:]) for at in (a, b)]
    figures.line_with_interval(axes, *zip(*stairs), i=1, label="ramp")
    if linear is not None:
        xs = [total * i / 400 for i in range(401)]
        figures.line_with_interval(axes, xs, [linear.batch_at(at) for at in xs], i=2, label="linear ramp")
    axes.set(xlabel="samples seen", ylabel="batch size (examples)")
    figures.legend(figure, 3)
    return figure


def _draw_arms(table, plans):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, row in enumerate(table):
        ends = [[row[key]] for key in ("steps", "train_loss", "ci_lo", "ci_hi")]
        figures.points_with_interval(axes, *ends, i=i, label=ARMS[row["arm"]])
        if math.isfinite(row["train_loss"]):
            sizes = list(dict.fromkeys((plans[row["arm"]][0].batch, plans[row["arm"]][-1].batch)))
            place = {"xytext": (4, 4), "textcoords": "offset points"}
            axes.annotate("B = " + " to ".join(map(str, sizes)), (row["steps"], row["train_loss"]), color=figures.GREY,
                          fontsize=figures.SMALL - 0.5, **place)  # fmt: skip
    axes.set(xlabel="steps of the run", ylabel="final training loss")
    axes.margins(0.3)
    for i, row in enumerate(table):
        figures.failed(axes, [row["steps"]] * bool(row["n_fail"]), i=i)
    figures.legend(figure, 1)
    return figure
