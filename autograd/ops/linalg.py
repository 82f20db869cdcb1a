"""Matrix products: matmul in all of NumPy's shapes, the linear layer in one operation, and einsum."""

import math
import re

import numpy as np

from allgrad.autograd.arrays import NUMPY_TYPES, OuterProduct, as_operand, namespace, sum_rows, xp
from allgrad.autograd.engine import Tensor, primitive, shape_of
from allgrad.autograd.ops.indexing import getitem


@primitive
def matmul(a, b):
    """a @ b, as in NumPy: vectors (k,), matrices (n, k) @ (k, m), stacks (..., n, k) @ (..., k, m) that broadcast."""
    y = _product(a, b)
    if a.ndim == 1 and b.ndim == 1:
        return y, lambda g: g * b, lambda g: g * a
    if a.ndim == 1:  # (k,) @ (..., k, m) -> (..., m)
        return y, lambda g: (b @ g[..., None])[..., 0], lambda g: a[:, None] * g[..., None, :]
    if b.ndim == 1:  # (..., n, k) @ (k,) -> (..., n)
        return y, lambda g: g[..., None] * b, lambda g: (a.mT @ g[..., None])[..., 0]
    if b.ndim == 2:  # one product over all rows, instead of a stack of products to sum
        return y, lambda g: _product(g, b.mT), lambda g: _rows(a).mT @ _rows(g)
    return y, lambda g: g @ b.mT, lambda g: a.mT @ g


@primitive
def linear(x, weight, bias=None):
    """x @ weight.T + bias for x (..., in), weight (out, in), bias (out,) or None."""
    y = _product(x, weight.mT)
    if type(bias) is type(y):
        y += bias
    elif bias is not None:  # one of them belongs to the level below
        y = y + bias
    return (y, lambda g: _product(g, weight), lambda g: _outer(_rows(x), _rows(g)), lambda g: sum_rows(_rows(g)))


def _product(x, w):
    """x @ w: of arrays (..., n) and (n, m) one product over all rows, instead of a stack of products."""
    if not (type(x) in NUMPY_TYPES and type(w) in NUMPY_TYPES and w.ndim == 2 <= x.ndim):
        return x @ w
    return x.dot(w) if x.ndim == 2 else (_rows(x) @ w).reshape(*x.shape[:-1], w.shape[1])


def _outer(x, g):
    """g.T @ x for rows x (N, in) and g (N, out)."""
    return (x.mT @ g).mT if type(x) is Tensor or type(g) is Tensor else OuterProduct(x, g)


def _rows(x):
    """x (..., n) as a matrix of rows."""
    return x if x.ndim == 2 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def mm(a, b):
    """The product of two matrices."""
    return _of_rank("mm", 2, a, b)


def bmm(a, b):
    """The products of two stacks of as many matrices: (B, n, k) @ (B, k, m)."""
    return _of_rank("bmm", 3, a, b)


def _of_rank(name, rank, a, b):
    a, b = (x if type(x) is Tensor else Tensor(as_operand(x, name)) for x in (a, b))
    m, n = shape_of(a), shape_of(b)
    if not len(m) == len(n) == rank or m[:-2] != n[:-2] or m[-1] != n[-2]:
        raise ValueError(f"{name}: shapes {m} and {n} must have {rank} axes and fit; matmul takes any")
    return matmul(a, b)


def outer(a, b):
    """The matrix a_i b_j of two vectors."""
    shapes = shape_of(a), shape_of(b)
    if [*map(len, shapes)] != [1, 1]:
        raise ValueError(f"outer: needs two vectors, got shapes {shapes[0]} and {shapes[1]}")
    return einsum("i,j->ij", a, b)


def einsum(equation, *operands):
    """Sum of products in Einstein's notation, such as "bij,bjk->bik"; "..." stands for axes that broadcast.

    A label repeated within an operand, as in "ii->i", takes its diagonal.
    """
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation comes first, such as 'ij,jk->ik', not {type(equation).__name__}")
    inputs, output = _labels(equation.replace(" ", ""), operands)
    operands = [_diagonal(x, labels) for x, labels in zip(operands, inputs)]
    return _einsum(*operands, inputs=["".join(dict.fromkeys(labels)) for labels in inputs], output=output)


