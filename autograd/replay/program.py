"""`capture`, and programs: lists of steps that compute again what a function has computed once.

A replay calls the functions of NumPy that the recorder saw, one after the other, on the same arrays, into which the new
inputs have been copied. No graph is built and no memory allocated, and the bits are those of the function itself.
"""

import operator
from functools import partial
from itertools import groupby

import numpy as np

from allgrad.autograd.engine import Leaf, in_this_thread, is_active, patched
from allgrad.autograd.replay.memory import plan
from allgrad.autograd.replay.recorder import CannotReplay, Recorder, lock
from allgrad.autograd.replay.steps import ACCUMULATE, DecisionChanged, deliver_grad, run_with_errstate
from allgrad.autograd.replay.structures import arrays_of, copy_grad, map_arrays

PROGRAMS = 8  # for different shapes, of one captured function


def capture(function):
    """A faster form of function(*arrays), which computes a loss from NumPy arrays and calls backward.

        step = ag.capture(lambda x, y: ag.cross_entropy(model(x), y).backward())
        for x, y in batches:
            optimizer.zero_grad()
            step(x, y)
            optimizer.step()

    The first call for arrays of some shapes, dtypes and strides records what NumPy computes; later ones replay that,
    without Python code of the model. Gradients arrive in the leaves as they do when the function is called itself, bit
    for bit, hooks included. What the function returned (a Tensor, an array, None, or a tuple, list or dict of them) is
    returned as constants, which the next call overwrites.

    Everything else that the function reads (modes, numbers, arrays that no operation sees) stays as it was when
    recorded, and nothing else that it does is repeated. Parameters are changed by `assign` or an optimizer, outside.
    Where a decision by a value comes out otherwise (`if x.all()`, the check of labels) or an index is out of bounds,
    the function itself is called, and so for the ninth shape and those after it.

    The first two calls for a shape are compared with the function itself, which is called for that without effect on
    gradients. Raises TypeError for other arguments than NumPy arrays, and RuntimeError for what cannot be replayed:
    random draws, running statistics, values taken as Python numbers, results whose shapes depend on values, torch
    tensors, `detect_anomaly` around it, and a replay that gives other bits than the function.
    """
    programs: dict = {}

    def captured(*arrays):
        if any(not isinstance(a, np.ndarray) for a in arrays):
            raise TypeError(f"capture: takes NumPy arrays, got {', '.join(type(a).__name__ for a in arrays)}")
        if is_active("detect_anomaly"):
            raise RuntimeError("capture: detect_anomaly finds no operations in a replay: call the function itself")
        key = tuple([(a.shape, a.dtype, a.strides) for a in arrays])
        program = programs.get(key)
        if program is not None and all(tensor.data is data for tensor, data in program.tensors):
            return program(arrays)
        if program is None and len(programs) == PROGRAMS:
            return function(*arrays)
        program = programs[key] = Program(function, arrays)
        return program.replay()

    return captured


class Program:
    """What a function did with arrays of some shapes: its steps (function, arguments), inputs and result."""

    def __init__(self, function, arrays):
        self.function, self.trusted = function, False
        self.inputs = [np.array(a) for a in arrays]
        recorder, result, failed = Recorder(), None, None
        try:
            result = recorder.run(function, self.inputs)
        except Exception as error:
            failed = error
        if failed is not None:
            if type(failed) is not CannotReplay:
                function(*arrays)  # says itself what is wrong with the arrays
            raise RuntimeError(f"cannot be captured: {failed}") from None
        self.tensors = list(recorder.tensors.values())  # whose arrays are replaced when an arena takes them in
        move = plan(recorder, result)
        self.result = map_arrays(move, result)
        self.steps: list = []
        for errors, some in groupby(map_arrays(move, recorder.steps), operator.itemgetter(3)):
            bound = [step for step in map(_bound, some) if step]
            self.steps += bound if errors is None else [(run_with_errstate, (errors, bound))]
        self._compare(recorder.delivered, result)

    def __call__(self, arrays):
        for held, a in zip(self.inputs, arrays):
            held[...] = a
        try:
            if not self.trusted:
                self._verify(arrays)
            return self.replay()
        except (DecisionChanged, IndexError):
            return self.function(*arrays)

    def replay(self):
        for function, args in self.steps:
            function(*args)
        return self.result

    def _verify(self, arrays):
        """Compare a replay with the function itself, on other arrays than those that were recorded."""
        delivered = []
        collect = in_this_thread(ACCUMULATE, lambda leaf, g: delivered.append(copy_grad(g)))
        with lock, patched("capture", Leaf, accumulate=collect):
            result = self.function(*arrays)
        self._compare(delivered, result)
        self.trusted = True

    def _compare(self, delivered, result):
        """RuntimeError unless a replay gives these gradients and this result, bit for bit."""
        got, wanted = [], [x.copy() for x in arrays_of(result)]
        for function, args in self.steps:
            got.append(copy_grad(args[1])) if function is deliver_grad else function(*args)
        ours, theirs = got + arrays_of(self.result), delivered + wanted
        same = (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(ours, theirs))
        if len(ours) != len(theirs) or not all(same):
            seen = "a replay gives other bits than the function itself"
            raise RuntimeError(f"cannot be captured: {seen}, which depends on more than arguments and parameters")


def _bound(step):
    """A recorded step as (function, arguments); None if it has nothing to do."""
    function, args, kwargs, _ = step
    if function is operator.setitem:
        target, index, value = args
        index = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(i, (np.ndarray, list)) for i in index):
            target = target[index if any(i is Ellipsis for i in index) else (*index, ...)]
            if isinstance(value, np.ndarray) and target.__array_interface__ == value.__array_interface__:
                return None  # what x[i] += y leaves to do
            return np.copyto, (target, value, "unsafe")
    return (partial(function, **kwargs) if kwargs else function), args
