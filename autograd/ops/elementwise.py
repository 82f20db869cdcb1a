"""Elementwise operations: arithmetic, powers and logarithms, trigonometry, selection.

Arguments are tensors, arrays or numbers that broadcast as in NumPy. The engine sums gradients over broadcast axes, so
that no rule mentions them. Floating results have the dtype NumPy gives them: float32 and a Python number make float32.
"""

import math

from allgrad.autograd.arrays import astype, erf as erf_of, kind, mask_grad, namespace, to_backend_of, xp
from allgrad.autograd.engine import Tensor, attach_methods, primitive, reference_array, unwrap


def add(a, b, *, alpha=1):
    """a + alpha b."""
    return _add(a, b if alpha == 1 else b * alpha)


@primitive
def _add(a, b):
    return a + b, lambda g: g, lambda g: g


def sub(a, b, *, alpha=1):
    """a - alpha b."""
    return _sub(a, b if alpha == 1 else b * alpha)


@primitive
def _sub(a, b):
    return a - b, lambda g: g, lambda g: -g


@primitive
def mul(a, b):
    """a * b."""
    return a * b, lambda g: g * b, lambda g: g * a


def div(a, b, *, rounding_mode=None):
    """a / b; with rounding_mode rounded down ("floor") or towards zero ("trunc"), and derivative 0."""
    if rounding_mode not in (None, "floor", "trunc"):
        raise ValueError(f'div: rounding_mode is None, "floor" or "trunc", got {rounding_mode!r}')
    return _div(a, b) if rounding_mode is None else _div_rounded(a, b, down=rounding_mode == "floor")


@primitive
def _div(a, b):
    y = a / b
    return y, lambda g: g / b, lambda g: -g * y / b


@primitive
def _div_rounded(a, b, *, down):
    if type(a) is Tensor or type(b) is Tensor:
        y = _div_rounded(a, b, down=down)
    else:
        y = a // b if down else namespace(a, b).trunc(a / b)
    return y, lambda g: g * 0.0, lambda g: g * 0.0


@primitive
def neg(a):
    """-a."""
    return -a, lambda g: -g


@primitive
def pow(a, b):
    """a ** b. Where b = 0 the derivative by a is 0, and where a = 0 that by b is 0."""
    y = a**b
    n = namespace(a, b)

    def by_base(g):
        return g * (b * a ** _unless(b - 1, unwrap(b) == 0, n))

    def by_exponent(g):
        base = _unless(a, unwrap(a) == 0, n)
        return g * (y * (_log(base) if isinstance(base, (int, float)) else n.log(base)))

    return y, by_base, by_exponent


def _log(x):
    return math.log(x) if x > 0 else math.nan


def _unless(x, replaced, n):
    """x, an array or a number, with 1 where the mask `replaced` holds."""
    if isinstance(x, (int, float)):
        return 1 if replaced else x
    return n.where(replaced, 1.0, x) if replaced.any() else x


@primitive
def exp(a):
    """e ** a."""
    y = xp[type(a)].exp(a)
    return y, lambda g: g * y


@primitive
def expm1(a):
    """e ** a - 1, accurate near 0."""
    y = xp[type(a)].expm1(a)
    return y, lambda g: g * (y + 1.0)


@primitive
def log(a):
    """Natural logarithm."""
    return xp[type(a)].log(a), lambda g: g / a


@primitive
def log1p(a):
    """log(1 + a), accurate near 0."""
    return xp[type(a)].log1p(a), lambda g: g / (1.0 + a)


@primitive
def sqrt(a):
    """Square root."""
    y = xp[type(a)].sqrt(a)
    return y, lambda g: g / (2.0 * y)


@primitive
def rsqrt(a):
    """1 / sqrt(a)."""
    y = 1.0 / xp[type(a)].sqrt(a)
    return y, lambda g: g * (-0.5 * y * y * y)


@primitive
def reciprocal(a):
    """1 / a."""
    y = 1.0 / a
    return y, lambda g: -g * y * y


@primitive
def square(a):
    """a * a."""
    return a * a, lambda g: g * (2.0 * a)


@primitive
def erf(a):
    """The error function 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to a."""
    return erf_of(a), lambda g: g * (2.0 / math.sqrt(math.pi) * xp[type(a)].exp(-a * a))


