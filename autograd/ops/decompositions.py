"""Linear equations, inverses, determinants and Cholesky factors of matrices and stacks of them: `ag.linalg`."""

from typing import Any, NamedTuple

import numpy as np

from allgrad.autograd.arrays import cast_like, to_backend_of, xp
from allgrad.autograd.engine import Tensor, attach_methods, primitive, shape_of, shared, unwrap
from allgrad.autograd.ops.elementwise import where
from allgrad.autograd.ops.linalg import matmul
from allgrad.autograd.ops.shapes import squeeze, unsqueeze


class SignAndLog(NamedTuple):
    """The sign of a determinant, an array, and the logarithm of its absolute value, a tensor."""

    sign: Any
    logabsdet: Tensor


def _square(name, a):
    shape = shape_of(a)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"{name}: needs square matrices (..., n, n), got shape {shape}")


def solve(a, b, *, left=True):
    """x with a x = b for matrices a (..., n, n) and b (..., n, m) or (n,) or (..., n); x a = b unless left."""
    _square("solve", a)
    m, n = shape_of(a), shape_of(b)
    vector = len(n) == 1 or n == m[:-1]
    b = unsqueeze(b, -1) if vector and left else b
    if not left:
        return solve(a.mT, b.mT).mT
    if shape_of(b)[-2] != m[-1]:
        raise ValueError(f"solve: matrices {m} and right-hand sides {n} do not fit together")
    x = _solve(a, b)
    return squeeze(x, -1) if vector else x


@primitive
def _solve(a, b):
    x = _solved(a, b)

    def pullback(g):
        d = _solved(a.mT, g)
        return -d @ x.mT, d

    return x, *shared(pullback, 2)


def _solved(a, b):
    return _solve(a, b) if Tensor in (type(a), type(b)) else xp[type(a)].linalg.solve(a, b)


def inv(a):
    """The inverse of square matrices."""
    _square("inv", a)
    return _inv(a)


@primitive
def _inv(a):
    y = _inv(a) if type(a) is Tensor else xp[type(a)].linalg.inv(a)
    return y, lambda g: -(y.mT @ g @ y.mT)


def det(a):
    """The determinant of square matrices. Of singular ones there are first derivatives only."""
    _square("det", a)
    return _det(a)


@primitive
def _det(a):
    y = _det(a) if type(a) is Tensor else xp[type(a)].linalg.det(a)
    return y, lambda g: g[..., None, None] * (y[..., None, None] * _inv(a).mT if type(a) is Tensor else _cofactors(a))


def _cofactors(a):
    """The derivatives of the determinant of a = u diag(s) v by its elements, also if it is singular."""
    n = xp[type(a)]
    u, s, v = n.linalg.svd(a)
    others = n.where(to_backend_of(np.eye(a.shape[-1], dtype=bool), a), 1.0, s[..., None, :]).prod(-1)
    sign = n.linalg.det(u) * n.linalg.det(v)
    return sign[..., None, None] * ((u * others[..., None, :]) @ v)


def slogdet(a):
    """The sign of the determinant of square matrices, and the logarithm of its absolute value."""
    _square("slogdet", a)
    x = unwrap(a)
    return SignAndLog(xp[type(x)].linalg.slogdet(x)[0], _log_of_det(a))


@primitive
def _log_of_det(a):
    y = _log_of_det(a) if type(a) is Tensor else xp[type(a)].linalg.slogdet(a)[1]
    return y, lambda g: g[..., None, None] * _inverse(a).mT


def _inverse(a):
    return _inv(a) if type(a) is Tensor else xp[type(a)].linalg.inv(a)


def logdet(a):
    """The logarithm of the determinant of square matrices; nan where that is negative."""
    sign, y = slogdet(a)
    return where(sign < 0, float("nan"), y)


def cholesky(a, *, upper=False):
    """The lower triangular l with l l^T = a for symmetric positive definite a; or the upper one, its transpose.

    The gradient by a is symmetric. Murray 2016, "Differentiation of the Cholesky decomposition".
    """
    _square("cholesky", a)
    y = _cholesky(a)
    return y.mT if upper else y


@primitive
def _cholesky(a):
    y = _cholesky(a) if type(a) is Tensor else xp[type(a)].linalg.cholesky(a)
    n = a.shape[-1]
    half = cast_like(np.tri(n) - 0.5 * np.eye(n), unwrap(a))

    def vjp(g):
        k = _inverse(y)
        s = k.mT @ ((y.mT @ g) * half) @ k
        return 0.5 * (s + s.mT)

    return y, vjp


def matrix_power(a, n):
    """a @ a @ ... n times, by squaring; of the inverse for negative n."""
    _square("matrix_power", a)
    a, n = (inv(a), -n) if n < 0 else (a, n)
    y = None
    while n:
        y = a if n & 1 and y is None else matmul(y, a) if n & 1 else y
        n //= 2
        a = matmul(a, a) if n else a
    return y if y is not None else where(np.False_, a, cast_like(np.eye(a.shape[-1]), unwrap(a)))


attach_methods(inv, det, slogdet, logdet, cholesky, matrix_power)
