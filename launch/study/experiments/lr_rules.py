"""What is a rule worth that scales the learning rate with the batch, next to tuning it at every batch?

Goyal et al. 2017 (linear, with a warm-up), Krizhevsky 2014 (square root), McCandlish et al. 2018 (noise scale), Johnson
et al. 2020 (AdaScale), Malladi et al. 2022 and Li et al. 2024 (Adam) for the rules of `scaling.lr_rules`, all started
from one base batch whose rate was tuned.
"""

import math
from dataclasses import dataclass, replace

from allgrad import ddp
from allgrad.autograd import schedule
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import AdaScale, lr_rules
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.intervals import Estimate, mean, ratio, share
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, SEEDS, Tuned, steps_of
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import compared, with_interval

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "momentum", "adam", "lars", "lamb"), "batches": tuple(4 * 2**i for i in range(9)),
        "seeds": SEEDS, "report_seeds": REPORT_SEEDS, "eval_ratio": 1.05, "patience": 1.5,
    },
    "full": {
        "optimizers": ("sgd", "momentum", "nesterov", "adam", "rmsprop", "lars", "lamb"),
        "batches": tuple(4 * 2**i for i in range(9)), "seeds": (*SEEDS, 3), "report_seeds": tuple(range(100, 108)),
        "eval_ratio": 1.02, "patience": 4.0,
    },
}  # fmt: skip
RULES = {
    "sgd": ("none", "sqrt", "linear", "linear_warmup", "noise", "adascale"),
    "momentum": ("none", "sqrt", "linear", "linear_warmup", "noise", "adascale"),
    "nesterov": ("none", "sqrt", "linear", "linear_warmup", "noise", "adascale"),
    "adam": ("none", "sqrt", "linear", "noise", "surge", "adam_sde", "half_life"),
    "adamw": ("none", "sqrt", "linear", "noise", "surge", "adam_sde", "half_life"),
}
OTHERS = "sqrt", "linear"  # of optimizers that no rule was made for
SPARSE = "lars", "lamb"  # run at every other batch only: their base batch takes thousands of steps
SHARDS = 16  # most of the shards from which the variance of a step's gradient is measured
WARMUP = 0.05  # of the steps that a run takes if k times the batch takes 1/k of them: Goyal et al. have 5 of 90 epochs
SLACK = 1.2  # a rule replaces tuning as long as it needs at most so many times the steps


@dataclass
class Cell:
    """What a rule makes of a batch. lr: None if the rule is not defined there; row by row, the seeds' runs."""

    optimizer: str
    rule: str
    batch: int
    lr: float | None
    rows: list
    tuned: Tuned | None = None
    trials: int = 0  # runs that were needed to know the rate, beyond those of the base batch

    @property
    def steps(self):
        """Steps to the target of each seed; inf where it failed."""
        return [steps_of(row) for row in self.rows]

    @property
    def mean(self):
        return mean(self.steps)

    @property
    def failures(self):
        return sum(not math.isfinite(s) for s in self.steps)

    def over(self, other: "Cell") -> Estimate:
        """Its steps over those of another, with the noise of both."""
        return ratio(self.mean, other.mean)


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=PRESET, target=None, metric="train_loss", sampler="epoch",
    seeds=PRESET, report_seeds=PRESET, cap=6000, eval_ratio=PRESET, sustain=1, lr=None, **more,
) -> Result:  # fmt: skip
    """The experiment; the smallest of the batches is the base. Tuned cells are those of `allgrad study steps`."""
    grid, batches = GRIDS[preset], sorted(batches)
    if len(batches) < 2:
        raise ConfigurationError(f"--batches: rules scale from a base batch to others, got {batches[0]} alone")
    common = {
        "target": steps.goal(work, metric, target), "metric": metric, "sampler": sampler,
        "eval_ratio": eval_ratio, "sustain": sustain, **more,
    }  # fmt: skip
    setting = steps.Setting(lab, work, common, seeds, cap, lr)

    def run_all(optimizer):
        mine = batches[::2] if optimizer in SPARSE and len(batches) > 4 else batches
        tuned = setting.tune_batches(optimizer, mine)
        lab.map(lambda cell: setting.run_report_seeds(cell, report_seeds), tuned)
        base = tuned[0].tuned
        rules = RULES.get(optimizer, OTHERS)
        usual = fit.gmean([s for s in base.steps if math.isfinite(s)] or [base.score])
        from_base = Base(optimizer, mine[0], base.lr, usual)
        if any(lr_rules.RULES[rule][1] for rule in rules):
            from_base.noise = _measure(lab, work, common, from_base, seeds)
        cells = [Cell(optimizer, "tuned", c.batch, c.tuned.lr, c.tuned.rows, c.tuned, c.tuned.trials) for c in tuned]
        for rule in rules:
            trials = len(seeds) if lr_rules.RULES[rule][1] else 0
            for batch in mine[1:]:
                after = from_base.scaled(rule, batch, common)
                cells.append(Cell(optimizer, rule, batch, after and after.lr, [], trials=trials))
        ruled = [cell for cell in cells if cell.rule != "tuned" and cell.lr is not None]
        given = {"cap": math.ceil(grid["patience"] * from_base.steps)}
        configs = [
            _configure(work, common, cell, from_base, {"seed": seed, **given})
            for cell in ruled for seed in report_seeds
        ]  # fmt: skip
        rows = lab.run(configs, "lr-rules")
        for k, cell in enumerate(ruled):
            cell.rows = rows[k * len(report_seeds) : (k + 1) * len(report_seeds)]
        return cells, from_base.noise

    found = dict(zip(optimizers, lab.map(run_all, optimizers)))
    cells, noise = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
    return summarize(work, cells, common, seeds, report_seeds, grid["patience"], noise)


