"""Which batch is too large depends on how far a run has come: branches of one run's checkpoints, with larger batches.

Merrill et al. 2025, "Critical Batch Size Revisited" (arXiv 2505.23971), section 3.1: from a checkpoint train the same
number of samples with k times the batch and f(k) times the rate; the local critical batch size is the largest k B0
before the first that ends with a loss clearly above that of a smaller one.
"""

import math

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures, fit, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.lr_tuning import SEEDS, lr_exponent
from allgrad.launch.study.result import Check, Figure, Result, Table

GRIDS = {
    "quick": {
        "optimizers": ("sgd",), "checkpoints": (0, 50, 200, 400, 800, 1600),
        "batches": tuple(4 * 2**i for i in range(8)), "seeds": SEEDS, "report_seeds": tuple(range(100, 106)),
    },
    "full": {
        "optimizers": ("sgd", "momentum", "adam"), "checkpoints": (0, 25, 50, 100, 200, 400, 800, 1600),
        "batches": tuple(4 * 2**i for i in range(9)), "seeds": (*SEEDS, 3), "report_seeds": tuple(range(100, 112)),
    },
}  # fmt: skip
DELTA, TOLERANCE = "1ep", 0.15


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
        before, kept = run.evaluate()["loss"], _state(run)
        for batch in config["branches"]:
            sampler.resize(run.t, batch)
            run.factor = (batch / base) ** config["power"]
            length = runner.steps_of(config["delta"], _sampler_of(run, batch))
            good = _train(run, checkpoint + length)
            loss = run.evaluate()["loss"] if good else math.nan
            good = good and not run.diverged(loss)
            found.append({"checkpoint": checkpoint, "batch": batch, "steps": length, "before": before,
                          "loss": loss if good else None})  # fmt: skip
            _restore(run, kept, checkpoint)
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


def _state(run):
    buffers = {name: np.array(buffer.numpy()) for name, buffer in run.model.named_buffers()}
    state = run.optimizer.state_dict()
    return run.arena.data.copy(), buffers, {k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}


def _restore(run, kept, step):
    data, buffers, state = kept
    run.arena.data[:] = data
    run.arena.bump_versions()
    for name, buffer in run.model.named_buffers():
        buffer.assign(buffers[name])
    run.optimizer.load_state_dict(state)
    run.t = step


# --- what the branches say -------------------------------------------------------------------------------------------


def local_critical(losses, batches, tolerance=TOLERANCE):
    """The index of the largest batch before the first whose loss exceeds (1 + tolerance) times the least before it."""
    least = math.inf
    for k, loss in enumerate(losses[: len(batches)]):
        if not loss <= least + tolerance * abs(least) and k:
            return k - 1
        least = min(least, loss)
    return len(batches) - 1


def _losses(rows, checkpoint, batches):
    """(losses (seeds, batches), inf where a branch failed; losses of the seeds at the checkpoint)."""
    found, before = [], []
    for row in rows:
        here = {b["batch"]: b for b in row.get("branches", ()) if b["checkpoint"] == checkpoint}
        if here:
            found.append([math.inf if here[b]["loss"] is None else here[b]["loss"] for b in batches])
            before.append(next(iter(here.values()))["before"])
    return np.array(found).reshape(-1, len(batches)), np.array(before)


def _mean(losses):
    """Geometric means over seeds, arithmetic ones if a loss is not above 0; inf where one failed."""
    return np.exp(np.log(losses).mean(axis=0)) if np.all(losses > 0.0) else losses.mean(axis=0)


def _cell(name, one, checkpoint, batches):
    """What a checkpoint says: the local critical batch with its interval over seeds, and what caps it."""
    losses, before = _losses(one["rows"], checkpoint, batches)
    if not len(losses):
        return None
    k = local_critical(_mean(losses), batches)
    rng = np.random.default_rng(0)
    drawn = [batches[local_critical(_mean(losses[rng.integers(len(losses), size=len(losses))]), batches)]
             for _ in range(fit.RESAMPLES)]  # fmt: skip
    last = k == len(batches) - 1
    unstable = not last and np.mean(losses[:, k + 1] > before) > 0.5
    return {
        "optimizer": name, "checkpoint": checkpoint, "loss": float(_mean(before)), "cbs": batches[k],
        "next": None if last else batches[k + 1], "ci_lo": fit.interval(drawn)[0], "ci_hi": fit.interval(drawn)[1],
        "cap": "grid" if last else "stability" if unstable else "noise", "drawn": np.array(drawn, float),
        "lr": one["lr"], "n_seeds": len(one["rows"]), "n_fail": int(np.isinf(losses).any(axis=1).sum()),
        "at_edge": one["at_edge"], "n_trials": one["trials"], "budget": DELTA, "eval_ratio": None, "losses": losses,
        "before": before,
    }  # fmt: skip


