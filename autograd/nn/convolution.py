"""Convolutions and their transposes over signals, images and volumes."""

import numpy as np

from allgrad.autograd.nn.layers import drawn
from allgrad.autograd.nn.module import Module
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, pad

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class _Convolution(Module):
    """What convolutions share: a weight, a bias, and the options of the function that computes."""

    function: staticmethod
    axes = 2  # of the kernel
    transposed = False
    around = ()  # how far each side is padded before the function, if not with zeros

    @placed
    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
        padding_mode="zeros", init=None, rng=None,
    ):  # fmt: skip
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        self._make(in_channels, out_channels, kernel_size, groups, bias, init, rng, padding_mode, options)
        if padding_mode != "zeros":
            self.around = self._sides(padding, dilation)
            self.options["padding"] = 0

    def _make(self, inputs, outputs, kernel_size, groups, bias, init, rng, padding_mode, options):
        name, kernel = type(self).__name__, tuple(np.broadcast_to(kernel_size, self.axes).tolist())
        if padding_mode not in PADDING_MODES or (self.transposed and padding_mode != "zeros"):
            wanted = '"zeros"' if self.transposed else '"zeros", "reflect", "replicate" or "circular"'
            raise ValueError(f"{name}: padding_mode is {wanted}, got {padding_mode!r}")
        if groups < 1 or inputs % groups or outputs % groups:
            raise ValueError(f"{name}: {inputs} and {outputs} channels cannot be cut into {groups} groups")
        shape = (inputs, outputs // groups, *kernel) if self.transposed else (outputs, inputs // groups, *kernel)
        if min(shape) < 1:
            raise ValueError(f"{name}: channels and kernel are at least 1, got a weight of shape {shape}")
        self.in_channels, self.out_channels, self.kernel_size = inputs, outputs, kernel
        self.padding_mode = padding_mode
        self.weight, self.bias = drawn(shape, outputs, bias, init, rng)
        self.options = {"groups": groups, **options}

    def _sides(self, padding, dilation):
        """The pads of `ag.pad`: (left, right) of the last axis, then of the one before it, and so on."""
        if padding == "same":
            reach = np.broadcast_to(dilation, self.axes) * (np.array(self.kernel_size) - 1)
            sides = [(n // 2, n - n // 2) for n in reach.tolist()]
        else:
            sides = [(n, n) for n in np.broadcast_to(0 if padding == "valid" else padding, self.axes).tolist()]
        return tuple(n for side in reversed(sides) for n in side)

    def __call__(self, x):
        if self.around:
            x = pad(x, self.around, PADDING_MODES[self.padding_mode])
        return self.function(x, self.weight, self.bias, **self.options)


class Conv1d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, K) and bias (outputs,): see `ag.conv1d`.

    padding_mode: what surrounds the signal, "zeros", "reflect", "replicate" or "circular" (see `ag.pad`).
    init: a function from `autograd.init`, and then the bias starts at zero; torch's default if absent.
    """

    function = staticmethod(conv1d)
    axes = 1


class Conv2d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, KH, KW) and bias (outputs,): see `ag.conv2d`.

    padding_mode and init: see `Conv1d`.
    """

    function = staticmethod(conv2d)


class Conv3d(_Convolution):
    """Cross-correlation with weight (outputs, inputs / groups, KD, KH, KW) and bias (outputs,): see `ag.conv3d`.

    padding_mode and init: see `Conv1d`.
    """

    function = staticmethod(conv3d)
    axes = 3


class _ConvTranspose(_Convolution):
    transposed = True

    @placed
    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True,
        dilation=1, padding_mode="zeros", init=None, rng=None,
    ):  # fmt: skip
        options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        self._make(in_channels, out_channels, kernel_size, groups, bias, init, rng, padding_mode, options)


class ConvTranspose1d(_ConvTranspose):
    """The transpose of a convolution, with weight (inputs, outputs / groups, K): see `ag.conv_transpose1d`."""

    function = staticmethod(conv_transpose1d)
    axes = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of a convolution, with weight (inputs, outputs / groups, KH, KW): see `ag.conv_transpose2d`."""

    function = staticmethod(conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """The transpose of a convolution, with weight (inputs, outputs / groups, KD, KH, KW)."""

    function = staticmethod(conv_transpose3d)
    axes = 3
