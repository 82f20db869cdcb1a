"""Studies of batch size, learning-rate scaling and epochs: `allgrad study`, and the same from Python.

from launch.study import Lab, Workload, steps
with Lab("runs/study") as lab:
    print(steps(lab, Workload("digits", "mlp:128"), "quick").headline)
"""

import importlib

from launch.study.experiments import VERBS
from launch.study.fit import Hyperbola, bootstrap, eval_steps, fit_hyperbola
from launch.study.lab import Lab
from launch.study.result import Check, Figure, Result, Table
from launch.study.runner import Run, configuration, execute, to_target
from launch.study.tune import Tuned, tune
from launch.study.workload import Workload


def __getattr__(name):  # an experiment is imported when it is asked for
    if name.replace("_", "-") in VERBS or name == "search":  # the verb tune, since `tune` is the protocol's
        return importlib.import_module(f"launch.study.experiments.{'tune' if name == 'search' else name}").run
    raise AttributeError(f"launch.study has no {name!r}")
