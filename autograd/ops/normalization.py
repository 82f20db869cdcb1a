"""Normalisation: subtract a mean, divide by a standard deviation, then scale by a weight and add a bias.

`_standardize` is the mathematics: with r = 1 / sqrt(var + eps) and y = (x - mean) r, means over some axes, the gradient
by x is r (g - mean(g) - y mean(g y)). The other rules compute the same in fewer passes over memory, each with the scale
and shift; inside nested derivatives they are composed of `_standardize` (`engine.unfused`).
"""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import LONG_SUM, astype, cast_like, ones, sum_keepdims, sum_over, sum_rows, to_numpy, xp
from allgrad.autograd.engine import (
    Tensor,
    constant,
    declare_modes,
    here,
    number,
    primitive,
    setting,
    shared,
    unfused,
    unwrap,
)
from allgrad.autograd.ops.windows import TO_NCHW, to_hcwn


class NoVarianceError(ValueError):
    """A batch has too few values a channel to be normalised by their variance."""


@primitive
def _standardize(x, *, axes, eps, moments=None):
    mean = x.mean(axis=axes, keepdims=True)
    d = x - mean
    variance = (d * d).mean(axis=axes, keepdims=True)
    if moments is not None:
        moments(unwrap(mean), unwrap(variance))
    r = 1.0 / xp[type(x)].sqrt(variance + eps)
    y = d * r

    def vjp(g):
        return r * (g - g.mean(axis=axes, keepdims=True) - y * (g * y).mean(axis=axes, keepdims=True))

    return y, vjp


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(var + eps) of each sample over its last axes, times weight, plus bias. Ba, Kiros, Hinton 2016.

    x (..., *normalized_shape); weight and bias of shape normalized_shape, or None; the variance is the biased one.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else normalized_shape
    shape = tuple(map(int, shape))
    if not shape or tuple(x.shape[x.ndim - len(shape) :]) != shape:
        raise ValueError(f"layer_norm: x of shape {tuple(x.shape)} does not end in the normalized shape {shape}")
    if 0 in shape:
        return _scaled(x, weight, bias)
    return _layer_norm(x, weight, bias, shape=shape, eps=number(eps, "layer_norm: eps"))


