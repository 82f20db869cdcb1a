"""Tables of the user: CSV with one label column, and NPZ with arrays x and y, split and standardised."""

import csv
import os
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from allgrad.autograd import random
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.dataset import Data

LABELS = ("label", "target", "class", "y")


def load_csv(path: str | Path, label: str | None = None, seed: int = 0) -> Data:
    """A comma-separated table, UTF-8, one sample a line; float32 (N, columns - 1), standardised column by column.

    The first line is a header if it has a field that is not a number; without one, columns are numbered from 1.
    Labels are in the column named `label`, else in the one named label, target, class or y in any case, else in the
    last. Integers and text are classes, renumbered 0..classes-1 in sorted order; numbers that are not all integers are
    one regression target, (N, 1), left as they are. A fifth of the samples, of each class alike, is held out for
    validation, chosen by the seed. Raises ConfigurationError naming line and column.
    """
    path = Path(os.path.expanduser(path))
    columns, x, y = _read_csv(path, label)
    assert y is not None
    y, names = _targets(path, y)
    held = _held_out(path, y, names, seed)
    return _data(path, x[~held], y[~held], x[held], y[held], names, columns)


def load_npz(path: str | Path, seed: int = 0) -> Data:
    """Arrays x_train, y_train and x_val, y_val (or x_test, y_test), or x and y to be split as by `load_csv`.

    x is numeric (N, ...): two-dimensional x is standardised column by column, any other shape, as of images, is used
    as it is. y is (N,) of integers or text (classes, renumbered as by `load_csv`), or of other numbers (regression),
    or (N, targets) for regression. Raises ConfigurationError; pickled arrays are never loaded.
    """
    path = Path(os.path.expanduser(path))
    arrays = _arrays(path)
    train = _pair(path, arrays, ("x_train", "y_train"), ("x", "y"))
    validation = _pair(path, arrays, ("x_val", "y_val"), ("x_test", "y_test"))
    if train is None:
        raise ConfigurationError(
            f"{path} holds {', '.join(sorted(arrays)) or 'no arrays'}: expected x_train and y_train, or x and y, "
            f"with x_val and y_val, or x_test and y_test, if there is a validation part"
        )
    x, y = train
    if validation is None:
        y, names = _targets(path, y)
        held = _held_out(path, y, names, seed)
        return _data(path, x[~held], y[~held], x[held], y[held], names)
    val_x, val_y = validation
    if x.shape[1:] != val_x.shape[1:] or y.shape[1:] != val_y.shape[1:] or _is_text(y) != _is_text(val_y):
        raise ConfigurationError(
            f"{path}: a training sample is {x.dtype} {x.shape[1:]} with label {y.dtype} {y.shape[1:]}, one for "
            f"validation {val_x.dtype} {val_x.shape[1:]} with label {val_y.dtype} {val_y.shape[1:]}: save both alike"
        )
    targets, names = _targets(path, np.concatenate([y, val_y]))
    return _data(path, x, targets[: len(y)], val_x, targets[len(y) :], names)


def samples(path, label, npz, shape, table, seed, part):
    """Samples for a model that was trained on another table, or on this one: x, y (None without labels), positions.

    shape: that of one sample in training; table: the training data's `Data.table`, whose scaling and classes are used.
    part: "train" or "val" as they would be in training, or "all". A CSV file with as many columns as features, and an
    NPZ file with x alone, have no labels and no parts. Positions count samples in the file, or in the arrays of the
    part. Raises ConfigurationError if the samples are not like those in training.
    """
    path = Path(os.path.expanduser(path))
    if npz:
        x, y, held = _npz_samples(path, part)
    else:
        columns, x, y = _read_csv(path, label, shape[0] if len(shape) == 1 else None)
        held = None
        if columns and table["columns"] and x.shape[1:] == shape and columns != table["columns"]:
            here, there = next((a, b) for a, b in zip(columns, table["columns"]) if a != b)
            raise ConfigurationError(
                f"{path} has the column {here} where the model was trained with {there}: give it the same columns in "
                f"the same order"
            )
    if x.shape[1:] != shape:
        raise ConfigurationError(
            f"{path} has samples of shape {x.shape[1:]}, and the model was trained on {shape}: give data of that shape"
        )
    y = None if y is None else _as_trained(path, y, table["labels"])
    if part != "all" and held is None:
        if y is None:
            raise ConfigurationError(f"{path} has no labels, and so no part for {part}: give --split all")
        held = _held_out(path, y, table["labels"], seed)
    chosen = np.arange(len(x)) if part == "all" else np.flatnonzero(held == (part == "val"))
    x = x[chosen]
    if table["mean"] is not None:
        x = (x - np.array(table["mean"])) / np.array(table["std"])
    return x.astype(np.float32), None if y is None else y[chosen], chosen


