"""Sums over logical shards, in an order that does not depend on the ranks; cheaper sums; when they are exchanged."""

from allgrad.ddp.reduce.adasum import Adasum, adasum
from allgrad.ddp.reduce.buckets import BucketedExchange, cut, ExchangeAfterBackward, StreamedExchange, ThreadedExchange
from allgrad.ddp.reduce.compression import Compression, compression, sparse_sum
from allgrad.ddp.reduce.gradient_sum import gradient_sum
from allgrad.ddp.reduce.half_precision import Wire, wire_of, WIRES
from allgrad.ddp.reduce.options import Exchange, POLICIES, REDUCTIONS
from allgrad.ddp.reduce.overlap import bucket_size, GAIN, on_device, Overlap, ROUNDS, without_trial
from allgrad.ddp.reduce.shard_sum import gathered, SHARED_MEMORY_BYTES, ShardSum
from allgrad.ddp.reduce.tree import subtrees, TreeAccumulator
