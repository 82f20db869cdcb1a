"""Convolution and pooling of signals (L) and volumes (D, H, W), by those of images (H, W).

A signal is an image of height 1. A window over a volume is a row of KD windows over images: their products with
weights, their sums and their maxima are put together along the depth.
"""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import astype, max_keepdims, on_cpu, to_backend_of, xp
from allgrad.autograd.engine import unwrap
from allgrad.autograd.ops.convolution import conv2d, conv_transpose2d
from allgrad.autograd.ops.elementwise import abs, sign
from allgrad.autograd.ops.indexing import take_along_dim
from allgrad.autograd.ops.pooling import _regions, adaptive_avg_pool2d, avg_pool2d, max_pool2d
from allgrad.autograd.ops.reductions import argmax
from allgrad.autograd.ops.shapes import concatenate, pad, permute, reshape, stack, unsqueeze

Triple = int | tuple


def _each(name, value, axes) -> Any:
    """(v, v, v) for v, for 3 axes; a tuple of as many as it is."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    value = value * axes if len(value) == 1 else value
    if len(value) != axes or not all(isinstance(n, (int, np.integer)) for n in value):
        raise TypeError(f"{name}: kernels, strides and paddings are {axes} integers, or one for all axes, got {value}")
    return value


def _batched(name, x, axes):
    """x with an axis for the batch, and whether it had none."""
    if x.ndim not in (axes + 1, axes + 2):
        wanted = "(N, C, L) or (C, L)" if axes == 1 else "(N, C, D, H, W) or (C, D, H, W)"
        raise ValueError(f"{name}: needs x {wanted}, got {tuple(x.shape)}")
    return (unsqueeze(x, 0), True) if x.ndim == axes + 1 else (x, False)


# --- convolution -----------------------------------------------------------------------------------------------


def conv3d(
    x, weight, bias=None, stride: Triple = 1, padding: Triple | str = 0, dilation: Triple = 1, groups=1
):  # fmt: skip
    """Cross-correlation of volumes x (N, C, D, H, W) or (C, D, H, W) with weight (O, C / groups, KD, KH, KW).

    The options are those of `conv2d`, for three axes.
    """
    x, single = _batched("conv3d", x, 3)
    _check_channels("conv3d", x, weight, weight.shape[1] * groups if weight.ndim == 5 else 0)
    strides, dilations = _each("conv3d", stride, 3), _each("conv3d", dilation, 3)
    depth, apart = strides[0], dilations[0]
    n, c, _, h, w = x.shape
    o, by_group, kd, kh, kw = weight.shape
    if isinstance(padding, str):
        around: tuple = (apart * (kd - 1) // 2, -(-apart * (kd - 1) // 2)) if padding == "same" else (0, 0)
        if padding == "same" and depth != 1:
            raise ValueError(f'conv3d: padding "same" needs stride 1, got {depth} along the depth')
    else:
        paddings = _each("conv3d", padding, 3)
        around, padding = (paddings[0], paddings[0]), paddings[1:]
    x = pad(x, (0, 0, 0, 0, *around)) if any(around) else x
    outputs = (x.shape[2] - apart * (kd - 1) - 1) // depth + 1
    if outputs < 1 or depth < 1 or apart < 1:
        seen = f"a depth of {x.shape[2]} with kernel {kd}, stride {depth} and dilation {apart}"
        raise ValueError(f"conv3d: {seen} has no window: all are at least 1, and the kernel fits")
    starts = [slice(k * apart, k * apart + (outputs - 1) * depth + 1, depth) for k in range(kd)]
    frames = stack([x[:, :, at] for at in starts], 2)  # (N, C, KD, OD, H, W)
    frames = reshape(permute(frames, 0, 3, 1, 2, 4, 5), (n * outputs, c * kd, h, w))
    y = conv2d(frames, reshape(weight, (o, by_group * kd, kh, kw)), bias, strides[1:], padding, dilations[1:], groups)
    y = permute(reshape(y, (n, outputs, *y.shape[1:])), 0, 2, 1, 3, 4)
    return y[0] if single else y


def conv_transpose1d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The transpose of `conv1d` as a linear map: `conv_transpose2d` of height 1; weight (C, O / groups, K)."""
    name = "conv_transpose1d"
    x, single = _batched(name, x, 1)
    _check_channels(name, x, weight, weight.shape[0])
    stride, dilation = (1, *_each(name, stride, 1)), (1, *_each(name, dilation, 1))
    padding, extra = (0, *_each(name, padding, 1)), (0, *_each(name, output_padding, 1))
    x, weight = unsqueeze(x, -2), unsqueeze(weight, -2)
    y = conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)[..., 0, :]
    return y[0] if single else y


