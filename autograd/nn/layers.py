"""Layers with parameters or modes."""

import math
from collections.abc import Callable

import numpy as np

from allgrad.autograd import init as initial
from allgrad.autograd.engine import Tensor, get_default_dtype
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.ops import batch_norm, convolution, dropout, embedding, flatten, group_norm, layer_norm, linear
from allgrad.autograd.random import draw


def _drawn(shape, outputs, bias, init, rng):
    """A weight array of this shape from `init` and a bias of zeros, or both as torch draws them if init is None."""
    rng = rng or np.random.Generator(draw())
    weight = (init or initial.torch_default)(shape, rng)
    bound = 1.0 / math.sqrt(initial.fans(shape)[0])
    first = np.zeros(outputs) if init or not bias else rng.uniform(-bound, bound, outputs)
    return weight, Parameter(first, name="bias") if bias else None


class Linear(Module):
    """x @ weight.T + bias, for x (..., inputs); weight (outputs, inputs), bias (outputs,).

    init: a function from `autograd.init`; torch's default if absent. The bias starts at zero, or as torch's does
    when init is absent. rng: a numpy Generator; drawn from `ag.manual_seed`'s stream if absent.
    """

    def __init__(self, inputs, outputs, bias=True, init=None, rng=None):
        if inputs < 1 or outputs < 1:
            raise ValueError(f"Linear: inputs and outputs are at least 1, got {inputs} and {outputs}")
        weight, bias = _drawn((outputs, inputs), outputs, bias, init, rng)
        # Stored transposed: x @ weight.T then multiplies by a matrix in C order, the faster product for small batches.
        weight = np.asarray(weight, get_default_dtype(), order="F")
        self.weight, self.bias = Parameter(weight, name="weight"), bias

    def __call__(self, x):
        return linear(x, self.weight, self.bias)


class _Convolution(Module):
    function: Callable
    axes = 2  # of the kernel

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


class LayerNorm(Module):
    """Normalise each sample over its last axes, then scale and shift: see `ag.layer_norm`."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = Parameter(np.ones(self.shape), name="weight") if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.shape), name="bias") if elementwise_affine and bias else None

    def __call__(self, x):
        return layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """Normalise each sample (N, C, ...) over groups of channels, then scale and shift: see `ag.group_norm`."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels cannot be cut into {num_groups} groups")
        self.num_groups, self.eps = num_groups, eps
        self.weight = Parameter(np.ones(num_channels), name="weight") if affine else None
        self.bias = Parameter(np.zeros(num_channels), name="bias") if affine else None

    def __call__(self, x):
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _BatchNorm(Module):
    ndims: tuple[int, ...] = ()
    running_statistics = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(self, num_features, eps=1e-5, momentum: float | None = 0.1, affine=True, track_running_stats=True):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features), name="weight") if affine else None
        self.bias = Parameter(np.zeros(num_features), name="bias") if affine else None
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            self.running_mean = Tensor(np.zeros(num_features, get_default_dtype()))
            self.running_var = Tensor(np.ones(num_features, get_default_dtype()))
            self.num_batches_tracked = Tensor(np.zeros((), np.int64))

    def __call__(self, x):
        if x.ndim not in self.ndims or x.shape[1] != self.num_features:
            seen, axes = f"{type(self).__name__}: x of shape {tuple(x.shape)}", " or ".join(map(str, self.ndims))
            raise ValueError(f"{seen} must have {axes} axes, the second of length {self.num_features} (the channels)")
        mean, var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        batches = 1 if counter is None else counter.item() + 1
        momentum = 1.0 / batches if self.momentum is None else self.momentum
        y = batch_norm(x, mean, var, self.weight, self.bias, self.training or mean is None, momentum, self.eps)
        if self.training and counter is not None:
            counter.assign(batches)
        return y


class BatchNorm1d(_BatchNorm):
    """Normalise each channel of x (N, C) or (N, C, L) over the batch: see `ag.batch_norm`.

    momentum: how far a batch moves the running averages; None for the mean over all batches so far. Without
    track_running_stats there are none, and every batch is normalised by its own moments, in evaluation too.
    """

    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalise each channel of x (N, C, H, W) over the batch: see `BatchNorm1d`."""

    ndims = (4,)


class Embedding(Module):
    """Rows of weight (num_embeddings, embedding_dim) for integers of any shape; standard normal at first, as in torch.

    Row padding_idx starts at zero and gets no gradient.
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, rng=None):
        if num_embeddings < 1 or embedding_dim < 1 or (padding_idx or 0) not in range(-num_embeddings, num_embeddings):
            got = f"{num_embeddings}, {embedding_dim} and {padding_idx}"
            raise ValueError(f"Embedding: needs at least 1 row and column, and padding_idx among the rows, got {got}")
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
