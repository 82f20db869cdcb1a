"""Tables of vectors that integers look up."""

from typing import Any

import numpy as np

from allgrad.autograd.arrays import cast_like, integers, to_numpy, xp
from allgrad.autograd.engine import Tensor, unwrap
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import amax, embedding, norm, stack
from allgrad.autograd.random import draw


class _Table(Module):
    """Rows of a weight; what `Embedding` and `EmbeddingBag` share."""

    def _make(self, rows, columns, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, weight, rng):
        if rows < 1 or columns < 1 or (padding_idx or 0) not in range(-rows, rows):
            got = f"{rows}, {columns} and {padding_idx}"
            wanted = "needs at least 1 row and column, and padding_idx among the rows"
            raise ValueError(f"{type(self).__name__}: {wanted}, got {got}")
        if sparse:
            raise ValueError(f"{type(self).__name__}: gradients are dense here: leave sparse=True out")
        if weight is None:
            weight = (rng or np.random.Generator(draw())).standard_normal((rows, columns))
            if padding_idx is not None:
                weight[padding_idx] = 0.0
        if tuple(weight.shape) != (rows, columns):
            raise ValueError(f"{type(self).__name__}: the weight is ({rows}, {columns}), got {tuple(weight.shape)}")
        self.weight, self.num_embeddings, self.embedding_dim = Parameter(weight, name="weight"), rows, columns
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, max_norm, norm_type
        self.scale_grad_by_freq = scale_grad_by_freq

    def _rows(self, indices):
        """The rows at these indices, after `max_norm`, with gradients as `scale_grad_by_freq` asks."""
        if self.max_norm is not None:
            self._shorten(indices)
        y = embedding(indices, self.weight, self.padding_idx)
        if not self.scale_grad_by_freq:
            return y
        _, place, count = np.unique(to_numpy(unwrap(indices)), return_inverse=True, return_counts=True)
        share = (1.0 / count[place]).reshape(*unwrap(indices).shape, 1)
        share = cast_like(share, unwrap(y))
        return y.detach() + (y - y.detach()) * share  # the value of y, and a share of its gradient

    def _shorten(self, indices):
        """Scale the rows that are looked up and are longer than max_norm down to it, in place, as torch does."""
        for weight in {id(w): unwrap(w) for w in (self.weight.data, self.weight.master)}.values():
            at = integers(np.unique(to_numpy(unwrap(indices))), weight)
            rows: Any = weight[at]
            lengths = unwrap(norm(Tensor(rows), self.norm_type, 1, True))
            limit = self.max_norm / (lengths + 1e-7)
            weight[at] = rows * xp[type(rows)].where(lengths > self.max_norm, limit, 1.0)

    @classmethod
    def from_pretrained(cls, embeddings, freeze=True, **options):
        """A table with these rows (num_embeddings, embedding_dim); with freeze a constant, which is not trained."""
        make: Any = cls
        made = make(*unwrap(embeddings).shape, _weight=unwrap(embeddings), **options)
        if freeze:
            made.weight = made.weight.detach()
        return made


class Embedding(_Table):
    """Rows of weight (num_embeddings, embedding_dim) for integers of any shape; standard normal at first, as in torch.

    Row padding_idx starts at zero and gets no gradient. max_norm: a call first scales the rows that it looks up, and
    that are longer in the norm_type-norm, down to this length: it changes the weight, so ranks of data-parallel
    training, which look up different rows, would drift apart. scale_grad_by_freq divides the gradient of a row by how
    often the call looks it up.
    """

    @placed
    def __init__(
        self, num_embeddings, embedding_dim, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False,
        sparse=False, _weight=None, rng=None,
    ):  # fmt: skip
        options = padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight, rng
        self._make(num_embeddings, embedding_dim, *options)

    def __call__(self, indices):
        if self.max_norm is None and not self.scale_grad_by_freq:
            return embedding(indices, self.weight, self.padding_idx)
        return self._rows(indices)


class EmbeddingBag(_Table):
    """Sums, means or largest values, by `mode`, of the rows of bags of integers.

    indices (B, N) are B bags of N; a vector with `offsets` (B,) has bag i from offsets[i] on, until the next begins, or
    with include_last_offset until offsets[i + 1]. Without elements a bag is 0. Row padding_idx counts for nothing.
    per_sample_weights, of the shape of the indices, multiply the rows of a sum. For the other options see `Embedding`.
    """

    @placed
    def __init__(
        self, num_embeddings, embedding_dim, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode="mean",
        sparse=False, _weight=None, include_last_offset=False, padding_idx=None, rng=None,
    ):  # fmt: skip
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f'EmbeddingBag: mode is "sum", "mean" or "max", got {mode!r}')
        options = padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight, rng
        self._make(num_embeddings, embedding_dim, *options)
        self.mode, self.include_last_offset = mode, include_last_offset

    def __call__(self, indices, offsets=None, per_sample_weights=None):
        numbers = to_numpy(unwrap(indices))
        if numbers.ndim not in (1, 2) or (numbers.ndim == 1) == (offsets is None):
            raise ValueError(f"EmbeddingBag: indices are (B, N), or a vector with offsets, got {numbers.shape}")
        if per_sample_weights is not None and self.mode != "sum":
            raise ValueError(f'EmbeddingBag: per_sample_weights are for mode "sum", not {self.mode!r}')
        starts: Any
        if numbers.ndim == 2:
            starts, last = np.arange(len(numbers)) * numbers.shape[1], numbers.size
        else:
            starts, last = to_numpy(unwrap(offsets)), numbers.size
            if self.include_last_offset:
                starts, last = starts[:-1], starts[-1]
        counted = np.ones(numbers.size, bool)
        if self.padding_idx is not None:
            counted = numbers.reshape(-1) != self.padding_idx % self.num_embeddings
        rows = self._rows(unwrap(indices).reshape(-1))  # (B N, D)
        ends = np.append(starts[1:], last)
        at = np.arange(numbers.size)
        member = (at >= starts[:, None]) & (at < ends[:, None]) & counted  # (B, B N)
        if self.mode == "max":
            zero = rows[:0].sum(0)
            return stack([amax(rows[np.flatnonzero(bag)], 0) if bag.any() else zero for bag in member])
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.reshape(-1, 1)
        share = member / np.maximum(member.sum(1, keepdims=True), 1) if self.mode == "mean" else member
        return Tensor(cast_like(share, unwrap(rows))) @ rows
