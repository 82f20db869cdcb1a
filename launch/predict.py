"""`allgrad predict`: what a trained model says of samples, as a CSV file, on as many ranks as the launcher started."""

import argparse
import csv
import hashlib
import math
import os
from pathlib import Path

import numpy as np

from allgrad import ddp
from allgrad.autograd import no_grad
from allgrad.ddp.comm import BACKENDS, refuse_to_share
from allgrad.ddp.data import stored
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.launch import data as datasets, models, transfer
from allgrad.launch.options import relocated, same_kind
from allgrad.launch.train import data_of

BLOCK_SAMPLES = 64  # that are computed at once, at most: what the bits of a prediction depend on


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="--out of a run, or one of its checkpoints")
    parser.add_argument(
        "--model", metavar="PATH.py:CLASS", help="where the file of the model is, if it has moved [as in the run]"
    )
    parser.add_argument("--data", metavar="DATA", help="as in allgrad train; a table may lack labels [that of the run]")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where mnist, fashion-mnist and cifar10 are [that of the run]"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "all"), help="part of the data [val of the run's own data, all of others]"
    )
    parser.add_argument("--out", required=True, metavar="FILE.csv", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--global-batch", type=int, default=1024, metavar="INT", help=f"samples at a time, over all ranks, of which "
        f"each computes blocks of at most {BLOCK_SAMPLES} [1024]"
    )  # fmt: skip
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="how ranks talk [auto]")
    parser.add_argument("--threads", type=int, default=1, metavar="INT", help="BLAS threads of a rank [1]")


def predict(
    checkpoint: str, out: str, data: str | None = None, data_dir: str | None = None, split: str | None = None,
    global_batch=1024, overwrite=False, backend="auto", threads=1, model: str | None = None,
):  # fmt: skip
    """Write index, label, the probability of each class, and the true label if the data has them, a line a sample.

    For a regression, index, the values that are predicted, and the true ones, in the unit of the label; for an
    autoencoder, index and the reconstruction. The index counts the samples of the part, or of the file for a table
    whose parts it does not name; `all` is the training part and then the validation part. The same bytes on any number
    of ranks. Raises ConfigurationError.
    """
    if backend == "solo":
        refuse_to_share("--out", out)
    comm = ddp.init(backend, threads)
    path, target = Path(checkpoint), Path(out)
    saved = comm.agree_or_raise(
        lambda: _saved(path, target, overwrite, global_batch, threads, model) if comm.rank == 0 else None
    )
    tensors, config = comm.broadcast_object(saved)
    form = config["data_shape"]
    network = comm.agree_or_raise(lambda: _model(path, tensors, config))
    spec, directory = data or config["data"], data_dir or config["data_dir"]
    moved = comm.broadcast_object(comm.rank == 0 and _has_moved({**config, "data_dir": directory}, spec))
    own = moved or spec == config["data"]
    part = split or ("val" if own else "all")
    x, y, index, remarks = comm.agree_or_raise(lambda: _samples(spec, directory, part, config))
    if own and part != "all":
        comm.agree_or_raise(lambda: _as_trained({**config, "data": spec, "data_dir": directory}, part))
    if len({*comm.all_gather_object(hashlib.sha256(x.tobytes()).hexdigest())}) > 1:
        raise ConfigurationError(f"--data {spec} differs between ranks: copy one version to every host")
    table = _Table(form, network, y)
    batches = _batches(network, x, min(global_batch, len(x)), comm)
    if comm.rank:
        for _ in batches:
            pass
        return
    try:
        _write(target, table, index, batches)
    except OSError as error:
        raise ConfigurationError(f"--out {target} cannot be written ({error}): give another file") from None
    print(*(f"{remark}\n" for remark in remarks), sep="", end="")
    print(f"{target}: {counted(len(x), 'sample')} of {spec}{table.told()}", flush=True)


def _saved(path, out, overwrite, global_batch, threads, model):
    """(state dict, configuration) of the checkpoint, once it is certain that the result can be kept."""
    if min(global_batch, threads) < 1:
        raise ConfigurationError(f"--global-batch and --threads are at least 1, got {global_batch} and {threads}")
    if out.is_dir() or (out.exists() and not overwrite):
        raise ConfigurationError(f"--out {out} exists: give another file, or --overwrite to replace a file")
    tensors, state = transfer.find(path, "--checkpoint")
    config = state.get("config", {})
    if "data_shape" not in config:
        raise ConfigurationError(f"--checkpoint {path} does not say what data it is for: give one of allgrad train")
    if config["data_shape"]["vocabulary"] is not None:
        raise ConfigurationError(
            f"--checkpoint {path} is a model of text, which predicts no labels: give one for tables or images"
        )
    config = relocated(config)
    if model is not None:
        if not same_kind("model", model, config["model"]):
            raise ConfigurationError(
                f"--model {model} is not the {config['model']} of {path}: give the place where its file is now"
            )
        config["model"] = model
    return tensors, config


def _has_moved(config, spec):
    """Whether the data set of this name is the run's own, at another place."""
    if spec == config["data"] or not same_kind("data", spec, config["data"]):
        return False
    try:
        return data_of({**config, "data": spec}).sha256 == config["data_sha256"]
    except ConfigurationError:  # such as a table without labels
        return False


def _model(path, tensors, config):
    now, then = models.hash_of_file(config["model"]), config["model_sha256"]
    if now != then:
        raise ConfigurationError(
            f"--model {config['model']} has changed since {path} was written (its SHA-256 was {then}, and is {now}): "
            f"give it back"
        )
    model = models.build(config["model"], datasets.placeholder(config["data_shape"]), dtype=stored(config["dtype"]))
    try:
        model.load_state_dict(tensors)
    except ValueError as error:
        raise ConfigurationError(f"--checkpoint {path} does not fit its model {config['model']}: {error}") from None
    return model.eval()


