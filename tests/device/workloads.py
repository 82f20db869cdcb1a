"""Training steps of whole models, small enough to be tested with values and large enough to be sized without."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import allgrad as ag
from allgrad import ddp, optim
from allgrad.launch import models


def sgd(owner):
    return optim.SGD(owner, 0.05, momentum=0.9)


def adam(owner):
    return optim.AdamW(owner, 2.0**-10, weight_decay=0.01, groups=optim.no_decay(owner))


def lamb(owner):
    return optim.LAMB(owner, 1e-3, weight_decay=0.01)


class Workload(NamedTuple):
    """A model by name, of samples of this shape; of tokens if they have one axis, and then of so many `classes`.

    batch, shards   samples a step, and logical shards; with more than one a noise scale is kept
    options         of `Trainer`
    """

    model: str
    sample: tuple
    optimizer: Callable[..., Any] = sgd
    shards: int = 1
    dtype: str = "float32"
    classes: int = 10
    batch: int = 16
    dropout: float = 0.0
    options: dict = {}  # noqa: RUF012

    @property
    def is_text(self):
        return self.model.partition(":")[0] in ("lstm", "transformer")


WORKLOADS = {
    "mlp sgd": Workload("mlp:128", (784,)),
    "mlp adam": Workload("mlp:64,64", (784,), adam),
    "mlp lamb": Workload("mlp:128", (784,), lamb),
    "mlp dropout": Workload("mlp:64,64", (784,), dropout=0.5),
    "mlp 4 shards": Workload("mlp:128", (784,), shards=4),
    "mlp clipped": Workload("mlp:128", (784,), options={"clip": 0.1}),
    "lenet5": Workload("lenet5", (1, 28, 28)),
    "cnn 2 shards": Workload("cnn:8,16", (3, 16, 16), shards=2),
    "resnet": Workload("resnet:8", (3, 16, 16)),
    "resnet bfloat16": Workload("resnet:8", (3, 16, 16), dtype="bfloat16"),
    "resnet lamb": Workload("resnet:8", (3, 16, 16), lamb),
    "lstm": Workload("lstm:16,1", (16,), adam, classes=32),
    "transformer": Workload("transformer:32,4,2", (16,), adam, classes=32),
    "transformer bfloat16": Workload("transformer:32,4,2", (16,), adam, 4, "bfloat16", classes=32, dropout=0.1),
}


def arrays(workload, samples, seed=0):
    """So many samples, and their labels."""
    rng = np.random.default_rng(seed)
    if workload.is_text:
        tokens = rng.integers(0, workload.classes, (samples, workload.sample[0] + 1))
        return tokens[:, :-1].copy(), tokens[:, 1:].copy()
    return rng.standard_normal((samples, *workload.sample), np.float32), rng.integers(0, workload.classes, samples)


def model_of(workload):
    shape, classes = workload.sample, workload.classes
    form = SimpleNamespace(
        features=shape, inputs=int(np.prod(shape)), outputs=classes, classes=classes, table=None, name="random numbers",
        image=shape if len(shape) == 3 else None, train_x=arrays(workload, 2)[0], kind="text" * workload.is_text,
    )  # fmt: skip
    kind, _, sizes = workload.model.partition(":")
    with ag.autograd.random.keyed(0, "init"):
        family = models.FAMILIES[kind]
        given = tuple(map(int, sizes.split(","))) if sizes else family.sizes
        return family.make(given, form, ag.init.kaiming, workload.dropout)


def trainer_of(workload, device, steps=6, samples=64, data=None, comm=None, local_sgd=None, **options):
    """A trainer of this workload on a device: "cpu", "cuda:0" or "numpy"."""
    model = model_of(workload)
    model.to(device=device)
    noise = ddp.NoiseScale() if workload.shards > 1 and local_sgd is None else None
    parallel = ddp.DistributedDataParallel(
        model, comm or ddp.Communicator(), workload.shards, noise=noise, local_sgd=local_sgd
    )
    if workload.dtype != "float32":
        model.compute_in(workload.dtype)
    place = ddp.Placement(device, workload.dtype)
    loader = ddp.DataLoader(
        data or arrays(workload, samples), workload.batch, parallel.comm, workload.shards, place=place
    )

    def loss(x, y):
        z = model(x)
        return ag.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1))

    options = {"log_every": 0, "eval_every": 0, "check_every": 0, **workload.options, **options}
    return ddp.Trainer(parallel, workload.optimizer(parallel), loader, loss, lambda x, y: {}, steps=steps, **options)
