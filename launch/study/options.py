"""The options of `allgrad study`, which mean the same on the command line, in a file and from Python.

Those that `allgrad train` has too are its own, out of its table. Which experiment takes which, its function says.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.options import OPTIONS as OF_TRAIN, Expected, Option, checked

# --- types -----------------------------------------------------------------------------------------------------------


def several(kind):
    """A type: numbers with commas between them."""

    def numbers(text):
        try:
            return tuple(kind(part) for part in text.removesuffix(",").split(","))
        except ValueError:
            raise Expected("numbers with commas between them") from None

    return numbers


def positive(text):
    """A type: a number above 0."""
    try:
        if 0.0 < (found := float(text)) < float("inf"):
            return found
    except ValueError:
        pass
    raise Expected("a number above 0")


def goal(text):
    """A type: a number, or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise Expected("a number, or auto") from None


def with_ends(text):
    """A type: a number, or a number with the ends of its 95 % interval, VALUE:LOW:HIGH."""
    try:
        found = tuple(float(part) for part in text.replace(",", ":").split(":"))
    except ValueError:
        found = ()
    if len(found) not in (1, 3):
        raise Expected("a number, or VALUE:LOW:HIGH")
    return found[0] if len(found) == 1 else found


def words(text):
    """A type: different words with commas between them."""
    return _different(tuple(part.strip() for part in text.removesuffix(",").split(",")))


def models(text):
    """A type: different names of models with commas between them; mlp:{32,128} means mlp:32 and mlp:128."""
    found = []
    for name in re.split(r",(?=[A-Za-z./~])", text.removesuffix(",")):
        before, brace, rest = name.strip().partition("{")
        inside, closed, after = rest.partition("}")
        if bool(brace) != bool(closed):
            raise Expected("names as mlp:32,mlp:128 or mlp:{32,128}")
        found += [f"{before}{size.strip()}{after}" for size in inside.split(",")] if brace else [before]
    return _different(tuple(found))


def sizes(text):
    """A type: different sizes with commas between them."""
    found = _different(several(int)(text))
    if min(found) < 1:
        raise Expected("numbers of at least 1")
    return found


def seeds_from(first):
    """A type: a number of seeds from `first` on, or the seeds with commas between or after them."""

    def seeds(text):
        found = _different(several(int)(text))
        if "," in text:
            return found
        if found[0] < 1:
            raise Expected("at least 1 seed, or the seeds with commas between them")
        return tuple(range(first, first + found[0]))

    return seeds


def _different(found: tuple) -> tuple:
    if len({*found}) < len(found):
        raise Expected("values that differ, each of them once")
    return found


# --- the options -----------------------------------------------------------------------------------------------------


def _of_train(name, **other):
    """An option of `allgrad train`, but for what has no meaning in a study."""
    return replace(next(option for option in OF_TRAIN if option.name == name), **other)