def conv_transpose3d(
    x, weight, bias=None, stride: Triple = 1, padding: Triple = 0, output_padding: Triple = 0, groups=1,
    dilation: Triple = 1,
):  # fmt: skip
    """The transpose of `conv3d` as a linear map; weight (C, O / groups, KD, KH, KW). See `conv_transpose2d`."""
    name = "conv_transpose3d"
    x, single = _batched(name, x, 3)
    _check_channels(name, x, weight, weight.shape[0])
    sides = [_each(name, side, 3) for side in (stride, padding, output_padding, dilation)]
    depth, before, extra, apart = (side[0] for side in sides)
    strides, paddings, extras, dilations = (side[1:] for side in sides)
    n, c, d, h, w = x.shape
    _, by_group, kd, kh, kw = weight.shape
    outputs = (d - 1) * depth - 2 * before + apart * (kd - 1) + extra + 1
    if min(depth, apart, outputs) < 1 or not 0 <= extra < max(depth, apart):
        seen = f"a depth of {d} with stride {depth}, padding {before}, dilation {apart} and output_padding {extra}"
        raise ValueError(f"{name}: {seen}: gives {outputs}, and output_padding is below the stride or the dilation")
    frames = reshape(permute(x, 0, 2, 1, 3, 4), (n * d, c, h, w))
    weight = reshape(weight, (c, by_group * kd, kh, kw))
    y = conv_transpose2d(frames, weight, None, strides, paddings, extras, groups, dilations)
    size = y.shape[2:]
    y = reshape(y, (n, d, 1, by_group * groups, kd, *size))
    y = pad(y, (0, 0) * 4 + (0, depth - 1)) if depth > 1 else y  # frames of zeros between those of x
    y = reshape(y, (n, d * depth, by_group * groups, kd, *size))
    length = apart * (kd - 1) + extra
    parts = [pad(y[:, :, :, k], (0, 0) * 3 + (k * apart, length - k * apart)) for k in range(kd)]
    y = permute(sum(parts[1:], parts[0])[:, before : before + outputs], 0, 2, 1, 3, 4)
    y = y if bias is None else y + bias.reshape(-1, 1, 1, 1)
    return y[0] if single else y


def _check_channels(name, x, weight, channels):
    if weight.ndim != x.ndim or x.shape[1] != channels:
        seen = f"x {tuple(x.shape)} and a weight {tuple(weight.shape)}"
        raise ValueError(f"{name}: {seen} do not fit together: the weight expects {channels} channels")


# --- pooling ---------------------------------------------------------------------------------------------------


def _flat(name, x, function):
    """The function of images of height 1 applied to signals x."""
    x, single = _batched(name, x, 1)
    y = function(unsqueeze(x, -2))
    y = tuple(part[..., 0, :] for part in y) if isinstance(y, tuple) else y[..., 0, :]
    return y if not single else tuple(part[0] for part in y) if isinstance(y, tuple) else y[0]


def _stride(name, stride, kernel, axes):
    return kernel if stride is None or (isinstance(stride, tuple) and not stride) else _each(name, stride, axes)


def max_pool1d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest value in each window of signals x (N, C, L) or (C, L): see `max_pool2d`."""
    name, kernel = "max_pool1d", _each("max_pool1d", kernel_size, 1)
    sides = _stride(name, stride, kernel, 1), _each(name, padding, 1), _each(name, dilation, 1)
    options: Any = [(first, *side) for first, side in zip((1, 1, 0, 1), (kernel, *sides))]
    k, s, p, d = options
    return _flat(name, x, lambda x: max_pool2d(x, k, s, p, d, ceil_mode, return_indices))


def avg_pool1d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of each window of signals x (N, C, L) or (C, L): see `avg_pool2d`."""
    name, kernel = "avg_pool1d", _each("avg_pool1d", kernel_size, 1)
    sides = _stride(name, stride, kernel, 1), _each(name, padding, 1)
    options: Any = [(first, *side) for first, side in zip((1, 1, 0), (kernel, *sides))]
    k, s, p = options
    return _flat(name, x, lambda x: avg_pool2d(x, k, s, p, ceil_mode, count_include_pad))


