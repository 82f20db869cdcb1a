"""Writing elements to places along an axis, and picking them by masks and flat numbers.

In scatter, scatter_add and scatter_reduce, `index` (integers) has as many axes as a, none of them longer than that of
src, nor than that of a except along dim: result[index[i, j], j] takes src[i, j] for dim 0.
"""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import (
    astype,
    counted,
    full,
    integers,
    kind,
    mask_grad,
    normalize_axis,
    to_backend_of,
    to_numpy,
    xp,
)
from allgrad.autograd.engine import (
    Tensor,
    attach_methods,
    linear_map,
    own_copy,
    primitive,
    reference_array,
    shape_of,
    unwrap,
)
from allgrad.autograd.ops.elementwise import where
from allgrad.autograd.ops.indexing import _pick, _scatter, getitem
from allgrad.autograd.ops.shapes import broadcast_to, reshape

NUMBERS = bool, int, float, np.generic
REDUCTIONS = "sum", "prod", "mean", "amax", "amin"


def _of_scalars_too(operation):
    """The operation(a, dim, index, ...), which for a scalar a computes on a vector of one element."""

    def apply(a, dim, index, src, *args, **options):
        if shape_of(a):
            return operation(a, dim, index, src, *args, **options)
        normalize_axis(dim, 0, operation.__name__)
        index = unwrap(index).reshape(-1)
        src = src if isinstance(src, NUMBERS) else reshape(src, -1)
        return reshape(operation(reshape(a, 1), 0, index, src, *args, **options), ())

    apply.__name__ = apply.__qualname__ = operation.__name__
    apply.__doc__ = operation.__doc__
    return apply


@_of_scalars_too
def scatter(a, dim, index, src, *, reduce=None):
    """a with src, an array or a number, at the index; where two go to one place, the last one stays.

    reduce "add" and "multiply" add to what is there, or multiply it.
    """
    if reduce is not None:
        names = {"add": "sum", "multiply": "prod"}
        if reduce not in names:
            raise ValueError(f'scatter: reduce is "add", "multiply" or None, got {reduce!r}')
        return scatter_reduce(a, dim, index, _filled(src, index, a), names[reduce])
    places, src = _places("scatter", a, dim, index, _filled(src, index, a))
    return _written(a, src, index=places)


@_of_scalars_too
def scatter_add(a, dim, index, src):
    """a plus src at the index; all that go to one place are added."""
    places, src = _places("scatter_add", a, dim, index, src)
    return a + _added(src, index=places, shape=tuple(a.shape))


