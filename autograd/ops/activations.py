"""Activation functions of each element, and softmax and its logarithm along an axis."""

import math

import numpy as np

from allgrad.autograd.arrays import (
    NUMPY_TYPES,
    astype,
    cache_blocks,
    erf,
    kind,
    logistic,
    mask_grad,
    max_keepdims,
    positive_part,
    sum_keepdims,
    xp,
)  # fmt: skip
from allgrad.autograd.engine import Tensor, attach_methods, number, primitive, unwrap
from allgrad.autograd.ops.conversions import cast

SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
INVERSE_SQRT_TAU = 1.0 / math.sqrt(2.0 * math.pi)


@primitive
def relu(a):
    """max(a, 0), with derivative 0 at 0."""
    y = (relu if type(a) is Tensor else positive_part)(a)
    m = unwrap(y) != 0  # kept for backward in place of y, which takes four times the memory
    return y, lambda g: mask_grad(g, m)


def leaky_relu(a, negative_slope=0.01):
    """a where it is positive, negative_slope * a elsewhere; the derivative at 0 is negative_slope."""
    return _leaky_relu(a, slope=number(negative_slope, "leaky_relu: negative_slope"))


@primitive
def _leaky_relu(a, *, slope):
    x = unwrap(a)
    scale = xp[type(x)].where(x > 0, 1.0, slope)
    scale = astype(scale, x.dtype) if kind(x.dtype) == "f" else scale
    return a * scale, lambda g: g * scale


def elu(a, alpha=1.0):
    """a where it is positive, alpha (exp(a) - 1) elsewhere. Clevert et al. 2016."""
    return _elu(a, alpha=number(alpha, "elu: alpha"))


@primitive
def _elu(a, *, alpha):
    n, positive = xp[type(a)], ~(unwrap(a) <= 0)  # or nan
    e = n.exp(n.where(positive, 0.0, a)) * alpha
    return n.where(positive, a, e - alpha), lambda g: g * n.where(positive, 1.0, e)


def gelu(a, approximate="none"):
    """a P(Z < a) for a standard normal Z; approximate="tanh" replaces P by a formula with tanh.

    Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is "none" or "tanh", got {approximate!r}')
    return _gelu_tanh(a) if approximate == "tanh" else _gelu(a)


@primitive
def _gelu(a):
    if type(a) in NUMPY_TYPES and a.dtype == np.float32:
        y, slope = _gelu_in_single(a)
        return y, lambda g: g * slope
    p = 0.5 * (erf(a * SQRT_HALF) + 1.0)
    return a * p, lambda g: g * (p + a * (xp[type(a)].exp(a * a * -0.5) * INVERSE_SQRT_TAU))


def _gelu_in_single(a):
    """gelu and its derivative for a float32 array, four times as fast as by SciPy's erf, and as accurate.

    For x >= 0 the standard normal distribution P and its density p satisfy P(-x) = p(x) / F(x), with a continued
    fraction F(x) = x + b1 + a1 / (x + b2 + a2 / (x + b3 + ...)). Laplace's has ai = i and bi = 0. The constants here
    were fitted so that four terms suffice: the relative error is below 6e-8 (1 + 2 x^2), hardly more than what exp
    makes of the rounding of x^2 / 2.
    """
    y, slope = np.empty(a.shape, a.dtype, like=a), np.empty(a.shape, a.dtype, like=a)
    with np.errstate(over="ignore"):  # of the square of what is beyond 1e19
        for x, value, derivative in cache_blocks(a, y, slope):
            t = np.abs(x)
            fraction = t + 0.0395554056
            for numerator, b in ((22.5777467, 5.83062826), (-8.56470818, 1.40076696), (1.11086045, -0.00365196333)):
                np.divide(numerator, fraction, out=fraction)
                fraction += t
                fraction += b
            np.multiply(x, x, out=t)
            t *= -0.5
            density = np.exp(t, out=t)
            density *= INVERSE_SQRT_TAU
            p = np.divide(density, fraction, out=fraction)  # P(-|x|)
            np.subtract(x > 0.0, p, out=p)
            np.abs(p, out=p)  # P(x)
            np.multiply(x, p, out=value)
            density *= x
            np.add(p, density, out=derivative)
    return y, slope


@primitive
def _gelu_tanh(a):
    t = xp[type(a)].tanh(SQRT_2_OVER_PI * (a + 0.044715 * (a * a * a)))
    half = 0.5 * (1.0 + t)

    def vjp(g):
        slope = SQRT_2_OVER_PI * (1.0 + 3 * 0.044715 * (a * a))
        return g * (half + a * (0.5 * (1.0 - t * t) * slope))

    return a * half, vjp


@primitive
def silu(a):
    """a * sigmoid(a), also called swish. Ramachandran, Zoph and Le 2017."""
    p = logistic(a)
    return a * p, lambda g: g * (p * (1.0 + a * (1.0 - p)))


def softplus(a, beta=1.0, threshold=20.0):
    """log(1 + exp(beta a)) / beta, a smooth relu; a itself where beta a > threshold. ValueError if beta is 0."""
    if not beta:
        raise ValueError("softplus: beta must not be 0: softplus(a) for a large beta tends to relu")
    return _softplus(a, beta=number(beta, "softplus: beta"), threshold=number(threshold, "softplus: threshold"))


@primitive
def _softplus(a, *, beta, threshold):
    n, z = xp[type(a)], a * beta
    linear = unwrap(z) > threshold
    y = n.where(linear, a, n.log1p(n.exp(n.where(linear, 0.0, z))) * (1.0 / beta))
    return y, lambda g: g * n.where(linear, 1.0, logistic(z))


def hardtanh(a, min_val=-1.0, max_val=1.0):
    """a limited to [min_val, max_val], with derivative 0 at and beyond the ends."""
    if not min_val <= max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is above max_val {max_val}: exchange them")
    return _hardtanh(a, low=number(min_val, "hardtanh: min_val"), high=number(max_val, "hardtanh: max_val"))


@primitive
def _hardtanh(a, *, low, high):
    x = unwrap(a)
    inside = ~((x <= low) | (x >= high))  # or nan
    return xp[type(a)].where(inside, a, x.clip(low, high)), lambda g: mask_grad(g, inside)


@primitive
def sigmoid(a):
    """1 / (1 + exp(-a))."""
    y = logistic(a)
    return y, lambda g: g * (y * (1.0 - y))


def softmax(a, axis=-1, *, dim=None, dtype=None):
    """exp(a) / sum(exp(a)) along the axis, of a's shape: positive numbers that sum to 1, without overflow."""
    return _softmax(a if dtype is None else cast(a, dtype), axis=axis if dim is None else dim)


@primitive
def _softmax(a, *, axis):
    y = xp[type(a)].exp(a - max_keepdims(unwrap(a), axis))
    y /= sum_keepdims(y, axis)

    def vjp(g):
        d = g - sum_keepdims(g * y, axis)
        d *= y
        return d

    return y, vjp


def log_softmax(a, axis=-1, *, dim=None, dtype=None):
    """log(softmax(a)) along the axis, of a's shape, without underflow."""
    return _log_softmax(a if dtype is None else cast(a, dtype), axis=axis if dim is None else dim)


@primitive
def _log_softmax(a, *, axis):
    n = xp[type(a)]
    z = a - max_keepdims(unwrap(a), axis)
    e = n.exp(z)
    s = sum_keepdims(e, axis)
    return z - n.log(s), lambda g: g - e * (sum_keepdims(g, axis) / s)


attach_methods(relu, leaky_relu, elu, gelu, silu, softplus, hardtanh, sigmoid, softmax, log_softmax)