def max_pool3d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest value in each window of volumes x (N, C, D, H, W) or (C, D, H, W): see `max_pool2d`."""
    x, single = _batched("max_pool3d", x, 3)
    kernel = _each("max_pool3d", kernel_size, 3)
    sides = kernel, _stride("max_pool3d", stride, kernel, 3), *(_each("max_pool3d", s, 3) for s in (padding, dilation))
    n, c, d, h, w = x.shape
    within: Any = [side[1:] for side in sides]
    k, s, p, apart = within
    y, places = max_pool2d(reshape(x, (n, c * d, h, w)), k, s, p, apart, ceil_mode, True)
    size = y.shape[2:]
    y = reshape(y, (n, c, d, size[0] * size[1]))
    along: Any = [(side[0], other) for side, other in zip(sides, (1, 1, 0, 1))]
    k, s, p, apart = along
    y, rows = max_pool2d(y, k, s, p, apart, ceil_mode, True)
    shape = (n, c, y.shape[2], *size)
    y = reshape(y, shape)[0] if single else reshape(y, shape)
    if not return_indices:
        return y
    rows = rows.reshape(n, c, -1)  # which frame, and which place of it
    places = unwrap(take_along_dim(places.reshape(n, c, -1), rows, -1)) + rows // (size[0] * size[1]) * (h * w)
    return y, places.reshape(shape)[0] if single else places.reshape(shape)


def avg_pool3d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The mean of each window of volumes x (N, C, D, H, W) or (C, D, H, W): see `avg_pool2d`."""
    x, single = _batched("avg_pool3d", x, 3)
    kernel = _each("avg_pool3d", kernel_size, 3)
    sides = kernel, _stride("avg_pool3d", stride, kernel, 3), _each("avg_pool3d", padding, 3)
    n, c, d, h, w = x.shape
    within: Any = [side[1:] for side in sides]
    k, s, p = within
    divisor = None if divisor_override is None else 1
    y = avg_pool2d(reshape(x, (n, c * d, h, w)), k, s, p, ceil_mode, count_include_pad, divisor)
    size = y.shape[2:]
    along: Any = [(side[0], other) for side, other in zip(sides, (1, 1, 0))]
    k, s, p = along
    y = reshape(y, (n, c, d, size[0] * size[1]))
    y = avg_pool2d(y, k, s, p, ceil_mode, count_include_pad, divisor_override)
    y = reshape(y, (n, c, y.shape[2], *size))
    return y[0] if single else y


def adaptive_avg_pool1d(x, output_size):
    """Means over regions of signals x (N, C, L) or (C, L), of lengths as equal as can be."""
    (length,) = _sizes("adaptive_avg_pool1d", x, output_size, 1)
    return _flat("adaptive_avg_pool1d", x, lambda x: adaptive_avg_pool2d(x, (1, length)))


def adaptive_avg_pool3d(x, output_size):
    """Means over OD x OH x OW regions of volumes x (N, C, D, H, W) or (C, D, H, W): see `adaptive_avg_pool2d`."""
    x, single = _batched("adaptive_avg_pool3d", x, 3)
    depth, *size = _sizes("adaptive_avg_pool3d", x, output_size, 3)
    n, c, d, h, w = x.shape
    y = reshape(adaptive_avg_pool2d(reshape(x, (n, c * d, h, w)), (*size,)), (n, c, d, size[0] * size[1]))
    y = reshape(adaptive_avg_pool2d(y, (depth, size[0] * size[1])), (n, c, depth, *size))
    return y[0] if single else y


def adaptive_max_pool1d(x, output_size, return_indices=False):
    """The largest values in regions of signals x (N, C, L) or (C, L), of lengths as equal as can be."""
    return _adaptive_max("adaptive_max_pool1d", x, output_size, return_indices, 1)


