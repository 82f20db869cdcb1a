# ruff: noqa: F401, I001
"""torch's tensors under NumPy's names: what `xp[torch.Tensor]` is.

Most functions have NumPy's names and arguments in torch too, `axis` and `keepdims` included: they are imported as they
are. The few that differ are defined here, with NumPy's meaning. Tensors that come in are detached, so that
torch.autograd records nothing.
"""

import math
import sys

import numpy as np
import torch
from torch import (
    abs, acos, acosh, add, amax, amin, arange, argsort, asin, asinh, atan, atan2, atanh, broadcast_to, ceil,
    concatenate, cos, cosh, digamma, divide, einsum, erfc, erfinv, exp, exp2, expm1, finfo, floor, fmod, hypot,
    isfinite, isinf, isnan, lgamma, linalg, log, log10, log1p, log2, logaddexp, matmul, multiply, negative, ones_like,
    permute, polygamma, remainder, roll, round, sigmoid, sign, signbit, sin, sinh, sqrt, stack, subtract, tan, tanh,
    trunc, zeros_like,
)  # fmt: skip
from torch.special import erf

from allgrad.autograd.arrays import xp

permute_dims = permute
SMALL_BYTES = 1 << 20  # pinned memory is taken for arrays up to here, and kept by torch for the next ones
TENSORS = {torch.Tensor}  # the classes whose tensors the kernels of `rules` and `optimizers` compute on


def dtype_of(dtype):
    """torch's dtype for a name, or for one of NumPy's."""
    if isinstance(dtype, torch.dtype):
        return dtype
    return getattr(torch, dtype if isinstance(dtype, str) else np.dtype(dtype).name)


def asarray(a, dtype=None, like=None, device=None):
    """Numbers, a list or an array as a tensor on a device, or on that of `like`; of shared memory where possible."""
    if isinstance(a, np.ndarray) and (not a.flags.writeable or min(a.strides, default=0) < 0):
        a = a.copy()
    device = like.device if like is not None else device
    dtype = None if dtype is None else dtype_of(dtype)
    if device is not None and _copies_without_wait(a, torch.device(device)):
        return torch.as_tensor(a, dtype=dtype).pin_memory().to(device, non_blocking=True)
    return torch.as_tensor(a, dtype=dtype, device=device)


def _copies_without_wait(a, device):
    """Whether the host goes on while a is copied to the device: what is small is copied by way of pinned memory."""
    if device.type != "cuda" or (isinstance(a, torch.Tensor) and not a.is_cpu):
        return False
    # In a graph of kernels the memory would be read at each replay, when it belongs to another array.
    return getattr(a, "nbytes", 0) <= SMALL_BYTES and not torch.cuda.is_current_stream_capturing()


def array(a, dtype=None):
    """A copy of a tensor, in this dtype if one is given."""
    return a.detach().clone() if dtype is None else a.detach().to(dtype_of(dtype), copy=True)


copy = array


def copyto(a, b, where):
    """Let a be b where this mask holds, in place."""
    torch.where(where, b, a, out=a)


def to_numpy(a):
    """The values as a NumPy array, of shared memory on the CPU; bfloat16, which NumPy lacks, as float32."""
    a = a.detach().cpu()
    return (a.float() if a.dtype is torch.bfloat16 else a).numpy()


def to_bytes(a):
    """The elements' bits, in order."""
    return a.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()


