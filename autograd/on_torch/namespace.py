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
    abs, acos, acosh, add, amax, amin, argsort, asin, asinh, atan, atan2, atanh, broadcast_to, ceil, concatenate, cos,
    cosh, digamma, divide, einsum, erfc, erfinv, exp, exp2, expm1, finfo, floor, fmod, hypot, isfinite, isinf, isnan,
    lgamma, linalg, log, log10, log1p, log2, logaddexp, matmul, multiply, negative, ones_like, permute, polygamma,
    remainder, roll, round, sigmoid, sign, signbit, sin, sinh, sqrt, stack, subtract, tan, tanh, trunc, zeros_like,
)  # fmt: skip
from torch.special import erf

from allgrad.autograd.arrays import xp

permute_dims = permute
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
    return torch.as_tensor(a, dtype=None if dtype is None else dtype_of(dtype), device=device)


def array(a, dtype=None):
    """A copy of a tensor, in this dtype if one is given."""
    return a.detach().clone() if dtype is None else a.detach().to(dtype_of(dtype), copy=True)


copy = array


def to_numpy(a):
    """The values as a NumPy array, of shared memory on the CPU; bfloat16, which NumPy lacks, as float32."""
    a = a.detach().cpu()
    return (a.float() if a.dtype is torch.bfloat16 else a).numpy()


def to_bytes(a):
    """The elements' bits, in order."""
    return a.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()


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
    return tuple(
        x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=dtype, device=like.device) for x in (a, b)
    )


def cumsum(a, axis):
    return torch.cumsum(a, axis)


def flip(a, axis):
    return torch.flip(a, (axis,) if isinstance(axis, int) else axis)


def where(condition, a, b):
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        a = torch.tensor(a, dtype=torch.float64, device=condition.device)  # as NumPy's: the caller knows the dtype
    return torch.where(condition, a, b)


def random_bits(stream, n, device):
    """n random 16-bit integers in int32, drawn on the device by a generator whose seed comes from the bit generator."""
    generator = torch.Generator(device).manual_seed(int(stream.random_raw()) >> 1)
    return torch.randint(1 << 16, (n,), generator=generator, device=device, dtype=torch.int32)


def getitem(a, index):
    """a[index] as NumPy understands it."""
    return a.reshape(-1)[_places(a.shape, index, a.device)] if _unlike_torch(index) else a[index]


def _unlike_torch(index):
    """Whether torch cannot index so, or means another thing: backward slices, integers beside index arrays."""
    parts = index if isinstance(index, tuple) else (index,)
    backwards = any(isinstance(i, slice) and (i.step or 1) < 0 for i in parts)
    return backwards or {int} < {type(i) for i in parts if not isinstance(i, (slice, type(None), type(...)))}


def scatter(g, index, shape):
    """Zeros of this shape with g added at the index, in the order of its elements."""
    places = _places(shape, index, g.device)
    out = g.new_zeros(shape)
    out.view(-1).index_add_(0, places.reshape(-1), g.reshape(-1))
    return out


def _places(shape, index, device):
    """The positions in the flattened array of the elements at the index."""
    if not _unlike_torch(index):
        return torch.arange(math.prod(shape), device=device).reshape(shape)[index]
    index = tuple(to_numpy(i) if isinstance(i, torch.Tensor) else i for i in index) if type(index) is tuple else index
    return torch.as_tensor(np.arange(math.prod(shape)).reshape(shape)[index].copy(), device=device)


xp[torch.Tensor] = sys.modules[__name__]
