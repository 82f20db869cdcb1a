"""What is a rule worth that scales the learning rate with the batch, next to tuning it at every batch?

Goyal et al. 2017 (linear, with a warm-up), Krizhevsky 2014 (square root), Johnson et al. 2020 (AdaScale) and Malladi et
al. 2022 (Adam) for the rules of `scaling.lr_rules`, all started from one base batch whose rate was tuned.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from allgrad import ddp
from allgrad.autograd import schedule
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import AdaScale, lr_rules
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, SEEDS, Tuned, steps_of
from allgrad.launch.study.result import Check, Figure, Result, Table

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
    "sgd": ("none", "sqrt", "linear", "linear_warmup", "adascale"),
    "momentum": ("none", "sqrt", "linear", "linear_warmup", "adascale"),
    "nesterov": ("none", "sqrt", "linear", "linear_warmup", "adascale"),
    "adam": ("none", "sqrt", "linear", "adam_sde", "half_life"),
    "adamw": ("none", "sqrt", "linear", "adam_sde", "half_life"),
}
OTHERS = "sqrt", "linear"  # of optimizers that no rule was made for
SPARSE = "lars", "lamb"  # run at every other batch only: their base batch takes thousands of steps
SHARDS = 16  # most of the shards from which AdaScale measures the variance of a step
WARMUP = Fraction(1, 2)  # epochs


@dataclass
class Cell:
    """What a rule makes of a batch. lr: None if the rule is not defined there; row by row, the seeds' runs."""

    optimizer: str
    rule: str
    batch: int
    lr: float | None
    rows: list
    tuned: Tuned | None = None

    @property
    def steps(self):
        return [steps_of(row) for row in self.rows]

    @property
    def met(self):
        return [s for s in self.steps if math.isfinite(s)]

    @property
    def mean(self):
        """Geometric mean over the seeds that met the target; nan if none did."""
        return fit.gmean(self.met)

    @property
    def failures(self):
        return len(self.rows) - len(self.met)

    @property
    def lost(self):
        """Whether the majority of the seeds failed, or no rate works."""
        return 2 * self.failures > len(self.rows) or not self.met


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
        limit = math.ceil(grid["patience"] * fit.gmean([s for s in base.steps if math.isfinite(s)] or [base.score]))
        cells = [Cell(optimizer, "tuned", c.batch, c.tuned.lr, c.tuned.rows, c.tuned) for c in tuned]
        for rule in RULES.get(optimizer, OTHERS):
            cells += [Cell(optimizer, rule, batch, *_scaled(base.lr, rule, batches[0], batch)) for batch in mine[1:]]
        ruled = [cell for cell in cells if cell.rule != "tuned" and cell.lr is not None]
        configs = [
            _configure(work, common, cell, base.lr, batches[0], {"seed": seed, "cap": limit})
            for cell in ruled for seed in report_seeds
        ]  # fmt: skip
        rows = lab.run(configs, "lr-rules")
        for k, cell in enumerate(ruled):
            cell.rows = rows[k * len(report_seeds) : (k + 1) * len(report_seeds)]
        return cells

    cells = dict(zip(optimizers, lab.map(run_all, optimizers)))
    return summarize(work, cells, common, seeds, report_seeds, grid["patience"])


def _scaled(lr, rule, base, batch):
    """(the rate a rule gives, no rows yet); the rate is None where the rule has none."""
    try:
        return lr_rules.scaled(rule, lr_rules.Hyperparameters(lr), base, batch, _word(rule)).lr, []
    except ConfigurationError:
        return None, []


def _word(rule):
    """An optimizer that the rule is for."""
    return "adam" if lr_rules.RULES[rule][0] == lr_rules.ADAM else "sgd"


