"""A look at all that a function does while it is recorded: what it reads, draws and moves, and what is refused.

`Watch` is what recordings of any array library have in common. How operations become steps is up to its two forms:
`recorder` for NumPy, and one for torch's tensors that `on_torch` adds.
"""

import threading
from contextlib import contextmanager

import numpy as np

from allgrad.autograd import random
from allgrad.autograd.engine import (
    Leaf,
    Tensor,
    declare_modes,
    graph,
    here,
    in_this_thread,
    instrumented,
    patched,
    setting,
    unwrap,
)
from allgrad.autograd.replay import recorded
from allgrad.autograd.replay.effects import Draw, Effects
from allgrad.autograd.replay.recorded import Recorded
from allgrad.autograd.replay.steps import ACCUMULATE
from allgrad.autograd.replay.structures import arrays_of

TO_ARRAY = ("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "frombuffer")

lock = threading.RLock()  # one recording at a time
declare_modes(capturing=False)  # whether a captured function is being recorded, or compared with its replay


class CannotReplay(RuntimeError):
    """The function does what no replay could repeat; the text says what."""


class Watch:
    """Runs a function and sees what it does.

    tensors    {id: (tensor, its array)} of parameters and constants that were looked at
    effects    what the function changes besides gradients, see `Effects`
    operation  the one that is computed, by name

    A form of it defines compute, decide and draw of what NumPy reports, and `accumulate` for gradients that arrive.
    """

    def __init__(self):
        self.tensors: dict = {}
        self.effects = Effects()
        self.philox = random.philox
        self.operation = "the function"

    def is_array(self, x):
        """Whether x is an array that the function may look at."""
        return type(x) is np.ndarray

    def is_made(self, x):
        """Whether x, the array of a tensor, was computed by the function."""
        return type(x) is Recorded

    def as_recorded(self, x):
        """An array that is not part of the recording yet, as one that is; anything else as it is."""
        return x

    def run(self, function, inputs):
        """function(*inputs), recorded; what it returned."""
        with lock:  # what is exchanged below has to be the engine's own, and not that of another thread's recording
            return self._run(function, inputs)

    def _run(self, function, inputs):
        usual, grad, refusing, slot = graph.backward, Tensor.grad, self.refusing, vars(Tensor)["data"]
        change, assign = Tensor.change, Tensor.assign

        def change_own(tensor, result):
            if not self.is_made(slot.__get__(tensor)):
                self.refuse("changes a tensor in place")
            return change(tensor, result)

        def assign_constant(tensor, value):
            if tensor.node is not None or hasattr(tensor, "leaf") or not self.is_made(unwrap(value)):
                self.refuse("assigns to a tensor")
            return assign(tensor, value)

        def once(name, what):
            """The attribute of leaves as a property that the recording thread can set in new leaves only."""
            plain = vars(Leaf)[name]

            def set_new(leaf, value):
                if hasattr(leaf, name) and value is not False:
                    self.refuse(what)
                plain.__set__(leaf, value)

            return property(plain.__get__, in_this_thread(plain.__set__, set_new))

        def data(tensor):
            found = slot.__get__(tensor)
            if not self.is_array(found) or self.is_made(found):
                return found
            self.tensors[id(tensor)] = tensor, found
            return self.as_recorded(found)

        def backward(root, g, retain_graph=False):
            return usual(root, self.as_recorded(np.array(g) if isinstance(g, np.generic) else g), retain_graph)

        with (
            self.effects.undone(),
            setting(capturing=True),
            instrumented("capture", self._show_rule),
            patched("capture", Leaf, accumulate=in_this_thread(ACCUMULATE, self.accumulate)),
            patched("capture", graph, backward=in_this_thread(usual, backward)),
            patched(
                "capture",
                Leaf,
                stale=once("stale", "forgets gradients (zero_grad), which a replay would not repeat: do it outside"),
                version=once("version", "changes parameters, which a replay would not repeat: do it outside"),
                reset=in_this_thread(Leaf.reset, refusing("forgets gradients: do it outside")),
            ),
            patched("capture", np, **{name: self._reported(getattr(np, name)) for name in TO_ARRAY}),
            patched("capture", random, philox=in_this_thread(random.philox, self._draw)),
            patched(
                "capture",
                Tensor,
                data=property(in_this_thread(slot.__get__, data), slot.__set__),
                assign=in_this_thread(assign, assign_constant),
                change=in_this_thread(change, change_own),
                grad=property(in_this_thread(grad.fget, refusing("looks at gradients, which come later")), grad.fset),
            ),
            self.reporting(),
        ):
            result = function(*map(self.as_recorded, inputs))
            if self.effects.seeds():
                self.refuse("seeds the stream of random numbers: do it outside")
            return result

    @contextmanager
    def reporting(self):
        """Context in which arrays report what is computed with them."""
        recorded.recording.by = self
        try:
            yield
        finally:
            recorded.recording.by = None

    def refuse(self, what):
        """Stop the recording: the operation does `what`."""
        raise CannotReplay(f"{self.operation} {what}")

    def refusing(self, what):
        """A function that refuses whatever it is called with."""
        return lambda *args, **static: self.refuse(what)

    def _reported(self, convert):
        """A function of NumPy's that would make a plain array of a `Recorded` unseen, as one that reports it."""

        def seen(x, *args, **kwargs):
            if type(x) is Recorded and convert.__name__ != "frombuffer":
                return convert(x, *args, **{"like": x, **kwargs})
            if type(x) is Recorded or (isinstance(x, (list, tuple)) and Recorded in map(type, arrays_of(x))):
                self.refuse(f"reads values by numpy's {convert.__name__}")
            return convert(x, *args, **kwargs)

        return in_this_thread(convert, seen)

    def _show_rule(self, name, rule):
        def seen(*operands, **static):
            self.operation = name
            return rule(*self._weak(map(self.as_recorded, operands)), **static)

        return in_this_thread(rule, seen)

    def _weak(self, operands):
        """The operands, with those that stand for numbers in the dtype that a number takes beside the others.

        A boolean stays one, as it promotes nothing, and may be the condition of `where`.
        """
        operands = list(operands)
        dtypes = [x.dtype for x in operands if hasattr(x, "dtype") and not getattr(x, "stands_for_number", False)]
        if dtypes and any(getattr(x, "stands_for_number", False) for x in operands):
            dtype = np.result_type(*dtypes)
            order = "biufc".index
            for i, x in enumerate(operands):
                number = getattr(x, "stands_for_number", False) and x.dtype.kind != "b"
                if number and x.dtype != dtype and order(x.dtype.kind) <= order(dtype.kind):
                    operands[i] = x.astype(dtype)
        return operands

    def _draw(self, *key):
        """The bit generator of a key, if it is that of a draw from the stream in force: see `RecordedDraw`."""
        stream = here.stream
        if stream is not self.effects.stream or key != (*stream.key, stream.draws):
            self.refuse("draws random numbers by a key of its own, or again in `checkpoint`")
        self.effects.draws += 1
        draw = Draw(self.philox(*key))
        self.add_step(draw.renew, ())
        return RecordedDraw(self, draw)

    def constant_with(self, shares):
        """The array of a constant tensor that shares(array) holds of; None if the function has looked at none."""
        for tensor, data in self.tensors.values():
            if tensor.node is None and not hasattr(tensor, "leaf") and shares(data):
                return data
        return None


class RecordedDraw:
    """What a function that is recorded gets in the place of the bit generator of a draw."""

    def __init__(self, recorder, draw):
        self.recorder, self.draw = recorder, draw

    def random_raw(self, size):
        out = self.recorder.allocate(size, np.uint64)
        self.recorder.compute(self.draw.fill, (out,), {})
        return out

    def __getattr__(self, name):
        self.recorder.refuse("draws random numbers by more than `random_raw`, as by a Generator of NumPy's")
