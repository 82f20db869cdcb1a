"""Picking elements: by integers, slices, masks and index arrays, and along an axis."""

import numpy as np

from autograd.arithmetic import where
from autograd.core import Tensor, primitive
from autograd.core import innermost as raw


def getitem(a, index):
    """a[index] with any index NumPy accepts. Elements picked twice get the sum of both gradients."""
    index = tuple(raw(i) for i in index) if isinstance(index, tuple) else raw(index)
    return _getitem(a, index=index)


@primitive
def _getitem(a, *, index):
    shape = a.shape
    return a[index], lambda g: _scatter(g, index, shape)


def _scatter(g, index, shape):
    """Zeros of this shape with g added at the index: the transpose of a[index]."""
    if type(g) is Tensor:
        return _scattered(g, index=index, shape=shape)
    out = np.zeros(shape, g.dtype)
    if _may_repeat(index):
        np.add.at(out, index, g)
    else:
        out[index] = g
    return out


@primitive
def _scattered(g, *, index, shape):
    return _scatter(g, index, shape), lambda h: h[index]


def _may_repeat(index):
    parts = index if isinstance(index, tuple) else (index,)
    return any(np.ndim(i) > 0 and np.asarray(i).dtype != bool for i in parts if i is not None and i is not Ellipsis)


def take_along_dim(a, indices, axis=None, *, dim=None):
    """a's elements at `indices` along the axis; an integer array of a's ndim, the other axes broadcast."""
    indices, axis = np.asarray(raw(indices)), axis if dim is None else dim
    if axis is None or indices.ndim != a.ndim:
        raise ValueError(
            f"take_along_dim: give an axis, and indices of {a.ndim} axes, got {indices.shape} for {a.shape}"
        )
    grid = np.ogrid[tuple(map(slice, a.shape))]  # element i of an axis, shaped to broadcast along the others
    return getitem(a, (*grid[: axis % a.ndim], indices, *grid[axis % a.ndim + 1 :]))


def gather(a, dim, index):
    """a's elements at `index` along the axis: result[i, j] = a[index[i, j], j] for dim 0; index may be shorter."""
    index = np.asarray(raw(index))
    if index.ndim != a.ndim:
        raise ValueError(f"gather: the index has shape {index.shape}, it needs as many axes as {a.shape}")
    grid = np.ogrid[tuple(map(slice, index.shape))]
    return getitem(a, (*grid[: dim % a.ndim], index, *grid[dim % a.ndim + 1 :])) if a.ndim else a


def index_select(a, dim, index):
    """The slices of a at these places along the axis; index is a vector of integers."""
    return getitem(a, (slice(None),) * (dim % a.ndim) + (np.asarray(raw(index)),))


def masked_fill(a, mask, value):
    """a with a number in the places where the mask holds; the mask broadcasts."""
    return where(np.asarray(raw(mask)), value, a)


def embedding(indices, weight, padding_idx=None):
    """Rows of the table weight (V, D) for integers of any shape (...): (..., D). Row padding_idx gets no gradient."""
    return _embedding(weight, indices=np.asarray(raw(indices)), padding=padding_idx)


@primitive
def _embedding(w, *, indices, padding):
    shape = w.shape

    def vjp(g):
        rows = g.reshape((-1, shape[1]))
        flat = indices.reshape(-1)
        if padding is not None:
            kept = np.flatnonzero(flat != padding % shape[0])
            rows, flat = rows[kept], flat[kept]
        return _add_rows(rows, flat, shape) if type(rows) is np.ndarray else _scatter(rows, flat, shape)

    return w[indices], vjp


def _add_rows(rows, indices, shape):
    """Zeros with each row added at its index: rows of one index are summed together, in order."""
    out = np.zeros(shape, rows.dtype)
    if len(indices):
        order = np.argsort(indices, kind="stable")
        sorted_indices = indices[order]
        starts = np.flatnonzero(np.diff(sorted_indices, prepend=sorted_indices[0] - 1))
        out[sorted_indices[starts]] = np.add.reduceat(rows[order], starts, axis=0)
    return out


Tensor.__getitem__ = getitem
for _operation in (take_along_dim, gather, index_select, masked_fill):
    setattr(Tensor, _operation.__name__, _operation)
