"""`capture`, and programs: what computes again what a function has computed once.

A replay of NumPy arrays calls the functions of NumPy that the recorder saw, one after the other, on the same arrays,
into which the new inputs have been copied. No graph is built and no memory allocated, and the bits are those of the
function itself. `on_torch` adds programs for torch's tensors.
"""

import gc
import operator
import threading
from functools import partial
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from allgrad.autograd.arrays import is_torch, xp
from allgrad.autograd.engine import Leaf, get_default_dtype, here, in_this_thread, is_active, patched, setting
from allgrad.autograd.replay.memory import plan
from allgrad.autograd.replay.recorder import Recorder
from allgrad.autograd.replay.steps import ACCUMULATE, DecisionChanged, run_with_errstate
from allgrad.autograd.replay.structures import arrays_of, copy_grad, copy_of, map_arrays, memory_owner, same_bits
from allgrad.autograd.replay.surroundings import Surroundings
from allgrad.autograd.replay.watch import CannotReplay, lock

PROGRAMS = 8  # for different shapes, of one captured function
DATA, NODE = operator.attrgetter("data"), operator.attrgetter("node")
RECORDINGS = 8  # of one shape, when what is around the function changes


def capture(function):
    """A faster form of function(*arrays), which computes a loss from arrays of one library and calls backward.

        step = ag.capture(lambda x, y: ag.cross_entropy(model(x), y).backward())
        for x, y in batches:
            optimizer.zero_grad()
            step(x, y)
            optimizer.step()

    The first call for arrays of some shapes, dtypes and strides records what NumPy or torch computes; later ones replay
    that, without Python code of the model. Gradients arrive in the leaves as they do when the function is called
    itself, bit for bit, hooks included. What the function returned (a Tensor, an array, None, or a tuple, list or dict
    of them) is returned as constants, which the next call may overwrite. On a CUDA device a replay is one graph of
    kernels; there no decision may depend on a value, and hooks are called once all gradients are there.

    It is recorded again when a variable that it closes over or names, an element of a list or dict or an attribute that
    it reaches by them, or a parameter is another object, such as after a layer was replaced or `model.eval()`. Other
    things that it reads (an array, by no operation, as by `np.float32(y)`; files) stay, and nothing else that
    it does, such as counting its calls, is repeated. Dropout draws from the stream in force, and running statistics
    move, as without. Parameters are changed by `assign` or an optimizer, outside. Where
    a decision by a value comes out otherwise (`if x.all()`, the check of labels) or an index is out of bounds, the
    function itself is called, and so for the ninth shape and the ninth recording and those after it, and for other
    values of an argument that no operation reads. Each thread has recordings of its own.

    The first call for a shape, and the first in which an argument has other values, are compared with the function
    itself, which is called for that without effect on gradients, draws and running statistics. Raises TypeError for
    other arguments than arrays of NumPy alone or of torch alone, and RuntimeError for what cannot be replayed: other
    random numbers than those of dropout, forgetting gradients, changing leaves or arrays that are no constant tensor's,
    keeping tensors, values taken as Python numbers or printed, results whose shapes depend on values, torch tensors
    beside NumPy arrays, `detect_anomaly` around it, and a replay that gives other bits than the function.
    """
    own = _OfAThread()

    def captured(*arrays):
        kind = _namespace_of(arrays)
        if is_active("detect_anomaly"):
            raise CannotReplay("capture: detect_anomaly finds no operations in a replay: call the function itself")
        if here.capturing:
            return function(*arrays)  # is part of the function around it
        programs, recordings = own.programs, own.recordings
        key = here.recording, get_default_dtype(), kind, *[_layout(a) for a in arrays]
        program = programs.get(key)
        if program is not None and program.running:
            return function(*arrays)
        if program is not None and program.is_current():
            return program(arrays)
        if (program is None and len(programs) >= PROGRAMS) or recordings.get(key, 0) >= RECORDINGS:
            return function(*arrays)
        program = programs[key] = PROGRAM_OF[kind](function, arrays)
        recordings[key] = recordings.get(key, 0) + 1
        return program.replay()

    return captured


