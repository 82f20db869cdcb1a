"""PyTorch: eager, compiled (torch-compile), or DistributedDataParallel over Gloo (torch-ddp); one thread of the CPU.

fused          the optimizer in one call of C++, not a loop over the parameters
channels_last  images and kernels with the channels innermost
views, static  DistributedDataParallel's gradient_as_bucket_view and static_graph
cuda           on a GPU, where losses are tensors that nobody has read, and halves come by autocast
graphs         of what is compiled: captured as CUDA graphs (mode "reduce-overhead")
tf32           TensorFloat-32 for products of float32, which torch has off, and for convolutions, which it has on
"""

import contextlib
import os
import warnings

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.peers import Unavailable
from benchmarks.workloads import ResNet as ResNetForm, Transformer as TransformerForm


def make(workload, settings):
    torch.set_num_threads(1)
    cuda = "cuda" in settings
    device = "cuda" if cuda else "cpu"
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in settings
    model = _model(workload)
    weights = workload.weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    layout = {"memory_format": torch.channels_last} if "channels_last" in settings else {}
    if layout and len(workload.inputs) < 3:
        raise Unavailable("there are no channels")
    model.to(device=device, **layout)
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
        return torch.from_numpy(x).to(device=device, **layout), torch.from_numpy(y.reshape(-1)).to(device)

    half = workload.dtype != "float32"
    context = torch.autocast(device, getattr(torch, workload.dtype)) if half else contextlib.nullcontext()

    def loss_of(x, y):
        with context:
            z = model(x)
        return nn.functional.cross_entropy(z.reshape(-1, workload.classes) if workload.text else z, y)

    if "compile" in settings:
        torch.compiler.reset()  # or the ninth network would not be compiled: it takes them for one that changes
        loss_of = torch.compile(loss_of, dynamic=False, mode="reduce-overhead" if "graphs" in settings else None)

    def step(batch):
        optimizer.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        optimizer.step()
        return loss.detach() if cuda else loss.item()

    return prepare, step


def _model(workload):
    for form, network in ((TransformerForm, Transformer), (ResNetForm, ResNet)):
        if isinstance(workload.network, form):
            return network(workload.network)
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


class ResNet(nn.Module):
    def __init__(self, form):
        super().__init__()
        n = (form.depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(Residual(outputs if i else inputs, outputs, 1 if i else stride) for i in range(n)))
            for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(y))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return torch.relu(x + y)
