"""NPZ files: arrays x and y, or those of a training and a validation part."""

import zipfile
import zlib

import numpy as np

from allgrad.ddp.errors import ConfigurationError

TRAINING = ("x_train", "y_train"), ("x", "y")
VALIDATION = ("x_val", "y_val"), ("x_test", "y_test")


def read(path) -> list[tuple[np.ndarray, np.ndarray | None, tuple[str, str]]]:
    """(x, y, keys) of the samples to train on, and of those to validate on if the file has such a part.

    x is numbers (N, ...), y numbers or text (N,), or numbers (N, targets); y is None where the file has x alone. Of
    booleans, x is 0 and 1, y the texts "True" and "False". Values may be nan or infinite. Raises ConfigurationError;
    pickled arrays are never loaded.
    """
    arrays = _arrays(path)
    if {"x", "y", "x_train"} & arrays.keys() == {"x"}:
        x, _, keys = _checked(path, ("x", "x"), arrays["x"], np.zeros(arrays["x"].shape[:1]))
        return [(x, None, keys)]
    train, validation = (_pair(path, arrays, pairs) for pairs in (TRAINING, VALIDATION))
    if train is None:
        raise ConfigurationError(
            f"{path} holds {', '.join(sorted(arrays)) or 'no arrays'}: expected x_train and y_train, or x and y, "
            f"with x_val and y_val, or x_test and y_test, if there is a validation part"
        )
    if validation is None:
        return [train]
    (x, y, _), (val_x, val_y, _) = train, validation
    if (
        x.shape[1:] != val_x.shape[1:]
        or y.shape[1:] != val_y.shape[1:]
        or (y.dtype.kind == "U") != (val_y.dtype.kind == "U")
    ):
        raise ConfigurationError(
            f"{path}: a training sample is {x.dtype} {x.shape[1:]} with label {y.dtype} {y.shape[1:]}, one for "
            f"validation {val_x.dtype} {val_x.shape[1:]} with label {val_y.dtype} {val_y.shape[1:]}: save both alike"
        )
    return [train, validation]


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


def _pair(path, arrays, pairs):
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
    x = x.astype(np.uint8) if x.dtype == bool else x
    # One order in memory, which the bits of means over samples depend on.
    x = np.ascontiguousarray(x[:, None] if x.ndim == 1 else x)
    y = y[:, 0] if y.shape[1:] == (1,) else y
    if y.dtype == bool:
        y = np.where(y, "True", "False") if y.ndim == 1 else y.astype(np.uint8)
    if y.ndim > 2 or (y.dtype.kind == "U" and y.ndim > 1):
        raise ConfigurationError(
            f"{path}: {keys[1]} has shape {y.shape} and type {y.dtype}: expected one label a sample, or (N, targets) "
            f"numbers for regression"
        )
    for key, values in zip(keys, (x, y)):
        if values.dtype.kind not in ("iufU" if values is y else "iuf"):
            raise ConfigurationError(f"{path}: {key} has type {values.dtype}: expected numbers, save it as float32")
    if y.ndim == 2 and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        raise ConfigurationError(
            f"{path}: {keys[1]} of shape {y.shape} is one-hot: expected one label a sample, save {keys[1]}.argmax(1)"
        )
    return x, y, keys
