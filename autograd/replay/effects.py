"""What a captured function changes besides gradients: random numbers drawn, and constants moved in place.

A step of training draws from the stream in force (dropout) and moves running statistics. A replay does both as the
function does. To be compared with a replay, or recorded, the function runs without either: see `Effects.undone`.
"""

from contextlib import contextmanager
from typing import Any

from allgrad.autograd import random
from allgrad.autograd.engine import here
from allgrad.autograd.replay.structures import copy_of


class Effects:
    """The draws from the stream in force, and the arrays of constants that a function changes in place.

    arrays  those that it changes: NumPy's, or torch's
    draws   how often it draws
    """

    def __init__(self):
        self.arrays, self.draws = [], 0
        self.before: list = []  # copies of the arrays
        self.stream: Any = None
        self.key: tuple = ()

    def __bool__(self):
        return bool(self.arrays or self.draws)

    def add(self, array):
        """Note an array that is about to be changed for the first time."""
        self.arrays.append(array)
        self.before.append(copy_of(array))

    def note(self):
        """Note how things stand, for `restore`."""
        self.stream = here.stream
        self.key, self.count = self.stream.key, self.stream.draws
        self.before = [copy_of(a) for a in self.arrays]

    def restore(self):
        """Put everything back to where `note` found it."""
        self.stream.key, self.stream.draws = self.key, self.count
        for a, before in zip(self.arrays, self.before):
            a[...] = before

    @contextmanager
    def undone(self):
        """Context that has none of these effects, once it is over."""
        self.note()
        try:
            yield
        finally:
            self.restore()

    def seeds(self):
        """Whether the stream was seeded since `note`, or drawn from more or less often than `draws` says."""
        return self.stream.key != self.key or self.stream.draws != self.count + self.draws

    def found(self):
        """Copies of the arrays as they are now."""
        return [copy_of(a) for a in self.arrays]


class Draw:
    """One draw from the stream in force, made again in each replay; bits is the NumPy bit generator of this time."""

    def __init__(self, bits):
        self.bits = bits

    def renew(self):
        self.bits = random.draw()

    def fill(self, out):
        """Fill an array of uint64 with the draw's next words."""
        out[...] = self.bits.random_raw(out.size)
