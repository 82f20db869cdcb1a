"""Training steps of fixed structure, recorded once and replayed: no graph is built, no memory allocated.

While a step is recorded, every array that a rule sees is a `Recorded`, whose operations NumPy reports to it: they are
computed as ever, and appended to a list with the memory that their results went to. To replay is to call what is on
the list, each entry writing where it wrote before. The same functions get the same arrays, so the bits are the same.
"""

import operator
import threading
from functools import partial
from typing import Any

import numpy as np

from autograd import core, graph, random
from autograd.anomaly import detect_anomaly
from autograd.core import PASSING, Tensor
from autograd.graph import Leaf
from autograd.kernels import ARRAYS, OPERANDS, OuterProduct, aligned_zeros, is_torch, xp
from autograd.observe import observing, replaced

PROGRAMS = 8  # of a captured function, for different shapes
TAKE_OUT = {np.einsum, np.concatenate, np.ndarray.cumsum, np.ndarray.argmax, np.ndarray.argmin}
BY_METHOD = {np.amax: "max", np.amin: "min"} | {getattr(np, n): n for n in "max min sum prod mean any all clip".split()}
SIZED_BY_VALUES = {
    np.nonzero, np.flatnonzero, np.argwhere, np.unique, np.extract, np.compress, np.union1d, np.intersect1d,
    np.setdiff1d, np.setxor1d, np.delete, np.trim_zeros, np.bincount,
}  # fmt: skip
ABOUT = {np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.may_share_memory, np.shares_memory}
EMPTY, FILLED = {np.empty, np.empty_like}, {np.zeros, np.ones, np.full, np.zeros_like, np.ones_like, np.full_like}

_lock = threading.RLock()  # one recording at a time
_recorder: Any = None


class Changed(Exception):
    """A decision of the recorded step comes out otherwise for these values."""


def capture(function):
    """The function of arrays as one that replays what it did at its first call with arrays of these shapes.

    function(*arrays) computes a loss from NumPy arrays and calls backward. Gradients arrive in the leaves as they do
    when it is called itself, bit for bit, hooks included. What it returned (a Tensor, an array, None, or a tuple or
    dict of them) is returned as constants, which the next call overwrites. Everything else that it reads (modes,
    numbers, other arrays that reach no operation) is what it was when recorded, and other things that it does are not
    repeated. Where a decision by a value (`if (x > 0).all()`, a label's check) comes out otherwise, or an index is out
    of bounds, the function is called itself. Its first two calls are checked against the function itself.

    Raises RuntimeError for what cannot be replayed: random draws, running statistics, values taken as Python numbers,
    results whose shapes depend on values, torch tensors. Parameters change by optimizers or `assign` between calls.
    """
    programs: dict = {}

    def captured(*arrays):
        if any(not isinstance(a, np.ndarray) for a in arrays):
            raise TypeError(f"capture: takes NumPy arrays, got {', '.join(type(a).__name__ for a in arrays)}")
        if Leaf.accumulate.__module__ == detect_anomaly.__module__:
            raise RuntimeError("capture: detect_anomaly finds no operations in a replay: call the function itself")
        key = tuple([(a.shape, a.dtype, a.strides) for a in arrays])
        program = programs.get(key)
        if program is None:
            if len(programs) == PROGRAMS:
                return function(*arrays)
            program = programs[key] = Program(function, arrays)
            return program.replay()
        return program(arrays)

    return captured


