"""What a step has found: numbers that lie on a device until somebody reads them, all by one copy."""

import math
from typing import TYPE_CHECKING, Any

from allgrad.autograd.arrays import astype, xp
from allgrad.ddp.comm.activity import activity

if TYPE_CHECKING:
    from collections.abc import Callable

# Of the extras behind the gradients: the sums of losses and of their weights; how many shards have another weight than
# samples, and how many any; a number that stands for the batch; shards of ranks that ask to stop; the noise scale's.
LOSS, WEIGHT, UNUSUAL, WEIGHTY, KEY, STOP, NOISE = range(7)


class Report:
    """What `DistributedDataParallel.enqueue` has found of a step; in the memory of the host it is read at once.

    loss    mean loss over the global batch
    norm    Euclidean norm of the gradient; nan if it was not asked for
    halted  whether this step or one before it was not finite, where the host is to hear of it late: see
            `DistributedDataParallel.halt`

    All are numbers after `read`, which waits for the device.

    squared_there   the square of the norm as a tensor of shape () where the gradients are, if that is a device
    """

    __slots__ = "_numbers", "_take", "halted", "loss", "norm", "squared_there"

    def __init__(self, loss=math.nan, norm=math.nan):
        self.loss, self.norm, self.halted = loss, norm, False
        self.squared_there: Any = None
        self._numbers: Any = None
        self._take: Callable | None = None

    def sent(self, parts, take):
        """Have these lists of tensors of a device, of one axis or none, on their way to the host.

        take(report, *lists of numbers)  what `read` calls with their values, one list for each
        """
        self._numbers, self._take = Underway(parts), take

    @property
    def norm_there(self):
        """The norm as a float64 tensor of shape () where the gradients are, if that is a device."""
        squared = astype(self.squared_there, "float64")
        return xp[type(squared)].sqrt(squared)

    def read(self):
        """Wait until the numbers are known; returns the report itself. Collective."""
        if (take := self._take) is not None:
            self._take = None
            take(self, *self._numbers.lists())
        return self


class Underway:
    """Lists of tensors on their way from a device, in one copy to pinned memory, which nobody waits for."""

    def __init__(self, parts):
        import torch

        self.lengths = [sum(tensor.numel() for tensor in part) for part in parts]
        there = torch.cat([tensor.reshape(-1) for part in parts for tensor in part])  # in the widest of their dtypes
        self.host = torch.empty(len(there), dtype=there.dtype, pin_memory=True)
        self.host.copy_(there, non_blocking=True)
        self.arrived = torch.cuda.Event()
        self.arrived.record()

    def lists(self):
        """The numbers of each list, once they are there."""
        with activity.waiting_for_device():
            self.arrived.synchronize()
        numbers, stop, found = self.host.tolist(), 0, []
        for length in self.lengths:
            start, stop = stop, stop + length
            found.append(numbers[start:stop])
        return found
