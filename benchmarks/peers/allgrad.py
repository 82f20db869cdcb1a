"""This project, by the loop of its README, on NumPy arrays or, as allgrad-torch, on torch tensors.

allgrad-native adds gradients up by the library's all-reduce instead of the exact sum. The setting capture replays
forward and backward.
"""

from types import SimpleNamespace

import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp.data import Batch, Shard
from allgrad.launch.models.sequences import Transformer


def make(workload, settings):
    comm = ddp.init()
    model = _model(workload)
    weights = workload.weights()
    for name, parameter in model.named_parameters():
        parameter.assign(weights[name])
    place = ddp.Placement("cpu" if "torch" in settings else "numpy")
    model.to(device=place.device)
    parallel = ddp.DistributedDataParallel(
        model, comm, reduce="native" if "native" in settings else "canonical",
        capture="capture" in settings,
    )  # fmt: skip
    if workload.optimizer == "sgd":
        optimizer = optim.SGD(parallel, lr=workload.lr, momentum=0.9)
    else:
        optimizer = optim.Adam(parallel, lr=workload.lr)
    samples = np.arange(workload.batch)

    def prepare(x, y):
        shard = Shard(comm.rank, samples, place((x, y.reshape(-1))))
        return Batch(0, 0, len(x) * comm.size, comm.size, 0, [shard])

    def loss(x, y):
        z = model(x)
        return ag.cross_entropy(z.reshape(-1, workload.classes) if workload.text else z, y)

    def step(batch):
        value = parallel.backward(batch, loss)
        optimizer.step()
        return value

    return prepare, step


def _model(workload):
    if workload.text:
        t = workload.network
        data = SimpleNamespace(classes=t.vocabulary, features=(t.context,))
        return Transformer((t.width, t.heads, t.layers), data, None, 0.0)
    return nn.Sequential(*(getattr(nn, layer.kind)(*layer.arguments, **layer.options) for layer in workload.network))