class _OfAThread(threading.local):
    """Programs, and how often each was recorded: of one captured function in one thread, and gone with it."""

    def __init__(self):
        self.programs: dict = {}
        self.recordings: dict = {}


def _namespace_of(arrays):
    """The namespace of arrays of one library; TypeError for anything else."""
    kinds = {np if isinstance(a, np.ndarray) else xp[type(a)] if is_torch(a) else None for a in arrays} or {np}
    if len(kinds) > 1 or None in kinds:
        names = ", ".join(type(a).__name__ for a in arrays)
        raise TypeError(f"capture: takes NumPy arrays, or tensors of torch, got {names}")
    return kinds.pop()


def _layout(a):
    """What the arrays of one recording have in common."""
    return (a.shape, a.dtype, a.strides) if isinstance(a, np.ndarray) else (a.shape, a.dtype, a.stride(), a.device)


class Program:
    """What a function did with arrays of some shapes, to be done again for others of the same shapes.

    inputs           the arrays that replays compute with
    recorded_inputs  {i: copy of an input} of those that had the same values in all calls so far
    unread           those of them that no operation reads
    effects          what the function changes besides gradients

    A form of it for a library defines what is abstract here.
    """

    recorder: Any = None  # the class of its recordings

    def __init__(self, function, arrays):
        self.function, self.running = function, False
        self.inputs = self.first_inputs(arrays)
        self.recorded_inputs = {i: self.copy(a) for i, a in enumerate(self.inputs)}
        recorder, result, failed = self.recorder(), None, None
        self.effects = recorder.effects
        try:
            self.prepare()
            result = recorder.run(function, self.inputs)
        except Exception as error:
            failed = error
        if failed is not None:
            if type(failed) is not CannotReplay:
                self._alone(arrays)  # says itself what is wrong with the arrays
            raise CannotReplay(f"cannot be captured: {failed}") from None
        self.tensors = [t for t, _ in recorder.tensors.values()]
        self.found = [*[data for _, data in recorder.tensors.values()], *[t.node for t in self.tensors]]
        self.surroundings = Surroundings(function)
        read = self.assemble(recorder, result)
        self.unread = {i: a for i, a in self.recorded_inputs.items() if i not in read}
        del result
        if recorder.alive() and (gc.collect(), recorder.alive())[1]:
            seen = "keeps something that it computed, in a list or an attribute"
            raise CannotReplay(f"cannot be captured: the function {seen}, which a replay would not renew")
        self._verify(arrays)
        self.surroundings.forget_changed()

    def first_inputs(self, arrays):
        """What `inputs` is at first."""
        raise NotImplementedError

    def prepare(self):
        """Is called before the function is recorded."""

    def copy(self, a):
        """What `has_changed` compares an input with."""
        raise NotImplementedError

    def has_changed(self, a, before):
        """Whether an input has other values than its copy."""
        raise NotImplementedError

    def assemble(self, recorder, result):
        """Make of a recording what a replay needs; returns the numbers of the inputs that it reads."""
        raise NotImplementedError

    def take(self, arrays):
        """Let the next replay compute with these arrays."""
        raise NotImplementedError

    def collect(self):
        """(gradients, result) of a replay that delivers none to the leaves."""
        raise NotImplementedError

    def replay(self):
        """Run and return the result; the function's own, if what was recorded does not hold for these values."""
        raise NotImplementedError

    def is_current(self):
        """Whether the function would find the tensors and modules that it found when it was recorded."""
        now = chain(map(DATA, self.tensors), map(NODE, self.tensors))
        return all(map(operator.is_, now, self.found)) and self.surroundings.unchanged()

    def __call__(self, arrays):
        self.take(arrays)
        try:
            if self.recorded_inputs and self._changed(self.recorded_inputs):
                self._verify(arrays)
            if self.unread and self._changed(self.unread):
                return self.function(*arrays)
        except (DecisionChanged, IndexError):
            return self.function(*arrays)
        return self.replay()

    def _verify(self, arrays):
        """Compare a replay with the function itself."""
        self._compare(*self._alone(arrays))
        for i in self._changed(self.recorded_inputs):
            del self.recorded_inputs[i]

    def _changed(self, recorded):
        """The numbers of those inputs whose values are not the recorded ones."""
        return [i for i, before in recorded.items() if self.has_changed(self.inputs[i], before)]

    def _alone(self, arrays):
        """What the function itself delivers to leaves, moves and returns, without effect on them."""
        delivered = []
        collect = in_this_thread(ACCUMULATE, lambda leaf, g: delivered.append(copy_grad(leaf, g)))
        with lock, setting(capturing=True), patched("capture", Leaf, accumulate=collect), self.effects.undone():
            result = self.function(*arrays)
            return delivered + self.effects.found(), result

    def _compare(self, delivered, result):
        """RuntimeError unless a replay gives these gradients and this result, bit for bit."""
        wanted = [*delivered, *map(copy_of, arrays_of(result))]
        with self.effects.undone():
            got, ours = self.collect()
            got = [*got, *self.effects.found(), *arrays_of(ours)]
        if len(got) != len(wanted) or not all(map(same_bits, got, wanted)):
            seen = "a replay gives other bits than the function itself"
            why = "which depends on more than arguments and parameters, or reads an argument unseen, as by np.asarray"
            raise CannotReplay(f"cannot be captured: {seen}, {why}")


