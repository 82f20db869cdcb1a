"""What the rules need of an array library, beyond operators and methods.

NumPy's names are the vocabulary. `xp[type(a)]` is the namespace that computes on `a`: NumPy itself for its arrays
and scalars, `autograd.on_torch` for torch's tensors, this package for a Tensor inside a nested transformation, so that
one rule serves all of them. torch is imported when the first of its tensors comes along, by whoever made it.
"""

import math
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

ARRAYS = {np.ndarray}  # the types of NumPy arrays; `autograd.recorder` adds its own
OPERANDS = {float, int, bool, complex, *ARRAYS}  # what may meet a tensor as it is
COMPUTES_ON = "autograd computes on NumPy arrays, torch tensors, numbers and Tensors, not on"
ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
PIECE = 32_768  # elements: a few arrays of this length share a core's own cache, and a call is worth its overhead


class _Namespaces(dict):
    def __missing__(self, kind):
        torch = sys.modules.get("torch")
        if torch is None or not issubclass(kind, torch.Tensor):
            raise TypeError(f"{COMPUTES_ON} {kind.__name__}")
        from autograd import on_torch

        self[kind] = on_torch
        return on_torch


xp: dict = _Namespaces.fromkeys((np.ndarray, *np.sctypeDict.values()), np)


def as_operand(a, name):
    """`a` if it can be computed on. NumPy scalars become Python's, which do not promote float32 to float64."""
    if type(a) in OPERANDS:
        return a
    if isinstance(a, np.generic):
        return a.item()
    if isinstance(a, np.ndarray):
        return a.view(np.ndarray)
    if is_torch(a):
        return a.detach() if a.requires_grad or type(a) is not sys.modules["torch"].Tensor else a
    raise TypeError(f"{name}: {COMPUTES_ON} {type(a).__name__}")


def is_torch(a):
    """Whether this is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(a, torch.Tensor) and xp[type(a)] is not np


def to_device(a, device):
    """An array of either library as a torch tensor on this device ("cpu", "cuda:0"), or as a NumPy array ("numpy")."""
    if device == "numpy":
        return to_numpy(a)
    from autograd import on_torch

    return on_torch.asarray(a, device=device)


def to_numpy(a):
    """An array of either library as a NumPy array: itself, a view of the same memory, or a copy from a device."""
    return a if type(a) in ARRAYS else np.asarray(a) if not is_torch(a) else xp[type(a)].to_numpy(a)


def namespace(*operands):
    """The namespace for operands of which some may be plain numbers: a Tensor's if there is one, then torch's."""
    found = [xp[type(a)] for a in operands if type(a) in xp]
    return next((n for n in found if hasattr(n, "vjp")), next((n for n in found if n is not np), np))


# What NumPy and torch call differently, for arrays of either; `like` is an array that says which, and on what device.


def beside(a, like):
    """Numbers, lists or an array of either library, as an array where `like` lives."""
    if not isinstance(like, (np.ndarray, np.generic)):
        return xp[type(like)].asarray(a, like=like)
    return to_numpy(a)


def integers(a, like):
    """Indices or labels where `like` lives; those of torch in the one dtype that all its kernels take."""
    if type(a) in ARRAYS and type(like) in ARRAYS:
        return a
    a = beside(a, like)
    return a if type(a) in ARRAYS or kind(a.dtype) not in "iu" else a.long()


def as_like(a, like):
    """Numbers or an array as an array where `like` lives and of its dtype."""
    if isinstance(like, (np.ndarray, np.generic)):
        return np.asarray(a := to_numpy(a), like.dtype, like=template(a))
    return xp[type(like)].asarray(a, like.dtype, like)


def full(shape, value, like, dtype=None):
    """An array of this shape filled with a number, of the dtype of `like` if no other is given."""
    if isinstance(like, (np.ndarray, np.generic)):
        dtype, like = dtype or like.dtype, template(like)
        return np.full(shape, value, dtype, like=like) if value else np.zeros(shape, dtype, like=like)
    return like.new_full(shape, value, dtype=xp[type(like)].dtype_of(dtype or like.dtype))


def template(a) -> Any:
    """What NumPy's functions take as `like`: an array that may record what is made beside it (`autograd.recorder`)."""
    return a if type(a) in ARRAYS else None


def whole(function):
    """A function whose steps depend on values: `autograd.recorder` takes it as one step."""

    def called(a, *args):
        if isinstance(a, np.ndarray) and type(a) is not np.ndarray:
            return a.__array_function__(called, (type(a),), (a, *args), {})
        return function(a, *args)

    called.__name__ = function.__name__
    return called


def astype(a, dtype):
    """The array in another dtype; itself if it is of that dtype."""
    if isinstance(a, (np.ndarray, np.generic)):
        return a.astype(dtype, copy=False)
    return a.to(xp[type(a)].dtype_of(dtype))


def kind(dtype):
    """NumPy's letter for the sort of a dtype of either library: "f", "i", "u", "b" or "c"."""
    if isinstance(dtype, np.dtype):
        return dtype.kind
    if dtype.is_floating_point:
        return "f"
    return "c" if dtype.is_complex else "b" if "bool" in str(dtype) else "u" if "uint" in str(dtype) else "i"


def kept(g, mask):
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


def total(a, axis):
    """Sum along an axis, kept with length 1; along the last one the BLAS does it, as in `sum_rows`."""
    if type(a) in ARRAYS and axis in (-1, a.ndim - 1):
        return (a @ ones(a.shape[-1], a.dtype))[..., None]
    return a.sum(axis=axis, keepdims=True)


def top_of(x, axis):
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


class OuterProduct:
    """sum_i outer(g_i, x_i) = g.T @ x for rows x (N, in) and g (N, out), still to be computed.

    The gradient of a weight: as large as the weight, and wanted in a place that exists already. `into` writes it
    there without a temporary; both forms compute x.T @ g, in the memory order of nn.Linear's weight.
    """

    __slots__ = ("x", "g", "shape", "dtype")

    def __init__(self, x, g):
        self.x, self.g = x, g
        self.shape = (g.shape[1], x.shape[1])
        self.dtype = x.dtype if x.dtype == g.dtype else namespace(x, g).result_type(x, g)

    def value(self):
        return (self.x.mT @ self.g).mT

    def into(self, out):
        if self.dtype == out.dtype:
            xp[type(out)].matmul(self.x.mT, self.g, out=out.mT)
        else:
            out[...] = self.value()


class Scattered:
    """Zeros of this shape with g at the index, which names no element twice: the gradient of a[index].

    A sum of several, for the pieces that an array was cut into, is computed in the memory of the first.
    """

    __slots__ = ("g", "index", "shape", "dtype", "total")

    def __init__(self, g, index, shape):
        self.g, self.index, self.shape, self.dtype = g, index, shape, g.dtype
        self.total: Any = None

    def value(self):
        if self.total is None:
            self.total = full(self.shape, 0, self.g)
            self.total[self.index] = self.g
        return self.total

    def plus(self, other):
        """The sum with another or with an array; self must not be used again."""
        if type(other) is not Scattered:
            return self.value() + other
        if other.dtype != self.dtype:
            return self.value() + other.value()
        self.value()[other.index] += other.g
        return self