def summarize(work, found, batches, checkpoints, sampler, seeds, report_seeds) -> Result:
    """Tables, checks, figures and sentences from {optimizer: rate and rows}."""
    cells_of = {
        name: [cell for c in checkpoints if (cell := _cell(name, one, c, batches))] for name, one in found.items()
    }
    cells = [cell for some in cells_of.values() for cell in some]
    table = Table(
        "checkpoints",
        ["optimizer", "checkpoint", "loss", "cbs", "next", "cap", "ci_lo", "ci_hi", "lr", "n_seeds", "n_fail",
         "at_edge", "n_trials", "budget", "eval_ratio"],
        cells, f"The local critical batch size: the largest batch before the first whose branch ends with a loss over "
        f"{1 + TOLERANCE:g} times that of the best smaller batch; losses are geometric means over seeds.",
        {"checkpoint": "steps of the base batch before the branches begin", "loss": "training loss there",
         "cbs": "local critical batch size", "next": "the next batch tried: the truth is between",
         "cap": "what makes the next batch too large: noise; stability: it ends above the checkpoint's loss; grid: "
                "none was too large",
         "budget": "length of a branch", "n_fail": "seeds with a branch that diverged"},
    )  # fmt: skip
    branches = Table(
        "branches", ["optimizer", "checkpoint", "B", "k", "steps", "train_loss", "ratio", "n_seeds", "n_fail"],
        [row for cell in cells for row in _branches(cell, batches, work)], "Where each branch ends.",
        {"checkpoint": "steps of the base batch before", "ratio": "train_loss over that of the best branch of a "
         "smaller batch"},
    )  # fmt: skip
    result = Result(
        "branch", "How does the largest batch that costs nothing change while a run goes on?",
        " ".join(_headline(name, some) for name, some in cells_of.items() if some),
        [check for name, some in cells_of.items() for check in _checks(name, some, len(report_seeds), work)],
        [table, branches],
        [Figure("cbs", "Local critical batch size along the run: the intervals of 95 % over seeds; hollow: capped by "
                "stability under the scaling rule, or by the largest batch tried.", lambda: _draw(cells_of))]
        + [Figure(f"branches_{name}", f"Training loss after a branch of one epoch with {name}, a line for each "
                  "checkpoint, over that of the base batch; the dashed level is the tolerance; "
                  "no point where a seed's branch diverged.",
                  lambda some=some: _draw_branches(some, batches)) for name, some in cells_of.items() if some],
    )  # fmt: skip
    rates = ", ".join(f"{name} {one['lr']:.3g}" for name, one in found.items())
    result.methods = (
        f"{work.name}; base batch {batches[0]}, its rate ({rates}) tuned on steps to the target with {len(seeds)} "
        f"seeds unless given; branches of {DELTA.removesuffix('ep')} epoch with batches {batches[0]} to {batches[-1]}, "
        f"the rate times k (k^0.5 for adaptive optimizers), from the base run's weights, optimizer state and place in "
        f"the data; loss over the measured training samples at the end of a branch, {len(report_seeds)} seeds; sampler "
        f"{sampler}; tolerance {TOLERANCE:.0%}; 95 % intervals by {fit.RESAMPLES} resamples of the seeds."
    )
    last = [some[-1] for some in cells_of.values() if some]
    result.advice = "Begin with a small batch and let it grow: " + "; ".join(
        f"with {c['optimizer']}, about {some[0]['cbs']} at first and {c['cbs']} after {c['checkpoint']} steps"
        for c, some in zip(last, [s for s in cells_of.values() if s])
    ) + "."  # fmt: skip
    result.notes = _notes(cells_of, found)
    return result


