"""The gradients of a batch's logical shards, one after the other: forward and backward of each."""

import math
from contextlib import nullcontext

from allgrad.autograd import random
from allgrad.autograd.arrays import astype, cast_like, full, on_cpu, xp
from allgrad.autograd.engine import unwrap
from allgrad.autograd.ops import NoVarianceError
from allgrad.autograd.replay import CannotReplay, capture
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.parallel.out_of_memory import out_of_memory
from allgrad.ddp.weighted import weighted

CAPTURES = "off", "on", "auto"
AFTER = 100  # shards: what replays of so many small ones save is about what a recording costs
MOST_WORK = 4_000_000  # parameters times samples of a shard: with more of it, replays save next to nothing
MOST_ELEMENTS = 100_000  # of a shard's arrays, likewise
MOST_CAPTURED = 8  # functions, each for shards of one size and weight, that are kept
SILENT = nullcontext()
NOTHING = math.nan, 0  # mean loss and weight of no samples


class ShardGradients:
    """Forward and backward of one logical shard after the other, each by itself.

    So each matrix product has the same shape on any number of ranks. The random numbers of a shard are a function of
    the batch's seed, its step and the shard.

    timeline         a `Timeline` that is told of forward and backward
    scale            a `LossScale` by which losses are multiplied, or None
    capture          whether forward and backward are captured once for shards of one size and weight, and replayed:
                     "off", "on", or "auto", by a rule (see `captures`)
    capture_why      why it is so, in words
    mean_of_shard    whether gradients are those of the shard's mean loss, and not its part of the batch's
    sync_batch_norm  a `SyncBatchNorm` in which all shards take turns, or None
    """

    def __init__(self, arena, timeline, scale=None, capture="off", mean_of_shard=False, sync_batch_norm=None):
        self.arena, self.timeline, self.scale, self.capture = arena, timeline, scale, capture
        self.mean_of_shard, self.sync_batch_norm = mean_of_shard, sync_batch_norm
        self.capture_why = "as asked for" if capture != "auto" else f"small shards, after {AFTER}"
        self.captured: dict = {}
        self.seen = 0  # shards

    def of_batch(self, batch, loss, exchange):
        """Triples (shard, its mean loss, its weight), with the shard's gradient in the arena while one is looked at.

        The gradient is that of the sum of losses, divided by the samples of the batch: what is still to be done for the
        batch's mean loss is to multiply by its samples and divide by its weight, where these are not the same. A shard
        without samples has a loss of nan and weight 0.

        exchange is told before the backward of each, and may listen to it: see `ExchangeAfterBackward`.
        """
        if self.sync_batch_norm is not None:
            compute = lambda shard: self.of_shard(batch, shard, loss, batch.size)
            for shard, found in self.sync_batch_norm.in_turns(batch, compute):
                exchange.begin(shard.index)
                yield shard, *(found or NOTHING)
            return
        try:
            for shard in batch.shards:
                self.arena.zero_grad()
                self.arena.extras[:] = 0.0
                exchange.begin(shard.index)
                count = None if self.mean_of_shard else batch.size
                listening = exchange.listening()
                yield shard, *(self.of_shard(batch, shard, loss, count, listening) if len(shard) else NOTHING)
        finally:
            self.arena.redirect_grads()

    def of_shard(self, batch, shard, loss, count, listening=SILENT):
        """Add the gradient of the sum of the shard's losses, divided by `count`; returns (mean loss, weight).

        count      None stands for the shard's own weight
        listening  the context of the backward

        Raises OutOfMemory.
        """
        try:
            return self._of_shard(batch, shard, loss, count, listening)
        except (MemoryError, RuntimeError) as error:
            if (found := out_of_memory(error, batch, shard)) is None:
                raise
        raise found

    def _of_shard(self, batch, shard, loss, count, listening):
        samples, span = len(shard), self.timeline.span
        scale = 1.0 if self.scale is None else self.scale.value
        if self.captures(shard.arrays):
            with random.keyed(batch.seed, "forward", batch.step, shard.index), listening:
                try:
                    return _numbers(*self._replayed(loss, samples, scale, count, shard.arrays))
                except NoVarianceError as error:
                    raise self._too_few(error, samples, batch) from None
        with random.keyed(batch.seed, "forward", batch.step, shard.index), span("forward", shard=shard.index):
            try:
                value = loss(*shard.arrays)
            except NoVarianceError as error:
                raise self._too_few(error, samples, batch) from None
        with listening, span("backward", shard=shard.index):
            found = _backward(value, samples, scale, count)
        return _numbers(*found)

    def _too_few(self, error, samples, batch):
        return ConfigurationError(
            "{error.value} in a shard with {samples.value} of a batch of {size.value}: give {fewer.value}a larger "
            "global batch, or {boundary:carry} if it is the short last batch of an epoch",
            error=error, samples=samples, size=counted(batch.size, "sample"),
            fewer="fewer shards, " if self.sync_batch_norm is None else "",
        )  # fmt: skip

    def captures(self, arrays):
        """Whether a shard of these arrays is replayed, which changes no bit.

        "auto": on the CPU, after so many shards as AFTER says, if its arrays are of one type and have at most
        MOST_ELEMENTS, and its samples times the parameters are at most MOST_WORK.
        """
        if self.capture != "auto":
            return self.capture == "on"
        self.seen += 1
        if self.seen <= AFTER or len({*map(type, arrays)}) > 1 or not hasattr(arrays[0], "shape"):
            return False
        if sum(math.prod(a.shape) for a in arrays) > MOST_ELEMENTS:
            return False
        return math.prod(self.arena.data.shape) * len(arrays[0]) <= MOST_WORK

    def leave_out_capture(self, why):
        """Replay no shard from now on, for this reason."""
        self.capture, self.capture_why = "off", why

    def _replayed(self, loss, samples, scale, count, arrays):
        """Forward and backward of a shard of so many samples, as one captured function of its arrays."""
        key = loss, samples, scale, count

        def forward_backward(*arrays):
            return _backward(loss(*arrays), samples, scale, count)

        if key not in self.captured:
            if len(self.captured) == MOST_CAPTURED:
                self.captured.clear()
                if self.capture == "auto":
                    self.leave_out_capture("shards are of too many sizes, or the loss is another function every time")
                    return forward_backward(*arrays)
            self.captured[key] = capture(forward_backward)
        try:
            return self.captured[key](*arrays)
        except CannotReplay as error:  # before it has had any effect
            if self.capture != "auto":
                todo = "give {capture:auto}, which computes as without what cannot be replayed"
                raise ConfigurationError("{error.value}: " + todo, error=error) from None
            self.leave_out_capture(str(error))
            return forward_backward(*arrays)