@primitive
def _layer_norm(x, weight, bias, *, shape, eps):  # x (..., *shape), weight and bias of this shape or None
    if any(type(a) is Tensor for a in (x, weight, bias)):
        return _unfused(lambda x: _standardize(x, axes=tuple(range(-len(shape), 0)), eps=eps), x, weight, bias)
    before, n = x.shape, math.prod(shape)
    w, b = (None if a is None else a.reshape(n) for a in (weight, bias))
    d = x.reshape(-1, n)  # (R, n): a row for each sample
    d = d - sum_keepdims(d, -1) / n
    r = 1.0 / np.sqrt(np.einsum("ri,ri->r", d, d)[:, None] / n + eps)
    y = d * r
    value = y if w is None else y * w
    if b is not None:
        value = value + b if value is y else np.add(value, b, out=value)

    def pullback(g):
        g = g.reshape(d.shape)
        gy = g * y
        by_weight, by_bias = (None if w is None else sum_rows(gy)), (None if b is None else sum_rows(g))
        v = (ones(n, g.dtype) if w is None else w)[:, None] / n
        along, mean = gy @ v, g @ v  # of g w: means of its products with y, and of itself
        by_x = np.multiply(y, along, out=gy)
        np.subtract(g if w is None else g * w, by_x, out=by_x)
        by_x -= mean
        by_x *= r
        return by_x.reshape(before), *(a if a is None else a.reshape(shape) for a in (by_weight, by_bias))

    return value.reshape(before), *shared(pullback, 3)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Normalise each sample of x (N, C, ...) over groups of C / num_groups channels and all their places.

    weight and bias (C,) or None. Wu and He 2018.
    """
    _check_channels("group_norm", x)
    n, c, *rest = x.shape
    if num_groups < 1 or c % num_groups:
        raise ValueError(f"group_norm: {c} channels cannot be cut into {num_groups} groups")
    groups = x.reshape(n, num_groups, c // num_groups * math.prod(rest))
    y = _standardize(groups, axes=(-1,), eps=number(eps, "group_norm: eps")).reshape(*x.shape)
    return _scaled(y, _by_channel(weight, x.ndim), _by_channel(bias, x.ndim))


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Normalise each channel of x (N, C, ...) over the batch; weight and bias (C,) or None. Ioffe and Szegedy 2015.

    In training the statistics are those of the batch, and the running ones (arrays, changed in place) move towards
    them by `momentum`, the variance in its unbiased form. Otherwise the running ones are used.
    """
    _check_channels("batch_norm", x)
    eps, momentum = number(eps, "batch_norm: eps"), number(momentum, "batch_norm: momentum")
    if not eps > 0:
        raise ValueError(f"batch_norm: eps must be positive, got {eps}")
    count = math.prod(x.shape) // max(x.shape[1], 1)

    def move(mean, variance, count=count):
        for held, new in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
            running: Any = unwrap(held)
            running += momentum * (cast_like(new.reshape(-1), running) - running)

    if training:
        moments = None if running_mean is None or here.second_run else move
        if here.sum_over_parts is not None:
            return _batch_norm_of_part(x, weight, bias, eps=eps, moments=moments, total=here.sum_over_parts)
        if count == 0:
            return _scaled(x, _by_channel(weight, x.ndim), _by_channel(bias, x.ndim))
        if count < 2:
            seen = f"a batch of shape {tuple(x.shape)} has {count} value{'s' * (count != 1)} a channel"
            raise NoVarianceError(f"batch_norm: {seen}: no variance to train with")
        return _batch_norm(x, weight, bias, eps=eps, moments=moments)
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm: without running_mean and running_var, only training=True has statistics to use")
    ndim, mean = x.ndim, constant(running_mean, "batch_norm: running_mean")
    scale = (constant(running_var, "batch_norm: running_var") + eps) ** -0.5
    mean, scale = (_by_channel(cast_like(a, unwrap(x)), ndim) for a in (mean, scale))
    y = (x - mean) * scale
    return _scaled(y, _by_channel(weight, ndim), _by_channel(bias, ndim))


@primitive
def _batch_norm(x, weight, bias, *, eps, moments):  # x (N, C, ...), weight and bias (C,) or None
    if any(type(a) is Tensor for a in (x, weight, bias)):
        axes, by_channel = (0, *range(2, x.ndim)), lambda p: _by_channel(p, x.ndim)
        return _unfused(lambda x: _standardize(x, axes=axes, eps=eps, moments=moments), x, weight, bias, by_channel)
    rows, images = _by_rows(x.shape)
    x = rows(x)  # (R, C, L)
    n = len(x) * x.shape[2]
    mean = _sum_per_channel(x) / n
    d = x - mean[:, None]
    variance = _sum_per_channel(d, d) / n
    if moments is not None:
        moments(mean, variance)
    r = 1.0 / np.sqrt(variance + eps)
    scale = r if weight is None else r * weight
    y = d * scale[:, None]
    if bias is not None:
        y += bias[:, None]

    def pullback(g):
        g = rows(g)
        by_bias, by_weight = _sum_per_channel(g), _sum_per_channel(g, d) * r
        by_x = d * (by_weight * r / -n)[:, None]
        by_x += g
        by_x -= (by_bias / n)[:, None]
        by_x *= scale[:, None]
        return images(by_x), by_weight, by_bias

    return images(y), *shared(pullback, 3)


def _sum_per_channel(a, b=None):
    """The sum of an array (R, C, L), or of a product of two, for each channel: shape (C,)."""
    if len(a) > LONG_SUM:
        return sum_over(a if b is None else a * b, (0, 2))
    return np.einsum("rcl->c", a) if b is None else np.einsum("rcl,rcl->c", a, b)


