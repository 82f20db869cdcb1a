"""One run for many budgets: at a constant rate, cooled down or averaged, against a run with a schedule for each budget.

Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations": a run at a constant
rate, whose rate falls to 0 over the last 10 to 20 % of a budget in a branch, matches the cosine schedule. Zhang et al.
2024 (arXiv 2410.21676) average the weights of a constant rate instead; Defazio et al. 2024, "The Road Less Scheduled",
train on an average.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from allgrad.autograd import optim
from allgrad.ddp import Sampler
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.plan import schedule_of, steps_of
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments.branch import restore, state
from allgrad.launch.study.intervals import NEGATIVE, Estimate, combined, mean, paired
from allgrad.launch.study.lr_tuning import SEEDS, Tuned, first_rate, tune
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import compared, with_interval

GRIDS = {
    "quick": {
        "optimizers": ("sgd", "adamw"), "budgets": ("2ep", "4ep", "6ep", "8ep", "12ep", "16ep"), "seeds": SEEDS,
        "report_seeds": tuple(range(100, 110)),
    },
    "full": {
        "optimizers": ("sgd", "momentum", "adamw"),
        "budgets": ("2ep", "4ep", "6ep", "8ep", "12ep", "16ep", "24ep", "32ep"), "seeds": (*SEEDS, 3),
        "report_seeds": tuple(range(100, 130)),
    },
}  # fmt: skip
BATCH = 32
DECAY, SHAPE = 0.2, "1-sqrt"  # the share of a budget over which its rate falls, and how: the best of Haegele et al.
AVERAGES = (0.9, 0.97, 0.99, 0.997)  # decays of the averages that run beside the weights
FREE = {"sgd": "schedulefree-sgd", "momentum": "schedulefree-sgd", "adam": "schedulefree-adamw",
        "adamw": "schedulefree-adamw"}  # fmt: skip
MARGIN = 0.01  # up to which losses are called equal
SEPARATE, COOLED, AVERAGED, CONSTANT, SCHEDULE_FREE = "separate", "cooled", "averaged", "constant", "schedule-free"


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=PRESET, batches=None, budgets=PRESET, metric="val_loss", sampler="epoch",
    seeds=PRESET, report_seeds=PRESET, lr=None, schedule="cosine", decay=DECAY, **more,
) -> Result:  # fmt: skip
    """The experiment. The smallest of `batches` is taken. budgets: steps, epochs as "10ep" or "20000samples"; decay:
    the share of a budget over which the rate of the one run falls; schedule: that of the separate runs."""
    if not metric.endswith("loss"):
        raise ConfigurationError(f"--metric of allgrad study cooldown is train_loss or val_loss, got {metric}")
    if not 0.0 < decay <= 1.0:
        raise ConfigurationError(f"--decay is a share of a budget, above 0 and at most 1, got {decay}")
    if "steps" in more:
        raise ConfigurationError("--steps has no effect on allgrad study cooldown: give --budgets")
    batch = min(batches or (BATCH,))
    lengths = Sampler(len(work.loaded.train_x), batch, "epoch", 0, "carry")
    steps = dict(sorted(((b, steps_of(b, lengths)) for b in budgets), key=lambda pair: pair[1]))
    if min(steps.values()) * decay < 1.0:
        raise ConfigurationError(f"--budgets {next(iter(steps))}: its decay is shorter than a step; give longer ones")
    common = {"target": None, "metric": metric, "sampler": sampler, "batch": batch, **more}
    setting = {"seeds": seeds, "report_seeds": report_seeds, "cap": 10**9, "experiment": "cooldown"}

    def separate(optimizer):
        """{budget: Tuned} of a run for each budget."""
        found, rate, near = {}, lr or first_rate(optimizer, batch), None
        for budget in steps:

            def configure(budget=budget, **given):
                return runner.configuration(
                    work, optimizer, steps=budget, schedule=schedule, eval_ratio=2.0, **common, **given
                )

            measure = lambda row: row[f"final_{metric}"]
            found[budget] = near = tune(lab, configure, rate, neighbour=near, measure=measure, **setting)
            rate = near.lr
        return found

    def one(rule, name, averages: tuple = AVERAGES, share: float | None = decay):
        """(Tuned, {budget: the place of the best average}) of one run for all budgets, by its mean of ln loss."""

        def configure(**given):
            return runner.configuration(
                work, rule, kind="cooldown", steps=list(steps)[-1], budgets=list(steps), decay=share, shape=SHAPE,
                averages=averages, **common, **given,
            )  # fmt: skip

        def measure(row):
            losses = [min(_losses(row, budget, name)) for budget in steps]
            return math.exp(float(np.mean(np.log(losses)))) if min(losses) > 0.0 else float(np.mean(losses))

        tuned = tune(lab, configure, lr or first_rate(rule, batch), measure=measure, **setting)
        if name != AVERAGED:
            return tuned, {}
        rows = lab.run([configure(lr=tuned.lr, seed=seed, cap=10**9, prune=None) for seed in seeds], "cooldown")
        found = {budget: [_losses(row, budget, name) for row in rows] for budget in steps}  # of the tuning seeds
        return tuned, {budget: int(np.argmin(np.mean(losses, axis=0))) for budget, losses in found.items()}

    def run_all(task):
        optimizer, name = task
        if name == SEPARATE:
            return Arm(name, separate(optimizer), {}, sum(steps.values()))
        longest = list(steps.values())[-1]
        free = name == SCHEDULE_FREE
        (tuned, chosen), cost = one(FREE[optimizer], name, (), None) if free else one(optimizer, name), longest
        if name == COOLED:
            begins = [_begin(n, decay) for n in steps.values()]
            cost = max(begins) + sum(n - begin for n, begin in zip(steps.values(), begins))
        return Arm(name, dict.fromkeys(steps, tuned), chosen, cost)

    tasks = [
        (optimizer, name) for optimizer in optimizers
        for name in (SEPARATE, COOLED, AVERAGED, CONSTANT, SCHEDULE_FREE) if name != SCHEDULE_FREE or optimizer in FREE
    ]  # fmt: skip
    arms: dict = {optimizer: {} for optimizer in optimizers}
    for (optimizer, name), arm in zip(tasks, lab.map(run_all, tasks)):
        arms[optimizer][name] = arm
    return summarize(work, arms, steps, {**common, "schedule": schedule, "decay": decay}, seeds, report_seeds)


def _losses(row, budget, name):
    """What a run of kind "cooldown" has at a budget: one loss, or those of all averages; inf where there is none."""
    here = next((one for one in row.get("budgets", ()) if one["budget"] == budget), None)
    if row["status"] != "ok" or here is None:
        return [math.inf]
    found = {COOLED: [here["cooled"]], AVERAGED: here["averages"]}.get(name, [here["loss"]])
    return [math.inf if loss is None else loss for loss in found]


# --- one run ---------------------------------------------------------------------------------------------------------


class Cooling(runner.Run):
    """A run at a constant rate, which falls at the end of a budget while `cools_for` is that budget, in steps."""

    cools_for: int | None = None

    def learning_rate(self):
        config, sampler = self.config, self.loader.sampler
        warmup = steps_of(config["warmup"], sampler)

        def rate_until(steps):
            word = "constant" if steps is None else f"wsd:{float(config['decay'])},{config['shape']}"
            return schedule_of({"schedule": word}, config["lr"], steps, sampler, warmup)

        rates = {steps: rate_until(steps) for steps in (None, *(self.budgets.values() if config["decay"] else ()))}
        return lambda step: rates[self.cools_for](step)

    @property
    def budgets(self) -> dict[str, int]:
        """{budget: its steps}"""
        return {budget: steps_of(budget, self.loader.sampler) for budget in self.config["budgets"]}


def _begin(steps, decay):
    """The last step of a budget at which the rate has not begun to fall."""
    return math.floor(steps - decay * steps)


def execute(config, comm):
    """Train at a constant rate with averages of the weights beside it; the row lists what there is at each budget.

    Where the decay of a budget begins, a copy of the run goes on to its end with a falling rate, with the very bits of
    a run that has the schedule wsd from its start.
    """
    run = Cooling(config, comm)
    averages = [optim.EMA(run.parallel, decay) for decay in config["averages"]]
    (initial, _), cooled, found, status = run.start, {}, [], "ok"
    events = [(steps, "end", budget) for budget, steps in run.budgets.items()]
    if config["decay"]:
        events += [(_begin(steps, config["decay"]), "cool", budget) for budget, steps in run.budgets.items()]

    part = config["metric"].partition("_")[0]

    def measured(good):
        """The loss, None if the run has come to nothing."""
        loss = run.named(config["metric"], run.evaluate(part)) if good else math.nan
        return None if run.diverged(loss) else loss

    for stop, what, budget in sorted(events):
        if not _train(run, stop, averages):
            status = "diverged"
            break
        if what == "cool":
            kept, run.cools_for = state(run), run.budgets[budget]
            cooled[budget] = measured(_train(run, run.cools_for))
            restore(run, kept, stop)
            run.cools_for = None
            continue
        loss, of_averages = measured(True), []
        for average in averages:
            with average.applied():
                of_averages.append(measured(True))
        found.append({"budget": budget, "steps": stop, "loss": loss, "cooled": cooled.get(budget),
                      "averages": of_averages})  # fmt: skip
        if loss is None:
            status = "diverged"
            break
    return {
        "status": status, "steps_to_target": None, "censored_at": None if status == "ok" else run.t, "steps": run.t,
        "examples": run.examples, "epochs": run.examples / len(run.data.train_x), "initial_train_loss": initial,
        "budgets": found, **({f"final_{config['metric']}": found[-1]["loss"]} if found else {}),
    }  # fmt: skip


def _train(run, stop, averages=()):
    """Go on to this step; whether all losses were finite."""
    while run.t < stop:
        if not math.isfinite(run.step()):
            return False
        for average in averages:
            average.update()
        run.t += 1
    return True


# --- what the arms say -----------------------------------------------------------------------------------------------


@dataclass
class Arm:
    """One way to serve all budgets. chosen: {budget: the place of its average in AVERAGES}; steps: of a seed in all."""

    name: str
    tuned: dict[str, Tuned]
    chosen: dict[str, int]
    steps: int

    def losses(self, budget, metric) -> list[float]:
        """Those of the report's seeds at a budget; inf where one failed."""
        rows = self.tuned[budget].rows
        if self.name == SEPARATE:
            return [row[f"final_{metric}"] if row["status"] == "ok" else math.inf for row in rows]
        found = [_losses(row, budget, self.name) for row in rows]
        return [one[self.chosen.get(budget, 0)] if len(one) > 1 else one[0] for one in found]

    @property
    def trials(self):
        """Runs that its rates took to tune."""
        return sum(tuned.trials for tuned in {id(t): t for t in self.tuned.values()}.values())


