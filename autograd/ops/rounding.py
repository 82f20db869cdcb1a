"""Rounding, remainders, and what else is constant or has slope 1 piece by piece. Derivatives of steps are 0."""

import math

import numpy as np

from allgrad.autograd.arrays import mask_grad, namespace, to_backend_of, xp
from allgrad.autograd.engine import Tensor, attach_methods, primitive, unwrap
from allgrad.autograd.ops.elementwise import abs, clamp, div, where
from allgrad.autograd.ops.special import of_arrays


def no_gradient(g):
    """Zeros of the shape of g, also where that is nan or infinite."""
    return mask_grad(g, to_backend_of(np.False_, unwrap(g)))


def _step(name, doc):
    """The operation of the library's function of this name, a step function."""

    def rule(a):
        return getattr(xp[type(a)], name)(a), no_gradient

    rule.__name__ = rule.__qualname__ = name
    rule.__doc__ = doc
    return primitive(rule)


floor = _step("floor", "The largest integer that is not above a.")
ceil = _step("ceil", "The smallest integer that is not below a.")
trunc = _step("trunc", "a without the digits behind the point.")


def round(a, *, decimals=0):
    """a rounded to so many decimals; a half goes to the even neighbour."""
    return _round(a, decimals=decimals)


@primitive
def _round(a, *, decimals):
    y = _round(a, decimals=decimals) if type(a) is Tensor else xp[type(a)].round(a, decimals=decimals)
    return y, no_gradient


def frac(a):
    """a - trunc(a), with derivative 1."""
    return a - trunc(a)


@of_arrays
@primitive
def remainder(a, b):
    """a - b floor(a / b), Python's a % b: of the sign of b."""
    y = remainder(a, b) if Tensor in (type(a), type(b)) else namespace(a, b).remainder(a, b)
    return y, lambda g: g, lambda g: -g * (unwrap(a) // unwrap(b))


@of_arrays
@primitive
def fmod(a, b):
    """a - b trunc(a / b): of the sign of a."""
    y = fmod(a, b) if Tensor in (type(a), type(b)) else namespace(a, b).fmod(a, b)
    return y, lambda g: g, lambda g: -g * namespace(unwrap(a), unwrap(b)).trunc(unwrap(a) / unwrap(b))


def floor_divide(a, b):
    """floor(a / b), Python's a // b."""
    return div(a, b, rounding_mode="floor")


def sgn(a):
    """-1, 0 or 1; its derivative is 0 everywhere."""
    return a.sign()


def copysign(a, b):
    """|a| with the sign of b."""
    x = unwrap(b)
    negative = np.signbit(x) if isinstance(x, (int, float)) or xp[type(x)] is np else x.signbit()
    return where(negative, -abs(a), abs(a))


def clamp_min(a, min):
    """a, but at least min."""
    return clamp(a, min=min)


def clamp_max(a, max):
    """a, but at most max."""
    return clamp(a, max=max)


def fmax(a, b):
    """The larger of a and b, element by element, a if they are equal; the other one where one is nan."""
    x, y = unwrap(a), unwrap(b)
    return where((x >= y) | (y != y), a, b)


def fmin(a, b):
    """The smaller of a and b, element by element, a if they are equal; the other one where one is nan."""
    x, y = unwrap(a), unwrap(b)
    return where((x <= y) | (y != y), a, b)


def nan_to_num(a, nan=0.0, posinf=None, neginf=None):
    """a with numbers in the place of nan and of the infinities: for those the largest of the dtype, if none is given.

    Their gradient is 0.
    """
    x = unwrap(a)
    limits = np.finfo(x.dtype) if xp[type(x)] is np else xp[type(x)].finfo(x.dtype)
    a = where(x != x, 0.0 if nan is None else nan, a)
    a = where(x == math.inf, float(limits.max) if posinf is None else posinf, a)
    return where(x == -math.inf, float(limits.min) if neginf is None else neginf, a)


Tensor.__floordiv__ = Tensor.floor_divide = floor_divide
Tensor.__rfloordiv__ = lambda self, other: floor_divide(other, self)
Tensor.__mod__ = Tensor.remainder = remainder
Tensor.__rmod__ = lambda self, other: remainder(other, self)
Tensor.__divmod__ = lambda self, other: (floor_divide(self, other), remainder(self, other))
Tensor.__pos__ = lambda self: self
Tensor.__round__ = lambda self, decimals=0: round(self, decimals=decimals)
attach_methods(floor, ceil, trunc, round, frac, fmod, sgn, copysign, clamp_min, clamp_max, fmax, fmin, nan_to_num)
