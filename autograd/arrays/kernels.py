"""Small computations that rules share, each for arrays of any library that `xp` knows."""

import math
from functools import lru_cache

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from allgrad.autograd.arrays.namespace import NUMPY_TYPES, astype, full, kind, xp

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register
BLOCK_ELEMENTS = 32_768  # a few arrays of this length share a core's own cache, and a call is worth its overhead
SMALL = 1024  # elements of an array for which the number of calls matters more than their speed
SHORT_ROW = 32  # elements of a row for which it pays to transpose before reducing it
INTEGERS_OF = {np.dtype("f2"): np.dtype("i2"), np.dtype("f4"): np.dtype("i4"), np.dtype("f8"): np.dtype("i8")}
HALF = np.dtype("f2")
LONG_SUM = 1024  # more float32 numbers than this are not added one by one: see `sum_over`


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
    integers = INTEGERS_OF.get(g.dtype) if type(g) in NUMPY_TYPES else None
    if integers is None:
        return xp[type(g)].where(mask, g, 0)
    return (g.view(integers) * mask).view(g.dtype)  # its bits times 0 or 1: np.where takes ten times as long


def maxima_of_rows(a):
    """The largest element of each row of a NumPy array (..., N, C), as (..., N, 1)."""
    if a.shape[-1] > SHORT_ROW or a.size < SMALL // 2:
        return np.maximum.reduce(a, axis=-1, keepdims=True)
    columns = np.positive(a.mT, order="C")  # of which whole vectors are compared, and not single numbers
    return np.maximum.reduce(columns, axis=-2)[..., None]


def positive_part(a):
    """max(a, 0) of an array, nan where a is nan."""
    if type(a) in NUMPY_TYPES and a.size < SMALL:
        return np.maximum(a, zero(a.dtype))  # a call of `clip` takes three times as long, but a third for each element
    return a.clip(0, math.inf if kind(a.dtype) == "f" else None)


@lru_cache
def zero(dtype):
    """A read-only 0 of shape (): beside a Python number NumPy would have to convert it."""
    array = np.zeros((), dtype)
    array.flags.writeable = False
    return array


def unbroadcast(g, shape):
    """Undo broadcasting: sum g over the axes along which an array of this shape was broadcast to g's shape.

    g of shape (4, 2, 3) for an array of shape (2, 1): sum over axes 0 and 2, and return shape (2, 1).
    """
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 != g.shape[lead + i])
    if axes:
        g = sum_over(g, axes, True)
    return g.reshape(shape)


def widen(a):
    """An array of half precision in float32, to add or square its elements in; any other as it is."""
    half = hasattr(a, "itemsize") and a.dtype.itemsize == 2 and kind(a.dtype) == "f"
    return astype(a, "float32") if half else a


def narrow(y, like):
    """What was computed from `widen(like)` in the dtype of `like`."""
    return y if y.dtype == like.dtype or widen(like) is like else astype(y, like.dtype)


def sum_over(a, axis=None, keepdims=False):
    """The sum over a tuple of axes, or all, of a's dtype, with an error that hardly grows with the number of elements.

    NumPy adds in pairs along the axis whose elements are neighbours in memory, and one by one along the others: in
    float32 a sum of ones stops at 2^24. Where that are many, they are added in blocks. Half precision adds in float32.
    """
    if type(a) not in NUMPY_TYPES:
        return a.sum(axis=axis, keepdims=keepdims)
    if a.size > LONG_SUM and _adds_one_by_one(a, axis):
        return _sum_in_blocks(a, axis, keepdims)
    if a.dtype == HALF:
        return a.sum(axis=axis, keepdims=keepdims, dtype=np.float32).astype(a.dtype)
    return np.add.reduce(a, axis, keepdims=keepdims)


