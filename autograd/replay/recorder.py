"""Recording what NumPy computes for a function, as a list of steps that compute it again in the same memory.

While a function is recorded, every array that a rule sees is a `Recorded`, whose operations NumPy reports to it: they
are computed as ever, and appended to a list with the memory that their results went to. Views need no step.
"""

import operator
import threading
from functools import partial
from typing import Any

import numpy as np

from allgrad.autograd import random
from allgrad.autograd.arrays import ARRAYS, OPERANDS, OuterProduct, is_torch, xp
from allgrad.autograd.engine import PASSING, Leaf, Tensor, graph, instrumented, patched
from allgrad.autograd.replay.structures import arrays_of, copied, mapped, root

ACCUMULATE = Leaf.accumulate
METHODS = [
    "dot", "take", "astype", "copy", "reshape", "ravel", "flatten", "cumsum", "cumprod", "argmax", "argmin", "argsort",
    "repeat", "round", "trace", "diagonal", "choose", "searchsorted", "sort", "fill", "put", "partition",
]  # fmt: skip
NUMBERS = ["item", "tolist", "tobytes", "nonzero", "compress", "__int__", "__float__", "__index__", "__complex__"]
BY_METHOD = {np.amax: "max", np.amin: "min"} | {
    getattr(np, name): name for name in ("max", "min", "sum", "prod", "mean", "any", "all", "clip")
}
TAKE_OUT = {np.einsum, np.concatenate, np.ndarray.cumsum, np.ndarray.argmax, np.ndarray.argmin}
FILLED = {np.zeros, np.ones, np.full, np.zeros_like, np.ones_like, np.full_like}
SIZED_BY_VALUES = {
    np.nonzero, np.flatnonzero, np.argwhere, np.unique, np.extract, np.compress, np.union1d, np.intersect1d,
    np.setdiff1d, np.setxor1d, np.delete, np.trim_zeros, np.bincount,
}  # fmt: skip
ABOUT = {np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.may_share_memory, np.shares_memory}

EARLY = "looks at gradients, which come later"

lock = threading.RLock()  # one recording at a time
_recorder: Any = None


class Refused(RuntimeError):
    """What cannot be replayed."""


class Changed(Exception):
    """A decision of the recorded function comes out otherwise for these values."""


class Recorder:
    """Runs a function and records what it computes.

    steps      (function, arguments, named arguments, how NumPy treats overflow and the like, or None for as ever), in
               the order of the computation
    memory     {id: array} of all memory that arrays on the way lie in, and `made`, the part that was allocated here
    delivered  copies of the gradients that arrived; the leaves get none while recording
    tensors    {id: (tensor, its array)} of parameters and constants that were looked at
    """

    def __init__(self):
        self.steps: list = []
        self.memory: dict = {}
        self.made: dict = {}
        self.delivered: list = []
        self.tensors: dict = {}
        self.operation = "the function"
        self.errors = np.geterr()

    def run(self, function, inputs):
        global _recorder
        usual, grad, refuse, slot = graph.backward, Tensor.grad, self.refusing, vars(Tensor)["data"]

        def data(tensor):
            found = slot.__get__(tensor)
            if type(found) is not np.ndarray or found.dtype.kind != "f":  # such as a counter of batches
                return found
            self.tensors[id(tensor)] = tensor, found
            return self.visible(found)

        def backward(root, g, retain_graph=False):
            return usual(root, self.visible(np.array(g) if isinstance(g, np.generic) else g), retain_graph)

        with (
            lock, instrumented(self._seeing), patched(Leaf, accumulate=in_this_thread(ACCUMULATE, self._accumulate)),
            patched(graph, backward=in_this_thread(usual, backward)),
            patched(Tensor, data=property(in_this_thread(slot.__get__, data), slot.__set__)),
            patched(random, philox=in_this_thread(random.philox, refuse("draws random numbers"))),
            patched(Tensor, assign=in_this_thread(Tensor.assign, refuse("assigns to a tensor"))),
            patched(Tensor, grad=property(in_this_thread(grad.fget, refuse(EARLY)), grad.fset)),
        ):  # fmt: skip
            _recorder = self
            try:
                return function(*map(self.visible, inputs))
            finally:
                _recorder = None

    def refusing(self, what):
        def refuse(*args, **static):
            raise Refused(f"{self.operation} {what}")

        return refuse

    def _seeing(self, name, rule):
        def seen(*operands, **static):
            self.operation = name
            return rule(*map(self.visible, operands), **static)

        return in_this_thread(rule, seen)

    def _accumulate(self, leaf, g):
        g = self.plain(g)
        self.delivered.append(copied(g))
        self.add(deliver, (leaf, g))

    def visible(self, x):
        """An array that is not part of the recording yet, as one that is."""
        if type(x) is np.ndarray:
            owner = root(x)
            self.memory[id(owner)] = owner
            return x.view(Recorded)
        if is_torch(x):
            self.refusing("computes on torch tensors")()
        return x

    def plain(self, x):
        """Arguments with NumPy's own arrays in them."""

        def known(x):
            if type(x) is Recorded and id(root(x)) not in self.memory:
                self.refusing("computes with NumPy what it does not report")()
            return plain(x)

        return mapped(known, x)

    def add(self, function, args, kwargs=None):
        """Append a step."""
        errors = np.geterr()
        usual = errors == self.errors or function is deliver
        self.steps.append((function, args, kwargs or {}, None if usual else errors))

    def decide(self, x):
        """The truth of an array, for which alone the steps recorded from here on hold."""
        if any(function is deliver for function, *_ in self.steps):
            self.refusing("decides by a value after gradients have arrived")()
        x = self.plain(x)
        self.add(decided, (x, bool(x)))
        return bool(x)

    def compute(self, function, args, kwargs, out=None):
        """function(*args, **kwargs), to be computed again in every replay."""
        args, kwargs = self.plain(args), self.plain(kwargs)
        if out is not None:
            target = self.plain(out)
            self._writes(target)
            function(*args, **kwargs, out=target)
            self._store(function, args, kwargs, target)
            return out
        if function in (operator.setitem, np.copyto, np.ndarray.fill):  # known to write, before it has happened
            self._writes(args[0])
        result = function(*args, **kwargs)
        if function in ABOUT:
            return result
        if result is None:
            self._writes(args[0])
            return self.add(function, args, kwargs)
        given = arrays_of((args, kwargs))
        if isinstance(result, (list, tuple)) and all(_shares(x, given) for x in result):
            return [x.view(Recorded) for x in result]
        if not isinstance(result, (np.ndarray, np.generic)):
            name = getattr(function, "__name__", function)
            self.refusing(f"takes a Python {type(result).__name__} from numpy's {name}")()
        if _shares(result, given):
            return result.view(Recorded)
        result = np.asarray(result)
        if not result.flags.writeable:
            result = result.copy("K")
        owner = root(result)  # may lie in another order, on which the bits of a sum depend
        self.made[id(owner)] = self.memory[id(owner)] = owner
        if function not in (np.empty, np.empty_like):
            self._store(function, args, kwargs, result)
        return result.view(Recorded)

    def _writes(self, target):
        if id(root(target)) not in self.made:
            self.refusing("writes to an array made elsewhere, such as running statistics")()

    def _store(self, function, args, kwargs, out):
        """Append the step that computes into this array."""
        if isinstance(function, np.ufunc) or function in (np.ndarray.dot, np.dot):
            kwargs = {k: v for k, v in kwargs.items() if k not in ("order", "subok")}
            if function in (np.maximum, np.minimum):  # where NumPy warns of a third argument without a name
                self.add(function, args, {**kwargs, "out": out})
            else:
                self.add(function, (*args, out), kwargs)
        elif getattr(function, "__name__", "") == "reduce" and kwargs.keys() <= {"axis", "dtype", "keepdims"}:
            keep = kwargs.get("keepdims", False)
            self.add(function, (args[0], kwargs.get("axis", 0), kwargs.get("dtype"), out, keep))  # by place: less time
        elif function in TAKE_OUT or isinstance(getattr(function, "__self__", None), np.ufunc):
            self.add(function, args, {**kwargs, "out": out})
        elif function in FILLED:
            self.add(np.ndarray.fill, (out, out.reshape(-1)[0] if out.size else 0))
        elif function in (np.ndarray.astype, np.ndarray.copy, np.copy, np.array) and out.shape == args[0].shape:
            self.add(np.copyto, (out, args[0], "unsafe"))
        elif function is np.ndarray.reshape and out.flags.c_contiguous:
            self.add(np.copyto, (out.reshape(args[0].shape), args[0]))
        else:
            self.add(assigned, (out, partial(function, **kwargs) if kwargs else function, args))


