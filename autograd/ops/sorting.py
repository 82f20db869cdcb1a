"""Order along an axis: sorting, the k largest, medians, running extremes. Values are tensors, indices integer arrays.

nan counts as larger than all numbers, as in torch. Without an axis the last one is meant, unless a docstring says more.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from allgrad.autograd.arrays import astype, cast_like, normalize_axis, to_backend_of, to_numpy, xp
from allgrad.autograd.engine import Tensor, attach_methods, constant, primitive, unwrap
from allgrad.autograd.ops.arrangements import movedim
from allgrad.autograd.ops.elementwise import where
from allgrad.autograd.ops.indexing import getitem, take_along_dim
from allgrad.autograd.ops.reductions import amax, amin
from allgrad.autograd.ops.shapes import reshape, squeeze, unsqueeze


class Ordered(NamedTuple):
    """A tensor of values, and the integer array of where they were along the axis."""

    values: Tensor
    indices: Any


class Extremes(NamedTuple):
    """The smallest and the largest values, two tensors."""

    min: Tensor
    max: Tensor


def argsort(a, dim=-1, descending=False, stable=True):
    """The indices that sort a along the axis; equal elements keep their order."""
    x = unwrap(a)
    if x.ndim == 0:
        return xp[type(x)].argsort(x.reshape(1), axis=0, stable=True).reshape(())
    dim = normalize_axis(dim, x.ndim, "argsort")
    if not descending:
        return xp[type(x)].argsort(x, axis=dim, stable=True)
    backwards = xp[type(x)].flip(x, dim)
    return xp[type(x)].flip(x.shape[dim] - 1 - xp[type(x)].argsort(backwards, axis=dim, stable=True), dim)


def sort(a, dim=-1, descending=False, *, stable=True):
    """a in rising order along the axis, or falling, and the indices."""
    indices = argsort(a, dim, descending)
    return Ordered(_at(a, indices, dim), indices)


def _at(a, indices, dim):
    return take_along_dim(a, indices, dim) if a.ndim else a


def msort(a):
    """a in rising order along its first axis."""
    return sort(a, 0).values


def topk(a, k, dim=-1, largest=True, sorted=True):
    """The k largest elements along the axis, or the smallest, in order, and their indices."""
    dim = normalize_axis(dim, a.ndim, "topk")
    length = a.shape[dim] if a.ndim else 1
    if not 0 <= k <= length:
        raise ValueError(f"topk: k is between 0 and the {length} elements of axis {dim}, got {k}")
    indices = argsort(a, dim, largest)
    indices = indices[(slice(None),) * dim + (slice(k),)] if a.ndim else indices
    return Ordered(_at(a, indices, dim), indices)


def kthvalue(a, k, dim=-1, keepdim=False):
    """The k-th smallest element along the axis (k counts from 1), and its index."""
    length = a.shape[dim] if a.ndim else 1
    if not 1 <= k <= length:
        raise ValueError(f"kthvalue: k is between 1 and the {length} elements of axis {dim}, got {k}")
    return _one_of_each(a, argsort(a, dim), np.full((1,) * a.ndim, k - 1), dim, keepdim)


def _one_of_each(a, order, places, dim, keepdim):
    """The element at a place in the order of each line along the axis."""
    if a.ndim == 0:
        return Ordered(a, order)
    dim = normalize_axis(dim, a.ndim, "kthvalue")
    indices = unwrap(take_along_dim(order, places, dim))
    values = take_along_dim(a, indices, dim)
    return Ordered(values, indices) if keepdim else Ordered(squeeze(values, dim), indices.squeeze(dim))


def median(a, dim=None, keepdim=False):
    """The median, of two middle elements the lower one; nan if there is one. Along an axis with its index.

    Without an axis that of all elements, whose gradient equal ones share.
    """
    if dim is None:
        x = unwrap(a).reshape(-1)
        if not math.prod(x.shape):
            raise ValueError("median: of no elements there is none")
        return _value_of_all(a, place=int(median(x, 0).indices))
    x = unwrap(a)
    n = a.shape[dim] if a.ndim else 1
    if not n:
        raise ValueError(f"median: axis {dim} of the shape {tuple(a.shape)} has no elements")
    order, nans = argsort(x, dim), (x != x).sum(axis=dim, keepdims=True) if a.ndim else 0
    middle = (n - 1) // 2 + (nans > 0) * (n - 1 - (n - 1) // 2)  # nan is last in the order
    return _one_of_each(a, order, middle, dim, keepdim)


@primitive
def _value_of_all(a, *, place):
    x = unwrap(a)
    value = x.reshape(-1)[place]
    equal = astype((x == value) | ((x != x) & (value != value)), x.dtype)
    part = equal / equal.sum()
    return _value_of_all(a, place=place) if type(a) is Tensor else value, lambda g: g * part


def quantile(a, q, dim=None, keepdim=False, *, interpolation="linear"):
    """The quantile q in [0, 1] along the axis, or of all elements; nan where there is one. Not differentiable by q.

    A vector of several q makes a new first axis. interpolation says what is taken between two elements: "linear",
    "lower", "higher", "midpoint" or "nearest".
    """
    x, axis = (reshape(a, -1), 0) if dim is None else (a, normalize_axis(dim, a.ndim, "quantile"))
    q, n = np.asarray(to_numpy(constant(q, "quantile: q")) if hasattr(unwrap(q), "shape") else q, float), x.shape[axis]
    low = np.floor(at := q.reshape(-1) * (n - 1))
    part = {"linear": at - low, "lower": 0 * low, "higher": np.ceil(at) - low, "midpoint": 0.5 * (at > low)}
    part["nearest"] = np.round(at) - low
    if interpolation not in part or not n or not ((q >= 0) & (q <= 1)).all() or q.ndim > 1:
        got = f"q {q.tolist()} and {interpolation!r} of {n} elements"
        raise ValueError(f"quantile: takes q in [0, 1], one of {', '.join(part)}, and an element at least, got {got}")
    before, after = (slice(None),) * axis, (1,) * (x.ndim - 1 - axis)
    rising, low = sort(x, axis).values, low.astype(int)
    first, second = (getitem(rising, (*before, i)) for i in (low, np.minimum(low + 1, n - 1)))
    y = first + (second - first) * cast_like(part[interpolation].reshape(-1, *after), unwrap(a))
    found = unwrap(x) != unwrap(x)
    last = getitem(rising, (*before, slice(n - 1, n)))  # nan, if there is one
    y = movedim(where(found.any(axis)[(*before, None)], last, y), axis, 0)  # (len(q), ...)
    y = unsqueeze(y, axis + 1) if keepdim and dim is not None else y
    y = reshape(y, (*y.shape[:1], *(1,) * a.ndim)) if keepdim and dim is None else y
    return y if q.ndim else y[0]


def cummax(a, dim):
    """The largest element so far along the axis, and its index: the last of equals."""
    return _running("cummax", np.maximum.accumulate, a, dim)


def cummin(a, dim):
    """The smallest element so far along the axis, and its index: the last of equals."""
    return _running("cummin", np.minimum.accumulate, a, dim)


def _running(name, accumulate, a, dim):
    x = to_numpy(unwrap(a))
    if x.ndim == 0:
        return Ordered(a, to_backend_of(np.zeros((), int), unwrap(a)))
    dim = normalize_axis(dim, x.ndim, name)
    so_far = accumulate(x, axis=dim)
    place = np.arange(x.shape[dim]).reshape(-1, *(1,) * (x.ndim - 1 - dim))
    indices = np.maximum.accumulate(np.where((x == so_far) | (x != x), place, 0), axis=dim)
    indices = to_backend_of(indices, unwrap(a))
    return Ordered(take_along_dim(a, indices, dim), indices)


def aminmax(a, *, dim=None, keepdim=False):
    """The smallest and the largest value along an axis, or of all elements; equal ones share the gradient."""
    return Extremes(amin(a, dim, keepdim), amax(a, dim, keepdim))


attach_methods(argsort, sort, msort, topk, kthvalue, median, quantile, cummax, cummin, aminmax)
