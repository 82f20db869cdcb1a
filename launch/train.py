"""`allgrad train`: one run, on as many ranks as the launcher started."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import autograd as ag
import ddp
from autograd import schedule
from ddp import checkpoint
from ddp.errors import ConfigurationError
from ddp.lr_rules import scaled_lr
from launch import data as datasets
from launch import models, transfer
from launch.options import OPTIMIZERS, SCHEDULES, defaults, resumed


def train(asked: dict) -> dict:
    """Train with the options asked for (see `launch.options`) and return the summary, on every rank."""
    comm = ddp.init(asked.get("backend", "auto"), asked.get("threads", 1))
    config, saved = comm.broadcast_object(comm.agree(lambda: _configuration(asked, comm) if comm.rank == 0 else None))
    data = comm.agree(lambda: _data(config))
    if len({*comm.all_gather_object(data.sha256)}) > 1:
        raise ConfigurationError(f"--data {config['data']} differs between ranks: copy one version to every host")
    model = comm.agree(
        lambda: models.build(config["model"], data, config["seed"], config["init"], config["dropout"], config["dtype"])
    )
    remarks = [models.remark(model)]
    if config["init_from"] and saved is None:
        source = comm.agree(lambda: transfer.read(Path(config["init_from"])) if comm.rank == 0 else None)
        tensors, digest = comm.broadcast_object(source)
        if config.setdefault("init_from_sha256", digest) != digest:
            raise ConfigurationError(f"--init-from {config['init_from']} has changed since the run began")
        remarks.append(comm.agree(lambda: transfer.load_into(model, tensors, config["init_from"])))
    if config["freeze"]:
        remarks.append(comm.agree(lambda: transfer.freeze(model, config["freeze"])))
    shards, batch = config["shards"], config["global_batch"]
    loader = ddp.DataLoader(
        (data.train_x, data.train_y), batch, comm, shards, config["seed"], config["shuffle"], config["boundary"]
    )
    steps = config["steps"] or loader.sampler.steps_in(config["epochs"])
    comm.agree(lambda: _consistent(asked, config, data, steps))
    rate, sentence = scaled_lr(config["lr_rule"], config["lr"], config["base_batch"] or batch, batch)
    noise = ddp.NoiseScale() if shards > 1 else None
    parallel = ddp.DistributedDataParallel(model, comm, shards, config["reduce"], noise)
    optimizer = comm.agree(lambda: _optimizer(config, parallel, _schedule(config, rate, steps)))
    loss, metrics = _objective(model, data)
    out = Path(config["out"]) if config["out"] else None
    trainer = ddp.Trainer(
        parallel, optimizer, loader, loss, metrics,
        validation=ddp.ArrayDataset(data.val_x, data.val_y), steps=steps, out=out, clip=config["clip"],
        log_every=config["log_every"], eval_every=config["eval_every"], checkpoint_every=config["checkpoint_every"],
        patience=config["patience"], config=config, resumes=bool(config["resume"]),
    )  # fmt: skip
    if saved is not None:
        trainer.restore(saved)
    if finished := comm.broadcast_object(_finished(trainer, steps) if comm.rank == 0 else None):
        return finished
    comm.agree(lambda: _begin(out, config) if comm.rank == 0 and out is not None else None)
    if comm.rank == 0:
        ranks = f"{comm.size} rank{'s' if comm.size > 1 else ''} ({comm.launcher}, {comm.backend})"
        parameters = sum(p.size for p in model.parameters())
        print(
            f"{config['data']}: {len(data.train_x):,} samples; {config['model']}: {parameters:,} parameters; "
            f"batch {batch} in {shards} logical shard{'s' if shards > 1 else ''} on {ranks}; "
            f"steps {trainer.step} to {steps}",
            flush=True,
        )
        remarks.append(f"learning {sentence}" if config["lr_rule"] != "none" else None)
        print(*(f"{remark}\n" for remark in remarks if remark), sep="", end="", flush=True)
    return trainer.fit()


def _finished(trainer, steps):
    """The summary of a run that has nothing left to do."""
    if trainer.out is None or trainer.step < steps or not (trainer.out / "summary.json").is_file():
        return None
    print(f"{trainer.out} is finished: it has all {steps} steps", flush=True)
    return json.loads((trainer.out / "summary.json").read_text(encoding="utf-8"))


def _consistent(asked, config, data, steps):
    """Refuse options that could not do what they say: a study must not report what was never done."""
    batch, samples = config["global_batch"], len(data.train_x)
    if batch > samples and config["boundary"] == "short":
        raise ConfigurationError(
            f"--global-batch {batch} is larger than the {samples} samples of {config['data']}: "
            f"give at most {samples}, or --boundary carry to fill a batch from several epochs"
        )
    if config["warmup"] > steps:
        raise ConfigurationError(f"--warmup {config['warmup']} is longer than the run of {steps} steps")
    family = models.family_of(config["model"])
    for name in sorted({"dropout", "init"} & asked.keys() - set(family.options if family else ())):
        takers = ", ".join(kind for kind, other in models.FAMILIES.items() if name in other.options)
        raise ConfigurationError(f"--{name} has no effect on {config['model']}: it is for {takers}")
    if "base_batch" in asked and config["lr_rule"] == "none":
        raise ConfigurationError("--base-batch has no effect without --lr-rule sqrt or --lr-rule linear")
    if "checkpoint_every" in asked and not config["out"]:
        raise ConfigurationError("--checkpoint-every needs an --out to write to")
    sources = {"data_sha256": data.sha256, "model_sha256": models.hash_of_file(config["model"])}
    for name, now in sources.items():
        if config.get(name, now) != now:
            what = name.split("_")[0]
            raise ConfigurationError(
                f"--{what} {config[what]} has changed since the run began: start anew with another --out"
            )
    config.update(sources, data_shape=data.form())


def _begin(out, config):
    """Note in the run's directory what it is."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error}): give another directory") from None