def _npz_samples(path, part):
    """x, y (None if there is x alone), and which are held out, as far as the file says so, of a part of the file."""
    arrays = _arrays(path)
    if {"x", "y", "x_train"} & arrays.keys() == {"x"}:
        x, _ = _checked(path, ("x", "x"), arrays["x"], np.zeros(arrays["x"].shape[:1]))
        return x, None, None
    pair = _pair(path, arrays, ("x_train", "y_train"), ("x", "y"))
    if pair is None:
        raise ConfigurationError(f"{path} holds {', '.join(sorted(arrays)) or 'no arrays'}: expected x, or x and y")
    validation = _pair(path, arrays, ("x_val", "y_val"), ("x_test", "y_test"))
    if validation is None:
        return *pair, None
    x, y = pair
    if part != "train":
        x, y = validation if part == "val" else map(np.concatenate, zip(pair, validation))
    return x, y, np.full(len(x), part == "val")


def _as_trained(path, y, labels):
    """Labels (N,) in the classes of training, or targets (N, targets) if those are none."""
    if labels is None and not _is_text(y):
        return y.reshape(len(y), -1).astype(np.float32)
    if labels is None:
        raise ConfigurationError(f"{path} has the label {str(y[0])!r}, and the model was trained on numbers")
    known = np.array(labels)
    if y.ndim > 1 or _is_text(y) != _is_text(known):
        raise ConfigurationError(f"{path} has labels like {y[0]!s}, and the model was trained on ones like {labels[0]}")
    codes = np.minimum(np.searchsorted(known, y), len(known) - 1)
    for i in np.flatnonzero(known[codes] != y)[:1]:
        raise ConfigurationError(
            f"{path} has the label {str(y[i])!r}, which is none of the {len(known)} that the model was trained on: "
            f"correct it, or leave out the labels"
        )
    return codes


def _read_csv(path, label, features=None):
    """Names of the feature columns (None without a header), x float64 (N, columns), and labels (N,).

    There are no labels, None, if the number of features is known and there is no column beside them.
    """
    header = _has_header(path, label, features)
    rows = _rows(path, features)
    _, first = next(rows)
    if not header:
        rows = _rows(path, features)
    names = first if header else [str(i + 1) for i in range(len(first))]
    if "" in names:
        raise ConfigurationError(
            f"{path}: column {names.index('') + 1} has no name in the header: name it, or delete it if it only numbers "
            f"the lines, as the index of a pandas table does (index=False)"
        )
    bare = label is None and len(first) == features
    target = len(first) if bare else _label_column(path, names, label)
    lines, values, labels = array("q"), array("d"), []
    for line, row in rows:
        lines.append(line)
        labels.extend(row[target : target + 1])
        try:
            values.extend(map(float, row[:target] + row[target + 1 :]))
        except ValueError:
            i = next(i for i, field in enumerate(row) if i != target and not _is_number(field))
            raise _bad_field(path, line, names[i], row[i], "a number") from None
    if not lines:
        raise ConfigurationError(f"{path} has a header and no samples: expected one sample a line below it")
    x = np.frombuffer(values).reshape(len(lines), -1)
    for i, j in np.argwhere(~np.isfinite(x))[:1]:
        name = names[j + (j >= target)]
        raise _bad_field(path, lines[i], name, x[i, j], "a finite number")
    columns = names[:target] + names[target + 1 :] if header else None
    return columns, x, None if bare else _parse_labels(path, names[target], lines, labels)


