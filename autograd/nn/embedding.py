"""A table of vectors, looked up by integers."""

import numpy as np

from autograd import indexing as f
from autograd.nn.module import Module, Parameter
from autograd.random import draw


class Embedding(Module):
    """Rows of weight (num_embeddings, embedding_dim) for integers of any shape; standard normal at first, as in torch.

    Row padding_idx starts at zero and gets no gradient.
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, rng=None):
        if num_embeddings < 1 or embedding_dim < 1 or (padding_idx or 0) not in range(-num_embeddings, num_embeddings):
            raise ValueError(
                f"Embedding: needs at least 1 row and column, and padding_idx among the rows, "
                f"got {num_embeddings}, {embedding_dim} and {padding_idx}"
            )
        rng = rng or np.random.Generator(draw())
        weight = rng.standard_normal((num_embeddings, embedding_dim))
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        self.weight, self.padding_idx = Parameter(weight, name="weight"), padding_idx

    def __call__(self, indices):
        return f.embedding(indices, self.weight, self.padding_idx)
