"""A step to capture, on arrays of any library."""

import importlib.util

import numpy as np

import allgrad as ag

LIBRARIES = {"numpy": "numpy", "torch": "cpu"}  # and where `to` finds their arrays
if importlib.util.find_spec("torch") is None:
    del LIBRARIES["torch"]


def as_arrays(library, *arrays):
    """NumPy arrays as arrays of the library."""
    return [ag.tensor(a).to(LIBRARIES[library]).data for a in arrays]


def step_of(f, library="numpy"):
    """f(x, w) as a step, w, and x."""
    w, x = as_arrays(
        library, np.arange(1.0, 7.0, dtype="f").reshape(2, 3) / 6, np.random.default_rng(0).random((4, 2), dtype="f")
    )
    w = ag.tensor(w, requires_grad=True)

    def step(x):
        y = f(x, w).sum()
        y.backward()
        return y

    return step, w, x
