"""Which library computes on an array, under NumPy's names.

NumPy's names are the vocabulary. `xp[type(a)]` is the namespace that computes on `a`: NumPy itself for its arrays
and scalars, `on_torch.namespace` for torch's tensors, the operators of this package for a Tensor inside a nested
transformation, so that one rule serves all of them. A library other than NumPy is known here by its name alone, and is
never imported: when the first of its arrays comes along, whoever made it has done so.
"""

import importlib
import sys
from typing import Any

import numpy as np

ARRAYS = {np.ndarray}  # the types of NumPy arrays; `replay.recorder` adds its own
OPERANDS = {float, int, bool, complex, *ARRAYS}  # what may meet a tensor as it is
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
    load_backend("torch")
    return xp[sys.modules["torch"].Tensor].asarray(a, device=device)


def to_numpy(a):
    """An array of either library as a NumPy array: itself, a view of the same memory, or a copy from a device."""
    return a if type(a) in ARRAYS else np.asarray(a) if not is_torch(a) else xp[type(a)].to_numpy(a)


def namespace(*operands):
    """The namespace for operands of which some may be plain numbers: a Tensor's if there is one, then torch's."""
    found = [xp[type(a)] for a in operands if type(a) in xp]
    return next((n for n in found if hasattr(n, "vjp")), next((n for n in found if n is not np), np))


# What NumPy and torch call differently, for arrays of either; `like` is an array that says which, and on what device.


def to_backend_of(a, like):
    """Numbers, lists or an array of either library, as an array where `like` lives."""
    if not isinstance(like, (np.ndarray, np.generic)):
        return xp[type(like)].asarray(a, like=like)
    return to_numpy(a)


def integers(a, like):
    """Indices or labels where `like` lives; those of torch in the one dtype that all its kernels take."""
    if type(a) in ARRAYS and type(like) in ARRAYS:
        return a
    a = to_backend_of(a, like)
    return a if type(a) in ARRAYS or kind(a.dtype) not in "iu" else a.long()


def cast_like(a, like):
    """Numbers or an array as an array where `like` lives and of its dtype."""
    if isinstance(like, (np.ndarray, np.generic)):
        return np.asarray(a := to_numpy(a), like.dtype, like=like_arg(a))
    return xp[type(like)].asarray(a, like.dtype, like)


def full(shape, value, like, dtype=None):
    """An array of this shape filled with a number, of the dtype of `like` if no other is given."""
    if isinstance(like, (np.ndarray, np.generic)):
        dtype, like = dtype or like.dtype, like_arg(like)
        return np.full(shape, value, dtype, like=like) if value else np.zeros(shape, dtype, like=like)
    return like.new_full(shape, value, dtype=xp[type(like)].dtype_of(dtype or like.dtype))


def like_arg(a) -> Any:
    """What NumPy's functions take as `like`: an array that may record what is made beside it (`replay.recorder`)."""
    return a if type(a) in ARRAYS else None


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
