"""Sums over logical shards, in an order that does not depend on the ranks; cheaper sums; when they are exchanged."""

from allgrad.ddp.reduce.adasum import Adasum, adasum
from allgrad.ddp.reduce.buckets import BucketedExchange, cut, ThreadedExchange
from allgrad.ddp.reduce.compression import Compression, compression, sparse_sum
from allgrad.ddp.reduce.gradient_sum import gradient_sum, REDUCTIONS
from allgrad.ddp.reduce.half_precision import Wire, WIRES
from allgrad.ddp.reduce.overlap import GAIN, Overlap, POLICIES, ROUNDS
from allgrad.ddp.reduce.shard_sum import gathered, ShardSum, SHARED
from allgrad.ddp.reduce.tree import subtrees, TreeAccumulator
