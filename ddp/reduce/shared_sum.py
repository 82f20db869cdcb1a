"""Sums in memory that all ranks of a host see."""

from itertools import accumulate

from allgrad.autograd.arrays import cache_blocks, to_backend_of, to_numpy


class SharedMemorySum:
    """Where each rank has the sums of its subtrees, in memory that all ranks see.

    array   this rank's last one, of the form of what is to be summed
    kept    {first shard of a subtree: where it is added up} of its others
    given   bytes of its own that the others read or get in a sum
    """

    def __init__(self, comm, memory, nodes, like):
        self.memory, self.nodes = memory, [node for some in nodes for node in some]
        rows = [
            [*region.reshape(len(some), -1)[:, : like.nbytes].view(to_numpy(like).dtype)]
            for some, region in zip(nodes, memory.regions)
        ]
        *kept, self.array = [to_backend_of(row, like) for row in rows[comm.rank]]
        self.kept = {index << level: row for (level, index), row in zip(nodes[comm.rank], kept)}
        self.array[...] = like
        start, stop = (comm.rank * len(like) // comm.size, (comm.rank + 1) * len(like) // comm.size)
        self.own = [row[start:stop] for some in rows for row in some]  # the slice of every subtree
        self.sums = [last - 1 for last in accumulate(map(len, nodes))]  # which of them are the last of a rank
        others = (len(like) - (stop - start)) * len(nodes[comm.rank]) + (stop - start) * (comm.size - 1)
        self.given = others * like.nbytes // max(len(like), 1)

    def add_up(self, counter):
        """Finish the tree for this rank's slice of the elements, and write the sum to every rank's `array`.

        Between the two meetings nobody else touches that slice.
        """
        self.memory.meet()
        for parts in cache_blocks(*self.own):
            counter.stack.clear()
            for (level, index), part in zip(self.nodes, parts):
                counter.push(level, index, part)
            for i in self.sums[:-1]:
                parts[i][...] = parts[-1]  # where the last subtree was, all have been added up
        self.memory.meet()
