"""Smooth functions of each element beyond those of `elementwise`: each with its derivative in one line.

Arguments of several broadcast. lgamma, digamma, polygamma, erfc and erfinv of NumPy's arrays are SciPy's.
"""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import astype, cast_like, logistic, mask_grad, namespace, promoted, xp
from allgrad.autograd.engine import Tensor, attach_methods, primitive, reference_array, unwrap
from allgrad.autograd.ops.elementwise import mul, sin, where

LN2, LN10, HALF_SQRT_PI = math.log(2.0), math.log(10.0), math.sqrt(math.pi) / 2.0


def _smooth(name, derivative, doc):
    """The operation of the library's function of this name, with derivative(library, a, y) at a, where it is y."""

    def rule(a):
        n = xp[type(a)]
        y = _function(n, name)(a)
        return y, lambda g: g * derivative(n, a, y)

    rule.__name__ = rule.__qualname__ = name
    rule.__doc__ = doc
    return primitive(rule)


def _function(n, name) -> Any:
    if hasattr(n, name):
        return getattr(n, name)
    from scipy import special

    if name == "lgamma":  # which is infinite on both sides, unlike SciPy's
        return lambda a: special.gammaln(np.where(a == -math.inf, math.inf, a))
    return getattr(special, name)


tan = _smooth("tan", lambda n, a, y: 1.0 + y * y, "Tangent of an angle in radians.")
asin = _smooth("asin", lambda n, a, y: 1.0 / n.sqrt(1.0 - a * a), "Inverse sine, in radians.")
acos = _smooth("acos", lambda n, a, y: -1.0 / n.sqrt(1.0 - a * a), "Inverse cosine, in radians.")
atan = _smooth("atan", lambda n, a, y: 1.0 / (1.0 + a * a), "Inverse tangent, in radians.")
sinh = _smooth("sinh", lambda n, a, y: n.cosh(a), "Hyperbolic sine.")
cosh = _smooth("cosh", lambda n, a, y: n.sinh(a), "Hyperbolic cosine.")
asinh = _smooth("asinh", lambda n, a, y: 1.0 / n.sqrt(a * a + 1.0), "Inverse hyperbolic sine.")
acosh = _smooth("acosh", lambda n, a, y: 1.0 / n.sqrt(a * a - 1.0), "Inverse hyperbolic cosine.")
atanh = _smooth("atanh", lambda n, a, y: 1.0 / (1.0 - a * a), "Inverse hyperbolic tangent.")
exp2 = _smooth("exp2", lambda n, a, y: y * LN2, "2 ** a.")
log2 = _smooth("log2", lambda n, a, y: 1.0 / (a * LN2), "Logarithm to the base 2.")
log10 = _smooth("log10", lambda n, a, y: 1.0 / (a * LN10), "Logarithm to the base 10.")
erfc = _smooth("erfc", lambda n, a, y: n.exp(-a * a) / -HALF_SQRT_PI, "1 - erf(a), accurate where that is near 0.")
erfinv = _smooth("erfinv", lambda n, a, y: HALF_SQRT_PI * n.exp(y * y), "The inverse of `erf`, on (-1, 1).")
lgamma = _smooth("lgamma", lambda n, a, y: digamma(a) if n is xp[Tensor] else _polygamma_of(0, a), "log |Gamma(a)|.")


def polygamma(n, a):
    """The derivative of order n of `digamma`; n is an integer of at least 0."""
    n = int(n) if isinstance(n, np.integer) else n
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"polygamma: the order is an integer of at least 0, got {n!r}")
    return _polygamma(a, order=n)


@primitive
def _polygamma(a, *, order):
    y = _polygamma(a, order=order) if type(a) is Tensor else _polygamma_of(order, a)
    return y, lambda g: g * (polygamma(order + 1, a) if type(a) is Tensor else _polygamma_of(order + 1, a))


def _polygamma_of(order, a):
    return astype(_function(xp[type(a)], "polygamma")(order, a), a.dtype)


def digamma(a):
    """The derivative of `lgamma`."""
    return polygamma(0, a)


def of_arrays(operation):
    """The user's form of an operation of two arrays, one of which may be given as a number."""

    def paired(a, b):
        a, b = (x.item() if isinstance(x, np.generic) else x for x in (a, b))
        like = reference_array(a, b)
        return operation(*(cast_like(x, like) if isinstance(x, (int, float)) else x for x in (a, b)))

    paired.__name__ = paired.__qualname__ = operation.__name__
    paired.__doc__ = operation.__doc__
    return paired


