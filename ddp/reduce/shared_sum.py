"""Sums in memory that all ranks of a host see."""

from itertools import accumulate

from allgrad.autograd.arrays import cache_blocks, to_backend_of, to_numpy


class SharedMemorySum:
    """The arrays of every rank's nodes of the tree, in memory that all ranks see.

    array       that of this rank's last node, of the form of what is to be summed; it becomes the sum
    buffers     {first shard of a node: its array}, of this rank's other nodes
    bytes_read  how many bytes of this rank's the others read or get in a sum
    """

    def __init__(self, comm, memory, nodes, like):
        self.memory, self.nodes = memory, [node for some in nodes for node in some]
        rows = [
            [*region.reshape(len(some), -1)[:, : like.nbytes].view(to_numpy(like).dtype)]
            for some, region in zip(nodes, memory.regions)
        ]
        *others, self.array = [to_backend_of(row, like) for row in rows[comm.rank]]
        self.buffers = {index << level: row for (level, index), row in zip(nodes[comm.rank], others)}
        if like.any():  # or memory that nobody has touched yet would be taken from the system
            self.array[...] = like
        start, stop = (comm.rank * len(like) // comm.size, (comm.rank + 1) * len(like) // comm.size)
        self.own = [row[start:stop] for some in rows for row in some]  # the slice of every subtree
        self.last = [count - 1 for count in accumulate(map(len, nodes))]  # which of them are the last of a rank
        elements = (len(like) - (stop - start)) * len(nodes[comm.rank]) + (stop - start) * (comm.size - 1)
        self.bytes_read = elements * like.nbytes // max(len(like), 1)

    def add_up(self, tree):
        """Finish the tree for this rank's slice of the elements, and write the sum to every rank's `array`.

        All ranks meet before and after; in between nobody else touches that slice.
        """
        self.memory.meet()
        for parts in cache_blocks(*self.own):
            tree.stack.clear()
            for (level, index), part in zip(self.nodes, parts):
                tree.push(level, index, part)
            for i in self.last[:-1]:
                parts[i][...] = parts[-1]  # where the last subtree was, all have been added up
        self.memory.meet()
