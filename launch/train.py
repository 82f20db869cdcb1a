"""`allgrad train`: one run, on as many ranks as the launcher started."""

import json
import math
import os
import shlex
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from allgrad import autograd as ag, ddp
from allgrad.autograd import optim
from allgrad.autograd.arrays import to_numpy
from allgrad.autograd.engine import unwrap
from allgrad.ddp.comm import detect, refuse_to_share, torchrun
from allgrad.ddp.compatibility import check
from allgrad.ddp.data import HALVES, augmentation, stored
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.process import pin_threads
from allgrad.ddp.scaling import lr_rules
from allgrad.ddp.trainer import LOCK, checkpoint, interrupting, locked
from allgrad.launch import data as datasets, models, transfer
from allgrad.launch.options import OPTIMIZERS, OPTIONS, completed, defaults, resumed, takers
from allgrad.launch.plan import measures_noise, plan

STARTED_BY = "started_by"  # of config.json: [which torchrun, the options given]


def train(asked: dict) -> dict:
    """Train with the options asked for (see `allgrad.launch.options`) and return the summary, on every rank.

    A signal ends it: before the first step at once, by `Interrupted`; then after a step, by `Stopped`.
    """
    with interrupting(), ExitStack() as locks:
        try:
            return _train(asked, locks)
        except KeyboardInterrupt as error:
            if asked.get("out") and (found := checkpoint.steps_in(Path(asked["out"]) / "checkpoints")):
                error.add_note(f"--resume --out {shlex.quote(asked['out'])} goes on from {found[-1].name}, if whole")
            raise


