"""Decay the learning rate, or grow the batch instead?

Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch Size": dividing the rate by f and multiplying the
batch by f shrink the noise of SGD alike, and the second takes fewer updates. For Adam, Meterez et al. 2025, "Seesaw",
grow the batch by f and divide the rate by the root of f.

Each way, an arm, is run at its own best rate, and once more at that of the arm that decays the rate: the papers keep
the initial rate, and a reader would tune it.
"""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from allgrad.autograd import schedule as rates
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling import grow
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.intervals import Estimate, mean, paired
from allgrad.launch.study.lr_tuning import REPORT_SEEDS, NothingWorks, Tuned, first_rate, tune
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import MARGIN, compared, with_interval

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
LOSSES = {"train_loss": "training loss", "val_loss": "validation loss"}


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=None, sampler="epoch", seeds=PRESET, report_seeds=PRESET,
    lr=None, **more,
) -> Result:  # fmt: skip
    """The experiment. The first of `batches` is the one to begin with; `lr`, if given, is taken and not tuned."""
    grid, batch = GRIDS[preset], min(batches or (BATCH,))
    if work.is_default:
        work = replace(work, model="mlp:32", label_noise=NOISE)
    if "steps" in more or "schedule" in more:
        raise ConfigurationError("--steps and --schedule have no effect on allgrad study schedule: its arms set both")
    metric = metric_of(work)
    common = {
        "kind": "schedule", "target": None, "metric": metric, "sampler": sampler, "batch": batch,
        "steps": f"{grid['phases'] * grid['epochs']}ep", "phases": grid["phases"], "factor": FACTOR, **more,
    }  # fmt: skip

    def run_all(optimizer):
        def configure(arm):
            fall, rise = ARMS[arm]
            own = {"optimizer_options": {"betas": BETAS}} if optimizer in SEESAW else {}
            return lambda **given: runner.configuration(
                work, optimizer, **{**own, **common}, fall=fall, rise=rise, **given
            )

        def rows_at(arm, rate):
            rows = lab.run([configure(arm)(lr=rate, seed=seed, cap=10**9) for seed in report_seeds], "schedule")
            runner.refuse_failed(rows, f"the arms of {optimizer} cannot be run")
            return rows

        def tuned(arm, start, neighbour=None):
            if lr:
                found = Tuned(lr, math.nan, False, {}, 0)
            else:
                found = tune(
                    lab, configure(arm), start, neighbour=neighbour, seeds=seeds, report_seeds=(), cap=10**9,
                    measure=lambda row: loss_of(row, metric), experiment="schedule",
                )  # fmt: skip
            found.rows = rows_at(arm, found.lr)
            return found

        def at_its_best(arm):
            try:
                own = tuned(arm, decay.lr, decay)
            except NothingWorks as error:
                own = Tuned(math.nan, math.inf, True, {}, 0, why=str(error))
            return Arm(optimizer, arm, metric, own, rows_at(arm, decay.lr))

        decay = tuned("decay", first_rate(optimizer, batch))
        names = [arm for arm in ARMS if arm != "decay" and (arm != "seesaw" or optimizer in SEESAW)]
        arms = [Arm(optimizer, "decay", metric, decay, decay.rows), *lab.map(at_its_best, names)]
        return {arm.name: arm for arm in arms}

    arms = dict(zip(optimizers, lab.map(run_all, optimizers)))
    return summarize(work, arms, common, seeds, report_seeds, grid, tuned=not lr)


def metric_of(work) -> str:
    """By which loss arms are tuned and compared: where labels are noisy a low training loss rewards memorising them."""
    return "val_loss" if work.label_noise else "train_loss"


def loss_of(row, metric) -> float:
    """The loss that a run ends with; inf if it failed."""
    value = row.get(f"final_{metric}") if row["status"] == "ok" else None
    return math.inf if value is None else value


@dataclass
class Arm:
    """One way to remove noise. tuned: at its own best rate, with the report's runs; same: the runs at that of decay."""

    optimizer: str
    name: str
    metric: str
    tuned: Tuned
    same: list = field(default_factory=list)

    @property
    def losses(self):
        return [loss_of(row, self.metric) for row in self.tuned.rows]

    @property
    def losses_at_the_same_rate(self):
        return [loss_of(row, self.metric) for row in self.same]

    @property
    def loss(self):
        return mean(self.losses)

    @property
    def updates(self):
        """Optimizer steps of a whole run; None if no run came to its end."""
        return next((row["steps"] for row in [*self.tuned.rows, *self.same] if row["status"] == "ok"), None)

    def over(self, decay: "Arm"):
        """Its loss over that of decay, seed by seed, each at its own best rate."""
        if not self.tuned.rows:
            return Estimate(math.nan, why="no learning rate works")
        return paired(self.losses, decay.losses)

    def over_at_the_same_rate(self, decay: "Arm"):
        """The same, both at the best rate of decay."""
        return paired(self.losses_at_the_same_rate, decay.losses)


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


