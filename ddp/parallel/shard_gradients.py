"""The gradients of a batch's logical shards, one after the other: forward and backward of each."""

import math
from contextlib import nullcontext

from allgrad.autograd import random
from allgrad.autograd.arrays import full
from allgrad.autograd.engine import unwrap
from allgrad.autograd.ops import NoVarianceError
from allgrad.autograd.replay import capture
from allgrad.ddp.errors import ConfigurationError, counted

MOST_CAPTURED = 8  # functions, each for shards of one size and weight, that are kept
SILENT = nullcontext()


class ShardGradients:
    """Forward and backward of one logical shard after the other, each by itself.

    So each matrix product has the same shape on any number of ranks. The random numbers of a shard are a function of
    the batch's seed, its step and the shard.

    timeline         a `Timeline` that is told of forward and backward
    scale            a `LossScale` by which losses are multiplied, or None
    capture          whether forward and backward are captured once for shards of one size and weight, and replayed
    mean_of_shard    whether gradients are those of the mean over the shard's samples, not over the batch's
    sync_batch_norm  a `SyncBatchNorm` in which all shards take turns, or None
    """

    def __init__(self, arena, timeline, scale=None, capture=False, mean_of_shard=False, sync_batch_norm=None):
        self.arena, self.timeline, self.scale, self.capture = arena, timeline, scale, capture
        self.mean_of_shard, self.sync_batch_norm = mean_of_shard, sync_batch_norm
        self.captured: dict = {}

    def of_batch(self, batch, loss, exchange):
        """Pairs (shard, mean loss of its samples), with the shard's gradient in the arena while a pair is looked at.

        exchange is told before the backward of each, and may listen to it: see `ExchangeAfterBackward`.
        """
        if self.sync_batch_norm is not None:
            compute = lambda shard: self.of_shard(batch, shard, loss, batch.size)
            for shard, mean in self.sync_batch_norm.in_turns(batch, compute):
                exchange.begin(shard.index)
                yield shard, mean
            return
        try:
            for shard in batch.shards:
                self.arena.zero_grad()
                self.arena.extras[:] = 0.0
                exchange.begin(shard.index)
                count = len(shard) if self.mean_of_shard else batch.size
                listening = exchange.listening()
                yield shard, self.of_shard(batch, shard, loss, count, listening) if len(shard) else 0.0
        finally:
            self.arena.redirect_grads()

    def of_shard(self, batch, shard, loss, count, listening=SILENT):
        """Add the gradient of the shard's losses, summed and divided by `count`; returns its samples' mean loss.

        listening  the context of the backward
        """
        samples, span = len(shard), self.timeline.span
        scale = 1.0 if self.scale is None else self.scale.value
        if self.capture:
            with random.keyed(batch.seed, "forward", batch.step, shard.index), listening:
                return _mean(self._replayed(loss, samples, scale, count)(*shard.arrays), samples)
        with random.keyed(batch.seed, "forward", batch.step, shard.index), span("forward", shard=shard.index):
            try:
                value = loss(*shard.arrays)
            except NoVarianceError as error:
                raise ConfigurationError(
                    "{error.value} in a shard with {samples.value} of a batch of {size.value}: give {fewer.value}a "
                    "larger global batch, or {boundary:carry} if it is the short last batch of an epoch",
                    error=error, samples=samples, size=counted(batch.size, "sample"),
                    fewer="fewer shards, " if self.sync_batch_norm is None else "",
                ) from None  # fmt: skip
        with listening, span("backward", shard=shard.index):
            _backward(value, samples, scale, count)
        return _mean(value, samples)

    def _replayed(self, loss, samples, scale, count):
        """Forward and backward of shards of so many samples as one captured function of their arrays."""
        key = loss, samples, scale, count

        def forward_backward(*arrays):
            value = loss(*arrays)
            _backward(value, samples, scale, count)
            return value

        if key not in self.captured:
            if len(self.captured) == MOST_CAPTURED:
                self.captured.clear()
            self.captured[key] = capture(forward_backward)
        return self.captured[key]


def _backward(value, samples, scale, count):
    """Backward from the losses of a shard's samples, or from their mean: times `scale`, divided by `count`."""
    if value.shape not in ((), (samples,)):
        raise ValueError(
            f"the loss of a shard of {counted(samples, 'sample')} must be a scalar (their mean) or of shape "
            f"({samples},), got shape {value.shape}"
        )
    like = unwrap(value)
    value.backward(scale * samples / count if value.shape == () else full((samples,), scale / count, like))


def _mean(value, samples):
    return value.item() if value.shape == () else math.fsum(value.tolist()) / samples
