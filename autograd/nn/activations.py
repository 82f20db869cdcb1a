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


class ELU(Module):
    """x where it is positive, alpha (exp(x) - 1) elsewhere."""

    def __init__(self, alpha=1.0):
        self.alpha = alpha

    def __call__(self, x):
        return f.elu(x, self.alpha)


class GELU(Module):
    """x times the probability that a standard normal number is below it; "tanh" approximates that."""

    def __init__(self, approximate="none"):
        self.approximate = approximate

    def __call__(self, x):
        return f.gelu(x, self.approximate)


class SiLU(Module):
    """x * sigmoid(x)."""

    def __call__(self, x):
        return f.silu(x)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""

    def __init__(self, beta=1.0, threshold=20.0):
        self.beta, self.threshold = beta, threshold

    def __call__(self, x):
        return f.softplus(x, self.beta, self.threshold)


class Hardtanh(Module):
    """x limited to [min_val, max_val]."""

    def __init__(self, min_val=-1.0, max_val=1.0):
        self.min_val, self.max_val = min_val, max_val

    def __call__(self, x):
        return f.hardtanh(x, self.min_val, self.max_val)


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
