"""Arrays in tuples, lists, dicts and what else the steps of a recording are made of."""

from functools import partial

import numpy as np

from allgrad.autograd.arrays import OuterProduct
from allgrad.autograd.engine import Tensor, unwrap


def mapped(f, x):
    """x with f of its arrays and scalars, in tuples, lists, dicts and what else steps are made of; Tensors detached."""
    if isinstance(x, (np.ndarray, np.generic)):
        return f(x)
    if isinstance(x, (tuple, list)):
        parts = [mapped(f, part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, dict):
        return {k: mapped(f, v) for k, v in x.items()}
    if type(x) is partial:
        return partial(x.func, **mapped(f, x.keywords))
    if type(x) is OuterProduct:
        return OuterProduct(mapped(f, x.x), mapped(f, x.g))
    return Tensor(mapped(f, unwrap(x))) if type(x) is Tensor else x


def arrays_of(x):
    """The arrays and scalars that `mapped` finds."""
    found: list = []

    def collect(a):
        found.append(a)
        return a

    mapped(collect, x)
    return found


def copied(g):
    return np.array(g.value() if type(g) is OuterProduct else g)


def root(x):
    """The array that owns the memory."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x