class Recorded(np.ndarray):
    """An array of a function that is being recorded; once that is over, one like any other."""

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

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if any(type(i) is Recorded and i.dtype == bool for i in parts):
            _refuse("picks elements by a mask, so that the shape of the result depends on values")
        return _compute(operator.getitem, (self, index), {})

    def __setitem__(self, index, value):
        _compute(operator.setitem, (self, index, value), {})

    def __bool__(self):
        return bool(plain(self)) if _recorder is None else _recorder.decide(self)


def _refuse(what):
    if _recorder is not None:
        _recorder.refusing(what)()


def _compute(function, args, kwargs, out=None):
    if _recorder is not None:
        return _recorder.compute(function, args, kwargs, out)
    args, kwargs = mapped(plain, (args, kwargs if out is None else {**kwargs, "out": out}))
    return function(*args, **kwargs)


def _method(name):
    function = getattr(np.ndarray, name)
    return lambda self, *args, **kwargs: _compute(function, (self, *args), kwargs)


def _number(name):
    def method(self, *args):
        _refuse(f"takes values as Python numbers or counts them ({name})")
        return getattr(plain(self), name)(*args)

    return method


for _name in METHODS + NUMBERS:
    setattr(Recorded, _name, _method(_name) if _name in METHODS else _number(_name))
for _known in (ARRAYS, OPERANDS, PASSING):
    _known.add(Recorded)
xp[Recorded] = np


# --- what steps call ---------------------------------------------------------------------------------------------


def deliver(leaf, g):
    """Let a gradient arrive as it does in `backward`."""
    ACCUMULATE(leaf, g.value() if type(g) is OuterProduct and leaf.grad_buffer() is None else g)


def decided(array, outcome):
    if bool(array) is not outcome:
        raise Changed


def assigned(out, function, args):
    out[...] = function(*args)


def under(errors, steps):
    with np.errstate(**errors):
        for function, args in steps:
            function(*args)


def plain(x):
    return x.view(np.ndarray) if type(x) is Recorded else x


def _shares(x, arrays):
    return isinstance(x, np.ndarray) and any(np.may_share_memory(x, a) for a in arrays)


def in_this_thread(usual, instead) -> Any:
    """A function that does something else in this thread alone."""
    thread = threading.get_ident()
    return lambda *args, **kwargs: (instead if threading.get_ident() == thread else usual)(*args, **kwargs)
