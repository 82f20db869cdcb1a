"""Decay the learning rate, or grow the batch instead?

Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch Size": dividing the rate by f and multiplying the
batch by f shrink the noise of SGD alike, and the second takes fewer updates. For Adam, Meterez et al. 2025, "Seesaw",
grow the batch by f and divide the rate by the root of f.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from allgrad.autograd import schedule as rates
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import grow
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, START, Tuned, first_rate, tune
from allgrad.launch.study.result import Check, Figure, Result, Table

GRIDS = {
    "quick": {"optimizers": ("sgd", "adam"), "seeds": (0,), "report_seeds": REPORT_SEEDS, "phases": 3, "epochs": 8},
    "full": {
        "optimizers": ("sgd", "momentum", "adam"), "seeds": (0, 1, 2), "report_seeds": tuple(range(100, 110)),
        "phases": 3, "epochs": 8,
    },
}  # fmt: skip
FACTOR, BATCH = 4.0, 8
NOISE = (
    0.2  # share of wrong labels of the default workload: with clean labels there is no noise that decay could remove
)
ARMS = {  # (power of FACTOR by which the rate falls at the end of a phase, that by which the batch grows)
    "decay": (1.0, 0.0),
    "grow": (0.0, 1.0),
    "seesaw": (0.5, 1.0),
    "const": (0.0, 0.0),
    "both": (1.0, 1.0),
}
SEESAW = "adam", "adamw"
BETAS = (0.9, 0.95)  # of Adam: a memory of 20 steps, short next to a phase


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=None, sampler="epoch", seeds=PRESET, report_seeds=PRESET,
    lr=None, **more,
) -> Result:  # fmt: skip
    """The experiment. The first of `batches` is the one to begin with; `lr`, if given, is taken and not tuned."""
    grid, batch = GRIDS[preset], min(batches or (BATCH,))
    reference = work.is_default
    if reference:
        work = replace(work, model="mlp:32", label_noise=NOISE)
    if "steps" in more or "schedule" in more:
        raise ConfigurationError("--steps and --schedule have no effect on allgrad study schedule: its arms set both")
    common = {
        "kind": "schedule", "target": None, "metric": "train_loss", "sampler": sampler, "batch": batch,
        "steps": f"{grid['phases'] * grid['epochs']}ep", "phases": grid["phases"], "factor": FACTOR, **more,
    }  # fmt: skip

    def run_all(optimizer):
        def configure(arm):
            fall, rise = ARMS[arm]
            own = {"optimizer_options": {"betas": BETAS}} if optimizer in SEESAW else {}
            return lambda **given: runner.configuration(
                work, optimizer, **{**own, **common}, fall=fall, rise=rise, **given
            )

        start = first_rate(optimizer, batch)
        tuned = Tuned(lr, math.nan, False, {}, 0) if lr else tune(
            lab, configure("decay"), start, seeds=seeds, report_seeds=(), cap=10**9, measure=_loss,
            experiment="schedule",
        )  # fmt: skip
        names = [arm for arm in ARMS if arm != "seesaw" or optimizer in SEESAW]
        configs = [configure(arm)(lr=tuned.lr, seed=seed, cap=10**9) for arm in names for seed in report_seeds]
        rows, n = lab.run(configs, "schedule"), len(report_seeds)
        runner.refuse_failed(rows, f"the arms of {optimizer} cannot be run")
        return {arm: Arm(optimizer, arm, tuned, rows[k * n : (k + 1) * n]) for k, arm in enumerate(names)}

    arms = dict(zip(optimizers, lab.map(run_all, optimizers)))
    return summarize(work, arms, common, seeds, report_seeds, reference and not lr, grid)


@dataclass
class Arm:
    """One way to remove noise, on the report's seeds."""

    optimizer: str
    name: str
    tuned: Tuned
    rows: list

    @property
    def good(self):
        return [row for row in self.rows if row["status"] == "ok"]

    @property
    def losses(self):
        return np.array([row["final_train_loss"] for row in self.good])

    @property
    def loss(self):
        return float(self.losses.mean()) if self.good else math.nan

    @property
    def val_loss(self):
        return float(np.mean([row["final_val_loss"] for row in self.good])) if self.good else math.nan

    @property
    def updates(self):
        return self.good[0]["steps"] if self.good else 0


