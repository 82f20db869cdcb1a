"""Layers with parameters or modes."""

import math
from collections.abc import Callable

import numpy as np

from autograd import convolution, init as initial
from autograd.dropout import dropout
from autograd.indexing import embedding
from autograd.nn.module import Module, Parameter
from autograd.products import linear
from autograd.random import draw
from autograd.shapes import flatten


def _drawn(shape, outputs, bias, init, rng):
    """A weight of this shape, by torch's default if init is absent, and a bias: zeros, or as torch's, or None."""
    rng = rng or np.random.Generator(draw())
    weight = (init or initial.torch_default)(shape, rng)
    bound = 1.0 / math.sqrt(initial.fans(shape)[0])
    first = np.zeros(outputs) if init or not bias else rng.uniform(-bound, bound, outputs)
    return weight, Parameter(first, name="bias") if bias else None


class Linear(Module):
    """x @ weight.T + bias, for x (..., inputs); weight (outputs, inputs), bias (outputs,).

    init: a function from `autograd.init`; torch's default if absent. The bias starts at zero, or as torch's does
    when init is absent. rng: a numpy Generator; drawn from `autograd.manual_seed`'s stream if absent.
    """

    def __init__(self, inputs, outputs, bias=True, init=None, rng=None):
        if inputs < 1 or outputs < 1:
            raise ValueError(f"Linear: inputs and outputs are at least 1, got {inputs} and {outputs}")
        weight, bias = _drawn((outputs, inputs), outputs, bias, init, rng)
        # Stored transposed: x @ weight.T then multiplies by a matrix in C order, the faster product for small batches.
        self.weight, self.bias = Parameter(np.asfortranarray(weight), name="weight"), bias

    def __call__(self, x):
        return linear(x, self.weight, self.bias)


class _Convolution(Module):
    function: Callable
    axes = 2  # of a kernel

    def __init__(
        self, inputs, outputs, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, init=None, rng=None
    ):
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        self._make(inputs, outputs, kernel_size, groups, bias, init, rng, **options)

    def _make(self, inputs, outputs, kernel_size, groups, bias, init, rng, **options):
        name, kernel = type(self).__name__, np.broadcast_to(kernel_size, self.axes).tolist()
        if groups < 1 or inputs % groups or outputs % groups:
            raise ValueError(f"{name}: {inputs} and {outputs} channels cannot be cut into {groups} groups")
        shape = (outputs, inputs // groups, *kernel)
        if isinstance(self, ConvTranspose2d):
            shape = (inputs, outputs // groups, *kernel)
        if min(shape) < 1:
            raise ValueError(f"{name}: channels and kernel are at least 1, got a weight of shape {shape}")
        weight, bias = _drawn(shape, outputs, bias, init, rng)
        self.weight, self.bias = Parameter(weight, name="weight"), bias
        self.options = {"groups": groups, **options}

    def __call__(self, x):
        return self.function(x, self.weight, self.bias, **self.options)


class Conv2d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, K, K) and bias (outputs,): see `ag.conv2d`."""

    function = staticmethod(convolution.conv2d)


class Conv1d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, K) and bias (outputs,): see `ag.conv1d`."""

    function = staticmethod(convolution.conv1d)
    axes = 1


class ConvTranspose2d(_Convolution):
    """The transpose of a convolution, with weight (inputs, outputs / groups, K, K): see `ag.conv_transpose2d`."""

    function = staticmethod(convolution.conv_transpose2d)

    def __init__(
        self, inputs, outputs, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1,
        init=None, rng=None,
    ):  # fmt: skip
        options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        self._make(inputs, outputs, kernel_size, groups, bias, init, rng, **options)


class Embedding(Module):
    """Rows of weight (num_embeddings, embedding_dim) for integers of any shape; standard normal at first, as in torch.

    Row padding_idx starts at zero and gets no gradient.
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, rng=None):
        if num_embeddings < 1 or embedding_dim < 1 or (padding_idx or 0) not in range(-num_embeddings, num_embeddings):
            raise ValueError(
                f"Embedding: needs at least 1 row and column, and padding_idx among the rows, "
                f"got {num_embeddings}, {embedding_dim} and {padding_idx}"
            )
        rng = rng or np.random.Generator(draw())
        weight = rng.standard_normal((num_embeddings, embedding_dim))
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        self.weight, self.padding_idx = Parameter(weight, name="weight"), padding_idx

    def __call__(self, indices):
        return embedding(indices, self.weight, self.padding_idx)


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p)."""

    def __init__(self, p=0.5):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p is a probability, got {p}")
        self.p = p

    def __call__(self, x):
        return dropout(x, self.p, self.training)


class Flatten(Module):
    """Merge all axes but the first: (N, ...) to (N, features)."""

    def __call__(self, x):
        return flatten(x, 1)


class Identity(Module):
    """x as it is, in the place of a layer; takes any arguments, as torch's does."""

    def __init__(self, *arguments, **options):
        pass

    def __call__(self, x):
        return x
