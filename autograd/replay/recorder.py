"""Recording what NumPy computes for a function, as a list of steps that compute it again in the same memory.

While a function is recorded, every array that a rule sees is a `Recorded`, whose operations NumPy reports. They are
computed as ever, and noted as steps (function, arguments) that write to the memory their results went to. Views need no
step. What capture records for `y = ag.relu(x @ w)`, with x (N, K) and w (K, M):

    np.ndarray.dot(x, w, a)     a, new memory (N, M), is the product
    np.greater(a, 0.0, m)       m, a mask of new memory, is where it is positive
    np.multiply(a, m, y)        y, the result

The backward of a loss adds steps like these, and for each leaf `accumulate(leaf, g)` when its gradient is there. Draws
from the stream in force and changes of constants in place are steps too; the recording itself has no effect on them
(`replay.effects`).
"""

import operator
import weakref
from functools import partial

import numpy as np

from allgrad.autograd.arrays import is_torch
from allgrad.autograd.replay.recorded import Recorded, as_plain
from allgrad.autograd.replay.steps import ACCUMULATE, assign_result, check_decision
from allgrad.autograd.replay.structures import arrays_of, map_arrays, memory_owner
from allgrad.autograd.replay.watch import Watch

ACCEPT_OUT = {np.einsum, np.concatenate, np.ndarray.cumsum, np.ndarray.argmax, np.ndarray.argmin}
FILLED = {np.zeros, np.ones, np.full, np.zeros_like, np.ones_like, np.full_like}
LIKE_ANOTHER = {np.zeros_like, np.ones_like, np.full_like}  # of FILLED, those that are given an array for its shape
METADATA = {np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.may_share_memory, np.shares_memory}


