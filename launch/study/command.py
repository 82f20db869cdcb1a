"""`allgrad study`: the experiments from the command line, and what a study's directory holds."""

import argparse
import difflib
import shlex
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from allgrad.ddp.comm import speaks
from allgrad.ddp.errors import ConfigurationError, tell
from allgrad.ddp.trainer import Interrupted, interrupting, name_of
from allgrad.launch.options import checked, declare, from_toml
from allgrad.launch.study.experiments import EXAMPLES, VERBS, module_of
from allgrad.launch.study.options import ALIASES, GRID, GROUPS, OPTIONS, REPEATED, SIZE_OF_GRIDS, WORKLOAD, typed

OF_A_DIRECTORY = {
    "status": "what the ledger of a study's directory holds",
    "table": "its runs as a table",
    "watch": "a page of a study while it runs, for a browser on this machine",
}
SHOWN = 4  # values of a list, from which on the help leaves out those in the middle

# --- the command line ------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, words: list[str]):
    """Declare the experiments, with the options of the one that `words` begin with; none gets a default here."""
    names = (*VERBS, *OF_A_DIRECTORY)
    if words and not words[0].startswith("-") and words[0] not in names:
        like = difflib.get_close_matches(words[0], names, 1)
        meant = f"; is {like[0]} meant?" if like else ""
        raise ConfigurationError(f"unknown study {words[0]!r}: expected one of {', '.join(names)}{meant}")
    if words and words[0] not in ("-h", "--help", *names):
        raise ConfigurationError(f"the study comes before its options, as in allgrad study steps {' '.join(words)}")
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, width=120)  # a line for each study
    parser.epilog = "allgrad study steps --help shows the options of steps, and so on; they may come from a file."
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="STUDY", title="studies")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, allow_abbrev=False)
        if words[:1] == [name]:  # nobody else needs its imports
            _declare(verb, name)
    for name, text in OF_A_DIRECTORY.items():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.add_argument("directory", metavar="DIR", help="--out of a study")
        if name == "table":
            verb.add_argument("--csv", action="store_true", help="every column, comma-separated, for pandas")
        if name == "watch":
            verb.add_argument("--port", type=int, default=0, help="of the page's address [any that is free]")


def _declare(parser, verb):
    """The options of an experiment in the help, and all others, which it refuses in words of its own."""
    module = module_of(verb)
    run, takes = module.run, module.run.takes()
    first = (module.__doc__ or "").strip().partition("\n\n")[0]
    about = " ".join(first.removeprefix(f"`allgrad study {verb}`: ").split())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = f"%(prog)s [--preset {'|'.join(SIZE_OF_GRIDS.among)}] [--config FILE.toml] [OPTIONS]"
    parser.description = f"{VERBS[verb]}\n\n{about}\n\n  allgrad study {verb} {EXAMPLES.get(verb, '--out studies/a')}"
    parser.add_argument("stray", nargs="?", help=argparse.SUPPRESS)
    declare(parser, SIZE_OF_GRIDS, SIZE_OF_GRIDS.default)
    parser.add_argument("--config", metavar="FILE.toml", help="options from a file; flags win over it")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            own = option.name not in GRID or option.name in takes
            flags = (f"--{ALIASES[option.name]}",) if option.name in ALIASES else ()
            how = {"action": "append"} if option.name in REPEATED else {}
            declare(group, option, _shown(run, option) if own else None, flags, not own, **how)


def _shown(run, option):
    """The default of an option in the help: of the experiment, for each size of its grids, or the option's own."""
    if option.name not in GRID:
        values = [option.default]
    else:
        values = [run.default(option.name, preset) for preset in SIZE_OF_GRIDS.among]
        if run.others() and option.name not in run.parameters and len(run.others()) > 1:
            return None  # each of the others has its own
    if option.name == "target" and set(values) == {None}:
        known = getattr(module_of(run.name), "TARGETS", module_of("steps").TARGETS)
        return f"{known[run.default('metric', SIZE_OF_GRIDS.default) or 'train_loss']:g} on digits with mlp:128"
    values = [option.default if value is None else value for value in values]
    if all(value in (None, False) for value in values):
        return None
    first, *_ = texts = [_in_short(value) for value in values]
    if len({*texts}) == 1:
        return first
    return "; ".join(f"{preset}: {text}" for preset, text in zip(SIZE_OF_GRIDS.among, texts))