def over(arm, base, budgets, metric) -> Estimate:
    """The losses of an arm over those of separate runs with the same seeds, geometric means over these budgets.

    In its error are the scatter of the seeds' ratios, and the doubts about the rates: one of the arm, and one of each
    separate run.
    """
    losses = [np.array([one.losses(budget, metric) for budget in budgets], float) for one in (arm, base)]
    if any((x <= 0.0).any() for x in losses):
        return Estimate(math.nan, n=losses[0].shape[1], why=NEGATIVE)
    found = paired(*(np.exp(np.log(x).mean(axis=0)) for x in losses))
    if math.isnan(found.error):
        return found
    doubts = [arm.tuned[budgets[0]].doubt, *(base.tuned[budget].doubt / len(budgets) for budget in budgets)]
    error, dof = combined([found.error, *doubts], [found.dof, *[math.inf] * len(doubts)])
    return replace(found, error=error, dof=dof, why="" if error else found.why)


MEANT = {
    SEPARATE: "a run for each budget, with a schedule and a rate of its own",
    COOLED: "one run at a constant rate, which falls to 0 at the end of each budget in a branch",
    AVERAGED: "one run at a constant rate, and an exponential moving average of its weights",
    CONSTANT: "one run at a constant rate, as it is",
    SCHEDULE_FREE: "one run of the schedule-free rule",
}
SAID = {COOLED: "one run cooled down", AVERAGED: "averages of one run", CONSTANT: "one run as it is",
        SCHEDULE_FREE: "one schedule-free run"}  # fmt: skip


