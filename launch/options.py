"""The options of a run: one table for the command line, the TOML file, the saved configuration and the help text."""

import argparse
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from allgrad.autograd import optim
from allgrad.ddp.comm import BACKENDS
from allgrad.ddp.data import BOUNDARIES, HALVES, PRECISIONS, SHUFFLES
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.parallel import BATCH_NORMS, CAPTURES
from allgrad.ddp.reduce import POLICIES, REDUCTIONS, WIRES
from allgrad.ddp.scaling import RULES
from allgrad.launch.models import FORMS, INITS

OPTIMIZERS = {
    "sgd": optim.SGD, "adagrad": optim.Adagrad, "adadelta": optim.Adadelta, "rmsprop": optim.RMSprop,
    "adam": optim.Adam, "adamw": optim.AdamW, "radam": optim.RAdam, "lion": optim.Lion, "lars": optim.LARS,
    "lamb": optim.LAMB, "muon": optim.Muon, "soap": optim.SOAP, "schedulefree-sgd": optim.ScheduleFreeSGD,
    "schedulefree-adamw": optim.ScheduleFreeAdamW,
}  # fmt: skip


@cache
def takers(hyperparameter: str) -> dict:
    """{optimizer: default} of those that take this hyperparameter, as their constructors say."""
    found = {kind: inspect.signature(rule).parameters.get(hyperparameter) for kind, rule in OPTIMIZERS.items()}
    return {kind: parameter.default for kind, parameter in found.items() if parameter is not None}


PLANNED = ("linear", "cosine", "polynomial:POWER", "onecycle[:RISE]", "wsd:DECAY[,SHAPE]")  # over the length of the run
SCHEDULES = (
    "constant", *PLANNED, "step:EVERY,GAMMA", "multistep:STEP,...,GAMMA", "exponential:GAMMA[,EVERY]", "inverse:HALF",
    "restarts:FIRST[,MULT]", "plateau:FACTOR,PATIENCE",
)  # fmt: skip


def length(value) -> int | str:
    """A length of training: steps as a number, epochs as "2.5ep", samples as "20000samples"; else ValueError."""
    found = re.fullmatch(r"(\d+)|\d+(\.\d+)?ep|\d+samples", str(value))
    if not found:
        raise ValueError(value)
    return int(value) if found[1] else found[0]


def size(value) -> int:
    """A number of bytes: 4000000, "500KB" or "4MB", in powers of 1000; else ValueError."""
    found = re.fullmatch(r"(\d+)(KB|MB|)", str(value))
    if not found:
        raise ValueError(value)
    return int(found[1]) * {"": 1, "KB": 1000, "MB": 1000**2}[found[2]]


def span(value) -> str:
    """Steps as "20:40": from the first to before the second; else ValueError."""
    found = re.fullmatch(r"(\d+):(\d+)", str(value))
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(value)
    return found[0]


class Expected(ValueError):
    """What a value has to be, in words, where the type of its option cannot say it."""


@dataclass(frozen=True)
class Option:
    """name, type, default, help; values it is limited to; and whether it takes part in what the weights become.

    alone: the value that the flag without one stands for, as true does in a file, where false is "off".
    """

    name: str
    kind: Callable
    default: Any
    help: str
    among: tuple = ()
    least: float | None = None
    shapes_weights: bool = True
    alone: str | None = None

    @property
    def flag(self):
        return "--" + self.name.replace("_", "-")


