"""Half-precision formats for what ranks send: sums are computed in the arrays' own precision and rounded to these."""

import numpy as np

from allgrad.autograd.arrays import astype, is_torch

WIRES = ("float32", "float16", "bfloat16")  # the first stands for: as it was computed


class Wire:
    """A format of two bytes an element, to which arrays of either library are rounded: to nearest, ties to even.

    float16    5 bits of exponent and 10 of fraction; what is above 65,504 becomes infinite
    bfloat16   the upper half of a float32: its range, with 7 bits of fraction
    """

    def __init__(self, name):
        self.name = name

    def round(self, array):
        """Replace every element by the nearest one that the format has."""
        self.unpack(self.pack(array), array)

    def pack(self, array):
        """The array in the format, as flat bytes."""
        if is_torch(array):
            from torch import uint8

            return astype(array, self.name).contiguous().view(uint8)
        with np.errstate(over="ignore", invalid="ignore"):
            return (array.astype("f2") if self.name == "float16" else _upper_half(array)).view(np.uint8)

    def unpack(self, packed, array):
        """Overwrite a flat array by what was packed, without another rounding."""
        if is_torch(array):
            import torch

            array[...] = packed.view(getattr(torch, self.name))
        elif self.name == "float16":
            array[...] = packed.view("f2")
        else:
            array[...] = (packed.view("u2").astype("u4") << 16).view("f4")

    def empty(self, array):
        """Room for what is packed of such an array."""
        if is_torch(array):
            from torch import uint8

            return array.new_empty(2 * len(array), dtype=uint8)
        return np.empty(2 * len(array), np.uint8)


def wire_of(name: str) -> Wire | None:
    """The format of this name; None for the first of `WIRES`, which rounds nothing."""
    return None if name == WIRES[0] else Wire(name)


def _upper_half(array):
    """The upper 16 bits of each float32, rounded: by half of the last bit that stays, or just less for an even one."""
    bits = np.ascontiguousarray(array, "f4").view("u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype("u2")  # a nan's bits could carry over to become a zero
