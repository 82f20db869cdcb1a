"""Which initial weights let a network reach the target, and in how many steps, each with its best learning rate?

He et al. 2015, "Delving Deep into Rectifiers"; Glorot and Bengio 2010, "Understanding the Difficulty of Training Deep
Feedforward Neural Networks".
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from allgrad import autograd as ag
from allgrad.autograd import init, nn, random
from allgrad.autograd.arrays import to_numpy
from allgrad.launch.study import figures, runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import steps
from allgrad.launch.study.intervals import holm, mean, not_beaten, paired, share
from allgrad.launch.study.lr_tuning import SEEDS, NothingWorks, Tuned, first_rate, tune
from allgrad.launch.study.result import ALPHA, LEAST_SEEDS, Figure, Result, Table
from allgrad.launch.study.wording import compared, with_interval

SCHEMES = {
    "he": init.kaiming,
    "xavier": init.xavier,
    "lecun": init.gaussian,
    "torch": init.torch_default,
    "small": init.normal(0.01),
    "zero": init.zeros,
    "unit-normal": init.normal(1.0),
}
GRIDS = {
    "quick": {"schemes": tuple(SCHEMES), "deep": 6, "cap": 600, "seeds": SEEDS, "report_seeds": tuple(range(100, 112))},
    "full": {
        "schemes": tuple(SCHEMES), "deep": 6, "cap": 3000, "seeds": (*SEEDS, 3), "report_seeds": tuple(range(100, 110)),
    },
}  # fmt: skip
BATCH, TARGETS = 32, {"train_loss": 0.1, "val_loss": 0.2, "train_accuracy": 0.98, "val_accuracy": 0.96}
MEANINGS = {
    "scheme": "he: variance 2/fan_in; xavier: 2/(fan_in + fan_out); lecun: 1/fan_in; torch: uniform within "
    "1/sqrt(fan_in); small: standard deviation 0.01; unit-normal: 1",
    "depth": "hidden layers",
    "over_he": "steps over those of he",
    "init_loss": "training loss before the first step",
    "budget": "what a run had to reach",
    "eval_ratio": "distance between evaluations",
    "lr": "best learning rate; of a scheme that fails at any, the first one tried",
}


# --- a run -----------------------------------------------------------------------------------------------------------


def execute(config: dict, comm) -> dict:
    """A run to the target from the weights of a scheme, with what they do to activations and gradients at first."""
    run = Scheme(config, comm)
    layers = run.layers()
    return {**runner.to_target(run), "layers": layers}


class Scheme(runner.Run):
    """A run whose weights of two axes and more are drawn anew; biases, gains and the like stay as they are."""

    def __init__(self, config, comm=None):
        super().__init__(config, comm)
        draw = SCHEMES[config["scheme"]]
        for name, p in self.arena.parameters.items():
            if len(p.shape) > 1:
                rng = random.generator(config["seed"], "scheme", name)
                p.assign(draw(p.shape, rng).astype(config["dtype"]))
        self.arena.bump_versions()

    def layers(self) -> list[dict]:
        """Of each layer: the standard deviation of what it computes, if layers come in a row; norms of gradients."""
        x, y = (a[:256] for a in self.parts["train"])
        model, found = self.snapshot(), {}
        loss, _ = runner.workload.objective(self.config, model, self.data)
        loss(x, y).backward()
        for name, p in model.named_parameters():
            layer, _, what = name.rpartition(".")
            if len(p.shape) > 1:
                grad = 0.0 if p.grad is None else float(np.linalg.norm(to_numpy(p.grad)))
                found[layer or what] = {"layer": layer or what, "act_std": None, "grad_norm": grad}
        if type(model) is nn.Sequential:
            h = ag.tensor(x)
            for i, layer in enumerate(model.layers):
                h = layer(h)
                if (key := next((k for k in found if k.split(".")[-1] == str(i)), None)) is not None:
                    found[key]["act_std"] = float(np.std(to_numpy(h.detach().data)))
        return [
            {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in layer.items()}
            for layer in found.values()
        ]


# --- the experiment --------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """A scheme on a model of some depth: its tuned rate and rows, or the row of a run that shows how it fails."""

    scheme: str
    depth: str
    tuned: Tuned | None
    rows: list[dict]

    @property
    def steps(self):
        return self.tuned.steps if self.tuned else [math.inf] * len(self.rows)


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, optimizers=("sgd",), target=None, metric="train_loss", sampler="epoch", seeds=PRESET,
    report_seeds=PRESET, cap=PRESET, eval_ratio=1.05, lr=None,
) -> Result:  # fmt: skip
    """Steps to the target from each scheme's weights; a multilayer perceptron also at depth 6, of its first width."""
    grid, (name,) = GRIDS[preset], optimizers
    start = lr or first_rate(name, BATCH)
    common = {
        "kind": "init", "batch": BATCH, "target": steps.goal(work, metric, target, TARGETS), "metric": metric,
        "sampler": sampler, "eval_ratio": eval_ratio,
    }  # fmt: skip

    def cell(job):
        depth, model, scheme = job

        def configure(**given):
            return runner.configuration(model, name, **common, scheme=scheme, **given)

        try:
            found = tune(lab, configure, start, seeds=seeds, report_seeds=report_seeds, cap=cap, experiment="init")
            return Cell(scheme, depth, found, found.rows)
        except NothingWorks as error:
            rows = lab.run([configure(lr=start, seed=seed, cap=cap) for seed in report_seeds], "init")
            if any(row["status"] == "error" for row in rows):
                raise error from None
            return Cell(scheme, depth, None, rows)

    models = _models(work, grid["deep"])
    jobs = [(depth, model, scheme) for depth, model in models.items() for scheme in grid["schemes"]]
    return summarize(work, models, lab.map(cell, jobs), common, name, seeds, report_seeds, cap)


