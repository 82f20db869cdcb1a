"""What is trained: data, model, loss and metrics, by name or the user's own.

A run's configuration holds JSON values only. Data, models and losses without a name are in it as hashes, and are looked
up by these in `_objects`, which worker processes get from the one that leads.
"""

import hashlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.autograd import random
from allgrad.ddp.data import stored
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch import data as datasets, models

TASKS = "classification", "regression"
_objects: dict[str, Any] = {}  # by hash: data, models and losses of the user's own, which no name makes again elsewhere


@dataclass(frozen=True)
class Workload:
    """Data and model of a study.

    data         a name as in `allgrad train --data`, or arrays of one's own: (train_x, train_y, val_x, val_y), y being
                 labels, as whole numbers from 0 or as words, or real values
    model        a name as in `allgrad train --model`, or a class or function that makes an `autograd.nn.Module`, called
                 with (inputs, outputs) or nothing; at the top of a module, so that worker processes can import it
    init, dropout, dtype   as in `allgrad train`
    objective    None, or a function (model, data) -> (loss, metrics) as `allgrad.launch.train.objective`
    label_noise  share of the training labels that are drawn anew
    shards       logical shards of a batch: at least the ranks that share a run
    eval_samples how many samples of each part are measured, the first of a fixed order: by default at most 2,048, of
                 text as many windows as have 16,384 characters
    data_dir     where mnist, fashion-mnist and cifar10 are
    task         what whole numbers as y of arrays mean: "classification" or "regression"; if None, as in tables,
                 classes if at most 20 differ or if each occurs 5 times on average, which `loaded.remarks` says. Of a
                 table, data="PATH?task=regression" says it
    """

    data: Any = "digits"
    model: Any = "mlp:128"
    init: str = "kaiming"
    dropout: float = 0.0
    dtype: str = "float32"
    objective: Callable | None = None
    label_noise: float = 0.0
    shards: int = 1
    eval_samples: int | None = None
    data_dir: str | None = None
    task: str | None = None

    def config(self) -> dict:
        """The workload's part of a run's configuration, as JSON values; what has no name is remembered by its hash."""
        for name, known in (("init", models.INITS), ("dtype", ("float32", "float64"))):
            if (given := getattr(self, name)) not in known:
                raise ConfigurationError(f"--{name} {given} is not one of {', '.join(known)}")
        if self.shards < 1 or (self.eval_samples is not None and self.eval_samples < 1):
            given = self.shards, self.eval_samples
            raise ConfigurationError("--shards and --eval-samples are at least 1, got {} and {}".format(*given))
        if self.task not in (None, *TASKS):
            raise ConfigurationError(f"task {self.task!r} is not one of {', '.join(TASKS)}")
        if self.task is not None and isinstance(self.data, str | datasets.Data):
            raise ConfigurationError(
                f"task={self.task!r} is for arrays: of a table, say it in its name, as in data='PATH?task={self.task}'"
            )
        own = None if isinstance(self.data, str) else _own_data(self.data, self.task)
        data = _load(self.data if own is None else own, self.data_dir, self.dtype)
        if not 0.0 <= self.label_noise < 1.0:
            raise ConfigurationError(f"label noise is a share from 0 to below 1, got {self.label_noise}")
        if self.label_noise and (data.classes is None or data.vocabulary is not None):
            raise ConfigurationError(f"label noise needs one label a sample, and {data.name} has none")
        if not isinstance(self.data, str):
            _objects[data.sha256] = data
        elif self.data_dir is not None:  # what makes it again, since the data may be large
            _objects[data.sha256] = partial(_load, self.data, self.data_dir, self.dtype)
        most = 2048 if data.vocabulary is None else max(16_384 // data.features[0], 64)
        named = isinstance(self.model, str)
        return {
            "data": data.name if not isinstance(self.data, str) else self.data,
            "data_sha256": data.sha256,
            "model": self.model if named else f"{self.model.__module__}:{self.model.__qualname__}",
            "model_sha256": models.hash_of_file(self.model) if named else _remember(self.model),
            "init": self.init,
            "dropout": self.dropout,
            "dtype": self.dtype,
            "objective": None if self.objective is None else _remember(self.objective),
            "label_noise": self.label_noise,
            "shards": self.shards,
            "eval_samples": self.eval_samples or most,
        }

    @property
    def loaded(self) -> datasets.Data:
        """The data set, in memory."""
        return load(self.config())

    def build(self, seed=0):
        """The model with the initial weights of a seed."""
        return build({**self.config(), "seed": seed})

    @property
    def name(self) -> str:
        """Data and model in two words."""
        config = self.config()
        return f"{config['data']}, {config['model']}"

    @property
    def is_default(self) -> bool:
        """Whether it is that of the reference numbers: digits, mlp:128, float32."""
        return self == Workload(shards=self.shards)


def unnamed_objects(config: dict) -> dict:
    """{hash: data, model or loss} that another process needs beside the configuration; `add_objects` takes it there."""
    keys = config["data_sha256"], config["model_sha256"], config["objective"]
    return {key: _objects[key] for key in keys if key in _objects}


def add_objects(found: dict):
    """Take over the `unnamed_objects` of another process."""
    _objects.update(found)


def load(config: dict) -> datasets.Data:
    """The data of a configuration, with its label noise; loaded once in a process."""
    digest = config["data_sha256"]
    data = _objects[digest] if digest in _objects else _load(config["data"], None, config["dtype"])
    data: Any = data() if callable(data) else data
    if data.sha256 != digest:
        raise ConfigurationError(f"--data {config['data']} has changed since the study began: give another --out")
    return _noisy(data, config["label_noise"]) if config["label_noise"] else data


def build(config: dict):
    """The model of a configuration, with the weights of its seed."""
    digest, spec = config["model_sha256"], config["model"]
    if digest in _objects:
        spec = _objects[digest]
    elif digest is not None and models.hash_of_file(spec) != digest:
        raise ConfigurationError(f"--model {spec} has changed since the study began: give another --out")
    data = load(config)
    return models.build(spec, data, config["seed"], config["init"], config["dropout"], stored(config["dtype"]))


def objective(config: dict, model, data):
    """(loss, metrics) as `allgrad.launch.train.objective`, or the user's own."""
    if config["objective"] is not None:
        return _objects[config["objective"]](model, data)
    from allgrad.launch.train import objective as standard

    return standard(model, data)


@lru_cache(maxsize=4)
def _load(spec, data_dir, dtype):
    data = spec.data if isinstance(spec, _OwnData) else datasets.load(spec, data_dir)
    return data.astype(stored(dtype))


@lru_cache(maxsize=2)
def _noisy(data, share):
    rng = random.generator("label noise", data.sha256)
    hit = rng.permutation(len(data.train_y))[: round(share * len(data.train_y))]
    labels = data.train_y.copy()
    labels[hit] = rng.integers(data.classes, size=len(hit))
    return replace(data, train_y=labels)


class _OwnData:
    """Data of the user's own, the same object for the same arrays, so that `_load` knows it again."""

    def __init__(self, data):
        self.data = data


_own_arrays: dict[tuple, tuple] = {}


def _own_data(arrays, task):
    if isinstance(arrays, datasets.Data):
        key, make = (id(arrays),), lambda: arrays
    else:
        try:
            train_x, train_y, val_x, val_y = arrays
        except (TypeError, ValueError):
            raise ConfigurationError("data of one's own are four arrays: train_x, train_y, val_x, val_y") from None
        key, make = (*map(id, arrays), task), lambda: _data(task, train_x, train_y, val_x, val_y)
    if key not in _own_arrays:
        _own_arrays[key] = _OwnData(make()), arrays  # the arrays are held, so that their ids stay theirs
    return _own_arrays[key][0]


def _data(task, *arrays):
    train_x, train_y, val_x, val_y = map(np.asarray, arrays)
    if len({len(train_x), len(train_y)}) > 1 or len({len(val_x), len(val_y)}) > 1 or not (len(train_x) and len(val_x)):
        lengths = [len(a) for a in (train_x, train_y, val_x, val_y)]
        raise ConfigurationError(f"train_x and train_y, and val_x and val_y, have one length above 0, got {lengths}")
    if train_x.shape[1:] != val_x.shape[1:]:
        raise ConfigurationError(f"samples have one shape, got {train_x.shape[1:]} and, in val_x, {val_x.shape[1:]}")
    classes, remarks = None, ()
    worded = train_y.dtype.kind in "US" or (
        train_y.dtype.kind == "O" and all(isinstance(label, str) for label in train_y.flat)
    )
    if worded and task == "regression":
        raise ConfigurationError("train_y holds words, and task='regression' needs numbers")
    if task is None and train_y.dtype.kind in "iu" and train_y.size == len(train_y):
        quantities, seen = datasets.meaning(len(np.unique(train_y)), len(train_y))
        task, other = ("regression", "classification") if quantities else ("classification", "regression")
        remarks = (f"train_y: {seen}; task={other!r} if they are {'classes' if quantities else 'quantities'}",)
    if task == "classification" and train_y.dtype.kind == "f":
        train_y, val_y = _whole(train_y, "train_y"), _whole(val_y, "val_y")
    if task != "regression" and (worded or train_y.dtype.kind in "iub"):
        train_y, val_y, classes = _labels(train_y, val_y)
    else:
        train_y, val_y = (_finite(y, name).reshape(len(y), -1) for y, name in ((train_y, "train_y"), (val_y, "val_y")))
    return datasets.Data(
        "own", _finite(train_x, "train_x"), train_y, _finite(val_x, "val_x"), val_y, classes, remarks=remarks
    )


def _whole(array, name):
    """Numbers with nothing after the point as integers."""
    found = array.astype(np.int64)
    if not (found == array).all():
        raise ConfigurationError(f"{name} has {array[found != array][0]}: task='classification' needs whole numbers")
    return found


def _labels(train, val):
    """Labels as numbers from 0, and how many classes there are; words count in their sorted order."""
    if train.size != len(train) or val.size != len(val):
        raise ConfigurationError(f"there is one label a sample, got labels of shapes {train.shape} and {val.shape}")
    train, val = train.ravel(), val.ravel()
    if train.dtype.kind in "USO":
        names, train = np.unique(train.astype(str), return_inverse=True)
        val = val.astype(str)
        if strangers := sorted({*val.tolist()} - {*names.tolist()}):
            raise ConfigurationError(f"val_y has the label {strangers[0]!r}, which train_y does not have: leave it out")
        val = np.searchsorted(names, val)
    elif val.dtype.kind not in "iub" or (least := min(train.min(), val.min())) < 0:
        found = f"{val.dtype} in val_y" if val.dtype.kind not in "iub" else least
        raise ConfigurationError(
            f"labels that are whole numbers count from 0, got {found}: number them anew, or give "
            f"task='regression' if they are quantities"
        )
    return train.astype(np.int64), val.astype(np.int64), int(max(train.max(), val.max())) + 1


def _finite(array, name):
    """The array as float32; ConfigurationError if it holds anything but finite numbers."""
    try:
        with np.errstate(over="ignore"):
            found = array.astype(np.float32)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} holds numbers, got {array.dtype}: turn words into numbers first") from None
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        raise ConfigurationError(
            f"{name} has values that are not finite in float32, {len(bad):,} in all, the first in sample {bad[0][0]}: "
            f"mend them or leave those samples out"
        )
    return found


_parsing = threading.Lock()  # Python 3.11 cannot parse in two threads at once


def _remember(f):
    """Remember a function or class by the hash of its source."""
    try:
        with _parsing:
            source = inspect.getsource(f) + (Path(inspect.getsourcefile(f) or "").name)
    except (OSError, TypeError):
        source = repr(getattr(f, "__code__", None) and f.__code__.co_code)
    digest = hashlib.sha256(f"{f.__module__}:{f.__qualname__}\n{source}".encode()).hexdigest()
    _objects[digest] = f
    return digest