def _train(asked, locks):
    for name in ("out", "trace") if asked.get("backend") == "solo" else ():
        if asked.get(name):
            refuse_to_share(name, asked[name])
    comm = ddp.init(_backend(asked), timeout=asked.get("timeout", 300.0))
    _same_options(comm.all_gather_object(asked))
    config, saved = comm.broadcast_object(
        comm.agree_or_raise(lambda: _configuration(asked, comm, locks) if comm.rank == 0 else None)
    )
    config = completed(config)
    if saved is not None:
        checkpoint.read_by_rank_0(comm, saved)
    pin_threads(config["threads"])
    data = comm.agree_or_raise(lambda: data_of(config))
    if len({*comm.all_gather_object(data.sha256)}) > 1:
        raise ConfigurationError(f"--data {config['data']} differs between ranks: copy one version to every host")
    placement = comm.agree_or_raise(lambda: _placement(asked, config, comm))
    model = comm.agree_or_raise(
        lambda: models.build(
            config["model"], data, config["seed"], config["init"], config["dropout"], stored(config["dtype"])
        )
    )
    if config["checkpoint_activations"]:
        model.checkpoints = True
    remarks = [*data.remarks, data.size_remark, models.remark(model)]
    if config["init_from"] and saved is None:
        source = comm.agree_or_raise(lambda: transfer.read(Path(config["init_from"])) if comm.rank == 0 else None)
        tensors, digest = comm.broadcast_object(source)
        if config.setdefault("init_from_sha256", digest) != digest:
            raise ConfigurationError(f"--init-from {config['init_from']} has changed since the run began")
        remarks.append(comm.agree_or_raise(lambda: transfer.load_into(model, tensors, config["init_from"])))
    if config["freeze"]:
        remarks.append(comm.agree_or_raise(lambda: transfer.freeze(model, config["freeze"])))
    model.to(device=placement.device)
    shards, batch = config["shards"], config["global_batch"]
    loader = ddp.DataLoader(
        (data.train_x, data.train_y), batch, comm, shards, config["seed"], config["shuffle"], config["boundary"],
        placement, comm.agree_or_raise(lambda: _augmentation(config, data)),
    )  # fmt: skip
    comm.agree_or_raise(lambda: _consistent(asked, config, data, model))
    over = comm.agree_or_raise(lambda: plan(config, loader.sampler))
    config["warmup"] = over.warmup if config["warmup"] is None else config["warmup"]
    steps = over.steps
    noise = ddp.NoiseScale(layers=config["noise_layers"]) if measures_noise(config) else None
    scale = ddp.LossScale() if config["dtype"] == "float16" else None
    parallel = ddp.DistributedDataParallel(
        model, comm, shards,
        exchange=ddp.Exchange(*(config[key] for key in ("reduce", "wire", "compress", "overlap", "bucket_size"))),
        local_sgd=ddp.LocalSGD(config["sync_every"], config["sync_after"]) if config["sync_every"] else None,
        noise=noise, scale=scale, batch_norm=config["batch_norm"], capture=config["capture"],
        timeline=_timeline(config),
    )  # fmt: skip
    if config["capture"] == "auto" and models.family_of(config["model"]) is None:
        parallel.shard_gradients.leave_out_capture("a class of the user's own may do more than compute")
    if config["dtype"] in HALVES:
        model.compute_in(config["dtype"])
    optimizer = comm.agree_or_raise(lambda: make_optimizer(config, parallel, over.rate, over.options))
    if config["zero"]:
        optimizer = comm.agree_or_raise(ddp.Zero, optimizer, comm)
    ema = comm.agree_or_raise(lambda: _ema(config, parallel))
    loss, metrics = objective(model, data)
    out = Path(config["out"]) if config["out"] else None
    trainer = ddp.Trainer(
        parallel, optimizer, loader, loss, metrics,
        validation=ddp.ArrayDataset(data.val_x, data.val_y), steps=config["steps"] if over.batches else steps,
        epochs=config["epochs"], batches=over.batches, out=out, clip=config["clip"],
        clip_value=config["clip_value"], log_every=config["log_every"], eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"], patience=config["patience"], config=config,
        resumes=bool(config["resume"]), check_every=config["check_every"], on_nonfinite=config["on_nonfinite"],
        signals=ddp.StopOnSignal(out and f"--resume --out {shlex.quote(str(out))} goes on from it"), ema=ema,
    )  # fmt: skip
    if saved is not None:
        trainer.restore(saved)
    if finished := comm.broadcast_object(_finished(trainer) if comm.rank == 0 else None):
        return finished
    comm.agree_or_raise(lambda: _begin(out, config, asked, locks) if comm.rank == 0 and out is not None else None)
    if comm.rank == 0:
        where = "" if placement.arrays == "numpy" else f", torch on {config['device']} in {config['dtype']}"
        ranks = f"{counted(comm.size, 'rank')} ({comm.launcher}, {comm.backend}{where})"
        threads = f"{counted(config['threads'], 'BLAS thread')}{' each' * (comm.size > 1)}"
        parameters = sum(p.size for p in model.parameters())
        print(
            f"{config['data']}: {counted(len(data.train_x), 'sample')}; "
            f"{config['model']}: {counted(parameters, 'parameter')}; "
            f"batch {batch} in {counted(shards, 'logical shard')} on {ranks}, {threads}; "
            f"steps {trainer.step} to {trainer.total_steps}",
            flush=True,
        )
        print(*(f"{remark}\n" for remark in [*remarks, *over.remarks] if remark), sep="", end="", flush=True)
    summary = trainer.fit()
    if comm.rank == 0 and config["lr_rule"] != "none" and config["noise_scale"] is None:
        remark = lr_rules.warning(batch, summary["noise_scale"], "measured at the end")
        print(f"{remark}\n" if remark else "", end="", flush=True)
    if comm.rank == 0 and config["trace"]:
        untold = {"verdict": ["--trace: none of the steps to be traced was taken"]}
        print(*summary.get("timeline", untold)["verdict"], sep="\n", flush=True)
    return summary


