"""Operations that move elements without changing them."""

import math

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
    axes = (
        range(a.ndim) if axis is None else {i % a.ndim for i in (axis if isinstance(axis, (tuple, list)) else (axis,))}
    )
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
    if -1 in shape[:lead]:
        raise ValueError(f"expand: -1 keeps the length of an axis, but {shape} adds {lead} before those of {a.shape}")
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


def _listed(axes):
    return tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes


for _operation in (reshape, flatten, permute, transpose, squeeze, unsqueeze, expand, broadcast_to):
    setattr(Tensor, _operation.__name__, _operation)
Tensor.T = property(lambda self: permute(self, *range(self.ndim)[::-1]))
Tensor.mT = property(lambda self: transpose(self, -1, -2))