def _backward(value, samples, scale, count):
    """Backward from what a shard's loss has returned: `weighted`, of which the gradient is that of the sum.

    It is multiplied by `scale` and divided by `count`, or by the weight if that is None.
    """
    tensor, weight, is_mean = weighted(value, samples, count is None)
    if is_mean:
        weighed = weight if isinstance(weight, int) else cast_like(weight, unwrap(tensor))
        tensor.backward(scale if count is None else scale * weighed / count)
    elif count is None and not on_cpu(weight):  # and the tensor is a total, of shape ()
        zero = full((), 0.0, weight, "float64")
        factor = xp[type(weight)].where(weight != 0.0, (zero + scale) / weight, zero)
        tensor.backward(cast_like(factor, unwrap(tensor)))
    else:
        divisor = weight if count is None else count
        tensor.backward(full(tensor.shape, scale / divisor if divisor else 0.0, unwrap(tensor)))
    return tensor, weight, is_mean


def _numbers(tensor, weight, is_mean):
    """(mean loss, weight) as Python numbers; on a device tensors of shape (), but for a weight known here."""
    if not on_cpu(value := unwrap(tensor)):
        if is_mean:
            return value, weight
        return (astype(value, "float64").sum() / weight if not on_cpu(weight) or weight else math.nan), weight
    weight = weight if isinstance(weight, int) else float(weight)
    if is_mean:
        return tensor.item(), weight
    total = math.fsum(tensor.tolist()) if tensor.shape else tensor.item()
    return total / weight if weight else math.nan, weight