def summarize(work, arms, steps, common, seeds, report_seeds) -> Result:
    """Tables, figures and sentences from {optimizer: {arm: Arm}}."""
    metric = common["metric"]
    part = "validation" if metric.startswith("val") else "training"
    ratios = {
        (name, arm.name): over(arm, of[SEPARATE], [*steps], metric)
        for name, of in arms.items() for arm in of.values() if arm.name != SEPARATE
    }  # fmt: skip
    n = f"{len(report_seeds)} seeds, batch {common['batch']}"
    result = Result(
        "cooldown", "Can one run at a constant rate take the place of a run for each budget?",
        " ".join(_headline(name, of, ratios) for name, of in arms.items()), [],
        [_table(arms, steps, common)],
        [Figure(f"ratio_{name}", f"Final {part} loss with {name} over that of a separate run with the same seed, at "
                f"each budget; {n}, bars are 95 % intervals of the paired ratio (t on logarithms, "
                f"and the doubt about the rates); the band is "
                f"{MARGIN:.0%} to both sides of equality.".replace("1%", "1 %"),
                lambda of=of: _draw_ratios(of, steps, metric, part)) for name, of in arms.items()]
        + [Figure(f"loss_{name}", f"Final {part} loss with {name} against the budget; {n}, geometric means with 95 % "
                  "intervals (t on logarithms).", lambda of=of: _draw_losses(of, steps, metric, part))
           for name, of in arms.items()],
        summary=_summary(arms, ratios),
        findings=[_finding(name, of, arm, ratios[name, arm.name])
                  for name, of in arms.items() for arm in of.values() if arm.name != SEPARATE],
    )  # fmt: skip
    result.methods = (
        f"{work.name}, batch {common['batch']}, budgets {', '.join(steps)}. Separate: schedule {common['schedule']} "
        f"over each budget, a rate tuned for each. The others: one run for all budgets at one rate, tuned for the "
        f"geometric mean of its losses at all of them, each arm by itself. Cooled: the rate falls to 0 over the last "
        f"{100.0 * common['decay']:g} % of a budget ({SHAPE}). Averaged: moving averages with decays "
        f"{', '.join(f'{d:g}' for d in AVERAGES)} run beside the weights, the best for each budget chosen on the "
        f"tuning seeds. Rates on a grid of factor sqrt 2, {len(seeds)} tuning seeds, {len(report_seeds)} fresh ones, "
        f"the same in all arms, so that losses are compared in pairs; {part} loss; sampler {common['sampler']}; 95 % "
        f"intervals by Student's t on logarithms, of ratios with a quarter of how much worse neighbouring rates are."
    )
    result.advice = " ".join(_advice(name, of, ratios) for name, of in arms.items())
    result.notes = _notes(arms, steps, metric, ratios)
    return result


