"""What is changed while the program runs, by whom and why: the one place to look it up.

Tools look on while operations are computed by exchanging a rule, a method or an attribute for their own, inside a
context, and by putting it back at its end. Outside nothing asks whether anybody looks on, so a tool costs nothing while
it is not used. `instrumented` exchanges the rules of all primitives, `patched` attributes of any object; both say in
`active` who does it, so that one tool can ask for another (`is_active`).

who                 what                                       why
detect_anomaly      rules of all primitives                    check every value, and wrap every vjp in a check
                    Tensor.backward                            check vjps that were recorded before the context
                    Leaf.accumulate                            check what arrives at a leaf
count_operations    rules of all primitives                    count the multiply-adds of each operation
summary             rules of all primitives                    the same, for each module
                    __call__ of the model's classes            note who is running, and the shapes of outputs
                    Module.training of each module             compute in evaluation mode
draw_graph, to_dot  Tensor.__init__                            keep the values, which nodes do not hold
capture, recording  rules of all primitives                    show each rule arrays that report what NumPy computes
                    Leaf.accumulate, engine.graph.backward     record the gradients that arrive, and those sent back
                    Tensor.data                                show the same arrays to code outside of operations
                    numpy.array, numpy.asarray and such        show what they read of those arrays
                    random.philox                              draw again in each replay
                    Tensor.assign, Tensor.grad                 refuse what a replay could not repeat
                    torch's function mode, of this thread      note what torch computes
capture, comparing  Leaf.accumulate                            collect gradients without effect on the leaves
checkpoint          engine.primitive.Node                      know the nodes of the function from those outside

Three more changes go without a context. The first tensor of torch loads `on_torch`, which wraps the rules of operations
that torch has kernels for, and `update` of SGD and Adam, once and for good. Importing `replay` registers its array type
where types of operands are listed (`arrays.namespace`). A `SteppedFunction` swaps the attributes it was given with
those outside whenever it goes on or waits.
"""

import linecache
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from allgrad.autograd.arrays import load_imported_backends
from allgrad.autograd.engine.primitive import operations

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True, eq=False)
class Patch:
    """Who exchanges which attributes of what: of an object, or of all primitives."""

    by: str
    owner: Any
    attributes: tuple[str, ...]


active: list[Patch] = []  # those in force


def is_active(name):
    """Whether the tool of this name, such as "detect_anomaly", has anything patched right now, in any thread."""
    return name in [patch.by for patch in tuple(active)]


@contextmanager
def _registered(patch):
    active.append(patch)
    try:
        yield
    finally:
        active.remove(patch)


@contextmanager
def instrumented(by, around):
    """Context in which every primitive computes by around(name, rule) instead of by its rule, for the tool named `by`.

    A primitive made inside is not seen. The exchange is shared by all threads.
    """
    load_imported_backends()  # a library's own rules for the primitives come now, or would be put back
    before = []
    with _registered(Patch(by, operations, ("rule",))):
        try:
            for operation in list(operations):
                name = operation.__name__
                before.append((operation, operation.wrap_rule(lambda rule, name=name: around(name, rule))))
            yield
        finally:
            for operation, rule in before:
                operation.wrap_rule(lambda _, rule=rule: rule)


@contextmanager
def patched(by, owner, /, **attributes):
    """Context in which a class, a module or an object has these attributes instead of its own, for the tool `by`."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    with _registered(Patch(by, owner, tuple(attributes))):
        try:
            for name, value in attributes.items():
                setattr(owner, name, value)
            yield
        finally:
            for name in attributes:
                setattr(owner, name, before[name]) if name in before else delattr(owner, name)


def in_this_thread(usual, instead) -> Any:
    """A function that is `instead` in the thread that asks for it, and `usual` in all others."""
    thread = threading.get_ident()
    return lambda *args, **kwargs: (instead if threading.get_ident() == thread else usual)(*args, **kwargs)


def users_line():
    """Where the engine was called from, as (file, line): the innermost frame outside of it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def format_location(place):
    """A file and line as "train.py:12 (y = ag.log(x))", relative to the directory one works in."""
    path, line = place
    source = linecache.getline(path, line).strip()
    return f"{path.removeprefix(os.getcwd() + os.sep)}:{line}" + (f" ({source})" if source else "")