OVER = {"each arm at its own best rate": Arm.over, "all arms at the best rate of decay": Arm.over_at_the_same_rate}


# --- what the arms say -----------------------------------------------------------------------------------------------


def summarize(work, arms, common, seeds, report_seeds, grid, tuned=True) -> Result:
    """Tables, figures and sentences from {optimizer: {arm: Arm}}. tuned: whether the rates were, and not given."""
    n, loss = len(report_seeds), LOSSES[common["metric"]]
    intervals = {"ci_lo": f"95 % interval of the {loss}, from", "ci_hi": f"95 % interval of the {loss}, to"}
    does = {
        "arm": "what happens at the end of a phase: decay divides the rate by 4, grow multiplies the batch by 4, "
        "seesaw multiplies the batch by 4 and divides the rate by 2, const does nothing, both does both"
    }
    phases = Table(
        "arms",
        ["optimizer", "arm", "phase", "B", "updates", "lr", common["metric"], "ci_lo", "ci_hi",
         *(key for key in ("train_loss", "val_loss") if key != common["metric"]), "val_acc",
         "n_seeds", "n_fail", "at_edge", "n_trials", "budget", "eval_ratio", "sampler"],
        [row for arms_of in arms.values() for arm in arms_of.values() for row in _phases(arm, common)],
        f"Where each arm stands at the end of each phase, at its own best rate: geometric means over {n} seeds, with "
        "95 % intervals where none failed. train_loss is on the (noisy) training labels.",
        {**does, **intervals, "lr": "learning rate in the first phase", "updates": "optimizer steps so far"},
    )  # fmt: skip
    same = Table(
        "same_rate",
        ["optimizer", "arm", "lr", common["metric"], "ci_lo", "ci_hi", "over_decay", "over_lo", "over_hi", "n_seeds",
         "n_fail"],
        [_same(arm, arms_of["decay"]) for arms_of in arms.values() for arm in arms_of.values()],
        f"The end of all arms at the best rate of decay: geometric means over {n} seeds.",
        {**does, **intervals, "lr": "learning rate in the first phase, the best one of decay",
         "over_decay": f"{loss} over that of decay with the same seed", "over_lo": "95 % interval of over_decay, from",
         "over_hi": "95 % interval of over_decay, to"},
    )  # fmt: skip
    result = Result(
        "schedule", "Can the batch grow where the learning rate would decay, for the same loss in fewer updates?",
        " ".join(_headline(name, arms_of, loss) for name, arms_of in arms.items()),
        tables=[phases, same],
        figures=[
            Figure("over_decay", f"{loss.capitalize()} at the end over that of decay with the same seed: geometric "
                   f"means of {n} seeds; bars are 95 % intervals of the mean. Band: equal within {100 * MARGIN:g} %. "
                   "Crosses: a seed failed, or no rate works.", lambda: _draw_ratios(arms)),
            *(Figure(f"loss_{name}", f"{loss.capitalize()} against updates with {name}, at the ends of the phases, "
                     f"each arm at its own best rate: geometric means of {n} seeds; bars are 95 % intervals of the "
                     "mean, mostly of the scatter that all arms share. An arm with a failed seed has no bars.",
                     lambda arms_of=arms_of: _draw(arms_of, common)) for name, arms_of in arms.items()),
        ],
        summary=Table(
            "summary", ["optimizer", "arm", "lr", "updates", "loss", "over_decay", "same_rate"],
            [_summary(arm, arms_of["decay"]) for arms_of in arms.values() for arm in arms_of.values()],
            f"The end of each arm, {loss}, with 95 % intervals over {n} seeds.",
            {**does, "lr": "learning rate in the first phase, the best of this arm", "updates": "optimizer steps",
             "loss": f"{loss} at the end, with its 95 % interval",
             "over_decay": "loss over that of decay, each at its own best rate, with its 95 % interval",
             "same_rate": "loss over that of decay, both at the best rate of decay, with its 95 % interval"},
        ),
        findings=[line for name, arms_of in arms.items() for line in _findings(name, arms_of, loss)],
        advice=_advice(arms, loss),
        notes=_notes(work, arms, loss),
    )  # fmt: skip
    how = (
        f"the rate of every arm tuned by itself for the final {loss}, on a grid of factor sqrt 2 until two rates on "
        f"both sides were worse, with {len(seeds)} seed{'s' * (len(seeds) != 1)}"
        if tuned
        else "the rate as given, the same in all arms"
    )
    result.methods = (
        f"{work.name}, {work.label_noise:.0%} of the training labels drawn anew; {grid['phases']} phases of "
        f"{grid['epochs']} epochs, factor {FACTOR:g}, batch {common['batch']} in the first phase; {how}; "
        f"{n} fresh seeds; sampler {common['sampler']}; arms are compared by their {loss} at the end, seed by seed. "
        f"95 % intervals by Student's t on logarithms over seeds; each holds by itself."
    )
    if any(name in SEESAW for name in arms):
        result.methods += f" Adam and AdamW have betas {BETAS[0]:g}, {BETAS[1]:g}, unless given."
    return result


