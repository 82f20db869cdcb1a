"""Studies of batch size, learning-rate scaling and epochs: `allgrad study`, and the same from Python.

from allgrad.study import Lab, Workload, steps
with Lab("runs/study") as lab:
    print(steps(lab, Workload("digits", "mlp:128"), "quick").headline)
"""

from allgrad.launch.study.critical import Cells, Curve, cells_of, curve, doubling, useful
from allgrad.launch.study.experiments import VERBS, module_of
from allgrad.launch.study.fit import Hyperbola, eval_steps, fit_hyperbola
from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.lab import Lab
from allgrad.launch.study.lr_tuning import Tuned, tune
from allgrad.launch.study.result import Claim, Figure, Result, Table, Verdict, judge
from allgrad.launch.study.runner import Run, configuration, execute, to_target
from allgrad.launch.study.workload import Workload


def __getattr__(name):  # an experiment is imported when it is asked for
    verb = "tune" if name == "search" else name.replace("_", "-")  # `tune` itself is the tuning of learning rates
    if verb in VERBS:
        return module_of(verb).run
    raise AttributeError(f"allgrad.launch.study has no {name!r}")