def _configuration(asked, comm):
    """(configuration, checkpoint or None), on rank 0: defaults, what --resume finds, and what the user gave."""
    out = Path(asked["out"]) if asked.get("out") else None
    if "steps" in asked and "epochs" in asked:
        raise ConfigurationError("--steps and --epochs both say how long to train: give one of them")
    if asked.get("resume"):
        if out is None or not (out / "config.json").is_file():
            raise ConfigurationError(f"--resume: there is no run to go on with in --out {out}")
        saved = checkpoint.load_latest(out / "checkpoints")
        if saved is None:
            print(f"--resume: no whole checkpoint in {out}, starting from step 0", flush=True)
        before = saved[2]["config"] if saved else json.loads((out / "config.json").read_text(encoding="utf-8"))
        return resumed(before, asked), saved
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"--out {out} exists: give a new directory, or --resume to go on with the run in it")
    config = {**defaults(), **asked}
    config["shards"] = config["shards"] or comm.size
    return config, None


def _data(config):
    data = datasets.load(config["data"], config["data_dir"], config["seed"])
    cast = lambda a: a.astype(config["dtype"]) if a.dtype.kind == "f" else a  # noqa: E731
    names = "train_x", "train_y", "val_x", "val_y"
    return replace(data, **{name: cast(getattr(data, name)) for name in names})


def _objective(model, data):
    """The training loss of a shard, and the metrics of each sample; those of a text are means over its positions."""
    if data.classes is None or isinstance(model, models.Autoencoder):
        target = (lambda x, y: x) if isinstance(model, models.Autoencoder) else (lambda x, y: y)
        squared = lambda x, y, how: ag.mse_loss(model(x), target(x, y), how)  # noqa: E731
        each = lambda x, y: squared(x, y, "none").reshape(len(x), -1).mean(1)  # noqa: E731
        return lambda x, y: squared(x, y, "mean"), lambda x, y: {"loss": each(x, y)}

    def logits(x):
        return model(x).reshape(-1, data.outputs)  # of text, a row for each position

    def metrics(x, y):
        z = logits(x)
        values = {"loss": ag.cross_entropy(z, y.reshape(-1), "none"), "accuracy": z.argmax(1) == y.reshape(-1)}
        return {name: np.asarray(v).reshape(len(x), -1).mean(1) for name, v in values.items()}

    return lambda x, y: ag.cross_entropy(logits(x), y.reshape(-1)), metrics


def _schedule(config, lr, steps):
    kind, _, text = config["schedule"].partition(":")
    shapes = {
        "constant": lambda: schedule.constant(lr),
        "linear": lambda: schedule.linear(lr, steps),
        "cosine": lambda: schedule.cosine(lr, steps),
        "step": lambda every, gamma: schedule.step(lr, int(every), gamma),
        "exponential": lambda gamma: schedule.exponential(lr, gamma),
        "inverse": lambda half: schedule.inverse(lr, half),
    }
    try:
        rate = shapes[kind](*[float(v) for v in text.split(",") if text])
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"--schedule {config['schedule']} is not one of {', '.join(SCHEDULES)}") from None
    return schedule.warmup(rate, config["warmup"]) if config["warmup"] else rate


def _optimizer(config, parallel, rate):
    options = {"weight_decay": config["weight_decay"]}
    if config["optimizer"] == "sgd":
        options |= {"momentum": config["momentum"], "nesterov": config["nesterov"]}
    elif config["momentum"] or config["nesterov"]:
        raise ConfigurationError(f"--momentum and --nesterov belong to sgd, not to {config['optimizer']}")
    try:
        return OPTIMIZERS[config["optimizer"]](parallel, rate, **options)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