@dataclass
class Base:
    """Where all rules start: a batch, its tuned rate, the steps it takes, and the noise scale along its runs."""

    optimizer: str
    batch: int
    lr: float
    steps: float
    noise: Estimate | None = None

    def scaled(self, rule, batch, common) -> lr_rules.Hyperparameters | None:
        """What a rule makes of it at another batch; None where the rule is not defined."""
        scale = self.noise.value if self.noise is not None and self.noise.value > 0.0 else None
        kind = self.optimizer if self.optimizer in lr_rules.ADAM else "sgd"
        try:
            return lr_rules.scaled(rule, self.hyperparameters(common), self.batch, batch, kind, scale)
        except ConfigurationError:
            return None

    def hyperparameters(self, common):
        given = common.get("optimizer_options") or {}
        given = {key: given[key] for key in ("betas", "eps") if key in given}
        return replace(lr_rules.Hyperparameters(self.lr), **given)


def _measure(lab, work, common, base, seeds):
    """The noise scale along runs of the base batch at its rate; None if a batch has no two shards."""
    if base.batch < 2:
        return None
    given = {
        **common, "kind": "lr_rules", "rule": "measure", "shards": max(min(SHARDS, base.batch), work.shards),
        "batch": base.batch, "lr": base.lr, "cap": 10 * math.ceil(base.steps),
    }  # fmt: skip
    rows = lab.run([runner.configuration(work, base.optimizer, **{**given, "seed": s}) for s in seeds], "lr-rules")
    return mean([row.get("noise_scale") or math.nan if row["status"] == "ok" else math.nan for row in rows], "runs")


