"""Cells whose steps are known: a law of the batch size, with seeds scattered about it."""

import math

import numpy as np

from allgrad.launch.study.choices import Cell
from allgrad.launch.study.lr_tuning import Tuned

BATCHES = [4 * 2**k for k in range(9)]
HYPERBOLA = {b: 10.0 * (1.0 + 128.0 / b) for b in BATCHES}
REGRESSION = {b: math.log(1e3) / math.log1p(b / 31.0) for b in BATCHES}  # linear, 30 features: no hyperbola
FLAT, FALLING = dict.fromkeys((4, 8, 16, 32), 10.0), {b: 4000.0 / b for b in (4, 8, 16, 32)}
COMMON = {"target": 0.5, "metric": "train_loss", "sampler": "epoch", "eval_ratio": 1.05}


def cells(steps, seeds=5, scatter=0.02, name="sgd", draw=0):
    """One for each batch of {batch: steps}, tuned with the rate 0.1."""
    rng = np.random.default_rng(draw)
    found = []
    for batch, mean in steps.items():
        taken = mean * np.exp(scatter * rng.standard_normal(seeds))
        rows = [{"status": "ok", "steps_to_target": float(s), "config": {}} for s in taken]
        found.append(Cell(name, batch, Tuned(0.1, mean, False, {0.1: mean}, 3, rows)))
    return found


def with_failures(found, batch, count=1):
    """The same, with the first seeds of a batch size diverged."""
    for cell in found:
        if cell.batch == batch:
            for row in cell.tuned.rows[:count]:
                row.update(status="diverged", steps_to_target=None)
    return found
