"""`allgrad study`: the experiments from the command line, and what a study's directory holds."""

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path

from allgrad.ddp.comm import speaks
from allgrad.ddp.errors import ConfigurationError, tell
from allgrad.ddp.trainer import Interrupted, interrupting, name_of
from allgrad.launch.options import from_toml
from allgrad.launch.study.experiment import PRESETS
from allgrad.launch.study.experiments import VERBS, module_of
from allgrad.launch.study.options import ALIASES, GRID, OPTIONS, REPEATED, WORKLOAD, typed

EPILOG = """verbs:
{verbs}
  status DIR        what the ledger of a study holds
  table DIR         its runs as a table; --csv: with every column, for pandas
"""


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
    from allgrad.ddp.comm import speaks
    from allgrad.launch.study.lab import Lab
    from allgrad.launch.study.ledger import hardware, software
    from allgrad.launch.study.progress import Progress
    from allgrad.launch.study.report import show, write
    from allgrad.launch.study.workload import Workload

    preset = given.pop("preset", PRESETS[0])
    experiment = module_of(verb).run
    grid = experiment.chosen(preset, {name: value for name, value in given.items() if name in GRID})
    ranks = given.get("ranks_per_run", 1)
    work = Workload(**{"shards": ranks, **{name: value for name, value in given.items() if name in WORKLOAD}})
    work.build()  # what is wrong with it is said before anything begins
    if speaks():
        print(*(f"{remark}\n" for remark in work.loaded.remarks), sep="", end="", flush=True)
    out = Path(given.get("out", "runs/study"))
    with (
        interrupting(),
        Progress(verb) as progress,
        Lab(out, given.get("jobs"), ranks, given.get("retry", "error"), progress) as lab,
    ):
        try:
            found = experiment(lab, work, preset, **grid)
        except Interrupted as error:
            lab.close()
            status = 128 + error.number
            by, count = name_of(error.number), len(lab.ledger.rows)
            tell(f"allgrad: interrupted by {by}; the same command goes on from the {count} runs in {out}")
            if lab.comm.size > 1:
                from allgrad.ddp.comm import end_all_ranks

                end_all_ranks(status)
            return status
    results = found if isinstance(found, list) else [found]
    for result in results:
        result.command = shlex.join(["allgrad", *sys.argv[1:]])
    about = "Batch size" if verb in ("steps", "all") else f"Study {verb}"
    ran = {"command": results[0].command, **software(), **hardware()}
    where = {key: value for key, value in ran.items() if key != "argv"}
    write(results, out, where, f"{about} on {work.name}", work.name)
    for result in results:
        show(result, out)
    return 0


def _flag(name):
    return name.replace("_", "-")


def _from_file(path):
    """The options of a TOML file, in the types of the command line."""
    if path is None:
        return {}
    found = from_toml(path)
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
        values[key] = str(value) if key == "preset" else typed(key, value, f"--config {path}: ")
    return values


# --- status and table ------------------------------------------------------------------------------------------------


def status(directory) -> str:
    """What a study's directory holds: runs by experiment and outcome, time, where they were done."""
    from allgrad.launch.study.ledger import Ledger

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
    from allgrad.launch.study.ledger import Ledger, flat
    from allgrad.launch.study.result import Table

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
