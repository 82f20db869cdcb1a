"""Reductions over axes. `axis` is an integer, a tuple of them or None for all; torch's `dim`, `keepdim` also work.

Reduced axes vanish from the shape, or stay with length 1 if `keepdims`. As in torch, an empty tuple means all axes too.
Rules get the axes as a tuple of 0 .. ndim - 1, or None. A vjp first gives the gradient back the axes it lost, with
length 1 (`_restore`), after which it broadcasts.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from allgrad.autograd.arrays import (
    astype,
    max_keepdims,
    mean_over,
    narrow,
    normalize_axes,
    normalize_axis,
    running_sum,
    sum_over,
    widen,
    xp,
)  # fmt: skip
from allgrad.autograd.engine import Tensor, attach_methods, is_mean_of, number, primitive, shape_of, unwrap
from allgrad.autograd.ops.conversions import cast
from allgrad.autograd.ops.elementwise import abs, maximum, minimum, sign, where
from allgrad.autograd.ops.indexing import take_along_dim
from allgrad.autograd.ops.shapes import pad, permute, reshape, squeeze

WITH_DTYPE = ("sum", "mean", "prod")  # which take the dtype to convert to before they reduce, as torch's do


def _reduction(operation):
    """The user's form of a reduction: axis or dim, keepdims or keepdim, by position or by name."""
    name = operation.__name__
    is_mean = name == "mean"

    def reduce(a, axis=None, keepdims=False, *, dim=None, keepdim=None, dtype=None, **static):
        if dtype is not None:
            if name not in WITH_DTYPE:
                raise TypeError(f"{name}: takes no dtype: convert before it, by x.to(dtype)")
            a = cast(a, dtype)
        axis = axis if dim is None else dim
        keepdims = keepdims if keepdim is None else keepdim
        axis = None if axis is None else normalize_axes(axis, np.ndim(unwrap(a)), name) or None
        found = operation(a, axis=axis, keepdims=keepdims, **static)
        if is_mean and found.node is not None and found.shape == ():
            is_mean_of(math.prod(shape_of(a)), found)
        return found

    reduce.__name__ = reduce.__qualname__ = name
    reduce.__doc__ = operation.__doc__
    return reduce


def _restore(g, shape, axis):
    """The gradient of a reduction of an array of this shape, with the reduced axes of length 1."""
    return g if axis is None else g.reshape(_keepdims_shape(shape, axis))


def _without_kept(y, axis, keepdims):
    """y, whose reduced axes have length 1: without them unless keepdims."""
    return y if keepdims else y.reshape(()) if axis is None else y.squeeze(axis)


def _keepdims_shape(shape, axis):
    """The shape with 1 for the lengths of the reduced axes."""
    return tuple(1 if axis is None or i in axis else n for i, n in enumerate(shape))


def _count(shape, axis):
    """How many elements of an array of this shape are reduced to one."""
    return math.prod(n for i, n in enumerate(shape) if axis is None or i in axis)


@_reduction
@primitive
def sum(a, *, axis=None, keepdims=False):
    """Sum over the axes."""
    shape = a.shape
    return sum_over(a, axis, keepdims), lambda g: _broadcast(_restore(g, shape, axis), shape)


def scaled_sum(a, scale):
    """scale times the sum of all elements of a Tensor, or of an array as such; a mean for scale = 1 / n.

    Half precision is added and scaled in float32: a sum that it cannot hold may have a mean that it can.
    """
    if type(a) is Tensor:
        return _scaled_sum(a, scale=scale)
    return narrow(sum_over(widen(a)) * scale, a)


@primitive
def _scaled_sum(a, *, scale):
    shape = a.shape
    return scaled_sum(a, scale), lambda g: _broadcast(g * scale, shape)


@_reduction
@primitive
def mean(a, *, axis=None, keepdims=False):
    """Arithmetic mean over the axes."""
    shape = a.shape
    scale = 1.0 / (_count(shape, axis) or 1)
    return mean_over(a, axis, keepdims), lambda g: _broadcast(_restore(g * scale, shape, axis), shape)


def _broadcast(g, shape):
    return xp[type(g)].broadcast_to(g, shape)


def _dispersion(operation):
    """The user's form of var and std: torch's `correction`, 1 if `unbiased`, is taken off the number of values."""

    def measure(a, axis=None, unbiased=True, keepdims=False, *, correction=None, **torch_names):
        if isinstance(axis, bool):  # torch's var(a, unbiased)
            axis, unbiased = None, axis
        correction = int(unbiased) if correction is None else number(correction, "var: correction")
        return operation(a, axis, keepdims, correction=correction, **torch_names)

    measure.__name__ = measure.__qualname__ = operation.__name__
    measure.__doc__ = operation.__doc__
    return measure


