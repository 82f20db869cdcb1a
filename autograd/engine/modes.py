"""Modes: switches of the engine, such as whether operations are recorded, and the dtype of Python's floats.

A mode is an attribute of `here`, which each thread has values of its own for: `no_grad` in one does not reach another.
A module declares those it needs by `declare_modes`, with the value of a thread that has set none.
"""

import threading
from contextlib import contextmanager, nullcontext
from copy import copy

import numpy as np


class _Modes(threading.local):
    recording = True  # whether operations on tensors that need a gradient become part of a graph
    float_dtype = np.dtype("float32")  # what Python's floats become, and new parameters have


here = _Modes()
MODES = ["recording", "float_dtype"]
pauses = 0  # contexts of `no_grad` in force in any thread: operations ask `here.recording` only if there is one
_counting = threading.Lock()


def declare_modes(**modes):
    """Declare modes, each with the value of a thread that has not set it."""
    MODES.extend(modes)
    for name, value in modes.items():
        setattr(_Modes, name, value)


def copy_modes():
    """Copies of this thread's modes, by name, for another thread to start with."""
    return {name: copy(getattr(here, name)) for name in MODES}


@contextmanager
def setting(**modes):
    """Context in which modes have these values in this thread."""
    before = {name: getattr(here, name) for name in modes}
    vars(here).update(modes)
    try:
        yield
    finally:
        vars(here).update(before)


@contextmanager
def no_grad():
    """Context in which no graph is recorded: results are constants. In force in this thread, as all modes."""
    global pauses
    with _counting:
        pauses += 1
    try:
        with setting(recording=False):
            yield
    finally:
        with _counting:
            pauses -= 1


def enable_grad():
    """Context in which a graph is recorded, also inside `no_grad`."""
    return setting(recording=True)


def is_grad_enabled():
    """Whether operations are recorded here: not inside `no_grad`."""
    return here.recording


class set_grad_enabled:
    """Record operations from now on in this thread, or do not; as a context, until its end."""

    def __init__(self, mode):
        self.mode, self.before = bool(mode), here.recording
        here.recording = self.mode
        self._count(1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        here.recording = self.before
        self._count(-1)

    def _count(self, change):
        global pauses
        with _counting:
            pauses += 0 if self.mode else change


def inference_mode(mode=True):
    """`no_grad`, or a context without effect for mode=False. Results are constants like any others."""
    return no_grad() if mode else nullcontext()


def default_dtype(dtype):
    """Context in which Python floats, and parameters made without a dtype, take this dtype ("float32", "float64")."""
    return setting(float_dtype=np.dtype(dtype))


def get_default_dtype():
    """The dtype that Python floats and new parameters take."""
    return here.float_dtype
