"""Reductions over axes. `axis` is an integer, a tuple of them or None for all; torch's `dim`, `keepdim` also work."""

import math
from typing import Any, NamedTuple

import numpy as np

from autograd.arithmetic import abs
from autograd.core import Tensor, primitive
from autograd.core import innermost as raw
from autograd.kernels import xp
from autograd.transforms import unfused


def _reduction(operation):
    """The user's form of a reduction: axis or dim, keepdims or keepdim, by position or by name."""

    def reduce(a, axis=None, keepdims=False, *, dim=None, keepdim=None, **static):
        axis = axis if dim is None else dim
        keepdims = keepdims if keepdim is None else keepdim
        return operation(a, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims, **static)

    reduce.__name__ = reduce.__qualname__ = operation.__name__
    reduce.__doc__ = operation.__doc__
    return reduce


def _restore(g, shape, axis, keepdims):
    """Give a reduced gradient back the axes it lost, with length 1, so that it broadcasts against `shape`."""
    if keepdims or axis is None:
        return g if keepdims else g.reshape((1,) * len(shape))
    return g.reshape(_kept(shape, axis))


def _kept(shape, axis):
    axes = {i % len(shape) for i in ((axis,) if isinstance(axis, int) else axis)}
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _count(shape, axis):
    if axis is None:
        return math.prod(shape)
    return math.prod(shape[i] for i in ((axis,) if isinstance(axis, int) else axis))


@_reduction
@primitive
def sum(a, *, axis=None, keepdims=False):
    """Sum over the axes."""
    shape = a.shape
    return a.sum(axis=axis, keepdims=keepdims), lambda g: _spread(_restore(g, shape, axis, keepdims), shape)


@_reduction
@primitive
def mean(a, *, axis=None, keepdims=False):
    """Arithmetic mean over the axes."""
    shape = a.shape
    scale = 1.0 / (_count(shape, axis) or 1)
    y = a.mean(axis=axis, keepdims=keepdims)
    return y, lambda g: _spread(_restore(g * scale, shape, axis, keepdims), shape)


def _spread(g, shape):
    return xp[type(g)].broadcast_to(g, shape)


@_reduction
@primitive
def _moment(a, *, axis=None, keepdims=False, correction=1):
    n = _count(a.shape, axis) - correction
    d = a - a.mean(axis=axis, keepdims=True)
    shape = a.shape
    y = (d * d).sum(axis=axis, keepdims=keepdims) * (1.0 / n if n > 0 else math.nan)
    return y, lambda g: _restore(g * (2.0 / n if n > 0 else math.nan), shape, axis, keepdims) * d


def var(a, axis=None, keepdims=False, *, correction=1, **torch_names):
    """Variance over the axes, divided by n - correction (1, as in torch, unless said otherwise)."""
    return _moment(a, axis, keepdims, correction=correction, **torch_names)


def std(a, axis=None, keepdims=False, *, correction=1, **torch_names):
    """Standard deviation over the axes, divided by n - correction (1, as in torch, unless said otherwise)."""
    return var(a, axis, keepdims, correction=correction, **torch_names).sqrt()


@_reduction
@primitive
def amax(a, *, axis=None, keepdims=False):
    """Largest value over the axes. Equal largest values share the gradient evenly."""
    return _extreme(a, "max", axis, keepdims)


@_reduction
@primitive
def amin(a, *, axis=None, keepdims=False):
    """Smallest value over the axes. Equal smallest values share the gradient evenly."""
    return _extreme(a, "min", axis, keepdims)


def _extreme(a, which, axis, keepdims):
    y = getattr(raw(a), which)(axis=axis, keepdims=True)
    shape, chosen = a.shape, raw(a) == y
    weight = chosen / chosen.sum(axis=axis, keepdims=True, dtype=y.dtype)
    value = (
        (a * weight).sum(axis=axis, keepdims=keepdims)
        if type(a) is Tensor
        else y.reshape(y.shape if keepdims else _dropped(shape, axis))
    )
    return value, lambda g: _restore(g, shape, axis, keepdims) * weight


def _dropped(shape, axis):
    if axis is None:
        return ()
    axes = {i % len(shape) for i in ((axis,) if isinstance(axis, int) else axis)}
    return tuple(n for i, n in enumerate(shape) if i not in axes)