@_dispersion
@_reduction
@primitive
def var(a, *, axis=None, keepdims=False, correction=1):
    """Variance over the axes, divided by n - correction: by n - 1 unless unbiased=False or another correction.

    Where n - correction is not positive it is infinite, or nan where all values are equal.
    """
    shape, scale = a.shape, _one_over(_count(a.shape, axis) - correction)
    wide = widen(a)
    d = wide - mean_over(wide, axis, True)
    y = sum_over(d * d, axis, keepdims) * scale
    return narrow(y, a), lambda g: narrow(_restore(g * (2.0 * scale), shape, axis) * d, a)


def _one_over(n):
    return 1.0 / n if n > 0 else math.inf


@_dispersion
@_reduction
def std(a, *, axis=None, keepdims=False, correction=1):
    """Standard deviation over the axes, the root of `var`; where all values are equal, its derivative is 0."""
    scale = math.sqrt(_one_over(_count(a.shape, axis) - correction))
    return _euclidean(a - mean(a, axis, True), axis, keepdims) * scale


@_reduction
@primitive
def amax(a, *, axis=None, keepdims=False, equal_nan=False):
    """Largest value over the axes, nan if one is. Equal ones share the gradient evenly, nans only with equal_nan."""
    return _split_among_equals(a, xp[type(a)].amax(a, axis=axis, keepdims=True), axis, keepdims, equal_nan)


@_reduction
@primitive
def amin(a, *, axis=None, keepdims=False, equal_nan=False):
    """Smallest value over the axes, nan if one is. Equal ones share the gradient evenly, nans only with equal_nan."""
    return _split_among_equals(a, xp[type(a)].amin(a, axis=axis, keepdims=True), axis, keepdims, equal_nan)


def _split_among_equals(a, y, axis, keepdims, equal_nan):
    x, best = unwrap(a), unwrap(y)
    chosen = (x == best) | ((x != x) & (best != best)) if equal_nan else x == best
    count = chosen.sum(axis=axis, keepdims=True)
    weight = astype(chosen / astype(count, widen(unwrap(y)).dtype), y.dtype)
    return _without_kept(y, axis, keepdims), lambda g: _restore(g, chosen.shape, axis) * weight


@_reduction
@primitive
def logsumexp(a, *, axis=None, keepdims=False):
    """log(sum(exp(a))) over the axes, without overflow; -inf where all are -inf."""
    n, shape = xp[type(a)], a.shape
    wide = widen(a)
    top = max_keepdims(unwrap(wide), axis)
    top = xp[type(top)].where(xp[type(top)].isfinite(top), top, 0.0)  # a line of -inf stays one
    e = n.exp(wide - top)
    s = sum_over(e, axis, True)
    y = n.log(s) + top
    p = e / s
    return narrow(_without_kept(y, axis, keepdims), a), lambda g: narrow(_restore(g, shape, axis) * p, a)


class Extremum(NamedTuple):
    """What `max` and `min` return along an axis: a tensor, and an integer array of the same shape."""

    values: Tensor
    indices: Any


