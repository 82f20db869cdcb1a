"""Gradients that a vjp may return without computing them: `backward` computes them where they belong.

`OuterProduct` is the gradient of a weight matrix, `RowSum` that of a bias, `Scattered` that of a slice. All have the
`shape` and `dtype` of the array they stand for, and `value()` computes it.
"""

from typing import Any

from allgrad.autograd.arrays.namespace import full, namespace, on_cpu, xp


class OuterProduct:
    """The product g.T @ x, of shape (out, in), for x (N, in) and g (N, out): the gradient of a weight (out, in).

    It is as large as the weight, and usually goes to an array that exists already, the weight's part of the arena:
    `into(out)` computes it there without a temporary array; on a device, where out is of float32 and x and g of half
    precision, without rounding in between. Both forms compute x.T @ g and transpose the result, since nn.Linear's
    weight lies transposed in memory.
    """

    __slots__ = ("x", "g", "shape", "dtype")

    def __init__(self, x, g):
        self.x, self.g = x, g
        self.shape = (g.shape[1], x.shape[1])
        self.dtype = x.dtype if x.dtype == g.dtype else namespace(x, g).result_type(x, g)

    def value(self):
        return (self.x.mT @ self.g).mT

    def into(self, out):
        if self.dtype == out.dtype:
            xp[type(out)].matmul(self.x.mT, self.g, out=out.mT)
        elif on_cpu(out) or not xp[type(out)].widening_product(self.x.mT, self.g, out.mT):
            out[...] = self.value()


class RowSum:
    """The sum of the rows g (N, out) on a device, of shape (out,): the gradient of a bias.

    Of half precision `into(out)` adds in the dtype of `out`, and does not round in between.
    """

    __slots__ = ("g", "shape", "dtype")

    def __init__(self, g):
        self.g, self.shape, self.dtype = g, g.shape[1:], g.dtype

    def value(self):
        return self.g.sum(0)

    def into(self, out):
        xp[type(out)].sum_rows_into(out, self.g)


class Scattered:
    """Zeros of this shape with g at the index, where the index names no element twice: the gradient of a[index].

    An array cut into n slices gets n of them. `plus` adds the next one to the filled array of the first, so that one
    array of zeros is made and not n.
    """

    __slots__ = ("g", "index", "shape", "dtype", "filled")

    def __init__(self, g, index, shape):
        self.g, self.index, self.shape, self.dtype = g, index, shape, g.dtype
        self.filled: Any = None

    def value(self):
        if self.filled is None:
            self.filled = full(self.shape, 0, self.g)
            self.filled[self.index] = self.g
        return self.filled

    def plus(self, other):
        """The sum with another Scattered or an array; self must not be used again."""
        if type(other) is not Scattered:
            return self.value() + other
        if other.dtype != self.dtype:
            return self.value() + other.value()
        self.value()[other.index] += other.g
        return self


INTO_AN_ARRAY = {OuterProduct, RowSum}  # what `into` computes in the place of the gradient that it is
