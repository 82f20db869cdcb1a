"""The arrays inside tuples, lists, dicts and the other things that the steps of a recording are made of."""

from functools import partial
from typing import Any

import numpy as np

from allgrad.autograd.arrays import INTO_AN_ARRAY, is_torch, xp
from allgrad.autograd.engine import Tensor, unwrap


def map_arrays(f, x) -> Any:
    """x with f(a) in the place of each array or NumPy scalar a in it; of a Tensor, a constant."""
    if isinstance(x, (np.ndarray, np.generic)) or is_torch(x):
        return f(x)
    if isinstance(x, (tuple, list)):
        parts = [map_arrays(f, part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, dict):
        return {k: map_arrays(f, v) for k, v in x.items()}
    if type(x) is partial:
        return partial(x.func, **map_arrays(f, x.keywords))
    if type(x) in INTO_AN_ARRAY:
        return type(x)(*(map_arrays(f, getattr(x, name)) for name in ("x", "g") if hasattr(x, name)))
    return Tensor(map_arrays(f, unwrap(x))) if type(x) is Tensor else x


def arrays_of(x):
    """The arrays and NumPy scalars in x, in the order in which `map_arrays` finds them."""
    found: list = []

    def collect(a):
        found.append(a)
        return a

    map_arrays(collect, x)
    return found


def copy_grad(leaf, g):
    """A copy of a gradient as it arrives in the leaf."""
    if type(g) not in INTO_AN_ARRAY:
        return copy_of(g)
    if leaf.grad_buffer() is None:
        return g.value()
    out = xp[type(leaf.grad)].zeros_like(leaf.grad)
    g.into(out)
    return out


def copy_of(x):
    """A copy of an array of any library."""
    return xp[type(x)].copy(x)


def same_bits(a, b):
    """Whether two arrays of one library have the same dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)


def _bytes(x):
    return x.tobytes() if isinstance(x, (np.ndarray, np.generic)) else xp[type(x)].to_bytes(x)


def memory_owner(x):
    """The array that owns the memory of x: x itself, or what it is a view of."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x
