"""Tables of the user: CSV, Parquet and Arrow with one label column, and NPZ with x and y; split and standardised."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from allgrad.autograd import random
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.launch.data import arrow, columns, npz, separated
from allgrad.launch.data.dataset import Data, meaning
from allgrad.launch.data.header import LABELS, NUMBER

PANDAS_INDEX = r"^Unnamed: \d+$|^__index_level_\d+__$"
TINY = 1e-140  # the squares of smaller deviations leave the normal range of float64


@dataclass
class Samples:
    """What a file holds of one part, before it is split and standardised; nan is a missing feature.

    x (N, ...), y (N,), (N, targets) or None; unlabelled (N,): whose label is missing; index (N,): position in the
    file; names: of the columns of x, None if they have none; label: the label's name, or its number from 1.
    seen(*at): where x[at] is and what is there, in words; label_seen(*at): the same of y[at].
    """

    x: np.ndarray
    y: np.ndarray | None
    unlabelled: np.ndarray
    index: np.ndarray
    seen: Callable[..., str]
    label_seen: Callable[..., str]
    names: list[str] | None = None
    label: str | int | None = None

    def only(self, kept):
        y = None if self.y is None else self.y[kept]
        return replace(self, x=self.x[kept], y=y, unlabelled=self.unlabelled[kept], index=self.index[kept])


def load_table(path: str | Path, kind: str, options: dict | None = None, seed: int = 0, form: dict | None = None):
    """`Data` of a file of kind "csv:", "parquet:", "arrow:" or "npz:".

    A file of columns has one sample a row. Its label is in the column `label` (a name, or a number counted from 1, or
    from the end if negative), else in the one named label, target, class or y in any case, else in the last; all
    others are features, in their order, true and false as 1 and 0. An NPZ file has arrays x_train, y_train and x_val,
    y_val (or x_test, y_test), or x and y. x of shape (N, columns) is standardised column by column, in float64, any
    other, as of images, is used as it is; either becomes float32.

    task: "classification" numbers the labels 0..classes-1 in the sorted order of the numbers, or of the text by code
    points; "regression" standardises the targets, float32 (N, targets), by the training part's mean and deviation.
    By default text means classes, and so do whole numbers if they are at most 20 different ones, or if each occurs 5
    times on average; all else are targets.

    missing: "mean" sets a missing feature to the mean of its column in the training part, "drop" leaves out samples
    where anything is missing. header: "yes" or "no", what the first line of a CSV file is; else its fields tell.

    Where the file has no validation part, a fifth of the samples, of each class alike, is held out, chosen by the
    seed. form: what `Data.form` was when a run began that goes on; one from before targets were standardised has them
    as they are. Raises ConfigurationError that names line or row, and column.
    """
    options = options or {}
    path = Path(os.path.expanduser(path))
    parts, remarks = _read(path, kind, options)
    if parts[0].y is None:
        raise ConfigurationError(f"{path} has x and no y: save both")
    parts = [_complete(path, part, options, remarks) for part in parts]
    task, old = options.get("task"), form is not None and form["table"] is not None and "target" not in form["table"]
    if form is not None and old:
        task = "regression" if form["classes"] is None else "classification"
    y, classes = _targets(
        path, np.concatenate([part.y for part in parts if part.y is not None]), task, parts[0], remarks
    )
    if len(parts) == 1:
        held = _held_out(path, y, classes, seed)
        parts = [parts[0].only(~held), parts[0].only(held)]
        y = np.concatenate([y[~held], y[held]])
    cut = len(parts[0].x)
    return _data(path, parts, y[:cut], y[cut:], classes, old, remarks)


def samples(path, kind, options, shape, table, seed, part):
    """Samples for a model that was trained on another table, or on this one: x, y, positions and remarks.

    shape: that of one sample in training; table: the training data's `Data.table`, whose scaling and classes are used.
    part: "train" or "val" as they would be in training, or "all". A file with the columns of the features alone, and
    an NPZ file with x alone, have no labels (y is None) and no parts. y are classes (N,), or targets (N, targets) in
    their own unit. Positions count samples in the file, or in the arrays of the part. Raises ConfigurationError if the
    samples are not like those in training.
    """
    path = Path(os.path.expanduser(path))
    found, remarks = _read(path, kind, options, table, shape)
    chosen = [found[0], found[-1]] if part == "all" and len(found) > 1 else [found[-1 if part == "val" else 0]]
    for one in chosen:
        refuse_other_columns(path, one.names, table["columns"])
        if one.x.shape[1:] != shape:
            raise ConfigurationError(
                f"{path} has samples of shape {one.x.shape[1:]}, and the model was trained on {shape}: give data of "
                f"that shape"
            )
    chosen = [_complete(path, one, options, remarks, labels_needed=False) for one in chosen]
    y = None
    if chosen[0].y is not None:
        y = _as_trained(path, np.concatenate([one.y for one in chosen if one.y is not None]), table["labels"])
    x, index = (np.concatenate([getattr(one, name) for one in chosen]) for name in ("x", "index"))
    if len(chosen) > 1:
        index[len(chosen[0].x) :] += len(found[0].x)
    if len(found) == 1 and part != "all":
        if y is None:
            raise ConfigurationError(f"{path} has no labels, and so no part for {part}: give --split all")
        kept = np.flatnonzero(_held_out(path, y, table["labels"], seed) == (part == "val"))
        x, y, index = x[kept], y[kept], index[kept]
    if table["mean"] is not None:
        mean = np.array(table["mean"])
        x = (np.where(np.isnan(x), mean, x) - mean) / np.array(table["std"])
    return x.astype(np.float32), y, index, remarks


def refuse_other_columns(path, names, before):
    """Raise ConfigurationError if the names of the features are not those of training, where both are known."""
    if not names or not before or names == before:
        return
    lost, new = ([name for name in one if name not in other] for one, other in ((before, names), (names, before)))
    if not lost and not new and len(names) == len(before):
        here, there = next((a, b) for a, b in zip(names, before) if a != b)
        told = f"has the column {here} where the model was trained with {there}"
    else:
        said = [f"no column {_listed(lost)}, which the model was trained with"] if lost else []
        said += [f"the column {_listed(new)}, which the model was not trained with"] if new else []
        told = f"has {' and '.join(said)}" if said else "has other columns than the model was trained with"
    raise ConfigurationError(f"{path} {told}: give it the same columns in the same order")


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(path, kind, options, table=None, shape=None) -> tuple[list[Samples], list[str]]:
    """The parts of a file; with the table of a training, whose names it may have, also without labels."""
    if kind == "npz:":
        return [_of_arrays(path, *part) for part in npz.read(path)], []
    table = table or {}
    features = shape[0] if shape is not None and len(shape) == 1 else None
    label = options.get("label")
    known = [label, *(table.get("columns") or ()), table.get("label")]
    known = [name for name in known if isinstance(name, str) and not re.match(NUMBER, name)]
    frame = _frame(path, kind, options.get("header"), known, features)
    target = _label_column(frame, label, table.get("label"), features)
    where = [j for j in range(len(frame.names)) if j != target]
    if not where:
        raise ConfigurationError(f"{path} has one column, {frame.names[0]}: expected features and a label")
    x = np.ascontiguousarray(np.stack([columns.numbers(frame, j) for j in where], axis=1))
    y, unlabelled, name = None, np.zeros(len(x), bool), None
    if target is not None:
        y, unlabelled = columns.labels(frame, target)
        name = frame.names[target] if frame.named else target + 1
    one = Samples(
        x, y, unlabelled, np.arange(len(x)), lambda i, j: frame.seen(i, where[j]), lambda i: frame.seen(i, target),
        [frame.names[j] for j in where] if frame.named else None, name,
    )  # fmt: skip
    return [one], list(frame.remarks)


def _frame(path, kind, header, known, features):
    """The columns of a file that pyarrow reads; an index of pandas among them is refused."""
    columns.pyarrow_for(path)
    try:
        frame = separated.read(path, header, known, features) if kind == "csv:" else arrow.read(path, kind)
    except OSError as error:
        reason, article = error.strerror or "it is damaged", "an" if kind == "arrow:" else "a"
        raise ConfigurationError(
            f"{path} cannot be read ({reason}): give the path of {article} {kind[:-1]} file"
        ) from None
    for j, name in enumerate(frame.names) if frame.named else ():
        if name == "":
            raise ConfigurationError(
                f"{path}: column {j + 1} has no name{' in the header' if kind == 'csv:' else ''}: name it, or delete "
                f"it if it only numbers the samples, as the index of a pandas table does (index=False)"
            )
        if re.match(PANDAS_INDEX, name):
            raise ConfigurationError(
                f"{path}: column {name} is the index of a pandas table, which only numbers the rows: delete it "
                f"(index=False), or give it another name"
            )
        if name in frame.names[:j]:
            raise ConfigurationError(
                f"{path} has two columns named {name}, {frame.names.index(name) + 1} and {j + 1}: rename one, or "
                f"delete it"
            )
    return frame


def _of_arrays(path, x, y, keys):
    unlabelled = np.zeros(len(x), bool)
    if y is not None and y.dtype.kind == "f":
        unlabelled = np.isnan(y).reshape(len(y), -1).any(axis=1)
    elif y is not None and y.dtype.kind == "U":
        unlabelled = np.isin(y, columns.MISSING_LABELS)
    seen, label_seen = (
        lambda *at, key=key, values=values: f"{path}: {key}{list(at)} is {values[at]}"
        for key, values in zip(keys, (x, x if y is None else y))
    )
    return Samples(x, y, unlabelled, np.arange(len(x)), seen, label_seen, label=keys[1])


def _label_column(frame, label, trained, features):
    """The index of the label's column; None if there is none, in a file for a model with so many features."""
    names = frame.names
    if label is not None:
        found = [j for j, name in enumerate(names) if name == label] if frame.named else []
        if not found and label.removeprefix("-").isdecimal() and 1 <= abs(int(label)) <= len(names):
            return int(label) - (int(label) > 0) + len(names) * (int(label) < 0)
    elif len(names) == features and (not frame.named or trained not in names):
        return None
    elif frame.named and trained in names:
        found = [j for j, name in enumerate(names) if name == trained]
    elif not frame.named and isinstance(trained, int) and trained <= len(names):
        return trained - 1
    else:
        found = [j for j, name in enumerate(names) if frame.named and name.lower() in LABELS] or [len(names) - 1]
    if len(found) == 1:
        return found[0]
    seen = f"{len(found)} columns" if found else "no column" if frame.named else "no header and no column"
    asked = f"named {label!r}" if label is not None else f"named {', '.join(names[j] for j in found)}"
    raise ConfigurationError(
        f"{frame.path} has {seen} {asked}: expected one label column, write ?label=NAME with a name that occurs once "
        f"in its header, or its number, counted from 1, or from the end as -1 (columns: {_listed(names)})"
    )