OPTIONS = (
    Option("data", str, "digits", "digits, mnist, fashion-mnist, cifar10, a table (PATH.csv, .parquet, .feather, "
           ".arrow, .npz; PATH.csv?label=COLUMN names its label), text:PATH (a file, or a folder of files), or text "
           "(Python's own library); text:PATH?context=128 sets the window"),
    Option("data_dir", str, None, "where mnist, fashion-mnist and cifar10 are, or are downloaded to",
           shapes_weights=False),
    Option("model", str, "mlp:128", FORMS),
    Option("dropout", float, 0.0, "probability of dropout: after the hidden layers of mlp, lstm, transformer; before "
           "the head of cnn, vgg-small", least=0.0),
    Option("init", str, "kaiming", "initial weights of all models but lstm, transformer and PATH.py:CLASS",
           among=tuple(INITS)),
    Option("init_from", str, None, "start from the tensors of a .safetensors file, a checkpoint or a run's directory "
           "that fit the model in name and shape"),
    Option("freeze", str, None, "parameters that are not trained: patterns of names, such as '0.*,layer1.*'"),
    Option("optimizer", str, "sgd", "update rule", among=tuple(OPTIMIZERS)),
    Option("lr", float, 0.1, "learning rate (at --base-batch, if an --lr-rule is given)", least=0.0),
    Option("momentum", float, None, "momentum of sgd, rmsprop, lars and muon (default: 0, lars 0.9, muon 0.95)",
           least=0.0),
    Option("nesterov", bool, None, "Nesterov's form of momentum, for sgd; muon has it anyway"),
    Option("weight_decay", float, 0.0, "weight decay", least=0.0),
    Option("l1", float, 0.0, "L1 regularisation: l1 sign(w) is added to the gradient", least=0.0),
    Option("no_decay", bool, False, "no weight decay, L1, LARS or LAMB for biases and normalisation (parameters of "
           "one axis)"),
    Option("schedule", str, "constant", "learning rate over the run: " + ", ".join(SCHEDULES) + "; EVERY, STEP, HALF "
           "and FIRST are steps, or epochs as in 30ep, or samples as in 20000samples; DECAY is a share of the run as "
           "0.2, or such a length, at the end, SHAPE linear or 1-sqrt; PATIENCE counts evaluations"),
    Option("beta1", float, None, "decay of the mean, for adam, adamw, radam, lion, lamb and soap (default: 0.9, soap "
           "0.95), and for schedulefree-adamw how near gradients are taken to the average (default: 0.9)", least=0.0),
    Option("beta2", float, None, "decay of the mean square, for adam, adamw, radam, lamb, schedulefree-adamw (default: "
           "0.999) and soap (default: 0.95), or of what lion keeps of the gradients (default: 0.99)", least=0.0),
    Option("eps", float, None, "what is added to the root of the mean square, for adagrad, rmsprop, adam, adamw, lamb, "
           "soap, schedulefree-adamw and others",
           least=0.0),
    Option("warmup", length, None, "how long the learning rate rises from 0, or from --lr with --lr-rule "
           "linear_warmup: steps, 5ep (epochs) or 20000samples (default: 0; for linear_warmup half an epoch or 5 %% of "
           "the steps, whichever is longer, but at most half of them)"),
    Option("lr_rule", str, "none", "how learning rate, betas and eps follow the batch from --base-batch, which they "
           "are for, to --global-batch", among=tuple(RULES)),
    Option("base_batch", int, None, "the batch that --lr is for, if an --lr-rule is given", least=1),
    Option("noise_scale", float, None, "the gradient noise scale in samples, as an earlier run measured it, for "
           "--lr-rule", least=0.0),
    Option("batch_schedule", str, None, "a batch that changes: grow:F,EPOCH,... (times F at each of these epochs), "
           "seesaw:F,EPOCH,... (and the rate by sqrt(F)), ramp:LENGTH:BATCH,... (these batches from these lengths on: "
           "steps, 5ep or 20000samples; with --lr-rule sqrt or linear the rate follows, and stays without), "
           "noise:EVERY,MAX[,R] (every so many epochs twice as large "
           "while the noise scale is above twice the batch, or the root of R times the noise scale; at most MAX)"),
    Option("noise_layers", bool, False, "estimate the noise scale of each parameter too", shapes_weights=False),
    Option("ema", float, None, "evaluate and save, in place of the weights, their exponential moving average over the "
           "steps with this decay, as 0.999; training goes on from the weights themselves", least=0.0),
    Option("clip", float, None, "limit of the gradients' common norm", least=0.0),
    Option("clip_value", float, None, "limit of each element of the gradients, after --clip", least=0.0),
    Option("global_batch", int, 64, "samples a step, over all ranks", least=1),
    Option("epochs", int, 5, "how often every sample is seen", least=1),
    Option("steps", int, None, "number of steps, instead of --epochs", least=1),
    Option("shuffle", str, "epoch", "order of the samples", among=SHUFFLES),
    Option("boundary", str, "short", "last batch of an epoch: what is left, or filled from the next", among=BOUNDARIES),
    Option("augment", str, None, "what happens to training images, anew every epoch and for each by itself: crop "
           "(moved by up to 4 pixels, zeros beyond the edge), flip (left to right), or crop,flip"),
    Option("shards", int, None, "logical shards of a batch (default: number of ranks at the first start)", least=1),
    Option("accumulate", int, None, "shards a rank at the first start: instead of --shards, K times the number of "
           "ranks, whose gradients a rank adds up one by one", least=1),
    Option("reduce", str, "canonical", "how gradients are added up; canonical and adasum: same bits on any number of "
           "ranks", among=REDUCTIONS),
    Option("batch_norm", str, "shard", "moments of batch normalisation: those of each logical shard, or of the global "
           "batch, which is slower", among=BATCH_NORMS),
    Option("wire", str, "float32", "format of gradients between ranks: float32 (as they were computed), or rounded at "
           "each shard and each node of the tree", among=WIRES),
    Option("compress", str, None, "send less, and the rest later: topk:SHARE of the elements, or powersgd:RANK"),
    Option("sync_every", int, None, "local SGD: each rank steps by itself, and every so many steps the parameters are "
           "averaged", least=1),
    Option("sync_after", int, 0, "steps taken together before the local ones of --sync-every", least=0),
    Option("overlap", str, "auto", "when gradients are exchanged: after backward, or while it goes on as soon as a "
           "bucket is complete, without waiting (on a GPU, by a stream) or by a thread; auto: what a trial in the "
           "first steps finds fastest, with NCCL bucket", among=POLICIES, shapes_weights=False),
    Option("bucket_size", size, None, "least size of a bucket, in whole parameters: bytes, 500KB or 4MB (default: an "
           "eighth of the gradients, from 256KB to 25MB)", least=1, shapes_weights=False),
    Option("capture", str, "auto", "record forward and backward once for each shape of a shard, and replay them: the "
           "same bits in less time; auto: where shards are small, after 100 of them, and not on a GPU",
           among=CAPTURES, alone="on", shapes_weights=False),
    Option("checkpoint_activations", bool, False, "compute what the blocks of resnet and transformer keep for backward "
           "again there, instead of keeping it: the same bits in less memory and more time", shapes_weights=False),
    Option("zero", bool, False, "ZeRO-1: each rank keeps the optimizer's state of its part of the parameters",
           shapes_weights=False),
    Option("seed", int, 0, "seed of initial weights, shuffles, augmentation and dropout", least=0),
    Option("dtype", str, "float32", "type to compute in; the halves keep parameters and optimizer in float32",
           among=("float32", "float64", *HALVES)),
    Option("arrays", str, "numpy", "array library", among=("numpy", "torch")),
    Option("device", str, "cpu", "where torch's arrays live: cpu, cuda (the GPU of the rank's number on its host, or "
           "the only one it sees), cuda:N"),
    Option("precision", str, "ieee", "of float32 products and convolutions on CUDA: ieee, or tf32 (TensorFloat-32), "
           "which rounds their factors to 10 bits and is faster", among=PRECISIONS),
    Option("nondeterministic", bool, False, "also kernels of torch that may give other bits every time"),
    Option("threads", int, 1, "BLAS threads of a rank; their number changes the bits of a product", least=1),
    Option("backend", str, "auto", "how ranks talk; auto: by NCCL where each computes on a GPU of its own, else by "
           "MPI, and by Gloo under torchrun", among=BACKENDS, shapes_weights=False),
    Option("timeout", float, 300.0, "seconds a rank waits for another in one step of their communication, before all "
           "end and say where each is; 0: any time", least=0.0, shapes_weights=False),
    Option("check_every", int, None, "steps between comparisons of the ranks' parameters, which must agree (default: "
           "an epoch; 0: never)", least=0, shapes_weights=False),
    Option("on_nonfinite", str, "raise", "a step whose loss or gradient is not finite ends the run, or is left out (at "
           "most 20 in a row)", among=("raise", "skip")),
    Option("patience", int, None, "stop after so many evaluations without a better validation loss", least=1),
    Option("eval_every", int, None, "steps between evaluations (default: an epoch; 0: only at the end)", least=0),
    Option("log_every", int, 10, "steps between lines of metrics.jsonl (0: only evaluations)", least=0,
           shapes_weights=False),
    Option("checkpoint_every", int, None, "steps between checkpoints (default, and 0: only at the end)", least=0,
           shapes_weights=False),
    Option("trace", str, None, "write a timeline of all ranks to this file, for chrome://tracing or Perfetto, and say "
           "in a few lines where the time goes", shapes_weights=False),
    Option("trace_steps", span, None, "steps of the timeline, counted from 0: FIRST:STOP (default: 20, once the run is "
           "warm)", shapes_weights=False),
    Option("out", str, None, "new directory for metrics, summary and checkpoints", shapes_weights=False),
    Option("resume", bool, False, "go on from the newest whole checkpoint in --out", shapes_weights=False),
)  # fmt: skip


