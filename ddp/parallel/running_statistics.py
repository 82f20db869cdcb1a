"""Running statistics, moved alike on every rank by what all logical shards have seen."""

import numpy as np

from allgrad.autograd.arrays import full, kind, on_cpu, to_backend_of, xp
from allgrad.ddp.reduce import ShardSum


class RunningStatistics:
    """The tensors that `Module.running_statistics` names, such as the running averages of batch normalisation.

    Each logical shard is normalised by its own moments ("ghost batch norm", Hoffer et al. 2017), and moves the
    statistics from where the step found them. The step moves them by the mean of these moves, weighted by the shards'
    samples and added up in the canonical tree: a function of the batch and its shards, not of the ranks. Statistics on
    a device stay there.
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

    def undo_if(self, skip):
        """`undo` if skip, a tensor of shape () on the device, is not 0."""
        if self.tensors:
            flat = self.read()
            xp[type(flat)].copyto(flat, self.start, where=skip != 0.0)
            self.write(flat)

    def average(self, share):
        """Make them the mean of what the ranks, one shard each, have made of them, of which this one has this share."""
        if self.tensors:
            flat = share * self.read()
            self.move_sum.push(self.move_sum.first, flat)
            self.move_sum.finish(flat)
            self.write(flat)

    def read(self):
        """A flat float64 copy of all, where they are; in the memory of the host a NumPy array."""
        if not self._on_device():
            return np.concatenate([np.zeros(0), *(t.numpy().reshape(-1) for t in self.tensors)], dtype=np.float64)
        flat = full((sum(t.size for t in self.tensors),), 0.0, self.tensors[0].data, "float64")
        _copy_all([t.data for t in self.tensors], self._parts(flat))
        return flat

    def write(self, flat):
        """Set all to what `read` returned."""
        if self._on_device():
            parts = self._parts(to_backend_of(flat, self.tensors[0].data))
            parts = [p if kind(t.dtype) == "f" else p.round() for t, p in zip(self.tensors, parts)]
            _copy_all(parts, [t.data for t in self.tensors])
            return
        for t, values in zip(self.tensors, self._parts(flat)):
            t.assign(values if kind(t.dtype) == "f" else np.rint(values))

    def _on_device(self):
        return bool(self.tensors) and not on_cpu(self.tensors[0].data)

    def _parts(self, flat):
        """The views of the single tensors, each of its shape."""
        stop = 0
        for t in self.tensors:
            start, stop = stop, stop + t.size
            yield flat[start:stop].reshape(t.shape)


def _copy_all(sources, targets):
    """Copy torch tensors, of any dtypes, into others, by few kernels."""
    import torch

    torch.ops.aten._foreach_copy_.default([*targets], [*sources])
