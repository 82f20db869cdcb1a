"""Convolutions, as matrix products over columns of patches; images are (N, C, H, W), weights (O, C / groups, KH, KW).

Consider f(x, w, y) = sum of y[n,o,i,j] w[o,c,k,l] x[n,c,i+k,j+l] over all indices, which is linear in x, in w and in y.
Its three partial derivatives are the three maps of this file, and the vjps of each are the other two:

df/dy     the convolution of x with w                   `_correlate`
df/dx     the transposed convolution of y with w        `_transpose`
df/dw     the gradient by the weight, of x and y        `_by_weight`

All are products with columns of patches. With G groups, those of images (N, C, H, W) are an array of shape
(OH, G, KH * C/G * KW, OW * N): a matrix for each row of outputs, with a column for each output. The weight is
matrices W (G, O/G, KH * C/G * KW).

df/dy     W @ columns of x
df/dw     y @ columns^T of x, summed over the rows of outputs
df/dx     W^T @ y are columns, each added to where that of x would be taken
"""

import math

import numpy as np

from allgrad.autograd.arrays import NUMPY_TYPES, kind
from allgrad.autograd.engine import Tensor, primitive, shape_of
from allgrad.autograd.ops.shapes import unsqueeze
from allgrad.autograd.ops.windows import TO_NCHW, Pair, Windows, pair, to_hcwn, windows_over


def conv2d(x, weight, bias=None, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, groups=1):
    """Cross-correlation of images x (N, C, H, W) or (C, H, W) with weight (O, C / groups, KH, KW); bias (O,) or None.

    stride, padding and dilation are integers or pairs; padding also "valid" (none) or "same" (outputs as large as the
    inputs, stride 1 only). The output is (N, O, OH, OW), OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1.
    """
    return _correlation("conv2d", x, weight, bias, stride, padding, dilation, groups)


