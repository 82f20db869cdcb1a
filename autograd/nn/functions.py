"""Activation functions and pooling as modules, to be placed in a Sequential."""

import inspect
from collections.abc import Callable
from functools import partial

from allgrad.autograd.nn.module import Module
from allgrad.autograd.ops import activations, elementwise, pooling


class _Function(Module):
    """A function of one tensor as a module; the function's other arguments are given when the module is made."""

    function: Callable

    def __init__(self, *arguments, **options):
        _, *given = inspect.signature(self.function).bind(None, *arguments, **options).arguments.items()
        self.compute = partial(self.function, **dict(given))

    def __call__(self, x):
        return self.compute(x)


class ReLU(_Function):
    """max(x, 0): see `ag.relu`."""

    function = staticmethod(activations.relu)


class LeakyReLU(_Function):
    """x where it is positive, negative_slope (0.01) times x elsewhere: see `ag.leaky_relu`."""

    function = staticmethod(activations.leaky_relu)


class ELU(_Function):
    """x where it is positive, alpha (1.0) times exp(x) - 1 elsewhere: see `ag.elu`."""

    function = staticmethod(activations.elu)


class GELU(_Function):
    """x times the probability that a standard normal number is below it: see `ag.gelu`."""

    function = staticmethod(activations.gelu)


class SiLU(_Function):
    """x * sigmoid(x): see `ag.silu`."""

    function = staticmethod(activations.silu)


class Softplus(_Function):
    """log(1 + exp(beta x)) / beta, a smooth ReLU: see `ag.softplus`."""

    function = staticmethod(activations.softplus)


class Hardtanh(_Function):
    """x limited to [min_val, max_val], -1 and 1: see `ag.hardtanh`."""

    function = staticmethod(activations.hardtanh)


class Sigmoid(_Function):
    """1 / (1 + exp(-x)): see `ag.sigmoid`."""

    function = staticmethod(activations.sigmoid)


class Tanh(_Function):
    """Hyperbolic tangent: see `ag.tanh`."""

    function = staticmethod(elementwise.tanh)


class Softmax(_Function):
    """exp(x) normalised along the axis `dim`, the last: see `ag.softmax`."""

    function = staticmethod(activations.softmax)


class LogSoftmax(_Function):
    """log of softmax along the axis `dim`, the last: see `ag.log_softmax`."""

    function = staticmethod(activations.log_softmax)


class MaxPool2d(_Function):
    """The largest value in each window: see `ag.max_pool2d`."""

    function = staticmethod(pooling.max_pool2d)


class AvgPool2d(_Function):
    """The mean of each window: see `ag.avg_pool2d`."""

    function = staticmethod(pooling.avg_pool2d)


class AdaptiveAvgPool2d(_Function):
    """Means over OH x OW regions: see `ag.adaptive_avg_pool2d`."""

    function = staticmethod(pooling.adaptive_avg_pool2d)