def _loss(row):
    return row["final_train_loss"] if row["status"] == "ok" else math.inf


# --- one run ---------------------------------------------------------------------------------------------------------


class Phases(runner.Run):
    """At the end of each phase the rate falls and the batch grows, by powers of the factor."""

    def learning_rate(self):
        config, sampler = self.config, self.loader.sampler
        length = runner.steps_of(config["steps"], sampler) * config["batch"] / sampler.samples / config["phases"]
        ends = [round(length * k, 9) for k in range(1, config["phases"])]
        self.ends = [sampler.steps_in(end) for end in map(_fraction, ends)]
        if config["rise"]:
            self.ends = grow(sampler, config["factor"] ** config["rise"], map(_fraction, ends))
        self.budget = runner.steps_of(config["steps"], sampler)
        if not config["fall"]:
            return config["lr"]
        return rates.multistep(config["lr"], self.ends, config["factor"] ** -config["fall"])


def _fraction(epochs):
    return Fraction(epochs).limit_denominator(1000)


def execute(config, comm):
    """Train through all phases; the row has what each of them ended with."""
    run = Phases(config, comm)
    (initial, _), phases, status = run.start, [], "ok"
    for stop in (*run.ends, run.budget):
        loss = 0.0
        while run.t < stop and math.isfinite(loss):
            loss = run.step()
            run.t += 1
        train = run.evaluate() if math.isfinite(loss) else {"loss": math.nan}
        if run.diverged(train["loss"]):
            status = "diverged"
            break
        val = run.evaluate("val")
        named = {**{f"train_{k}": v for k, v in train.items()}, **{f"val_{k}": v for k, v in val.items()}}
        phases.append({"updates": run.t, "examples": run.examples, "batch": run.loader.sampler.batch_at(run.t - 1),
                       **named})  # fmt: skip
    return {
        "status": status, "steps_to_target": None, "censored_at": None if status == "ok" else run.t, "steps": run.t,
        "examples": run.examples, "epochs": run.examples / len(run.data.train_x), "initial_train_loss": initial,
        "phases": phases, **({f"final_{k}": v for k, v in phases[-1].items() if "_" in k} if phases else {}),
    }  # fmt: skip


# --- what the arms say -----------------------------------------------------------------------------------------------


def summarize(work, arms, common, seeds, report_seeds, reference, grid) -> Result:
    """Tables, checks, figures and sentences from {optimizer: {arm: Arm}}."""
    table = Table(
        "arms",
        ["optimizer", "arm", "phase", "B", "updates", "lr", "train_loss", "ci_lo", "ci_hi", "val_loss", "val_acc",
         "n_seeds", "n_fail", "at_edge", "n_trials", "budget", "eval_ratio", "sampler"],
        [row for arms_of in arms.values() for arm in arms_of.values() for row in _rows(arm, common)],
        "Where each arm stands at the end of each phase, means over seeds; train_loss on the (noisy) training labels.",
        {"arm": "what happens at the end of a phase: decay divides the rate by 4, grow multiplies the batch by 4, "
                "seesaw multiplies the batch by 4 and divides the rate by 2, const does nothing, both does both",
         "lr": "learning rate in the first phase", "updates": "optimizer steps so far",
         "ci_lo": "95 % interval of train_loss, from", "ci_hi": "95 % interval of train_loss, to"},
    )  # fmt: skip
    result = Result(
        "schedule", "Can the batch grow where the learning rate would decay, for the same loss in fewer updates?",
        " ".join(_headline(name, arms_of) for name, arms_of in arms.items()),
        _checks(arms, reference, len(report_seeds)),
        [table],
        [Figure(f"loss_{name}", f"Training loss against updates with {name}, at the ends of the phases: means and 95 % "
                "intervals over seeds.", lambda arms_of=arms_of: _draw(arms_of)) for name, arms_of in arms.items()],
    )  # fmt: skip
    result.methods = (
        f"{work.name}, {work.label_noise:.0%} of the training labels drawn anew; {grid['phases']} phases of "
        f"{grid['epochs']} epochs, factor {FACTOR:g}, batch {common['batch']} in the first phase; the rate of each "
        f"optimizer tuned for the final training loss of the arm decay on a grid of factor sqrt 2 with {len(seeds)} "
        f"seed{'s' * (len(seeds) > 1)}, and the same in all arms; {len(report_seeds)} fresh seeds; sampler "
        f"{common['sampler']}; 95 % intervals by {fit.RESAMPLES} resamples of the seeds."
    )
    result.advice = _advice(arms)
    result.notes = _notes(work, arms)
    return result


