"""Modes of the whole engine: whether operations are recorded, and which dtype Python's floats take.

A mode is an attribute of a module. Those that one function must not leave to another that takes turns with it (see
`stepped`) are listed in `SWITCHED`, by whoever has them.
"""

import sys
from contextlib import contextmanager
from typing import Any

import numpy as np

recording = True  # whether operations on tensors that need a gradient become part of a graph
default = np.dtype("float32")  # of Python's floats, and of parameters

SWITCHED: list[tuple[Any, str]] = []  # (module, attribute)


def switch(module: str, *attributes: str):
    """Declare attributes of the module of this name to be modes: each of several `stepped` functions has its own."""
    SWITCHED.extend((sys.modules[module], attribute) for attribute in attributes)


switch(__name__, "recording", "default")


@contextmanager
def _setting(name, value):
    before, globals()[name] = globals()[name], value
    try:
        yield
    finally:
        globals()[name] = before


def no_grad():
    """Context in which nothing is recorded: results are constants. The flag is shared by all threads."""
    return _setting("recording", False)


def enable_grad():
    """Context in which operations are recorded, also inside `no_grad`."""
    return _setting("recording", True)


def default_dtype(dtype):
    """Context in which Python floats, and parameters made without a dtype, take this dtype ("float32", "float64")."""
    return _setting("default", np.dtype(dtype))


def get_default_dtype():
    """The dtype that Python floats and new parameters take."""
    return default
