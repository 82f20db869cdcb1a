"""What an operation says when the array library refuses its arguments."""

import re

import numpy as np

HINTS = {
    "matmul": "the last axis of the first must be as long as the last but one of the second, or its only one",
    "linear": "the last axis of the input must be as long as that of the weight (out, in), and the bias (out,)",
    "concatenate": "all axes but the one along which they are joined must be equally long",
}


def hint(name, text):
    """What to do about shapes that do not fit; the array library's words where nothing better is known."""
    return HINTS.get(name) or ("axes count from the last: equally long, or 1" if "broadcast" in text else text)


def refused(name, error, a):
    """The array library's error, saying which operation and which shape; as it is if one inside has done so."""
    if re.match(r"\w+: ", str(error)):
        return error
    kind = next(c for c in (np.exceptions.AxisError, IndexError, TypeError, ValueError) if isinstance(error, c))
    return kind(f"{name}: {error}, for an array of shape {tuple(a.shape)}")
