"""What adds up gradients over logical shards, for each way there is to do so."""

from allgrad.ddp.reduce.adasum import Adasum
from allgrad.ddp.reduce.compression import compression
from allgrad.ddp.reduce.half_precision import wire_of
from allgrad.ddp.reduce.options import Exchange
from allgrad.ddp.reduce.shard_sum import ShardSum


class SplitSum:
    """The first `size` elements, gradients, added up in one way, and the extras behind them exactly."""

    def __init__(self, gradients, extras, size):
        self.gradients, self.extras, self.size = gradients, extras, size

    def way(self, message) -> str:
        """What the gradients go by, as of `ShardSum`."""
        return self.gradients.way(message[: self.size])

    def push(self, shard, message):
        self.gradients.push(shard, message[: self.size])
        self.extras.push(shard, message[self.size :])

    def finish(self, message):
        self.gradients.finish(message[: self.size])
        self.extras.finish(message[self.size :])


def gradient_sum(arena, comm, shards, exchange: Exchange):
    """What adds up the messages of the shards (`Arena.message`), with `push` and `finish` as in `ShardSum`."""
    if exchange.compress is not None:
        return compression(exchange.compress)(arena, comm, shards)
    size, wire = len(arena.grad), wire_of(exchange.wire)
    if exchange.reduce == "adasum":
        return SplitSum(Adasum(arena.spans.values(), comm, shards, wire), ShardSum(comm, shards), size)
    if wire is not None:
        return SplitSum(ShardSum(comm, shards, wire=wire), ShardSum(comm, shards), size)
    return ShardSum(comm, shards, exchange.reduce == "canonical")