def adaptive_max_pool2d(x, output_size, return_indices=False):
    """The largest values in OH x OW regions of x (N, C, H, W) or (C, H, W): see `adaptive_avg_pool2d`.

    The gradient goes to the first that is as large. return_indices adds where they were in the flattened image.
    """
    return _adaptive_max("adaptive_max_pool2d", x, output_size, return_indices, 2)


def adaptive_max_pool3d(x, output_size, return_indices=False):
    """The largest values in OD x OH x OW regions of x (N, C, D, H, W) or (C, D, H, W): see `adaptive_max_pool2d`."""
    return _adaptive_max("adaptive_max_pool3d", x, output_size, return_indices, 3)


def _adaptive_max(name, x, output_size, return_indices, axes):
    sizes = _sizes(name, x, output_size, axes)
    places, span = to_backend_of(np.zeros((1,) * x.ndim, np.int64), unwrap(x)), 1  # of the values in the flat x
    for axis in range(-1, -axes - 1, -1):
        values, indices, length = [], [], x.shape[axis]
        for region in _regions(length, sizes[axis]):
            here = (..., region, *(slice(None),) * (-axis - 1))
            at = _first_largest(unwrap(x[here]), axis)
            value = take_along_dim(x[here], at, axis)
            within = places if span == 1 else unwrap(take_along_dim(places[here], at, axis))
            values.append(value)
            indices.append(within + (at + region.start) * span)
        x, places, span = concatenate(values, axis), unwrap(concatenate(indices, axis)), span * length
    return (x, places) if return_indices else x


def _first_largest(x, axis):
    """The index along the axis of the first of the largest values, or of the last nan; the axis is kept."""
    at, nan = argmax(x, axis, True), astype(x != x, "uint8")
    if not on_cpu(nan) or nan.any():
        found: Any = max_keepdims(nan, axis)
        last = x.shape[axis] - 1 - argmax(xp[type(x)].flip(nan, axis), axis, True)
        at = xp[type(x)].where(found > 0, last, at)
    return at


def _sizes(name, x, output_size, axes):
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    sizes = tuple(n if m is None else m for n, m in zip(x.shape[-axes:], sizes)) if len(sizes) == axes else ()
    if x.ndim not in (axes + 1, axes + 2) or not sizes or min(sizes) < 1:
        seen = f"{output_size} regions of x {tuple(x.shape)}"
        raise ValueError(f"{name}: {seen}: it needs at least 1 along each of {axes} axes")
    return sizes


def lp_pool1d(x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """The p-norm of each window of signals x (N, C, L) or (C, L), with p = norm_type."""
    return _lp_pool(avg_pool1d(x**norm_type, kernel_size, stride, 0, ceil_mode), norm_type, kernel_size, 1)


def lp_pool2d(x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """The p-norm of each window of images x (N, C, H, W) or (C, H, W), with p = norm_type."""
    return _lp_pool(avg_pool2d(x**norm_type, kernel_size, stride, 0, ceil_mode), norm_type, kernel_size, 2)


def _lp_pool(means, p, kernel, axes):
    return (sign(means) * abs(means) * float(np.prod(_each("lp_pool", kernel, axes)))) ** (1.0 / p)


# --- channels as places ----------------------------------------------------------------------------------------


def pixel_shuffle(x, upscale_factor):
    """(..., C r^2, H, W) as (..., C, H r, W r), r = upscale_factor: channels become places. Shi et al. 2016."""
    r, (*lead, c, h, w) = upscale_factor, x.shape
    if c % (r * r):
        raise ValueError(f"pixel_shuffle: {c} channels are no multiple of {r} * {r}")
    y = reshape(x, (math.prod(lead), c // (r * r), r, r, h, w))
    return reshape(permute(y, 0, 1, 4, 2, 5, 3), (*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(x, downscale_factor):
    """(..., C, H r, W r) as (..., C r^2, H, W), r = downscale_factor: the inverse of `pixel_shuffle`."""
    r, (*lead, c, h, w) = downscale_factor, x.shape
    if h % r or w % r:
        raise ValueError(f"pixel_unshuffle: an image of {h} x {w} is not of multiples of {r}")
    y = reshape(x, (math.prod(lead), c, h // r, r, w // r, r))
    return reshape(permute(y, 0, 1, 3, 5, 2, 4), (*lead, c * r * r, h // r, w // r))
