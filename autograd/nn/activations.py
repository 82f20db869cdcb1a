"""Activation functions as modules, to be placed in a Sequential."""

from autograd import activations as f
from autograd.arithmetic import tanh
from autograd.nn.module import Module


class ReLU(Module):
    """max(x, 0)."""

    def __call__(self, x):
        return f.relu(x)


class LeakyReLU(Module):
    """x where it is positive, negative_slope * x elsewhere."""

    def __init__(self, negative_slope=0.01):
        self.negative_slope = negative_slope

    def __call__(self, x):
        return f.leaky_relu(x, self.negative_slope)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def __call__(self, x):
        return f.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def __call__(self, x):
        return tanh(x)


class Softmax(Module):
    """exp(x) normalised along an axis."""

    def __init__(self, dim=-1):
        self.dim = dim

    def __call__(self, x):
        return f.softmax(x, self.dim)


class LogSoftmax(Module):
    """log of softmax along an axis."""

    def __init__(self, dim=-1):
        self.dim = dim

    def __call__(self, x):
        return f.log_softmax(x, self.dim)