def _configure(work, common, cell, lr, base, given):
    batch, rule = cell.batch, cell.rule
    after = lr_rules.scaled(rule, lr_rules.Hyperparameters(lr), base, batch, _word(rule))
    more = {}
    if _word(rule) == "adam":
        more["optimizer_options"] = {"betas": after.betas, "eps": after.eps}
    elif rule == "linear_warmup":
        more = {"kind": "lr_rules", "rule": rule, "base_lr": lr}
    elif rule == "adascale":
        shards = max(min(batch // base, SHARDS), 2)
        more = {"kind": "lr_rules", "rule": rule, "base_batch": base, "shards": max(shards, work.shards)}
    rate = float(f"{after.lr:.6g}")
    return runner.configuration(work, cell.optimizer, batch=batch, lr=rate, **common, **given, **more)


# --- the runs that are more than a rate ------------------------------------------------------------------------------


def execute(config, comm):
    """A run by the rule "linear_warmup" or "adascale"."""
    return runner.to_target({"linear_warmup": Warmed, "adascale": Gaining}[config["rule"]](config, comm))


class Warmed(runner.Run):
    """The rate rises from that of the base batch in half an epoch."""

    def learning_rate(self):
        rate, base = self.config["lr"], self.config["base_lr"]
        return schedule.warmup(rate, self.loader.sampler.steps_in(WARMUP), base)


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


def summarize(work, cells, common, seeds, report_seeds, patience) -> Result:
    """Tables, checks, figures and sentences from {optimizer: cells}."""
    cells_of = {name: {(c.rule, c.batch): c for c in found} for name, found in cells.items()}
    table = Table(
        "rules",
        ["optimizer", "rule", "B", "k", "lr", "S", "ci_lo", "ci_hi", "S_ideal", "to_ideal", "to_tuned", "n_seeds",
         "n_fail", "status", "at_edge", "n_trials", "budget", "eval_ratio", "sampler"],
        [row for found in cells_of.values() for row in _rows(found, common)],
        "Steps S to the target with the rate a rule gives from the tuned rate of the base batch: geometric means over "
        "the seeds that met it.",
        {"rule": "how the rate follows the batch; tuned: by search at this batch", "k": "batch over base batch",
         "S_ideal": "steps of the base batch over k", "to_ideal": "S over S_ideal",
         "to_tuned": "S over that of the rate tuned at this batch",
         "status": "how the seeds that failed ended; undefined: the rule has no value at this batch"},
    )  # fmt: skip
    result = Result(
        "lr-rules", "Up to which batch does a rule replace tuning the learning rate?",
        " ".join(_headline(name, found) for name, found in cells_of.items()),
        _checks(work, cells_of, common, len(report_seeds)),
        [table],
        [Figure(f"rules_{name}", f"Steps to the target with {name} against batch size, for each rule: geometric means "
                "and 95 % intervals over seeds. Thin line: the base batch's steps over k. Crosses, a row for each "
                "rule: most of the seeds failed.",
                lambda name=name: _draw(cells_of[name], common)) for name in cells_of],
    )  # fmt: skip
    base = min(batch for found in cells_of.values() for _, batch in found)
    result.methods = (
        f"{work.name}; target {common['metric']} {common['target']:g}; base batch {base}, its rate tuned for each "
        f"optimizer on steps to the target with {len(seeds)} seeds on a grid of factor sqrt 2, as is the rate of the "
        f"cells called tuned; all cells run on {len(report_seeds)} fresh seeds; sampler {common['sampler']}; a run by "
        f"a rule has failed when it diverges or takes {patience:g} times the steps of the base batch; linear_warmup "
        f"rises from the base rate in half an epoch; AdaScale measures its gain from the gradients of up to {SHARDS} "
        f"shards of a step; evaluations at the first 20 steps and then at distances of {common['eval_ratio']:g}; 95 % "
        f"intervals by {fit.RESAMPLES} resamples of the seeds."
    )
    result.advice = _advice(cells_of)
    result.notes = _notes(cells_of, common)
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
        low, high = fit.mean_interval(cell.steps)
        endings = sorted({row["status"] for row in cell.rows} - {"ok"})
        rows.append({
            "optimizer": cell.optimizer, "rule": rule, "B": batch, "k": k, "lr": cell.lr, "S": cell.mean,
            "ci_lo": low, "ci_hi": high, "S_ideal": base.mean / k, "to_ideal": cell.mean * k / base.mean,
            "to_tuned": cell.mean / best.mean, "n_seeds": len(cell.rows), "n_fail": cell.failures,
            "status": "undefined" if cell.lr is None else ", ".join(endings) or "ok",
            "at_edge": cell.tuned.at_edge if cell.tuned else None,
            "n_trials": cell.tuned.trials if cell.tuned else 0,
            "budget": f"{common['metric']} {common['target']:g}", "eval_ratio": common["eval_ratio"],
            "sampler": common["sampler"],
        })  # fmt: skip
    return rows


def _ratio(cell, other):
    """Steps of a cell over those of another, inf if most of its seeds failed."""
    return math.inf if cell.lost else cell.mean / other.mean


def _reach(found, rule, slack=1.2):
    """(k up to which a rule needs at most `slack` times the tuned steps, first k at which most seeds fail)."""
    base, reach, lost = _base(found), 1, None
    for cell in _cells(found, rule):
        k = cell.batch / base.batch
        if cell.lost and lost is None:
            lost = k
    for cell in _cells(found, rule):
        if not _ratio(cell, found["tuned", cell.batch]) <= slack:
            break
        reach = cell.batch / base.batch
    return reach, lost


def _headline(name, found):
    said = []
    for rule in sorted(_rules(found), key=lambda rule: -_reach(found, rule)[0]):
        cells = _cells(found, rule)
        if not cells:
            continue
        reach, lost = _reach(found, rule)
        last = cells[-1].batch / _base(found).batch
        end = "" if lost is None else f", fails at {lost:g}"
        if reach == last < max(batch for _, batch in found) / _base(found).batch:
            end = ", as far as it is defined"
        said.append(f"{rule} up to k = {reach:g}{end}" if reach > 1 else f"{rule} never{end}")
    return f"{name}: within 20 % of the steps with a tuned rate are {'; '.join(said)}."


def _advice(cells_of):
    said = []
    for name, found in cells_of.items():
        order = sorted(_rules(found), key=lambda rule: (-_reach(found, rule)[0], _rules(found).index(rule)))
        reach = _reach(found, order[0])[0] if order else 1
        base = _base(found).batch
        if reach > 1:
            scale = "keep the rate" if order[0] == "none" else f"scale the rate by the rule {order[0]}"
            said.append(f"With {name}, {scale} up to a batch of {round(reach * base)}")
        else:
            said.append(f"With {name}, tune the rate at every batch")
    return "; ".join(said) + ". Beyond that, tune the rate again: no rule here replaces it."


# --- checks ----------------------------------------------------------------------------------------------------------


def _checks(work, cells_of, common, seeds):
    reference = work.is_default and common["metric"] == "train_loss" and common["sampler"] == "epoch"
    reference = reference and common["target"] == steps.TARGETS["train_loss"]
    checks = []
    for name, found in cells_of.items():
        base = _base(found)
        k = {cell.batch: cell.batch / base.batch for cell in found.values()}
        rules = {rule: _cells(found, rule) for rule in _rules(found)}
        few = [c for c in rules.get("linear", ()) if k[c.batch] <= (8 if reference else 2)]
        if few and name in ("sgd", "momentum", "nesterov"):
            most = 1.2 if name == "sgd" else 1.3
            claim = f"{name}: linear scaling divides the steps by k up to k = {k[few[-1].batch]:g} (S k / S0, worst)"
            checks.append(_worst(claim, [(c, base, k[c.batch]) for c in few], most, seeds))
        if name == "sgd" and reference and base.batch == 4:
            for cell in [c for c in rules["linear"] if k[c.batch] in (32, 64)]:
                share = cell.failures / len(cell.rows)
                drawn = np.random.default_rng(0).binomial(len(cell.rows), share, fit.RESAMPLES) / len(cell.rows)
                claim = f"sgd: linear scaling fails at k = {k[cell.batch]:g} (share of seeds)"
                checks.append(Check(claim, share, *fit.interval(drawn), least=0.5, seeds=seeds))
        if name in ("sgd", "momentum") and len(rules.get("none", ())) > 1:
            claim = f"{name}: without scaling, larger batches save no steps (S over its mean, where it differs most)"
            checks.append(_constant(claim, rules["none"], seeds))
        if gain := rules.get("adascale"):
            lost = float(sum(c.failures for c in gain))
            checks.append(Check(f"{name}: AdaScale never fails (seeds that did)", lost, lost, lost, most=0.0))
            if len(gain) > 1 and not any(c.lost for c in gain):
                drops = [(after, before, 1.0) for before, after in pairwise(gain)]
                claim = f"{name}: AdaScale's steps fall with every larger batch (worst ratio of neighbours)"
                checks.append(_worst(claim, drops, 1.0, seeds))
            pairs = [(c, found["tuned", c.batch], 1.0) for c in gain]
            checks.append(_worst(f"{name}: AdaScale over the tuned rate (S ratio, worst)", pairs, 2.2, seeds))
        if name in ("adam", "adamw"):
            pairs = [(c, found["tuned", c.batch], 1.0) for c in rules["sqrt"]]
            checks.append(_worst(f"{name}: square-root scaling is as good as tuning (S ratio, worst)", pairs, 1.15,
                                 seeds))  # fmt: skip
            if far := [(found["tuned", c.batch], c, 1.0) for c in rules["linear"] if k[c.batch] >= 4]:
                claim = f"{name}: linear scaling is not, from k = 4 on (tuned S over S, worst)"
                checks.append(_worst(claim, far, 1.0 / 1.5, seeds))
    return checks


def _worst(claim, pairs, most, seeds):
    """The largest ratio of (cell, over cell, factor), with its interval; the claim fails where a cell did."""
    kept = [(a, b, f) for a, b, f in pairs if not b.lost]
    if not kept or any(a.lost for a, _, _ in kept):
        value = math.nan if kept else 0.0  # nan fails
        return Check(claim, value, value, value, most=most, seeds=seeds)
    a, b, factor = max(kept, key=lambda pair: pair[0].mean / pair[1].mean * pair[2])
    return Check(claim, *(factor * end for end in fit.ratio(a.met, b.met)), most=most, seeds=seeds)


def _constant(claim, cells, seeds):
    kept = [c for c in cells if c.met]
    if len(kept) < 2:
        return Check(claim, math.nan, math.nan, math.nan, 0.9, 1.1)
    drawn = fit.resampled({c.batch: c.met for c in kept})
    means = np.log([c.mean for c in kept])
    worst = np.abs(means - means.mean()).argmax()
    ratios = np.exp(drawn[:, worst] - drawn.mean(axis=1))
    return Check(claim, math.exp(means[worst] - means.mean()), *fit.interval(ratios), 0.9, 1.1, seeds)


def _notes(cells_of, common):
    notes = []
    for name, found in cells_of.items():
        for rule in _rules(found):
            missing = [batch for (r, batch), cell in found.items() if r == rule and cell.lr is None]
            if missing:
                why = "1 - k (1 - beta1) would not stay above 0" if rule == "adam_sde" else "it has no value there"
                notes.append(f"{name}: {rule} is undefined from B = {min(missing)} on, where {why}: neither run nor "
                             f"counted as failed.")  # fmt: skip
            some = [c for c in _cells(found, rule) if c.failures]
            if some:
                which = ", ".join(f"{c.failures} of {len(c.rows)} at B = {c.batch}" for c in some)
                notes.append(f"{name}, {rule}: seeds failed, {which}; S is the mean of those that did not.")
        for cell in _cells(found, "tuned"):
            notes += cell.tuned.remarks(f"{name}, tuned, at B = {cell.batch}")
    base = _base(next(iter(cells_of.values())))
    notes.append(f"All rules start from the rate that was best for B = {base.batch} on {base.tuned.trials} runs of the "
                 f"tuning seeds; a base rate tuned for a final loss lies nearer to the edge of stability, and linear "
                 f"scaling then fails sooner.")  # fmt: skip
    notes.append("The length of the warm-up, half an epoch, was not tuned; tuning it would count as trials.")
    if set(SPARSE) & cells_of.keys():
        notes.append("LARS and LAMB are made for large batches: their base batch takes many more steps than that of "
                     "the others, so that S over S_ideal flatters them.")  # fmt: skip
    return notes


# --- figure ----------------------------------------------------------------------------------------------------------


def _draw(found, common):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    base = _base(found)
    names = ["tuned", *_rules(found)]
    for i, rule in enumerate(names):
        cells = [c for c in _cells(found, rule) if c.met and not c.lost]
        if cells:
            low, high = zip(*(fit.mean_interval(c.steps) for c in cells))
            figures.points_with_interval(
                axes, [c.batch for c in cells], [c.mean for c in cells], low, high, i=i, label=rule, join=True
            )
    goal = f"{common['metric'].replace('_', ' ')} {common['target']:g}"
    axes.set(xlabel=f"batch size B (examples), {base.optimizer}", ylabel=f"steps to {goal}")
    axes.set_ylim(bottom=min(c.mean for c in found.values() if c.met and not c.lost) / 1.5)
    figures.guide(axes, -1.0, (base.batch, base.mean), "ideal", at=0.8, below=True)
    row = 0
    for i, rule in enumerate(names):
        if lost := [c.batch for c in _cells(found, rule) if c.lost]:
            figures.failed(axes, lost, i=i, row=row)
            row += 1
    figures.legend(figure, 3)
    return figure
