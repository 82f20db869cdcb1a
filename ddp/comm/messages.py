"""What travels between ranks: arrays, as bytes and in pieces that every library takes; objects, as several arrays."""

import pickle
import sys
from typing import Any

import numpy as np

from allgrad.autograd.arrays import is_torch
from allgrad.ddp.comm.activity import described
from allgrad.ddp.errors import ConfigurationError

CHUNK_BYTES = 1 << 28  # of one message: libraries count up to 2^31 - 1
INLINE_BYTES = 1 << 16  # of a pickled object, up to which it travels with the comparison of the calls
SENT = frozenset(map(np.dtype, "?bBhHiIlLqQefdFD"))  # dtypes that every library sends
ADDED = frozenset(map(np.dtype, "bBilqfdFD"))  # and those that every library adds up


def plain(array, dtypes=SENT) -> bool:
    """Whether every library takes this array as it is, in one message."""
    if array.dtype in dtypes:  # of NumPy: torch has dtypes of its own
        return array.flags.c_contiguous and array.nbytes <= CHUNK_BYTES
    if isinstance(array, np.ndarray):
        return False
    full_precision = array.is_floating_point() and array.itemsize > 2  # NumPy has no bfloat16
    return full_precision and array.is_contiguous() and not array.requires_grad and array.nbytes <= CHUNK_BYTES


def raw(array) -> Any:
    """The elements in C order as a flat array of bytes: a view of a contiguous array, of a copy of any other."""
    if is_torch(array):
        return array.detach().contiguous().reshape(-1).view(sys.modules["torch"].uint8)
    if array.dtype.hasobject:
        raise ConfigurationError(
            f"{described(array)} holds objects of Python, which are no numbers to send: give them to all_gather_object "
            f"or broadcast_object"
        )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def put_back(array, received):
    """Overwrite an array by what came into `raw` of it, if that was no view of it."""
    values = array.detach() if is_torch(array) else array
    if not (values.is_contiguous() if is_torch(array) else values.flags.c_contiguous):
        values[...] = received.view(array.dtype).reshape(array.shape)


def pieces(array) -> list:
    """A contiguous array as flat views of at most CHUNK_BYTES each, at least one."""
    flat, length = array.reshape(-1), max(1, CHUNK_BYTES // array.itemsize)
    return [flat[start : start + length] for start in range(0, max(len(flat), 1), length)]


def in_pieces(messages) -> list:
    """Messages (array, rank) as those of `pieces`, of bytes."""
    return [(piece, rank) for array, rank in messages for piece in pieces(array)]


def packed(value) -> list:
    """An object as flat arrays of bytes: a pickle, and the arrays in the object, which are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return [np.frombuffer(stream, np.uint8), *(np.asarray(buffer.raw()) for buffer in buffers)]


def unpacked(frames):
    """The object of `packed`, whose arrays are views of what was received."""
    stream, *buffers = frames
    return pickle.loads(stream, buffers=buffers)
