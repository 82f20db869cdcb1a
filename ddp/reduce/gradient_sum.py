"""The ways to add up gradients over logical shards: which there are, and what each refuses."""

from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.reduce.adasum import Adasum
from allgrad.ddp.reduce.compression import compression
from allgrad.ddp.reduce.half_precision import WIRES, Wire
from allgrad.ddp.reduce.shard_sum import ShardSum

REDUCTIONS = ("canonical", "native", "adasum")


class SplitSum:
    """The first `size` elements, gradients, added up in one way, and what rides behind them exactly."""

    def __init__(self, gradients, extras, size):
        self.gradients, self.extras, self.size = gradients, extras, size

    def push(self, shard, message):
        self.gradients.push(shard, message[: self.size])
        self.extras.push(shard, message[self.size :])

    def finish(self, message):
        self.gradients.finish(message[: self.size])
        self.extras.finish(message[self.size :])


def gradient_sum(arena, comm, shards, reduce="canonical", wire="float32", compress=None):
    """What adds up the messages of the shards, with `push` and `finish` as in `ShardSum`.

    reduce    "canonical" (exact), "native" (the library's all-reduce, in its own order) or "adasum"
    wire      "float32" (as computed), or the half precision to which gradients and their sums are rounded
    compress  None, "topk:SHARE" or "powersgd:RANK"
    """
    if reduce not in REDUCTIONS:
        raise ConfigurationError(f"reduce is {', '.join(REDUCTIONS[:-1])} or {REDUCTIONS[-1]}, got {reduce!r}")
    if wire not in WIRES:
        raise ConfigurationError(f"wire is one of {', '.join(WIRES)}, got {wire!r}")
    if compress is not None:
        make = compression(compress)
        if reduce != "canonical" or wire != WIRES[0]:
            what = f"--reduce {reduce}" if reduce != "canonical" else f"--wire {wire}"
            raise ConfigurationError(f"--compress {compress} sends what {what} cannot take: leave out one of them")
        return make(arena, comm, shards)
    size = len(arena.grad)
    form = None if wire == WIRES[0] else Wire(wire)
    if reduce == "native" and form:
        raise ConfigurationError(
            f"--wire {wire} rounds at each node of the canonical tree, and --reduce native has none: leave one out"
        )
    if reduce == "adasum":
        return SplitSum(Adasum(arena.spans.values(), comm, shards, form), ShardSum(comm, shards), size)
    if form:
        return SplitSum(ShardSum(comm, shards, wire=form), ShardSum(comm, shards), size)
    return ShardSum(comm, shards, reduce == "canonical")
