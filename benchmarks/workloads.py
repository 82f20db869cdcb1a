"""What is measured: networks, batches and optimizers that every peer builds from the same numbers."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    """A layer by the name, arguments and options that it has in torch.nn, and in autograd.nn."""

    kind: str
    arguments: tuple = ()
    options: dict = {}  # noqa: RUF012


class Transformer(NamedTuple):
    """A character model: embeddings, causal blocks of GPT-2 (normalised first, gelu, four times the width), a head."""

    vocabulary: int
    context: int
    width: int
    heads: int
    layers: int


class ResNet(NamedTuple):
    """The residual network of He et al. 2016 for CIFAR-10, of 6n + 2 layers, shortcuts without parameters."""

    depth: int


@dataclass(frozen=True)
class Workload:
    """A network, a tuple of layers, a Transformer or a ResNet, that is trained with cross-entropy on random batches.

    batch      samples a step, on each rank
    optimizer  "sgd", with momentum 0.9, or "adam", with the usual 0.9, 0.999 and 1e-8
    inputs     shape of a sample; those of a Transformer are characters
    """

    name: str
    title: str
    network: tuple
    inputs: tuple[int, ...]
    batch: int
    optimizer: str
    lr: float
    classes: int = 10
    dtype: str = "float32"  # to compute in, with parameters in float32

    @property
    def label(self):
        return f"{self.name} {self.title}, {self.optimizer}, batch {self.batch}"

    @property
    def text(self):
        return isinstance(self.network, Transformer)

    def weights(self):
        """The parameters by torch's names, in float32.

        Matrices and kernels are Gaussian with standard deviation sqrt(2 / inputs), with sigmoids 4 times that, so that
        every gradient matters to the losses, and 0.02 in a Transformer; vectors are 1 if a weight, 0 if a bias.
        """
        rng, weights = np.random.default_rng(0), {}
        gain = 4.0 if Layer("Sigmoid") in self.network else 1.0
        kind = type(self.network)
        for name, shape in {Transformer: _transformer, ResNet: _resnet}.get(kind, _layers)(self.network):
            if len(shape) == 1:
                weights[name] = np.full(shape, name.endswith("weight"), "f")
            else:
                scale = 0.02 if self.text else gain * math.sqrt(2 / math.prod(shape[1:]))
                weights[name] = rng.normal(0, scale, shape).astype("f")
        return weights

    def data(self, steps, rank=0):
        """A rank's batch for each of the steps: x (batch, *inputs) and labels y (batch,), or for characters like x."""
        rng = np.random.default_rng([1, rank])
        shape = (self.batch, *self.inputs)
        if self.text:
            return [(rng.integers(0, self.classes, shape), rng.integers(0, self.classes, shape)) for _ in range(steps)]
        return [(rng.random(shape, dtype="f"), rng.integers(0, self.classes, self.batch)) for _ in range(steps)]


def _layers(network):
    """Names and shapes of the parameters, numbered as in a Sequential."""
    for i, layer in enumerate(network):
        if layer.kind == "Linear":
            inputs, outputs = layer.arguments
            yield from ((f"{i}.weight", (outputs, inputs)), (f"{i}.bias", (outputs,)))
        elif layer.kind == "Conv2d":
            inputs, outputs, kernel = layer.arguments
            yield f"{i}.weight", (outputs, inputs, kernel, kernel)
            if layer.options.get("bias", True):
                yield f"{i}.bias", (outputs,)
        elif layer.kind == "BatchNorm2d":
            yield from ((f"{i}.weight", layer.arguments), (f"{i}.bias", layer.arguments))


def _transformer(t):
    e = t.width
    yield from (("tokens.weight", (t.vocabulary, e)), ("positions.weight", (t.context, e)))
    for i in range(t.layers):
        for name, outputs, inputs in (
            ("self_attn.in_proj_", 3 * e, e), ("self_attn.out_proj.", e, e), ("linear1.", 4 * e, e),
            ("linear2.", e, 4 * e),
        ):  # fmt: skip
            yield from ((f"blocks.{i}.{name}weight", (outputs, inputs)), (f"blocks.{i}.{name}bias", (outputs,)))
        for name in ("norm1", "norm2"):
            yield from ((f"blocks.{i}.{name}.weight", (e,)), (f"blocks.{i}.{name}.bias", (e,)))
    yield from (("norm.weight", (e,)), ("norm.bias", (e,)))
    yield from (("head.weight", (t.vocabulary, e)), ("head.bias", (t.vocabulary,)))


