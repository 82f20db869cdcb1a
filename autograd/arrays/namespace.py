"""Which library computes on an array, under NumPy's names.

`xp` maps the type of an array to a namespace: a module that has exp, where, concatenate and so on.

    xp[np.ndarray]       is numpy, for its arrays and scalars
    xp[torch.Tensor]     is `on_torch.namespace`: torch's functions, renamed where NumPy's names or arguments differ
    xp[Tensor]           is `allgrad.autograd` itself

So a rule writes `xp[type(a)].exp(a)` once. The last case is what makes derivatives of derivatives: when `ag.grad` is
nested, the rule of an inner operation is called with Tensors one level down, `xp[type(a)].exp` is then `ag.exp`, and
computing the value or the vjp records a graph of its own.

No library but NumPy is imported here. LIBRARIES knows others by name; the first of their arrays to come along loads
what computes on them, at a time when whoever made the array has imported the library.
"""

import importlib
import sys
from typing import Any

import numpy as np

NUMPY_TYPES = {np.ndarray}  # the types of NumPy arrays; `replay.recorded` adds its own
OPERAND_TYPES = {float, int, bool, complex, *NUMPY_TYPES}  # what an operator takes as it is, besides Tensors
COMPUTES_ON = "autograd computes on NumPy arrays, torch tensors, numbers and Tensors, not on"
LIBRARIES = {"torch": ("Tensor", "allgrad.autograd.on_torch")}  # {library: (its arrays' class, what adds it to `xp`)}


class _Namespaces(dict):
    def __missing__(self, kind):
        for library, (name, _) in LIBRARIES.items():
            arrays = getattr(sys.modules.get(library), name, None)
            if arrays is not None and issubclass(kind, arrays):
                load_backend(library)
                self[kind] = self[arrays]
                return self[kind]
        raise TypeError(f"{COMPUTES_ON} {kind.__name__}")


xp: dict = _Namespaces.fromkeys((np.ndarray, *np.sctypeDict.values()), np)


def load_backend(library):
    """Import what adds a library's namespace to `xp`, and its own kernels to the operators."""
    importlib.import_module(LIBRARIES[library][1])


def load_imported_backends():
    """`load_backend` for every library that somebody has imported."""
    for library in LIBRARIES.keys() & sys.modules.keys():
        load_backend(library)


def as_operand(a, name):
    """An argument of the operation `name` as a rule takes it; TypeError if it is no number or array.

    NumPy scalars become Python numbers, which do not promote float32 to float64; torch tensors are detached.
    """
    if type(a) in OPERAND_TYPES:
        return a
    if isinstance(a, np.generic):
        return a.item()
    if type(a) in NUMPY_TYPES:
        return a.as_operand()  # a recorded one, which may stand for a number
    if isinstance(a, np.ndarray):
        return a.view(np.ndarray)
    if is_torch(a):
        return a.detach() if a.requires_grad or type(a) is not sys.modules["torch"].Tensor else a
    if isinstance(a, (int, float, complex)):  # such as a size, which is more than a number
        return +a
    raise TypeError(f"{name}: {COMPUTES_ON} {type(a).__name__}")


def promoted(a, b) -> Any:
    """Two NumPy operands in one dtype where torch takes it from one of them; None if NumPy's promotion is torch's.

    Floating arrays pass on their dtype to arrays of integers, and to those of shape (): NumPy would make float64 of it.
    """
    if not (isinstance(a, (np.ndarray, np.generic)) and isinstance(b, (np.ndarray, np.generic))) or a.dtype == b.dtype:
        return None
    floats = [x for x in (a, b) if x.dtype.kind == "f"]
    if len(floats) == 2:
        floats = [x for x in floats if x.ndim] if (a.ndim == 0) != (b.ndim == 0) else []
    elif a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return None
    return tuple(x.astype(floats[0].dtype, copy=False) for x in (a, b)) if floats else None


def beside_torch(*operands):
    """The operands with NumPy's arrays as torch's, if there are both among them; else None."""
    like = next((x for x in operands if is_torch(x)), None)
    if like is None or not any(isinstance(x, (np.ndarray, np.generic)) for x in operands):
        return None
    return [to_backend_of(x, like) if isinstance(x, (np.ndarray, np.generic)) else x for x in operands]