def _models(work, deep):
    """{depth: workload}: the workload itself, and a deeper one if its model has a depth."""
    spec = work.model if isinstance(work.model, str) else ""
    kind, _, rest = spec.partition(":")
    if kind != "mlp":
        return {"as it is": work}
    sizes, colon, activation = rest.partition(":")
    widths = sizes.split(",")
    deeper = replace(work, model="mlp:" + ",".join(widths[:1] * deep) + colon + activation)
    return {str(len(widths)): work, **({str(deep): deeper} if len(widths) < deep else {})}


# --- what the cells say ----------------------------------------------------------------------------------------------


def summarize(work, models, cells, common, name, seeds, report_seeds, cap) -> Result:
    """Tables, claims, figures and sentences from the cells."""
    cells_of = {(cell.depth, cell.scheme): cell for cell in cells}
    goal, n = f"{common['metric']} {common['target']:g}", len(report_seeds)
    rows = [{**_row(cell, cells_of), "budget": goal, "eval_ratio": common["eval_ratio"]} for cell in cells]
    layers = [
        {"scheme": cell.scheme, "depth": cell.depth, **layer, "n_seeds": 1}
        for cell in cells for layer in cell.rows[0].get("layers", ())
    ]  # fmt: skip
    result = Result(
        "init", "Which initial weights let the network reach the target, and in how many steps?",
        " ".join(_headline(depth, cells_of, goal) for depth in models), [],
        [Table("cells", ["scheme", "depth", "lr", "S", "ci_lo", "ci_hi", "over_he", "over_he_lo", "over_he_hi",
                         "init_loss", "n_seeds", "n_fail", "at_edge", "n_trials", "budget", "eval_ratio"], rows,
               f"Steps to {goal} from each scheme's weights, each with its best rate: geometric means over seeds with "
               "95 % intervals; none where a seed failed.", MEANINGS),
         Table("layers", ["scheme", "depth", "layer", "act_std", "grad_norm", "n_seeds"], layers,
               "Layers before the first step, on 256 training samples of one seed.",
               {"layer": "whose weights", "act_std": "standard deviation of what the layer computes",
                "grad_norm": "norm of the gradient of its weights"})],
        _figures(cells_of, models, goal, n),
        Table("summary", ["scheme", "depth", "lr", "S", "ci_lo", "ci_hi", "n_fail"], rows, "", MEANINGS),
        _findings(cells_of, models),
    )  # fmt: skip
    result.methods = (
        f"{', '.join(model.name for model in models.values())}; {name}, B = {BATCH}, to {goal} within {cap} steps, "
        f"sampler {common['sampler']}; weights of two axes and more drawn anew by each scheme, all else as the model "
        f"has it; constant rate tuned for each scheme on a grid of factor sqrt 2 with {len(seeds)} seeds, run on "
        f"{n} fresh seeds; 95 % intervals by Student's t over seeds, of logarithms. Schemes are compared seed by "
        f"seed: a seed has the same orders of samples and, scaled, the same weights. Schemes are told apart from he by "
        f"Student's t with Holm's correction for all of them, and from each other at 5 % over the number of others."
    )
    result.advice = " ".join(_advice(depth, cells_of) for depth in models)
    result.notes = [f"A run has failed if it needs more than {cap} steps, or its loss rises by more than "
                    f"{runner.GROWTH:g} times what it began with."]  # fmt: skip
    for cell in cells:
        where = f"{cell.scheme} at depth {cell.depth}"
        if cell.tuned is None:
            endings = ", ".join(sorted({row["status"] for row in cell.rows} - {"ok"}))
            result.notes.append(f"{where}: no learning rate meets the target ({endings}).")
        else:
            result.notes += cell.tuned.remarks(where)
    return result