PLACES = "data", "data_dir", "model", "init_from"  # options in which a run may read a file or a folder
PATHS = *PLACES, "out", "trace", "config", "checkpoint", "directory"  # of all commands
IN_A_VALUE = {  # what is before a path in the value of an option, the path, and what is after it
    "data": re.compile(r"(csv:|npz:|text:|)(.+?)(\?[a-z]+=.*)?"), "model": re.compile(r"()(.*\.py)(:.*)?"),
}  # fmt: skip


def place(name: str, value) -> tuple[str, str, str] | None:
    """What is before the path in an option's value, the path, and what is after it; None if there is none in it."""
    if name not in PATHS or not isinstance(value, str):
        return None
    if name not in IN_A_VALUE:
        return "", value, ""
    found = IN_A_VALUE[name].fullmatch(value)
    if found is None or (name == "data" and not found[1] and found[2][-4:].lower() not in (".csv", ".npz")):
        return None
    return found[1], found[2], found[3] or ""


def expanded(name: str, value):
    """The value of an option with the user's home for a ~ at the start of its path."""
    if (found := place(name, value)) is None:
        return value
    before, path, after = found
    return f"{before}{os.path.expanduser(path)}{after}"


def from_toml(path: str) -> dict:
    """{option: value} of a TOML file, which is UTF-8 wherever it is read. ConfigurationError if it cannot be read."""
    import tomllib

    try:
        found = tomllib.loads(Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"--config {path} cannot be read: {error}") from None
    values = {key.replace("-", "_"): _as_given(value) for key, value in found.items()}
    return {name: expanded(name, value) for name, value in values.items()}