def squares(tensors):
    """The sum of the squares of each tensor, as float64 tensors of shape (), by a few kernels for all."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return list(torch.stack(torch.ops.aten._foreach_norm.Scalar(tensors, 2.0, dtype)).double().square().unbind())


def result_type(a, b):
    return torch.promote_types(a.dtype, b.dtype)


def maximum(a, b, out=None):
    return torch.maximum(*_both(a, b), out=out)


def minimum(a, b, out=None):
    return torch.minimum(*_both(a, b), out=out)


def clip(a, low, high):
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor) or not isinstance(a, torch.Tensor):
        a = a if low is None else maximum(a, low)
        return a if high is None else minimum(a, high)
    return torch.clip(a, low, high)


def _both(a, b):
    """Both as tensors; one may be a number, which takes the dtype of the other unless that is one of integers."""
    like = a if isinstance(a, torch.Tensor) else b
    exact = isinstance(a, float) or isinstance(b, float)
    dtype = None if exact and not like.is_floating_point() else like.dtype
    # the number stays on the CPU, from where kernels of any device take one: a copy would make the host wait
    return tuple(x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=dtype) for x in (a, b))


def cumsum(a, axis):
    """The running sum along one axis; of floating numbers on a device in a form that has the same bits every time."""
    return torch.cumsum(a, axis) if a.is_cpu or not a.is_floating_point() else sum_by_doubling(a, axis)


def sum_by_doubling(a, axis):
    """The running sum in log2(n) rounds, each of which adds what lies twice as far back. Hillis and Steele 1986.

    Numbers are added in pairs, so that the error grows like log(n); those of half precision in float32.
    """
    y, n, reach = a.float() if a.dtype.itemsize == 2 else a, a.shape[axis] if a.ndim else 1, 1
    while reach < n:
        later = y.narrow(axis, reach, n - reach) + y.narrow(axis, 0, n - reach)
        y, reach = torch.cat([y.narrow(axis, 0, reach), later], axis), 2 * reach
    return y.to(a.dtype)


def widening_product(a, b, out):
    """Compute a @ b, of matrices of half precision, into a float32 array; False where torch has no kernel for it."""
    kernel = getattr(torch.ops.aten.mm, "dtype_out", None)
    halves = a.dtype == b.dtype and a.dtype.itemsize == 2 and a.is_floating_point()
    if kernel is None or out.device.type != "cuda" or out.dtype is not torch.float32 or not halves:
        return False
    kernel(a, b, torch.float32, out=out)
    return True


def sum_rows_into(out, a):
    """Add the rows of a in the dtype of `out`."""
    torch.sum(a, 0, dtype=out.dtype, out=out)


def flip(a, axis):
    return torch.flip(a, (axis,) if isinstance(axis, int) else axis)


def where(condition, a, b):
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        a = torch.full((), a, dtype=torch.float64, device=condition.device)  # as NumPy's: the caller knows the dtype
    return torch.where(condition, a, b)


def tri(rows, columns, device):
    """Whether column j <= row i, on the device."""
    return torch.ones((rows, columns), dtype=torch.bool, device=device).tril()


def generator_on(device):
    """The default generator of a CUDA device, which graphs of captured kernels know; None of another device."""
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else None


def drop_out(a, p):
    """a with each element 0 with probability p, or else divided by 1 - p; and which are not 0, in booleans."""
    return torch.ops.aten.native_dropout.default(a, p, True)


def masked_times(a, mask, factor):
    return torch.ops.aten.native_dropout_backward.default(a, mask, factor)


def getitem(a, index):
    """a[index] as NumPy understands it."""
    parts = index if isinstance(index, tuple) else (index,)
    backwards = any(isinstance(i, slice) and (i.step or 1) < 0 for i in parts)
    if backwards or (any(map(_is_single, parts)) and any(getattr(i, "ndim", 0) for i in parts)):
        a, index = _as_torch_indexes(a, parts)
    return a[index]


def _is_single(i):
    """Whether the index is one integer, also as an array of shape ()."""
    return type(i) is int or getattr(i, "ndim", None) == 0


def _as_torch_indexes(a, parts):
    """An array and an index that mean to torch what a[parts] means to NumPy.

    Axes with backward slices are turned around first. One integer beside index arrays becomes an index array too, whose
    place among the others says where their axis goes.
    """
    axes = [0 if i is None else i.ndim if _is_mask(i) else 1 for i in parts]
    beside_arrays = any(getattr(i, "ndim", 0) for i in parts)
    axis, turned, found = 0, [], []
    for i, taken in zip(parts, axes):
        if i is ...:
            taken = a.ndim - sum(axes) + 1
        elif isinstance(i, slice) and (i.step or 1) < 0:
            n = a.shape[axis]
            places = range(n)[i]
            turned.append(axis)
            i = slice(n - 1 - places[0], n - places[-1], -i.step) if places else slice(0)
        elif beside_arrays and _is_single(i) and not _is_mask(i):
            i = a.new_full((1,), _checked(i, axis, a.shape), dtype=torch.int64) if type(i) is int else i.reshape(1)
        found.append(i)
        axis += taken
    return torch.flip(a, turned), tuple(found)


def _is_mask(i):
    return getattr(i, "dtype", None) in (torch.bool, np.dtype(bool))


def _checked(i, axis, shape):
    """The integer, if the axis has so many elements: kernels on a device do not raise."""
    if not -shape[axis] <= i < shape[axis]:
        raise IndexError(f"index {i} is out of bounds for axis {axis} with size {shape[axis]}")
    return i


def scatter(g, index, shape):
    """Zeros of this shape with g added at the index, in the order of its elements."""
    places = getitem(torch.arange(math.prod(shape), device=g.device).reshape(shape), index)
    out = g.new_zeros(shape)
    out.view(-1).index_add_(0, places.reshape(-1), g.reshape(-1))
    return out


xp[torch.Tensor] = sys.modules[__name__]
