"""Normalisation layers."""

import numpy as np

from autograd import normalization as f
from autograd.core import Tensor, get_default_dtype
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


class _BatchNorm(Module):
    ndims: tuple[int, ...] = ()
    running_statistics = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(self, num_features, eps=1e-5, momentum: float | None = 0.1, affine=True, track_running_stats=True):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features), name="weight") if affine else None
        self.bias = Parameter(np.zeros(num_features), name="bias") if affine else None
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            self.running_mean = Tensor(np.zeros(num_features, get_default_dtype()))
            self.running_var = Tensor(np.ones(num_features, get_default_dtype()))
            self.num_batches_tracked = Tensor(np.zeros((), np.int64))

    def __call__(self, x):
        if x.ndim not in self.ndims or x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: x of shape {tuple(x.shape)} must have {' or '.join(map(str, self.ndims))} "
                f"axes, the second of length {self.num_features} (the channels)"
            )
        mean, var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        batches = 1 if counter is None else counter.item() + 1
        momentum = 1.0 / batches if self.momentum is None else self.momentum
        y = f.batch_norm(x, mean, var, self.weight, self.bias, self.training or mean is None, momentum, self.eps)
        if self.training and counter is not None:
            counter.assign(batches)
        return y


class BatchNorm1d(_BatchNorm):
    """Normalise each channel of x (N, C) or (N, C, L) over the batch: see `ag.batch_norm`.

    momentum: how far a batch moves the running averages; None for the mean over all batches so far. Without
    track_running_stats there are none, and every batch is normalised by its own moments, in evaluation too.
    """

    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalise each channel of x (N, C, H, W) over the batch: see `BatchNorm1d`."""

    ndims = (4,)
