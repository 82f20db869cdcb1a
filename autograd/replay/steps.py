"""What the steps of a recording call, besides the functions of NumPy itself."""

import numpy as np

from allgrad.autograd.engine import Leaf

ACCUMULATE = Leaf.accumulate  # itself, also while it is patched


class DecisionChanged(Exception):
    """A decision that the recorded function took by a value comes out otherwise for these values."""


def check_decision(array, outcome):
    """Raise DecisionChanged unless the truth of the array is that of the recording."""
    if bool(array) is not outcome:
        raise DecisionChanged


def assign_result(out, function, args):
    """Compute into memory that exists, by a function that takes no `out`."""
    out[...] = function(*args)


def run_with_errstate(errors, steps):
    """Run steps (function, arguments) with NumPy's floating-point errors treated as when they were recorded."""
    with np.errstate(**errors):
        for function, args in steps:
            function(*args)