def _as_given(value):
    """A text as the command line gives it: in a locale without its characters, they are bytes of UTF-8."""
    return os.fsdecode(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else value


def declare(parser, option: Option, default: str | None = None, flags: tuple[str, ...] = (), hidden=False, **how):
    """Declare an option with argparse, as text and without a default: so those given can be told from those left out.

    default: how the help shows it; flags: more of its names; hidden: not in the help.
    """
    text = option.help + (f" [{default}]" if default else "")
    if option.kind is bool:
        how["action"] = "store_true"
    else:
        how["metavar"] = "|".join(option.among) if option.among else option.kind.__name__.upper()
        if option.alone is not None:
            how |= {"nargs": "?", "const": option.alone}
    text = argparse.SUPPRESS if hidden else text
    parser.add_argument(option.flag, *flags, dest=option.name, default=argparse.SUPPRESS, help=text, **how)


def add_options(parser: argparse.ArgumentParser):
    """Declare every option of `allgrad train`."""
    for option in OPTIONS:
        declare(parser, option, None if option.default in (None, False) else str(option.default))
    parser.add_argument("--config", metavar="FILE.toml", help="options from a file; flags win over it")


def given(arguments: dict) -> dict:
    """The options that the user gave, checked: those of --config, and over them those of the command line."""
    values = {}
    if path := arguments.pop("config", None):
        values = from_toml(path)
        known = {option.name for option in OPTIONS}
        if unknown := sorted(values.keys() - known):
            raise ConfigurationError(f"--config {path} has unknown keys: {', '.join(unknown)}")
    if arguments.keys() & {"steps", "epochs"}:  # either says how long to train
        values = {key: value for key, value in values.items() if key not in ("steps", "epochs")}
    values |= {name: expanded(name, value) for name, value in arguments.items()}
    return {option.name: checked(option, values[option.name]) for option in OPTIONS if option.name in values}


def checked(option: Option, value):
    """The value in the option's type, or a ConfigurationError that says what it must be."""
    if value is None:
        return None
    if option.alone is not None and isinstance(value, bool):
        value = option.alone if value else "off"
    try:
        if isinstance(value, bool) != (option.kind is bool) or (option.kind is int and isinstance(value, float)):
            raise ValueError
        result = option.kind(value)
    except (TypeError, ValueError) as error:
        noun = str(error) if isinstance(error, Expected) else _noun(option)
        raise ConfigurationError(f"{option.flag} takes {noun}, got {value!r}") from None
    if option.among and result not in option.among:
        raise ConfigurationError(f"{option.flag} {value} is not one of {', '.join(option.among)}")
    if option.kind is float and not abs(result) < float("inf"):
        raise ConfigurationError(f"{option.flag} takes a finite number, got {value}")
    if option.least is not None and not result >= option.least:
        raise ConfigurationError(f"{option.flag} is at least {option.least}, got {value}")
    return result


def _noun(option):
    nouns = {
        int: "a whole number", float: "a number", bool: "true or false",
        length: "a number of steps, or of epochs as 5ep, or of samples as 20000samples",
        size: "a number of bytes, or 500KB, or 4MB",
        span: "steps FIRST:STOP, such as 20:40",
    }  # fmt: skip
    return nouns.get(option.kind, "a text")


def defaults() -> dict:
    """Every option at its default."""
    return {option.name: option.default for option in OPTIONS}


def completed(config: dict) -> dict:
    """The configuration, with the momentum that the optimizer's constructor has where none is given."""
    usual = {name: takers(name).get(config["optimizer"], takers(name)["sgd"]) for name in ("momentum", "nesterov")}
    return {**config, **{name: value for name, value in usual.items() if config[name] is None}}


def resumed(saved: dict, asked: dict) -> dict:
    """The saved configuration, with what the user may change on the way; the rest must agree with the checkpoint.

    The end of the run may move, unless the learning rate was planned over its length; and so may the files of its data
    and its model, whose content has to be that of before.
    """
    saved = relocated({**defaults(), **saved})  # a run begun before an option existed had its default
    saved |= {option.name: checked(option, saved[option.name]) for option in OPTIONS if option.alone is not None}
    free = {option.name for option in OPTIONS if not option.shapes_weights}
    if re.split(r"\W", saved["schedule"])[0] not in {re.split(r"\W", kind)[0] for kind in PLANNED}:
        free |= {"steps", "epochs"}
    for name in ("data", "model"):
        if name in asked and same_kind(name, asked[name], saved[name]):
            free |= {name}
        elif name not in asked and (found := place(name, saved[name])) and not os.path.exists(found[1]):
            raise ConfigurationError(
                f"--{name} {saved[name]} of the run is not there any more: give --{name} with the place where it is now"
            )
    for option in OPTIONS:
        name = option.name
        if name in asked and name not in free and asked[name] != saved[name]:
            raise ConfigurationError(
                f"{option.flag} {asked[name]} contradicts the checkpoint, which was trained "
                f"{'without it' if saved[name] is None else f'with {saved[name]}'}: "
                f"leave it out to go on, or start anew with another --out"
            )
    if "epochs" in asked and "steps" not in asked:
        saved = {**saved, "steps": None}
    return {**saved, "trace": None, "trace_steps": None, **asked}  # a trace is of one start


def relocated(saved: dict) -> dict:
    """A saved configuration whose relative paths, if nothing is there from here, begin where the run was begun."""
    there = _as_given(saved.get("directory") or "")
    found = {**saved, **{name: _as_given(saved[name]) for name in PLACES if name in saved}}
    for name in PLACES if there else ():
        if whole := place(name, found.get(name)):
            before, path, after = whole
            if not os.path.exists(path) and os.path.exists(elsewhere := os.path.join(there, path)):
                found[name] = f"{before}{elsewhere}{after}"
    return found


def same_kind(name: str, value: str, other: str) -> bool:
    """Whether two values of an option may be the same file at two places: all that they say beside it is the same."""
    kinds = []
    for before, path, after in filter(None, (place(name, value), place(name, other))):
        kinds.append((before or f"{path[-3:].lower()}:", after))
    return len(kinds) == 2 and kinds[0] == kinds[1]
