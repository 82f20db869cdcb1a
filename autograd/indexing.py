"""Picking elements: by integers, slices, masks and index arrays, and along an axis."""

import numpy as np

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


Tensor.__getitem__ = getitem
Tensor.take_along_dim = take_along_dim
