"""Data sets by name: `load("digits")`, `load("csv:houses.csv")`. Each reader is imported when it is needed."""

import re
from pathlib import Path

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.dataset import Data

KNOWN = (
    "digits", "mnist", "fashion-mnist", "cifar10", "text[:PATH][?context=CHARACTERS]",
    "csv:PATH, parquet:PATH or arrow:PATH with [?label=COLUMN][&task=TASK][&missing=HOW]", "npz:PATH",
)  # fmt: skip
TABLES = ("csv:", "parquet:", "arrow:", "npz:")
ENDINGS = {
    ".csv": "csv:", ".csv.gz": "csv:", ".parquet": "parquet:", ".arrow": "arrow:", ".feather": "arrow:",
    ".ipc": "arrow:", ".npz": "npz:",
}  # fmt: skip
CHOICES = {"task": ("classification", "regression"), "missing": ("mean", "drop"), "header": ("yes", "no")}
OPTIONS = ("label", *CHOICES)  # of a table, after its path


def load(spec: str, data_dir: str | Path | None = None, seed: int = 0, form: dict | None = None) -> Data:
    """The data set that `spec` names: one of KNOWN, or the path of a table by its ending, see ENDINGS.

    data_dir: where the files of mnist, fashion-mnist and cifar10 lie or are downloaded to; by default the user's cache.
    seed: chooses the samples held out for validation where a table has no validation part. form: the `Data.form` of a
    run that goes on, see `tables.load_table`. Raises ConfigurationError, one sentence, for an unknown name and for
    files that are absent or malformed.
    """
    if spec == "text" or spec.startswith(("text:", "text?")):
        return _text(spec)
    kind, path, options = parse_spec(spec)
    if kind == "digits":
        from allgrad.launch.data import digits

        return digits.load()
    if kind in ("mnist", "fashion-mnist"):
        from allgrad.launch.data import idx

        return idx.mnist(data_dir) if kind == "mnist" else idx.fashion_mnist(data_dir)
    if kind == "cifar10":
        from allgrad.launch.data import cifar

        return cifar.cifar10(data_dir)
    if kind in TABLES:
        from allgrad.launch.data import tables

        return tables.load_table(path, kind, options, seed, form)
    *most, last = ENDINGS
    raise ConfigurationError(
        f"unknown data set {spec!r}: expected one of {', '.join(KNOWN)}, or a path that ends in {', '.join(most)} or "
        f"{last}"
    )


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Kind (one of TABLES, or a name), path and options of a data set's name: "a.csv?label=b&task=regression".

    Raises ConfigurationError for options that a table of this kind does not have.
    """
    path, *given = re.split(r"[?&](?=\w+=)", spec)
    kind = next((kind for kind in TABLES if path.startswith(kind)), None)
    if kind is not None:
        path = path[len(kind) :]
    else:
        kind = next((kind for ending, kind in ENDINGS.items() if path.lower().endswith(ending)), None)
    if kind is None:
        return spec, spec, {}
    options = dict(option.split("=", 1) for option in given)
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigurationError(f"{spec}: ?{name}= is none of ?{'=, ?'.join(OPTIONS)}=")
        if value not in CHOICES.get(name, (value,)):
            raise ConfigurationError(f"{spec}: ?{name}={value}: expected {' or '.join(CHOICES[name])}")
    if len(options) < len(given):
        raise ConfigurationError(f"{spec}: an option is given twice: write each once")
    if kind == "npz:" and "label" in options:
        raise ConfigurationError(
            f"{spec}: ?label= names a column of a CSV, Parquet or Arrow file; in an NPZ file the labels are the key y"
        )
    if kind != "csv:" and "header" in options:
        raise ConfigurationError(f"{spec}: ?header= says what the first line of a CSV file is: leave it out")
    return kind, path, options


def _text(spec):
    from allgrad.launch.data.text import CONTEXT, load_text

    source, named, context = spec.partition("?context=")
    path, context = source[5:], context if named else str(CONTEXT)
    if source not in ("text", f"text:{path}") or source == "text:" or not context.isdecimal() or int(context) < 1:
        raise ConfigurationError(f"{spec}: expected text or text:PATH, and ?context= with 1 character or more after it")
    return load_text(path or None, int(context))