def _listed(names):
    return f"{', '.join(map(str, names[:20]))}{', ...' if len(names) > 20 else ''}"


# --- what is missing -------------------------------------------------------------------------------------------------


def _complete(path, part, options, remarks, labels_needed=True):
    """The part as far as it can be used, as the option `missing` says; what was left out or filled goes to remarks."""
    checked, numbers = [(part.x, part.seen)], part.y is not None and part.y.dtype.kind == "f"
    if part.y is not None and numbers:
        checked.append((part.y, part.label_seen))
    for values, seen in checked:
        for at in np.argwhere(np.isinf(values))[:1].tolist():
            raise ConfigurationError(f"{seen(*at)}, expected a finite number: correct it, or leave out the sample")
    how, gone = options.get("missing"), np.isnan(part.x)
    lost = part.unlabelled | gone.reshape(len(gone), -1).any(axis=1)
    if how == "drop" and lost.any():
        remarks.append(f"{counted(int(lost.sum()), 'sample')} of {len(lost):,} left out for missing values")
        if lost.all():
            raise ConfigurationError(f"{path}: in each sample something is missing, and ?missing=drop leaves none")
        return part.only(~lost)
    if how == "mean" and part.x.ndim != 2 and gone.any():
        raise ConfigurationError(f"{path}: samples of shape {part.x.shape[1:]} have no columns for ?missing=mean")
    for at in np.argwhere(gone)[:1].tolist() if how is None else ():
        raise ConfigurationError(
            f"{part.seen(*at)}, expected a number that is finite: correct it, or write ?missing=mean after the path to "
            f"set what is missing to the training mean of its column, or ?missing=drop to leave out such samples"
        )
    if part.y is not None and part.unlabelled.all() and not labels_needed:
        return replace(part, y=None)
    for i in np.flatnonzero(part.unlabelled)[:1].tolist():
        raise ConfigurationError(
            f"{part.label_seen(i)}, expected a {'finite number' if numbers else 'label'}: correct it, or write "
            f"?missing=drop after the path to leave out samples where anything is missing"
        )
    if gone.any():
        many = counted(int(gone.sum()), "missing value")
        remarks.append(f"{many} in {counted(int(lost.sum()), 'sample')} set to the training mean of the column")
    return part