def _rows(arm, common):
    rows = []
    for i, first in enumerate(arm.good[0]["phases"] if arm.good else ()):

        def mean(key, i=i):
            found = [row["phases"][i][key] for row in arm.good if key in row["phases"][i]]
            return float(np.mean(found)) if found else math.nan

        low, high = fit.mean_interval([row["phases"][i]["train_loss"] for row in arm.good], mean=np.mean)
        rows.append({
            "optimizer": arm.optimizer, "arm": arm.name, "phase": i + 1, "B": first["batch"],
            "updates": first["updates"], "lr": arm.tuned.lr, "train_loss": mean("train_loss"), "ci_lo": low,
            "ci_hi": high, "val_loss": mean("val_loss"), "val_acc": mean("val_accuracy"), "n_seeds": len(arm.rows),
            "n_fail": len(arm.rows) - len(arm.good), "at_edge": arm.tuned.at_edge, "n_trials": arm.tuned.trials,
            "budget": common["steps"], "eval_ratio": None, "sampler": common["sampler"],
        })  # fmt: skip
    return rows


def _pairs(a, b):
    """The final losses of two arms on the seeds on which both have one: (2, seeds)."""
    ends = [(x["final_train_loss"], y["final_train_loss"]) for x, y in zip(a.rows, b.rows)
            if x["status"] == y["status"] == "ok"]  # fmt: skip
    return np.array(ends).reshape(-1, 2).T


def _headline(name, arms_of):
    decay = arms_of["decay"]
    said = []
    for arm in [arms_of[key] for key in ("grow", "seesaw") if key in arms_of]:
        if not arm.good or not decay.good:
            said.append(f"{arm.name}: all seeds diverged")
            continue
        word, word_val = _against(arm.loss, decay.loss), _against(arm.val_loss, decay.val_loss)
        what = "growing B" if arm.name == "grow" else "growing B and halving the rate (Seesaw)"
        val = f"; by validation loss it {word_val.removesuffix(' than')}, {arm.val_loss:.3g} vs {decay.val_loss:.3g}"
        said.append(f"{what} {word} LR decay (train loss {arm.loss:.3g} vs {decay.loss:.3g}{val * (word != word_val)}) "
                    f"with {100.0 * arm.updates / decay.updates:.0f} % of the updates")  # fmt: skip
    rest = ", ".join(f"{arms_of[key].name} {arms_of[key].loss:.3g}" for key in ("const", "both"))
    return f"{name}: {'; '.join(said)}; {rest}."


def _against(loss, other):
    near = abs(loss / other - 1.0) < 0.05
    return "matches" if near else "is worse than" if loss > other else "is better than"


def _advice(arms):
    said = []
    for name, arms_of in arms.items():
        decay = arms_of["decay"]
        arm = arms_of.get("seesaw", arms_of["grow"])
        if arm.good and decay.good and arm.loss <= 1.05 * decay.loss:
            said.append(
                f"with {name}, {arm.name} costs no training loss and needs {arm.updates:,} updates for "
                f"{decay.updates:,}"
            )
        else:
            said.append(f"with {name}, keep to decaying the rate")
    return f"Where hardware can use the larger batch: {'; '.join(said)}."


