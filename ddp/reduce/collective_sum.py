"""The sum in the order of the tree by two collectives, for ranks that talk from device to device.

Every rank gets the same slice of all ranks' subtrees (all-to-all), finishes the tree there, and hands the slice to all
others (all-gather). Each gives 2 (W - 1) / W times the bytes of the array to W - 1 others, as a ring all-reduce does.

Where hosts have L ranks each, this happens twice: the ranks of a host add up their subtrees, each for one slice; then
ranks with the same local number on all M hosts do so for their slice, each for a part of it; and both gather. Between
hosts a rank then sends 2 (M - 1) / M of an L-th of the array, if the shards of a host are one subtree. In place of one
sum each host may have several, which are not siblings: they travel together, and the order stays that of the tree.
"""

from typing import Any

from allgrad.autograd.arrays import full

ALIGNMENT_ELEMENTS = 32  # of slices: 128 bytes of float32, the widest loads of a GPU


class CollectiveSum:
    """Adds up the subtrees of all ranks.

    nodes  of each rank: the subtrees, as (level, index), of which it has the sums
    wire   None, or the `Wire` in which sums travel, and to which they are rounded

    levels  one, or two where ranks are spread evenly over hosts
    unit    of elements: slices of arrays whose length is a multiple of it need no padding
    array   None, or an array made by `place`, which needs none either
    """

    def __init__(self, comm, shards, nodes, wire=None):
        self.comm, self.unit, pair = comm, ALIGNMENT_ELEMENTS * comm.size, comm.by_host()
        if pair is None:
            self.levels = [_Level(comm, nodes, shards, wire)]
        else:
            host, rail = pair
            hosts = [nodes[i : i + host.size] for i in range(0, comm.size, host.size)]
            inside = [_Level(host, some, shards, wire) for some in hosts]
            self.levels = [inside[rail.rank], _Level(rail, [level.sums for level in inside], shards, wire)]
        self.array: Any = None
        self._padded: Any = None
        self._scratch: Any = None

    @property
    def description(self):
        return "all-to-all and all-gather" + (", in hosts and between them" if len(self.levels) > 1 else "")

    def padded(self, length):
        """The least multiple of `unit` that is no less."""
        return -(-length // self.unit) * self.unit

    def place(self, like):
        """A copy of a flat array, to be summed step after step, with zeros behind it that spare copies."""
        self._padded = full((self.padded(len(like)),), 0, like)
        self.array = self._padded[: len(like)]
        self.array[...] = like
        return self.array

    def add_up(self, parts, array):
        """`array`, the last of this rank's parts, becomes the sum of all ranks' parts."""
        whole = self._whole(array)
        if len(parts) == 1 and whole is not self._scratch:
            parts = [whole]
        targets, length = [], len(whole)
        before = sum(level.comm.bytes_sent for level in self.levels)
        for level in self.levels:
            targets.append(whole if level is self.levels[0] else parts[0])
            parts = level.scatter(parts, length, array)
            length //= level.comm.size
        (part,) = parts
        for level, target in zip(reversed(self.levels), reversed(targets)):
            level.gather(part, target)
            part = target
        if len(self.levels) > 1:  # of which each counts its own
            self.comm.bytes_sent += sum(level.comm.bytes_sent for level in self.levels) - before
        if whole is self._scratch:
            array[...] = whole[: len(array)]

    def _whole(self, array):
        """The array with what has to be behind it: itself, or room for a copy."""
        if array is self.array:
            return self._padded
        if len(array) % self.unit == 0:
            return array
        self._scratch = _room(self._scratch, self.padded(len(array)), array)
        return self._scratch


class _Level:
    """The ranks of `comm`, of each of which `nodes` tells the subtrees, and their slices.

    sums  the subtrees that they have together, after adding
    """

    def __init__(self, comm, nodes, shards, wire):
        self.comm, self.wire = comm, wire
        self.counts = [len(some) for some in nodes]
        self.additions, left = additions([node for some in nodes for node in some], shards)
        self.sums, self.rows = [*left], [*left.values()]
        self._given: Any = None
        self._received: Any = None

    def scatter(self, parts, length, like):
        """Parts, flat and `length` long or, with zeros left out, shorter: this rank's slice of each of the sums."""
        size = length // self.comm.size
        given = parts[0]
        if len(parts) > 1 or len(given) < length:
            given = self._given = _room(self._given, length * len(parts), like)
            _pack(parts, given.reshape(self.comm.size, len(parts), size))
        received = self._received = _room(self._received, size * sum(self.counts), like)
        self._all_to_all(given, received, [count * size for count in self.counts])
        rows: Any = received.reshape(-1, size)
        for into, added in self.additions:
            total = rows[into]
            total += rows[added]
            if self.wire is not None:
                self.wire.round(total)
        return [rows[row] for row in self.rows]

    def _all_to_all(self, given, received, counts):
        if self.wire is None:
            return self.comm.all_to_all(given, received, counts)
        packed = self.wire.empty(received)
        self.comm.all_to_all(self.wire.pack(given), packed, [2 * count for count in counts])
        self.wire.unpack(packed, received)

    def gather(self, part, whole):
        """The slices of all ranks, one after the other."""
        if self.wire is None:
            return self.comm.all_gather(part, whole)
        packed = self.wire.empty(whole)
        self.comm.all_gather(self.wire.pack(part), packed)
        self.wire.unpack(packed, whole)


def additions(nodes, shards):
    """How rows with these nodes of the tree, from left to right, are added up as far as it goes, many pairs at once.

    Returns [(rows, the rows to be added to them), ...], slices both, and {(level, index): its row} of what is left.
    """
    row_of, found = {node: row for row, node in enumerate(nodes)}, []
    for level in range((shards - 1).bit_length()):
        pairs: list = []
        for _, index in sorted(node for node in row_of if node[0] == level and node[1] % 2 == 0):
            right = row_of.pop((level, index + 1), None)
            if right is None and (index + 1) << level < shards:
                continue  # the right sibling is not here
            left = row_of[level + 1, index // 2] = row_of.pop((level, index))
            if right is not None:
                pairs.append((left, right))
        while pairs:
            count = _evenly_spaced(pairs)
            found.append(tuple(_rows(run) for run in zip(*pairs[:count])))
            del pairs[:count]
    return found, dict(sorted(row_of.items(), key=lambda item: item[1]))


def _evenly_spaced(pairs):
    """How many pairs of numbers at the front are evenly spaced, the first of each and the second."""
    count = min(len(pairs), 2)
    while count < len(pairs) and all(c - b == b - a for a, b, c in zip(*pairs[count - 2 : count + 1])):
        count += 1
    return count


def _rows(run):
    """Ascending numbers, evenly spaced, as a slice."""
    return slice(run[0], run[-1] + 1, run[1] - run[0] if len(run) > 1 else 1)


def _pack(parts, given):
    """given[r, k] = the slice for rank r of the k-th part; what a part lacks at its end is of no meaning."""
    size = given.shape[2]
    for k, part in enumerate(parts):
        whole = len(part) // size
        given[:whole, k] = part[: whole * size].reshape(whole, size)
        if len(part) > whole * size:
            given[whole, k, : len(part) - whole * size] = part[whole * size :]


def _room(array, length, like):
    """The array if it has this length and the form of `like`, or a new one of zeros."""
    if array is not None and (type(array), array.dtype, len(array)) == (type(like), like.dtype, length):
        return array
    return full((length,), 0, like)
