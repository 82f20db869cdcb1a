"""Tensors in another dtype, library or memory, and what torch calls their properties.

A dtype is a name ("float32", "int64", "bool"), a dtype of NumPy or one of torch. A device is "numpy", or one of torch's
names ("cpu", "cuda:0"), which makes a torch tensor there.
"""

import math

import numpy as np

from allgrad.autograd.arrays import astype, is_torch, kind, to_device, xp
from allgrad.autograd.engine import Leaf, Tensor, linear_map, primitive, tensor, unwrap

NAMES = {"float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16", "long": "int64"}
NAMES |= {"int": "int32", "short": "int16", "char": "int8", "byte": "uint8", "bool": "bool"}  # torch's short names


def resolve_dtype(dtype, like):
    """The dtype that a name or a dtype of either library means for arrays of the library of `like`."""
    if is_torch(like):
        return xp[type(like)].dtype_of(dtype)
    name = str(dtype).removeprefix("torch.") if "torch" in str(dtype) else dtype
    try:
        return np.dtype(name)
    except TypeError:
        todo = "move the tensor to torch first, by to(device='cpu')" if name == "bfloat16" else "such as 'float32'"
        raise TypeError(f"{name!r} is no dtype of NumPy's arrays: {todo}") from None


def cast(a, dtype):
    """a in another dtype, itself if it has that one; the gradient returns in the old one. To integers: a constant."""
    dtype = resolve_dtype(dtype, unwrap(a))
    if dtype == a.dtype:
        return a
    if kind(dtype) != "f" or kind(a.dtype) != "f":
        return Tensor(astype(unwrap(a), dtype))
    return _cast(a, dtype=dtype)


@primitive
def _cast(a, *, dtype):
    before = a.dtype
    there, back = lambda a: astype(a, dtype), lambda g: astype(g, before)
    return linear_map(there, back, a), lambda g: linear_map(back, there, g)


def to(a, *args, dtype=None, device=None, copy=False, non_blocking=False):
    """a in a dtype, on a device, or in both of another tensor: to(dtype), to(device), to(device, dtype), to(other).

    a itself if it is that already, unless copy. Differentiable between floating dtypes.
    """
    for given in args:
        if isinstance(given, bool):  # torch's non_blocking
            continue
        if isinstance(given, (Tensor, np.ndarray, np.generic)) or is_torch(given):
            like = unwrap(given)
            dtype, device = like.dtype, str(like.device) if is_torch(like) else "numpy"
        elif str(given).partition(":")[0] in ("numpy", "cpu", "cuda", "mps", "xpu"):
            device = str(given)
        else:
            dtype = given
    y = a if type(a) is Tensor else tensor(a)
    if device is not None and str(device) != (y.device if is_torch(unwrap(y)) else "numpy"):
        y = _move(y, device=str(device))
    y = y if dtype is None else cast(y, dtype)
    return clone(y) if copy and y is a else y


@primitive
def _move(a, *, device):
    x = unwrap(a)
    before = str(x.device) if is_torch(x) else "numpy"
    there, back = lambda a: to_device(a, device), lambda g: to_device(g, before)
    return linear_map(there, back, a), lambda g: linear_map(back, there, g)


@primitive
def clone(a):
    """A copy of a in memory of its own; gradients flow through it."""
    return linear_map(lambda a: xp[type(a)].copy(a), lambda g: g, a), lambda g: g


def contiguous(a):
    """a laid out row by row in memory: itself if it is, else a copy."""
    return a if is_contiguous(a) else _contiguous(a)


@primitive
def _contiguous(a):
    lay_out = lambda a: a.contiguous() if is_torch(a) else a.copy("C")
    return linear_map(lay_out, lambda g: g, a), lambda g: g


def is_contiguous(a):
    """Whether a lies row by row in memory."""
    x = unwrap(a)
    return x.is_contiguous() if is_torch(x) else x.flags.c_contiguous


def type_as(a, other):
    """a in the dtype, library and device of the other tensor."""
    return to(a, other)


def cpu(a):
    """a in the main memory: moved there from a device, else a itself, in the library it is in."""
    return to(a, device="cpu") if is_torch(unwrap(a)) else a


def cuda(a, device="cuda"):
    """a as a torch tensor on this GPU: its name or its number."""
    return to(a, device=f"cuda:{device}" if isinstance(device, int) else device)


def numel(a):
    """The number of elements."""
    return math.prod(unwrap(a).shape)


def stride(self, dim=None):
    """How many elements of memory lie between neighbours along the axis, or along each axis."""
    x = unwrap(self)
    steps = tuple(x.stride()) if is_torch(x) else tuple(n // x.dtype.itemsize for n in x.strides)
    return steps if dim is None else steps[dim]


def is_floating_point(a):
    """Whether the dtype is a floating one."""
    return kind(unwrap(a).dtype) == "f"


for _name, _dtype in NAMES.items():
    setattr(Tensor, _name, lambda self, dtype=_dtype: cast(self, dtype))
Tensor.type = lambda self, dtype=None: str(self.dtype) if dtype is None else cast(self, dtype)
Tensor.to, Tensor.type_as, Tensor.cpu, Tensor.cuda, Tensor.clone = to, type_as, cpu, cuda, clone
Tensor.contiguous, Tensor.is_contiguous = contiguous, is_contiguous
Tensor.numel = Tensor.nelement = numel
Tensor.stride = stride
Tensor.grad_fn = property(lambda self: None if self.is_leaf else self.node)
Tensor.dim = Tensor.ndimension = lambda self: self.ndim
Tensor.element_size = lambda self: self.dtype.itemsize
Tensor.is_floating_point = is_floating_point
Tensor.itemsize = property(lambda self: self.dtype.itemsize)
Tensor.nbytes = property(lambda self: self.numel() * self.dtype.itemsize)
Tensor.is_leaf = property(lambda self: self.node is None or isinstance(self.node, Leaf))
Tensor.is_cuda = property(lambda self: self.device.startswith("cuda"))
