"""Gradients sent in fewer numbers, with error feedback: what was not sent is added to the gradient of the next step.

Each logical shard keeps its own residual e. With the gradient g of a step it compresses m = g + e, sends c(m), and
keeps e = m - c(m): over any number of steps, what was sent and the residual are the sum of the gradients. Since neither
the residuals nor the order of additions knows of ranks, the result is the same bits on any number of them; the price
is memory for shards / ranks residuals a rank. Seide et al. 2014; Stich, Cordonnier and Jaggi 2018.

Parameters of two axes and more are compressed, each by itself; the others, and every one of which the compressed form
would have as many numbers as the parameter itself, are sent as they are, summed as by `ShardSum`.
"""

import math
from itertools import pairwise

import numpy as np

from allgrad.autograd.arrays import to_backend_of, to_numpy
from allgrad.autograd.random import generator
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.reduce.shard_sum import ShardSum, gathered
from allgrad.ddp.shards import shards_of_rank


class Compression:
    """Base: what is compressed and what is not, and the residuals. Works in the processor's memory.

    push(shard, message), finish(message) as in `ShardSum`, for messages laid out as `Arena.message`.
    """

    def __init__(self, arena, comm, shards, amount):
        self.arena, self.comm, self.shards, self.amount = arena, comm, shards, amount
        self.first, self.stop = shards_of_rank(comm.rank, comm.size, shards)
        self.chosen = {}  # {name: (span of the message, rows, columns)}
        for name, p in arena.parameters.items():
            if (rows := _rows(p)) and self.numbers(rows, p.size // rows) < p.size:
                self.chosen[name] = arena.spans[name], rows, p.size // rows
        bounds = [0, *(i for span, *_ in self.chosen.values() for i in (span.start, span.stop)), len(arena.message)]
        self.rest = [slice(*pair) for pair in zip(bounds[::2], bounds[1::2])]  # of the message; not compressed
        stops = np.cumsum([0, *(rows * columns for _, rows, columns in self.chosen.values())]).tolist()
        self.parts = [slice(*pair) for pair in pairwise(stops)]  # of a residual, one for each that is compressed
        self.residuals = np.zeros((self.stop - self.first, stops[-1]), to_numpy(arena.data[:0]).dtype)

    def numbers(self, rows, columns) -> float:
        """How many numbers a matrix becomes."""
        raise NotImplementedError

    def take(self, shard, message):
        """Add a shard's gradient to its residual. Returns the residual's row, and what of the message is sent whole."""
        flat, row = to_numpy(message), self.residuals[shard - self.first]
        for (span, *_), part in zip(self.chosen.values(), self.parts):
            row[part] += flat[span]
        return row, np.concatenate([flat[span] for span in self.rest])

    def give(self, result, whole, message):
        """Put the compressed sum and the sum of what was sent whole in the message."""
        flat = np.empty(len(message), result.dtype)
        for (span, *_), part in zip(self.chosen.values(), self.parts):
            flat[span] = result[part]
        start = 0
        for span in self.rest:
            flat[span] = whole[start : (start := start + span.stop - span.start)]
        message[...] = to_backend_of(flat, message)

    def matrices(self, row):
        """A residual, or anything laid out like it, as its matrices."""
        return [row[part].reshape(shape) for part, (_, *shape) in zip(self.parts, self.chosen.values())]

    def way(self, message) -> str:
        """What gradients go by, as of `ShardSum`."""
        return "messages"

    def forget_not_finite(self):
        """Begin anew what a step that is left out has made of residuals, where it is no number and would stay none."""
        np.nan_to_num(self.residuals, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    def state_dict(self):
        """The residuals of all shards, complete on rank 0. Collective."""
        rows = gathered(self.comm, self.shards, list(self.residuals))
        return {
            "residual": {
                f"{shard}/{name}": row[part]
                for shard, row in enumerate(rows)
                for name, part in zip(self.chosen, self.parts)
            }
        }

    def load_state_dict(self, state):
        for shard, row in enumerate(self.residuals, self.first):
            for name, part in zip(self.chosen, self.parts):
                row[part] = state["residual"][f"{shard}/{name}"]


class TopK(Compression):
    """The `amount` (a share, such as 0.01) of each matrix's elements that are largest in magnitude.

    Every shard's indices and values go to all ranks, which add them up in the order of the tree.
    """

    def numbers(self, rows, columns):
        return 2 * self._count(rows * columns)

    def _count(self, size):
        return math.ceil(self.amount * size)

    def __init__(self, arena, comm, shards, amount):
        super().__init__(arena, comm, shards, amount)
        count = sum(self._count(part.stop - part.start) for part in self.parts)
        self.index, self.value = np.zeros((shards, count), "i4"), np.zeros((shards, count), self.residuals.dtype)
        self.whole, self.whole_sum = np.empty(0), ShardSum(comm, shards)  # of what is not compressed

    def push(self, shard, message):
        row, self.whole = self.take(shard, message)
        at = np.concatenate([np.zeros(0, "i4"), *(part.start + self._largest(row[part]) for part in self.parts)])
        self.index[shard], self.value[shard] = at, row[at]
        row[at] = 0.0
        self.whole_sum.push(shard, self.whole)

    def _largest(self, values):
        count = self._count(len(values))
        return np.sort(np.argpartition(np.abs(values), len(values) - count)[len(values) - count :]).astype("i4")

    def finish(self, message):
        self.whole_sum.finish(self.whole)
        if self.parts and self.comm.size > 1:
            runs = [slice(*shards_of_rank(rank, self.comm.size, self.shards)) for rank in range(self.comm.size)]
            others = [rank for rank in range(self.comm.size) if rank != self.comm.rank]
            own = runs[self.comm.rank]
            self.comm.exchange(
                [(a[own].reshape(-1), rank) for rank in others for a in (self.index, self.value)],
                [(a[runs[rank]].reshape(-1), rank) for rank in others for a in (self.index, self.value)],
            )
        result = np.zeros(self.residuals.shape[1], self.residuals.dtype)
        at, values = sparse_sum(self.index, self.value)
        result[at] = values
        self.give(result, self.whole, message)


def sparse_sum(index, value):
    """(indices, sums) of sparse leaves, (V, k) each, in the order of the canonical tree; a missing element is zero."""
    order = np.argsort(index.reshape(-1), kind="stable")
    at, sums = index.reshape(-1)[order], value.reshape(-1)[order]
    node = np.repeat(np.arange(len(index)), index.shape[1])[order]
    for _ in range((len(index) - 1).bit_length()):
        node = node >> 1
        second = np.flatnonzero((at[1:] == at[:-1]) & (node[1:] == node[:-1])) + 1  # of two siblings
        sums[second - 1] += sums[second]
        at, node, sums = (np.delete(a, second) for a in (at, node, sums))
    return at, sums


class PowerSGD(Compression):
    """Two factors of rank `amount` for the sum of each matrix: one step of subspace iteration, warm from the last.

    With the basis Q and each shard's matrix M: P = orthonormalised sum of M Q; Q = sum of M^T P; the sum of all M is
    taken for P Q^T, and a shard keeps M - P (M^T P)^T. Vogels, Karimireddy and Jaggi 2019, algorithms 1 and 2.
    """

    def numbers(self, rows, columns):
        return min(self.amount, rows, columns) * (rows + columns)

    def __init__(self, arena, comm, shards, amount):
        super().__init__(arena, comm, shards, amount)
        self.left_sum, self.right_sum = ShardSum(comm, shards), ShardSum(comm, shards)  # of P and Q
        self.start = [
            generator("powersgd", name)
            .standard_normal((columns, min(amount, rows, columns)))
            .astype(self.residuals.dtype)
            for name, (_, rows, columns) in self.chosen.items()
        ]
        self.bases, self.whole = self.start, np.empty(0)

    def push(self, shard, message):
        row, whole = self.take(shard, message)
        self.whole = _flat([*(m @ q for m, q in zip(self.matrices(row), self.bases)), whole])
        self.left_sum.push(shard, self.whole)

    def finish(self, message):
        self.left_sum.finish(self.whole)
        shapes = [(rows, basis.shape[1]) for (_, rows, _), basis in zip(self.chosen.values(), self.bases)]
        *found, rest = _cut(self.whole, shapes)
        lefts = [np.linalg.qr(p)[0] for p in found]
        summed = np.zeros(0, self.residuals.dtype)
        for shard, row in enumerate(self.residuals, self.first):
            rights = [m.T @ p for m, p in zip(self.matrices(row), lefts)]
            for m, p, q in zip(self.matrices(row), lefts, rights):
                m -= p @ q.T
            summed = _flat([row[:0], *rights])
            self.right_sum.push(shard, summed)
        self.right_sum.finish(summed)
        *rights, _ = _cut(summed, [basis.shape for basis in self.bases])
        self.bases = [_unit(q, start) for q, start in zip(rights, self.start)]
        self.give(_flat([summed[:0], *(p @ q.T for p, q in zip(lefts, rights))]), rest, message)

    def state_dict(self):
        return {**super().state_dict(), "basis": dict(zip(self.chosen, self.bases))}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.bases = [state["basis"][name] for name in self.chosen]


def _rows(parameter):
    """The rows of a parameter as a matrix in the order of its memory, its first axis along one side; 0 for a vector."""
    data = parameter.master
    if data.ndim < 2 or not parameter.size:
        return 0
    strides = data.strides if isinstance(data, np.ndarray) else data.stride()
    order = sorted(range(data.ndim), key=lambda axis: -strides[axis])
    return parameter.size // data.shape[0] if order[-1] == 0 else data.shape[order[0]]


def _unit(basis, start):
    """The basis with columns of length 1; those of length 0, which would find nothing any more, as at the start."""
    lengths = np.linalg.norm(basis, axis=0)
    return np.where(lengths > 0.0, basis / np.where(lengths > 0.0, lengths, 1.0), start).astype(basis.dtype)


def _flat(arrays):
    return np.concatenate([a.reshape(-1) for a in arrays])


def _cut(flat, shapes):
    """The front of a flat array as arrays of these shapes, and what is left of it."""
    stops = np.cumsum([0, *map(math.prod, shapes)])
    return [*(flat[i:j].reshape(shape) for i, j, shape in zip(stops, stops[1:], shapes)), flat[stops[-1] :]]


def compression(text):
    """f(arena, comm, shards) for "topk:SHARE" or "powersgd:RANK"; ConfigurationError for anything else."""
    kind, _, amount = text.partition(":")
    try:
        if kind == "topk" and 0.0 < float(amount) <= 1.0:
            return lambda arena, comm, shards: TopK(arena, comm, shards, float(amount))
        if kind == "powersgd" and int(amount) >= 1:
            return lambda arena, comm, shards: PowerSGD(arena, comm, shards, int(amount))
    except ValueError:
        pass
    raise ConfigurationError(
        "{compress} is not topk:SHARE, with a share of the elements in (0, 1], or powersgd:RANK, with a rank of at "
        "least 1", compress=text,
    )  # fmt: skip
