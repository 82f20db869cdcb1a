"""Convolutions, as matrix products over columns of patches; images are (N, C, H, W), weights (O, C / groups, KH, KW).

columns   (N, C, H, W) -> (N, G, C/G * KH * KW, OH * OW)     each column the patch under one output pixel
value     W @ columns,  dW = g @ columns^T,  dX = the columns W^T @ g, added back to where they were taken
"""

import math

from autograd.core import primitive, shape_of, shared
from autograd.shapes import unsqueeze
from autograd.transforms import linear_map
from autograd.windows import Pair, Windows, pair


def conv2d(x, weight, bias=None, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, groups=1):
    """Cross-correlation of images x (N, C, H, W) or (C, H, W) with weight (O, C / groups, KH, KW); bias (O,) or None.

    stride, padding and dilation are integers or pairs; padding also "valid" (none) or "same" (outputs as large as the
    inputs, stride 1 only). The output is (N, O, OH, OW), OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1.
    """
    return _correlation("conv2d", x, weight, bias, stride, padding, dilation, groups)


def _correlation(name, x, weight, bias, stride, padding, dilation, groups):
    if x.ndim == 3:
        return _correlation(name, unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)[0]
    _fitting(name, x, weight, bias, 1, groups)
    windows = Windows(name, x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _biased(_conv2d(x, weight, windows=windows, groups=groups), bias)


def conv1d(x, weight, bias=None, stride=1, padding: Pair | str = 0, dilation=1, groups=1):
    """Cross-correlation of signals x (N, C, L) or (C, L) with weight (O, C / groups, K): `conv2d` of height 1."""
    if x.ndim == 2:
        return conv1d(unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)[0]
    _fitting("conv1d", x, weight, bias, 1, groups, rank=3)
    stride, dilation = (1, pair(stride)[0]), (1, pair(dilation)[0])
    padding = padding if isinstance(padding, str) else (0, pair(padding)[0])
    x, weight = unsqueeze(x, -2), unsqueeze(weight, -2)
    return _correlation("conv1d", x, weight, bias, stride, padding, dilation, groups)[..., 0, :]


def conv_transpose2d(
    x, weight, bias=None, stride: Pair = 1, padding: Pair = 0, output_padding: Pair = 0, groups=1, dilation: Pair = 1
):
    """The transpose of `conv2d` as a linear map, from its outputs to its inputs; weight (C, O / groups, KH, KW).

    The output is (N, O, OH, OW), OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1.
    """
    if x.ndim == 3:
        x = unsqueeze(x, 0)
        return conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)[0]
    _fitting("conv_transpose2d", x, weight, bias, 0, groups)
    if isinstance(padding, str):
        raise TypeError(f"conv_transpose2d: padding is an integer or a pair of them, not {padding!r}")
    options = list(zip(x.shape[2:], weight.shape[2:], *map(pair, (stride, padding, dilation, output_padding))))
    if any(not 0 <= extra < max(s, d) for *_, s, _, d, extra in options):
        limits = f"stride {stride} or dilation {dilation}"
        raise ValueError(f"conv_transpose2d: output_padding {output_padding} must be below {limits}")
    size = [(n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in options]
    if min(size) < 1:
        raise ValueError(f"conv_transpose2d: padding {padding} leaves an image {tuple(size)} of {tuple(x.shape)}")
    windows = Windows("conv_transpose2d", size, weight.shape[2:], stride, padding, dilation)
    windows.outputs = tuple(x.shape[2:])  # output_padding may have made room for more
    return _biased(_conv_transpose2d(x, weight, windows=windows, groups=groups), bias)


@primitive
def _conv2d(x, w, *, windows, groups):
    columns = _columns(x, windows, groups)
    return (
        _correlate(w, columns, windows, groups),
        lambda g: _back(g, w, windows, groups),
        lambda g: _by_weight(g, columns, w.shape, groups),
    )


@primitive
def _conv_transpose2d(x, w, *, windows, groups):
    (columns,) = shared(lambda g: (_columns(g, windows, groups),), 1)
    return (
        _back(x, w, windows, groups),
        lambda g: _correlate(w, columns(g), windows, groups),
        lambda g: _by_weight(x, columns(g), w.shape, groups),
    )


def _columns(x, windows, groups):
    columns = linear_map(windows.unfold, windows.fold, x)  # (N, C, KH*KW, OH, OW)
    n, c, k, *outputs = columns.shape
    return columns.reshape(n, groups, c // groups * k, math.prod(outputs))


def _correlate(w, columns, windows, groups):
    y = _matrix(w, groups) @ columns  # (N, G, O/G, OH*OW)
    return y.reshape(y.shape[0], w.shape[0], *windows.outputs)


def _back(g, w, windows, groups):
    columns = _matrix(w, groups).mT @ _grouped(g, groups)
    columns = columns.reshape(g.shape[0], w.shape[1] * groups, math.prod(windows.kernel), *windows.outputs)
    return linear_map(windows.fold, windows.unfold, columns)


def _by_weight(g, columns, shape, groups):
    return (_grouped(g, groups) @ columns.mT).sum(axis=0).reshape(shape)


def _matrix(w, groups):
    return w.reshape(groups, w.shape[0] // groups, math.prod(w.shape[1:]))  # (G, O/G, C/G*KH*KW)


def _grouped(g, groups):
    return g.reshape(g.shape[0], groups, g.shape[1] // groups, math.prod(g.shape[2:]))  # (N, G, O/G, OH*OW)


def _biased(y, bias):
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _fitting(name, x, weight, bias, axis, groups, rank=4):
    """Refuse what does not fit: `axis` of the weight has the inputs' channels, of one group if it is axis 1."""
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{name}: groups is an integer of at least 1, got {groups!r}")
    channels = weight.shape[axis] * (groups if axis else 1) if weight.ndim == rank else 0
    if x.ndim != rank or x.shape[1] != channels or weight.shape[0] % groups:
        seen = f"an image {tuple(x.shape)} and a weight {tuple(weight.shape)} with groups={groups}"
        todo = f"the weight expects {channels} channels, and groups of equal size"
        raise ValueError(f"{name}: {seen} do not fit together: {todo}")
    outputs = weight.shape[0] if axis else weight.shape[1] * groups
    if bias is not None and math.prod(shape_of(bias)) != outputs:
        raise ValueError(f"{name}: the bias has one number for each of {outputs} outputs, got {shape_of(bias)}")
