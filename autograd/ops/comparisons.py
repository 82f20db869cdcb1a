"""Questions about elements. The answers are arrays of the library that computes, of booleans or integers, no Tensors.

Nothing here is differentiable.
"""

import math
import operator
from typing import Any

import numpy as np

from allgrad.autograd.arrays import is_torch, normalize_axes, to_backend_of, to_numpy, xp
from allgrad.autograd.engine import Tensor, attach_methods, constant, reference_array, shape_of, unwrap


def arrays_of(*operands):
    """The arrays of several operands, all of one library; numbers as they are."""
    like = reference_array(*operands)
    found = [x.item() if isinstance(x, np.generic) else unwrap(x) for x in operands]
    return [x if isinstance(x, (bool, int, float)) else to_backend_of(x, like) for x in found]


def _of_two(name, function, doc):
    def compare(a, b):
        return function(*arrays_of(a, b))

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = doc
    return compare


eq = _of_two("eq", operator.eq, "Whether a = b, element by element.")
ne = _of_two("ne", operator.ne, "Whether a and b differ, element by element.")
lt = _of_two("lt", operator.lt, "Whether a < b, element by element.")
le = _of_two("le", operator.le, "Whether a <= b, element by element.")
gt = _of_two("gt", operator.gt, "Whether a > b, element by element.")
ge = _of_two("ge", operator.ge, "Whether a >= b, element by element.")
bitwise_and = _of_two("bitwise_and", operator.and_, "a & b, of booleans or of the bits of integers.")
bitwise_or = _of_two("bitwise_or", operator.or_, "a | b, of booleans or of the bits of integers.")
bitwise_xor = _of_two("bitwise_xor", operator.xor, "a ^ b, of booleans or of the bits of integers.")
logical_and = _of_two("logical_and", lambda a, b: (a != 0) & (b != 0), "Whether neither a nor b is 0.")
logical_or = _of_two("logical_or", lambda a, b: (a != 0) | (b != 0), "Whether a or b is not 0.")
logical_xor = _of_two("logical_xor", lambda a, b: (a != 0) ^ (b != 0), "Whether one of a and b is 0, but not both.")


def bitwise_not(a):
    """~a: not, of booleans; each bit inverted, of integers."""
    return ~unwrap(a)


def logical_not(a):
    """Whether a is 0."""
    return unwrap(a) == 0


def _of_library(name, doc):
    def ask(a):
        x = unwrap(a)
        return getattr(xp[type(x)], name)(x)

    ask.__name__ = ask.__qualname__ = name
    ask.__doc__ = doc
    return ask


isnan = _of_library("isnan", "Whether an element is nan.")
isinf = _of_library("isinf", "Whether an element is inf or -inf.")
isfinite = _of_library("isfinite", "Whether an element is neither nan nor infinite.")
signbit = _of_library("signbit", "Whether an element has a minus sign, as -0.0 has.")


def isposinf(a):
    """Whether an element is inf."""
    return unwrap(a) == math.inf


def isneginf(a):
    """Whether an element is -inf."""
    return unwrap(a) == -math.inf


def isclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Whether |a - b| <= atol + rtol |b|, or a = b, element by element; with equal_nan nan equals nan."""
    a, b = arrays_of(a, b)
    with np.errstate(invalid="ignore"):
        close = (a == b) | (abs(a - b) <= atol + rtol * abs(b)) & (abs(b) < math.inf)
    return close | (a != a) & (b != b) if equal_nan else close


def allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Whether all elements are close, by `isclose`."""
    return bool(isclose(a, b, rtol, atol, equal_nan).all())


def equal(a, b):
    """Whether a and b have one shape and the same elements."""
    return shape_of(a) == shape_of(b) and bool((eq(a, b)).all())


