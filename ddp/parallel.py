"""DistributedDataParallel: one backward for each logical shard, one exchange for each step."""

import math

import numpy as np

from autograd import random
from autograd.arena import arena_of
from autograd.normalization import NoVarianceError
from ddp.communicator import Communicator
from ddp.errors import ConfigurationError
from ddp.reduction import ShardSum, run_of
from ddp.running import RunningStatistics

LOSS, WEIGHTED = 0, 1  # what rides behind the gradients: the sum of losses, and sum_v b_v |g_v|^2


class DistributedDataParallel:
    """A model whose gradients are summed over all ranks.

    At construction the ranks compare the names, shapes and dtypes of their parameters and buffers, and take over
    rank 0's values. `backward` then leaves in every rank the gradient of the mean loss over the global batch, and
    moves running statistics, with the same bits on any number of ranks that share the same logical shards.

    shards  number of logical shards; the number of ranks if absent
    reduce  "canonical" (exact) or "native" (the library's all-reduce, in its own order)
    noise   a `NoiseScale` to be kept up to date, or None; costs one pass over the gradients a shard
    """

    def __init__(self, model, comm: Communicator | None = None, shards=None, reduce="canonical", noise=None):
        if reduce not in ("canonical", "native"):
            raise ConfigurationError(f"reduce is canonical or native, got {reduce!r}")
        self.model, self.comm = model, comm or Communicator()
        self.shards = self.comm.size if shards is None else shards
        self.run = list(range(*run_of(self.comm.rank, self.comm.size, self.shards)))  # the shards this rank computes
        self.total = ShardSum(self.comm, self.shards, reduce == "canonical")
        self.arena = arena_of(model)
        self.statistics = RunningStatistics(model, self.comm, self.shards, reduce == "canonical")
        self.noise = noise
        buffers = dict(model.named_buffers())
        self._verify({**self.arena.parameters, **buffers})
        self.comm.broadcast(self.arena.data)
        self.arena.touch()
        for buffer in buffers.values():
            values = np.array(buffer.data, order="C").reshape(-1)
            if values.size:
                self.comm.broadcast(values.view(np.uint8))  # bytes: a buffer may have any dtype
                buffer.assign(values.reshape(buffer.shape))

    def _verify(self, tensors):
        """Stop on every rank if the models differ: a sum over different parameters would be meaningless."""
        mine = [(name, list(t.shape), str(t.dtype)) for name, t in tensors.items()]
        all_ranks = self.comm.all_gather_object(mine)
        for rank, theirs in enumerate(all_ranks):
            for first, other in zip(all_ranks[0] + [None] * len(theirs), theirs + [None] * len(all_ranks[0])):
                if first != other:
                    raise ConfigurationError(
                        f"the models differ between ranks: rank 0 has {_describe(first)} where rank {rank} has "
                        f"{_describe(other)}; build the same model on every rank"
                    )

    def backward(self, batch, loss):
        """Compute the gradient of the mean loss over the global batch, and return that mean as a float.

        loss(*arrays) gets one shard's arrays and returns a tensor: the mean over the shard's samples, or one number
        a sample. Every shard is computed by itself, so that each matrix product has the same shape on any number of
        ranks, and is weighted by its share of the batch, so that uneven shards count by their samples. Batch
        normalisation takes its moments from the shard, see `RunningStatistics`.
        """
        if batch.logical_shards != self.shards:
            raise ConfigurationError(
                f"the batch is cut into {batch.logical_shards} logical shards and the model expects {self.shards}: "
                f"give both the same shards"
            )
        if [shard.index for shard in batch.shards] != self.run:
            raise ConfigurationError(
                f"rank {self.comm.rank} got the shards {[shard.index for shard in batch.shards]} of the batch, but it "
                f"has to compute {self.run}: give the same comm to DataLoader and DistributedDataParallel"
            )
        if self.shards == 1:
            return self._whole(batch, loss)
        arena, message, riders = self.arena, self.arena.message, self.arena.riders
        self.statistics.begin()
        for shard in batch.shards:
            arena.zero_grad()
            riders[:] = 0.0
            if len(shard):
                riders[LOSS] = self._descend(batch, shard, loss) * len(shard)
            arena.finish()
            if self.noise is not None and len(shard):
                # The shard's gradient is b_v g_v / n here, and n^2 / b_v times its square is b_v |g_v|^2.
                riders[WEIGHTED] = np.dot(arena.grad, arena.grad) * (batch.size * batch.size / len(shard))
            self.total.push(shard.index, message)
            self.statistics.push(shard.index, len(shard) / batch.size)
        self.total.finish(message)
        self.statistics.finish()
        if self.noise is not None:
            filled = min(batch.size, self.shards)
            self.noise.update(batch.size, filled, float(riders[WEIGHTED]), float(np.dot(arena.grad, arena.grad)))
        return float(riders[LOSS]) / batch.size

    def _whole(self, batch, loss):
        """One logical shard is the whole batch: nothing to add up, and one rank to do it."""
        self.arena.zero_grad()
        value = self._descend(batch, batch.shards[0], loss)
        self.arena.finish()
        return value

    def _descend(self, batch, shard, loss):
        """Backward from a shard's loss, weighted so that the shards' gradients add up to that of the global mean.

        Returns the mean loss of the shard's samples.
        """
        samples = len(shard)
        with random.keyed(batch.seed, "forward", batch.step, shard.index):
            try:
                value = loss(*shard.arrays)
            except NoVarianceError as error:
                raise ConfigurationError(
                    f"{error} in a shard with {samples} of a batch of {batch.size} samples: give fewer shards, a "
                    f"larger global batch, or --boundary carry if it is the short last batch of an epoch"
                ) from None
        if value.shape == ():
            value.backward(samples / batch.size)
            return value.item()
        if value.shape != (samples,):
            raise ValueError(
                f"the loss of a shard of {samples} samples must be a scalar (their mean) or of shape ({samples},), "
                f"got shape {value.shape}"
            )
        value.backward(np.full(samples, 1.0 / batch.size, value.dtype))
        return math.fsum(value.tolist()) / samples


def _describe(parameter):
    return "nothing" if parameter is None else "{!r} {} {}".format(*parameter)
