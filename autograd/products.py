"""Matrix products: matmul in all of NumPy's shapes, and the fused linear layer."""

from autograd.core import Tensor, primitive
from autograd.kernels import OuterProduct, sum_rows


@primitive
def matmul(a, b):
    """a @ b for vectors (k,), matrices (n, k) @ (k, m), and stacks of matrices with broadcast leading axes."""
    y = a @ b
    if a.ndim == 1 and b.ndim == 1:
        return y, lambda g: g * b, lambda g: g * a
    if a.ndim == 1:  # (k,) @ (..., k, m) -> (..., m)
        return y, lambda g: (b @ g[..., None])[..., 0], lambda g: a[:, None] * g[..., None, :]
    if b.ndim == 1:  # (..., n, k) @ (k,) -> (..., n)
        return y, lambda g: g[..., None] * b, lambda g: (a.mT @ g[..., None])[..., 0]
    if b.ndim == 2:  # one product over all rows, instead of a stack of products to sum
        return y, lambda g: g @ b.mT, lambda g: _rows(a).mT @ _rows(g)
    return y, lambda g: g @ b.mT, lambda g: a.mT @ g


@primitive
def linear(x, weight, bias=None):
    """x @ weight.T + bias for x (..., in), weight (out, in), bias (out,) or None."""
    y = x @ weight.mT
    if type(bias) is type(y):
        y += bias
    elif bias is not None:  # one of them belongs to the level below
        y = y + bias
    return (
        y,
        lambda g: g @ weight,
        lambda g: _outer(_rows(x), _rows(g)),
        lambda g: sum_rows(_rows(g)),
    )


def _outer(x, g):
    """g.T @ x for rows x (N, in) and g (N, out)."""
    return (x.mT @ g).mT if type(x) is Tensor or type(g) is Tensor else OuterProduct(x, g)


def _rows(x):
    """x (..., n) as a matrix of rows."""
    return x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))


Tensor.__matmul__ = Tensor.matmul = matmul
Tensor.__rmatmul__ = lambda self, other: matmul(other, self)