def any(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Whether there is an element that is not 0, along an axis, several, or all of them."""
    return _over(a, "any", axis, keepdims, dim, keepdim)


def all(a, axis=None, keepdims=False, *, dim=None, keepdim=None):
    """Whether no element is 0, along an axis, several, or all of them."""
    return _over(a, "all", axis, keepdims, dim, keepdim)


def count_nonzero(a, axis=None, *, dim=None):
    """How many elements are not 0, along an axis, several, or all of them."""
    return _over(a, "sum", axis, False, dim, None)


def _over(a, name, axis, keepdims, dim, keepdim):
    x = unwrap(a)
    axis, keepdims = axis if dim is None else dim, keepdims if keepdim is None else keepdim
    axis = None if axis is None else normalize_axes(axis, x.ndim, name)
    if axis is None and is_torch(x):
        axis = tuple(range(x.ndim))
    return getattr(x != 0, name)(axis=axis, keepdims=keepdims)


def nonzero(a, *, as_tuple=False):
    """The places of the elements that are not 0: integers (n, ndim), or a vector for each axis if as_tuple."""
    x = unwrap(a)
    if as_tuple:
        return tuple(to_backend_of(i, x) for i in np.nonzero(np.atleast_1d(to_numpy(x))))
    return to_backend_of(np.argwhere(to_numpy(x)), x)


def argwhere(a):
    """The places of the elements that are not 0, as integers (n, ndim)."""
    return nonzero(a)


def unique(a, sorted=True, return_inverse=False, return_counts=False, dim=None):
    """The distinct elements in rising order, or the distinct slices along dim.

    With return_inverse also an array of a's shape, of which of them each element is; with return_counts how many each
    has. Always sorted.
    """
    x = unwrap(a)
    asked: Any = {"return_inverse": return_inverse, "return_counts": return_counts}
    found = np.unique(to_numpy(x), axis=dim, **asked)
    if not isinstance(found, tuple):
        return to_backend_of(found, x)
    return tuple(to_backend_of(part, x) for part in found)


def bincount(a, weights=None, minlength=0):
    """How often each integer 0, 1, 2, ... occurs in a vector of them, or the sum of the weights where it does."""
    x = unwrap(a)
    weights = None if weights is None else to_numpy(constant(weights, "bincount: weights"))
    counted = np.bincount(to_numpy(x), weights, minlength)
    return to_backend_of(counted, x)


def searchsorted(sorted_sequence, values, *, right=False, side=None, out_int32=False, sorter=None):
    """Where to insert values into a sorted vector: before the elements that are as large, or behind them if `right`.

    The last axis of a sequence (..., n) is searched by the values (..., m) of the same row. sorter: the indices that
    sort it, if it is not sorted.
    """
    sequence, values = arrays_of(sorted_sequence, values)
    rows, found = to_numpy(sequence), np.asarray(to_numpy(values))
    rows = rows if sorter is None else np.take_along_axis(rows, to_numpy(unwrap(sorter)), -1)
    side, dtype = side or ("right" if right else "left"), np.int32 if out_int32 else np.int64
    if rows.ndim == 1:
        return to_backend_of(np.asarray(np.searchsorted(rows, found, side), dtype), sequence)
    if rows.shape[:-1] != found.shape[:-1]:
        raise ValueError(f"searchsorted: values {found.shape} need the leading axes of the sequence {rows.shape}")
    each = zip(*(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) for x in (rows, found)))
    places = np.reshape([np.searchsorted(row, v, side) for row, v in each], found.shape).astype(dtype)
    return to_backend_of(places, sequence)


Tensor.__and__, Tensor.__or__, Tensor.__xor__, Tensor.__invert__ = bitwise_and, bitwise_or, bitwise_xor, bitwise_not
Tensor.__rand__, Tensor.__ror__, Tensor.__rxor__ = bitwise_and, bitwise_or, bitwise_xor
Tensor.__contains__ = lambda self, value: bool(eq(self, value).any())
Tensor.__int__ = lambda self: int(self.item())
Tensor.__index__ = lambda self: operator.index(self.item())
attach_methods(eq, ne, lt, le, gt, ge, bitwise_and, bitwise_or, bitwise_xor, bitwise_not)
attach_methods(logical_and, logical_or, logical_xor, logical_not, isnan, isinf, isfinite, signbit, isposinf, isneginf)
attach_methods(isclose, allclose, equal, any, all, count_nonzero, nonzero, argwhere, unique, bincount)