def _phases(arm, common):
    rows, first = [], next((row for row in arm.tuned.rows if row["status"] == "ok"), None)
    for i, phase in enumerate(first["phases"] if first else ()):

        def over_seeds(key, i=i):
            found = [row["phases"][i].get(key) if row["status"] == "ok" else math.nan for row in arm.tuned.rows]
            return mean([math.nan if value is None else value for value in found])

        found = over_seeds(common["metric"])
        rows.append({
            "optimizer": arm.optimizer, "arm": arm.name, "phase": i + 1, "B": phase["batch"],
            "updates": phase["updates"], "lr": arm.tuned.lr, "train_loss": over_seeds("train_loss").value,
            "val_loss": over_seeds("val_loss").value, "ci_lo": found.low, "ci_hi": found.high,
            "val_acc": over_seeds("val_accuracy").value, "n_seeds": len(arm.tuned.rows), "n_fail": arm.tuned.failures,
            "at_edge": arm.tuned.at_edge, "n_trials": arm.tuned.trials, "budget": common["steps"], "eval_ratio": None,
            "sampler": common["sampler"],
        })  # fmt: skip
    return rows


def _same(arm, decay):
    loss, over = mean(arm.losses_at_the_same_rate), arm.over_at_the_same_rate(decay)
    return {
        "optimizer": arm.optimizer, "arm": arm.name, "lr": decay.tuned.lr, arm.metric: loss.value, "ci_lo": loss.low,
        "ci_hi": loss.high, "over_decay": over.value, "over_lo": over.low, "over_hi": over.high,
        "n_seeds": len(arm.same), "n_fail": loss.failed,
    }  # fmt: skip


def _summary(arm, decay):
    first = arm is decay
    return {
        "optimizer": arm.optimizer, "arm": arm.name, "lr": arm.tuned.lr, "updates": arm.updates,
        "loss": with_interval(arm.loss), "over_decay": "1" if first else with_interval(arm.over(decay)),
        "same_rate": "1" if first else with_interval(arm.over_at_the_same_rate(decay)),
    }  # fmt: skip


def _instead(arms_of):
    """The arms that grow the batch instead of decaying the rate."""
    return [arms_of[name] for name in ("grow", "seesaw") if name in arms_of]


def _updates(arm, decay):
    if not (arm.updates and decay.updates):
        return ""
    return f", with {100.0 * arm.updates / decay.updates:.0f} % of the updates"


def _headline(name, arms_of, loss):
    decay = arms_of["decay"]
    said = [f"{arm.name} {compared(arm.over(decay))}{_updates(arm, decay)}" for arm in _instead(arms_of)]
    said.append(f"a constant rate {compared(arms_of['const'].over(decay))}")
    return f"{name}, {loss} against that of decaying the rate, each at its own best rate: {'; '.join(said)}."


def _findings(name, arms_of, loss):
    decay = arms_of["decay"]
    others = [arm for arm in arms_of.values() if arm is not decay]
    lines = []
    for where, over in OVER.items():
        ratios = {arm.name: over(arm, decay) for arm in others}
        said = "; ".join(f"{arm} {with_interval(ratio)}, {compared(ratio)}" for arm, ratio in ratios.items())
        lines.append(f"{name}, {where}: {loss} over that of decay: {said}.")
    return lines


