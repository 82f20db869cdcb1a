"""Data sets by name, in memory and ready to train on: `load("digits")`, `load("mnist")`, `load("csv:houses.csv")`."""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ddp.errors import ConfigurationError

KNOWN = ("digits", "mnist", "fashion-mnist", "csv:PATH[?label=COLUMN]", "npz:PATH")


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a validation part.

    train_x, val_x: float32 (N, ...).
    train_y, val_y: int64 (N,), labels 0..classes-1; or float32 (N, targets) when `classes` is None (regression).
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    classes: int | None

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.train_x.shape[1:]

    @property
    def inputs(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.features)

    @property
    def outputs(self) -> int:
        """Numbers that a model has to predict: one a class, or one a regression target."""
        return self.train_y.shape[1] if self.classes is None else self.classes

    @cached_property
    def sha256(self) -> str:
        """Which data this is: hash over dtype, shape and little-endian bytes of train_x, train_y, val_x, val_y."""
        digest = hashlib.sha256()
        for array in (self.train_x, self.train_y, self.val_x, self.val_y):
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()


def load(spec: str, data_dir: str | Path | None = None, seed: int = 0) -> Data:
    """The data set that `spec` names: `digits`, `mnist`, `fashion-mnist`, `csv:PATH`, `npz:PATH` or a path.

    data_dir: where the files of mnist and fashion-mnist lie or are downloaded to; by default the user's cache.
    seed: chooses the samples held out for validation where a CSV or NPZ file has no validation part.
    Raises ConfigurationError, one sentence, for an unknown name and for files that are absent or malformed.
    """
    kind, (path, named, label) = spec, spec.partition("?label=")
    if spec.startswith(("csv:", "npz:")):
        kind, path = path[:4], path[4:]
    elif path.lower().endswith((".csv", ".npz")):
        kind = f"{path[-3:].lower()}:"
    if kind == "digits":
        from launch.data import digits

        return digits.load()
    if kind in ("mnist", "fashion-mnist"):
        from launch.data import idx

        return idx.mnist(data_dir) if kind == "mnist" else idx.fashion_mnist(data_dir)
    if kind in ("csv:", "npz:"):
        from launch.data import tables

        if kind == "csv:":
            return tables.load_csv(path, label if named else None, seed)
        if not named:
            return tables.load_npz(path, seed)
        raise ConfigurationError(
            f"{spec}: ?label= names a column of a CSV file, in an NPZ file the labels are the key y"
        )
    raise ConfigurationError(
        f"unknown data set {spec!r}: expected one of {', '.join(KNOWN)}, or a path that ends in .csv or .npz"
    )