def _share(arm, of):
    return f"{100.0 * arm.steps / of[SEPARATE].steps:.0f} % of the steps"


def _against(ratio):
    return compared(ratio, "more loss", "less loss", MARGIN)


def _headline(name, of, ratios):
    said = []
    for key in (COOLED, AVERAGED, SCHEDULE_FREE):
        if key in of:
            said.append(f"{SAID[key]}, {_share(of[key], of)}: {_against(ratios[name, key])}")
    return f"{name}, against a run for each budget: {'; '.join(said)}."


def _finding(name, of, arm, ratio):
    return (
        f"{name}, {SAID[arm.name]}: loss {with_interval(ratio)} times that of separate runs over all budgets "
        f"({_against(ratio)}), in {_share(arm, of)}; its rate took {arm.trials} runs to tune, those of the separate "
        f"runs {of[SEPARATE].trials}."
    )


def _advice(name, of, ratios):
    good = [key for key in (AVERAGED, COOLED, SCHEDULE_FREE) if key in of and ratios[name, key].high <= 1.0 + MARGIN]
    if good:
        best = min(good, key=lambda key: of[key].steps)
        return (
            f"With {name}, {SAID[best]}: all budgets in {_share(of[best], of)} of separate runs, at no more than 1 % "
            f"more loss."
        )
    worse = [key for key in (COOLED, AVERAGED, SCHEDULE_FREE) if key in of and ratios[name, key].low > 1.0 + MARGIN]
    open_ = [key for key in (COOLED, AVERAGED, SCHEDULE_FREE) if key in of and key not in worse]
    told = f"With {name}, no single run is known to come within 1 % of separate runs"
    return f"{told}: not told apart, {', '.join(SAID[key] for key in open_)}." if open_ else f"{told}: all lose more."


def _summary(arms, ratios):
    rows = [
        {"optimizer": name, "arm": arm.name, "ratio": e.value if (e := ratios.get((name, arm.name))) else 1.0,
         "ratio_lo": e.low if e else None, "ratio_hi": e.high if e else None, "steps": arm.steps,
         "share": arm.steps / of[SEPARATE].steps, "n_trials": arm.trials}
        for name, of in arms.items() for arm in of.values()
    ]  # fmt: skip
    return Table(
        "cost", list(rows[0]), rows, "What serves all budgets, at which loss and in how many steps.",
        {"arm": "; ".join(f"{name}: {text}" for name, text in MEANT.items()),
         "ratio": "loss over that of separate runs with the same seeds, geometric mean over all budgets",
         "ratio_lo": "95 % interval, from", "ratio_hi": "95 % interval, to",
         "steps": "optimizer steps of a seed in all", "share": "steps over those of separate runs",
         "n_trials": "runs that tuning took"},
    )  # fmt: skip


