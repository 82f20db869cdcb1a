"""Small computations that rules share, each for arrays of any library that `xp` knows."""

import math
from functools import lru_cache

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from allgrad.autograd.arrays.namespace import NUMPY_TYPES, full, xp

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register
BLOCK_ELEMENTS = 32_768  # a few arrays of this length share a core's own cache, and a call is worth its overhead


def record_as_one_step(function):
    """Decorator of function(a, ...) whose calls of NumPy depend on values: a recording takes it as one step."""

    def called(a, *args):
        if isinstance(a, np.ndarray) and type(a) is not np.ndarray:
            return a.__array_function__(called, (type(a),), (a, *args), {})
        return function(a, *args)

    called.__name__ = function.__name__
    return called


def mask_grad(g, mask):
    """g where the boolean mask holds and 0 elsewhere; unlike a product, also where g is nan or infinite."""
    return xp[type(g)].where(mask, g, 0.0)


def unbroadcast(g, shape):
    """Undo broadcasting: sum g over the axes along which an array of this shape was broadcast to g's shape.

    g of shape (4, 2, 3) for an array of shape (2, 1): sum over axes 0 and 2, and return shape (2, 1).
    """
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 != g.shape[lead + i])
    if axes:
        g = g.sum(axis=axes, keepdims=True)
    return g.reshape(shape)


@lru_cache
def ones(length, dtype):
    """A read-only vector of ones: a product with it (BLAS) is a faster sum than NumPy's reductions."""
    array = np.ones(length, dtype)
    array.flags.writeable = False
    return array


def sum_rows(g):
    """The sum of the rows of a matrix (N, n): shape (n,)."""
    return np.dot(ones(len(g), g.dtype), g) if type(g) in NUMPY_TYPES else g.sum(axis=0)


def sum_keepdims(a, axis):
    """The sum along one axis, kept with length 1."""
    if type(a) in NUMPY_TYPES and axis in (-1, a.ndim - 1):
        return (a @ ones(a.shape[-1], a.dtype))[..., None]
    return a.sum(axis=axis, keepdims=True)


def max_keepdims(x, axis):
    """The largest values of an array along the axis, with length 1 there; 0 of an empty array."""
    return xp[type(x)].amax(x, axis=axis, keepdims=True) if math.prod(x.shape) else full((), 0, x)


def logistic(a):
    """1 / (1 + exp(-a)), accurate for all a; the formula by tanh would lose every digit far below 0."""
    if xp[type(a)] is not np:
        return xp[type(a)].sigmoid(a)
    with np.errstate(over="ignore"):
        y = np.exp(-a)
    y += 1.0
    return np.divide(1.0, y, out=y) if type(y) in NUMPY_TYPES else 1.0 / y


def erf(a):
    """The error function, for NumPy arrays that of SciPy."""
    if xp[type(a)] is not np:
        return xp[type(a)].erf(a)

    from scipy.special import erf

    return erf(a)


def cache_blocks(*arrays):
    """Matching flat views of at most BLOCK_ELEMENTS elements of contiguous arrays of one size.

    Several passes over one block find it in the processor's cache.
    """
    flat = [a.reshape(-1) for a in arrays]
    for start in range(0, len(flat[0]), BLOCK_ELEMENTS):
        yield [a[start : start + BLOCK_ELEMENTS] for a in flat]


def normalize_axis(axis, ndim, name):
    """The axis as 0 .. ndim - 1, from one that may be negative; as in torch, a scalar has an axis 0."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{name}: an axis is an integer, not {axis!r}: name the argument that was meant")
    return normalize_axis_index(axis, ndim or 1, name)


def normalize_axes(axes, ndim, name):
    """An axis or a list of them as a tuple of 0 .. ndim - 1; None, which stands for all axes, of a scalar."""
    axes = tuple([normalize_axis(i, ndim, name) for i in (axes if isinstance(axes, (tuple, list)) else (axes,))])
    return axes if ndim else None


def aligned_zeros(length, like):
    """A flat array of zeros of the dtype of `like`, whose memory starts on a multiple of ALIGNMENT_BYTES."""
    if type(like) not in NUMPY_TYPES:
        return like.new_zeros(length)  # torch aligns all its memory
    dtype = like.dtype
    memory = np.zeros(length * dtype.itemsize + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + length * dtype.itemsize].view(dtype)
