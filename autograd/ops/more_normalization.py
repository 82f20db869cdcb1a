"""Normalisation by a root mean square, by the moments of each image, and by neighbouring channels."""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import astype, xp
from allgrad.autograd.engine import Tensor, here, number, primitive, unwrap
from allgrad.autograd.ops.normalization import batch_norm, group_norm
from allgrad.autograd.ops.pooling import avg_pool2d
from allgrad.autograd.ops.shapes import pad, reshape


def rms_norm(x, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x^2) + eps) of each sample over its last axes, times weight. Zhang and Sennrich 2019.

    x (..., *normalized_shape); weight of that shape, or None. eps is the spacing of numbers of x's dtype at 1 if None.
    """
    shape = (normalized_shape,) if hasattr(normalized_shape, "__index__") else tuple(normalized_shape)
    if not shape or tuple(x.shape[x.ndim - len(shape) :]) != shape:
        raise ValueError(f"rms_norm: x of shape {tuple(x.shape)} does not end in the normalized shape {shape}")
    if eps is None:
        name = str(x.dtype).removeprefix("torch.")
        eps = 2.0**-7 if name == "bfloat16" else float(np.finfo(name).eps)
    y = _rms_norm(x, axes=tuple(range(-len(shape), 0)), eps=number(eps, "rms_norm: eps"))
    return y if weight is None else y * weight


@primitive
def _rms_norm(x, *, axes, eps):
    dtype = x.dtype
    half = type(x) is not Tensor and dtype.itemsize == 2
    x = astype(x, "float32") if half else x  # squares of half precision overflow
    r = 1.0 / xp[type(x)].sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
    y = x * r

    def vjp(g):
        g = astype(g, "float32") if half else g
        d = r * (g - y * (g * y).mean(axis=axes, keepdims=True))
        return astype(d, dtype) if half else d

    return astype(y, dtype) if half else y, vjp


def instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    """Normalise each channel of each sample of x (N, C, ...) over its places; weight and bias (C,) or None.

    The running statistics, if given, are arrays that move in place towards the mean over the batch of each sample's, by
    `momentum`; they are used instead without use_input_stats. Ulyanov, Vedaldi and Lempitsky 2016.
    """
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(x.shape[2:])
    if x.ndim < 3 or count == 1:
        raise ValueError(f"instance_norm: needs x (N, C, ...) with more than 1 place a channel, got {tuple(x.shape)}")
    if running_mean is not None and not here.second_run:
        places = unwrap(x).reshape(*x.shape[:2], count)
        mean = places.mean(axis=2, keepdims=True)
        variance = ((places - mean) ** 2).sum(axis=2) / (count - 1)
        for held, new in ((running_mean, mean[:, :, 0]), (running_var, variance)):
            running: Any = unwrap(held)
            running += momentum * (astype(new.mean(axis=0), running.dtype) - running)
    return group_norm(x, x.shape[1], weight, bias, eps)


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    """x / (k + alpha s)^beta, s the mean of x^2 over `size` neighbouring channels. Krizhevsky et al. 2012.

    x (N, C, L, ...); places beyond the first and the last channel count as zeros.
    """
    if x.ndim < 3 or size < 1:
        raise ValueError(f"local_response_norm: needs x (N, C, L, ...) and a size of at least 1, got {tuple(x.shape)}")
    squares = reshape(x * x, (x.shape[0], 1, x.shape[1], math.prod(x.shape[2:])))
    around = pad(squares, (0, 0, size // 2, (size - 1) // 2))
    s = reshape(avg_pool2d(around, (size, 1), 1), x.shape)
    return x / (k + alpha * s) ** beta