@primitive
def abs(a):
    """|a|, with derivative 0 at 0."""
    return xp[type(a)].abs(a), lambda g: g * xp[type(a)].sign(a)


@primitive
def sign(a):
    """-1, 0 or 1; its derivative is 0 everywhere."""
    return xp[type(a)].sign(a), lambda g: g * 0.0


@primitive
def sin(a):
    """Sine of an angle in radians."""
    return xp[type(a)].sin(a), lambda g: g * xp[type(a)].cos(a)


@primitive
def cos(a):
    """Cosine of an angle in radians."""
    return xp[type(a)].cos(a), lambda g: -g * xp[type(a)].sin(a)


@primitive
def tanh(a):
    """Hyperbolic tangent."""
    y = xp[type(a)].tanh(a)
    return y, lambda g: g * (1.0 - y * y)


@primitive
def maximum(a, b):
    """The larger of a and b, element by element. Where they are equal, each gets half of the gradient."""
    return namespace(a, b).maximum(a, b), *_split_ties(unwrap(a) >= unwrap(b), unwrap(a) <= unwrap(b), a, b)


@primitive
def minimum(a, b):
    """The smaller of a and b, element by element. Where they are equal, each gets half of the gradient."""
    return namespace(a, b).minimum(a, b), *_split_ties(unwrap(a) <= unwrap(b), unwrap(a) >= unwrap(b), a, b)


def _split_ties(first, second, *operands):
    """The vjps of two operands: each gets the gradient where its mask holds, and half of it where both do."""
    like = reference_array(*operands)
    part = astype(xp[type(like)].where(first & second, 0.5, 1.0), like.dtype)
    return lambda g: mask_grad(g * part, first), lambda g: mask_grad(g * part, second)


@primitive
def where(condition, a, b):
    """a where the condition holds, b elsewhere; all three broadcast. TypeError unless it is boolean or integer."""
    c = to_backend_of(unwrap(condition), reference_array(a, b, condition))
    if kind(c.dtype) not in "biu":
        raise TypeError(f"where: the condition is an array of booleans, such as a > 0, not of {c.dtype}")
    c = c if kind(c.dtype) == "b" else c != 0
    return namespace(a, b, c).where(c, a, b), None, lambda g: mask_grad(g, c), lambda g: mask_grad(g, ~c)


def clamp(a, min=None, max=None):
    """a limited to [min, max]: numbers or arrays, one of which may be None; where min is above max, the result is max.

    The derivative by a is 1 within the bounds, ends included; that by a bound is 1 where a is beyond it.
    """
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    return _clamp(a, -math.inf if min is None else min, math.inf if max is None else max)


@primitive
def _clamp(a, low, high):
    x, lo, hi = unwrap(a), unwrap(low), unwrap(high)
    inside = (x >= lo) & (x <= hi)
    return (
        namespace(a, low, high).clip(a, low, high),
        lambda g: mask_grad(g, inside),
        lambda g: mask_grad(g, (x < lo) & (lo <= hi)),
        lambda g: mask_grad(g, (x > hi) | (lo > hi)),
    )


for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
    setattr(Tensor, _name, lambda self, other, name=_name: getattr(unwrap(self), name)(unwrap(other)))

Tensor.__add__, Tensor.add = _add, add
Tensor.__radd__ = lambda self, other: _add(other, self)
Tensor.__sub__, Tensor.sub = _sub, sub
Tensor.__rsub__ = lambda self, other: _sub(other, self)
Tensor.__mul__ = Tensor.mul = mul
Tensor.__rmul__ = lambda self, other: mul(other, self)
Tensor.__truediv__, Tensor.div = _div, div
Tensor.__rtruediv__ = lambda self, other: _div(other, self)
Tensor.__pow__ = Tensor.pow = pow
Tensor.__rpow__ = lambda self, other: pow(other, self)
Tensor.__neg__ = Tensor.neg = neg
Tensor.__abs__ = Tensor.abs = abs
Tensor.where = lambda self, condition, other: where(condition, self, other)
Tensor.clip = clamp
attach_methods(exp, expm1, log, log1p, sqrt, rsqrt, reciprocal, square, erf, sign, sin, cos, tanh, maximum, minimum)
attach_methods(clamp)
