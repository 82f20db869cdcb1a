"""All of a rank's shards at once, layer by layer, for batch normalisation over the global batch."""

import threading
from contextlib import nullcontext

import numpy as np

from allgrad.autograd.arrays import full, xp
from allgrad.autograd.engine import Leaf, SteppedFunction
from allgrad.autograd.ops import part_of_batch
from allgrad.ddp.comm import activity
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.parallel.consistency import refuse_other_parameters
from allgrad.ddp.reduce import ShardSum


class SyncBatchNorm:
    """Forward and backward of all shards in turns, which meet in each batch normalisation.

    There the sums behind its moments, and on the way back those behind its gradient, are added up over all logical
    shards in the canonical tree. So all samples of the batch are normalised alike, whatever shard and rank they are in,
    with bits that depend on the batch and the number of shards only. Ioffe and Szegedy 2015, for the batch as a whole;
    Peng et al. 2018 (MegDet) across devices.

    It is slower than `shard` normalisation: three small exchanges for each layer and step, float64 sums, and no fused
    kernels; and a rank holds activations and gradients of all its shards at once.
    """

    def __init__(self, arena, statistics, comm, shards, canonical):
        self.arena, self.statistics, self.comm = arena, statistics, comm
        self.moment_sum = ShardSum(comm, shards, canonical)
        self.gradients: dict = {}  # shard -> (its flat gradients, the leaves that are views of them)

    def in_turns(self, batch, f):
        """Pairs (shard, f(shard)) for this rank's shards, None for one without samples. Collective.

        f computes forward and backward of a shard. When a pair is handed out, its gradient is in the arena, and its
        running statistics are in the model.
        """
        turns = {shard.index: self._turns(shard, f) for shard in batch.shards if len(shard)}
        idle = self.comm.all_gather_object(not turns)  # ranks whose shards are all empty are told when to meet
        leader = idle.index(False) if any(idle) else None
        try:
            values = self._meet(batch, turns, leader)
        finally:
            for one in turns.values():
                one.cancel()
        for shard in batch.shards:
            self.arena.zero_grad()
            self.arena.extras[:] = 0.0
            if len(shard):
                gradients, leaves = self.gradients[shard.index]
                self.arena.grad[...] = gradients
                for leaf, own in zip(self.arena.leaves, leaves):
                    leaf.stale = own.stale
                    if leaf.hook is not None and not own.stale:
                        leaf.hook(leaf)
                for t in self.statistics.tensors:
                    t.assign(turns[shard.index].own[t, "data"])
            yield shard, values.get(shard.index)

    def _turns(self, shard, f):
        """A shard's forward and backward, with leaves and running statistics of its own."""
        if shard.index not in self.gradients:
            gradients = full(self.arena.grad.shape, 0, self.arena.grad)
            leaves = [Leaf(name, p.shape, p.dtype) for name, p in self.arena.parameters.items()]
            for leaf, place in zip(leaves, self.arena.unflatten(gradients).values()):
                leaf.grad, leaf.in_arena = place, True
            self.gradients[shard.index] = gradients, leaves
        _, leaves = self.gradients[shard.index]
        own: dict = {(t, "data"): xp[type(t.data)].array(t.data) for t in self.statistics.tensors}
        for leaf, p in zip(leaves, self.arena.parameters.values()):
            leaf.stale, leaf.dtype = True, p.dtype
            own[p, "node"] = leaf
        place = _current_stream(self.arena)

        def compute():
            activity.thread = threading.get_ident()
            with place, part_of_batch(turns.wait):
                value = f(shard)
            refuse_other_parameters(self.arena)  # here, since a gradient is noted in the thread where it arrives
            return value

        turns = SteppedFunction(compute, own | {(activity, "thread"): activity.thread})
        turns.thread.name = f"shard {shard.index}"
        return turns

    def _meet(self, batch, turns, leader):
        """Let the shards run from one meeting to the next, until all have finished: {shard: what it returned}."""
        sums = None
        while True:
            found = {index: one.resume(sums) for index, one in turns.items()}
            lengths = {index: None if one.finished else len(found[index]) for index, one in turns.items()}
            for index, length in lengths.items():
                first = next(iter(lengths))
                if length != lengths[first]:
                    raise ConfigurationError(
                        "shard {first.value} {does.value} where shard {index.value} {other.value}: with "
                        "{batch_norm.name} sync, let every shard pass the same layers, whatever its samples are, or "
                        "take {batch_norm.name} shard",
                        batch_norm="sync", first=first, does=_does(lengths[first]), index=index, other=_does(length),
                    )  # fmt: skip
            length = next(iter(lengths.values()), None)
            if leader is not None:
                length = self.comm.broadcast_object(length, leader)
            if length is None:
                return found
            for shard in batch.shards:
                sums = np.array(found[shard.index]) if shard.index in found else np.zeros(length)
                self.moment_sum.push(shard.index, sums)
            self.moment_sum.finish(sums)


def _current_stream(arena):
    """The context in which another thread computes on the device and in the stream of this one."""
    if arena.on_cpu:
        return nullcontext()
    import torch

    return torch.cuda.stream(torch.cuda.current_stream(arena.data.device))


def _does(length):
    return "has finished" if length is None else f"waits in batch normalisation for {length} sums"