def _in_short(value):
    if isinstance(value, dict):
        return " ".join(f"{name}={text}" for name, text in value.items())
    if not isinstance(value, tuple):
        return str(value)
    words = [*map(str, value)]
    few = words if len(words) <= SHOWN or isinstance(value[0], str) else [*words[:2], "...", words[-1]]
    return ",".join(few)


def run(verb: str, directory=None, csv=False, port=0, config=None, stray=None, **flags) -> int:
    """Do what the command line says; returns the exit status."""
    if verb in OF_A_DIRECTORY:
        return _of_directory(verb, directory, csv, port)
    if stray is not None:
        raise ConfigurationError(f"allgrad study {verb} writes to --out DIR, and takes no {stray}")
    given = _from_file(config) | {name: _value(name, value) for name, value in flags.items()}
    return _experiment(verb, given)


def _of_directory(verb, directory, csv, port):
    if not speaks():
        return 0
    if verb == "watch":
        from allgrad.launch.study.watch import watch

        return watch(directory, port)
    print(status(directory) if verb == "status" else table(directory, csv), end="", flush=True)
    return 0


def _experiment(verb, given):
    from allgrad.ddp.comm import speaks
    from allgrad.launch.study.kept import replaced
    from allgrad.launch.study.lab import Lab
    from allgrad.launch.study.ledger import hardware, software
    from allgrad.launch.study.progress import Progress
    from allgrad.launch.study.report import show, write
    from allgrad.launch.study.workload import Workload

    preset = given.pop("preset", SIZE_OF_GRIDS.default)
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
        Progress(verb, out=out) as progress,
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
    lost = [replaced(result, out, work.name) for result in results]
    page = write(results, out, where, f"{about} on {work.name}", work.name)
    for result in results:
        show(result, out)
    if speaks():
        print(*(f"{page.name}: {words}\n" for words in lost if words), sep="", end="", flush=True)
    return 0


def _value(name, value, source=""):
    """A value of the command line or of a file in the type of its option."""
    if name in REPEATED:
        return value
    return checked(SIZE_OF_GRIDS, value) if name == SIZE_OF_GRIDS.name else typed(name, value, source)


def _from_file(path):
    """The options of a TOML file, in the types of the command line."""
    if path is None:
        return {}
    names = {word: name for name, word in ALIASES.items()}
    words: dict[str, Any] = from_toml(path)
    if sections := sorted(key for key, value in words.items() if isinstance(value, dict) and key not in REPEATED):
        key = next(iter(words[sections[0]]), "target")
        raise ConfigurationError(
            f"--config {path} has a section [{sections[0]}], and a file of options has no sections: write {key} = ... "
            f"without it"
        )
    found = {names.get(word, word): value for word, value in words.items()}
    if unknown := sorted(found.keys() - {*OPTIONS, SIZE_OF_GRIDS.name}):
        like = difflib.get_close_matches(unknown[0], OPTIONS, 1)
        meant = f"; is {like[0]} meant?" if like else ""
        raise ConfigurationError(f"--config {path} has unknown keys: {', '.join(unknown)}{meant}")
    return {name: _value(name, value, f"--config {path}: ") for name, value in found.items()}


# --- status and table ------------------------------------------------------------------------------------------------


def status(directory) -> str:
    """What a study's directory holds: runs by experiment and outcome, time, where they were done."""
    from allgrad.launch.study.ledger import Ledger

    rows = list(Ledger(directory, create=False).rows.values())
    if not rows:
        return f"{directory}: no runs\n"
    outcomes = "ok", "diverged", "capped", "pruned", "error"
    seconds = sum(row.get("wall_s") or 0.0 for row in rows)
    lines = [
        f"{directory}: {len(rows):,} runs, which lasted {_duration(seconds)} in all (runs side by side count each)"
    ]
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
