"""Products of vectors and matrices, scaled and added, and distances and angles between vectors."""

import math
from typing import Any

from allgrad.autograd.arrays import normalize_axes, normalize_axis
from allgrad.autograd.engine import Tensor, attach_methods, number, shape_of
from allgrad.autograd.ops.elementwise import clamp, mul
from allgrad.autograd.ops.indexing import getitem
from allgrad.autograd.ops.linalg import bmm, matmul, mm, outer
from allgrad.autograd.ops.reductions import norm, sum
from allgrad.autograd.ops.shapes import permute, reshape, stack, unsqueeze


def dot(a, b):
    """The sum of a_i b_i of two vectors of one length."""
    m, n = shape_of(a), shape_of(b)
    if len(m) != 1 or m != n:
        raise ValueError(f"dot: needs two vectors of one length, got shapes {m} and {n}")
    return matmul(a, b)


def inner(a, b):
    """The products of the last axes of a and b: (..., k) and (..., k)."""
    if () in (shape_of(a), shape_of(b)):
        return mul(a, b)
    return tensordot(a, b, ([-1], [-1]))


def mv(a, b):
    """The product of a matrix and a vector."""
    m, n = shape_of(a), shape_of(b)
    if len(m) != 2 or m[1:] != n:
        raise ValueError(f"mv: needs a matrix (n, k) and a vector (k,), got shapes {m} and {n}")
    return matmul(a, b)


def _plus(a, product, beta, alpha):
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (a if beta == 1 else a * beta)  # beta 0 takes no nan from a


def addmm(a, mat1, mat2, *, beta=1, alpha=1):
    """beta a + alpha mat1 @ mat2, of matrices."""
    return _plus(a, mm(mat1, mat2), beta, alpha)


def addmv(a, mat, vec, *, beta=1, alpha=1):
    """beta a + alpha mat @ vec, of a matrix and a vector."""
    return _plus(a, mv(mat, vec), beta, alpha)


def addr(a, vec1, vec2, *, beta=1, alpha=1):
    """beta a + alpha vec1 vec2^T, the outer product of two vectors."""
    return _plus(a, outer(vec1, vec2), beta, alpha)


def baddbmm(a, batch1, batch2, *, beta=1, alpha=1):
    """beta a + alpha batch1 @ batch2, of stacks of matrices (B, n, k) and (B, k, m)."""
    return _plus(a, bmm(batch1, batch2), beta, alpha)


def tensordot(a, b, dims: Any = 2):
    """Sum of products over pairs of axes: the last n of a with the first n of b, or two lists of axes."""
    (m, n), dims = (shape_of(a), shape_of(b)), number(dims, "tensordot: dims")
    if isinstance(dims, int):
        of_a, of_b = list(range(len(m) - dims, len(m))), list(range(dims))
    else:
        of_a, of_b = (list(i) if isinstance(i, (list, tuple)) else [i] for i in dims)
    of_a, of_b = (list(normalize_axes(i, len(s), "tensordot") or ()) for i, s in ((of_a, m), (of_b, n)))
    alone_a, alone_b = (
        [j for i, j in enumerate(x) if s[j] != 1 == r[y[i]]] for x, y, s, r in ((of_a, of_b, m, n), (of_b, of_a, n, m))
    )  # as torch, sum over what meets an axis of length 1
    a, b = sum(a, alone_a, True) if alone_a else a, sum(b, alone_b, True) if alone_b else b
    m, n = shape_of(a), shape_of(b)
    if [m[i] for i in of_a] != [n[i] for i in of_b]:
        raise ValueError(f"tensordot: axes {of_a} and {of_b} of the shapes {m} and {n} are not equally long")
    rest_a, rest_b = [i for i in range(len(m)) if i not in of_a], [i for i in range(len(n)) if i not in of_b]
    k = math.prod(m[i] for i in of_a)
    left = reshape(permute(a, rest_a + of_a), (math.prod(m[i] for i in rest_a), k))
    right = reshape(permute(b, of_b + rest_b), (k, math.prod(n[i] for i in rest_b)))
    return reshape(matmul(left, right), tuple([m[i] for i in rest_a] + [n[i] for i in rest_b]))


def kron(a, b):
    """The Kronecker product: each element of a times all of b."""
    m, n = shape_of(a), shape_of(b)
    rank = max(len(m), len(n))
    m, n = (1,) * (rank - len(m)) + m, (1,) * (rank - len(n)) + n
    wide = tuple(k for i in m for k in (i, 1))
    return reshape(
        mul(reshape(a, wide), reshape(b, tuple(k for i in n for k in (1, i)))), tuple(i * j for i, j in zip(m, n))
    )


def cross(a, b, dim=-1):
    """The vector product of vectors of three elements along the axis: the last one, as torch.linalg's."""
    rank = max(len(shape_of(a)), len(shape_of(b)))
    dim = normalize_axis(dim, rank, "cross") - rank
    if shape_of(a)[dim] != 3 or shape_of(b)[dim] != 3:
        raise ValueError(f"cross: axis {dim} has 3 elements, got shapes {shape_of(a)} and {shape_of(b)}")
    part = lambda x, i: getitem(x, (..., i) + (slice(None),) * (-1 - dim))
    parts = [part(a, i) * part(b, j) - part(a, j) * part(b, i) for i, j in ((1, 2), (2, 0), (0, 1))]
    return stack(parts, dim)


def normalize(a, p=2.0, dim=1, eps=1e-12):
    """a divided by its p-norm along the axis, or by eps where that is smaller."""
    return a / clamp(norm(a, p, dim, True), min=eps)


def dist(a, b, p=2):
    """The p-norm of all elements of a - b."""
    return norm(a - b, p)


def cdist(a, b, p=2.0, compute_mode=None):
    """The p-norms (..., n, m) of the differences of all vectors of a (..., n, d) and of b (..., m, d).

    Where two vectors are equal the derivative is 0. compute_mode, which torch takes, makes no difference.
    """
    if len(shape_of(a)) < 2 or len(shape_of(b)) < 2 or shape_of(a)[-1] != shape_of(b)[-1]:
        raise ValueError(f"cdist: needs vectors of one length, got shapes {shape_of(a)} and {shape_of(b)}")
    return norm(unsqueeze(a, -2) - unsqueeze(b, -3), p, -1)


attach_methods(dot, inner, mv, addmm, addmv, addr, baddbmm, kron, cross, dist)
Tensor.vdot = dot
