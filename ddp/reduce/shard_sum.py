"""Sums over logical shards, in one fixed order whoever computes them.

A global batch is cut into V logical shards, whose arrays are added up in the order of a binary tree: see `reduce.tree`.
A rank has consecutive shards, and adds them up to the largest nodes of the tree that are its own. Then each rank
finishes the tree for a slice of the elements, and the slices are gathered: by messages, by collectives of the library
(`reduce.collective_sum`), or on one host in memory that all ranks see. Every element is added in the order of the tree,
so slices and buckets cannot change it.
"""

from typing import Any

import numpy as np

from allgrad.autograd.arrays import ALIGNMENT_BYTES, full, on_cpu, to_numpy
from allgrad.ddp.comm import Communicator, share
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.reduce.collective_sum import CollectiveSum
from allgrad.ddp.reduce.half_precision import Wire
from allgrad.ddp.reduce.shared_sum import SharedMemorySum
from allgrad.ddp.reduce.tree import TreeAccumulator, subtrees
from allgrad.ddp.shards import shards_of_rank

ALL_REDUCE_BYTES = 1 << 22  # of an array, up to which MPI's all-reduce of two ranks beats their exchanging halves
SHARED_MEMORY_BYTES = 1 << 13  # of an array, from which on shared memory beats MPI's all-reduce of two ranks


