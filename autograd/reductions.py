"""Reductions over axes. `axis` is an integer, a tuple of them or None for all; torch's `dim`, `keepdim` also work."""

import math

from autograd.core import Tensor, primitive
from autograd.core import innermost as raw
from autograd.kernels import xp


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
    axes = {i % len(shape) for i in (axis if isinstance(axis, tuple) else (axis,))}
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _count(shape, axis):
    if axis is None:
        return math.prod(shape)
    return math.prod(shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))


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
    scale = 1.0 / max(_count(shape, axis), 1)
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
    axes = {i % len(shape) for i in (axis if isinstance(axis, tuple) else (axis,))}
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


def argmax(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Index of the largest value along the axis, as an integer array; not differentiable."""
    return raw(a).argmax(axis=axis if dim is None else dim, keepdims=keepdims if keepdim is None else keepdim)


for _operation in (sum, mean, var, std, amax, amin, logsumexp, argmax):
    setattr(Tensor, _operation.__name__, _operation)