def _samples(spec, data_dir, part, config):
    """x, y or None, the index of each sample, and remarks, of one part of the data."""
    form = config["data_shape"]
    shape, outputs = tuple(form["features"]), form["outputs"]
    kind, path, options = datasets.parse_spec(spec)
    remarks: list[str] = []
    if (kind in datasets.TABLES) != (form["table"] is not None):
        one, other = ("is a table", "is none") if form["table"] else ("is no table", "is one")
        raise ConfigurationError(
            f"the model was trained on {form['name']}, which {one}, and --data {spec} {other}, scaled otherwise: give "
            f"data of the same kind"
        )
    if form["table"] is not None:
        from allgrad.launch.data import tables

        x, y, index, remarks = tables.samples(path, kind, options, shape, form["table"], config["seed"], part)
        if y is not None and form["classes"] is None and y.shape[1:] != (outputs,):
            raise ConfigurationError(
                f"--data {spec} has {math.prod(y.shape[1:])} targets, and the model was trained on {outputs}: "
                f"give data with as many, or without any"
            )
    else:
        data = datasets.load(spec, data_dir, config["seed"])
        if (data.features, data.outputs, data.vocabulary) != (shape, outputs, None):
            raise ConfigurationError(
                f"--data {spec} has samples of shape {data.features} with {data.outputs} outputs, and the model was "
                f"trained on {shape} with {outputs}: give data of that shape"
            )
        pairs = {"train": (data.train_x, data.train_y), "val": (data.val_x, data.val_y)}
        x, y = map(np.concatenate, zip(*pairs.values())) if part == "all" else pairs[part]
        index = np.arange(len(x))
    with np.errstate(over="ignore"):
        x = x.astype(stored(config["dtype"]))
    if not np.isfinite(x).all():
        raise ConfigurationError(f"--data {spec} has numbers that are not finite, or too large for {x.dtype}")
    return x, y, index, remarks


def _as_trained(config, part):
    """Refuse a part of the run's own data if that is not what it was: others than the run's would be in the part."""
    if data_of(config).sha256 != config["data_sha256"]:
        raise ConfigurationError(
            f"--data {config['data']} has changed since the model was trained, and --split {part} would not be the "
            f"part of the run: give the data back, or --split all for all that is there now"
        )


def _batches(model, x, batch, comm):
    """The model's outputs for the samples in order, an array a batch, computed by all ranks; None but on rank 0."""
    shards = -(-batch // BLOCK_SAMPLES)
    loader = ddp.DataLoader((x,), batch, comm, shards, shuffle="never")
    for one in loader.epoch(0):
        with no_grad():
            mine = [model(*shard.arrays).data for shard in one.shards if len(shard)]
        found = comm.all_gather_object(mine)
        yield np.concatenate([y.reshape(len(y), -1) for rank in found for y in rank]) if comm.rank == 0 else None


class _Table:
    """The columns of the file, and how well the model did."""

    def __init__(self, form, model, y):
        self.labels = None
        self.reconstructs = isinstance(model, models.Autoencoder)
        self.y = None if self.reconstructs else y
        width = int(np.prod(form["features"])) if self.reconstructs else form["outputs"]
        if form["classes"] is not None and not self.reconstructs:
            labels = form["table"]["labels"] if form["table"] else range(form["classes"])
            self.labels = [str(int(name)) if isinstance(name, float) else str(name) for name in labels]
            self.header = ["index", "label", *(f"probability_{name}" for name in self.labels)]
            true = ["true_label"]
        else:
            self.header = ["index", *(f"value_{i}" for i in range(width))]
            true = [f"true_value_{i}" for i in range(width)]
        self.header += [] if self.y is None else true
        self.mean, self.std = np.zeros(width), np.ones(width)
        if form["classes"] is None and not self.reconstructs:
            self.mean, self.std = datasets.scale_of(form["table"], width)
        self.good = self.count = 0
        self.missed = self.squares = 0.0  # of a regression: sum of |error|, and of squared errors of each target

    def rows(self, outputs, index):
        """Lines for the model's next outputs, whose samples are at this index."""
        y = None if self.y is None else self.y[self.count : self.count + len(outputs)]
        self.count += len(outputs)
        if self.labels is None:
            outputs = outputs if (self.std == 1.0).all() and not self.mean.any() else outputs * self.std + self.mean
            if y is not None:
                self.missed += np.abs(outputs - y, dtype=float).sum()
                self.squares += np.square(outputs - y, dtype=float).sum(axis=0)
            for i, row in enumerate(outputs):
                yield [index[i], *map(str, row), *([] if y is None else map(str, y[i]))]
            return
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        best = outputs.argmax(axis=1)
        self.good += 0 if y is None else int((best == y).sum())
        for i, row in enumerate(e / e.sum(axis=1, keepdims=True)):
            yield [index[i], self.labels[best[i]], *map(str, row), *([] if y is None else [self.labels[y[i]]])]

    def told(self):
        """What the labels say of the predictions, to be printed."""
        if self.y is None:
            return ""
        if self.labels is None:
            n, targets = len(self.y), self.y.astype(float)
            variance = targets.var(axis=0)
            r2 = f", R2 {np.mean(1.0 - self.squares / n / variance):.4f}" if variance.all() else ""
            squared = np.mean(self.squares) / n
            return f", mean squared error {squared:.6g}, mean absolute error {self.missed / self.y.size:.6g}{r2}"
        return f", accuracy {self.good / self.count:.4f}"


def _write(out, table, index, batches):
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.header)
            for outputs in batches:
                writer.writerows(table.rows(outputs, index[table.count :]))
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