class ShardSum:
    """The sum of one array per logical shard, over all shards of all ranks.

        shard_sum.push(shard, array)      for each of this rank's shards, in order
        shard_sum.finish(array)           the last array pushed now holds the sum, on every rank

    canonical: add in the order of the tree. Otherwise the ranks' parts are added by the library's all-reduce, which
    is the fast path to compare with, and whose bits depend on the number of ranks.
    wire: None, or a `Wire`: every shard's array is rounded to it, and so is every sum in the tree. Ranks then send two
    bytes an element and lose nothing by it: the sum remains a function of the arrays, not of the ranks.
    """

    elementwise = True  # whether a node of the tree can be formed for a slice of the elements by itself

    def __init__(self, comm: Communicator, shards: int, canonical=True, wire: Wire | None = None):
        if not 1 <= comm.size <= shards:
            raise ConfigurationError(
                f"{counted(comm.size, 'rank')} cannot share {counted(shards, 'logical shard')}: "
                f"start at most {counted(shards, 'rank')}, or give {{shards}} or more", shards=comm.size,
            )  # fmt: skip
        self.comm, self.shards, self.canonical, self.wire = comm, shards, canonical, wire
        self.first, self.stop = shards_of_rank(comm.rank, comm.size, shards)
        self.nodes = [subtrees(*shards_of_rank(rank, comm.size, shards), shards) for rank in range(comm.size)]
        self.siblings = self._has_siblings()
        self.description = f" over {shards} shards, {'canonical' if canonical else 'native'}"
        self.shared_sum: SharedMemorySum | None = None
        self.collective_sum: CollectiveSum | None = None
        self._free: list = []
        self._scratch: Any = np.empty(0)
        self._accumulator = TreeAccumulator(shards, self._free.append, self._add)

    def buffer_for(self, shard, like):
        """An array, alike in form, to write this shard's values to, which spares `push` a copy; None if it makes none.

        `push` copies what it cannot add to a left sibling at once, but for this rank's last shard.
        """
        first_of_pair = shard % 2 == 0 or shard == self.first  # its left sibling, if any, is another rank's
        if not first_of_pair or shard == self.stop - 1:
            return None
        shared = None if self.shared_sum is None else self.shared_sum.buffers.get(shard)
        return shared if shared is not None and _alike(shared, like) else self._free_buffer(like)

    def push(self, shard, array, in_buffer=False):
        """Add a shard's array. It is changed; unless it is this rank's last, the caller may then overwrite it.

        in_buffer: it comes from `buffer_for`, and is the caller's no more.
        """
        if shard == self.first:
            self._accumulator.stack.clear()
        if self.wire is not None:
            self.wire.round(array)
        if not in_buffer and (buffer := self.buffer_for(shard, array)) is not None:
            buffer[...] = array
            array = buffer
        self._accumulator.push(0, shard, array, borrowed=shard < self.stop - 1)

    def _free_buffer(self, like):
        """An array of the form of this one: released by the accumulator, or new."""
        while self._free:
            buffer = self._free.pop()
            if _alike(buffer, like):
                return buffer
        return full(like.shape, 0, like)

    def finish(self, array):
        """Exchange with the other ranks. `array`, pushed last, becomes the sum over all shards."""
        if self.comm.size > 1:
            self.comm.compare("a sum", array, self.description)
        if (shared := self.shared_sum) is not None and array is shared.array:
            self._accumulator.stack.clear()
            self.comm.bytes_sent += shared.bytes_read
            return self.comm.shared_memory_step("a sum", array, lambda: shared.add_up(TreeAccumulator(self.shards)))
        if self.by_collectives(array):
            return self._add_up(array)
        for sends, receives in self.steps(array):
            self.comm.exchange(sends, receives)

    def by_collectives(self, array):
        """Whether `finish` adds up such an array by all-to-all and all-gather. Two siblings have an all-reduce."""
        return (
            self.canonical and self.elementwise and self.comm.size > 1 and len(array) > 0
            and self.comm.uses_collectives(array)
            and not (self.siblings and self.comm.size == 2 and self.wire is None)
        )  # fmt: skip

    def _collectives(self) -> CollectiveSum:
        if self.collective_sum is None:
            self.collective_sum = CollectiveSum(self.comm, self.shards, self.nodes, self.wire)
        return self.collective_sum

    def way(self, array, few=False) -> str:
        """What sums of this array over several ranks go by, in words; few as in `steps`."""
        if self.shared_sum is not None and array is self.shared_sum.array:
            return "shared memory"
        if not few and self.by_collectives(array):
            return self._collectives().description
        two = self.siblings and self.comm.size == 2 and self.elementwise and self.wire is None and not few
        return "all-reduce" if not self.canonical or two else "messages"

    def _add_up(self, array):
        """`finish` by collectives."""
        parts = [part for _, _, part in self._accumulator.stack]
        self._collectives().add_up(parts, array)
        self._free.extend(parts[:-1])
        self._accumulator.stack.clear()

    def share(self, array):
        """The array, to be summed step after step, where that is fastest, with the same bits; or itself. Collective.

        Where all ranks see the memory, no messages are needed; where collectives add up, no copies.
        """
        if self.by_collectives(array):
            return self._collectives().place(array)
        if not on_cpu(array) or to_numpy(array[:0]).itemsize != array.itemsize:  # NumPy has no bfloat16
            return array
        all_reduce = self.comm.size == 2 and self.comm.backend == "mpi" and array.nbytes < SHARED_MEMORY_BYTES
        if self.canonical and self.wire is None and not all_reduce:
            stride = -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            memory = share(self.comm, [stride * len(nodes) for nodes in self.nodes])
            if memory is not None:
                self.shared_sum = SharedMemorySum(self.comm, memory, self.nodes, array)
                return self.shared_sum.array
        return array

    def steps(self, array, few=False):
        """The exchanges that `finish` makes, one after the other, as the arguments of `Communicator.exchange`.

        Each has to be over before the next is asked for. few: as few of them as possible, for a caller that looks
        after them now and then only. It changes no bits.
        """
        parts = [part for _, _, part in self._accumulator.stack]
        if self.comm.size > 1 and len(array):
            yield from self._across_ranks(parts, array, few)
        shared = () if self.shared_sum is None else self.shared_sum.buffers.values()
        self._free.extend(part for part in parts[:-1] if all(part is not buffer for buffer in shared))
        self._accumulator.stack.clear()

    def _add(self, array, left):
        """array = left + array: what a node of the tree is of its children."""
        array += left
        if self.wire is not None:
            self.wire.round(array)

    def _across_ranks(self, parts, array, few):
        """The steps that make of this rank's parts, of which `array` is the last, the sum of those of all ranks."""
        if not self.canonical:
            for part in parts[-2::-1]:
                array += part
            self.comm.all_reduce(array)
            return ()
        if self.siblings and self.comm.size == 2:
            if few or self.wire is not None:
                return self._swap(array)
            if array.nbytes <= ALL_REDUCE_BYTES or self.comm.backend != "mpi":
                self.comm.all_reduce(array)  # two numbers have one sum, whoever adds them
                return ()
        if self.siblings and not few and len(array) >= self.comm.size:
            return self._halving_doubling(array)
        return self._all_to_all(parts, array)

    def _has_siblings(self):
        """Whether each of 2^q ranks has one node, all of one level: then pairs of ranks are siblings in the tree."""
        size = self.comm.size
        return size & (size - 1) == 0 and all(
            len(nodes) == 1 and nodes[0] == (self.nodes[0][0][0], rank) for rank, nodes in enumerate(self.nodes)
        )

    def _swap(self, array):
        """Two ranks send each other all they have: one message each instead of two of half the length."""
        received, partner = self._space(len(array), array), 1 - self.comm.rank
        yield from self._exchange([(array, partner)], [(received, partner)])
        self._add(array, received)

    def _halving_doubling(self, array):
        """Recursive halving with distance doubling, then the mirrored gathering (Rabenseifner 2004).

        At distance d partners hold sibling subtrees: each keeps half of the elements, and adds the partner's to its
        own. Addition commutes, so it does not matter which of the two is the left child.
        """
        rank, spans = self.comm.rank, [(0, len(array))]  # of elements that this rank adds up: ever smaller
        scratch = self._space((len(array) + 1) // 2, array)
        distance = 1
        while distance < self.comm.size:
            low, high = spans[-1]
            middle = (low + high) // 2
            mine, theirs = ((low, middle), (middle, high))[:: -1 if rank & distance else 1]
            received = scratch[: mine[1] - mine[0]]
            partner = rank ^ distance
            yield from self._exchange([(array[slice(*theirs)], partner)], [(received, partner)])
            self._add(array[slice(*mine)], received)
            spans.append(mine)
            distance *= 2
        while distance > 1:
            distance //= 2
            low, high = spans.pop()
            start, stop = spans[-1]
            theirs = slice(high, stop) if low == start else slice(start, low)
            partner = rank ^ distance
            yield from self._exchange([(array[low:high], partner)], [(array[theirs], partner)])

    def _all_to_all(self, parts, array):
        """Each rank receives every subtree's slice of some elements, finishes the tree there, and hands them out."""
        rank, size = self.comm.rank, self.comm.size
        slices = [slice(r * len(array) // size, (r + 1) * len(array) // size) for r in range(size)]
        own = slices[rank]
        length = own.stop - own.start
        others = [r for r in range(size) if r != rank]
        count = sum(map(len, self.nodes))
        space = self._space(length * count, array)
        rows = iter([space[i * length : (i + 1) * length] for i in range(count)])
        pieces = [
            [part[own] for part in parts] if r == rank else [next(rows) for _ in self.nodes[r]] for r in range(size)
        ]
        yield from self._exchange(
            _filled((part[slices[r]], r) for r in others for part in parts),
            _filled((piece, r) for r in others for piece in pieces[r]),
        )
        tree = TreeAccumulator(self.shards, add=self._add)
        for nodes, arrays in zip(self.nodes, pieces):
            for (level, index), piece in zip(nodes, arrays):
                tree.push(level, index, piece)
        array[own] = tree.stack[0][2]
        yield from self._exchange(
            _filled((array[own], r) for r in others), _filled((array[slices[r]], r) for r in others)
        )

    def _exchange(self, sends, receives):
        """Exchange in the wire's format."""
        if self.wire is None:
            yield sends, receives
            return
        packed = [(self.wire.empty(array), rank) for array, rank in receives]
        yield [(self.wire.pack(array), rank) for array, rank in sends], packed
        for (array, _), (message, _) in zip(receives, packed):
            self.wire.unpack(message, array)

    def _space(self, length, like):
        if len(self._scratch) < length or (type(self._scratch), self._scratch.dtype) != (type(like), like.dtype):
            self._scratch = full((length,), 0, like)
        return self._scratch[:length]


def _alike(a, b):
    return (type(a), a.shape, a.dtype) == (type(b), b.shape, b.dtype)


def _filled(messages):
    """Those that are not empty: fewer elements than ranks leave some no slice."""
    return [message for message in messages if len(message[0])]


def gathered(comm, shards, arrays):
    """The arrays of all logical shards, alike in form, on rank 0; on any other rank its own, which `arrays` lists."""
    if comm.rank:
        if len(arrays[0]):
            comm.exchange([(array, 0) for array in arrays], [])
        return arrays
    runs = [range(*shards_of_rank(rank, comm.size, shards)) for rank in range(comm.size)]
    received = [(full(arrays[0].shape, 0, arrays[0]), rank) for rank in range(1, comm.size) for _ in runs[rank]]
    if received and len(arrays[0]):
        comm.exchange([], received)
    return [*arrays, *(array for array, _ in received)]
