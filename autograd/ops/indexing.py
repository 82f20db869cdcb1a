"""Picking elements: by integers, slices, masks and index arrays, along an axis, and as rows of a table."""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import (
    NUMPY_TYPES,
    Scattered,
    counted,
    integers,
    is_torch,
    kind,
    like_arg,
    mask_grad,
    normalize_axis,
    on_cpu,
    record_as_one_step,
    xp,
)
from allgrad.autograd.engine import Tensor, attach_methods, linear_map, own_copy, primitive, shape_of, unwrap
from allgrad.autograd.ops.elementwise import where
from allgrad.autograd.ops.labels import safe_labels


def getitem(a, index):
    """a[index] with any index NumPy accepts. Elements picked twice get the sum of both gradients."""
    index = tuple(_part(i, a) for i in index) if isinstance(index, tuple) else _part(index, a)
    return _getitem(a, index=index)


def _part(given, a):
    """One part of an index, as the array library of a takes it: a list, a range or a memoryview as an array."""
    i: Any = unwrap(given)
    if isinstance(i, np.integer):
        return int(i)
    single = i is None or i is ... or isinstance(i, slice) or hasattr(i, "__index__") or hasattr(i, "dtype")
    part: Any = i
    if not single and len(part):
        part = np.asarray(part)
    part = integers(part, unwrap(a)) if hasattr(part, "dtype") and part.dtype != bool else part
    return own_copy(part, given)


@primitive
def _getitem(a, *, index):
    shape = a.shape

    def vjp(g):
        once = _is_basic(index) if is_torch(g) else type(g) in NUMPY_TYPES and not _may_repeat(index)
        if once:
            return Scattered(g, index, shape)
        return linear_map(_scatter, _pick, g, index, shape)

    return a[index] if type(a) is Tensor else _pick(a, index, shape), vjp


def _pick(a, index, shape):
    return a[index] if xp[type(a)] is np else xp[type(a)].getitem(a, index)


def _scatter(g, index, shape):
    """Zeros of this shape with g added at the index: the transpose of a[index]."""
    if xp[type(g)] is not np:
        return xp[type(g)].scatter(g, index, shape)
    out = np.zeros(shape, g.dtype, like=like_arg(g))
    if _may_repeat(index):
        np.add.at(out, index, g)
    else:
        out[index] = g
    return out


def _may_repeat(index):
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(i, (list, tuple, np.ndarray)) and np.asarray(i).dtype != bool for i in parts)


def _is_basic(index):
    """Whether the index is made of integers, forward slices, None and ..., where NumPy and torch agree."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is ... or type(i) is int or (isinstance(i, slice) and (i.step or 1) > 0) for i in parts)


def take_along_dim(a, indices, axis=None, *, dim=None):
    """a's elements at integer `indices` along the axis, as numpy.take_along_axis; of the flattened a without an axis.

    indices has as many axes as a; the others broadcast against those of a. The result has the shape of that.
    """
    axis = axis if dim is None else dim
    if axis is None:
        return getitem(a.reshape(-1), integers(unwrap(indices), unwrap(a)).reshape(-1))
    return _along("take_along_dim", a, axis, indices, a.shape)


def gather(a, dim, index):
    """a's elements at integer `index` along an axis: result[i, j] = a[index[i, j], j] for dim 0.

    index has as many axes as a, none longer than a's, except axis dim; the result has its shape.
    """
    if not math.prod(shape_of(index)):  # of any rank, as in torch
        return getitem(a.reshape(-1), index)
    return _along("gather", a, dim, index, shape_of(index))


def _along(name, a, axis, indices, shape):
    """a's elements at integer indices along the axis, and at range(n) along each other axis of this shape."""
    indices, axis = integers(unwrap(indices), unwrap(a)), normalize_axis(axis, a.ndim, name)
    if (indices.ndim or 1) != (a.ndim or 1) or kind(indices.dtype) not in "iu":
        got = f"{indices.dtype} of {tuple(indices.shape)}"
        raise ValueError(f"{name}: {a.shape} needs integer indices of {a.ndim} axes, got {got}")
    if a.ndim < 2:
        return _within(name, a.reshape(-1), indices, indices)
    after = range(a.ndim - 1, -1, -1)  # element i of an axis, shaped to broadcast along the others
    grid = [counted(n, indices).reshape(n, *(1,) * k) for n, k in zip(shape, after)]
    grid[axis] = indices
    return _within(name, a, tuple(grid), indices)


