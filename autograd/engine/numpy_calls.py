"""NumPy's functions called with tensors: those that our operations know are differentiated, all others are refused.

NumPy hands a call that meets a Tensor to `Tensor.__array_function__`. If a gradient could be lost, it is computed by an
operation of ours that means the same (`FUNCTIONS`), or else refused: no result is detached in silence. Without a
gradient to lose, tensors are arrays to NumPy. Its ufuncs (`np.exp`) take no tensors at all.
"""

import inspect
from typing import Any

import numpy as np

from allgrad.autograd.arrays import xp
from allgrad.autograd.engine.tensor import Tensor, becomes_array, loses_gradient, unwrap

WITHOUT_DERIVATIVE = {
    np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.shares_memory, np.may_share_memory, np.zeros_like,
    np.ones_like, np.empty_like, np.full_like, np.argmax, np.argmin, np.argsort, np.nonzero, np.count_nonzero,
    np.allclose, np.isclose, np.array_equal, np.array_equiv, np.array_repr, np.array_str, np.array2string,
    np.iscomplexobj, np.isrealobj,
}  # fmt: skip


def _flat(a):
    return a.reshape(-1)


def _dot(a, b):
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return a * b
    if np.ndim(a) > 2 or np.ndim(b) > 2:
        raise NotImplementedError
    return xp[Tensor].matmul(a, b)


def _norm(x, ord=None, axis=None, keepdims=False):
    axes = np.ndim(x) if axis is None else np.size(axis)
    if axes > 1 and ord is not None and (axes, ord) != (2, "fro"):
        raise NotImplementedError  # norms of matrices
    return xp[Tensor].norm(x, 2.0 if ord is None else ord, axis, keepdims)


def _reduction(name):
    return lambda a, axis=None, keepdims=False: getattr(xp[Tensor], name)(a, axis, keepdims)


def _spread(name):
    return lambda a, axis=None, ddof=0, keepdims=False: getattr(xp[Tensor], name)(
        a, axis, keepdims=keepdims, correction=ddof
    )


def _where(condition, x, y):
    if isinstance(condition, Tensor) and loses_gradient(condition):
        condition = unwrap(condition) != 0
    return xp[Tensor].where(condition, x, y)


def _swap(a, axis1, axis2):
    return xp[Tensor].transpose(a, axis1, axis2)


def _transpose(a, axes=None):
    return a.permute(*(reversed(range(a.ndim)) if axes is None else axes))


def _concatenate(arrays, axis: Any = 0):
    arrays = [_flat(_tensor(a)) for a in arrays] if axis is None else arrays
    return xp[Tensor].concatenate(arrays, axis or 0)


def _flip(m, axis=None):
    return xp[Tensor].flip(m, tuple(range(m.ndim)) if axis is None else axis)


def _tensor(a):
    return a if type(a) is Tensor else Tensor(np.asarray(a))


FUNCTIONS = {
    np.concatenate: _concatenate,
    np.stack: lambda arrays, axis=0: xp[Tensor].stack(arrays, axis),
    np.append: lambda arr, values, axis=None: _concatenate([arr, values], axis),
    np.dot: _dot,
    np.where: _where,
    np.outer: lambda a, b: xp[Tensor].outer(_flat(_tensor(a)), _flat(_tensor(b))),
    np.cumsum: lambda a, axis=None: xp[Tensor].cumsum(*(_flat(a), 0) if axis is None else (a, axis)),
    np.linalg.norm: _norm,
    np.einsum: lambda subscripts, *operands: xp[Tensor].einsum(subscripts, *operands),
    np.reshape: lambda a, shape: a.reshape(shape),
    np.ravel: _flat,
    np.transpose: _transpose,
    np.swapaxes: _swap,
    np.squeeze: lambda a, axis=None: a.squeeze(axis),
    np.expand_dims: lambda a, axis: a.unsqueeze(axis),
    np.broadcast_to: lambda array, shape: xp[Tensor].broadcast_to(array, shape),
    np.flip: _flip,
    np.roll: lambda a, shift, axis=None: xp[Tensor].roll(a, shift, axis),
    np.tril: lambda m, k=0: xp[Tensor].tril(m, k),
    np.triu: lambda m, k=0: xp[Tensor].triu(m, k),
    np.clip: lambda a, a_min=None, a_max=None, *, min=None, max=None: xp[Tensor].clamp(
        a, a_min if min is None else min, a_max if max is None else max
    ),
    np.take_along_axis: lambda arr, indices, axis=-1: xp[Tensor].take_along_dim(arr, indices, axis),
    np.copy: lambda a: a * 1.0,
    np.var: _spread("var"),
    np.std: _spread("std"),
    np.amax: _reduction("amax"),
    np.amin: _reduction("amin"),
    np.max: _reduction("amax"),
    np.min: _reduction("amin"),
    np.sum: _reduction("sum"),
    np.mean: _reduction("mean"),
    np.prod: _reduction("prod"),
}


def call(function, args, kwargs):
    """A function of NumPy, of arguments with tensors among them."""
    if function in WITHOUT_DERIVATIVE or not _any(loses_gradient, (args, kwargs)):
        return function(*_map(unwrap, args), **_map(unwrap, kwargs))
    kwargs = {name: value for name, value in kwargs.items() if value is not None or name not in ("out", "dtype")}
    if function in FUNCTIONS:
        try:
            inspect.signature(FUNCTIONS[function]).bind(*args, **kwargs)
        except TypeError:
            pass  # an argument that our operation does not take, such as dtype
        else:
            try:
                return FUNCTIONS[function](*args, **kwargs)
            except NotImplementedError:
                pass
    module = function.__module__.removeprefix("numpy").strip(".")
    name = ".".join(["np", *module.split(".") * bool(module), function.__name__])
    raise becomes_array(name)


def _map(f, x) -> Any:
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        return type(x)([_map(f, part) for part in x])
    if isinstance(x, dict):
        return {key: _map(f, part) for key, part in x.items()}
    return f(x) if type(x) is Tensor else x


def _any(holds, x):
    found = []
    _map(lambda t: found.append(holds(t)), x)
    return any(found)


def _array_function(self, function, types, args, kwargs):
    return call(function, args, kwargs)


Tensor.__array_function__ = _array_function
