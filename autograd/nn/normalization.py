"""Normalisation layers."""

import numpy as np

from autograd import normalization as f
from autograd.nn.module import Module, Parameter


class LayerNorm(Module):
    """Normalise each sample over its last axes, then scale and shift: see `ag.layer_norm`."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = Parameter(np.ones(self.shape), name="weight") if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.shape), name="bias") if elementwise_affine and bias else None

    def __call__(self, x):
        return f.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """Normalise each sample (N, C, ...) over groups of channels, then scale and shift: see `ag.group_norm`."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels cannot be cut into {num_groups} groups")
        self.num_groups, self.eps = num_groups, eps
        self.weight = Parameter(np.ones(num_channels), name="weight") if affine else None
        self.bias = Parameter(np.zeros(num_channels), name="bias") if affine else None

    def __call__(self, x):
        return f.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
