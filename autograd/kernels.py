"""What the rules need of an array library, beyond operators and methods.

NumPy's names are the vocabulary. `xp[type(a)]` is the namespace that computes on `a`: NumPy itself for its arrays
and scalars, this package for a Tensor inside a nested transformation, so that one rule serves all of them.
"""

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

OPERANDS = frozenset({float, int, bool, complex, np.ndarray})  # what may meet a tensor as it is
ALIGNMENT = 64  # bytes: a cache line, and the widest vector register

xp: dict = dict.fromkeys((np.ndarray, *np.sctypeDict.values()), np)


def as_operand(a, name):
    """`a` if it can be computed on. NumPy scalars become Python's, which do not promote float32 to float64."""
    if type(a) in OPERANDS:
        return a
    if isinstance(a, np.generic):
        return a.item()
    if isinstance(a, np.ndarray):
        return a.view(np.ndarray)
    raise TypeError(f"{name}: autograd computes on NumPy arrays, numbers and Tensors, not on {type(a).__name__}")


def namespace(*operands):
    """The namespace for operands of which some may be plain numbers: a Tensor's if there is one."""
    found = [xp[type(a)] for a in operands if type(a) in xp]
    return next((n for n in found if n is not np), np)


def unbroadcast(g, shape):
    """Sum g over the axes along which an array of this shape was broadcast to g's shape."""
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 != g.shape[lead + i])
    if axes:
        g = g.sum(axis=axes, keepdims=True)
    return g.reshape(shape)


def sum_rows(g):
    """Sum a matrix over its rows: for more than a few of them the BLAS is faster at it than NumPy's reduction."""
    if type(g) is np.ndarray:
        return np.ones(len(g), g.dtype) @ g if len(g) > 32 else np.add.reduce(g)
    return g.sum(axis=0)


def top_of(x, axis):
    """The largest values of an array along the axis, with length 1 there; 0 of an empty array."""
    return x.max(axis=axis, keepdims=True) if x.size else x.dtype.type(0)


def erf(a):
    """The error function; that of arrays from SciPy, since NumPy has none."""
    if xp[type(a)] is not np:
        return xp[type(a)].erf(a)
    from scipy.special import erf

    return erf(a)


def axis_of(axis, ndim, name):
    """The axis counted from the front; as in torch, a scalar has an axis 0 to speak of."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{name}: an axis is an integer, not {axis!r}: name the argument that was meant")
    return normalize_axis_index(axis, ndim or 1, name)


def axes_of(axes, ndim, name):
    """An axis, or a list of them, as a tuple counted from the front; None, for all, where there are none at all."""
    axes = tuple([axis_of(i, ndim, name) for i in (axes if isinstance(axes, (tuple, list)) else (axes,))])
    return axes if ndim else None


def aligned_zeros(length, dtype):
    """A flat array of zeros that starts on a multiple of `ALIGNMENT` bytes."""
    dtype = np.dtype(dtype)
    memory = np.zeros(length * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + length * dtype.itemsize].view(dtype)


class OuterProduct:
    """sum_i outer(g_i, x_i) = g.T @ x for rows x (N, in) and g (N, out), still to be computed.

    The gradient of a weight: as large as the weight, and wanted in a place that exists already. `into` writes it
    there without a temporary; both forms compute x.T @ g, in the memory order of nn.Linear's weight.
    """

    __slots__ = ("x", "g", "shape", "dtype")

    def __init__(self, x, g):
        self.x, self.g = x, g
        self.shape = (g.shape[1], x.shape[1])
        self.dtype = x.dtype if x.dtype == g.dtype else np.result_type(x, g)

    def value(self):
        return (self.x.mT @ self.g).mT

    def into(self, out):
        np.matmul(self.x.mT, self.g, out=out.mT)