class Program:
    """What a function did with arrays of some shapes: steps (function, arguments), inputs, and what it returned."""

    def __init__(self, function, arrays):
        self.function, self.trusted = function, False
        self.inputs = [np.array(a) for a in arrays]
        recorder = Recorder()
        try:
            result = recorder.run(function, self.inputs)
        except Refused as error:
            raise RuntimeError(f"cannot be captured: {error}") from None
        except Exception:
            function(*arrays)  # says itself what is wrong with the arrays
            raise
        move = plan(recorder, result)
        self.result = _mapped(move, result)
        self.steps = [step for step in map(_bound, _mapped(move, recorder.steps)) if step]
        self._compare(recorder.delivered, result)

    def __call__(self, arrays):
        for held, a in zip(self.inputs, arrays):
            held[...] = a
        try:
            if not self.trusted:
                self._verify(arrays)
            return self.replay()
        except (Changed, IndexError):
            return self.function(*arrays)

    def replay(self):
        with np.errstate():
            for f, args in self.steps:
                f(*args)
        return self.result

    def _verify(self, arrays):
        """Compare with the function itself on other arrays than those that were recorded."""
        delivered = []
        with _lock, replaced(Leaf, accumulate=_here(ACCUMULATE, lambda leaf, g: delivered.append(_copied(g)))):
            result = self.function(*arrays)
        self._compare(delivered, result)
        self.trusted = True

    def _compare(self, delivered, result):
        """Stop if a replay does not give these gradients and this result."""
        got, wanted = [], [x.copy() for x in _arrays(result)]
        with np.errstate():
            for f, args in self.steps:
                got.append(_copied(args[1])) if f is _deliver else f(*args)
        ours, theirs = got + _arrays(self.result), delivered + wanted
        same = (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(ours, theirs))
        if len(ours) != len(theirs) or not all(same):
            seen = "a replay gives other bits than the function itself"
            raise RuntimeError(f"cannot be captured: {seen}, which depends on more than arguments and parameters")


class Refused(RuntimeError):
    """What cannot be replayed."""


