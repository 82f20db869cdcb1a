"""Files of safetensors, written and read by pieces: that takes no memory for the arrays but their own.

A file is the length of a header, 8 bytes; the header, JSON that says where each array lies; the arrays in C order.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.autograd.arrays import to_backend_of
from allgrad.ddp.errors import ConfigurationError

PIECE_BYTES = 1 << 24  # that are written, hashed, read or sent at once
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4", "I16": "<i2",
    "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1", "C64": "<c8",
}  # fmt: skip
CODES = {np.dtype(name): code for code, name in DTYPES.items()}


class StoredArray:
    """An array in a file, to be read when it is asked for: as a whole by NumPy's functions, in pieces by `read_into`.

    shape, dtype   of the array
    comm           None, or the communicator whose rank 0 has the file: to read is then collective
    """

    def __init__(self, path: Path, seen, start: int, dtype, shape):
        self.path, self.seen, self.start, self.dtype, self.shape = path, seen, start, np.dtype(dtype), tuple(shape)
        self.comm: Any = None

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))
    nbytes = property(lambda self: self.size * self.dtype.itemsize)

    def __array__(self, dtype=None, copy=None):
        array = np.empty(self.shape, self.dtype)
        self.read_into(array)
        return array if dtype is None else array.astype(dtype, copy=False)

    def read_into(self, array=None):
        """Overwrite an array of this shape, of any library, dtype and memory order; None to read for others only."""
        for index, start, shape in _blocks(self.shape, max(1, PIECE_BYTES // self.dtype.itemsize)):
            piece = self._piece(start, math.prod(shape)).reshape(shape)
            if array is not None:
                array[*index, ...] = to_backend_of(piece, array)

    def _piece(self, start, length):
        piece = np.empty(length, self.dtype)
        offset = self.start + start * self.dtype.itemsize
        if self.comm is None:
            self._read(piece, offset)
        else:
            self.comm.agree_or_raise(lambda: self._read(piece, offset) if self.comm.rank == 0 else None)
            self.comm.broadcast(piece)
        return piece

    def _read(self, piece, offset):
        try:
            with open(self.path, "rb", buffering=0) as file:
                changed = state_of(file) != self.seen
                file.seek(offset)
                view = memoryview(piece.view(np.uint8))
                while len(view) and not changed:
                    count = file.readinto(view)
                    changed, view = not count, view[count:]
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be read any more ({error}): start again") from None
        if changed:
            raise ConfigurationError(f"{self.path} has changed while it was read: start again")


def state_of(file):
    """What tells a file from another one, and from itself with other contents."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def stored_in(file, seen) -> dict:
    """{name: StoredArray} of an open file in the state `seen`. Raises errors of all kinds if it is no such file."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > seen[2] - 8:
        raise ValueError("its header is cut off")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        array = StoredArray(Path(file.name), seen, 8 + length + start, DTYPES[entry["dtype"]], entry["shape"])
        if stop - start != array.nbytes or not 0 <= start <= stop <= seen[2] - 8 - length:
            raise ValueError(f"{name!r} does not lie where its header says")
        arrays[name] = array
    return arrays


def contents_of(arrays: dict):
    """The parts of a file with these arrays, {name: array}, one after the other, as flat arrays of bytes."""
    header, stop = {}, 0
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # so that each is aligned in memory
    for name in names:
        array, start = arrays[name], stop
        if array.dtype.newbyteorder("<") not in CODES:
            raise ValueError(f"a checkpoint holds no array of {array.dtype}, as {name!r} is")
        stop += array.nbytes
        code, shape = CODES[array.dtype.newbyteorder("<")], [*array.shape]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)
    for name in names:
        array = np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<"))
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def in_pieces(content):
    """Consecutive views of flat bytes, of at most PIECE_BYTES each."""
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def _blocks(shape, most):
    """(index, position of the first element, shape) of blocks of at most so many elements, in C order."""
    row = math.prod(shape[1:])
    if row * (shape[0] if shape else 1) <= most:
        yield (), 0, shape
    elif row <= most:
        for start in range(0, shape[0], most // row):
            count = min(most // row, shape[0] - start)
            yield (slice(start, start + count),), start * row, (count, *shape[1:])
    else:
        for i in range(shape[0]):
            for index, start, block in _blocks(shape[1:], most):
                yield (i, *index), i * row + start, block