# --- labels ----------------------------------------------------------------------------------------------------------


def _targets(path, y, task, part, remarks):
    """Labels (N,) and the name of each class, or targets float64 (N, targets) and None."""
    text, name = y.dtype.kind == "U", part.label
    whole = not text and (y.dtype.kind in "iu" or bool((y == np.round(y)).all()))
    if task == "regression" and text:
        raise ConfigurationError(
            f"{path}: the label is text, such as {columns.shown(y[0])}, and ?task=regression needs numbers: name "
            f"another column by ?label="
        )
    if task == "classification" and (y.ndim == 2 or not (text or whole)):
        seen = f"has {y.shape[1]} numbers a sample" if y.ndim == 2 else f"has {y[y != np.round(y)][0]}"
        raise ConfigurationError(f"{path}: the label {seen}: expected whole numbers or words for ?task=classification")
    if y.ndim == 2 or (not text and not whole) or task == "regression":
        return _as_numbers(y, part), None
    names, labels = np.unique(y, return_inverse=True)
    if not text and task is None:
        quantities, seen = meaning(len(names), len(y))
        other = "classification if they are classes" if quantities else "regression if they are quantities"
        remarks.append(f"label {name}: {seen}; ?task={other}")
        if quantities:
            return _as_numbers(y, part), None
    if len(names) in (1, len(y)):
        seen = f"every label is {names[0]}" if len(names) == 1 else f"no label of {len(y)} occurs twice"
        raise ConfigurationError(
            f"{path}: {seen}: expected classes of several samples, name another column by ?label=, or write "
            f"?task=regression if the label is a quantity"
        )
    return labels, [int(name) for name in names] if whole else names.tolist()


