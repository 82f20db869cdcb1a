"""Layers that normalise: over the batch, over a sample, over groups of channels."""

from typing import Any

import numpy as np

from allgrad.autograd.engine import Tensor, get_default_dtype, here, unwrap
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import batch_norm, group_norm, instance_norm, layer_norm, rms_norm, unsqueeze


class LayerNorm(Module):
    """Normalise each sample over its last axes, then scale and shift: see `ag.layer_norm`."""

    @placed
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        shape = (normalized_shape,) if hasattr(normalized_shape, "__index__") else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = Parameter(np.ones(shape), name="weight") if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape), name="bias") if elementwise_affine and bias else None

    def __call__(self, x):
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divide each sample by its root mean square over its last axes, then scale: see `ag.rms_norm`."""

    @placed
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        shape = (normalized_shape,) if hasattr(normalized_shape, "__index__") else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = Parameter(np.ones(shape), name="weight") if elementwise_affine else None

    def __call__(self, x):
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Module):
    """Normalise each sample (N, C, ...) over groups of channels, then scale and shift: see `ag.group_norm`."""

    @placed
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True, bias=True):
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels cannot be cut into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = Parameter(np.ones(num_channels), name="weight") if affine else None
        self.bias = Parameter(np.zeros(num_channels), name="bias") if affine and bias else None

    def __call__(self, x):
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _Running(Module):
    """A scale, a shift and running statistics of each channel."""

    ndims: tuple[int, ...] = ()
    running_statistics = ("running_mean", "running_var", "num_batches_tracked")

    @placed
    def __init__(
        self, num_features, eps=1e-5, momentum: float | None = 0.1, affine=True, track_running_stats=True, bias=True
    ):  # fmt: skip
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features), name="weight") if affine else None
        self.bias = Parameter(np.zeros(num_features), name="bias") if affine and bias else None
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            self.running_mean = Tensor(np.zeros(num_features, get_default_dtype()))
            self.running_var = Tensor(np.ones(num_features, get_default_dtype()))
            self.num_batches_tracked = Tensor(np.zeros((), np.int64))

    def _check(self, x, channels=1):
        if x.ndim not in self.ndims or x.shape[channels] != self.num_features:
            seen, axes = f"{type(self).__name__}: x of shape {tuple(x.shape)}", " or ".join(map(str, self.ndims))
            raise ValueError(f"{seen} must have {axes} axes, the second of length {self.num_features} (the channels)")


class _BatchNorm(_Running):
    def __call__(self, x):
        self._check(x)
        mean, var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 if counter is None else 1.0 / (counter.item() + 1)
        y = batch_norm(x, mean, var, self.weight, self.bias, self.training or mean is None, momentum, self.eps)
        if self.training and counter is not None and not here.second_run:
            tracked: Any = unwrap(counter)
            tracked += 1
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


class BatchNorm3d(_BatchNorm):
    """Normalise each channel of x (N, C, D, H, W) over the batch: see `BatchNorm1d`."""

    ndims = (5,)


class _InstanceNorm(_Running):
    @placed
    def __init__(
        self, num_features, eps=1e-5, momentum: float | None = 0.1, affine=False, track_running_stats=False, bias=True
    ):  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def __call__(self, x):
        if x.ndim == self.ndims[0]:  # one sample, without the axis of the batch
            self._check(x, 0)
            return self(unsqueeze(x, 0))[0]
        self._check(x)
        own, mean, var = self.training or self.running_mean is None, self.running_mean, self.running_var
        return instance_norm(x, mean, var, self.weight, self.bias, own, self.momentum or 0.0, self.eps)


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, L) or (C, L): see `ag.instance_norm`.

    As in torch, affine (a scale and a shift) and track_running_stats, which are used in evaluation, are False.
    """

    ndims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, H, W) or (C, H, W): see `InstanceNorm1d`."""

    ndims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, D, H, W) or (C, D, H, W): see `InstanceNorm1d`."""

    ndims = (4, 5)
