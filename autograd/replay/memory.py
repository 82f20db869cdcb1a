"""Where the arrays of a recording lie in replays: memory is used again once its array is not needed."""

import numpy as np

from allgrad.autograd.arrays import ALIGNMENT, aligned_zeros
from allgrad.autograd.replay.recorded import as_plain
from allgrad.autograd.replay.structures import arrays_of, memory_owner


def plan(recorder, result):
    """A function that moves arrays to where they lie in replays: memory is used again once its array is not needed."""
    first, last = {}, {}
    for i, step in enumerate([*recorder.steps, result]):
        for key in {id(memory_owner(x)) for x in arrays_of(step)} & recorder.allocated.keys():
            first.setdefault(key, i)
            last[key] = i
    places: dict = {}  # the lowest ones, the largest arrays first (Pisarchyk and Lee 2020)
    sizes = {key: -(-max(recorder.allocated[key].nbytes, 1) // ALIGNMENT) * ALIGNMENT for key in first}
    for key in sorted(first, key=lambda key: (-sizes[key], first[key])):
        place = 0
        others = [other for other in places if first[other] <= last[key] and first[key] <= last[other]]
        for start, other in sorted((places[other], other) for other in others):
            if place + sizes[key] <= start:
                break
            place = max(place, start + sizes[other])
        places[key] = place
    memory = aligned_zeros(max((places[key] + sizes[key] for key in places), default=0), np.empty(0, np.uint8))

    def move(x):
        if (key := id(memory_owner(x))) not in places:
            return as_plain(x)
        offset = places[key] + _address(x) - _address(recorder.allocated[key])
        return np.ndarray(x.shape, x.dtype, memory, offset, x.strides)

    return move


def _address(x):
    return x.__array_interface__["data"][0]