def _checks(arms, reference, seeds):
    checks = []
    for name, arms_of in arms.items():
        decay, const, both = arms_of["decay"], arms_of["const"], arms_of["both"]
        equal = arms_of["seesaw"] if "seesaw" in arms_of else arms_of["grow"]
        if not (decay.good and equal.good):
            claim = f"{name}: {equal.name} equals decay"
            checks.append(Check(claim, math.nan, math.nan, math.nan, seeds=seeds))
            continue
        x, y = _pairs(equal, decay)
        error = math.hypot(x.std(ddof=1), y.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
        far = float((x - y).mean() / error) if error else math.nan
        claim = f"{name}: {equal.name} equals decay (difference in standard errors of the means over seeds)"
        checks.append(Check(claim, far, far, far, -2.0, 2.0))
        claim = f"{name}: {equal.name} equals decay (loss over that of decay)"
        checks.append(_ratio(claim, equal, decay, seeds, 0.95, 1.05))
        if const.good and (reference or decay.loss < const.loss):
            claim = f"{name}: without either, noise remains (loss of const over that of decay)"
            checks.append(_ratio(claim, const, decay, seeds, 1.5 if reference and name in START else 1.0))
        if both.good:
            claim = f"{name}: doing both differs (loss of both over that of decay)"
            checks.append(_ratio(claim, both, decay, seeds, 1.1))
    return checks


def _ratio(claim, arm, other, seeds, least=-math.inf, most=math.inf):
    x, y = _pairs(arm, other)
    if not x.size:
        return Check(claim, math.nan, math.nan, math.nan, least, most, seeds)
    drawn = np.random.default_rng(0).integers(len(x), size=(fit.RESAMPLES, len(x)))
    ratios = x[drawn].mean(axis=1) / y[drawn].mean(axis=1)
    return Check(claim, float(x.mean() / y.mean()), *fit.interval(ratios), least, most, seeds)


def _notes(work, arms):
    notes = []
    for name, arms_of in arms.items():
        for arm in arms_of.values():
            if failed := len(arm.rows) - len(arm.good):
                notes.append(f"{name}, {arm.name}: {failed} of {len(arm.rows)} seeds diverged; the loss is the mean of "
                             f"the others.")  # fmt: skip
        if arms_of["decay"].tuned.at_edge:
            notes.append(f"{name}: the best rate is the last one tried; a better one may exist.")
        if arms_of["const"].good and arms_of["decay"].good and arms_of["const"].loss <= arms_of["decay"].loss:
            notes.append(f"{name}: the constant rate ends with the least loss: there was no noise to remove, and the "
                         f"comparison says little.")  # fmt: skip
        if name in SEESAW:
            notes.append(f"{name} has betas {BETAS[0]:g}, {BETAS[1]:g}, chosen after a first try: with a beta2 of "
                         f"0.999 Seesaw fell behind decay on digits (training loss 0.433 against 0.312, 5 seeds). A "
                         f"likely reason, which was not tested, is that the second moment then remembers the gradients "
                         f"of smaller batches for longer than a phase.")  # fmt: skip
    if not work.label_noise:
        notes.append(
            "The labels are clean: a model that can fit them all needs no decay (--label-noise 0.2 adds noise)."
        )
    notes.append("The rate is tuned for the arm decay and used in all: this favours decay, and the other arms may have "
                 "better rates of their own.")  # fmt: skip
    notes.append("Updates are counted, not time: a larger batch only saves time where hardware runs it in parallel.")
    return notes


def _draw(arms_of):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, arm in enumerate(arms_of.values()):
        rows = _rows(arm, {"steps": "", "sampler": ""})
        columns = [[row[key] for row in rows] for key in ("updates", "train_loss", "ci_lo", "ci_hi")]
        figures.points_with_interval(axes, *columns, i=i, label=arm.name, join=True)
    axes.set(xlabel="updates", ylabel="training loss")
    figures.legend(figure, 3)
    return figure