def _branches(cell, batches, work):
    n, losses, least, rows = len(work.loaded.train_x), cell["losses"], math.inf, []
    for i, batch in enumerate(batches):
        good = losses[:, i][np.isfinite(losses[:, i])]
        mean = fit.gmean(good)
        rows.append({
            "optimizer": cell["optimizer"], "checkpoint": cell["checkpoint"], "B": batch, "k": batch / batches[0],
            "steps": -(-n // batch), "train_loss": mean, "ratio": mean / least if i else None,
            "n_seeds": len(losses), "n_fail": len(losses) - len(good),
        })  # fmt: skip
        least = min(least, mean if math.isfinite(mean) else math.inf)
    return rows


def _headline(name, cells):
    along = ", ".join(
        f"{c['cbs']}{' (stability)' * (c['cap'] == 'stability')} at step {c['checkpoint']}" for c in cells
    )
    return f"{name}: the local critical batch size is {along}."


def _checks(name, cells, seeds, work):
    if len(cells) < 3:
        return []
    middle, last = cells[len(cells) // 2 - (len(cells) % 2 == 0)], cells[-1]
    ratios = last["drawn"] / middle["drawn"]
    claim = (f"{name}: the critical batch size grows as the loss falls (at step {last['checkpoint']} over that at "
             f"{middle['checkpoint']})")  # fmt: skip
    return [Check(claim, last["cbs"] / middle["cbs"], *fit.interval(ratios), least=4.0 if work.is_default else 2.0,
                  seeds=seeds)]  # fmt: skip


def _notes(cells_of, found):
    notes = [
        "A loss over many samples ends each branch; Merrill et al. smooth losses of batches instead.",
        "Batches are tried at powers of two: the critical batch size lies between cbs and next.",
    ]
    for name, cells in cells_of.items():
        if lost := [row for row in found[name]["rows"] if row["status"] != "ok"]:
            notes.append(f"{name}: {len(lost)} of {len(found[name]['rows'])} base runs ended early "
                         f"({', '.join(sorted({row['status'] for row in lost}))}).")  # fmt: skip
        if capped := [str(c["checkpoint"]) for c in cells if c["cap"] == "stability"]:
            notes.append(f"{name}: at steps {', '.join(capped)} the next batch ends above the loss it began with: the "
                         f"scaled rate is unstable, and a smaller rate might have allowed a larger batch.")  # fmt: skip
        if open_ended := [str(c["checkpoint"]) for c in cells if c["cap"] == "grid"]:
            notes.append(f"{name}: at steps {', '.join(open_ended)} no batch was too large: cbs is a lower bound.")
        if len(cells) > 1 and cells[0]["cbs"] >= min(c["cbs"] for c in cells[1:]):
            notes.append(f"{name}: growth from nearly 0 at the start, as for language models, is not seen here: "
                         f"{cells[0]['cbs']} at step {cells[0]['checkpoint']}.")  # fmt: skip
    return notes


def _draw(cells_of):
    figure, axes = figures.new()
    axes.set_xscale("symlog", linthresh=25)
    figures.batches(axes.yaxis)
    for i, (name, cells) in enumerate(cells_of.items()):
        columns = [[c[key] for c in cells] for key in ("checkpoint", "cbs", "ci_lo", "ci_hi")]
        hollow = [c["cap"] != "noise" for c in cells]
        figures.points_with_interval(axes, *columns, i=i, label=name, join=True, hollow=hollow)
        axes.set_xticks([c["checkpoint"] for c in cells], [f"{c['checkpoint']}" for c in cells])
    axes.set(xlabel="steps of the base batch before the branch", ylabel="local critical batch size (examples)")
    figures.legend(figure, 3)
    return figure


def _draw_branches(cells, batches):
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    for i, cell in enumerate(cells):
        mean = _mean(cell["losses"])
        figures.points_with_interval(axes, batches, mean / mean[0], i=i, label=f"step {cell['checkpoint']}", join=True)
    axes.set(xlabel="batch size of the branch (examples)", ylabel="loss over that of the base batch")
    figures.guide(axes, 0.0, (batches[0], 1.0 + TOLERANCE), "")
    figures.legend(figure, 3)
    return figure