def mean_over(a, axis=None, keepdims=False):
    """The mean over a tuple of axes, or all, of a's dtype: added like `sum_over`."""
    if 0 in a.shape and type(a) in NUMPY_TYPES:  # of which NumPy warns
        return sum_over(a, axis, keepdims) * math.nan
    if not _adds_one_by_one(a, axis):
        return a.mean(axis=axis, keepdims=keepdims)
    y = _sum_in_blocks(widen(a), axis, keepdims)
    return (y / (a.size // y.size)).astype(a.dtype)


def running_sum(a, axis):
    """The running sum along one axis, of a's dtype; float32 and half precision are added in float64, as torch does."""
    n = xp[type(a)]
    if n is np and a.dtype.kind == "f" and a.dtype.itemsize < 8:
        return np.cumsum(a, axis, np.float64).astype(a.dtype)
    return n.cumsum(a, axis)


def _adds_one_by_one(a, axis):
    """Whether NumPy would add more than LONG_SUM numbers of few bits one by one."""
    if type(a) not in NUMPY_TYPES or a.size <= LONG_SUM or a.dtype.kind != "f" or a.dtype.itemsize > 4:
        return False
    if a.flags.forc if axis is None else math.prod([a.shape[i] for i in axis]) <= LONG_SUM:
        return False
    lengths = {i: n for i, n in enumerate(a.shape) if n > 1}
    innermost = min(lengths, key=lambda i: (abs(a.strides[i]) or math.inf, -i))  # to NumPy; a stride of 0 comes last
    axes = range(a.ndim) if axis is None else [i % a.ndim for i in axis]
    return math.prod(a.shape[i] for i in axes if i != innermost) > LONG_SUM


def _sum_in_blocks(a, axis, keepdims):
    axes = tuple(range(a.ndim)) if axis is None else tuple(i % a.ndim for i in axis)
    y = widen(a)
    for i in axes:
        y = _sum_of_long_axis(y, i)
    return (y if keepdims else y.squeeze(axes)).astype(a.dtype, copy=False)[()]


def _sum_of_long_axis(a, axis):
    """The sum along one axis, kept with length 1, of which no number is the sum of more than LONG_SUM one by one."""
    n, before = a.shape[axis], (slice(None),) * axis
    if n <= LONG_SUM:
        return a.sum(axis=axis, keepdims=True)
    rows = n // LONG_SUM  # row i is added to rows i + rows, i + 2 rows, ...: each addition runs over many neighbours
    whole = a[(*before, slice(rows * LONG_SUM))]
    whole = whole.reshape(*a.shape[:axis], LONG_SUM, rows, *a.shape[axis + 1 :])
    y = _sum_of_long_axis(whole.sum(axis=axis), axis)
    return y + a[(*before, slice(rows * LONG_SUM, n))].sum(axis=axis, keepdims=True) if n % LONG_SUM else y


@lru_cache
def ones(length, dtype):
    """A read-only vector of ones: a product with it (BLAS) is a faster sum than NumPy's reductions."""
    array = np.ones(length, dtype)
    array.flags.writeable = False
    return array


def sum_rows(g):
    """The sum of the rows of a matrix (N, n): shape (n,)."""
    if type(g) not in NUMPY_TYPES:
        return g.sum(axis=0)
    rows = len(g)
    if rows <= LONG_SUM:
        return np.dot(ones(rows, g.dtype), g)
    blocks, n = rows // LONG_SUM, g.shape[1]  # the BLAS too adds one row after the other
    whole = blocks * LONG_SUM
    y = sum_rows(ones(LONG_SUM, g.dtype) @ g[:whole].reshape(blocks, LONG_SUM, n))
    return y + np.dot(ones(rows - whole, g.dtype), g[whole:]) if rows > whole else y


def sum_keepdims(a, axis):
    """The sum along one axis, kept with length 1."""
    if a.ndim == 0:
        return a
    if type(a) in NUMPY_TYPES and axis in (-1, a.ndim - 1):
        return (a @ ones(a.shape[-1], a.dtype))[..., None]
    return sum_over(a, (axis,), True)


def max_keepdims(x, axis):
    """The largest values of an array along the axis, with length 1 there; 0 of an empty array."""
    return xp[type(x)].amax(x, axis=axis, keepdims=True) if math.prod(x.shape) else full((), 0, x)


def sign(a):
    """-1, 0 or 1, as torch says: 0 of nan."""
    y = xp[type(a)].sign(a)
    return y if xp[type(a)] is not np else np.where(a == a, y, 0)


def logistic(a):
    """1 / (1 + exp(-a)), accurate for all a; the formula by tanh would lose every digit far below 0."""
    if xp[type(a)] is not np:
        return xp[type(a)].sigmoid(a)
    with np.errstate(over="ignore"):
        y = np.exp(-a)
    y += 1.0
    return np.divide(1.0, y, out=y) if type(y) in NUMPY_TYPES else 1.0 / y


def erf(a):
    """The error function, for NumPy arrays that of SciPy, which has none for more than 64 bits."""
    if xp[type(a)] is not np:
        return xp[type(a)].erf(a)

    from scipy.special import erf

    if a.dtype.kind == "f" and a.dtype.itemsize > 8:
        raise TypeError(f"erf: computes in float64 at most, not in {a.dtype}: convert the array")
    return erf(a) if a.dtype.kind != "f" else erf(a).astype(a.dtype, copy=False)


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
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: the axes {axes} name one twice")
    return axes if ndim else None


def aligned_zeros(length, like):
    """A flat array of zeros of the dtype of `like`, whose memory starts on a multiple of ALIGNMENT_BYTES."""
    if type(like) not in NUMPY_TYPES:
        return like.new_zeros(length)  # torch aligns all its memory
    dtype = like.dtype
    memory = np.zeros(length * dtype.itemsize + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + length * dtype.itemsize].view(dtype)
