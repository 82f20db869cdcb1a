"""Running statistics, moved alike on every rank by what all logical shards have seen."""

import numpy as np

from allgrad.autograd.arrays import kind
from allgrad.ddp.reduce import ShardSum


class RunningStatistics:
    """The tensors that `Module.running_statistics` names, such as the running averages of batch normalisation.

    Each logical shard is normalised by its own moments ("ghost batch norm", Hoffer et al. 2017), and moves the
    statistics from where the step found them. The step moves them by the mean of these moves, weighted by the shards'
    samples and added up in the canonical tree: a function of the batch and its shards, not of the ranks.
    """

    def __init__(self, model, comm, shards, canonical):
        found = (getattr(module, name) for module in model.modules() for name in module.running_statistics)
        self.tensors = [t for t in found if t is not None]
        self.move_sum = ShardSum(comm, shards, canonical)
        self.start = self.move = self.read()

    def begin(self):
        """Note where a step finds the statistics."""
        if self.tensors:
            self.start = self.read()

    def push(self, shard, share):
        """Take a shard's move, which has this share of the batch's samples, and put the statistics back."""
        if self.tensors:
            self.move = share * (self.read() - self.start)
            self.move_sum.push(shard, self.move)
            self.write(self.start)

    def finish(self):
        """Exchange with the other ranks and move the statistics."""
        if self.tensors:
            self.move_sum.finish(self.move)
            self.write(self.start + self.move)

    def undo(self):
        """Put back what `begin` found: a step is left out."""
        self.write(self.start)

    def average(self, share):
        """Make them the mean of what the ranks, one shard each, have made of them, of which this one has this share."""
        if self.tensors:
            flat = share * self.read()
            self.move_sum.push(self.move_sum.first, flat)
            self.move_sum.finish(flat)
            self.write(flat)

    def read(self):
        return np.concatenate([np.zeros(0), *(t.numpy().reshape(-1) for t in self.tensors)], dtype=np.float64)

    def write(self, flat):
        stop = 0
        for t in self.tensors:
            start, stop = stop, stop + t.size
            values = flat[start:stop].reshape(t.shape)
            t.assign(values if kind(t.dtype) == "f" else np.rint(values))
