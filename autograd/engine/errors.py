"""What an operation says when the array library refuses its arguments: which operation, which shapes, what to do."""

import re

import numpy as np

from allgrad.autograd.engine.tensor import shape_of

HINTS = {
    "matmul": "the last axis of the first must be as long as the last but one of the second, or its only one",
    "linear": "the last axis of the input must be as long as that of the weight (out, in), and the bias (out,)",
    "concatenate": "all axes but the one along which they are joined must be equally long",
}
_SIZES = re.compile("size|shape|dimension")  # what torch's errors of this sort speak of, all of them RuntimeErrors


def shape_error(name, error, *args):
    """A ValueError that names the operation and the shapes; the error itself if it is not about shapes."""
    text = str(error).splitlines()[0]
    of_sizes = type(error) in (RuntimeError, np.exceptions.AxisError) and _SIZES.search(text)
    if " do not fit together (" in text or not (of_sizes or type(error) is ValueError):
        return error
    shapes = " and ".join(str(shape_of(a)) for a in args if a is not None)
    hint = HINTS.get(name) or ("axes count from the last: equally long, or 1" if "broadcast" in text else text)
    return ValueError(f"{name}: shapes {shapes} do not fit together ({hint})")


def named_error(name, error, a):
    """The error of an operation on one array with its name and shape; itself if an operation inside has added them."""
    if re.match(r"\w+: ", str(error)):
        return error
    kind = next(c for c in (np.exceptions.AxisError, IndexError, TypeError, ValueError) if isinstance(error, c))
    return kind(f"{name}: {error}, for an array of shape {tuple(a.shape)}")
