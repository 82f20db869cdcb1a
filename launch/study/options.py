"""The options of `allgrad study`, which mean the same on the command line, in a file and from Python."""

import argparse
import re
from collections.abc import Iterable
from typing import Any

from allgrad.ddp.errors import ConfigurationError

# --- types -----------------------------------------------------------------------------------------------------------


def numbers(kind):
    """A type for argparse: numbers with commas between them."""

    def parse(text):
        try:
            return tuple(kind(part) for part in text.removesuffix(",").split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: expected numbers with commas between them") from None

    return parse


def positive(kind):
    """A type for argparse: a number above 0."""

    def parse(text):
        try:
            if kind(text) > 0:
                return kind(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r}: expected {'an integer' if kind is int else 'a number'} above 0")

    return parse


def words(text):
    """Different words with commas between them."""
    return _different(text, tuple(part.strip() for part in text.removesuffix(",").split(",")))


def models(text):
    """Names of models with commas between them; mlp:{32,128} means mlp:32 and mlp:128."""
    found = []
    for name in re.split(r",(?=[A-Za-z./~])", text.removesuffix(",")):
        before, brace, rest = name.strip().partition("{")
        inside, closed, after = rest.partition("}")
        if bool(brace) != bool(closed):
            raise argparse.ArgumentTypeError(f"{text!r}: expected names as mlp:32 or mlp:{{32,128}}")
        found += [f"{before}{size.strip()}{after}" for size in inside.split(",")] if brace else [before]
    return _different(text, tuple(found))


def sizes(text):
    """Different sizes with commas between them."""
    found = _different(text, numbers(int)(text))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of at least 1")
    return found


def seeds(first):
    """A type for argparse: a number of seeds from `first` on, or the seeds with commas between or after them."""

    def parse(text):
        found = _different(text, numbers(int)(text))
        if "," in text:
            return found
        if found[0] < 1:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected at least 1 seed, or the seeds with commas between them"
            )
        return tuple(range(first, first + found[0]))

    return parse


def _different(text, found: tuple) -> tuple:
    if len({*found}) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected each of them once")
    return found


# --- the options ---------------------------------------------------------------------------------------------------

WORKLOAD = {  # flag: (type, help); the fields of a Workload
    "data": (str, "data set, as in allgrad train [digits]"),
    "data_dir": (str, "where mnist, fashion-mnist and cifar10 are"),
    "model": (str, "model, as in allgrad train [mlp:128]"),
    "init": (str, "initial weights [kaiming]"),
    "dropout": (float, "probability of dropout [0]"),
    "dtype": (str, "float32 or float64 [float32]"),
    "label_noise": (float, "share of training labels drawn anew [0]"),
    "shards": (positive(int), "logical shards of a batch [--ranks-per-run]"),
    "eval_samples": (
        positive(int),
        "samples of each part that are measured [at most 2,048, of text 16,384 characters]",
    ),
}
LAB = {
    "out": (str, "directory of the study; what it holds is not run again [runs/study]"),
    "jobs": (positive(int), "worker processes [one a core]"),
    "ranks_per_run": (positive(int), "ranks that share a run, under mpirun, torchrun or srun [1]"),
    "retry": (str, "which runs of the directory are done again: error or all [error]"),
}
GRID = {  # what the experiments' `run` may take; each says so if it does not
    "optimizers": (words, "optimizers with commas between them: sgd, momentum, nesterov, adam, ..."),
    "batches": (sizes, "batch sizes with commas between them"),
    "target": (float, "value of the metric at which a run has succeeded"),
    "metric": (
        str,
        "train_ or val_ and loss, accuracy, or of a regression mse, mae, r2 [train_loss; of tune val_loss]",
    ),
    "sampler": (str, "order of the samples: epoch, once, iid or never [epoch]"),
    "seeds": (seeds(0), "seeds to tune with: their number, or seeds with commas between them"),
    "report_seeds": (seeds(100), "fresh seeds for the best rate: their number n, which means 100 to 99 + n, or seeds"),
    "cap": (positive(int), "steps after which a run has failed [6000]"),
    "eval_ratio": (positive(float), "factor between evaluations after the first 20 steps [1.05]"),
    "sustain": (positive(int), "evaluations in a row that must meet the target [1]"),
    "lr": (positive(float), "learning rate to begin the search with, at the smallest batch"),
    "momentum": (float, "momentum of sgd, rmsprop and lars"),
    "weight_decay": (float, "weight decay"),
    "steps": (str, "budget: steps, 10ep or 20000samples"),
    "budgets": (words, "of budgets, tokens and cooldown: several of them with commas between them"),
    "models": (models, "of tokens: models of several sizes, as mlp:{32,128,512} [--model]"),
    "decay": (float, "of cooldown: share of a budget over which its rate falls [0.2]"),
    "checkpoints": (numbers(int), "of branch: steps after which it branches, with commas between them"),
    "schedule": (str, "schedule of the learning rate over the budget, as in allgrad train"),
    "ranks": (sizes, "of scaling: numbers of ranks with commas between them [1, 2, 4, ... cores]"),
    "strong": (positive(int), "of scaling: global batch at any number of ranks [256]"),
    "weak": (positive(int), "of scaling: batch of each rank [64]"),
    "large": (str, "of scaling: a second, larger model, none for none [mlp:960,960]"),
    "launcher": (str, "of scaling and project: what starts their ranks: mpirun, torchrun or srun"),
    "net": (str, "of project: a network by name, or custom:A,B[,C] in seconds and seconds a byte [measured]"),
    "compute": (numbers(float), "of project: c0,d in seconds a step and an example [measured]"),
    "size": (positive(int), "of project: bytes of the gradients [those of the model]"),
    "s_min": (float, "of scaling and project: S_min of steps to target [that of study steps in --out]"),
    "b_crit": (float, "of scaling and project: B_crit of steps to target [that of study steps in --out]"),
    "algorithm": (str, "of project: ring, rabenseifner, recursive-doubling, tree or best [best]"),
    "space": (
        str,
        "of tune: NAME=log:A..B, NAME=A..B, NAME=A,B,C; once for each of lr, batch, depth, width, "
        "activation, optimizer, momentum, weight_decay, l1, dropout, init, schedule, warmup, model",
    ),
    "search": (str, "of tune: grid, random, quasi or halving [quasi]"),
    "trials": (positive(int), "of tune: configurations to try"),
    "eta": (positive(int), "of tune: halving goes on with one in so many [3]"),
    "search_seed": (int, "of tune: seed of what is tried [0]"),
    "max_ranks": (positive(int), "of project: ranks to go up to [4096]"),
}
OPTIONS = {**WORKLOAD, **LAB, **GRID}
REPEATED = ("space",)  # a list of words; in a file also a table
ALIASES = {"optimizers": ("--optimizer", "--optimizers"), "batches": ("--batch", "--batches")}


# --- values of Python and of files -----------------------------------------------------------------------------------


def typed(name: str, value, source="") -> Any:
    """A value of Python or of a file in the type of its option, as if it had been written on the command line."""
    kind = OPTIONS[name][0]
    several = isinstance(value, Iterable) and not isinstance(value, str)
    parts = [_word(part) for part in value] if several else [_word(value)]
    text = ",".join(parts) + "," * (len(parts) == 1 and several and "seeds" in name)
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        reason = str(error).partition("': ")[2]
    except ValueError:
        reason = "expected a number"
    raise ConfigurationError(f"{source}{name} = {value!r}: {reason}")


def _word(value):
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
