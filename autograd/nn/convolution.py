"""Convolution and pooling layers over images (N, C, H, W) and signals (N, C, L)."""

import math

import numpy as np

from autograd import convolution as f, init as initial, pooling
from autograd.nn.module import Module, Parameter
from autograd.random import draw


class _Convolution(Module):
    def __init__(self, shape, channels, kernel, bias, init, rng, **options):
        rng, kind = rng or np.random.Generator(draw()), type(self).__name__
        if min(shape) < 1:
            raise ValueError(f"{kind}: channels and kernel are at least 1, got a weight of shape {shape}")
        self.weight = Parameter((init or initial.torch_default)(shape, rng), name="weight")
        self.bias = None
        if bias:
            bound = 1.0 / math.sqrt(initial.fans(shape)[0])
            b = np.zeros(channels) if init else initial.uniform(bound)((channels,), rng)
            self.bias = Parameter(b, name="bias")
        self.options = options


class Conv2d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, K, K) and bias (outputs,): see `ag.conv2d`."""

    def __init__(
        self, inputs, outputs, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, init=None, rng=None
    ):
        kernel = _pair(kernel_size)
        shape = (outputs, _a_group("Conv2d", inputs, outputs, groups), *kernel)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        super().__init__(shape, outputs, kernel, bias, init, rng, **options)

    def __call__(self, x):
        return f.conv2d(x, self.weight, self.bias, **self.options)


class Conv1d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, K) and bias (outputs,): see `ag.conv1d`."""

    def __init__(
        self, inputs, outputs, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, init=None, rng=None
    ):
        shape = (outputs, _a_group("Conv1d", inputs, outputs, groups), kernel_size)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        super().__init__(shape, outputs, (kernel_size,), bias, init, rng, **options)

    def __call__(self, x):
        return f.conv1d(x, self.weight, self.bias, **self.options)


class ConvTranspose2d(_Convolution):
    """The transpose of a convolution, with weight (inputs, outputs / groups, K, K): see `ag.conv_transpose2d`."""

    def __init__(
        self, inputs, outputs, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1,
        init=None, rng=None,
    ):  # fmt: skip
        kernel = _pair(kernel_size)
        shape = (inputs, _a_group("ConvTranspose2d", outputs, inputs, groups), *kernel)
        options = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups}
        super().__init__(shape, outputs, kernel, bias, init, rng, dilation=dilation, **options)

    def __call__(self, x):
        return f.conv_transpose2d(x, self.weight, self.bias, **self.options)


class MaxPool2d(Module):
    """The largest value in each window: see `ag.max_pool2d`."""

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
        self.options = (kernel_size, stride, padding, dilation, ceil_mode)

    def __call__(self, x):
        return pooling.max_pool2d(x, *self.options)


class AvgPool2d(Module):
    """The mean of each window: see `ag.avg_pool2d`."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
        self.options = (kernel_size, stride, padding, ceil_mode, count_include_pad)

    def __call__(self, x):
        return pooling.avg_pool2d(x, *self.options)


class AdaptiveAvgPool2d(Module):
    """Means over OH x OW regions: see `ag.adaptive_avg_pool2d`."""

    def __init__(self, output_size):
        self.output_size = output_size

    def __call__(self, x):
        return pooling.adaptive_avg_pool2d(x, self.output_size)


def _a_group(name, channels, others, groups):
    """The channels of one of the groups."""
    if groups < 1 or channels % groups or others % groups:
        raise ValueError(f"{name}: {channels} and {others} channels cannot be cut into {groups} groups")
    return channels // groups


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
