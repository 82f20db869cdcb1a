"""Dropout, with masks that depend on the key in force and not on who computes them."""

import math
import numbers

import numpy as np

from allgrad.autograd.arrays import on_cpu, to_backend_of, xp
from allgrad.autograd.engine import Tensor, primitive, remembered, unwrap
from allgrad.autograd.random import draw, seed_device

LEVELS = 1 << 16  # a mask element compares 16 random bits with p


def dropout(a, p=0.5, training=True):
    """Zero each element with probability p and scale the others by 1 / (1 - p), so that the mean is kept.

    p in [0, 1] (ValueError) is rounded to a multiple of 2**-16. The mask is drawn from the stream of `autograd.random`:
    inside `keyed(...)` it is a function of the key. On a CUDA device the device's default generator draws it, which the
    stream seeds. Without training, a itself is returned. Srivastava et al. 2014.
    """
    if not isinstance(p, numbers.Real) or not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is a probability, got {p!r}")
    return _dropout(a, p=p) if training and p > 0.0 else a


@primitive
def _dropout(a, *, p):
    x = unwrap(a)
    threshold = round(p * LEVELS)
    scale = LEVELS / (LEVELS - threshold) if threshold < LEVELS else 0.0
    if not on_cpu(x) and seed_device(x):
        return _by_kernel(a, x, threshold / LEVELS, scale)
    kept = (random_bits(x) >= threshold).reshape(x.shape)
    mask = kept * x.dtype.type(scale) if xp[type(x)] is np else kept.to(x.dtype) * scale
    return a * mask, lambda g: g * mask


def _by_kernel(a, x, p, scale):
    """Dropout by a kernel of the device that draws by itself; x is the array inside a."""
    n, found = xp[type(x)], []

    def draw_mask():
        y, kept = n.drop_out(x, p)
        found.append(y)
        return kept

    kept = remembered(draw_mask)

    def masked(g):
        """g where it is kept, times the scale."""
        return g * n.masked_times(n.ones_like(x), kept, scale) if type(g) is Tensor else n.masked_times(g, kept, scale)

    return found[0] if found and a is x else masked(a), masked


def random_bits(x):
    """Random 16-bit integers, one for each element of x, flat."""
    stream, n = draw(), math.prod(x.shape)
    drawn = stream.random_raw(-(-n // 4)).astype("<u8", copy=False).view("<u2")[:n]
    return drawn if xp[type(x)] is np else to_backend_of(drawn.astype(np.int32), x)
