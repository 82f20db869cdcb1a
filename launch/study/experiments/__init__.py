"""The experiments of `allgrad study`, in one table. To add one, write a module in this folder and its row in VERBS,
and one in EXAMPLES for its --help.

The module has the name of the row, with _ for -. In it are a function `run(lab, work, preset, *, OPTIONS) -> Result`
under the decorator of `study/experiment.py`; and, if its runs do something else than to train until a target is met, a
function `execute(config, comm) -> dict`, which does those whose configuration has the module's name as its "kind".
"""

import importlib

VERBS = {  # word of the command line: what it studies, for --help; `all` does them in this order, but itself and tune
    "steps": "steps to a target against batch size, each with its learning rate tuned",
    "noise": "the noise scale along runs: predicted against measured critical batch size",
    "lr-rules": "what the rules for scaling the learning rate with the batch are worth, next to tuning it",
    "budgets": "batch sizes compared at equal epochs and at equal steps",
    "tokens": "loss against batch size at a fixed number of examples: the best and the critical batch, and their laws",
    "cooldown": "one run at a constant rate, cooled down or averaged at many budgets, against a run for each budget",
    "schedule": "decaying the learning rate against growing the batch",
    "shuffle": "orders of the samples: a new permutation each epoch, one, with replacement, none",
    "local": "steps between averages of the parameters, against one large batch",
    "init": "initial weights: which reach the target, and in how many steps",
    "branch": "the critical batch size along a run, by branches of its checkpoints",
    "ramp": "a batch that grows with the critical batch size: designed, written for several trainers, and run",
    "sharp": "curvature where small and large batches end up, at equal training loss",
    "scaling": "weak and strong scaling on real ranks, and which part of a step is communication",
    "project": "time to target on up to thousands of ranks: calibration, cost model, steps to target",
    "pareto": "seconds and cost to a target: which ranks and batch sizes no others beat in both",
    "all": "all of these in one directory and one report",
    "tune": "hyper-parameters by grid, random, quasi-random search or successive halving, and how much each matters",
}
EXAMPLES = {  # options of each, for its --help
    "steps": "--optimizer adam --batches 16,64,256,1024 --seeds 3 --out studies/a",
    "noise": "--optimizer sgd --out studies/a",
    "lr-rules": "--optimizer momentum --batches 8,32,128,512 --out studies/a",
    "budgets": "--budgets 5ep,200 --batches 16,64,256 --out studies/a",
    "tokens": "--models mlp:{32,128} --budgets 1ep,2ep,4ep --out studies/a",
    "cooldown": "--optimizer adamw --decay 0.1 --out studies/a",
    "schedule": "--optimizer adam --report-seeds 8 --out studies/a",
    "shuffle": "--report-seeds 8 --out studies/a",
    "local": "--optimizer sgd --out studies/a",
    "init": "--model mlp:64,64 --target 0.1 --out studies/a",
    "branch": "--checkpoints 0,100,400 --batches 8,32,128 --out studies/a",
    "sharp": "--batches 8,512 --target 0.02 --out studies/a",
    "scaling": "--ranks 1,2 --strong 256 --weak 64 --out studies/a",
    "project": "--net infiniband-hdr --optimizer sgd --out studies/a",
    "all": "--preset quick --out studies/a",
    "tune": "--search halving --space lr=log:1e-3..1 --space batch=16,64 --out studies/a",
}


def module_of(verb: str):
    """The module of an experiment, which is imported when it is asked for."""
    return importlib.import_module(f"{__name__}.{verb.replace('-', '_')}")