def _correlation(name, x, weight, bias, stride, padding, dilation, groups):
    if x.ndim == 3:
        return _correlation(name, unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)[0]
    _check_shapes(name, x, weight, bias, 1, groups)
    windows = windows_over(name, x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _conv2d(x, weight, bias, windows=windows, groups=groups)


def conv1d(x, weight, bias=None, stride=1, padding: Pair | str = 0, dilation=1, groups=1):
    """Cross-correlation of signals x (N, C, L) or (C, L) with weight (O, C / groups, K): `conv2d` of height 1."""
    if x.ndim == 2:
        return conv1d(unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)[0]
    _check_shapes("conv1d", x, weight, bias, 1, groups, rank=3)
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
    _check_shapes("conv_transpose2d", x, weight, bias, 0, groups)
    if isinstance(padding, str):
        raise TypeError(f"conv_transpose2d: padding is an integer or a pair of them, not {padding!r}")
    options = list(zip(x.shape[2:], weight.shape[2:], *map(pair, (stride, padding, dilation, output_padding))))
    if any(not 0 <= extra < max(s, d) for *_, s, _, d, extra in options):
        limits = f"stride {stride} or dilation {dilation}"
        raise ValueError(f"conv_transpose2d: output_padding {output_padding} must be below {limits}")
    size = [(n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in options]
    if min(size) < 1:
        raise ValueError(f"conv_transpose2d: padding {padding} leaves an image {tuple(size)} of {tuple(x.shape)}")
    most = windows_over("conv_transpose2d", size, weight.shape[2:], stride, padding, dilation)
    # output_padding may have made room for more outputs than there are
    windows = Windows(most.size, most.kernel, most.stride, most.padding, most.dilation, tuple(x.shape[2:]))
    return _conv_transpose2d(x, weight, bias, windows=windows, groups=groups)


@primitive
def _conv2d(x, w, bias, *, windows, groups):
    return (
        _correlate(x, w, bias, windows, groups),
        lambda g: _transpose(g, w, None, windows, groups),
        lambda g: _by_weight(g, x, windows, groups),
        _by_bias,
    )


@primitive
def _conv_transpose2d(g, w, bias, *, windows, groups):
    return (
        _transpose(g, w, bias, windows, groups),
        lambda x: _correlate(x, w, None, windows, groups),
        lambda x: _by_weight(g, x, windows, groups),
        _by_bias,
    )


@primitive
def _conv2d_by_weight(g, x, *, windows, groups):
    return (
        _by_weight(g, x, windows, groups),
        lambda w: _correlate(x, w, None, windows, groups),
        lambda w: _transpose(g, w, None, windows, groups),
    )


# Each of the three maps, of arrays; of Tensors the operation, which can be differentiated again.


def _correlate(x, w, bias, windows, groups):
    if Tensor in map(type, (x, w, bias)):
        return _conv2d(x, w, bias, windows=windows, groups=groups)
    y = _matrix(w, groups) @ windows.columns(x, groups)  # (OH, G, O/G, OW * N)
    if bias is not None:
        y += bias.reshape(groups, len(w) // groups, 1)
    height, width = windows.outputs
    return y.reshape(height, len(w), width, len(x)).transpose(TO_NCHW)


def _transpose(g, w, bias, windows, groups):
    if Tensor in map(type, (g, w, bias)):
        return _conv_transpose2d(g, w, bias, windows=windows, groups=groups)
    x = windows.fold(_matrix(w, groups).mT, _rows(g, groups))
    if bias is not None:
        x += bias.reshape(-1, 1, 1)
    return x


def _by_weight(g, x, windows, groups):
    if type(g) is Tensor or type(x) is Tensor:
        return _conv2d_by_weight(g, x, windows=windows, groups=groups)
    o, c, (kh, kw) = g.shape[1], x.shape[1] // groups, windows.kernel
    d = (_rows(g, groups) @ windows.columns(x, groups).mT).sum(axis=0)  # (G, O/G, KH * C/G * KW)
    return d.reshape(o, kh, c, kw).swapaxes(1, 2)


def _by_bias(g):
    return np.einsum("hown->o", to_hcwn(g)) if type(g) in NUMPY_TYPES else g.sum(axis=(0, 2, 3))


def _matrix(w, groups):
    """The weight (O, C/G, KH, KW) as (G, O/G, KH * C/G * KW)."""
    o, c, kh, kw = w.shape
    return w.swapaxes(1, 2).reshape(groups, o // groups, kh * c * kw)


def _rows(g, groups):
    """Outputs (N, O, OH, OW) as (OH, G, O/G, OW * N)."""
    n, o, oh, ow = g.shape
    return to_hcwn(g).reshape(oh, groups, o // groups, ow * n)


def _check_shapes(name, x, weight, bias, axis, groups, rank=4):
    """ValueError if shapes do not fit; `axis` of the weight has the channels of x, or those of one group if it is 1."""
    if not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"{name}: groups is an integer of at least 1, got {groups!r}")
    channels = weight.shape[axis] * (groups if axis else 1) if weight.ndim == rank else 0
    if x.ndim != rank or x.shape[1] != channels or weight.shape[0] % groups:
        seen = f"an image {tuple(x.shape)} and a weight {tuple(weight.shape)} with groups={groups}"
        todo = f"the weight expects {channels} channels, and groups of equal size"
        raise ValueError(f"{name}: {seen} do not fit together: {todo}")
    if kind(x.dtype) != "f" and "f" in {kind(a.dtype) for a in (weight, bias) if a is not None}:
        dtypes = ", ".join(str(a.dtype) for a in (x, weight, bias) if a is not None)
        raise TypeError(f"{name}: image, weight and bias are of {dtypes}: convert the integers to floating numbers")
    outputs = weight.shape[0] if axis else weight.shape[1] * groups
    if bias is not None and math.prod(shape_of(bias)) != outputs:
        raise ValueError(f"{name}: the bias has one number for each of {outputs} outputs, got {shape_of(bias)}")
