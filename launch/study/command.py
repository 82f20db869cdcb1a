"""`allgrad study`: the experiments from the command line, and what a study's directory holds."""

import argparse
import importlib
import inspect
import shlex
import sys
import tomllib
from collections import Counter
from pathlib import Path

from ddp.environment import speaks
from ddp.errors import ConfigurationError, tell
from launch.study.experiments import VERBS

PRESETS = "quick", "full"
EPILOG = """verbs:
{verbs}
  status DIR        what the ledger of a study holds
  table DIR         its runs as a table; --csv: with every column, for pandas
"""


def numbers(kind):
    """A type for argparse: numbers with commas between them."""

    def parse(text):
        try:
            return tuple(kind(part) for part in text.split(","))
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
    return _different(text, tuple(part.strip() for part in text.split(",")))


def sizes(text):
    """Different sizes with commas between them."""
    found = _different(text, numbers(int)(text))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of at least 1")
    return found


def seeds(text):
    """A number of seeds, or the seeds themselves."""
    first, *more = found = _different(text, numbers(int)(text))
    if more:
        return found
    if first < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at least 1 seed, or the seeds with commas between them")
    return tuple(range(first))


def _different(text, found: tuple) -> tuple:
    if len({*found}) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected each of them once")
    return found


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
    "metric": (str, "train_loss, val_loss, train_accuracy or val_accuracy [train_loss; of tune val_loss]"),
    "sampler": (str, "order of the samples: epoch, once, iid or never [epoch]"),
    "seeds": (seeds, "seeds to tune with: their number, or seeds with commas between them"),
    "report_seeds": (seeds, "fresh seeds for the best rate; a number n means 100 to 99 + n"),
    "cap": (positive(int), "steps after which a run has failed [6000]"),
    "eval_ratio": (positive(float), "factor between evaluations after the first 20 steps [1.05]"),
    "sustain": (positive(int), "evaluations in a row that must meet the target [1]"),
    "lr": (positive(float), "learning rate to begin the search with, at the smallest batch"),
    "momentum": (float, "momentum of sgd, rmsprop and lars"),
    "weight_decay": (float, "weight decay"),
    "steps": (str, "budget: steps, 10ep or 20000samples"),
    "schedule": (str, "schedule of the learning rate over the budget, as in allgrad train"),
    "ranks": (sizes, "of scaling: numbers of ranks with commas between them [1, 2, 4, ... cores]"),
    "strong": (int, "of scaling: global batch at any number of ranks [256]"),
    "weak": (int, "of scaling: batch of each rank [64]"),
    "large": (str, "of scaling: a second, larger model, none for none [mlp:960,960]"),
    "launcher": (str, "of scaling and project: what starts their ranks: mpirun, torchrun or srun"),
    "net": (str, "of project: a network by name, or custom:A,B[,C] in seconds and seconds a byte [measured]"),
    "compute": (numbers(float), "of project: c0,d in seconds a step and an example [measured]"),
    "size": (int, "of project: bytes of the gradients [those of the model]"),
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
    "max_ranks": (int, "of project: ranks to go up to [4096]"),
}
OPTIONS = {**WORKLOAD, **LAB, **GRID}
REPEATED = ("space",)  # a list of words; in a file also a table
ALIASES = {"optimizers": ("--optimizer", "--optimizers"), "batches": ("--batch", "--batches")}