def max(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Along an axis: the largest values and their indices, the first of equals. Without one: `amax` over all.

    As in torch, a second array in the place of the axis asks for `maximum`.
    """
    axis, keepdims = axis if dim is None else dim, keepdims if keepdim is None else keepdim
    return _extremum(a, axis, keepdims, maximum, amax, argmax)


def min(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Along an axis: the smallest values and their indices, the first of equals. Without one: `amin` over all.

    As in torch, a second array in the place of the axis asks for `minimum`.
    """
    axis, keepdims = axis if dim is None else dim, keepdims if keepdim is None else keepdim
    return _extremum(a, axis, keepdims, minimum, amin, argmin)


def _extremum(a, axis, keepdims, of_two, of_all, place):
    if hasattr(axis, "shape") and not isinstance(axis, np.integer):
        return of_two(a, axis)
    if axis is None:
        return of_all(a, None, keepdims, equal_nan=True)
    indices = place(a, axis, True)
    values = take_along_dim(a, indices, axis)
    return Extremum(values, indices) if keepdims else Extremum(squeeze(values, axis), indices.squeeze(axis))


@_reduction
def prod(a, *, axis=None, keepdims=False):
    """Product over the axes, as a tree of products of pairs: its derivatives are exact also where elements are zero."""
    shape = a.shape
    axes = tuple(range(len(shape))) if axis is None else axis
    rest = tuple(i for i in range(len(shape)) if i not in axes)
    n = _count(shape, axis)
    y = reshape(permute(a, axes + rest), (n, *(shape[i] for i in rest)))
    ones = (1 << (n - 1).bit_length()) - n  # up to a power of two
    y = pad(y, (0, 0) * len(rest) + (0, ones), value=1)
    while y.shape[0] > 1:
        y = y[::2] * y[1::2]
    return reshape(y, _keepdims_shape(shape, axis)) if keepdims else y[0]


def cumsum(a, axis=0, *, dim=None, dtype=None):
    """Running sum along one axis, of a's shape."""
    axis = normalize_axis(axis if dim is None else dim, np.ndim(unwrap(a)), "cumsum")
    a = a if dtype is None else cast(a, dtype)
    return _cumsum(a, axis=axis) if np.ndim(unwrap(a)) else a


@primitive
def _cumsum(a, *, axis):
    def vjp(g):
        n = xp[type(g)]
        return n.flip(running_sum(n.flip(g, axis), axis), axis)

    return running_sum(a, axis), vjp


def norm(a, p=2.0, axis=None, keepdims=False, *, dim=None, keepdim=None, dtype=None):
    """(sum |a|^p)^(1/p) over the axes; p = math.inf gives the largest |a| and -math.inf the smallest.

    p = 0 counts the elements that are not 0; "fro" means 2. The derivative at a zero vector is 0, and so is that by an
    element that is 0.
    """
    axis, keepdims = axis if dim is None else dim, keepdims if keepdim is None else keepdim
    a = a if dtype is None else cast(a, dtype)
    p = number(2.0 if isinstance(p, str) and p == "fro" else p, "norm: p")
    if not isinstance(p, (int, float)):
        raise ValueError(f'norm: p is a number, math.inf or "fro", got {p!r}')
    if p not in (0, 1, 2, math.inf, -math.inf):
        return _p_norm(a, axis, keepdims, p=p)
    if p == 2:
        return _euclidean(a, axis, keepdims)
    a = abs(a)
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(a, axis, keepdims, equal_nan=True)
    return sum(a if p else where(unwrap(a) != 0, 1.0 + 0.0 * sign(a), 0.0), axis, keepdims)


@_reduction
@primitive
def _euclidean(a, *, axis=None, keepdims=False):
    n, shape, wide = xp[type(a)], a.shape, widen(a)
    y = _euclidean(a, axis, True) if type(a) is Tensor else n.sqrt(sum_over(wide * wide, axis, True))
    zero = unwrap(y) == 0
    direction = wide * n.where(zero, 0.0, 1.0 / (y + zero))
    return narrow(_without_kept(y, axis, keepdims), a), lambda g: narrow(_restore(g, shape, axis) * direction, a)


@_reduction
@primitive
def _p_norm(a, *, axis=None, keepdims=False, p):
    n, shape, wide = xp[type(a)], a.shape, widen(a)
    y = _p_norm(a, axis, True, p=p) if type(a) is Tensor else sum_over(n.abs(wide) ** p, axis, True) ** (1.0 / p)

    def vjp(g):  # by a: sign(a) |a|^(p - 1) y^(1 - p)
        none, zero = unwrap(wide) == 0, unwrap(y) == 0
        slope = n.where(none, 0.0, n.sign(wide) * n.abs(n.where(none, 1.0, wide)) ** (p - 1))
        return narrow(_restore(g, shape, axis) * (slope * n.where(zero, 0.0, n.where(zero, 1.0, y) ** (1 - p))), a)

    return narrow(_without_kept(y, axis, keepdims), a), vjp


def argmax(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Index of the largest value along the axis, the first of equals, as an integer array; not differentiable."""
    return _chosen("argmax", a, axis if dim is None else dim, keepdims if keepdim is None else keepdim)


def argmin(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Index of the smallest value along the axis, the first of equals, as an integer array; not differentiable."""
    return _chosen("argmin", a, axis if dim is None else dim, keepdims if keepdim is None else keepdim)


def _chosen(name, a, axis, keepdims):
    x = unwrap(a)
    axis = None if axis is None else normalize_axis(axis, x.ndim, name)
    if 0 in (x.shape if axis is None else x.shape[axis : axis + 1]):
        raise ValueError(f"{name}: a shape {tuple(x.shape)} has nothing to choose from along axis {axis}")
    return getattr(x, name)(axis=axis, keepdims=keepdims)


attach_methods(sum, mean, var, std, amax, amin, max, min, prod, cumsum, norm, logsumexp, argmax, argmin)