def _configure(work, common, cell, base, given):
    batch, rule = cell.batch, cell.rule
    before, after = base.hyperparameters(common), base.scaled(rule, batch, common)
    more = {}
    if (after.betas, after.eps) != (before.betas, before.eps):
        options = common.get("optimizer_options") or {}
        more["optimizer_options"] = {**options, "betas": after.betas, "eps": after.eps}
    elif rule == "linear_warmup" and (rise := round(WARMUP * base.steps * base.batch / batch)) > 1:
        more = {"kind": "lr_rules", "rule": rule, "base_lr": base.lr, "rise": rise}
    elif rule == "adascale":
        shards = max(min(batch // base.batch, SHARDS), 2)
        more = {"kind": "lr_rules", "rule": rule, "base_batch": base.batch, "shards": max(shards, work.shards)}
    rate = float(f"{after.lr:.6g}")
    return runner.configuration(work, cell.optimizer, **{**common, "batch": batch, "lr": rate, **given, **more})


# --- the runs that are more than a rate ------------------------------------------------------------------------------


def execute(config, comm):
    """A run by the rule "linear_warmup" or "adascale", or one that measures the noise scale for other rules."""
    run = {"linear_warmup": Warmed, "adascale": Gaining, "measure": Measured}[config["rule"]](config, comm)
    row = runner.to_target(run)
    if isinstance(run, Measured):
        row["noise_scale"] = run.noise_scale
    return row


class Warmed(runner.Run):
    """The rate rises from that of the base batch in the first steps, `rise` of them."""

    def learning_rate(self):
        return schedule.warmup(self.config["lr"], self.config["rise"], self.config["base_lr"])


class Measured(runner.Run):
    """A run along which the gradients of a batch's shards tell the noise scale."""

    def exchange(self):
        self.noise = ddp.NoiseScale(1.0)  # all steps count alike
        return {"noise": self.noise}

    @property
    def noise_scale(self):
        """Trace over signal, each averaged over all steps, in examples; None if the signal is not above 0."""
        value = self.noise.value
        return value if value is not None and 0.0 < value < math.inf else None


class Gaining(runner.Run):
    """The rate of the base batch, times the gain of every step."""

    def exchange(self):
        self.noise = ddp.NoiseScale()
        return {"noise": self.noise}

    def learning_rate(self):
        self.gain = AdaScale(super().learning_rate(), self.config["base_batch"], math.inf)
        return self.gain

    def step(self):
        batch = self.loader.batch(self.t)
        loss = self.parallel.backward(batch, self.loss)
        if math.isfinite(loss):
            self.gain.observe(self.noise.last, batch.size)
            self.optimizer.step()
            self.gain.advance()
        return loss


# --- what the cells say ----------------------------------------------------------------------------------------------


def summarize(work, cells, common, seeds, report_seeds, patience, noise) -> Result:
    """Tables, figures and sentences from {optimizer: cells} and {optimizer: its noise scale}."""
    cells_of = {name: {(c.rule, c.batch): c for c in found} for name, found in cells.items()}
    n = len(report_seeds)
    table = Table(
        "rules",
        ["optimizer", "rule", "B", "k", "lr", "S", "ci_lo", "ci_hi", "S_ideal", "to_ideal", "to_tuned", "to_lo",
         "to_hi", "n_seeds", "n_fail", "fail_lo", "fail_hi", "status", "at_edge", "n_trials", "budget", "eval_ratio",
         "sampler"],
        [row for found in cells_of.values() for row in _rows(found, common)],
        f"Steps S to the target with the rate a rule gives from the tuned rate of the base batch: geometric means over "
        f"{n} seeds, of those that met it where some failed, and then without an interval.",
        {"rule": "how the rate follows the batch; tuned: by search at this batch", "k": "batch over base batch",
         "S_ideal": "steps of the base batch over k", "to_ideal": "S over S_ideal",
         "to_tuned": "S over that of the rate tuned at this batch", "to_lo": "95 % interval of to_tuned, from",
         "to_hi": "95 % interval of to_tuned, to",
         "fail_lo": "95 % interval of the share of seeds that fail, from", "fail_hi": "that of the same, to",
         "n_trials": "runs needed to know the rate, beyond those that tuned the base batch",
         "status": "how the seeds that failed ended; undefined: the rule has no value at this batch"},
    )  # fmt: skip
    rules = list(dict.fromkeys(rule for found in cells_of.values() for rule in _rules(found)))
    result = Result(
        "lr-rules", "Up to which batch does a rule replace tuning the learning rate?",
        " ".join(_headline(name, found) for name, found in cells_of.items()), tables=[table],
        figures=[Figure(f"rules_{name}", f"Rules against batch size with {name}: (a) steps to the target, (b) those "
                        f"over the steps with the rate tuned at that batch. Geometric means of {n} seeds; bars are 95 "
                        "% intervals, in (b) with the noise of both. Thin lines: the base batch's steps over k, and "
                        f"{SLACK:g} times the tuned steps. Crosses, a row for each rule: a seed failed, and nothing "
                        "else is drawn there.",
                        lambda name=name: _draw(cells_of[name], common)) for name in cells_of],
        summary=Table(
            "summary", ["rule", *cells_of],
            [{"rule": rule, **{name: _short(found, rule) for name, found in cells_of.items()}} for rule in rules],
            f"The largest k, the batch over the base batch, up to which a rule needs at most {SLACK:g} times the steps "
            "of a rate tuned at the batch, by the whole 95 % interval; and the first at which a seed failed.",
            {"rule": "how the rate follows the batch"},
        ),
        findings=[line for name, found in cells_of.items() for line in _findings(name, found, noise.get(name))],
        advice=_advice(cells_of),
        notes=_notes(cells_of, noise),
    )  # fmt: skip
    base = min(batch for found in cells_of.values() for _, batch in found)
    result.methods = (
        f"{work.name}; target {common['metric']} {common['target']:g}; base batch {base}, its rate tuned for each "
        f"optimizer on steps to the target with {len(seeds)} seed{'s' * (len(seeds) != 1)} on a grid of factor sqrt 2, "
        f"as is the rate of the cells called tuned; all cells run on {n} fresh seeds; sampler {common['sampler']}; a "
        f"run by a rule has failed when it diverges or takes {patience:g} times the steps of the base batch; "
        f"linear_warmup rises from the base rate in {100 * WARMUP:g} % of the steps of the base batch over k, as 5 "
        f"of 90 epochs in Goyal et al. (not tuned), and not at all if that is one step; the rules noise and surge have "
        f"the noise scale of {len(seeds)} further runs of the base batch, measured from up to {SHARDS} shards "
        f"of each step, trace and signal averaged over all steps; AdaScale measures its gain in the same way; "
        f"evaluations at the first 20 steps and then at distances of {common['eval_ratio']:g}. 95 % intervals by "
        f"Student's t on logarithms over seeds, of ratios by Welch's; shares of seeds by exact binomials. A rule is "
        f"followed from the smallest batch up to the first at which it is not shown to need at most {SLACK:g} times "
        f"the tuned steps, so that its batches need no correction for each other; rules are not corrected for each "
        f"other."
    )
    return result


def _base(found):
    return found["tuned", min(batch for _, batch in found)]


def _rules(found):
    return [rule for rule in dict.fromkeys(rule for rule, _ in found) if rule != "tuned"]


def _cells(found, rule):
    return [cell for (name, _), cell in found.items() if name == rule and cell.lr is not None]


def _rows(found, common):
    base, rows = _base(found), []
    for (rule, batch), cell in found.items():
        k, best = batch / base.batch, found["tuned", batch]
        s, over, failing = cell.mean, cell.over(best), share(cell.failures, len(cell.rows))
        endings = sorted({row["status"] for row in cell.rows} - {"ok"})
        rows.append({
            "optimizer": cell.optimizer, "rule": rule, "B": batch, "k": k, "lr": cell.lr, "S": s.value,
            "ci_lo": s.low, "ci_hi": s.high, "S_ideal": base.mean.value / k,
            "to_ideal": s.value * k / base.mean.value, "to_tuned": over.value, "to_lo": over.low, "to_hi": over.high,
            "n_seeds": len(cell.rows), "n_fail": cell.failures, "fail_lo": failing.low, "fail_hi": failing.high,
            "status": "undefined" if cell.lr is None else ", ".join(endings) or "ok",
            "at_edge": cell.tuned.at_edge if cell.tuned else None, "n_trials": cell.trials,
            "budget": f"{common['metric']} {common['target']:g}", "eval_ratio": common["eval_ratio"],
            "sampler": common["sampler"],
        })  # fmt: skip
    return rows


def _reach(found, rule):
    """(k up to which a rule surely needs at most SLACK times the tuned steps, 1 if none; the next cell, or None)."""
    base, reach = _base(found), 1.0
    for cell in _cells(found, rule):
        over = cell.over(found["tuned", cell.batch])
        if not (over.known and over.high <= SLACK):
            return reach, cell
        reach = cell.batch / base.batch
    return reach, None


def _up_to(found, rule):
    reach, _ = _reach(found, rule)
    return f"up to k = {reach:g}" if reach > 1.0 else "at no k"


def _next(found, rule):
    """What a rule does at the first batch that it is not shown to serve."""
    reach, cell = _reach(found, rule)
    if cell is None:
        whole = reach == max(batch for _, batch in found) / _base(found).batch
        return "the largest tried" if whole else "as far as it is defined"
    at = f"k = {cell.batch / _base(found).batch:g}"
    if cell.failures:
        return f"at {at}, {cell.failures} of {len(cell.rows)} seeds failed"
    over = cell.over(found["tuned", cell.batch])
    if not over.known:
        return f"at {at} not compared: {over.why}{', with the tuned rate' * cell.mean.known}"
    return f"at {at}: {compared(over)}" + f", {100 * (SLACK - 1):.0f} % not excluded" * (over.low <= SLACK)


def _worst(found, rule):
    """The upper end of a rule's steps over the tuned ones where it is largest; None if one of them is not known."""
    cells = _cells(found, rule)
    ratios = [cell.over(found["tuned", cell.batch]) for cell in cells]
    whole = len(cells) == sum(name == "tuned" for name, _ in found) - 1 and all(over.known for over in ratios)
    return max(over.high for over in ratios) if whole else None


def _short(found, rule):
    """A cell of the summary."""
    if not (cells := _cells(found, rule)):
        return "undefined" if rule in _rules(found) else ""
    reach, _ = _reach(found, rule)
    lost = next((cell.batch / _base(found).batch for cell in cells if cell.failures), None)
    return (f"{reach:g}" if reach > 1.0 else "none") + (f", fails at {lost:g}" if lost else "")


def _by_reach(found):
    """Rules that are defined somewhere, those that reach farthest first."""
    rules = [rule for rule in _rules(found) if _cells(found, rule)]
    return sorted(rules, key=lambda rule: -_reach(found, rule)[0])


def _headline(name, found):
    some = [f"{rule} {_up_to(found, rule)}" for rule in _by_reach(found) if _reach(found, rule)[0] > 1.0]
    none = [rule for rule in _by_reach(found) if _reach(found, rule)[0] <= 1.0]
    said = "; ".join(some + [f"at no k {', '.join(none)}"] * bool(none))
    return f"{name}, shown to need at most {100 * (SLACK - 1):.0f} % more steps than a tuned rate: {said}."


def _findings(name, found, noise):
    ruled = "; ".join(f"{rule} {_up_to(found, rule)}, {_next(found, rule)}" for rule in _by_reach(found))
    lines = [f"{name}, at most {100 * (SLACK - 1):.0f} % more steps than a tuned rate by the whole interval: {ruled}."]
    base = _base(found)
    if everywhere := sorted((worst, rule) for rule in _rules(found) if (worst := _worst(found, rule)) is not None):
        said = "; ".join(f"{rule} {worst:.3g}" for worst, rule in everywhere)
        lines.append(f"{name}, rules without a failed seed at any batch tried, and the upper end of their steps "
                     f"over those of a tuned rate where it is largest: {said}.")  # fmt: skip
    if linear := [cell for cell in _cells(found, "linear") if cell.over(base).known]:
        said = "; ".join(
            f"{with_interval(cell.over(base).times(cell.batch / base.batch))} at k = {cell.batch / base.batch:g}"
            for cell in linear
        )
        lines.append(f"{name}, linear: steps times k over those of the base batch, 1 if k times the batch takes 1/k of "
                     f"the steps: {said}.")  # fmt: skip
    failed: dict = {}
    for cell in (cell for rule in _rules(found) for cell in _cells(found, rule) if cell.failures):
        failed.setdefault((cell.rule, cell.failures, len(cell.rows)), []).append(f"{cell.batch / base.batch:g}")
    for (rule, hits, n), ks in failed.items():
        low, high = (100.0 * end for end in share(hits, n).interval())
        lines.append(f"{name}, {rule} at k = {', '.join(ks)}: {hits} of {n} seeds failed at each, a share from "
                     f"{low:.0f} to {high:.0f} %.")  # fmt: skip
    if noise is not None:
        lines.append(f"{name}: the noise scale along the runs of the base batch is {with_interval(noise)} examples, "
                     f"which cost {noise.n} runs of about {base.mean.value:.0f} steps.")  # fmt: skip
    return lines


def _advice(cells_of):
    said = []
    for name, found in cells_of.items():
        order, base = _by_reach(found), _base(found).batch
        reach = _reach(found, order[0])[0] if order else 1.0
        if reach <= 1.0:
            said.append(f"With {name}, tune the rate at every batch: no rule is shown to replace it")
            continue
        first, *others = [rule for rule in order if _reach(found, rule)[0] == reach]
        scale = "keep the rate" if first == "none" else f"scale the rate by the rule {first}"
        as_far = f" ({' and '.join(others)} {'reaches' if len(others) == 1 else 'reach'} as far)" * bool(others)
        said.append(f"With {name}, {scale} up to a batch of {round(reach * base)}{as_far}{_beyond(found)}")
    return ". ".join(said) + ". Beyond that, tune the rate again: no rule is shown to replace it there."


def _beyond(found):
    """The rule that costs least where it costs most, if one is known not to fail at any batch."""
    known = [(worst, rule) for rule in _rules(found) if (worst := _worst(found, rule)) is not None]
    if not known or min(known)[0] <= SLACK:
        return ""
    worst, rule = min(known)
    return f"; without tuning, {rule} is surely within {worst:.2g} times the tuned steps at all batches tried"


def _notes(cells_of, noise):
    notes = ["There are no verdicts: the papers state their rules without a number of steps by which they may be off."]
    missing_scale = "no noise scale is known (a batch of 1 has no shards, or no run had a signal)"
    undefined = {"adam_sde": "1 - k (1 - beta1) would not stay above 0", "noise": missing_scale, "surge": missing_scale}
    for name, found in cells_of.items():
        base = _base(found).batch
        for rule in _rules(found):
            if missing := [batch for (r, batch), cell in found.items() if r == rule and cell.lr is None]:
                why = undefined.get(rule, "it has no value there")
                notes.append(f"{name}: {rule} is undefined from B = {min(missing)} on, where {why}; it is neither run "
                             f"nor counted as failed.")  # fmt: skip
        if (scale := noise.get(name)) is not None and scale.failed and scale.value > 0.0:
            notes.append(f"{name}: {scale.failed} of {scale.n} runs of the base batch tell no noise scale; the rules "
                         f"have the mean of the others.")  # fmt: skip
        s = _base(found).mean.value
        if short := [c.batch for c in _cells(found, "linear_warmup") if WARMUP * s * base / c.batch < 1.5]:
            notes.append(f"{name}: from B = {min(short)} on {100 * WARMUP:g} % of the run are no more than a step, "
                         f"and linear_warmup is the rule linear.")  # fmt: skip
        for cell in _cells(found, "tuned"):
            notes += cell.tuned.remarks(f"{name}, tuned, at B = {cell.batch}")
    base = _base(next(iter(cells_of.values())))
    notes.append(f"All rules start from the rate that was best for B = {base.batch} on {base.trials} runs of the "
                 f"tuning seeds; from another rate, such as one tuned for a final loss, they give others.")  # fmt: skip
    notes.append("A tuned rate is the best of a grid on the tuning seeds: a rule may beat it, and that another search "
                 "might have found another rate is not in the intervals.")  # fmt: skip
    return notes


# --- figure ----------------------------------------------------------------------------------------------------------


def _draw(found, common):
    figure, (left, right) = figures.new(columns=2, width=figures.PAGE, x=figures.batches, y=figures.logarithmic)
    base = _base(found)
    names = ["tuned", *_rules(found)]
    for i, rule in enumerate(names):
        cells = [cell for cell in _cells(found, rule) if cell.rows and not cell.failures]
        where = [cell.batch for cell in cells]
        _series(left, where, [cell.mean for cell in cells], i, rule)
        if rule != "tuned":
            _series(right, where, [cell.over(found["tuned", cell.batch]) for cell in cells], i, rule)
    goal = f"{common['metric'].replace('_', ' ')} {common['target']:g}"
    left.set(xlabel=f"batch size B (examples), {base.optimizer}", ylabel=f"steps to {goal}")
    right.set(xlabel=f"batch size B (examples), {base.optimizer}", ylabel="steps over tuned steps")
    if base.mean.value > 0.0:
        figures.guide(left, -1.0, (base.batch, base.mean.value), "ideal", at=0.8, below=True)
    figures.guide(right, 0.0, (base.batch, SLACK), f"{100 * (SLACK - 1):.0f} % more", at=0.85)
    row = 0
    for i, rule in enumerate(names):
        if failed := [cell.batch for cell in _cells(found, rule) if cell.failures or not cell.rows]:
            figures.failed(left, failed, i=i, row=row)
            row += 1
    figures.legend(figure, 5)
    return figure


def _series(axes, x, estimates, i, label):
    if x:
        ends = ([getattr(e, end) for e in estimates] for end in ("value", "low", "high"))
        figures.points_with_interval(axes, x, *ends, i=i, label=label, join=True)
