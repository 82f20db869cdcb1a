"""Normalisation: subtract a mean, divide by a standard deviation, then scale and shift.

One rule serves all: `_standardize` over some axes. With x^ the result, r = 1 / sqrt(var + eps) and means over those
axes, the gradient is r (g - mean(g) - x^ mean(g x^)).
"""

import math

import numpy as np

from autograd.core import Tensor, primitive
from autograd.core import innermost as raw
from autograd.transforms import unfused


@primitive
def _standardize(x, *, axes, eps):
    if type(x) is Tensor:
        return unfused(lambda x: _composed(x, axes, eps), x)
    d = x - x.mean(axis=axes, keepdims=True)
    r = 1.0 / np.sqrt((d * d).mean(axis=axes, keepdims=True) + eps)
    y = d * r

    def vjp(g):
        return r * (g - g.mean(axis=axes, keepdims=True) - y * (g * y).mean(axis=axes, keepdims=True))

    return y, vjp


def _composed(x, axes, eps):
    d = x - x.mean(axes, True)
    return d / ((d * d).mean(axes, True) + eps).sqrt()


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Normalise each sample over its last axes, which have this shape; weight and bias of this shape or None.

    Ba, Kiros and Hinton 2016.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if tuple(x.shape[len(x.shape) - len(shape) :]) != shape:
        raise ValueError(f"layer_norm: x of shape {tuple(x.shape)} does not end in the normalized shape {shape}")
    return _scaled(_standardize(x, axes=tuple(range(-len(shape), 0)), eps=eps), weight, bias)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Normalise each sample (N, C, ...) over groups of channels; weight and bias (C,) or None. Wu and He 2018."""
    n, c = x.shape[:2]
    if c % num_groups:
        raise ValueError(f"group_norm: {c} channels cannot be cut into {num_groups} groups")
    y = _standardize(x.reshape(n, num_groups, -1), axes=(-1,), eps=eps).reshape(*x.shape)
    return _scaled(y, *(None if p is None else _by_channel(p, len(x.shape)) for p in (weight, bias)))


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Normalise each channel of x (N, C, ...) over the batch; weight and bias (C,) or None. Ioffe and Szegedy 2015.

    In training the statistics are those of the batch, and the running ones (arrays, changed in place) move towards
    them by `momentum`, the variance in its unbiased form. Otherwise the running ones are used.
    """
    ndim, axes = len(x.shape), (0, *range(2, len(x.shape)))
    affine = [None if p is None else _by_channel(p, ndim) for p in (weight, bias)]
    if not training and running_mean is not None:
        scale = 1.0 / np.sqrt(raw(running_var) + eps)
        return _scaled((x - _by_channel(raw(running_mean), ndim)) * _by_channel(scale, ndim), *affine)
    count = math.prod(x.shape) // x.shape[1]
    if training and count < 2:
        raise ValueError(
            f"batch_norm: a batch of shape {tuple(x.shape)} has one value a channel: no variance to train with"
        )
    if training and running_mean is not None:
        values = raw(x)
        _move(raw(running_mean), values.mean(axis=axes), momentum)
        _move(raw(running_var), values.var(axis=axes) * (count / (count - 1)), momentum)
    return _scaled(_standardize(x, axes=axes, eps=eps), *affine)


def _move(running, new, momentum):
    running *= 1.0 - momentum
    running += momentum * new


def _by_channel(p, ndim):
    return p.reshape(-1, *(1,) * (ndim - 2))


def _scaled(y, weight, bias):
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
