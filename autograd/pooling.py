"""Pooling over windows of images (N, C, H, W), by strided slices: one for each place in the window."""

import math

import numpy as np

from autograd.convolution import _tuple
from autograd.core import Tensor, primitive
from autograd.core import innermost as raw
from autograd.reductions import mean
from autograd.shapes import concatenate


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """The largest value in each window; the gradient goes to the first one that is as large.

    x (N, C, H, W) or (C, H, W). stride defaults to the kernel size; ceil_mode keeps windows that hang over the edge.
    """
    return _pooled("max_pool2d", _max_pool, x, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The mean of each window; with count_include_pad the zeros of the padding count as elements."""

    def pool(x, *, windows):
        counts = divisor_override or windows.counts(count_include_pad)
        return _sum_pool(x, windows=windows) * np.asarray(1.0 / np.asarray(counts), dtype=raw(x).dtype)

    return _pooled("avg_pool2d", pool, x, kernel_size, stride, padding, 1, ceil_mode)


def adaptive_avg_pool2d(x, output_size):
    """Means over OH x OW regions that divide the image as evenly as they can; None keeps a length."""
    height, width = (n if m is None else m for n, m in zip(x.shape[-2:], _tuple(output_size, 2)))
    if x.shape[-2] % height == 0 and x.shape[-1] % width == 0:
        return avg_pool2d(x, (x.shape[-2] // height, x.shape[-1] // width))
    rows = [mean(x[..., part, :], -2, True) for part in _regions(x.shape[-2], height)]
    x = concatenate(rows, -2)
    return concatenate([mean(x[..., part], -1, True) for part in _regions(x.shape[-1], width)], -1)


def _regions(length, count):
    return [slice(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def _pooled(name, pool, x, kernel, stride, padding, dilation, ceil_mode):
    if len(x.shape) == 3:
        return _pooled(name, pool, x.reshape(1, *x.shape), kernel, stride, padding, dilation, ceil_mode)[0]
    kernel = _tuple(kernel, 2)
    stride = kernel if stride is None or stride == () else _tuple(stride, 2)
    windows = _Windows(kernel, stride, _tuple(padding, 2), _tuple(dilation, 2), ceil_mode, x.shape[2:])
    if min(windows.outputs) < 1 or any(2 * p > k for p, k in zip(windows.padding, kernel)):
        raise ValueError(
            f"{name}: windows {kernel} with padding {windows.padding} do not fit an image {tuple(x.shape[2:])}: "
            f"the padding is at most half a window, the window at most the padded image"
        )
    return pool(x, windows=windows)


class _Windows:
    """Where the windows of a pooling lie: output size, and for each place in the window the slices of the image."""

    def __init__(self, kernel, stride, padding, dilation, ceil_mode, size):
        self.kernel, self.stride, self.padding, self.dilation, self.size = kernel, stride, padding, dilation, size
        self.outputs = tuple(map(self._outputs, range(2), (ceil_mode, ceil_mode)))
        # How far the last window reaches over the padded image: only with ceil_mode.
        reach = [s * (o - 1) + d * (k - 1) + 1 for s, o, d, k in zip(stride, self.outputs, dilation, kernel)]
        self.over = tuple(max(0, r - n - 2 * p) for r, n, p in zip(reach, size, padding))

    def _outputs(self, axis, ceil_mode):
        n, p, s = self.size[axis], self.padding[axis], self.stride[axis]
        room = n + 2 * p - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        count = (math.ceil(room / s) if ceil_mode else room // s) + 1
        return count - (ceil_mode and (count - 1) * s >= n + p)  # a window may not begin in the padding at the end

    @property
    def plain(self):
        return not any((*self.padding, *self.over))

    def pad(self, x, value):
        if self.plain:
            return x
        (p, q), (h, w), (more, wide) = self.padding, self.size, self.over
        out = np.full((*x.shape[:2], h + 2 * p + more, w + 2 * q + wide), value, x.dtype)
        out[:, :, p : p + h, q : q + w] = x
        return out

    def crop(self, x):
        return x if self.plain else x[:, :, self.padding[0] :, self.padding[1] :][:, :, : self.size[0], : self.size[1]]

    def taps(self):
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield (slice(None), slice(None)) + tuple(
                    slice(at * d, at * d + s * (o - 1) + 1, s)
                    for at, d, s, o in zip((i, j), self.dilation, self.stride, self.outputs)
                )

    def counts(self, include_padding):
        """How many elements each window averages over: those of the padding too, but none beyond it."""
        sides = []
        for axis in range(2):
            n, p = self.size[axis], self.padding[axis]
            start = np.arange(self.outputs[axis]) * self.stride[axis] - p
            stop = np.minimum(start + self.kernel[axis], n + p)
            sides.append(stop - start if include_padding else np.minimum(stop, n) - np.maximum(start, 0))
        return sides[0][:, None] * sides[1]


@primitive
def _sum_pool(x, *, windows):
    return _on_arrays(_sums, _spread, x, windows), lambda g: _on_arrays(_spread, _sums, g, windows)


@primitive
def _linear(a, *, forward, transposed, windows):
    return forward(a, windows), lambda g: _on_arrays(transposed, forward, g, windows)


def _on_arrays(forward, transposed, a, windows):
    """A linear map of arrays; of a Tensor one level down as a primitive whose vjp is the transposed map."""
    if type(a) is Tensor:
        return _linear(a, forward=forward, transposed=transposed, windows=windows)
    return forward(a, windows)


def _sums(x, windows):
    x = windows.pad(x, 0.0)
    y = None
    for tap in windows.taps():
        y = x[tap].copy() if y is None else np.add(y, x[tap], out=y)
    return y


def _spread(g, windows):
    """Each output's number to every element of its window: the transpose of `_sums`."""
    x = windows.pad(np.zeros((*g.shape[:2], *windows.size), g.dtype), 0.0)
    for tap in windows.taps():
        x[tap] += g
    return windows.crop(x)


@primitive
def _max_pool(x, *, windows):
    array = windows.pad(raw(x), -np.inf)
    taps = list(windows.taps())
    y = array[taps[0]].copy()
    for tap in taps[1:]:
        np.maximum(y, array[tap], out=y)

    def firsts():
        """For each place in the window, where it holds the window's first largest value."""
        left = np.ones(y.shape, bool)
        for tap in taps:
            first = (array[tap] == y) & left
            left &= ~first
            yield tap, first

    def pick(x, windows):
        x = windows.pad(x, 0.0)
        return sum(x[tap] * first for tap, first in firsts())

    def put(g, windows):
        x = windows.pad(np.zeros((*g.shape[:2], *windows.size), g.dtype), 0.0)
        for tap, first in firsts():
            x[tap] += g * first
        return windows.crop(x)

    value = _on_arrays(pick, put, x, windows) if type(x) is Tensor else y
    return value, lambda g: _on_arrays(put, pick, g, windows)
