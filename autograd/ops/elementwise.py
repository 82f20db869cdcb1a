"""Elementwise operations: arithmetic, powers and logarithms, trigonometry, selection.

Arguments are tensors, arrays or numbers that broadcast as in NumPy. The engine sums gradients over broadcast axes, so
that no rule mentions them. Floating results have the dtype NumPy gives them: float32 and a Python number make float32;
and, as in torch, so do float32 and integers, or an array of shape ().
"""

import math

from allgrad.autograd.arrays import (
    astype,
    erf as erf_of,
    full,
    kind,
    mask_grad,
    namespace,
    on_cpu,
    promoted,
    sign as sign_of,
    to_backend_of,
    xp,
)  # fmt: skip
from allgrad.autograd.engine import Tensor, attach_methods, number, own_copy, primitive, reference_array, unwrap


def promoting(rule):
    """Mark a rule of two arrays: where they are of two dtypes, its operation brings them to one as torch does."""
    rule.promotes = True
    return rule


def add(a, b, *, alpha=1):
    """a + alpha b."""
    return _add(a, b if (alpha == 1) is True else mul(b, number(alpha, "add: alpha")))


@primitive
@promoting
def _add(a, b):
    return a + b, lambda g: g, lambda g: g


def sub(a, b, *, alpha=1):
    """a - alpha b."""
    return _sub(a, b if (alpha == 1) is True else mul(b, number(alpha, "sub: alpha")))


@primitive
@promoting
def _sub(a, b):
    return a - b, lambda g: g, lambda g: -g


@primitive
@promoting
def mul(a, b):
    """a * b."""
    return a * b, lambda g: g * b, lambda g: g * a


def div(a, b, *, rounding_mode=None):
    """a / b; with rounding_mode rounded down ("floor") or towards zero ("trunc"), and derivative 0."""
    if rounding_mode not in (None, "floor", "trunc"):
        raise ValueError(f'div: rounding_mode is None, "floor" or "trunc", got {rounding_mode!r}')
    return _div(a, b) if rounding_mode is None else _div_rounded(a, b, down=rounding_mode == "floor")


@primitive
@promoting
def _div(a, b):
    y = a / b
    return y, lambda g: g / b, lambda g: -g * y / b


@primitive
def _div_rounded(a, b, *, down):
    if type(a) is Tensor or type(b) is Tensor:
        return _div_rounded(a, b, down=down), _zero, _zero
    a, b = promoted(a, b) or (a, b)
    n = namespace(a, b)
    y = a // b if down else n.trunc(a / b)
    if not down and kind((whole := a // b).dtype) in "biu":  # exact for integers, which a quotient in floats is not
        y = n.where((a % b != 0) & (whole < 0), whole + 1, whole)
    return y, _zero, _zero


def _zero(g):
    """The gradient of what is constant between its jumps: 0, also where g is nan or infinite."""
    return mask_grad(g, full((), False, unwrap(g), "bool"))


@primitive
def neg(a):
    """-a."""
    return -a, lambda g: -g


@primitive
@promoting
def pow(a, b):
    """a ** b. Where b = 0 the derivative by a is 0, and where a = 0 and b >= 0 that by b is 0."""
    y = a**b
    n = namespace(a, b)

    def by_base(g):
        zero = unwrap(b) == 0
        if zero is True or zero is False:  # of a number
            return _zero(g) if zero else g * (b * a ** (b - 1))
        return mask_grad(g * (b * a ** _one_where(zero, b - 1, n)), ~zero)

    def by_exponent(g):
        still = (unwrap(a) == 0) & (unwrap(b) >= 0)
        if isinstance(a, (int, float)):
            log = (
                math.log(a)
                if a > 0
                else math.nan
                if a
                else astype(xp[type(still)].where(still, 0.0, -math.inf), y.dtype)
            )
        else:
            log = n.log(_one_where(still, a, n))
        return g * (y * log)

    return y, by_base, by_exponent


def _one_where(replaced, x, n):
    """x with 1 where the mask holds."""
    return n.where(replaced, 1, x) if not on_cpu(replaced) or replaced.any() else x


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
    """|a|, with derivative 0 at 0 and where a is nan."""
    return xp[type(a)].abs(a), lambda g: g * (sign if type(a) is Tensor else sign_of)(a)


@primitive
def sign(a):
    """-1, 0 or 1, also 0 of nan; its derivative is 0 everywhere."""
    return (sign if type(a) is Tensor else sign_of)(a), _zero


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
@promoting
def maximum(a, b):
    """The larger of a and b, or nan if one is, element by element. Equal ones get half the gradient each."""
    y = namespace(a, b).maximum(a, b)
    x, z = unwrap(a), unwrap(b)
    return y, *_split_ties(x < z, x > z, x == z, unwrap(y).dtype)


@primitive
@promoting
def minimum(a, b):
    """The smaller of a and b, or nan if one is, element by element. Equal ones get half the gradient each."""
    y = namespace(a, b).minimum(a, b)
    x, z = unwrap(a), unwrap(b)
    return y, *_split_ties(x > z, x < z, x == z, unwrap(y).dtype)


def _split_ties(first_loses, second_loses, equal, dtype):
    """The vjps of two operands: none for the one that loses, half for each of equals, and all for both beside a nan."""
    part = astype(xp[type(equal)].where(equal, 0.5, 1.0), dtype)
    return lambda g: mask_grad(g * part, ~first_loses), lambda g: mask_grad(g * part, ~second_loses)


@primitive
def where(condition, a, b):
    """a where the condition holds, b elsewhere; all three broadcast. TypeError unless it is boolean or integer."""
    c = to_backend_of(unwrap(condition), reference_array(a, b, condition))
    if kind(c.dtype) not in "biu":
        raise TypeError(f"where: the condition is an array of booleans, such as a > 0, not of {c.dtype}")
    c = own_copy(c, condition) if kind(c.dtype) == "b" else c != 0
    a, b = promoted(a, b) or (a, b)
    return namespace(a, b, c).where(c, a, b), None, lambda g: mask_grad(g, c), lambda g: mask_grad(g, ~c)


def clamp(a, min=None, max=None):
    """a limited to [min, max]: numbers or arrays, one of which may be None; where min is above max, the result is max.

    The derivative by a is 1 within the bounds, ends included; that by a bound is 1 where a is beyond it, and by min
    only where that is below max.
    """
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    return _clamp(a, min, max)


@primitive
def _clamp(a, low, high):
    for bound in (low, high):
        a, _ = promoted(a, bound) or (a, bound)
    low, high = ((promoted(a, bound) or (a, bound))[1] for bound in (low, high))
    x, lo, hi = unwrap(a), unwrap(low), unwrap(high)
    value = namespace(a, low, high).clip(a, low, high)
    if low is None:
        return value, lambda g: mask_grad(g, x <= hi), None, lambda g: mask_grad(g, x > hi)
    if high is None:
        return value, lambda g: mask_grad(g, x >= lo), lambda g: mask_grad(g, x < lo)
    return (
        value,
        lambda g: mask_grad(g, (x >= lo) & (x <= hi)),
        lambda g: mask_grad(g, (x < lo) & (lo < hi)),
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
