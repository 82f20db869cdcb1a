"""Layers that, in training, zero random elements or channels and scale the others, so that the mean is kept."""

import math

from allgrad.autograd.arrays import full
from allgrad.autograd.engine import Tensor, unwrap
from allgrad.autograd.nn.module import Module
from allgrad.autograd.ops import dropout

SATURATION = -1.7580993408473766  # of selu far below 0: -scale * alpha


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p).

    inplace=True is taken, and computes into a new array all the same.
    """

    def __init__(self, p=0.5, inplace=False):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{type(self).__name__}: p is a probability, got {p}")
        self.p, self.inplace = p, inplace

    def __call__(self, x):
        return dropout(x, self.p, self.training)


def _kept(shape, p, like):
    """Zeros, each with probability p, and 1 / (1 - p) elsewhere: a constant."""
    return dropout(Tensor(full(shape, 1.0, unwrap(like))), p)


class _ChannelDropout(Dropout):
    alone = 0  # how many axes x has without a batch; 0 if it always has one

    def __call__(self, x):
        if x.ndim < 2:
            raise ValueError(f"{type(self).__name__}: needs x (N, C, ...), got {tuple(x.shape)}")
        if not self.training or self.p == 0.0:
            return x
        channels = 1 if x.ndim == self.alone else 2
        return x * _kept((*x.shape[:channels], *(1,) * (x.ndim - channels)), self.p, x)


class Dropout1d(_ChannelDropout):
    """In training, zero each channel of x (N, C, L) or (C, L) with probability p. Tompson et al. 2015."""

    alone = 2


class Dropout2d(_ChannelDropout):
    """In training, zero each channel of x (N, C, H, W) with probability p; as in torch, (N, C, L) is a batch too."""


class Dropout3d(_ChannelDropout):
    """In training, zero each channel of x (N, C, D, H, W) or (C, D, H, W) with probability p."""

    alone = 4


class AlphaDropout(Dropout):
    """In training, set each element with probability p to where selu saturates, and keep mean 0 and variance 1.

    Klambauer et al. 2017.
    """

    def __call__(self, x):
        if not self.training or self.p == 0.0:
            return x
        if self.p == 1.0:
            return x * 0.0
        kept = _kept(x.shape, self.p, x) * (1.0 - self.p)  # 1 and 0
        scale = 1.0 / math.sqrt((SATURATION**2 * self.p + 1.0) * (1.0 - self.p))
        return (x * kept + SATURATION * (1.0 - kept)) * scale - SATURATION * scale * self.p
