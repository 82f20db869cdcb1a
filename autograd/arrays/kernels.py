"""What the rules compute by, beyond the operators and methods of arrays: the same for either library."""

import math
from functools import lru_cache

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from allgrad.autograd.arrays.namespace import ARRAYS, full, xp

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
PIECE = 32_768  # elements: a few arrays of this length share a core's own cache, and a call is worth its overhead


def record_as_one_step(function):
    """A function whose steps depend on values: `replay.recorder` takes it as one step."""

    def called(a, *args):
        if isinstance(a, np.ndarray) and type(a) is not np.ndarray:
            return a.__array_function__(called, (type(a),), (a, *args), {})
        return function(a, *args)

    called.__name__ = function.__name__
    return called


def mask_grad(g, mask):
    """g where the mask holds and 0 elsewhere, also where g is not finite, as a product would not be."""
    return xp[type(g)].where(mask, g, 0.0)


def unbroadcast(g, shape):
    """Sum g over the axes along which an array of this shape was broadcast to g's shape."""
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 != g.shape[lead + i])
    if axes:
        g = g.sum(axis=axes, keepdims=True)
    return g.reshape(shape)


@lru_cache
def ones(length, dtype):
    """A vector of ones, not to be written to: the BLAS adds up rows and columns faster than NumPy's reductions."""
    array = np.ones(length, dtype)
    array.flags.writeable = False
    return array


def sum_rows(g):
    """Sum a matrix over its rows."""
    return np.dot(ones(len(g), g.dtype), g) if type(g) in ARRAYS else g.sum(axis=0)


def sum_keepdims(a, axis):
    """Sum along an axis, kept with length 1; along the last one the BLAS does it, as in `sum_rows`."""
    if type(a) in ARRAYS and axis in (-1, a.ndim - 1):
        return (a @ ones(a.shape[-1], a.dtype))[..., None]
    return a.sum(axis=axis, keepdims=True)


def max_keepdims(x, axis):
    """The largest values of an array along the axis, with length 1 there; 0 of an empty array."""
    return xp[type(x)].amax(x, axis=axis, keepdims=True) if math.prod(x.shape) else full((), 0, x)


def logistic(a):
    """1 / (1 + exp(-a)), to rounding for all a; a formula by tanh would lose every digit far below 0."""
    if xp[type(a)] is not np:
        return xp[type(a)].sigmoid(a)
    with np.errstate(over="ignore"):
        y = np.exp(-a)
    y += 1.0
    return np.divide(1.0, y, out=y) if type(y) in ARRAYS else 1.0 / y


def erf(a):
    """The error function; that of arrays from SciPy, since NumPy has none."""
    if xp[type(a)] is not np:
        return xp[type(a)].erf(a)

    from scipy.special import erf

    return erf(a)


def pieces(*arrays):
    """Matching flat pieces of contiguous arrays: what is computed of one stays in the cache from pass to pass."""
    flat = [a.reshape(-1) for a in arrays]
    for start in range(0, len(flat[0]), PIECE):
        yield [a[start : start + PIECE] for a in flat]


def axis_of(axis, ndim, name):
    """The axis counted from the front; as in torch, a scalar has an axis 0 to speak of."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{name}: an axis is an integer, not {axis!r}: name the argument that was meant")
    return normalize_axis_index(axis, ndim or 1, name)


def axes_of(axes, ndim, name):
    """An axis, or a list of them, as a tuple counted from the front; None, for all, where there are none at all."""
    axes = tuple([axis_of(i, ndim, name) for i in (axes if isinstance(axes, (tuple, list)) else (axes,))])
    return axes if ndim else None


def aligned_zeros(length, like):
    """A flat array of zeros of the dtype of `like` that starts on a multiple of `ALIGNMENT` bytes."""
    if type(like) not in ARRAYS:
        return like.new_zeros(length)  # torch aligns all its memory
    dtype = like.dtype
    memory = np.zeros(length * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + length * dtype.itemsize].view(dtype)
