"""PyTorch on one thread: eager, compiled (torch-compile), or DistributedDataParallel over Gloo (torch-ddp).

fused          the optimizer in one call of C++, not a loop over the parameters
channels_last  images and kernels with the channels innermost
views, static  DistributedDataParallel's gradient_as_bucket_view and static_graph
"""

import os
import warnings

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.peers import Unavailable


def make(workload, settings):
    torch.set_num_threads(1)
    model = _model(workload)
    weights = workload.weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    layout = {"memory_format": torch.channels_last} if "channels_last" in settings else {}
    if layout and len(workload.inputs) < 3:
        raise Unavailable("there are no channels")
    model.to(**layout)
    fused = "fused" in settings or None
    if workload.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr, momentum=0.9, fused=fused)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=workload.lr, fused=fused)
    if "ddp" in settings:
        if not dist.is_initialized():
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group("gloo", init_method=os.environ["STORE"], rank=rank, world_size=size)
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        model = nn.parallel.DistributedDataParallel(
            model, gradient_as_bucket_view="views" in settings, static_graph="static" in settings,
            broadcast_buffers=False,
        )  # fmt: skip

    def prepare(x, y):
        return torch.from_numpy(x).to(**layout), torch.from_numpy(y.reshape(-1))

    def loss_of(x, y):
        z = model(x)
        return nn.functional.cross_entropy(z.reshape(-1, workload.classes) if workload.text else z, y)

    if "compile" in settings:
        torch.compiler.reset()  # or the ninth network would not be compiled: it takes them for one that changes
        loss_of = torch.compile(loss_of, dynamic=False)

    def step(batch):
        optimizer.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return prepare, step


def _model(workload):
    if workload.text:
        return Transformer(workload.network)
    return nn.Sequential(*(getattr(nn, layer.kind)(*layer.arguments, **layer.options) for layer in workload.network))


class Transformer(nn.Module):
    def __init__(self, t):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(t.vocabulary, t.width), nn.Embedding(t.context, t.width)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(t.width, t.heads, 4 * t.width, **options) for _ in range(t.layers)
        )
        self.norm = nn.LayerNorm(t.width)
        self.head = nn.Linear(t.width, t.vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(t.context))

    def forward(self, x):
        y = self.tokens(x) + self.positions.weight
        for block in self.blocks:
            y = block(y, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(y))