@_of_scalars_too
def scatter_reduce(a, dim, index, src, reduce, *, include_self=True):
    """a with the "sum", "prod", "mean", "amax" or "amin" of what src has for each place that the index names.

    With include_self the element of a that is there takes part. Equal largest ones share the gradient evenly.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"scatter_reduce: reduce is one of {REDUCTIONS}, got {reduce!r}")
    places, src = _places("scatter_reduce", a, dim, index, src)
    shape = tuple(a.shape)
    if reduce in ("amax", "amin"):
        return _extreme(a, src, index=places, reduce=reduce, include_self=include_self)
    counts: Any = _scatter(full(shape_of(src), 1.0, unwrap(src)), places, shape)
    kept = a if include_self else where(counts > 0, 1.0 if reduce == "prod" else 0.0, a)
    if reduce == "prod":
        return _multiplied(kept, src, places)
    total = kept + _added(src, index=places, shape=shape)
    return total if reduce == "sum" else total / (counts + include_self + (counts + include_self == 0))


def _multiplied(a, src, places):
    """a times all that src has for each place, in rounds: each round multiplies by at most one element a place."""
    shape, src = tuple(a.shape), reshape(src, -1)
    target = np.arange(math.prod(shape)).reshape(shape)[tuple(map(to_numpy, places))].reshape(-1)
    order = np.argsort(target, kind="stable")
    starts = np.flatnonzero(np.diff(target[order], prepend=-1))
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    y = reshape(a, -1)
    for i in range(turn.max(initial=-1) + 1):
        chosen = order[turn == i]
        at = integers(target[chosen], unwrap(a))
        y = _written(y, getitem(y, at) * getitem(src, chosen), index=(at,))
    return reshape(y, shape)


@primitive
def _extreme(a, src, *, index, reduce, include_self):
    shape, x, s = tuple(a.shape), unwrap(a), unwrap(src)
    top, at = np.array(to_numpy(x)), tuple(map(to_numpy, index))
    if not include_self:
        top[at] = -math.inf if reduce == "amax" else math.inf
    (np.maximum if reduce == "amax" else np.minimum).at(top, at, to_numpy(s))
    top = to_backend_of(top, x)
    replaced = full(shape, 0, x, "bool")
    replaced[index] = not include_self
    first, others = (x == top) & ~replaced, s == _pick(top, index, shape)
    ties = _scatter(astype(others, x.dtype), index, shape) + first
    ties = xp[type(ties)].where(ties == 0, math.nan, ties)  # where the extreme is nan, so are the gradients
    first, others = first | ((ties != ties) & ~replaced), others | ((picked := _pick(ties, index, shape)) != picked)
    nested = Tensor in (type(a), type(src))
    return (
        _extreme(a, src, index=index, reduce=reduce, include_self=include_self) if nested else top,
        lambda g: mask_grad(g / ties, first),
        lambda g: mask_grad(linear_map(_pick, _scatter, g / ties, index, shape), others),
    )


@_of_scalars_too
def index_add(a, dim, index, src, *, alpha=1):
    """a plus alpha src (an array of a's shape, except along dim) at these integers along the axis."""
    _, places = _along_axis("index_add", a, dim, index)
    return a + _added(src if alpha == 1 else src * alpha, index=places, shape=tuple(a.shape))


@_of_scalars_too
def index_copy(a, dim, index, src):
    """a with the slices of src at these integers along the axis."""
    _, places = _along_axis("index_copy", a, dim, index)
    return _written(a, src, index=places)


def index_fill(a, dim, index, value):
    """a with a number at these integers along the axis."""
    if not shape_of(a):
        return reshape(index_fill(reshape(a, 1), dim, index, value), ())
    index = to_backend_of(np.unique(to_numpy(unwrap(index))), unwrap(a))  # value counts once for each slice
    axis, places = _along_axis("index_fill", a, dim, index)
    value = full((), value, unwrap(a)) if isinstance(value, NUMBERS) else value
    return _written(a, broadcast_to(value, (*a.shape[:axis], len(places[axis]), *a.shape[axis + 1 :])), index=places)


def _along_axis(name, a, dim, index) -> Any:
    axis, index = normalize_axis(dim, a.ndim, name), own_copy(integers(unwrap(index), unwrap(a)), index)
    if index.ndim > 1 or kind(index.dtype) not in "iu":
        raise ValueError(f"{name}: needs a vector of integers, got {index.dtype} of shape {tuple(index.shape)}")
    return axis, (slice(None),) * axis + (index.reshape(-1),)


def index_put(a, indices, values, accumulate=False):
    """a with values at an index: a tuple of arrays of integers or booleans. accumulate: added to what is there."""
    places = ((i, unwrap(i)) for i in indices)
    index = tuple(own_copy(integers(x, unwrap(a)) if x.dtype != bool else x, i) for i, x in places)
    shape = tuple(_pick(unwrap(a), index, tuple(a.shape)).shape)
    values = broadcast_to(_filled(values, np.zeros(()), a), shape)
    return a + _added(values, index=index, shape=tuple(a.shape)) if accumulate else _written(a, values, index=index)


def masked_select(a, mask):
    """The elements of a where the boolean mask holds, as a vector; both broadcast."""
    mask = unwrap(mask)
    shape = np.broadcast_shapes(shape_of(a), shape_of(mask))
    return getitem(broadcast_to(a, shape), xp[type(mask)].broadcast_to(mask, shape))


def masked_scatter(a, mask, source):
    """a with the first elements of source, in their order, where the boolean mask holds."""
    mask = own_copy(to_backend_of(unwrap(mask), unwrap(a)), mask)
    shape = np.broadcast_shapes(shape_of(a), shape_of(mask))
    a, mask = broadcast_to(a, shape), xp[type(mask)].broadcast_to(mask, shape)
    count = int(mask.sum())
    if math.prod(shape_of(source)) < count:
        raise ValueError(f"masked_scatter: {math.prod(shape_of(source))} elements for {count} places of the mask")
    return _written(a, reshape(source, -1)[:count], index=mask)


def take(a, index):
    """The elements of the flattened a at these integers, as an array of their shape."""
    return getitem(reshape(a, -1), index)


def _filled(src, index, a):
    """src, or a number as an array of the index's shape."""
    return full(shape_of(index), src, unwrap(a)) if isinstance(src, NUMBERS) else src


def _places(name, a, dim, index, src):
    """The index of all axes of a that `index` along dim stands for, and the part of src that goes there."""
    axis, index = normalize_axis(dim, a.ndim, name), own_copy(integers(unwrap(index), unwrap(a)), index)
    shape, given = tuple(index.shape), shape_of(src)
    longer = [n > m or (n > k and i != axis) for i, (n, m, k) in enumerate(zip(shape, given, a.shape))]
    if not len(shape) == len(given) == a.ndim or any(longer) or kind(index.dtype) not in "iu":
        got = f"{index.dtype} of shape {shape} for a shape {tuple(a.shape)} and src {given}"
        raise ValueError(f"{name}: the index needs integers, as many axes, and none longer than src or a, got {got}")
    like = reference_array(a, src)
    after = range(a.ndim - 1, -1, -1)
    grid: list = [counted(n, like).reshape(n, *(1,) * k) for n, k in zip(shape, after)]
    grid[axis] = index
    inside = tuple(map(slice, shape))
    return tuple(grid), src if given == shape else getitem(src, inside)


@primitive
def _added(src, *, index, shape):
    return linear_map(_scatter, _pick, src, index, shape), lambda g: linear_map(_pick, _scatter, g, index, shape)


@primitive
def _written(a, src, *, index):
    shape = tuple(a.shape)
    if Tensor in (type(a), type(src)):
        y = _written(a, src, index=index)
    else:
        y = xp[type(a)].copy(a)
        y[index] = src
    kept = full(shape, 1, unwrap(a), "bool")
    kept[index] = False
    return y, lambda g: mask_grad(g, kept), lambda g: linear_map(_pick, _scatter, g, index, shape)


attach_methods(scatter, scatter_add, scatter_reduce, index_add, index_copy, index_fill, masked_select, masked_scatter)
attach_methods(take, index_put)