def _as_numbers(y, part):
    found = y.astype(np.float64)
    if y.dtype.kind in "iu":
        for at in np.argwhere(np.abs(found) >= columns.EXACT).tolist():
            if int(y[tuple(at)]) != int(found[tuple(at)]):
                raise ConfigurationError(
                    f"{part.label_seen(*at)}, a whole number beyond 2**53, which float64 rounds: subtract a constant "
                    f"from the label"
                )
    return found.reshape(len(y), -1)


def _as_trained(path, y, labels):
    """Labels (N,) in the classes of training, or targets (N, targets) if those are none."""
    text = y.dtype.kind == "U"
    if labels is None and not text:
        return y.reshape(len(y), -1).astype(np.float64)
    if labels is None:
        raise ConfigurationError(f"{path} has the label {str(y[0])!r}, and the model was trained on numbers")
    known = np.array(labels)
    if text and known.dtype.kind != "U" and [*known] == [0, 1] and np.isin(y, ("False", "True")).all():
        y = (y == "True").astype(np.int64)
    elif not text and y.ndim == 1 and [*np.char.capitalize(known.astype(str))] == ["False", "True"]:
        known = np.array([0, 1])
    elif text and [*np.char.capitalize(known.astype(str))] == ["False", "True"]:
        known, y = np.char.capitalize(known), np.char.capitalize(y)
    if y.ndim > 1 or (y.dtype.kind == "U") != (known.dtype.kind == "U"):
        raise ConfigurationError(f"{path} has labels like {y[0]!s}, and the model was trained on ones like {labels[0]}")
    codes = np.minimum(np.searchsorted(known, y), len(known) - 1)
    for i in np.flatnonzero(known[codes] != y)[:1]:
        raise ConfigurationError(
            f"{path} has the label {str(y[i])!r}, which is none of the {len(known)} that the model was trained on: "
            f"correct it, or leave out the labels"
        )
    return codes