class Recorder(Watch):
    """Runs a function of NumPy arrays and records what it computes.

    steps      (function, arguments, named arguments, how NumPy treats overflow and the like, or None for as ever), in
               the order of the computation
    memory     {id: array} of the arrays that own all memory that was seen
    allocated  the part of it that was allocated while recording, which replays lay out anew (`replay.memory`)
    made       weak references to the arrays that the function was shown
    """

    def __init__(self):
        super().__init__()
        self.steps: list = []
        self.memory: dict = {}
        self.allocated: dict = {}
        self.errors = np.geterr()
        self.made: list = []

    def accumulate(self, leaf, g):
        self.add_step(ACCUMULATE, (leaf, self.as_plain(g)))

    def as_recorded(self, x):
        """An array that is not part of the recording yet, as one that is; anything else as it is."""
        if type(x) is np.ndarray:
            owner = memory_owner(x)
            self.memory[id(owner)] = owner
            return self._shown(x)
        if is_torch(x):
            self.refuse("computes on torch tensors")
        return x

    def as_plain(self, x):
        """Arguments with plain NumPy arrays in them; refused if one lies in memory that no step has seen."""

        def known(x):
            if type(x) is Recorded and id(memory_owner(x)) not in self.memory:
                self.refuse("computes with NumPy what it does not report")
            return as_plain(x)

        return map_arrays(known, x)

    def add_step(self, function, args, kwargs=None):
        """Append a step, with how NumPy treats floating-point errors now if that is not as at the start."""
        errors = np.geterr()
        usual = errors == self.errors or function is ACCUMULATE
        self.steps.append((function, args, kwargs or {}, None if usual else errors))

    def decide(self, x):
        """The truth of an array, for which alone the steps recorded from here on hold."""
        if any(function is ACCUMULATE for function, *_ in self.steps):
            self.refuse("decides by a value after gradients have arrived")
        x = self.as_plain(x)
        self.add_step(check_decision, (x, bool(x)))
        return bool(x)

    def compute(self, function, args, kwargs, out=None):
        """function(*args, **kwargs), to be computed again in every replay."""
        args, kwargs = self.as_plain(args), self.as_plain(kwargs)
        if out is not None:
            target = self.as_plain(out)
            self._writes(target)
            function(*args, **kwargs, out=target)
            self._store(function, args, kwargs, target)
            return out
        if function in (operator.setitem, np.copyto, np.ndarray.fill):  # known to write, before it has happened
            self._writes(args[0])
        result = function(*args, **kwargs)
        if function in METADATA:
            return result
        if result is None:
            self._writes(args[0])
            return self.add_step(function, args, kwargs)
        given = arrays_of((args, kwargs))
        if isinstance(result, (list, tuple)) and all(_shares(x, given) for x in result):
            return [self._shown(x) for x in result]
        if not isinstance(result, (np.ndarray, np.generic)):
            name = getattr(function, "__name__", function)
            self.refuse(f"takes a Python {type(result).__name__} from numpy's {name}")
        if _shares(result, given):
            return self._shown(result)
        is_number, result = isinstance(result, np.generic), np.asarray(result)
        if not result.flags.writeable:
            result = result.copy("K")
        owner = memory_owner(result)  # may lie in another order, on which the bits of a sum depend
        self.allocated[id(owner)] = self.memory[id(owner)] = owner
        if function not in (np.empty, np.empty_like):
            self._store(function, args, kwargs, result)
        shown = self._shown(result)
        shown.is_number = is_number
        return shown

    def allocate(self, shape, dtype):
        """A new array of the recording, which a step is to fill."""
        x = np.empty(shape, dtype)
        self.allocated[id(x)] = self.memory[id(x)] = x
        return self._shown(x)

    def _shown(self, x):
        """The array as the function sees it."""
        shown = x.view(Recorded)
        self.made.append(weakref.ref(shown))
        return shown

    def alive(self):
        """Whether the function has kept an array that it was shown, or computed."""
        left = {id(x) for made in self.made if (x := made()) is not None}
        for x in arrays_of(self.steps) if left else ():  # views in the steps may keep what they are views of
            while isinstance(x.base, np.ndarray):
                x = x.base
                left.discard(id(x))
        return bool(left)

    def _writes(self, target):
        if id(memory_owner(target)) in self.allocated or _shares(target, self.effects.arrays):
            return
        constant = self.constant_with(partial(np.may_share_memory, target))
        if constant is None:
            self.refuse("writes to an array made elsewhere that is no constant tensor's")
        self.effects.add(constant)

    def _store(self, function, args, kwargs, out):
        """Append the step that computes into this array."""
        if isinstance(function, np.ufunc) or function in (np.ndarray.dot, np.dot):
            kwargs = {k: v for k, v in kwargs.items() if k not in ("order", "subok")}
            if function in (np.maximum, np.minimum):  # where NumPy warns of a third argument without a name
                self.add_step(function, args, {**kwargs, "out": out})
            else:
                self.add_step(function, (*args, out), kwargs)
        elif getattr(function, "__name__", "") == "reduce" and kwargs.keys() <= {"axis", "dtype", "keepdims"}:
            keep = kwargs.get("keepdims", False)
            by_position = args[0], kwargs.get("axis", 0), kwargs.get("dtype"), out, keep  # which takes less time
            self.add_step(function, by_position)
        elif function in ACCEPT_OUT or isinstance(getattr(function, "__self__", None), np.ufunc):
            self.add_step(function, args, {**kwargs, "out": out})
        elif function in FILLED and len(arrays_of((args, kwargs))) == (function in LIKE_ANOTHER):
            self.add_step(np.ndarray.fill, (out, out.reshape(-1)[0] if out.size else 0))
        elif function in (np.ndarray.astype, np.ndarray.copy, np.copy, np.array) and out.shape == args[0].shape:
            self.add_step(np.copyto, (out, args[0], "unsafe"))
        elif function is np.ndarray.reshape and out.flags.c_contiguous:
            self.add_step(np.copyto, (out.reshape(args[0].shape), args[0]))
        else:
            self.add_step(assign_result, (out, partial(function, **kwargs) if kwargs else function, args))


def _shares(x, arrays):
    return isinstance(x, np.ndarray) and any(np.may_share_memory(x, a) for a in arrays)
