"""Images of other sizes: interpolation, channels laid out in space and back, patches as columns and back."""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import cast_like
from allgrad.autograd.engine import Tensor, unwrap
from allgrad.autograd.ops.arrangements import movedim
from allgrad.autograd.ops.indexing import getitem
from allgrad.autograd.ops.pooling import _regions
from allgrad.autograd.ops.reductions import mean
from allgrad.autograd.ops.scatter import _added
from allgrad.autograd.ops.shapes import concatenate, pad, permute, reshape, unsqueeze
from allgrad.autograd.ops.windows import pair

AXES = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}  # how many axes an image of the mode has
MODES = ("nearest", "nearest-exact", "area", *AXES)


def interpolate(a, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None):
    """Images a (N, C, ...) of 1, 2 or 3 axes in another size, or longer by a factor: a number, or one for each axis.

    mode: "nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic" (Keys 1981, with -0.75) or "area"
    (means). align_corners: the corners of both images are the same points, instead of their outer edges.
    recompute_scale_factor: places follow from the rounded sizes, instead of from the factor.
    """
    axes = a.ndim - 2
    if (
        mode not in MODES
        or axes not in (1, 2, 3)
        or AXES.get(mode, axes) != axes
        or (size is None) == (scale_factor is None)
    ):
        seen = f"size {size}, scale_factor {scale_factor} and mode {mode!r} for a shape {tuple(a.shape)}"
        raise ValueError(
            f"interpolate: takes size or scale_factor, and a mode that fits the axes after (N, C), got {seen}"
        )
    if align_corners is not None and mode not in AXES:
        raise ValueError(f"interpolate: align_corners is for the modes {', '.join(AXES)}, not for {mode!r}")
    each = lambda x: list(x) if isinstance(x, (list, tuple)) else [x] * axes
    lengths = a.shape[2:]
    sizes = each(size) if size is not None else [math.floor(n * f) for n, f in zip(lengths, each(scale_factor))]
    given = scale_factor is not None and not recompute_scale_factor
    steps = [1.0 / f for f in each(scale_factor)] if given else [n / max(m, 1) for n, m in zip(lengths, sizes)]
    if len(sizes) != axes or min(sizes) < 1:
        raise ValueError(f"interpolate: a shape {tuple(a.shape)} cannot have the size {tuple(sizes)}")
    for axis, (n, m, step) in enumerate(zip(lengths, sizes, steps), 2):
        before, after = (slice(None),) * axis, (1,) * (a.ndim - 1 - axis)
        if mode == "area":
            a = concatenate([mean(getitem(a, (*before, part)), axis, True) for part in _regions(n, m)], axis)
            continue
        y: Any = None
        for places, weights in _taps(mode, n, m, step, align_corners):
            part = getitem(a, (*before, places))
            part = part if weights is None else part * cast_like(weights, unwrap(a)).reshape((m, *after))
            y = part if y is None else y + part
        a = y
    return a


def _taps(mode, n, m, step, align_corners):
    """For m outputs from n inputs: which inputs to take, and with which weights, in turn."""
    i = np.arange(m)
    if n == m and step == 1.0:  # every place is one of the image's own
        return [(i, None)]
    if mode.startswith("nearest"):  # in float32, as torch does
        places = np.float32(step) * (i + (0.5 if mode == "nearest-exact" else 0.0)).astype(np.float32)
        return [(np.minimum(places.astype(int), n - 1), None)]
    at = i * ((n - 1) / (m - 1) if m > 1 else 0.0) if align_corners else (i + 0.5) * step - 0.5
    if mode != "bicubic":
        at = at.clip(0.0, None)
        low = np.minimum(np.floor(at).astype(int), n - 1)
        t = np.clip(at - low, 0.0, 1.0)
        return [(low, 1.0 - t), (np.minimum(low + 1, n - 1), t)]
    low = np.floor(at).astype(int)
    t, c = at - low, -0.75
    near = lambda x: ((c + 2) * x - (c + 3)) * x * x + 1
    far = lambda x: ((c * x - 5 * c) * x + 8 * c) * x - 4 * c
    weights = far(t + 1), near(t), near(1 - t), far(2 - t)
    return [((low + k).clip(0, n - 1), w) for k, w in zip((-1, 0, 1, 2), weights)]


