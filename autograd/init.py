"""Initial weights: functions `init(shape, rng)` that return a float64 array, for `init=` of a layer.

shape is that of a weight, (out, in) or (out, in, KH, KW); rng is a `numpy.random.Generator`. fan_in, the number of
inputs of one unit, is in * KH * KW; fan_out, the number of units that one input feeds, is out * KH * KW. `normal` and
`uniform` return such a function.
"""

import math

import numpy as np


def fans(shape):
    """(fan_in, fan_out) of a weight of this shape; ValueError for less than two axes."""
    if len(shape) < 2:
        raise ValueError(f"init: fans need a weight of shape (out, in, ...), got {tuple(shape)}")
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def zeros(shape, rng):
    """All zeros."""
    return np.zeros(shape)


def normal(std):
    """A function `init`: Gaussian with mean 0 and this standard deviation."""
    return lambda shape, rng: rng.normal(0.0, std, shape)


def uniform(bound):
    """A function `init`: uniform on [-bound, bound]."""
    return lambda shape, rng: rng.uniform(-bound, bound, shape)


def gaussian(shape, rng):
    """Gaussian with variance 1/fan_in, which keeps the variance of a linear unit's input (LeCun et al. 1998)."""
    return rng.normal(0.0, math.sqrt(1.0 / fans(shape)[0]), shape)


def kaiming(shape, rng):
    """Gaussian with variance 2/fan_in, which keeps the variance through a ReLU (He et al. 2015)."""
    return rng.normal(0.0, math.sqrt(2.0 / fans(shape)[0]), shape)


def kaiming_uniform(shape, rng):
    """Uniform with variance 2/fan_in (He et al. 2015)."""
    bound = math.sqrt(6.0 / fans(shape)[0])
    return rng.uniform(-bound, bound, shape)


def xavier(shape, rng):
    """Gaussian with variance 2/(fan_in + fan_out), a compromise of both directions (Glorot and Bengio 2010)."""
    return rng.normal(0.0, math.sqrt(2.0 / sum(fans(shape))), shape)


def xavier_uniform(shape, rng):
    """Uniform with variance 2/(fan_in + fan_out) (Glorot and Bengio 2010)."""
    bound = math.sqrt(6.0 / sum(fans(shape)))
    return rng.uniform(-bound, bound, shape)


def torch_default(shape, rng):
    """Uniform on +-1/sqrt(fan_in), what torch.nn.Linear draws its weights from."""
    bound = math.sqrt(1.0 / fans(shape)[0])
    return rng.uniform(-bound, bound, shape)