@of_arrays
@primitive
def atan2(a, b):
    """The angle of the point (b, a) in radians, in [-pi, pi]; at the origin its derivatives are 0."""
    squared = a * a + b * b
    squared = squared + (unwrap(squared) == 0)
    return namespace(a, b).atan2(a, b), lambda g: g * b / squared, lambda g: -g * a / squared


@of_arrays
@primitive
def hypot(a, b):
    """sqrt(a^2 + b^2), without overflow; at the origin its derivatives are 0."""
    y = namespace(a, b).hypot(a, b)
    length = y + (unwrap(y) == 0)
    return y, lambda g: g * (a / length), lambda g: g * (b / length)


@of_arrays
@primitive
def logaddexp(a, b):
    """log(exp(a) + exp(b)), without overflow."""
    n, x, y = namespace(a, b), unwrap(a), unwrap(b)
    alike = (x == y) & (abs(x) == math.inf)  # a - b would be nan
    d = n.where(alike, 0.0, a) - n.where(alike, 0.0, b)
    return n.logaddexp(a, b), lambda g: g * logistic(d), lambda g: g * logistic(-d)


def logaddexp2(a, b):
    """log2(2^a + 2^b), without overflow."""
    return logaddexp(mul(a, LN2), mul(b, LN2)) * (1.0 / LN2)


@of_arrays
@primitive
def xlogy(a, b):
    """a log(b), and 0 where a is 0, unless b is nan. Where a = 0 the derivative by b is 0, and by a too for b <= 0."""
    n, x, z = namespace(a, b), unwrap(a), unwrap(b)
    none, still = (x == 0) & (z == z), (x == 0) & (z <= 0)
    safe = n.where(none, 1.0, b)
    y = n.where(none, 0.0, a * n.log(safe))
    return y, lambda g: mask_grad(g * n.log(n.where(still, 1.0, b)), ~still), lambda g: mask_grad(g * a / safe, ~none)


def logit(a, eps=None):
    """log(a / (1 - a)), the inverse of `sigmoid`; with eps, of a limited to [eps, 1 - eps]."""
    return _logit(a if eps is None else a.clamp(eps, 1.0 - eps))


@primitive
def _logit(a):
    n, outside = xp[type(a)], (unwrap(a) < 0) | (unwrap(a) > 1)
    at = a + 0.0  # which is never -0.0
    return n.log(a / (1.0 - a)), lambda g: n.where(outside, math.nan, g / (at * (1.0 - at)))


def sinc(a):
    """sin(pi a) / (pi a), and 1 at 0."""
    z = a * math.pi
    near = unwrap(z) * unwrap(z) < 1e-8  # where two terms of the series are exact
    far = where(near, 1.0, z)
    return where(near, 1.0 - z * z / 6.0, sin(far) / far)


def deg2rad(a):
    """Degrees in radians."""
    return mul(a, math.pi / 180.0)


def rad2deg(a):
    """Radians in degrees."""
    return mul(a, 180.0 / math.pi)


def lerp(start, end, weight):
    """start + weight (end - start), by a number or an array of weights."""
    return _lerp(start, end, weight)


@primitive
def _lerp(start, end, weight):
    _, weight = promoted(start, weight) or (start, weight)
    d, n = end - start, namespace(start, end, weight)
    near = unwrap(weight) * unwrap(weight) < 0.25  # of the nearer end, so that weight 1 gives `end` itself
    y = start + weight * d if near is True else end - d * (1.0 - weight)
    y = y if isinstance(near, bool) else n.where(near, start + weight * d, y)
    return y, lambda g: g * (1.0 - weight), lambda g: g * weight, lambda g: g * d


def addcmul(a, b, c, *, value=1):
    """a + value b c."""
    return a + value * (b * c)


def addcdiv(a, b, c, *, value=1):
    """a + value b / c."""
    return a + value * (b / c)


attach_methods(tan, asin, acos, atan, sinh, cosh, asinh, acosh, atanh, exp2, log2, log10, erfc, erfinv, lgamma, digamma)
attach_methods(atan2, hypot, logaddexp, logaddexp2, xlogy, logit, sinc, deg2rad, rad2deg, lerp, addcmul, addcdiv)
Tensor.polygamma = lambda self, n: polygamma(n, self)