def channel_shuffle(a, groups):
    """(N, C, ...) with the channels of all groups in turn. Zhang et al. 2018."""
    n, c, *rest = a.shape
    if c % groups:
        raise ValueError(f"channel_shuffle: {c} channels are no multiple of {groups} groups")
    y = reshape(a, (n, groups, c // groups, *rest))
    return reshape(permute(y, (0, 2, 1, *range(3, y.ndim))), (n, c, *rest))


def unfold(a, kernel_size, dilation=1, padding=0, stride=1):
    """The patches of images (N, C, H, W) as columns (N, C KH KW, L), L of them; or of one image (C, H, W)."""
    a, batched = (a, True) if a.ndim == 4 else (unsqueeze(a, 0), False)
    (top, left), kernel = pair(padding), pair(kernel_size)
    rows, columns = _patches("unfold", a.shape[2:], kernel, pair(dilation), (top, left), pair(stride))
    y = getitem(pad(a, (left, left, top, top)), (slice(None), slice(None), rows, columns))
    y = reshape(y, (a.shape[0], a.shape[1] * math.prod(kernel), rows.shape[1]))
    return y if batched else y[0]


def fold(a, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """The images (N, C, H, W) of size (H, W) from columns (N, C KH KW, L), each element added to where it came from.

    The transpose of `unfold`; of (C KH KW, L) one image (C, H, W).
    """
    a, batched = (a, True) if a.ndim == 3 else (unsqueeze(a, 0), False)
    (h, w), (top, left), kernel = pair(output_size), pair(padding), pair(kernel_size)
    rows, columns = _patches("fold", (h, w), kernel, pair(dilation), (top, left), pair(stride))
    n, length, count = a.shape
    if length % math.prod(kernel) or count != rows.shape[1]:
        got = f"columns {tuple(a.shape)} for {rows.shape[1]} patches of {kernel}"
        raise ValueError(f"fold: needs (N, C KH KW, L) with L patches, got {got}")
    c = length // math.prod(kernel)
    y = reshape(a, (n, c, math.prod(kernel), count))
    y = _added(y, index=(slice(None), slice(None), rows, columns), shape=(n, c, h + 2 * top, w + 2 * left))
    y = y[:, :, top : top + h, left : left + w]
    return y if batched else y[0]


def _patches(name, size, kernel, dilation, padding, stride):
    """The rows and columns (KH KW, L) in the padded image of the elements of all patches."""
    reach = [n + 2 * p - d * (k - 1) - 1 for n, p, d, k in zip(size, padding, dilation, kernel)]
    if min(reach) < 0 or min(*kernel, *dilation, *stride) < 1 or min(padding) < 0:
        got = f"patches of {kernel}, dilation {dilation}, padding {padding}, stride {stride} in an image {tuple(size)}"
        raise ValueError(f"{name}: there are no {got}")
    grid = np.meshgrid(*map(np.arange, kernel), *[np.arange(r // s + 1) for r, s in zip(reach, stride)], indexing="ij")
    i, j, y, x = (part.reshape(math.prod(kernel), -1) for part in grid)
    return i * dilation[0] + y * stride[0], j * dilation[1] + x * stride[1]


def _windows_of(self, dimension, size, step):
    """All windows of so many elements along an axis, every `step` elements: the window is a new last axis."""
    starts = np.arange(0, self.shape[dimension] - size + 1, step)
    y = getitem(movedim(self, dimension, -1), (..., starts[:, None] + np.arange(size)))
    return movedim(y, -2, dimension if dimension >= 0 else dimension - 1)


Tensor.unfold = _windows_of
