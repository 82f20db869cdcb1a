"""The experiments of `allgrad study`, by the word it calls them. A new one is a module of this folder and a row here.

The module is named as the word, with _ for -, and has `run`, a function under `allgrad.launch.study.experiment`.
"""

import importlib

VERBS = {  # word: what it studies, for --help. `all` runs them in this order
    "steps": "steps to a target against batch size, each with its learning rate tuned",
    "noise": "the noise scale along runs: predicted against measured critical batch size",
    "lr-rules": "what the rules for scaling the learning rate with the batch are worth, next to tuning it",
    "budgets": "batch sizes compared at equal epochs and at equal steps",
    "schedule": "decaying the learning rate against growing the batch",
    "shuffle": "orders of the samples: a new permutation each epoch, one, with replacement, none",
    "local": "steps between averages of the parameters, against one large batch",
    "init": "initial weights: which reach the target, and in how many steps",
    "branch": "the critical batch size along a run, by branches of its checkpoints",
    "sharp": "curvature where small and large batches end up, at equal training loss",
    "scaling": "weak and strong scaling on real ranks, and which part of a step is communication",
    "project": "time to target on up to thousands of ranks: calibration, cost model, steps to target",
    "all": "all of these in one directory and one report",
    "tune": "hyper-parameters by grid, random, quasi-random search or successive halving, and how much each matters",
}


def module_of(verb: str):
    """The module of an experiment, which is imported when it is asked for."""
    return importlib.import_module(f"{__name__}.{verb.replace('-', '_')}")