def add_options(parser: argparse.ArgumentParser):
    """Declare what `run` takes. None gets a default here, so that those given can be told from those left out."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG.format(verbs="\n".join(f"  {verb:<17} {text}" for verb, text in VERBS.items()))
    parser.add_argument("verb", help="what to study, see below; or status, table")
    parser.add_argument("directory", nargs="?", help="of status and table: the study's directory")
    parser.add_argument("--preset", help="size of the grids: quick or full [quick]")
    parser.add_argument("--csv", action="store_true", help="of table: every column, comma-separated")
    parser.add_argument("--config", metavar="FILE.toml", help="options from a file; flags win over it")
    for name, (kind, text) in OPTIONS.items():
        flags = ALIASES.get(name, (f"--{name.replace('_', '-')}",))
        action = "append" if name in REPEATED else "store"
        parser.add_argument(*flags, dest=name, type=kind, action=action, default=argparse.SUPPRESS, help=text)


def run(verb: str, directory=None, preset=None, csv=False, config=None, **flags) -> int:
    """Do what the command line says; returns the exit status."""
    if verb in ("status", "table"):
        if given := {**flags, **({"preset": 1} if preset else {}), **({"config": 1} if config else {})}:
            raise ConfigurationError(f"allgrad study {verb} takes a directory, and no --{_flag(min(given))}")
        if directory is None:
            raise ConfigurationError(f"allgrad study {verb} needs the directory of a study")
        if speaks():
            print(status(directory) if verb == "status" else table(directory, csv), end="", flush=True)
        return 0
    if verb not in VERBS:
        raise ConfigurationError(f"unknown study {verb!r}: expected one of {', '.join((*VERBS, 'status', 'table'))}")
    if directory is not None or csv:
        raise ConfigurationError(f"allgrad study {verb} writes to --out DIR, and takes no {directory or '--csv'}")
    given = _from_file(config) | ({"preset": preset} if preset else {}) | flags
    return _experiment(verb, given)


def _experiment(verb, given):
    from launch.study.lab import Lab
    from launch.study.ledger import hardware, software
    from launch.study.progress import Progress
    from launch.study.report import show, write
    from launch.study.workload import Workload

    preset = given.pop("preset", PRESETS[0])
    if preset not in PRESETS:
        raise ConfigurationError(f"--preset {preset} is not one of {', '.join(PRESETS)}")
    experiment = importlib.import_module(f"launch.study.experiments.{verb.replace('-', '_')}").run
    if given.get("report_seeds"):
        given["report_seeds"] = _fresh(given["report_seeds"])
    taken = inspect.signature(experiment).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    grid = {name: value for name, value in given.items() if name in GRID}
    if not anything and (foreign := grid.keys() - taken.keys()):
        raise ConfigurationError(f"--{_flag(min(foreign))} has no effect on allgrad study {verb}")
    ranks = given.get("ranks_per_run", 1)
    work = Workload(**{"shards": ranks, **{name: value for name, value in given.items() if name in WORKLOAD}})
    work.build()  # what is wrong with it is said before anything begins
    out = Path(given.get("out", "runs/study"))
    retry = given.get("retry", "error")
    if retry not in ("error", "all"):
        raise ConfigurationError(f"--retry {retry} is not error or all")
    with Progress(verb) as progress, Lab(out, given.get("jobs"), ranks, retry, progress) as lab:
        try:
            found = experiment(lab, work, preset, **grid)
        except KeyboardInterrupt:
            lab.close()
            tell(f"allgrad: interrupted; the same command goes on from the {len(lab.ledger.rows)} runs in {out}")
            if lab.comm.size > 1:
                from ddp.start import end_all_ranks

                end_all_ranks(130)
            return 130
    results = found if isinstance(found, list) else [found]
    for result in results:
        result.command = shlex.join(["allgrad", *sys.argv[1:]])
    write(results, out, {**software(), **hardware(), "argv": None})
    for result in results:
        show(result, out)
    return 0


def _fresh(seeds):
    return tuple(100 + seed for seed in seeds) if seeds == tuple(range(len(seeds))) else seeds


def _flag(name):
    return name.replace("_", "-")


def _from_file(path):
    """The options of a TOML file, in the types of the command line."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"--config {path} cannot be read: {error}") from None
    found = {key.replace("-", "_"): value for key, value in found.items()}
    found = {
        "optimizers" if key == "optimizer" else "batches" if key == "batch" else key: v for key, v in found.items()
    }
    if unknown := sorted(found.keys() - {*OPTIONS, "preset"}):
        raise ConfigurationError(f"--config {path} has unknown keys: {', '.join(unknown)}")
    values = {}
    for key, value in found.items():
        if key in REPEATED:
            values[key] = value
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        kind = OPTIONS[key][0] if key in OPTIONS else str
        try:
            values[key] = kind(text)
        except (ValueError, argparse.ArgumentTypeError):
            raise ConfigurationError(f"--config {path}: {key} = {value!r} is not what --{_flag(key)} takes") from None
    return values


# --- status and table ------------------------------------------------------------------------------------------------


def status(directory) -> str:
    """What a study's directory holds: runs by experiment and outcome, time, where they were done."""
    from launch.study.ledger import Ledger

    rows = list(Ledger(directory, create=False).rows.values())
    if not rows:
        return f"{directory}: no runs\n"
    outcomes = "ok", "diverged", "capped", "pruned", "error"
    lines = [f"{directory}: {len(rows):,} runs, {_duration(sum(r.get('wall_s') or 0.0 for r in rows))} of training"]
    for name in dict.fromkeys(row["exp"] for row in rows):
        count = Counter(row["status"] for row in rows if row["exp"] == name)
        said = ", ".join(f"{count[outcome]:,} {outcome}" for outcome in outcomes if count[outcome])
        lines.append(f"  {name or '-':<12} {said}")
    times = sorted(row["started_utc"] for row in rows if row.get("started_utc"))
    if times:
        lines.append(f"  begun {times[0]}, last run begun {times[-1]}")
    for key, what in (("host", "hosts"), ("git_commit", "commits"), ("numpy", "NumPy versions"), ("blas", "BLAS")):
        values = sorted({str(row.get(key)) for row in rows})
        lines.append(f"  {what}: {', '.join(v[:12] if key == 'git_commit' else v for v in values)}")
    errors = Counter(row.get("error") for row in rows if row["status"] == "error")
    lines += [f"  error in {n} runs: {text}" for text, n in errors.most_common(5)]
    return "\n".join(lines) + "\n"


SHORT = (
    "run_id", "exp", "config.data", "config.model", "config.optimizer", "config.batch", "config.lr", "config.seed",
    "status", "steps_to_target", "final_train_loss", "final_val_loss",
)  # fmt: skip


def table(directory, csv=False) -> str:
    """A study's runs, in the order of their ids: columns for a reader, or all of them as CSV."""
    from launch.study.ledger import Ledger, flat
    from launch.study.result import Table

    rows = [flat(row) for _, row in sorted(Ledger(directory, create=False).rows.items())]
    if csv:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        return Table("runs", columns, rows).csv()
    cells = [[name.removeprefix("config.") for name in SHORT]]
    cells += [[_short(row.get(name)) for name in SHORT] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "".join("  ".join(c.rjust(w) for c, w in zip(line, widths)).rstrip() + "\n" for line in cells)


def _short(value):
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds):
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"
