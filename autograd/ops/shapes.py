"""Operations that move elements without changing them. torch's names `dim` and `dims` for axes work too.

Axes count from 0, negative ones from the end. Where NumPy returns a view of its argument, so do these.
"""

import itertools
import math

import numpy as np

from allgrad.autograd.arrays import (
    full,
    mask_grad,
    namespace,
    normalize_axes,
    normalize_axis,
    to_backend_of,
    unbroadcast,
    xp,
)
from allgrad.autograd.engine import Tensor, attach_methods, number, primitive, shape_of, unwrap
from allgrad.autograd.ops.indexing import getitem


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
    start, end = (normalize_axis(i, len(shape), "flatten") for i in (start_dim, end_dim))
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in the shape {a.shape}")
    return reshape(a, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def permute(a, *axes, dims=None):
    """a with its axes in the given order."""
    axes = tuple(normalize_axis(i, a.ndim, "permute") for i in (_listed(axes) if dims is None else dims))
    if sorted(axes) != list(range(a.ndim)):
        raise ValueError(f"permute: {axes} does not name each axis of the shape {a.shape} once")
    return _permute(a, axes=axes)


@primitive
def _permute(a, *, axes):
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return xp[type(a)].permute_dims(a, axes), lambda g: xp[type(g)].permute_dims(g, back)


def transpose(a, dim0, dim1):
    """a with two axes exchanged."""
    i, j = normalize_axis(dim0, a.ndim, "transpose"), normalize_axis(dim1, a.ndim, "transpose")
    order = list(range(a.ndim or 1))
    order[i], order[j] = order[j], order[i]
    return _permute(a, axes=tuple(order[: a.ndim]))


def squeeze(a, axis=None, *, dim=None):
    """a without its axes of length 1, or without the named ones if their length is 1."""
    axis = axis if dim is None else dim
    axes = range(a.ndim) if axis is None else normalize_axes(axis, a.ndim, "squeeze") or ()
    return reshape(a, tuple(n for i, n in enumerate(a.shape) if n != 1 or i not in axes))


def unsqueeze(a, axis=None, *, dim=None):
    """a with a new axis of length 1 at this place."""
    axis = normalize_axis(axis if dim is None else dim, a.ndim + 1, "unsqueeze")
    return reshape(a, a.shape[:axis] + (1,) + a.shape[axis:])


def broadcast_to(a, shape):
    """a repeated along new leading axes and along axes of length 1, so that it has this shape."""
    return _broadcast_to(a, shape=(shape,) if isinstance(shape, (int, np.integer)) else tuple(shape))


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


def concatenate(arrays, axis=0, *, dim=None):
    """Join arrays along an axis they have."""
    ndim = max([np.ndim(unwrap(a)) for a in arrays], default=0)
    if not ndim:
        raise ValueError(f"concatenate: joins one or more arrays along an axis they have, got {len(arrays)} scalars")
    return _concatenate(*arrays, axis=normalize_axis(axis if dim is None else dim, ndim, "concatenate"))


@primitive
def _concatenate(*arrays, axis):
    y = namespace(*arrays).concatenate(arrays, axis=axis)
    before = (slice(None),) * (axis % y.ndim)
    stops = itertools.accumulate(a.shape[axis] for a in arrays)
    parts = [(*before, slice(stop - a.shape[axis], stop)) for a, stop in zip(arrays, stops)]
    return y, *[lambda g, part=part: g[part] for part in parts]


def stack(arrays, axis=0, *, dim=None):
    """Join arrays of one shape along a new axis."""
    axis = axis if dim is None else dim
    shapes = list(dict.fromkeys(shape_of(a) for a in arrays))
    if len(shapes) != 1:
        raise ValueError(f"stack: needs one or more arrays of one shape, got {shapes}")
    return concatenate([unsqueeze(a, axis) for a in arrays], axis=axis)


def cat(arrays, dim=0, *, axis=None):
    """torch's name for `concatenate`; a vector without elements joins any array."""
    arrays = list(arrays)
    joined = [a for a in arrays if shape_of(a) != (0,)]
    return concatenate(joined or arrays, dim if axis is None else axis)


def split(a, sizes, axis=0, *, dim=None):
    """Cut a along the axis into pieces of one size (the last may be smaller), or of the sizes listed."""
    axis = normalize_axis(axis if dim is None else dim, a.ndim, "split")
    length = a.shape[axis]
    if isinstance(sizes, (int, np.integer)):
        if sizes < 1:
            raise ValueError(f"split: a piece has at least 1 element, got {sizes}")
        sizes = [min(sizes, length - at) for at in range(0, length, sizes)] or [0]
    if not isinstance(sizes, (list, tuple)):
        raise TypeError(f"split: sizes are an integer or a list of integers, got {sizes!r}")
    if sum(sizes) != length or min(sizes) < 0:
        raise ValueError(f"split: sizes {list(sizes)} do not add up to the length {length} of axis {axis}")
    before = (slice(None),) * axis
    return tuple(getitem(a, (*before, slice(at - n, at))) for n, at in zip(sizes, itertools.accumulate(sizes)))


def chunk(a, chunks, axis=0, *, dim=None):
    """Cut a along the axis into at most this many pieces of one size; the last may be smaller."""
    axis = normalize_axis(axis if dim is None else dim, a.ndim, "chunk")
    if not isinstance(chunks, (int, np.integer)) or chunks < 1:
        raise ValueError(f"chunk: the number of chunks is an integer of at least 1, got {chunks!r}")
    return split(a, max(1, -(-a.shape[axis] // chunks)), axis)


def flip(a, *axes, dims=None):
    """a in reverse order along these axes, given as integers or one tuple."""
    axes = normalize_axes(_listed(axes) if dims is None else dims, a.ndim, "flip") or ()
    return getitem(a, tuple(slice(None, None, -1 if i in axes else 1) for i in range(a.ndim)))


def roll(a, shifts, axis=None, *, dims=None):
    """a shifted cyclically along the axes, by an integer for each; without axes by one, in its flattened form."""
    axis = axis if dims is None else dims
    axis = None if axis is None else normalize_axes(axis, a.ndim, "roll")
    listed = (shifts,) if isinstance(shifts, (int, np.integer)) else shifts
    if not isinstance(listed, (tuple, list)) or len(listed) != (1 if axis is None else len(axis)):
        raise ValueError(
            f"roll: shifts {shifts!r} for the axes {axis}: give an integer for each axis, or one without axes"
        )
    return _roll(a, shifts=tuple(map(int, listed)), axis=axis)


@primitive
def _roll(a, *, shifts, axis):
    back = tuple(-s for s in shifts)
    return xp[type(a)].roll(a, shifts, axis), lambda g: xp[type(g)].roll(g, back, axis)


# Where the element of each place i comes from, along an axis of n elements of which start .. stop are kept.
PLACES = {
    "replicate": lambda i, n, start, stop: i.clip(0, n - 1),
    "reflect": lambda i, n, start, stop: n - 1 - np.abs(n - 1 - np.abs(i)),
    "circular": lambda i, n, start, stop: start + (i - start) % max(stop - start, 1),
}


def pad(a, pads, mode="constant", value=0.0):
    """a with more elements around it: pads is (left, right) of the last axis, then of the one before it, and so on.

    mode "constant" fills them with `value`, "replicate" with the element at the border, "reflect" with the elements
    inside the border in reverse order, "circular" with those of the other end. Negative pads cut elements off.
    """
    integers = isinstance(pads, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in pads)
    if not integers or mode not in ("constant", *PLACES) or len(pads) % 2 or len(pads) > 2 * a.ndim:
        todo = 'give pairs, for some of its axes, and mode "constant", "replicate", "reflect" or "circular"'
        raise ValueError(f"pad: pads {pads} of a shape {shape_of(a)} in mode {mode!r}: {todo}")
    sides = [(0, 0)] * (a.ndim - len(pads) // 2) + list(zip(pads[::2], pads[1::2]))[::-1]
    if any(n + l + r < 0 for n, (l, r) in zip(a.shape, sides)):
        raise ValueError(f"pad: pads {tuple(pads)} cut off more than the shape {a.shape} has")
    inside = [(max(0, -l), max(0, n - max(0, -r))) for n, (l, r) in zip(a.shape, sides)]  # what negative pads leave
    if mode == "constant":
        a = getitem(a, tuple(slice(*ends) for ends in inside)) if min(pads, default=0) < 0 else a
        sides = tuple((max(0, int(l)), max(0, int(r))) for l, r in sides)
        return _pad(a, sides=sides, value=number(value, "pad: value"))
    for axis, (left, right) in enumerate(sides):
        if left or right:
            n = a.shape[axis]
            places = PLACES[mode](np.arange(-left, n + right), n, *inside[axis])
            twice = mode == "circular" and max(left, right) > n
            if twice or (places.size and not 0 <= places.min() <= places.max() < n):
                raise ValueError(f"pad: {n} elements are too few to {mode} {left} and {right} of them, on axis {axis}")
            a = getitem(a, (slice(None),) * axis + (places,))
    return a


@primitive
def _pad(a, *, sides, value):
    inside = tuple(slice(l, l + n) for n, (l, _) in zip(a.shape, sides))
    if type(a) is Tensor:
        y = _pad(a, sides=sides, value=value)
    else:
        y = full([l + n + r for n, (l, r) in zip(a.shape, sides)], value, a)
        y[inside] = a
    return y, lambda g: g[inside]


def tril(a, diagonal=0):
    """a (..., n, m) with zeros above the diagonal of this number; 0 is the main one, 1 the next above it."""
    return _masked(a, keep=_triangle("tril", a, diagonal))


def triu(a, diagonal=0):
    """a (..., n, m) with zeros below the diagonal of this number; 0 is the main one, 1 the next above it."""
    return _masked(a, keep=~_triangle("triu", a, diagonal - 1))


def _triangle(name, a, diagonal):
    if a.ndim < 2 or not isinstance(diagonal, (int, np.integer)):
        raise ValueError(f"{name}: needs matrices and an integer diagonal, got a shape {a.shape}")
    rows, columns = a.shape[-2:]
    return np.tri(rows, columns, int(diagonal), dtype=bool)


@primitive
def _masked(a, *, keep):
    keep = to_backend_of(keep, unwrap(a))
    return mask_grad(a, keep), lambda g: mask_grad(g, keep)


def _listed(axes):
    return tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes


attach_methods(reshape, flatten, permute, transpose, squeeze, unsqueeze, expand, broadcast_to, split, chunk, flip, roll)
attach_methods(tril, triu)
Tensor.T = property(lambda self: permute(self, *range(self.ndim)[::-1]))
Tensor.mT = property(lambda self: transpose(self, -1, -2))