def _labels(equation, operands):
    """The labels of each operand and of the result, with unused capitals in the place of "..."."""
    left, arrow, right = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise ValueError(f"einsum: {equation!r} names {len(inputs)} operands, got {len(operands)}")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    extra = [x.ndim - len(labels.replace("...", "")) if "..." in labels else 0 for labels, x in zip(inputs, operands)]
    dots = "".join(free[: max(extra, default=0)])
    inputs = [labels.replace("...", dots[len(dots) - n :]) for labels, n in zip(inputs, extra)]
    if not arrow:
        once = sorted(c for c in set("".join(inputs)) - set(dots) if "".join(inputs).count(c) == 1)
        right = "..." + "".join(once)
    for labels, x in zip(inputs, operands):
        if len(labels) != x.ndim:
            raise ValueError(f"einsum: {equation!r} has {len(labels)} labels for an operand of shape {x.shape}")
    lengths: dict = {}
    for labels, x in zip(inputs, operands):
        for c, n in zip(labels, x.shape):
            if n != 1 and lengths.setdefault(c, n) != n and labels.count(c) == 1:
                raise ValueError(f"einsum: {c!r} in {equation!r} is {lengths[c]} long in one place, {n} in another")
    right = right.replace("...", dots)
    letters = re.fullmatch(r"[a-zA-Z]*", "".join(inputs) + right)
    if not letters or len(set(right)) < len(right) or set(right) - set("".join(inputs)):
        wanted = "of letters with one '->', and each one of the result once, from the operands"
        raise ValueError(f"einsum: {equation!r} is not {wanted}")
    return inputs, right


def _diagonal(x, labels):
    """x with one axis for each distinct label: the diagonal of the axes that share one."""
    distinct = list(dict.fromkeys(labels))
    if len(distinct) == len(labels):
        return x
    if any(x.shape[labels.index(c)] != n for c, n in zip(labels, x.shape)):
        raise ValueError(f"einsum: {labels!r} repeats a label over axes of different lengths, in shape {x.shape}")
    grid = np.ogrid[tuple(slice(x.shape[labels.index(c)]) for c in distinct)]
    return getitem(x, tuple(grid[distinct.index(c)] for c in labels))


@primitive
def _einsum(*operands, inputs, output):
    lengths: dict = {}
    for labels, x in zip(inputs, operands):
        lengths |= {c: n for c, n in zip(labels, shape_of(x)) if lengths.get(c, 1) == 1}

    def vjp(i):
        others = [x for j, x in enumerate(operands) if j != i]
        labels = [labels for j, labels in enumerate(inputs) if j != i]
        mine = dict(zip(inputs[i], shape_of(operands[i])))
        known = "".join(c for c in inputs[i] if c in output or any(c in other for other in labels))
        known = "".join(c for c in known if mine[c] > 1 or lengths[c] == 1)  # the others: it was broadcast, so summed

        def pull(g):
            d = _contract([output, *labels], known, [g, *others])
            # Axes that only this operand has were summed over: each of their elements gets the same gradient.
            sizes = dict(zip(known, d.shape))
            d = d.reshape(tuple(sizes.get(c, 1) for c in inputs[i]))
            return xp[type(d)].broadcast_to(d, shape_of(operands[i]))

        return pull

    return _contract(inputs, output, operands), *[vjp(i) for i in range(len(operands))]


def _contract(inputs, output, operands):
    equation = f"{','.join(inputs)}->{output}"
    n = namespace(*operands)
    return np.einsum(equation, *operands, optimize=len(operands) > 2) if n is np else n.einsum(equation, *operands)


Tensor.__matmul__ = Tensor.matmul = matmul
Tensor.__rmatmul__ = lambda self, other: matmul(other, self)
Tensor.mm, Tensor.bmm, Tensor.outer = mm, bmm, outer