def _row(cell, cells_of):
    losses = [row["initial_train_loss"] for row in cell.rows if row.get("initial_train_loss") is not None]
    steps_taken, over = mean(cell.steps), _over_he(cell, cells_of)
    return {
        "scheme": cell.scheme, "depth": cell.depth, "lr": cell.rows[0]["config"]["lr"], "S": steps_taken.value,
        "ci_lo": steps_taken.low, "ci_hi": steps_taken.high, "over_he": over.value, "over_he_lo": over.low,
        "over_he_hi": over.high, "init_loss": float(np.mean(losses)) if losses else None, "n_seeds": len(cell.rows),
        "n_fail": sum(not math.isfinite(s) for s in cell.steps),
        "at_edge": bool(cell.tuned and cell.tuned.at_edge), "n_trials": cell.tuned.trials if cell.tuned else None,
    }  # fmt: skip


def _over_he(cell, cells_of):
    """Steps over those of he, seed by seed."""
    return paired(cell.steps, cells_of[cell.depth, "he"].steps)


def _failed(cell):
    return share(sum(not math.isfinite(s) for s in cell.steps), len(cell.steps))


def _sorted_by(depth, cells_of):
    """(schemes of a depth that take more or fewer steps than he with their ratios, those not told apart, those that
    fail); told apart by Student's t, all schemes and depths together by Holm's correction"""
    apart, same, failed = {}, [], []
    others = [cell for (_, scheme), cell in cells_of.items() if scheme != "he"]
    ratios = [_over_he(cell, cells_of) for cell in others]
    p_values = [2.0 * min(over.p_above(1.0), over.p_below(1.0)) if over.n >= LEAST_SEEDS else math.nan
                for over in ratios]  # fmt: skip
    for cell, over, p in zip(others, ratios, holm(p_values)):
        if cell.depth == depth:
            if _failed(cell).hits:
                failed.append(cell)
            elif p <= ALPHA:
                apart[cell.scheme] = over
            else:
                same.append(cell.scheme)
    return apart, same, failed


def _headline(depth, cells_of, goal):
    """Which schemes fail at a depth, and how the others compare with he."""
    apart, same, failed = _sorted_by(depth, cells_of)
    said = [f"he takes {with_interval(mean(cells_of[depth, 'he'].steps))} steps to {goal}"]
    said += [f"{scheme} {compared(over, 'more', 'fewer')}" for scheme, over in apart.items()]
    said += [f"{', '.join(same)} not told apart from he"] * bool(same)
    said += [f"{cell.scheme} fails with {_failed(cell).hits} of {len(cell.steps)} seeds" for cell in failed]
    return f"Depth {depth}: {', '.join(said)}."


def _advice(depth, cells_of):
    """The schemes of which none is shown to need more steps than another."""
    cells = [cell for (at, _), cell in cells_of.items() if at == depth]
    whole = [cell for cell in cells if not _failed(cell).hits]
    if not whole or len(whole[0].steps) < LEAST_SEEDS:
        return f"Depth {depth}: no advice: it needs {LEAST_SEEDS} seeds that do not fail."
    best = [cell.scheme for cell in not_beaten(whole, lambda cell, other: paired(cell.steps, other.steps))]
    worse = [cell.scheme for cell in cells if cell.scheme not in best]
    why = f": {', '.join(worse)} need more steps than another, or fail" * bool(worse)
    return f"Depth {depth}: {' or '.join(best)}{why}."


