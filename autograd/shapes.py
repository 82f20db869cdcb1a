"""Operations that move elements without changing them."""

import math

import itertools

import numpy as np

from autograd.core import Tensor, primitive
from autograd.kernels import unbroadcast, xp


def reshape(a, *shape):
    """a with another shape of the same size; one length may be -1. The shape is a tuple or separate integers."""
    return _reshape(a, shape=_listed(shape))


@primitive
def _reshape(a, *, shape):
    before = a.shape
    return a.reshape(shape), lambda g: g.reshape(before)


def flatten(a, start_dim=0, end_dim=-1):
    """a with the axes from start_dim to end_dim, both included, merged into one."""
    shape = a.shape or (1,)
    start, end = start_dim % len(shape), end_dim % len(shape)
    return reshape(a, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def permute(a, *axes):
    """a with its axes in the given order."""
    return _permute(a, axes=_listed(axes))


@primitive
def _permute(a, *, axes):
    back = [0] * len(axes)
    for i, axis in enumerate(axes):
        back[axis % len(axes)] = i
    return xp[type(a)].permute_dims(a, axes), lambda g: xp[type(g)].permute_dims(g, back)


def transpose(a, i, j):
    """a with axes i and j exchanged."""
    order = list(range(a.ndim))
    order[i], order[j] = order[j], order[i]
    return _permute(a, axes=tuple(order))


def squeeze(a, axis=None):
    """a without its axes of length 1, or without the named ones if their length is 1."""
    axes = range(a.ndim) if axis is None else {i % a.ndim for i in ((axis,) if isinstance(axis, int) else axis)}
    return reshape(a, tuple(n for i, n in enumerate(a.shape) if n != 1 or i not in axes))


def unsqueeze(a, axis):
    """a with a new axis of length 1 at this place."""
    axis = axis % (a.ndim + 1)
    return reshape(a, a.shape[:axis] + (1,) + a.shape[axis:])


def broadcast_to(a, shape):
    """a repeated along new axes and axes of length 1 until it has this shape."""
    return _broadcast_to(a, shape=tuple(shape))


@primitive
def _broadcast_to(a, *, shape):
    before = a.shape
    return xp[type(a)].broadcast_to(a, shape), lambda g: unbroadcast(g, before)


def expand(a, *shape):
    """torch's broadcast_to: -1 keeps the length of an axis."""
    shape = _listed(shape)
    lead = len(shape) - a.ndim
    return broadcast_to(a, tuple(a.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)))


def concatenate(arrays, axis=0):
    """Join arrays along an axis they have."""
    return _concatenate(*arrays, axis=axis)


@primitive
def _concatenate(*arrays, axis):
    lengths = [a.shape[axis] for a in arrays]
    n = next((xp[type(a)] for a in arrays if type(a) is Tensor), xp[type(arrays[0])])

    def part(i):
        start, stop = sum(lengths[:i]), sum(lengths[: i + 1])
        at = (slice(None),) * (axis % arrays[0].ndim) + (slice(start, stop),)
        return lambda g: g[at]

    return n.concatenate(arrays, axis=axis), *[part(i) for i in range(len(arrays))]


def stack(arrays, axis=0):
    """Join arrays of one shape along a new axis."""
    return concatenate([unsqueeze(a, axis) for a in arrays], axis=axis)


def cat(arrays, dim=0):
    """torch's name for `concatenate`."""
    return concatenate(arrays, dim)


def split(a, sizes, axis=0, *, dim=None):
    """Cut a along the axis into pieces of one size (the last may be smaller), or of the sizes listed."""
    axis = axis if dim is None else dim
    length = a.shape[axis]
    if isinstance(sizes, int):
        if sizes < 1:
            raise ValueError(f"split: a piece has at least 1 element, got {sizes}")
        sizes = [min(sizes, length - at) for at in range(0, length, sizes)] or [0]
    if sum(sizes) != length:
        raise ValueError(f"split: sizes {list(sizes)} do not add up to the length {length} of axis {axis}")
    before = (slice(None),) * (axis % a.ndim)
    stops = list(itertools.accumulate(sizes))
    return tuple(a[(*before, slice(stop - size, stop))] for size, stop in zip(sizes, stops))


def chunk(a, chunks, axis=0, *, dim=None):
    """Cut a along the axis into at most this many pieces of one size; the last may be smaller."""
    axis = axis if dim is None else dim
    return split(a, max(1, -(-a.shape[axis] // chunks)), axis)


def flip(a, *axes):
    """a in reverse order along the axes."""
    axes = {axis % max(a.ndim, 1) for axis in _listed(axes)}
    return a[tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(a.ndim))]


def roll(a, shifts, axis=None, *, dims=None):
    """a moved on along the axes, what falls out coming in at the other end; along the flattened array without axes."""
    axis = axis if dims is None else dims
    return _roll(a, shifts=shifts, axis=tuple(axis) if isinstance(axis, list) else axis)


@primitive
def _roll(a, *, shifts, axis):
    back = -shifts if isinstance(shifts, int) else tuple(-s for s in shifts)
    return xp[type(a)].roll(a, shifts, axis), lambda g: xp[type(g)].roll(g, back, axis)


def pad(a, pads, mode="constant", value=0.0):
    """a surrounded by a value: pads are (left, right) of the last axis, then of the one before, and so on.

    Negative numbers cut off instead. Only mode "constant" is offered.
    """
    if mode != "constant" or len(pads) % 2 or len(pads) > 2 * a.ndim:
        raise ValueError(f"pad: {mode=} with pads {tuple(pads)} on {a.ndim} axes; give constant mode and pairs of pads")
    sides = [(0, 0)] * (a.ndim - len(pads) // 2) + list(zip(pads[::2], pads[1::2]))[::-1]
    crop = tuple(slice(max(0, -l), n - max(0, -r)) for n, (l, r) in zip(a.shape, sides))
    if any(min(side) < 0 for side in sides):
        a = a[crop]
    return _pad(a, sides=tuple((max(0, l), max(0, r)) for l, r in sides), value=value)


@primitive
def _pad(a, *, sides, value):
    inside = tuple(slice(l, l + n) for n, (l, _) in zip(a.shape, sides))
    y = _pad(a, sides=sides, value=value) if type(a) is Tensor else np.pad(a, sides, constant_values=value)
    return y, lambda g: g[inside]


@primitive
def tril(a, *, diagonal=0):
    """The lower triangle of the last two axes, zeros above the diagonal."""
    keep = np.tri(*a.shape[-2:], diagonal, dtype=bool)
    return a * keep, lambda g: g * keep


@primitive
def triu(a, *, diagonal=0):
    """The upper triangle of the last two axes, zeros below the diagonal."""
    keep = ~np.tri(*a.shape[-2:], diagonal - 1, dtype=bool)
    return a * keep, lambda g: g * keep


def _listed(axes):
    return tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes


for _operation in (
    reshape,
    flatten,
    permute,
    transpose,
    squeeze,
    unsqueeze,
    expand,
    broadcast_to,
    split,
    chunk,
    flip,
    roll,
    tril,
    triu,
):
    setattr(Tensor, _operation.__name__, _operation)
Tensor.T = property(lambda self: permute(self, *range(self.ndim)[::-1]))
Tensor.mT = property(lambda self: transpose(self, -1, -2))