def _by_rows(shape):
    """Two functions: from arrays (N, C, ...) to (R, C, L), in which sums per channel run over a long L; and back.

    Images become (H, C, W * N), the order they have in memory; anything else (N, C, L).
    """
    n, c, *lengths = shape
    if len(lengths) != 2:
        return lambda x: x.reshape(n, c, math.prod(lengths)), lambda y: y.reshape(shape)
    h, w = lengths
    return lambda x: to_hcwn(x).reshape(h, c, w * n), lambda y: y.reshape(h, c, w, n).transpose(TO_NCHW)


declare_modes(sum_over_parts=None)  # the function that `part_of_batch` was given


def part_of_batch(total):
    """Context in which `batch_norm` in training takes its x for one part of a batch, and normalises over all parts.

    total(sums) returns the sum over all parts of the arrays that they give it, float64 vectors of one length. It is
    called twice in a forward pass and once in a backward pass, so all parts have to be computed side by side: see
    `engine.stepped`. Such a batch norm can be differentiated once.
    """
    return setting(sum_over_parts=total)


@primitive
def _batch_norm_of_part(x, weight, bias, *, eps, moments, total):  # x (N, C, ...), weight and bias (C,) or None
    if any(type(a) is Tensor for a in (x, weight, bias)):
        raise _differentiated_twice()
    shape, dtype = x.shape, x.dtype
    x = (x if dtype.itemsize > 2 else astype(x, "float32")).reshape(*shape[:2], math.prod(shape[2:]))  # (N, C, L)

    def sums(a):
        return to_numpy(astype(a, "float64").sum(axis=(0, 2)))

    def column(a):
        return cast_like(a, x)[:, None]

    whole = total(np.append(sums(x), len(x) * x.shape[2]))
    n = whole[-1]
    if n < 2:
        raise NoVarianceError(
            f"batch_norm: all parts of the batch have {n:.0f} value{'' if n == 1 else 's'} a channel: "
            f"no variance to train with"
        )
    mean = whole[:-1] / n
    d = x - column(mean)
    variance = total(sums(d * d)) / n  # in a second pass: no difference of large squares
    if moments is not None:
        moments(cast_like(mean, x), cast_like(variance, x), n)
    r = 1.0 / np.sqrt(variance + eps)
    scale = column(r) if weight is None else column(r) * astype(weight, x.dtype)[:, None]
    y = d * scale
    if bias is not None:
        y = y + astype(bias, x.dtype)[:, None]

    def pullback(g):
        if type(g) is Tensor:
            raise _differentiated_twice()
        g = astype(g, d.dtype).reshape(d.shape)
        own = np.concatenate([sums(g), sums(g * d) * r])
        by_bias, by_weight = np.split(total(own) / n, 2)
        by_x = (g - column(by_bias) - d * column(by_weight * r)) * scale
        by_bias, by_weight = np.split(own, 2)
        by_x = astype(by_x.reshape(shape), dtype)
        return by_x, *(None if p is None else cast_like(by_p, p) for p, by_p in ((weight, by_weight), (bias, by_bias)))

    return astype(y.reshape(shape), dtype), *shared(pullback, 3)


def _differentiated_twice():
    seen = "batch_norm: over the parts of a batch it can be differentiated once"
    return NotImplementedError(f"{seen}: normalise each part by itself for derivatives of derivatives")


def _unfused(standardize, x, weight, bias, shaped=lambda p: p):
    """What a rule returns for inputs that are Tensors: `unfused` of standardize, scale and shift."""
    given = [a for a in (x, weight, bias) if a is not None]

    def composed(x, *affine):
        rest = iter(affine)
        return _scaled(standardize(x), *(None if a is None else shaped(next(rest)) for a in (weight, bias)))

    value, *vjps = unfused(composed, *given)
    return value, *(None if a is None else vjps.pop(0) for a in (x, weight, bias))


def _check_channels(name, x):
    if x.ndim < 2:
        raise ValueError(f"{name}: x of shape {tuple(x.shape)} has no channels: it needs a shape (N, C, ...)")


def _by_channel(p, ndim):
    return None if p is None else p.reshape(-1, *(1,) * (ndim - 2))


def _scaled(y, weight, bias):
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
