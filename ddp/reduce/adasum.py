"""Adasum: gradients that agree are averaged, gradients that do not are added.

Maleki et al. 2021, "Scaling Distributed Training with Adaptive Summation".
"""

from allgrad.autograd.arrays import astype
from allgrad.ddp.reduce.shard_sum import ShardSum
from allgrad.ddp.reduce.tree import TreeAccumulator


def adasum(a, b):
    """(1 - a.b / 2|a|^2) a + (1 - a.b / 2|b|^2) b of two flat arrays: a + b if they are orthogonal, a if a = b."""
    along, aa, bb = _dot(a, b), _dot(a, a), _dot(b, b)
    return _factor(along, aa) * a + _factor(along, bb) * b


def _dot(a, b):
    return float(astype(a, "float64") @ astype(b, "float64"))


def _factor(along, squared):
    return 1.0 - along / (2.0 * squared) if squared else 1.0


class Adasum(ShardSum):
    """One array per logical shard, combined by Adasum in the tree of `ShardSum`, each of the spans by itself.

    Its inner products need whole arrays: every rank sends the arrays of its subtrees to all others, and each finishes
    the tree, which comes to size - 1 times the bytes of the array or more. What is outside of the spans is added.
    """

    elementwise = False

    def __init__(self, spans, comm, shards, wire=None):
        super().__init__(comm, shards, wire=wire)
        self.spans = list(spans)

    def _add(self, array, left):
        combined = [adasum(left[span], array[span]) for span in self.spans]
        array += left
        for span, values in zip(self.spans, combined):
            array[span] = values
        if self.wire is not None:
            self.wire.round(array)

    def _across_ranks(self, parts, array, few):
        rank, size = self.comm.rank, self.comm.size
        others = [r for r in range(size) if r != rank]
        count = sum(len(nodes) for r, nodes in enumerate(self.nodes) if r != rank)
        space = self._space(count * len(array), array)
        rows = iter([space[i * len(array) : (i + 1) * len(array)] for i in range(count)])
        pieces = [parts if r == rank else [next(rows) for _ in self.nodes[r]] for r in range(size)]
        yield from self._exchange(
            [(part, r) for r in others for part in parts], [(p, r) for r in others for p in pieces[r]]
        )
        tree = TreeAccumulator(self.shards, add=self._add)
        for nodes, arrays in zip(self.nodes, pieces):
            for (level, index), piece in zip(nodes, arrays):
                tree.push(level, index, piece)
        if tree.stack[0][2] is not array:
            array[...] = tree.stack[0][2]
