"""This project, by the loop of its README, on NumPy arrays or, as allgrad-torch, on torch tensors.

allgrad-native adds gradients up by the library's all-reduce instead of the exact sum. The setting capture replays
forward and backward; cuda is a GPU, where losses are reports that nobody has read; tf32 as in torch.
"""

from types import SimpleNamespace

import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp.data import Batch, Shard
from allgrad.launch.models.images import ResNet
from allgrad.launch.models.sequences import Transformer
from benchmarks.workloads import ResNet as ResNetForm


def make(workload, settings):
    comm = ddp.init()
    model = _model(workload)
    weights = workload.weights()
    for name, parameter in model.named_parameters():
        parameter.assign(weights[name])
    cuda = "cuda" in settings
    options = {"precision": "tf32"} if "tf32" in settings else {}
    place = ddp.Placement("cuda" if cuda else "cpu" if "torch" in settings else "numpy", workload.dtype, **options)
    model.to(device=place.device)
    parallel = ddp.DistributedDataParallel(
        model, comm, reduce="native" if "native" in settings else "canonical",
        capture="capture" in settings,
    )  # fmt: skip
    if workload.dtype != "float32":
        model.compute_in(workload.dtype)
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
        report = parallel.enqueue(batch, loss)
        optimizer.step()
        return report if cuda else report.loss

    return prepare, step


def _model(workload):
    if workload.text:
        t = workload.network
        data = SimpleNamespace(classes=t.vocabulary, features=(t.context,))
        return Transformer((t.width, t.heads, t.layers), data, None, 0.0)
    if isinstance(workload.network, ResNetForm):
        return ResNet((workload.network.depth,), SimpleNamespace(image=(3, 32, 32), outputs=10), ag.init.kaiming, 0.0)
    return nn.Sequential(*(getattr(nn, layer.kind)(*layer.arguments, **layer.options) for layer in workload.network))
