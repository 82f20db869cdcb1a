"""Modes: global switches of the engine, such as whether operations are recorded, and the dtype of Python's floats.

A mode is an attribute of a module, shared by all threads. Every module declares its own by `declare_modes`, so that
functions that run in turns (`engine.stepped`) can each have their own values: `no_grad` in one does not reach another.
"""

import sys
from contextlib import contextmanager
from typing import Any

import numpy as np

recording = True  # whether operations on tensors that need a gradient become part of a graph
float_dtype = np.dtype("float32")  # what Python's floats become, and new parameters have

MODES: list[tuple[Any, str]] = []  # (module, attribute) of every mode


def declare_modes(module: str, *attributes: str):
    """Declare attributes of the module of this name to be modes."""
    MODES.extend((sys.modules[module], attribute) for attribute in attributes)


declare_modes(__name__, "recording", "float_dtype")


@contextmanager
def _setting(name, value):
    before, globals()[name] = globals()[name], value
    try:
        yield
    finally:
        globals()[name] = before


def no_grad():
    """Context in which no graph is recorded: results are constants. In force in all threads."""
    return _setting("recording", False)


def enable_grad():
    """Context in which a graph is recorded, also inside `no_grad`."""
    return _setting("recording", True)


def default_dtype(dtype):
    """Context in which Python floats, and parameters made without a dtype, take this dtype ("float32", "float64")."""
    return _setting("float_dtype", np.dtype(dtype))


def get_default_dtype():
    """The dtype that Python floats and new parameters take."""
    return float_dtype
