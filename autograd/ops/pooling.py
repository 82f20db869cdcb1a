"""Pooling over windows of images (..., H, W): for each place in the window, a strided slice has its elements."""

import math

import numpy as np

from allgrad.autograd.arrays import astype, kind, to_backend_of, xp
from allgrad.autograd.engine import Tensor, linear_map, primitive, unwrap
from allgrad.autograd.ops.reductions import mean
from allgrad.autograd.ops.shapes import concatenate
from allgrad.autograd.ops.windows import pair, windows_over


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest value in each window; the gradient goes to the first one that is as large.

    x (N, C, H, W) or (C, H, W). stride defaults to the kernel size; ceil_mode keeps windows that hang over the edge.
    return_indices adds an array of where the values were in the flattened image.
    """
    windows = _windows("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    y = _max_pool(x, windows=windows)
    if not return_indices:
        return y
    places = to_backend_of(np.arange(x.shape[-2] * x.shape[-1]).reshape(x.shape[-2:]), unwrap(x))
    return y, _pick(places, windows, _largest(unwrap(x), windows)[1])


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The mean of each window of x (N, C, H, W) or (C, H, W).

    With count_include_pad the zeros of the padding count as elements; divisor_override is divided by instead of the
    number of elements. The other arguments are those of `max_pool2d`.
    """
    windows = _windows("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    y = _sum_pool(x, windows=windows)
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override must not be 0: leave it out to divide by the window's size")
    if divisor_override is not None:
        return y / divisor_override
    if not windows.padded:
        return y / (windows.kernel[0] * windows.kernel[1])
    return y / astype(to_backend_of(_counts(windows, pair(padding), count_include_pad), unwrap(x)), x.dtype)


def adaptive_avg_pool2d(x, output_size):
    """Means over OH x OW regions of x (..., H, W), of sizes as equal as can be; output_size is OH or (OH, OW).

    None in the place of a number keeps the length of the image.
    """
    if x.ndim < 2 or not all(m is None or m >= 1 for m in pair(output_size)):
        seen = f"adaptive_avg_pool2d: {output_size} regions of a shape {tuple(x.shape)}"
        raise ValueError(f"{seen}: give at least 1 of an image")
    height, width = (n if m is None else m for n, m in zip(x.shape[-2:], pair(output_size)))
    if x.shape[-2] % height == 0 and x.shape[-1] % width == 0:
        return avg_pool2d(x, (x.shape[-2] // height, x.shape[-1] // width))
    rows = [mean(x[..., part, :], -2, True) for part in _regions(x.shape[-2], height)]
    x = concatenate(rows, -2)
    return concatenate([mean(x[..., part], -1, True) for part in _regions(x.shape[-1], width)], -1)


def _regions(length, count):
    return [slice(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def _windows(name, x, kernel, stride, padding, dilation, ceil_mode):
    stride = kernel if stride is None or (isinstance(stride, tuple) and not stride) else stride
    if x.ndim not in (3, 4):
        raise ValueError(f"{name}: needs images (N, C, H, W) or (C, H, W), got a shape {tuple(x.shape)}")
    windows = windows_over(name, x.shape[-2:], kernel, stride, padding, dilation, ceil_mode)
    if any(2 * p > d * (k - 1) + 1 for p, d, k in zip(pair(padding), windows.dilation, windows.kernel)):
        raise ValueError(f"{name}: padding {padding} is more than half of the windows {windows.kernel}")
    return windows


def _counts(windows, padding, include_padding):
    """How many elements each window averages over: those of the padding too, but none beyond it."""
    sides = []
    for n, p, k, s, outputs in zip(windows.size, padding, windows.kernel, windows.stride, windows.outputs):
        start = np.arange(outputs) * s - p
        stop = np.minimum(start + k, n + p)
        sides.append(stop - start if include_padding else np.minimum(stop, n) - np.maximum(start, 0))
    return sides[0][:, None] * sides[1]


@primitive
def _sum_pool(x, *, windows):
    return linear_map(_sums, _spread, x, windows), lambda g: linear_map(_spread, _sums, g, windows)


def _sums(x, windows):
    """The sum of each window: first over its rows, then over the columns of what that leaves."""
    x = windows.pad(x)
    for first, *others in windows.sides:
        y = x[first]
        for part in others:
            y = y + x[part]
        x = y
    return x


def _spread(g, windows):
    """Each output's number to every element of its window: the transpose of `_sums`."""
    for parts, n in ((windows.sides[1], windows.outputs[0]), (windows.sides[0], None)):
        x = windows.blank(g, rows=n)
        for part in parts:
            if windows.disjoint:
                x[part] = g
            else:
                x[part] += g
        g = x
    return windows.crop(g)


@primitive
def _max_pool(x, *, windows):
    y, places = _largest(unwrap(x), windows)
    value = _max_pool(x, windows=windows) if type(x) is Tensor else y
    return value, lambda g: linear_map(_put, _pick, g, windows, places)


def _largest(x, windows):
    """The largest value in each window, and which of its places has it first; nan if one is, at the last of them."""
    x = windows.pad(x, lowest(x))
    n, (first, *others) = xp[type(x)], windows.taps
    y = n.copy(x[first])
    places = y > y  # zeros, in the memory order of y
    for k, tap in enumerate(others, 1):
        places = n.maximum(places, (x[tap] > y) * (np.uint8 if len(others) < 256 else np.int32)(k))
        n.maximum(y, x[tap], out=y)
    if (nan := y != y).any():
        for k, tap in enumerate(windows.taps):
            places[nan & (x[tap] != x[tap])] = k
    return y, places


def lowest(x):
    """Less than all values of x's dtype, or the least of them if it is one of integers."""
    return -math.inf if kind(x.dtype) in "fc" else -(2 ** (8 * x.dtype.itemsize - 1)) if kind(x.dtype) == "i" else 0


def _pick(x, windows, places):
    """The elements of x at these places of the windows."""
    x = windows.pad(x)
    return sum(x[tap] * (places == k) for k, tap in enumerate(windows.taps))


def _put(g, windows, places):
    """The transpose of `_pick`."""
    x = windows.blank(g)
    for k, tap in enumerate(windows.taps):
        if windows.disjoint:
            xp[type(g)].multiply(g, places == k, out=x[tap])
        else:
            x[tap] += g * (places == k)
    return windows.crop(x)