def _resnet(network):
    n = (network.depth - 2) // 6

    def convolution(name, number, inputs, outputs):
        yield f"{name}conv{number}.weight", (outputs, inputs, 3, 3)
        yield from ((f"{name}bn{number}.{part}", (outputs,)) for part in ("weight", "bias"))

    yield from convolution("", 1, 3, 16)
    for layer, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
        for i in range(n):
            yield from convolution(f"layer{layer}.{i}.", 1, outputs if i else inputs, outputs)
            yield from convolution(f"layer{layer}.{i}.", 2, outputs, outputs)
    yield from (("fc.weight", (10, 64)), ("fc.bias", (10,)))


def mlp(*widths):
    layers = []
    for pair in itertools.pairwise(widths):
        layers += [Layer("Linear", pair), Layer("ReLU")]
    return tuple(layers[:-1])


LENET5 = (
    Layer("Conv2d", (1, 6, 5), {"padding": 2}), Layer("Sigmoid"), Layer("AvgPool2d", (2,)),
    Layer("Conv2d", (6, 16, 5)), Layer("Sigmoid"), Layer("AvgPool2d", (2,)), Layer("Flatten"),
    Layer("Linear", (400, 120)), Layer("Sigmoid"),
    Layer("Linear", (120, 84)), Layer("Sigmoid"),
    Layer("Linear", (84, 10)),
)  # fmt: skip
CNN = (
    *(
        layer
        for inputs, outputs in ((3, 32), (32, 64), (64, 128))
        for layer in (
            Layer("Conv2d", (inputs, outputs, 3), {"padding": 1, "bias": False}),
            Layer("BatchNorm2d", (outputs,)), Layer("ReLU"), Layer("MaxPool2d", (2,)),
        )
    ),
    Layer("Flatten"), Layer("Linear", (2048, 10)),
)  # fmt: skip
GPT = Transformer(vocabulary=96, context=64, width=128, heads=4, layers=2)

M1 = "M1", "784-128-10", mlp(784, 128, 10), (784,)
M2 = "M2", "784-512-512-10", mlp(784, 512, 512, 10), (784,)
M3 = "M3", "LeNet-5", LENET5, (1, 28, 28)
M4 = "M4", "transformer", GPT, (GPT.context,)
M5 = "M5", "CNN", CNN, (3, 32, 32)
WORKLOADS = (
    *(Workload(*M1, batch, "sgd", 0.01) for batch in (8, 64, 256)),
    *(Workload(*M2, batch, "sgd", 0.01) for batch in (8, 64, 256)),
    *(Workload(*M2, batch, "adam", 0.0001) for batch in (8, 64, 256)),
    *(Workload(*M3, batch, "sgd", 0.1) for batch in (8, 64, 256)),
    *(Workload(*M4, batch, "adam", 0.001, GPT.vocabulary) for batch in (8, 32)),
    *(Workload(*M5, batch, "sgd", 0.001) for batch in (16, 64)),
)
GPT124M = Transformer(vocabulary=50_304, context=1024, width=768, heads=12, layers=12)
ON_GPU = (
    *(Workload(*M1, batch, "sgd", 0.01) for batch in (8, 256)),
    *(Workload(*M2, batch, "sgd", 0.01) for batch in (8, 256)),
    *(Workload(*M2, batch, "adam", 0.0001) for batch in (8, 256)),
    *(Workload(*M3, batch, "sgd", 0.1) for batch in (8, 256)),
    *(Workload("R20", "ResNet-20", ResNet(20), (3, 32, 32), batch, "sgd", 0.01) for batch in (128, 1024)),
    Workload("GPT", "GPT-124M", GPT124M, (1024,), 16, "adam", 0.0003, GPT124M.vocabulary, "bfloat16"),
)
