"""The array type that a recording is made of: NumPy reports to it every operation it takes part in.

NumPy hands a call that meets an array of a subclass to the subclass (`__array_ufunc__`, `__array_function__`; methods
are overridden one by one). `Recorded` hands it on to the recorder in force, which computes it and notes the step.
"""

import operator
import threading
from typing import Any

import numpy as np

from allgrad.autograd.arrays import NUMPY_TYPES, xp
from allgrad.autograd.replay.structures import map_arrays


class _Recording(threading.local):
    by: Any = None  # the `recorder.Recorder` that is recording in this thread; None at other times


recording = _Recording()

METHODS = [
    "dot", "take", "astype", "copy", "reshape", "ravel", "flatten", "cumsum", "cumprod", "argmax", "argmin", "argsort",
    "repeat", "round", "trace", "diagonal", "choose", "searchsorted", "sort", "fill", "put", "partition", "transpose",
    "swapaxes", "squeeze", "view",
]  # fmt: skip
TO_PYTHON = [
    "item", "tolist", "tobytes", "nonzero", "compress", "__int__", "__float__", "__index__", "__complex__",
    "__repr__", "__str__",
]  # fmt: skip
BY_METHOD = {np.amax: "max", np.amin: "min"} | {
    getattr(np, name): name for name in ("max", "min", "sum", "prod", "mean", "any", "all", "clip")
}
SIZED_BY_VALUES = {
    np.nonzero, np.flatnonzero, np.argwhere, np.unique, np.extract, np.compress, np.union1d, np.intersect1d,
    np.setdiff1d, np.setxor1d, np.delete, np.trim_zeros, np.bincount,
}  # fmt: skip


class Recorded(np.ndarray):
    """An array of a function that is being recorded; once that is over, one like any other.

    is_number          whether it is a NumPy scalar when the function itself is called
    stands_for_number  whether it is an operand in the place of a Python number, which does not promote others
    """

    is_number = stands_for_number = False

    def as_operand(self):
        """What an operation takes in the place of this argument."""
        if not self.is_number:
            return self
        number = as_plain(self).view(Recorded)
        number.stands_for_number = True
        return number

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if ufunc.nout > 1:
            _refuse(f"computes numpy's {ufunc.__name__}, which has several results")
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        if kwargs.get("where") is True:
            del kwargs["where"]
        return _compute(function, inputs, kwargs, out[0] if out else None)

    def __array_function__(self, func, types, args: Any, kwargs):
        if func in SIZED_BY_VALUES or (func is np.where and len(args) == 1):
            _refuse(f"takes from numpy's {func.__name__} a result whose shape depends on values")
        kwargs = dict(kwargs)
        if func in BY_METHOD and isinstance(args[0], Recorded):
            return getattr(args[0], BY_METHOD[func])(*args[1:], **kwargs)
        return _compute(func, args, kwargs, kwargs.pop("out", None))

    T = property(lambda self: _compute(operator.attrgetter("T"), (self,), {}))
    mT = property(lambda self: _compute(operator.attrgetter("mT"), (self,), {}))

    @property
    def flat(self):
        _refuse("takes values as Python numbers or counts them (flat)")
        return as_plain(self).flat

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if any(type(i) is Recorded and i.dtype == bool for i in parts):
            _refuse("picks elements by a mask, so that the shape of the result depends on values")
        return _compute(operator.getitem, (self, index), {})

    def __setitem__(self, index, value):
        _compute(operator.setitem, (self, index, value), {})

    def __bool__(self):
        return bool(as_plain(self)) if recording.by is None else recording.by.decide(self)


def as_plain(x):
    """A recorded array as NumPy's own type, of the same memory; anything else as it is."""
    return np.ndarray.view(x, np.ndarray) if type(x) is Recorded else x


def _refuse(what):
    if recording.by is not None:
        recording.by.refuse(what)


def _compute(function, args, kwargs, out=None):
    if recording.by is not None:
        return recording.by.compute(function, args, kwargs, out)
    args, kwargs = map_arrays(as_plain, (args, kwargs if out is None else {**kwargs, "out": out}))
    return function(*args, **kwargs)


def _method(name):
    function = getattr(np.ndarray, name)
    return lambda self, *args, **kwargs: _compute(function, (self, *args), kwargs)


def _to_python(name):
    def method(self, *args):
        _refuse(f"takes values as Python numbers or counts them ({name})")
        return getattr(as_plain(self), name)(*args)

    return method


for _name in METHODS + TO_PYTHON:
    setattr(Recorded, _name, _method(_name) if _name in METHODS else _to_python(_name))
NUMPY_TYPES.add(Recorded)
xp[Recorded] = np
