"""Data sets by name: `load("digits")`, `load("csv:houses.csv")`. Each reader is imported when it is needed."""

from pathlib import Path

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.dataset import Data

KNOWN = (
    "digits", "mnist", "fashion-mnist", "cifar10", "text[:PATH][?context=CHARACTERS]", "csv:PATH[?label=COLUMN]",
    "npz:PATH",
)  # fmt: skip


def load(spec: str, data_dir: str | Path | None = None, seed: int = 0) -> Data:
    """The data set that `spec` names: one of KNOWN, or the path of a CSV or NPZ file.

    data_dir: where the files of mnist, fashion-mnist and cifar10 lie or are downloaded to; by default the user's cache.
    seed: chooses the samples held out for validation where a CSV or NPZ file has no validation part.
    Raises ConfigurationError, one sentence, for an unknown name and for files that are absent or malformed.
    """
    if spec == "text" or spec.startswith(("text:", "text?")):
        return _text(spec)
    kind, path, label = parse_spec(spec)
    if kind == "digits":
        from allgrad.launch.data import digits

        return digits.load()
    if kind in ("mnist", "fashion-mnist"):
        from allgrad.launch.data import idx

        return idx.mnist(data_dir) if kind == "mnist" else idx.fashion_mnist(data_dir)
    if kind == "cifar10":
        from allgrad.launch.data import cifar

        return cifar.cifar10(data_dir)
    if kind in ("csv:", "npz:"):
        from allgrad.launch.data import tables

        if kind == "csv:":
            return tables.load_csv(path, label, seed)
        if label is None:
            return tables.load_npz(path, seed)
        raise ConfigurationError(
            f"{spec}: ?label= names a column of a CSV file, in an NPZ file the labels are the key y"
        )
    raise ConfigurationError(
        f"unknown data set {spec!r}: expected one of {', '.join(KNOWN)}, or a path that ends in .csv or .npz"
    )


def parse_spec(spec: str) -> tuple[str, str, str | None]:
    """Kind ("csv:", "npz:" or a name), path and label column of a data set's name."""
    kind, (path, named, label) = spec, spec.partition("?label=")
    if spec.startswith(("csv:", "npz:")):
        kind, path = path[:4], path[4:]
    elif path.lower().endswith((".csv", ".npz")):
        kind = f"{path[-3:].lower()}:"
    return kind, path, label if named else None


def _text(spec):
    from allgrad.launch.data.text import CONTEXT, load_text

    source, named, context = spec.partition("?context=")
    path, context = source[5:], context if named else str(CONTEXT)
    if source not in ("text", f"text:{path}") or source == "text:" or not context.isdecimal() or int(context) < 1:
        raise ConfigurationError(f"{spec}: expected text or text:PATH, and ?context= with 1 character or more after it")
    return load_text(path or None, int(context))
