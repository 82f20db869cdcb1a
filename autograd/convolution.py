"""Convolutions, as matrix products over columns of patches; images are (N, C, H, W), weights (O, C / groups, K, K).

columns   (N, C, H, W) -> (N, G, C/G * KH * KW, OH * OW)     each column the patch under one output pixel
value     W @ columns,  dW = g @ columns^T,  dX = the columns W^T @ g, added back to where they were taken
"""

from typing import NamedTuple

import numpy as np

from autograd.core import Tensor, primitive
from autograd.shapes import pad, unsqueeze
from autograd.transforms import unfused, vjp


class _Geometry(NamedTuple):
    kernel: tuple  # (KH, KW)
    stride: tuple
    padding: tuple  # ((top, bottom), (left, right))
    dilation: tuple
    groups: int

    def outputs(self, height, width):
        """(OH, OW) of an image of this size."""
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip((height, width), self.kernel, self.stride, self.padding, self.dilation)
        )

    def taps(self, outputs):
        """For each place (i, j) in the kernel, the slices of the padded image that it meets."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield (
                    i,
                    j,
                    *(
                        slice(at * d, at * d + s * (n - 1) + 1, s)
                        for at, d, s, n in zip((i, j), self.dilation, self.stride, outputs)
                    ),
                )


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of images x (N, C, H, W) or (C, H, W) with weight (O, C / groups, KH, KW); bias (O,) or None.

    stride, padding and dilation are integers or pairs; padding also "valid" (none) or "same" (outputs as large as the
    inputs, stride 1 only). The output is (N, O, OH, OW), OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1.
    """
    if len(x.shape) == len(weight.shape) - 1:
        return conv2d(unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)[0]
    geometry = _geometry("conv2d", weight.shape[2:], stride, padding, dilation, groups)
    _fitting("conv2d", x.shape, weight.shape, x.shape[1], weight.shape[1] * groups, weight.shape[0], geometry)
    y = _conv2d(x, weight, geometry=geometry)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of signals x (N, C, L) or (C, L) with weight (O, C / groups, K): `conv2d` of height 1."""
    if isinstance(padding, int):
        padding = (0, padding)
    elif not isinstance(padding, str):
        padding = (0, *padding)
    stride, dilation = (1, *_tuple(stride, 1)), (1, *_tuple(dilation, 1))
    return conv2d(unsqueeze(x, -2), unsqueeze(weight, -2), bias, stride, padding, dilation, groups)[..., 0, :]


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The transpose of `conv2d` as a linear map, from its outputs to its inputs; weight (C, O / groups, KH, KW).

    The output is (N, O, OH, OW), OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1.
    """
    if len(x.shape) == 3:
        y = conv_transpose2d(unsqueeze(x, 0), weight, bias, stride, padding, output_padding, groups, dilation)
        return y[0]
    geometry = _geometry("conv_transpose2d", weight.shape[2:], stride, padding, dilation, groups)
    _fitting("conv_transpose2d", x.shape, weight.shape, x.shape[1], weight.shape[0], x.shape[1], geometry)
    size = tuple(
        (n - 1) * s - sum(p) + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            x.shape[2:],
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.kernel,
            _tuple(output_padding, 2),
        )
    )
    y = _conv_transpose2d(x, weight, geometry=geometry, size=size)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


@primitive
def _conv2d(x, w, *, geometry):
    if type(x) is Tensor or type(w) is Tensor:
        return unfused(lambda x, w: _by_taps(x, w, geometry), x, w)
    outputs = geometry.outputs(*x.shape[2:])
    columns = _columns(x, geometry, outputs)  # (N, G, C/G*KH*KW, OH*OW)
    y = (_matrix(w, geometry) @ columns).reshape(len(x), len(w), *outputs)
    return y, lambda g: _input(g, w, geometry, x.shape), lambda g: _weight(g, columns, w.shape, geometry)


@primitive
def _conv_transpose2d(x, w, *, geometry, size):
    if type(x) is Tensor or type(w) is Tensor:
        return unfused(lambda x, w: _transposed_by_taps(x, w, geometry, size), x, w)
    shape = (len(x), w.shape[1] * geometry.groups, *size)
    y = _input(x, w, geometry, shape)

    def columns(g):
        return _columns(g, geometry, x.shape[2:])

    return (
        y,
        lambda g: (_matrix(w, geometry) @ columns(g)).reshape(x.shape),
        lambda g: _weight(x, columns(g), w.shape, geometry),
    )


