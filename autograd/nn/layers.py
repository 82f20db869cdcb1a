"""Layers with parameters or modes."""

import math

import numpy as np

from autograd import init as initial
from autograd.dropout import dropout
from autograd.indexing import embedding
from autograd.nn.module import Module, Parameter
from autograd.products import linear
from autograd.random import draw
from autograd.shapes import flatten


class Linear(Module):
    """x @ weight.T + bias, for x (..., inputs); weight (outputs, inputs), bias (outputs,).

    init: a function from `autograd.init`; torch's default if absent. The bias starts at zero, or as torch's does
    when init is absent. rng: a numpy Generator; drawn from `autograd.manual_seed`'s stream if absent.
    """

    def __init__(self, inputs, outputs, bias=True, init=None, rng=None):
        if inputs < 1 or outputs < 1:
            raise ValueError(f"Linear: inputs and outputs are at least 1, got {inputs} and {outputs}")
        rng = rng or np.random.Generator(draw())
        weight = (init or initial.torch_default)((outputs, inputs), rng)
        # Stored transposed: x @ weight.T then multiplies by a matrix in C order, the faster product for small batches.
        self.weight = Parameter(np.asfortranarray(weight), name="weight")
        self.bias = None
        if bias:
            b = np.zeros(outputs) if init else initial.uniform(1.0 / math.sqrt(inputs))((outputs,), rng)
            self.bias = Parameter(b, name="bias")

    def __call__(self, x):
        return linear(x, self.weight, self.bias)


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
        return embedding(indices, self.weight, self.padding_idx)


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p)."""

    def __init__(self, p=0.5):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p is a probability, got {p}")
        self.p = p

    def __call__(self, x):
        return dropout(x, self.p, self.training)


class Flatten(Module):
    """Merge all axes but the first: (N, ...) to (N, features)."""

    def __call__(self, x):
        return flatten(x, 1)


class Identity(Module):
    """x as it is, in the place of a layer; takes any arguments, as torch's does."""

    def __init__(self, *arguments, **options):
        pass

    def __call__(self, x):
        return x