PRESETS = "quick", "full"
SIZE_OF_GRIDS = Option("preset", str, PRESETS[0], "size of the grids", among=PRESETS)
TRAINED = (
    _of_train("data"), _of_train("data_dir"), _of_train("model"), _of_train("init"), _of_train("dropout"),
    _of_train("dtype", among=("float32", "float64"), help="type to compute in"),
    Option("label_noise", float, 0.0, "share of the training labels that are drawn anew", least=0.0),
    _of_train("shards", help="logical shards of a batch (default: --ranks-per-run)"),
    Option("eval_samples", int, None, "samples of each part that are measured (default: at most 2,048, of text 16,384 "
           "characters)", least=1),
    _of_train("momentum"), _of_train("nesterov"), _of_train("weight_decay"), _of_train("l1"), _of_train("no_decay"),
    _of_train("schedule"),
    _of_train("warmup", help="how long the learning rate rises from 0: steps, 5ep (epochs) or 20000samples"),
)  # fmt: skip
WORKLOAD = tuple(option.name for option in TRAINED[:9])  # fields of a Workload
COMPARED = (
    Option("optimizers", words, None, "optimizers with commas between them: sgd, momentum, nesterov, adam, ..."),
    Option("batches", sizes, None, "batch sizes with commas between them"),
    Option("target", goal, None, "value of the metric at which a run has succeeded; auto: one that a short run "
           "proposes"),
    Option("metric", str, None, "train_ or val_ and loss, accuracy, or of a regression mse, mae, r2"),
    Option("sampler", str, None, "order of the samples: epoch, once, iid or never"),
    Option("steps", str, None, "budget of a run: steps, 10ep or 20000samples"),
    Option("budgets", words, None, "budgets, as of --steps, with commas between them"),
    Option("models", models, None, "models of several sizes, as mlp:{32,128,512} (default: --model)"),
    Option("decay", float, None, "share of a budget over which the rate of one run falls", least=0.0),
    Option("checkpoints", several(int), None, "steps after which runs branch, with commas between them"),
    Option("space", str, None, "what is searched, as NAME=log:A..B, NAME=A..B or NAME=A,B,C; once for each of lr, "
           "batch, depth, width, activation, optimizer, momentum, weight_decay, l1, dropout, init, schedule, warmup, "
           "model"),
    Option("strong", int, None, "global batch at any number of ranks", least=1),
    Option("weak", int, None, "batch of each rank", least=1),
    Option("large", str, None, "a second, larger model; none for none"),
    Option("net", str, None, "a network by name, or custom:A,B[,C] in seconds and seconds a byte (default: measured)"),
    Option("compute", several(float), None, "c0,d in seconds a step and an example (default: measured)"),
    Option("size", int, None, "bytes of the gradients (default: those of the model)", least=1),
    Option("s_min", with_ends, None, "S_min of steps to target, as 13 or VALUE:LOW:HIGH (default: that of study steps "
           "in --out)"),
    Option("b_crit", with_ends, None, "B_crit, as 107 or 107:80:143 (default: that of study steps in --out)"),
    Option("price", positive, None, "price of a rank and hour, in any currency"),
    Option("algorithm", str, None, "ring, rabenseifner, recursive-doubling, tree or best"),
)  # fmt: skip
TUNED = (
    Option("seeds", seeds_from(0), None, "seeds to tune with: their number, or seeds with commas between them"),
    Option("report_seeds", seeds_from(100), None, "fresh seeds for the best rate: their number n, which means 100 to "
           "99 + n, or seeds"),
    Option("lr", positive, None, "learning rate to begin the search with, at the smallest batch"),
    Option("cap", int, None, "steps after which a run has failed", least=1),
    Option("eval_ratio", positive, None, "factor between evaluations after the first 20 steps"),
    Option("sustain", int, None, "evaluations in a row that must meet the target", least=1),
    Option("search", str, None, "grid, random, quasi or halving"),
    Option("trials", int, None, "configurations to try", least=1),
    Option("eta", int, None, "halving goes on with one in so many (default: 3)", least=1),
    Option("search_seed", int, None, "seed of what is tried (default: 0)"),
)  # fmt: skip
PLACED = (
    Option("out", str, "runs/study", "directory of the study; what it holds is not run again"),
    Option("jobs", int, None, "worker processes (default: one a core)", least=1),
    Option("ranks_per_run", int, 1, "ranks that share a run, under mpirun, torchrun or srun", least=1),
    Option("retry", str, "error", "which runs of the directory are done again", among=("error", "all")),
    Option("ranks", sizes, None, "numbers of ranks with commas between them (default: 1, 2, 4, ... cores)"),
    Option("launcher", str, None, "what starts the ranks: mpirun, torchrun or srun"),
    Option("max_ranks", int, None, "ranks to go up to", least=1),
)  # fmt: skip
LAB = tuple(option.name for option in PLACED[:4])  # options of a Lab
GROUPS = {"what is trained": TRAINED, "what is compared": COMPARED, "tuning": TUNED, "where it runs": PLACED}
OPTIONS = {option.name: option for group in GROUPS.values() for option in group}
GRID = tuple(name for name in OPTIONS if name not in (*WORKLOAD, *LAB))  # what the experiments' `run` may take
REPEATED = ("space",)  # a list of words; in a file also a table
ALIASES = {"optimizers": "optimizer", "batches": "batch"}  # and the word for one of them


# --- values of the command line, of Python and of files --------------------------------------------------------------


def typed(name: str, value, source="") -> Any:
    """A value in the type of its option, in whichever way it was given; else ConfigurationError, SOURCE and why."""
    option = OPTIONS[name]
    if option.kind not in (str, int, float, bool):
        many = isinstance(value, Iterable) and not isinstance(value, str)
        parts = [_word(part) for part in value] if many else [_word(value)]
        value = ",".join(parts) + "," * (len(parts) == 1 and many and "seeds" in name)
    elif option.kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return checked(option, value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}{error}") from None


def _word(value):
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