def _columns(x, geometry, outputs):
    x = _padded(x, geometry)
    n, c, (h, w) = len(x), x.shape[1], geometry.kernel
    rows, cols = x.strides[2:]
    (dh, dw), (sh, sw) = geometry.dilation, geometry.stride
    windows = np.lib.stride_tricks.as_strided(
        x, (n, c, h, w, *outputs), (*x.strides[:2], rows * dh, cols * dw, rows * sh, cols * sw), writeable=False
    )
    return np.ascontiguousarray(windows).reshape(n, geometry.groups, -1, outputs[0] * outputs[1])


def _matrix(w, geometry):
    return w.reshape(geometry.groups, len(w) // geometry.groups, -1)  # (G, O/G, C/G*KH*KW)


def _grouped(g, geometry):
    return g.reshape(len(g), geometry.groups, g.shape[1] // geometry.groups, -1)  # (N, G, O/G, OH*OW)


def _weight(g, columns, shape, geometry):
    return (_grouped(g, geometry) @ columns.mT).sum(axis=0).reshape(shape)


def _input(g, w, geometry, shape):
    """The gradient of the image: the columns W^T @ g, each added to the patch it came from."""
    (top, bottom), (left, right) = geometry.padding
    n, c, height, width = shape
    columns = _matrix(w, geometry).mT @ _grouped(g, geometry)
    columns = columns.reshape(n, c, *geometry.kernel, *g.shape[2:])
    x = np.zeros((n, c, height + top + bottom, width + left + right), columns.dtype)
    for i, j, rows, cols in geometry.taps(g.shape[2:]):
        x[:, :, rows, cols] += columns[:, :, i, j]
    return x[:, :, top : top + height, left : left + width]


def _padded(x, geometry):
    (top, bottom), (left, right) = geometry.padding
    if not (top or bottom or left or right):
        return x
    n, c, height, width = x.shape
    out = np.zeros((n, c, height + top + bottom, width + left + right), x.dtype)
    out[:, :, top : top + height, left : left + width] = x
    return out


def _by_taps(x, w, geometry):
    """conv2d composed of slices and products, one for each place in the kernel: differentiable to any order."""
    n, outputs = x.shape[0], geometry.outputs(*x.shape[2:])
    x = pad(x, (*geometry.padding[1], *geometry.padding[0]))
    y = 0.0
    for i, j, rows, cols in geometry.taps(outputs):
        patch = x[:, :, rows, cols].reshape(n, geometry.groups, -1, outputs[0] * outputs[1])
        y = w[:, :, i, j].reshape(geometry.groups, w.shape[0] // geometry.groups, -1) @ patch + y
    return y.reshape(n, w.shape[0], *outputs)


def _transposed_by_taps(x, w, geometry, size):
    zeros = Tensor(np.zeros((x.shape[0], w.shape[1] * geometry.groups, *size), x.dtype))
    return vjp(lambda z: _by_taps(z, w, geometry), zeros)[1](x)[0]


def _geometry(name, kernel, stride, padding, dilation, groups):
    stride, dilation = _tuple(stride, 2), _tuple(dilation, 2)
    if padding == "same":
        if set(stride) != {1}:
            raise ValueError(f'{name}: padding "same" needs stride 1, got {stride}')
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    else:
        padding = tuple((p, p) for p in _tuple(0 if padding == "valid" else padding, 2))
    if min(stride) < 1 or min(dilation) < 1 or min(map(min, padding)) < 0 or groups < 1:
        raise ValueError(f"{name}: stride, dilation and groups are at least 1, padding at least 0")
    return _Geometry(tuple(kernel), stride, padding, dilation, groups)


def _fitting(name, x, w, channels, expected, outputs, geometry):
    if len(x) != 4 or len(w) != 4 or channels != expected or outputs % geometry.groups or channels % geometry.groups:
        raise ValueError(
            f"{name}: an image {x} and a weight {w} with groups={geometry.groups} do not fit together: "
            f"the weight expects {expected} channels"
        )
    if name == "conv2d" and min(geometry.outputs(*x[2:])) < 1:
        raise ValueError(f"{name}: the kernel {geometry.kernel} is larger than the padded image {x[2:]}")


def _tuple(value, length):
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * length if len(value) == 1 else value