def is_torch(a):
    """Whether a is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(a, torch.Tensor) and xp[type(a)] is not np


def to_device(a, device):
    """An array of any library as a torch tensor on a device ("cpu", "cuda:0"), or as a NumPy array ("numpy")."""
    if device == "numpy":
        return to_numpy(a)
    load_backend("torch")
    return xp[sys.modules["torch"].Tensor].asarray(a, device=device)


def to_numpy(a):
    """An array of any library as a NumPy array: itself, a view of the same memory, or a copy from a device."""
    return a if type(a) in NUMPY_TYPES else np.asarray(a) if not is_torch(a) else xp[type(a)].to_numpy(a)


def namespace(*operands):
    """The namespace that computes on all of several operands, some of which may be Python numbers.

    That of Tensors if there is one among them, else torch's if there is a tensor of it, else NumPy.
    """
    found = [xp[type(a)] for a in operands if type(a) in xp]
    return next((n for n in found if hasattr(n, "vjp")), next((n for n in found if n is not np), np))


# What NumPy and torch call differently. `like` is an array whose library and device the result is to have.


def to_backend_of(a, like):
    """Numbers, lists or an array of any library, in its own dtype, as an array of the library and device of `like`."""
    if not isinstance(like, (np.ndarray, np.generic)):
        return xp[type(like)].asarray(a, like=like)
    return to_numpy(a)


def integers(a, like):
    """Indices or labels in the library and on the device of `like`; torch's as int64, which all its kernels take."""
    if type(a) in NUMPY_TYPES and type(like) in NUMPY_TYPES:
        return a
    a = to_backend_of(a, like)
    return a if type(a) in NUMPY_TYPES or kind(a.dtype) not in "iu" else a.long()


def cast_like(a, like):
    """Numbers or an array as an array of the library, device and dtype of `like`."""
    if isinstance(like, (np.ndarray, np.generic)):
        return np.asarray(a := to_numpy(a), like.dtype, like=like_arg(a))
    return xp[type(like)].asarray(a, like.dtype, like)


def full(shape, value, like, dtype=None):
    """A new array filled with a number, of the library and device of `like`, and of its dtype if none is given."""
    if isinstance(like, (np.ndarray, np.generic)):
        dtype, like = dtype or like.dtype, like_arg(like)
        return np.full(shape, value, dtype, like=like) if value else np.zeros(shape, dtype, like=like)
    return like.new_full(shape, value, dtype=xp[type(like)].dtype_of(dtype or like.dtype))


def counted(n, like):
    """The integers 0 .. n - 1 in the library and on the device of `like`."""
    return np.arange(n) if xp[type(like)] is np else xp[type(like)].arange(n, device=like.device)


def lower_triangle(rows, columns, like):
    """The matrix of booleans that says whether column j <= row i, in the library and on the device of `like`."""
    if xp[type(like)] is np:
        return np.tri(rows, columns, dtype=bool)
    return xp[type(like)].tri(rows, columns, like.device)


def on_cpu(a):
    """Whether the host can look at the elements at once; those on another device it would have to wait for."""
    return getattr(a, "is_cpu", True)


def like_arg(a) -> Any:
    """What to give NumPy's functions as `like=`, so that a `replay.recorded` array sees what is made beside it."""
    return a if type(a) in NUMPY_TYPES else None


def astype(a, dtype):
    """The array in another dtype (a name, or a dtype of its library); itself if it has that dtype."""
    if isinstance(a, (np.ndarray, np.generic)):
        return a.astype(dtype, copy=False)
    return a.to(xp[type(a)].dtype_of(dtype))


def kind(dtype):
    """NumPy's letter for the kind of a dtype of any library: "f", "i", "u", "b" or "c"."""
    if isinstance(dtype, np.dtype):
        return dtype.kind
    if dtype.is_floating_point:
        return "f"
    return "c" if dtype.is_complex else "b" if "bool" in str(dtype) else "u" if "uint" in str(dtype) else "i"