def _same_options(everyones):
    """Refuse options that differ between ranks: those of rank 0 would hold for all."""
    for rank, theirs in enumerate(everyones):
        for option in OPTIONS:
            told = [
                f"{option.flag} {given[option.name]}" if option.name in given else f"no {option.flag}"
                for given in (theirs, everyones[0])
            ]
            if told[0] != told[1]:
                raise ConfigurationError(
                    f"rank {rank} was given {told[0]}, and rank 0 {told[1]}: start all ranks with the same options"
                )


def _backend(asked):
    """How ranks talk: from GPU to GPU, if torchrun started them and nothing else was asked for.

    A run to go on with may be one on GPUs; it is read when ranks can talk, and this backend takes both.
    """
    backend, device = asked.get("backend", "auto"), asked.get("device", "cuda" if asked.get("resume") else "cpu")
    if backend == "auto" and device.startswith("cuda") and detect().launcher == "torchrun":
        from torch import cuda

        return "nccl" if cuda.is_available() else "gloo"
    return backend


def _placement(asked, config, comm):
    if config["arrays"] == "numpy" and (given := {"device", "nondeterministic"} & asked.keys()):
        raise ConfigurationError(f"--{min(given)} has no effect on NumPy's arrays: add --arrays torch")
    device = config["device"] if config["arrays"] == "torch" else "numpy"
    return ddp.Placement(device, config["dtype"], comm.local_rank, config["threads"], not config["nondeterministic"])


def _augmentation(config, data):
    if config["augment"] is None:
        return None
    if data.image is None:
        raise ConfigurationError(
            f"--augment {config['augment']} is for images, and a sample of {data.name} is none: leave it out"
        )
    return augmentation(config["augment"], data.image)


def _ema(config, parallel):
    if config["ema"] is None:
        return None
    if not config["ema"] < 1.0:
        raise ConfigurationError(f"--ema {config['ema']:g} is not below 1: give the decay of the average, as 0.999")
    return optim.EMA(parallel, config["ema"])


def _timeline(config):
    if config["trace_steps"] is None:
        return ddp.Timeline(config["trace"])
    first, stop = config["trace_steps"].split(":")
    return ddp.Timeline(config["trace"], (int(first), int(stop)))


def _finished(trainer):
    """The summary of a run that has nothing left to do."""
    if trainer.out is None or not trainer.finished or not (trainer.out / "summary.json").is_file():
        return None
    print(f"{trainer.out} is finished: it has all {trainer.step} steps", flush=True)
    return json.loads((trainer.out / "summary.json").read_text(encoding="utf-8"))


def _consistent(asked, config, data, model):
    """Refuse options that could not do what they say: a study must not report what was never done."""
    batch, samples = config["global_batch"], len(data.train_x)
    if batch > samples and config["boundary"] == "short":
        raise ConfigurationError(
            f"--global-batch {batch} is larger than the {counted(samples, 'sample')} of {config['data']}: "
            f"give at most {samples}, or --boundary carry to fill a batch from several epochs"
        )
    family = models.family_of(config["model"])
    if config["batch_norm"] == "sync" and family is not None and not any(m.running_statistics for m in model.modules()):
        raise ConfigurationError(f"--batch-norm sync has no effect on {config['model']}: it has no batch normalisation")
    given = {"dropout", "init"} & asked.keys() | {"checkpoint_activations"} & {name for name in config if config[name]}
    for name in sorted(given - set(family.options if family else ())):
        takers = ", ".join(kind for kind, other in models.FAMILIES.items() if name in other.options)
        flag = "--" + name.replace("_", "-")
        raise ConfigurationError(f"{flag} has no effect on {config['model']}: it is for {takers}")
    check(**config, bucket_bytes=asked.get("bucket_size"))
    if config["trace"] and config["out"] and Path(config["trace"]).resolve() == Path(config["out"]).resolve():
        raise ConfigurationError(f"--trace {config['trace']} is the directory of --out: give a file in it")
    if (before := config.get("data_shape")) and data.table and before["table"]:
        from allgrad.launch.data import tables

        tables.refuse_other_columns(f"--data {config['data']}", data.table["columns"], before["table"]["columns"])
    sources = {"data_sha256": data.sha256, "model_sha256": models.hash_of_file(config["model"])}
    for name, now in sources.items():
        if config.get(name, now) != now:
            what = name.split("_")[0]
            raise ConfigurationError(
                f"--{what} {config[what]} has changed since the run began (its SHA-256 was {config[name]}, and is "
                f"{now}): give it back, or start anew with another --out"
            )
    config.update(sources, data_shape=data.form(), directory=os.getcwd())  # where its relative paths begin