class NumPyProgram(Program):
    """A program of steps (function, arguments), which compute in memory that was laid out for them once."""

    recorder = Recorder

    def first_inputs(self, arrays):
        return [*map(_laid_out_alike, arrays)]

    def copy(self, a):
        return a.ravel("K").tobytes()

    def has_changed(self, a, before):
        now: Any = a.ravel("K").view(np.uint8)
        return memoryview(now) != before

    def assemble(self, recorder, result):
        read = {id(memory_owner(a)) for a in arrays_of((recorder.steps, result))}
        move = plan(recorder, result)
        self.result = map_arrays(move, result)
        self.steps: list = []
        for errors, some in groupby(map_arrays(move, recorder.steps), operator.itemgetter(3)):
            bound = [step for step in map(_bound, some) if step]
            self.steps += bound if errors is None else [(run_with_errstate, (errors, bound))]
        delivers = [function is ACCUMULATE for function, _ in self.steps]
        first = delivers.index(True) if True in delivers else len(delivers)
        self.undelivered, self.delivering = self.steps[:first], self.steps[first:]  # from where gradients arrive
        return {i for i, a in enumerate(self.inputs) if id(memory_owner(a)) in read}

    def take(self, arrays):
        for held, a in zip(self.inputs, arrays):
            held[...] = a

    def collect(self):
        got = []
        for function, args in self.steps:
            got.append(copy_grad(*args)) if function is ACCUMULATE else function(*args)
        return got, self.result

    def replay(self):
        self.running = True
        if self.effects:
            self.effects.note()
        try:
            for function, args in self.undelivered:
                function(*args)
        except (DecisionChanged, IndexError):
            self.effects.restore()
            return self.function(*[a.copy() for a in self.inputs])
        else:
            for function, args in self.delivering:
                function(*args)
            return self.result
        finally:
            self.running = False


PROGRAM_OF: dict = {np: NumPyProgram}  # of the arrays of each library's namespace; `on_torch` adds its own


def _laid_out_alike(a):
    """A copy with the strides of a, on which the bits of sums over it depend."""
    copy = np.array(a)
    if copy.strides == a.strides or not a.size:
        return copy
    first, last = byte_bounds(a)
    memory = np.zeros(last - first, np.uint8)
    copy = np.ndarray(a.shape, a.dtype, memory, a.__array_interface__["data"][0] - first, a.strides)
    copy[...] = a
    return copy


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