def _table(arms, steps, common):
    rows = []
    for name, of in arms.items():
        for arm in of.values():
            for budget, count in steps.items():
                losses = arm.losses(budget, common["metric"])
                ratio = over(arm, of[SEPARATE], [budget], common["metric"])
                loss, tuned = mean(losses), arm.tuned[budget]
                own = arm.name == SEPARATE
                rows.append({
                    "optimizer": name, "arm": arm.name, "budget": budget, "steps": count, "lr": tuned.lr,
                    "loss": loss.value, "ci_lo": loss.low, "ci_hi": loss.high, "ratio": ratio.value,
                    "ratio_lo": None if own else ratio.low, "ratio_hi": None if own else ratio.high,
                    "average": AVERAGES[arm.chosen[budget]] if arm.chosen else None, "n_seeds": len(losses),
                    "n_fail": loss.failed, "at_edge": tuned.at_edge, "n_trials": tuned.trials, "B": common["batch"],
                    "metric": common["metric"], "sampler": common["sampler"],
                })  # fmt: skip
    return Table(
        "budgets", list(rows[0]), rows, "Final loss of each arm at each budget.",
        {"arm": "; ".join(f"{name}: {text}" for name, text in MEANT.items()), "steps": "steps of the budget",
         "loss": "final loss by the metric", "ratio": "loss over that of separate runs with the same seeds",
         "ratio_lo": "95 % interval, from", "ratio_hi": "95 % interval, to",
         "average": "decay of the moving average that was best on the tuning seeds"},
    )  # fmt: skip


def _notes(arms, steps, metric, ratios):
    notes = [
        "Steps are those of the final runs; tuning costs each arm as many times more as it took runs.",
    ]
    for name, of in arms.items():
        if CONSTANT in of and not ratios[name, CONSTANT].low > 1.0:
            notes.append(
                f"{name}: the plain constant rate is not shown to lose to separate runs: there may be little noise "
                f"that a decay or an average could remove, and then this says little (--label-noise 0.2 adds some)."
            )
        for arm in of.values():
            seen = {id(t): (budget, t) for budget, t in arm.tuned.items()}
            for budget, tuned in seen.values():
                notes += tuned.remarks(f"{name}, {arm.name}{f', {budget}' * (len(seen) > 1)}")
            for budget in steps if arm.name in (COOLED, AVERAGED) else ():
                tuned = arm.tuned[budget]
                if (failed := mean(arm.losses(budget, metric)).failed) > tuned.failures:
                    notes.append(f"{name}, {arm.name}, {budget}: {failed} of {len(tuned.rows)} seeds failed there.")
    return notes


def _draw_ratios(of, steps, metric, part):
    figure, axes = figures.new(x=figures.logarithmic)
    for i, arm in enumerate(arm for arm in of.values() if arm.name not in (SEPARATE, CONSTANT)):
        found = [over(arm, of[SEPARATE], [b], metric) for b in steps]
        figures.points_with_interval(
            axes, [n * 1.02**i for n in steps.values()], [e.value for e in found], [e.low for e in found],
            [e.high for e in found], i=i, label=arm.name, join=True, hollow=[not e.known for e in found],
        )  # fmt: skip
    figures.band(axes, 1.0 - MARGIN, 1.0 + MARGIN)
    axes.set(xlabel="budget (steps)", ylabel=f"{part} loss over that\nof a separate run")
    figures.legend(figure, 3)
    return figure


def _draw_losses(of, steps, metric, part):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    for i, arm in enumerate(of.values()):
        found = [mean(arm.losses(b, metric)) for b in steps]
        figures.points_with_interval(
            axes, [n * 1.02**i for n in steps.values()], [e.value for e in found], [e.low for e in found],
            [e.high for e in found], i=i, label=arm.name, join=True, hollow=[not e.known for e in found],
        )  # fmt: skip
    axes.set(xlabel="budget (steps)", ylabel=f"{part} loss")
    figures.legend(figure, 3)
    return figure
