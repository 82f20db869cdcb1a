"""Results whose numbers were once measured on the digits, for the tests of what is made of results."""

import math

import numpy as np

from allgrad.launch.study import figures
from allgrad.launch.study.intervals import Estimate, mean, share
from allgrad.launch.study.result import Claim, Figure, Result, Table

SIZES = [2**k for k in range(2, 11)]
STEPS = {  # to a training loss of 0.05
    "SGD": [375, 191, 96.2, 48.8, 33.0, 21.3, 17.5, 15.8, 15.0],
    "momentum 0.9": [410, 210, 115, 65.7, 38.3, 25.6, 17.8, 13.0, 12.3],
    "Adam": [394, 202, 103, 49.6, 31.4, 19.9, 13.6, 10.5, 9.7],
}
FIT = {"SGD": (13.0, 103.0), "momentum 0.9": (10.6, 155.0), "Adam": (8.0, 187.0)}  # S_min, B_crit


def estimate(value, error, n=5):
    return Estimate(value, error, n - 1.0, n=n)


def rows():
    for optimizer, steps in STEPS.items():
        for B, S in zip(SIZES, steps):
            yield {
                "optimizer": optimizer,
                "B": B,
                "lr": np.float64(0.085 * B / 4),
                "S": S,
                "ci_lo": S * 0.93,
                "ci_hi": S * 1.08,
                "E": S * B,
                "slope": None if B == 4 else -0.97,
                "n_fail": int(B == 512),
                "at_edge": optimizer == "SGD" and B == 1024,
            }


def draw_steps():
    figure, axes = figures.new(x=figures.batches, y=figures.logarithmic)
    sizes = np.geomspace(4, 1024, 60)
    for i, (optimizer, steps) in enumerate(STEPS.items()):
        least, critical = FIT[optimizer]
        fit = least * (1 + critical / sizes)
        figures.line_with_interval(axes, sizes, fit, fit * 0.95, fit * 1.05, i)
        bars = np.array(steps)
        figures.points_with_interval(axes, SIZES, steps, bars * 0.93, bars * 1.08, i, optimizer)
    axes.set(xlabel="batch size (examples)", ylabel="steps to training loss 0.05")
    figures.guide(axes, -1, (4, 280), "slope -1: half the steps at twice the batch", at=0.5, below=True)
    figures.legend(figure, 3)
    return figure


def draw_pareto_and_rates():
    figure, (left, right) = figures.new(1, 2, figures.PAGE, x=figures.logarithmic, y=figures.logarithmic)
    for i, (optimizer, steps) in enumerate(STEPS.items()):
        examples = np.array(steps) * SIZES
        figures.points_with_interval(left, steps, examples, i=i, label=optimizer, join=True, names=SIZES)
        at_edge = [optimizer == "SGD" and B == 1024 for B in SIZES]
        figures.points_with_interval(right, SIZES, np.array(SIZES) / 47, i=i, hollow=at_edge, join=True)
    left.set(xlabel="steps to target", ylabel="examples to target")
    right.set(xlabel="batch size (examples)", ylabel="best learning rate")
    figures.second_scale(left.xaxis, 2.1e-4, "seconds")
    figures.failed(right, [512, 1024], 0)
    figures.legend(figure, 3)
    return figure


def draw_noise():
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    steps = [1, 2, 4, 8, 12, 20, 30, 40, 60, 96]
    noise = np.array([22, 25, 31, 44, 60, 90, 140, 200, 280, 440])
    figures.line_with_interval(axes, steps, noise, noise * 0.7, noise * 1.4, 0, "B_simple, B = 16")
    axes.set(xlabel="step > 0", ylabel="noise scale (examples)")
    figures.band(axes, 97, 110, "measured critical batch size")
    figures.legend(figure)
    return figure


def steps():
    """A FAIL, an INCONCLUSIVE, two PASS and a NO VERDICT."""
    summary = [
        {"optimizer": o, "choice": choice, "B": B, "S": STEPS[o][k], "S_lo": STEPS[o][k] * 0.93, "S_hi": math.nan}
        for o in STEPS
        for choice, k, B in (("cheapest", 2, 16), ("fastest", 7, 512))
    ]
    return Result(
        "steps",
        "How many steps does the target take, and at which batch size does a larger batch stop to help?",
        "S falls as 1/B up to B = 32; the critical batch size is 103 [97, 110] for SGD & 155 [146, 165] with momentum.",
        [
            Claim("steps <halve>", "Shallue et al. 2019, section 4.1", "halve", [estimate(0.509, 0.001)], most=0.53),
            Claim("momentum stops later", "Shallue et al. 2019, section 4.3", "later", [estimate(1.31, 0.2)], 1.0),
            Claim("critical batch size above 300", "nobody", "300", [estimate(103.2, 0.05)], 300.0),
            Claim("seeds that reach it", "nobody", "half", [share(60, 60)], 0.5),
            Claim("no gain | beyond 512", "nobody", "none", [mean([1.0, math.inf, 1.02])], 0.95, 1.05),
        ],
        [
            Table("steps", list(next(rows())), list(rows()), "Steps to target at the best learning rate"),
            Table(
                "fit",
                ["optimizer", "S_min", "B_crit", "B_crit_lo", "B_crit_hi"],
                [
                    {"optimizer": o, "S_min": s, "B_crit": b, "B_crit_lo": b * 0.9, "B_crit_hi": b * 1.2}
                    for o, (s, b) in FIT.items()
                ],
                "The hyperbola",
                {"S_min": "steps in the limit (steps)"},
            ),
        ],
        [
            Figure("steps", "Steps to target; bars and bands are 95 % intervals over 8 seeds.", draw_steps),
            Figure("pareto", "(a) Examples against steps. (b) Best learning rate.", draw_pareto_and_rates),
        ],
        Table("summary", ["optimizer", "choice", "B", "S", "S_lo", "S_hi"], summary, "Two batches to choose from"),
        ["At B = 1024 Adam needs 30 to 40 % fewer steps than SGD.", "The curve is rejected <for SGD>."],
        methods="Digits, 1437 to train & 360 to validate, split seed 0; MLP 64-128-10, ReLU, He.\n\nSampler: epoch.",
        notes=["At B = 512 one of 8 seeds failed with SGD.", "A smallest S of 13 steps is coarse."],
        command="allgrad study steps --preset quick --data digits --model mlp:128",
        advice="The largest useful batch is about 100 examples.\nOther targets are not known.",
    )


def noise():
    return Result(
        "noise",
        "Does the noise of the gradient predict the critical batch size?",
        "Predicted 141 to 240, measured 103 [97, 110].",
        [
            Claim(
                "B_simple over B_crit", "McCandlish et al. 2018", "order of magnitude", [estimate(1.4, 0.1)], 0.1, 10.0
            )
        ],
        figures=[Figure("noise", "The noise scale over a run.", draw_noise)],
        findings=["It grows along the run."],
        advice="The noise of the gradient says why: beyond that, its average has no noise left to remove.",
    )


def shuffle():
    return Result("shuffle", "Does the order matter?", "No order is told apart.", command="allgrad study shuffle")