def _findings(cells_of, models):
    """Whether weights that are all zero learn, and what hidden layers do to the scale of what they get at first."""
    found = []
    for (depth, scheme), cell in cells_of.items():
        if scheme == "zero" and len(cell.rows[0].get("layers", ())) > 1:
            lost = _failed(cell)
            found.append(
                f"Depth {depth}: from weights that are all zero {lost.hits} of {lost.n} seeds do not meet the target, "
                f"a share of {with_interval(lost, 2)}; of equal weights Rumelhart, Hinton and Williams 1986, 'Symmetry "
                f"Breaking', say that 'the system can never learn'."
            )
    for depth in models:
        factors = {}
        for (at, scheme), cell in cells_of.items():
            factor = mean([_factor(row) for row in cell.rows])
            if at == depth and factor.known:
                factors[scheme] = with_interval(factor)
        if factors:
            found.append(
                f"Depth {depth}: a hidden layer multiplies the standard deviation of what it gets, before the first "
                f"step, by {', '.join(f'{factor} ({scheme})' for scheme, factor in factors.items())}; He et al. 2015, "
                f"section 2.2, want 1."
            )
    return found


def _factor(row):
    """Of a run's hidden layers, the geometric mean of what each after the first multiplies the scale by; or nan."""
    scales = [layer["act_std"] for layer in row.get("layers", ())][:-1]  # the last layer has another width
    return (scales[-1] / scales[0]) ** (1.0 / (len(scales) - 1)) if len(scales) > 1 and all(scales) else math.nan


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(cells_of, models, goal, n):
    return [
        Figure("cells", f"Steps to {goal} from each scheme's initial weights, each with its best learning rate: "
               f"geometric means over {n} seeds with 95 % intervals. Crosses: a seed failed; there is no interval "
               "then.", lambda: _draw_steps(cells_of, models, goal)),
        Figure("layers", "What the layers compute before the first step: standard deviation of each layer's outputs in "
               "the deepest model, by scheme (those of zero are 0); one seed.",
               lambda: _draw_layers(cells_of, list(models)[-1])),
    ]  # fmt: skip


def _draw_steps(cells_of, models, goal):
    figure, axes = figures.new(y=figures.logarithmic)
    schemes = list(dict.fromkeys(scheme for _, scheme in cells_of))
    for i, depth in enumerate(models):
        rows = [_row(cells_of[depth, scheme], cells_of) for scheme in schemes]
        x = [k + 0.16 * (i - (len(models) - 1) / 2) for k in range(len(schemes))]
        ends = [[row[key] for row in rows] for key in ("S", "ci_lo", "ci_hi")]
        figures.points_with_interval(axes, x, *ends, i=i, label=f"depth {depth}")
    axes.set_xticks(range(len(schemes)), schemes, rotation=30, ha="right", rotation_mode="anchor")
    axes.set(xlabel="initial weights", ylabel=f"steps to {goal}")
    axes.set_xlim(-0.5, len(schemes) - 0.5)
    for i, depth in enumerate(models):
        failed = [
            k for k, scheme in enumerate(schemes) if any(not math.isfinite(s) for s in cells_of[depth, scheme].steps)
        ]
        figures.failed(axes, failed, i=i, row=i)
    figures.legend(figure, 2)
    return figure


def _draw_layers(cells_of, depth):
    figure, axes = figures.new(y=figures.logarithmic)
    cells = [cell for (at, _), cell in cells_of.items() if at == depth]
    for i, cell in enumerate(cells):
        layers = cell.rows[0].get("layers", ())
        deviations = [layer["act_std"] or None for layer in layers]
        figures.points_with_interval(axes, range(1, len(layers) + 1), deviations, i=i, label=cell.scheme, join=True)
    axes.set(xlabel="layer", ylabel="standard deviation of outputs")
    figures.legend(figure, 3)
    return figure