def _begin(out, config, asked, locks):
    """Note in the run's directory what it is."""
    if not config["resume"]:
        locks.enter_context(locked(out))
        _refuse_what_is_there(out)  # another process may have been faster
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(
            json.dumps({**config, STARTED_BY: [torchrun(), asked]}, indent=1) + "\n", "utf-8"
        )
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error}): give another directory") from None


def _began_here(out, asked):
    """Whether it was this very torchrun, with the same command, that began or resumed the run in `out`."""
    try:
        return json.loads((out / "config.json").read_text(encoding="utf-8")).get(STARTED_BY) == [torchrun(), asked]
    except (OSError, ValueError):
        return False


def _refuse_what_is_there(out):
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {LOCK}):
        raise ConfigurationError(f"--out {out} exists: give a new directory, or --resume to go on with the run in it")


def _configuration(asked, comm, locks):
    """(configuration, checkpoint or None), on rank 0: defaults, what --resume finds, and what the user gave."""
    out = Path(asked["out"]) if asked.get("out") else None
    for name in ("out", "init_from", "freeze", "trace"):
        if asked.get(name) == "":
            raise ConfigurationError(f"--{name.replace('_', '-')} is empty: was a variable of the shell not set?")
    if "steps" in asked and "epochs" in asked:
        raise ConfigurationError("--steps and --epochs both say how long to train: give one of them")
    if not asked.get("resume") and out is not None and torchrun() and _began_here(out, asked):
        print(f"restarted by torchrun: going on with the run in {out}", flush=True)
        asked = {**asked, "resume": True}
    if asked.get("resume"):
        if out is not None and out.is_dir():
            locks.enter_context(locked(out))
        saved = checkpoint.load_latest(out / "checkpoints", lazily=True) if out else None
        if saved is not None:
            return resumed(saved[2]["config"], asked), saved
        if out is None or not (out / "config.json").is_file():
            where = f"in --out {out}" if out else "without --out: give its directory"
            raise ConfigurationError(f"--resume: there is no run to go on with {where}")
        print(f"--resume: no whole checkpoint in {out}, starting from step 0", flush=True)
        try:
            before = json.loads((out / "config.json").read_text(encoding="utf-8"))
            before.pop(STARTED_BY, None)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"--resume: {out / 'config.json'} cannot be read ({error}): start anew with another --out"
            ) from None
        return resumed(before, asked), None
    if out is not None:
        _refuse_what_is_there(out)
    config = {**defaults(), **asked}
    if "accumulate" in asked and "shards" in asked:
        raise ConfigurationError("--accumulate and --shards both say how many logical shards: give one of them")
    config["shards"] = config["shards"] or comm.size * (config["accumulate"] or 1)
    return config, None


def data_of(config):
    """The data set of a configuration, in the type that it computes in."""
    data = datasets.load(config["data"], config["data_dir"], config["seed"], config.get("data_shape"))
    return data.astype(stored(config["dtype"]))