def _rows(path, features=None) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped fields of each line that is not blank; all have as many fields as the first."""
    width, line = None, 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            for row in reader:
                line, fields = reader.line_num, [field.strip() for field in row]
                if fields in ([], [""]):
                    continue
                width = width or len(fields)
                if len(fields) != width:
                    raise ConfigurationError(
                        f"{path}, line {line}: found {len(fields)} fields, expected {width} as in the "
                        f"first line: correct or delete the line"
                    )
                yield line, fields
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): give the path of a CSV file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not CSV in UTF-8 below line {line} ({error}): save it as such") from None
    if width is None:
        raise ConfigurationError(f"{path} is empty: expected one sample a line, features and a label")
    if width == 1 and features != 1:
        raise ConfigurationError(f"{path} has one column: expected features and a label, separated by commas")


def _has_header(path, label, features):
    rows = _rows(path, features)
    _, first = next(rows)
    text = [i for i, field in enumerate(first) if field and not _is_number(field)]
    if label in first or text != [len(first) - 1] or len(first) == features:
        return bool(text)
    # Numbers and then one text: a sample and its class if that text comes again in this column, else a header.
    return all(row[-1] != first[-1] for _, row in rows)


def _label_column(path, names, label):
    if label is None:
        matches = [i for i, name in enumerate(names) if name.lower() in LABELS] or [len(names) - 1]
    else:
        matches = [i for i, name in enumerate(names) if name == label]
    if len(matches) == 1:
        return matches[0]
    seen = f"{len(matches)} columns" if matches else "no column"
    asked = f"named {label!r}" if label is not None else f"named {', '.join(names[i] for i in matches)}"
    raise ConfigurationError(
        f"{path} has {seen} {asked}: expected one label column, write csv:PATH?label=NAME with a name that occurs "
        f"once in its header (columns: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''})"
    )


def _parse_labels(path, name, lines, labels):
    """Labels as numbers (N,) if all are numbers, as text (N,) if none is."""
    numeric = [_is_number(label) for label in labels]
    kind = "a number" if numeric[0] else "text"
    for i, label in enumerate(labels):
        if not label:
            raise _bad_field(path, lines[i], name, label, "a label")
        if numeric[i] != numeric[0]:
            raise _bad_field(path, lines[i], name, label, f"{kind} as in line {lines[0]}")
    if not numeric[0]:
        return np.array(labels)
    y = np.array(labels, float)
    for i in np.flatnonzero(~np.isfinite(y))[:1]:
        raise _bad_field(path, lines[i], name, labels[i], "a finite number")
    return y


def _bad_field(path, line, name, seen, expected):
    found = f"found {str(seen)!r}" if str(seen) else "found nothing"
    return ConfigurationError(
        f"{path}, line {line}, column {name}: {found}, expected {expected}: correct the field or delete the line"
    )


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return True


def _arrays(path):
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no complete ZIP archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {key: np.asarray(arrays[key]) for key in arrays.files}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): give the path of an NPZ file") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigurationError(
            f"{path} is not an NPZ file of plain arrays ({error}): write it with numpy.savez, "
            f"numbers or fixed-length text only"
        ) from None


def _pair(path, arrays, *pairs):
    """The first of the pairs of keys that is there, checked, or None."""
    for keys in pairs:
        found = [key for key in keys if key in arrays]
        if len(found) == 1:
            missing = keys[keys[0] in arrays]
            raise ConfigurationError(f"{path} has {found[0]} and no {missing}: save both")
        if found:
            return _checked(path, keys, *(arrays[key] for key in keys))
    return None


def _checked(path, keys, x, y):
    if not x.size or not y.size or not x.ndim or not y.ndim or len(x) != len(y):
        raise ConfigurationError(
            f"{path}: {keys[0]} has shape {x.shape} and {keys[1]} {y.shape}: expected equally many samples and labels, "
            f"at least one"
        )
    x, y = (values.astype(np.uint8) if values.dtype == bool else values for values in (x, y))
    x = x[:, None] if x.ndim == 1 else x
    y = y[:, 0] if y.shape[1:] == (1,) else y
    if y.ndim > 2 or (_is_text(y) and y.ndim > 1):
        raise ConfigurationError(
            f"{path}: {keys[1]} has shape {y.shape} and type {y.dtype}: expected one label a sample, or (N, targets) "
            f"numbers for regression"
        )
    for key, values in zip(keys, (x, y)):
        if values is y and _is_text(y):
            continue
        if values.dtype.kind not in "iuf":
            raise ConfigurationError(f"{path}: {key} has type {values.dtype}: expected numbers, save it as float32")
        for index in np.argwhere(~np.isfinite(values))[:1]:
            at = tuple(index.tolist())
            raise ConfigurationError(
                f"{path}: {key}{list(at)} is {values[at]}: expected finite numbers, correct or drop the sample"
            )
    if y.ndim == 2 and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        raise ConfigurationError(
            f"{path}: {keys[1]} of shape {y.shape} is one-hot: expected one label a sample, save {keys[1]}.argmax(1)"
        )
    return x, y


def _is_text(y):
    return y.dtype.kind == "U"


def _targets(path, y):
    """Labels (N,) and the name of each class, or targets (N, targets) and None."""
    if y.ndim == 2:
        return y, None
    if not _is_text(y) and (y != np.round(y)).any():
        return y[:, None], None
    names, labels = np.unique(y, return_inverse=True)
    if len(names) in (1, len(y)):
        seen = f"every label is {names[0]}" if len(names) == 1 else f"no label of {len(y)} occurs twice"
        raise ConfigurationError(
            f"{path}: {seen}: expected classes of several samples or targets that are not all integers, choose "
            f"another label"
        )
    return labels, names.tolist()


def _held_out(path, y, names, seed):
    """Mask (N,) of the samples to validate on: the middle one of each five, in an order that the seed decides.

    Classes follow one another in that order, so that each loses a fifth of its samples, rounded up or down. A class
    of one sample keeps it for training.
    """
    if len(y) < 2:
        raise ConfigurationError(f"{path} has one sample: expected at least two, to train and to validate on")
    order = random.permutation(len(y), seed, "split")
    if names is not None:
        order = order[np.argsort(y[order], kind="stable")]
        order = order[np.bincount(y)[y[order]] > 1]
    held = np.zeros(len(y), bool)
    held[order[min(2, len(order) - 1) :: 5]] = True
    return held


def _data(path, x, y, val_x, val_y, names, columns=None):
    label_type = np.float32 if names is None else np.int64
    mean = std = None
    try:
        with np.errstate(over="raise"):
            if x.ndim == 2:
                mean, std = _scaling(x)
                x, val_x = (x - mean) / std, (val_x - mean) / std
            x, val_x = (np.ascontiguousarray(part, np.float32) for part in (x, val_x))
            y, val_y = (np.ascontiguousarray(part, label_type) for part in (y, val_y))
    except FloatingPointError:
        raise ConfigurationError(
            f"{path} has numbers too large for float32: rescale its columns or its targets"
        ) from None
    scaling = [None if values is None else values.tolist() for values in (mean, std)]
    table = {"columns": columns, "labels": names, "mean": scaling[0], "std": scaling[1]}
    return Data(path.name, x, y, val_x, val_y, None if names is None else len(names), table=table)


def _scaling(train):
    """Mean and std of the training columns; those of a constant column make it zeros."""
    mean, std = train.mean(axis=0, dtype=float), train.std(axis=0, dtype=float)
    # Rounding can leave the std of a constant column just above zero.
    std[(std == 0) | (train.min(axis=0) == train.max(axis=0))] = 1.0
    return mean, std