# --- the parts -------------------------------------------------------------------------------------------------------


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


def _data(path, parts, y, val_y, classes, old, remarks):
    train, val = parts
    x, val_x = train.x, val.x
    label_type = np.float32 if classes is None else np.int64
    mean = std = None
    table: dict = {"columns": train.names, "labels": classes, "label": train.label}
    try:
        with np.errstate(over="raise"):
            if x.ndim == 2:
                mean, std = _scaling(path, train, remarks)
                x, val_x = ((np.where(np.isnan(part), mean, part) - mean) / std for part in (x, val_x))
            x, val_x = (np.ascontiguousarray(part, np.float32) for part in (x, val_x))
            if not old:
                table["target"] = None
            if classes is None and not old:
                center, unit = y.mean(axis=0), y.std(axis=0)
                unit[y.min(axis=0) == y.max(axis=0)] = 1.0
                if (unit < TINY).any():
                    raise ConfigurationError(
                        f"{path}: targets differ by less than {TINY}, whose squared errors float64 cannot hold: "
                        f"rescale the label"
                    )
                if (y == y[0]).all() and (val_y == y[0]).all():
                    raise ConfigurationError(f"{path}: every label is {y[0].tolist()[0]}: name another by ?label=")
                y, val_y = (y - center) / unit, (val_y - center) / unit
                table["target"] = {"mean": center.tolist(), "std": unit.tolist()}
            y, val_y = (np.ascontiguousarray(part, label_type) for part in (y, val_y))
    except FloatingPointError:
        raise ConfigurationError(
            f"{path} has numbers too large for float32: rescale its columns or its targets"
        ) from None
    table |= {name: None if values is None else values.tolist() for name, values in (("mean", mean), ("std", std))}
    count = None if classes is None else len(classes)
    return Data(path.name, x, y, val_x, val_y, count, table=table, remarks=tuple(remarks))


def _scaling(path, train, remarks):
    """Mean and std of the training columns, those of a constant one making it zeros; a missing value is the mean."""
    x, gone = train.x, np.isnan(train.x)
    if gone.any():
        for j in np.flatnonzero(gone.all(axis=0))[:1]:
            name = train.names[j] if train.names else j + 1
            raise ConfigurationError(f"{path}: column {name} has no value in the training part: leave it out")
        mean = np.nanmean(x, axis=0, dtype=float)
        x = np.where(gone, mean, x)
    else:
        mean = x.mean(axis=0, dtype=float)
    std = x.std(axis=0, dtype=float)
    constant = x.min(axis=0) == x.max(axis=0)
    small = np.flatnonzero((std < TINY) & ~constant)
    std[small] = (x[:, small].astype(float) * 2.0**600).std(axis=0) * 2.0**-600  # or the squares would underflow
    for j in small[std[small] < np.finfo(float).tiny][:1]:
        name = train.names[j] if train.names else j + 1
        raise ConfigurationError(f"{path}: the numbers of column {name} differ by too little for float64: rescale it")
    std[constant] = 1.0  # rounding can leave it just above zero
    if constant.any():
        first = int(np.argmax(constant))
        name = train.names[first] if train.names else first + 1
        remarks.append(
            f"constant in the training part: {counted(int(constant.sum()), 'column')}, the first of them {name}"
        )
    return mean, std