@_reduction
@primitive
def logsumexp(a, *, axis=None, keepdims=False):
    """log(sum(exp(a))) over the axes, without overflow."""
    n, shape = xp[type(a)], a.shape
    top = raw(a).max(axis=axis, keepdims=True)
    e = n.exp(a - top)
    s = e.sum(axis=axis, keepdims=True)
    y = n.log(s) + top
    p = e / s
    return (
        y if keepdims else y.reshape(_dropped(shape, axis)),
        lambda g: _restore(g, shape, axis, keepdims) * p,
    )


class Extremum(NamedTuple):
    """What `max` and `min` return along an axis."""

    values: Tensor
    indices: Any


def max(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Along an axis: the largest values and their indices, the first of equals. Without one: `amax` over all."""
    return _found(a, amax, "argmax", axis if dim is None else dim, keepdims if keepdim is None else keepdim)


def min(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Along an axis: the smallest values and their indices, the first of equals. Without one: `amin` over all."""
    return _found(a, amin, "argmin", axis if dim is None else dim, keepdims if keepdim is None else keepdim)


def _found(a, over_all, which, axis, keepdims):
    if axis is None:
        return over_all(a, None, keepdims)
    indices = getattr(raw(a), which)(axis=axis, keepdims=True)
    values = a.take_along_dim(indices, axis)
    return Extremum(values, indices) if keepdims else Extremum(values.squeeze(axis), indices.squeeze(axis))


@_reduction
@primitive
def prod(a, *, axis=None, keepdims=False):
    """Product over the axis, or over all elements; exact derivatives also where elements are zero."""
    shape = a.shape
    flat = a.reshape(-1) if axis is None else a
    along = 0 if axis is None else axis % a.ndim
    if type(a) is Tensor:
        return unfused(lambda a: _product_of_slices(a, axis, keepdims), a)

    def vjp(g):
        # All other elements of the line: those before times those after.
        ones = np.ones_like(np.take(flat, [0], along)) if flat.shape[along] else flat
        before = np.concatenate([ones, np.cumprod(flat, along)], along).take(range(flat.shape[along]), along)
        back = np.concatenate([ones, np.cumprod(np.flip(flat, along), along)], along).take(
            range(flat.shape[along]), along
        )
        return (_restore(g, flat.shape, along, keepdims and axis is not None) * before * np.flip(back, along)).reshape(
            shape
        )

    return a.prod(axis=axis, keepdims=keepdims), vjp


def _product_of_slices(a, axis, keepdims):
    flat = a.reshape(-1) if axis is None else a
    along = 0 if axis is None else axis % a.ndim
    y = 1.0
    for i in range(flat.shape[along]):
        y = flat[(slice(None),) * along + (i,)] * y
    return y.reshape(_kept(a.shape, range(a.ndim) if axis is None else axis)) if keepdims else y


def cumsum(a, axis=0, *, dim=None):
    """Running sum along the axis."""
    return _cumsum(a, axis=axis if dim is None else dim)


@primitive
def _cumsum(a, *, axis):
    def vjp(g):
        n = xp[type(g)]
        return n.flip(n.cumsum(n.flip(g, axis), axis), axis)

    return xp[type(a)].cumsum(a, axis), vjp


def norm(a, p=2.0, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """(sum |a|^p)^(1/p) over the axes; p may be math.inf or -math.inf. The derivative at a zero vector is 0."""
    axis, keepdims = axis if dim is None else dim, keepdims if keepdim is None else keepdim
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(abs(a), axis, keepdims)
    if p == 1:
        return sum(abs(a), axis, keepdims)
    if p == 2:
        return _euclidean(a, axis, keepdims)
    return sum(abs(a) ** p, axis, keepdims) ** (1.0 / p)


@_reduction
@primitive
def _euclidean(a, *, axis=None, keepdims=False):
    shape = a.shape
    y = xp[type(a)].sqrt((a * a).sum(axis=axis, keepdims=True))
    direction = a * (1.0 / (y + (raw(y) == 0)))
    value = y if keepdims else y.reshape(_dropped(shape, axis))
    return value, lambda g: _restore(g, shape, axis, keepdims) * direction


def argmax(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Index of the largest value along the axis, as an integer array; not differentiable."""
    return raw(a).argmax(axis=axis if dim is None else dim, keepdims=keepdims if keepdim is None else keepdim)


for _operation in (sum, mean, var, std, amax, amin, max, min, prod, cumsum, norm, logsumexp, argmax):
    setattr(Tensor, _operation.__name__, _operation)
