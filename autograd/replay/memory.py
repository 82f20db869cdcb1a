"""Where the arrays of a recording lie in replays: arrays that are not needed at the same time share memory."""

import numpy as np

from allgrad.autograd.arrays import ALIGNMENT_BYTES, aligned_zeros
from allgrad.autograd.replay.recorded import as_plain
from allgrad.autograd.replay.structures import arrays_of, memory_owner


def plan(recorder, result):
    """A function that maps each array of a recording to the array that takes its place in replays.

    An array that was allocated while recording is in use from the first step that names it to the last. Those in use at
    the same time get disjoint places in one block of memory: the largest first, each at the lowest offset that is free
    (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"). All others stay.
    """
    first, last = {}, {}
    for i, step in enumerate([*recorder.steps, result]):
        for key in {id(memory_owner(x)) for x in arrays_of(step)} & recorder.allocated.keys():
            first.setdefault(key, i)
            last[key] = i
    places: dict = {}  # offsets in bytes
    sizes = {key: -(-max(recorder.allocated[key].nbytes, 1) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for key in first}
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
