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
        rng = rng or np.random.Generator(draw())
        weight = rng.standard_normal((num_embeddings, embedding_dim))
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        self.weight, self.padding_idx = Parameter(weight, name="weight"), padding_idx

    def __call__(self, indices):
        return f.embedding(indices, self.weight, self.padding_idx)