class Regression:
    """The metrics of a regression: its loss, and mse, mae and R2 over the samples, in the unit of the label.

    loss is the mean squared error of the targets as the model learns them. R2 = 1 - mse / variance of the targets among
    the samples themselves; it, mse and mae are means over the targets. There is no R2 where a target does not vary.
    """

    def __init__(self, model, data):
        self.model, (_, self.std) = model, data.target_scale
        self.center = data.train_y.mean(axis=0, dtype=np.float64)  # so that variances lose no digits

    def __call__(self, x, y):
        found = self.model(x)
        loss = ag.mse_loss(found, y, "none").reshape(len(x), -1).mean(1)
        found, y = (to_numpy(unwrap(v)).astype(np.float64) for v in (found, y))
        errors, deviations = (found - y) * self.std, (y - self.center) * self.std
        squares = {f"squared_error_{k}": column for k, column in enumerate((errors * errors).T)}
        targets = {f"deviation_{k}": column for k, column in enumerate(deviations.T)}
        varying = {f"squared_deviation_{k}": column * column for k, column in enumerate(deviations.T)}
        return {"loss": loss, "mae": np.abs(errors).mean(1), **squares, **targets, **varying}

    def finish(self, means):
        """What `evaluate` reports, from the means of what a call returns."""
        error, mean, square = (
            np.array([means[f"{name}_{k}"] for k in range(len(self.std))])
            for name in ("squared_error", "deviation", "squared_deviation")
        )
        variance = square - mean * mean
        varies = (variance > 1e-12 * square).all()  # beyond what rounding leaves of none
        r2 = {"r2": float(np.mean(1.0 - error / variance))} if varies else {}
        return {"loss": means["loss"], "mse": float(error.mean()), "mae": means["mae"], **r2}


def objective(model, data):
    """The training loss of a shard, and the metrics of each sample; those of a text are means over its positions."""
    if isinstance(model, models.Autoencoder):
        squared = lambda x, how: ag.mse_loss(model(x), x, how)
        return lambda x, y: squared(x, "mean"), lambda x, y: {"loss": squared(x, "none").reshape(len(x), -1).mean(1)}
    if data.classes is None:
        return lambda x, y: ag.mse_loss(model(x), y), Regression(model, data)

    def logits(x):
        return model(x).reshape(-1, data.outputs)  # of text, a row for each position

    def metrics(x, y):
        z = logits(x)
        values = {"loss": ag.cross_entropy(z, y.reshape(-1), "none"), "accuracy": z.argmax(1) == y.reshape(-1)}
        return {name: to_numpy(unwrap(v)).reshape(len(x), -1).mean(1) for name, v in values.items()}

    of_batch = lambda x, y: ag.cross_entropy(logits(x), y.reshape(-1))
    return of_batch, metrics if data.vocabulary is None else Text(metrics)


class Text:
    """The metrics of a text, means over its characters, with the perplexity of one: exp(loss)."""

    def __init__(self, metrics):
        self.metrics = metrics

    def __call__(self, x, y):
        return self.metrics(x, y)

    def finish(self, means):
        """What `evaluate` reports, from the means of what a call returns."""
        loss = means["loss"]
        return {**means, "perplexity": math.exp(loss) if loss < 700.0 else math.inf if loss == loss else loss}


def make_optimizer(config, parallel, rate, more=None):
    """The optimizer of a configuration; `more` are options that the plan of the run or a study sets."""
    kind = config["optimizer"]
    options = {**(more or {}), "weight_decay": config["weight_decay"], "l1": config["l1"]}
    for name in ("momentum", "nesterov"):
        kinds = takers(name)
        if kind in kinds:
            options[name] = config[name]
        elif config[name]:
            raise ConfigurationError(f"--{name} belongs to {', '.join(kinds)}, not to {kind}")
    if config["no_decay"]:
        layerwise = kind in ("lars", "lamb")
        options["groups"] = optim.no_decay(parallel, **({"adapt": False} if layerwise else {}))
        if not (layerwise or config["weight_decay"] or config["l1"]):
            raise ConfigurationError(f"--no-decay has no effect on {kind} without --weight-decay or --l1")
        if not options["groups"]:
            raise ConfigurationError(f"--no-decay has no effect: {config['model']} has no parameter of one axis")
    try:
        return OPTIMIZERS[kind](parallel, rate, **options)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