class Recorder:
    """Runs a function and records what it computes.

    steps      (function, arguments, named arguments), in the order of the computation
    memory     {id: array} of all memory that arrays on the way lie in, and `made`, the part that was allocated here
    delivered  copies of the gradients that arrived
    """

    def __init__(self):
        self.steps: list = []
        self.memory: dict = {}
        self.made: dict = {}
        self.delivered: list = []
        self.operation = "the function"
        self.errors = np.geterr()

    def run(self, function, inputs):
        global _recorder
        usual, grad = graph.backward, Tensor.grad
        refuse = self.refusing

        def backward(root, g, retain_graph=False):
            return usual(root, self.visible(np.array(g) if isinstance(g, np.generic) else g), retain_graph)

        with (
            _lock, observing(self._seeing), replaced(Leaf, accumulate=_here(ACCUMULATE, self._accumulate)),
            replaced(core, backward=_here(usual, backward)),
            replaced(random, philox=_here(random.philox, refuse("draws random numbers"))),
            replaced(Tensor, assign=_here(Tensor.assign, refuse("assigns to a tensor, as running statistics do"))),
            replaced(Tensor, grad=property(_here(grad.fget, refuse("looks at gradients, which come later")), grad.fset)),
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

        return _here(rule, seen)

    def _accumulate(self, leaf, g):
        g = self.plain(g)
        self.delivered.append(_copied(g))
        self.add(_deliver, (leaf, g))

    def visible(self, x):
        """An array that is not part of the recording yet, as one that is."""
        if type(x) is np.ndarray:
            root = _root(x)
            self.memory[id(root)] = root
            return x.view(Recorded)
        if is_torch(x):
            self.refusing("computes on torch tensors")()
        return x

    def plain(self, x):
        """Arguments with NumPy's own arrays in them."""

        def plain(x):
            if type(x) is Recorded and id(_root(x)) not in self.memory:
                self.refusing("computes with NumPy what it does not report")()
            return _plain(x)

        return _mapped(plain, x)

    def add(self, function, args, kwargs={}):
        if (errors := np.geterr()) != self.errors:
            self.steps.append((np.seterr, (), errors))
            self.errors = errors
        self.steps.append((function, args, kwargs))

    def decide(self, x):
        """The truth of an array, for which alone the steps recorded from here on hold."""
        if any(f is _deliver for f, *_ in self.steps):
            self.refusing("decides by a value after gradients have arrived")()
        x = self.plain(x)
        self.add(_decided, (x, bool(x)))
        return bool(x)

    def compute(self, function, args, kwargs, out=None):
        """function(*args, **kwargs), to be computed again in every replay."""
        args, kwargs = self.plain(args), self.plain(kwargs)
        if out is not None:
            self._writes(target := self.plain(out))
            function(*args, **kwargs, out=target)
            self._store(function, args, kwargs, target)
            return out
        result = function(*args, **kwargs)
        name = getattr(function, "__name__", str(function))
        if function in ABOUT:
            return result
        if result is None:
            self._writes(args[0])
            return self.add(function, args, kwargs)
        given = _arrays((args, kwargs))
        if isinstance(result, (list, tuple)) and all(_shares(x, given) for x in result):
            return [x.view(Recorded) for x in result]
        if not isinstance(result, (np.ndarray, np.generic)):
            self.refusing(f"takes a Python {type(result).__name__} from numpy's {name}")()
        if _shares(result, given):
            return result.view(Recorded)
        result = np.asarray(result)
        if _root(result) is not result or not result.flags.writeable:
            result = result.copy()
        self.made[id(result)] = self.memory[id(result)] = result
        if function not in EMPTY:
            self._store(function, args, kwargs, result)
        return result.view(Recorded)

    def _writes(self, target):
        if id(_root(target)) not in self.made:
            self.refusing("writes to an array made elsewhere, such as running statistics")()

    def _store(self, function, args, kwargs, out):
        """The step that computes into this array."""
        if isinstance(function, np.ufunc) or function in (np.ndarray.dot, np.dot):
            kwargs = {k: v for k, v in kwargs.items() if k not in ("order", "subok")}
            self.add(function, (*args, out), kwargs)
        elif function in TAKE_OUT or isinstance(getattr(function, "__self__", None), np.ufunc):
            self.add(function, args, {**kwargs, "out": out})
        elif function in FILLED:
            self.add(np.ndarray.fill, (out, out.reshape(-1)[0] if out.size else 0))
        elif function in (np.ndarray.astype, np.ndarray.copy, np.copy):
            self.add(np.copyto, (out, args[0], "unsafe"))
        elif function is np.ndarray.reshape and out.flags.c_contiguous:
            self.add(np.copyto, (out.reshape(args[0].shape), args[0]))
        else:
            self.add(_assigned, (out, partial(function, **kwargs) if kwargs else function, args))


class Recorded(np.ndarray):
    """An array of the step that is being recorded; once that is over, one like any other."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if len(out) > 1 or ufunc.nout > 1:
            _refuse(f"computes numpy's {ufunc.__name__}, which has several results")
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        return _compute(function, inputs, kwargs, out[0] if out else None)

    def __array_function__(self, func, types, args, kwargs):
        if func in SIZED_BY_VALUES or (func is np.where and len(args) == 1):
            _refuse(f"takes from numpy's {func.__name__} a result whose shape depends on values")
        kwargs = dict(kwargs)
        out = kwargs.pop("out", None)
        if func in BY_METHOD and isinstance(args[0], Recorded):
            return getattr(args[0], BY_METHOD[func])(*args[1:], **kwargs)
        return _compute(func, args, kwargs, out)

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if any(type(i) is Recorded and i.dtype == bool for i in parts):
            _refuse("picks elements by a mask, so that the shape of the result depends on values")
        return _compute(operator.getitem, (self, index), {})

    def __setitem__(self, index, value):
        _compute(operator.setitem, (self, index, value), {})

    def __bool__(self):
        return bool(self.view(np.ndarray)) if _recorder is None else _recorder.decide(self)


def _refuse(what):
    if _recorder is not None:
        _recorder.refusing(what)()


def _compute(function, args, kwargs, out=None):
    if _recorder is not None:
        return _recorder.compute(function, args, kwargs, out)
    args, kwargs, out = _mapped(_plain, (args, kwargs, out))
    return function(*args, **kwargs, **({} if out is None else {"out": out}))


def _method(name):
    function = getattr(np.ndarray, name)

    def method(self, *args, **kwargs):
        return _compute(function, (self, *args), kwargs)

    return method


def _number(name):
    def method(self, *args):
        _refuse(f"takes a value as a Python number ({name})")
        return getattr(self.view(np.ndarray), name)(*args)

    return method


for _name in (
    "dot take astype copy reshape ravel flatten cumsum cumprod argmax argmin argsort repeat round trace diagonal "
    "choose searchsorted sort fill put partition"
).split():
    setattr(Recorded, _name, _method(_name))
for _name in "item tolist tobytes __int__ __float__ __index__ __complex__ nonzero compress".split():
    setattr(Recorded, _name, _number(_name))
for _known in (ARRAYS, OPERANDS, PASSING):
    _known.add(Recorded)
xp[Recorded] = np


# --- what replays call -------------------------------------------------------------------------------------------

ACCUMULATE = Leaf.accumulate


def _deliver(leaf, g):
    ACCUMULATE(leaf, g.value() if type(g) is OuterProduct and leaf.place() is None else g)


def _decided(array, outcome):
    if bool(array) is not outcome:
        raise Changed


def _assigned(out, function, args):
    out[...] = function(*args)


def _bound(step):
    """A recorded step as (function, arguments); None if it has nothing to do."""
    function, args, kwargs = step
    if function is operator.setitem:
        target, index, value = args
        index = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(i, (np.ndarray, list)) for i in index):
            target = target[index if Ellipsis in index else (*index, ...)]
            if isinstance(value, np.ndarray) and target.__array_interface__ == value.__array_interface__:
                return None  # what x[i] += y leaves to do
            return np.copyto, (target, value, "unsafe")
    return (partial(function, **kwargs) if kwargs else function), args


# --- memory ------------------------------------------------------------------------------------------------------


def plan(recorder, result):
    """A function that moves arrays to where they lie in replays: memory is used again once its array is not needed."""
    last: dict = {}
    forever = len(recorder.steps)
    touched = [{id(_root(x)) for x in _arrays(step)} for step in [*recorder.steps, result]]
    for i, found in enumerate(touched):
        last.update(dict.fromkeys(found & recorder.made.keys(), i))
    chunks, free = {}, []
    for i, found in enumerate(touched):
        for key in found & last.keys() - chunks.keys():
            size = max(recorder.made[key].nbytes, 1)
            fitting = [c for c in reversed(free) if size <= len(c) <= 2 * size + 256]
            chunk = min(fitting, key=len) if fitting else aligned_zeros(size, np.empty(0, np.uint8))
            free[:] = [c for c in free if c is not chunk]
            chunks[key] = chunk
        free += [chunks[key] for key in found if last.get(key) == i < forever]
    memory = recorder.made

    def move(x):
        if (key := id(_root(x))) not in chunks:
            return _plain(x)
        offset = _address(x) - _address(recorder.made[key])
        return np.ndarray(x.shape, x.dtype, chunks[key], offset, x.strides)

    return move


def _address(x):
    return x.__array_interface__["data"][0]


def _root(x):
    """The array that owns the memory."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def _plain(x):
    return x.view(np.ndarray) if type(x) is Recorded else x


def _shares(x, arrays):
    return isinstance(x, np.ndarray) and any(np.may_share_memory(x, a) for a in arrays)


def _mapped(f, x):
    """x with f of its arrays and scalars, in tuples, lists, dicts and whatever else steps are made of; Tensors become constants."""
    if isinstance(x, (np.ndarray, np.generic)):
        return f(x)
    if isinstance(x, (tuple, list)):
        parts = [_mapped(f, part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, dict):
        return {k: _mapped(f, v) for k, v in x.items()}
    if type(x) is partial:
        return partial(x.func, **_mapped(f, x.keywords))
    if type(x) is OuterProduct:
        return OuterProduct(_mapped(f, x.x), _mapped(f, x.g))
    return Tensor(_mapped(f, core.innermost(x))) if type(x) is Tensor else x


def _arrays(x):
    """The arrays that `_mapped` finds."""
    found: list = []
    _mapped(lambda a: found.append(a) or a, x)
    return found


def _copied(g):
    return np.array(g.value() if type(g) is OuterProduct else g)


def _here(usual, instead):
    """A function that does something else in this thread alone."""
    here = threading.get_ident()
    return lambda *args, **kwargs: (instead if threading.get_ident() == here else usual)(*args, **kwargs)