def _advice(arms, loss):
    said = []
    for name, arms_of in arms.items():
        decay = arms_of["decay"]
        arm = _instead(arms_of)[-1]
        ratio = arm.over(decay)
        if not ratio.known:
            said.append(f"with {name}, {arm.name} and decay are not compared ({ratio.why})")
        elif ratio.high <= 1.0 + MARGIN:
            said.append(f"with {name}, {arm.name} costs at most {100 * MARGIN:g} % of the {loss} and needs "
                        f"{arm.updates:,} updates for {decay.updates:,}")  # fmt: skip
        elif ratio.low > 1.0:
            said.append(
                f"with {name}, do not grow the batch in place of decaying the rate: {arm.name} ends with "
                f"{compared(ratio)} {loss}"
            )
        else:
            said.append(
                f"with {name}, whether {arm.name} costs {loss} is not told: {compared(ratio)}, for {arm.updates:,} "
                f"updates instead of {decay.updates:,}"
            )
        if arms_of["const"].over(decay).high <= 1.0 + MARGIN:
            said[-1] += f" (a constant rate at its own best is at most {100 * MARGIN:g} % above decay)"
    return f"Where hardware can use the larger batch: {'; '.join(said)}."


def _notes(work, arms, loss):
    notes = []
    for name, arms_of in arms.items():
        decay, const = arms_of["decay"], arms_of["const"]
        for arm in arms_of.values():
            notes += arm.tuned.remarks(f"{name}, {arm.name}")
            if arm.tuned.rows is not arm.same and (failed := mean(arm.losses_at_the_same_rate).failed):
                notes.append(f"{name}, {arm.name} at the best rate of decay: {failed} of {len(arm.same)} seeds failed, "
                             f"and the others decide nothing.")  # fmt: skip
        if not const.over(decay).low > 1.0:
            notes.append(f"{name}: a constant rate at its best is not surely worse than decay ({loss} "
                         f"{with_interval(const.over(decay))} times that of decay): there may be no noise that decay "
                         f"or a larger batch could remove, and then the arms say little of each other.")  # fmt: skip
    if not work.label_noise:
        notes.append(
            "The labels are clean: a model that can fit them all needs no decay (--label-noise 0.2 adds noise)."
        )
    notes.append(f"Arms are tuned and compared by {loss}" + (
        ": on noisy labels a low training loss rewards memorising them. The rates were tuned on the validation part "
        "that is reported, with other seeds, which favours all arms alike." if work.label_noise else "."
    ))  # fmt: skip
    notes.append(
        f"Smith et al. 2018 and Meterez et al. 2025 say that the losses are the same, and not up to which "
        f"distance, so that there is no verdict; equal here is within {100 * MARGIN:g} %, by the whole interval."
    )
    notes.append("The intervals are those of the runs at the rates found; that another search might have found other "
                 "rates is not in them.")  # fmt: skip
    notes.append("Updates are counted, not time: a larger batch only saves time where hardware runs it in parallel.")
    return notes


def _draw_ratios(arms):
    figure, panels = figures.new(columns=len(arms), width=figures.PAGE if len(arms) > 1 else figures.COLUMN,
                                 sharey=True, squeeze=False)  # fmt: skip
    for axes, (name, arms_of) in zip(panels[0], arms.items()):
        decay, others = arms_of["decay"], [arm for arm in arms_of.values() if arm.name != "decay"]
        for i, (label, over) in enumerate(OVER.items()):
            ratios = [over(arm, decay) for arm in others]
            at = [k + 0.16 * (i - 0.5) for k in range(len(others))]
            ends = ([getattr(e, end) if e.known else math.nan for e in ratios] for end in ("value", "low", "high"))
            figures.points_with_interval(axes, at, *ends, i=i, label=label)
        axes.set_xticks(range(len(others)), [arm.name for arm in others])
        axes.set_title(name, fontsize=figures.SMALL + 1)
        axes.set_xlim(-0.6, len(others) - 0.4)
        figures.band(axes, 1.0 / (1.0 + MARGIN), 1.0 + MARGIN)
        for i, over in enumerate(OVER.values()):
            figures.failed(axes, [k for k, arm in enumerate(others) if not over(arm, decay).known], i=i, row=i)
    panels[0][0].set_ylabel("loss over that of decay")
    figures.legend(figure, 2)
    return figure


def _draw(arms_of, common):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, arm in enumerate(arms_of.values()):
        rows = _phases(arm, common)
        columns = [[row[key] for row in rows] for key in ("updates", common["metric"], "ci_lo", "ci_hi")]
        figures.points_with_interval(axes, *columns, i=i, label=arm.name, join=True)
    axes.set(xlabel="updates", ylabel=LOSSES[common["metric"]])
    figures.legend(figure, 3)
    return figure