def _within(name, a, index, indices):
    """a[index], with an error that speaks of the indices it came from."""
    try:
        return getitem(a, index)
    except IndexError as error:
        which = f"indices of shape {tuple(indices.shape)} from {indices.min()} to {indices.max()}"
        text = str(error).removeprefix("getitem: ")
        raise IndexError(f"{name}: {which} do not all lie in the shape {a.shape} ({text})") from None


def index_select(a, dim, index):
    """The slices of a at these integers along the axis; index is a vector (n,), and the axis becomes n long."""
    axis, index = normalize_axis(dim, a.ndim, "index_select"), integers(unwrap(index), unwrap(a))
    if index.ndim > 1 or kind(index.dtype) not in "iu":
        raise ValueError(f"index_select: needs a vector of integers, got {index.dtype} of shape {index.shape}")
    if a.ndim == 0:
        return _within("index_select", a.reshape(1), index.reshape(()), index)
    return _within("index_select", a, (slice(None),) * axis + (index,), index)


def masked_fill(a, mask, value):
    """a with `value` where the boolean mask holds; the mask broadcasts to the shape of a."""
    shape = shape_of(mask)
    if any(n != 1 and m != 1 and n != m for n, m in zip(shape[::-1], a.shape[::-1])):
        raise ValueError(f"masked_fill: the mask {shape} does not broadcast with the shape {a.shape}")
    return where(mask, value, a)


def embedding(indices, weight, padding_idx=None):
    """Rows of a table weight (V, D) for integers 0 .. V-1 (...), as (..., D). Row padding_idx gets no gradient.

    ValueError or IndexError for other integers; on a device, where nobody waits for them, they get rows of nan.
    """
    indices = own_copy(integers(unwrap(indices), unwrap(weight)), indices)
    if kind(indices.dtype) not in "iu" or (type(indices) in NUMPY_TYPES and indices.min(initial=0) < 0):
        got = f"{indices.dtype} indices from {indices.min()} on"
        raise ValueError(f"embedding: rows of a table {weight.shape} are numbered from 0, got {got}")
    if weight.ndim != 2 or (padding_idx is not None and not -weight.shape[0] <= padding_idx < weight.shape[0]):
        raise ValueError(f"embedding: needs a table (V, D) and padding_idx in it, got {weight.shape} and {padding_idx}")
    if on_cpu(indices):
        return _embedding(weight, indices=indices, padding=padding_idx)
    indices, off = safe_labels("embedding", indices, weight.shape[0], 0)
    return where((off != 0)[..., None], math.nan, _embedding(weight, indices=indices, padding=padding_idx))


@primitive
def _embedding(w, *, indices, padding):
    shape = w.shape

    def vjp(g):
        if padding is not None:
            g = mask_grad(g, (indices != padding % shape[0])[..., None])
        return linear_map(_add_rows, _pick, g.reshape((math.prod(indices.shape), shape[1])), indices.reshape(-1), shape)

    return _embedding(w, indices=indices, padding=padding) if type(w) is Tensor else w[indices], vjp


@record_as_one_step
def _add_rows(rows, indices, shape):
    """Zeros of this shape with each row added at its index, in order: a product with a sparse matrix of ones."""
    if type(rows) not in NUMPY_TYPES:
        return xp[type(rows)].scatter(rows, indices, shape)
    from scipy.sparse import csc_array  # a fifth of a second to import, which models without tables do without

    n = len(indices)
    places = csc_array((np.ones(n, rows.dtype), indices, np.arange(n + 1)), shape=(shape[0], n))
    return (places @ rows).astype(rows.dtype, copy=False)


Tensor.__getitem__ = getitem
attach_methods(take_along_dim, gather, index_select, masked_fill)
