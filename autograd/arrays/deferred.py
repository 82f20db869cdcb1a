"""Gradients that are still to be computed, and are where they are wanted."""

from typing import Any

from allgrad.autograd.arrays.namespace import full, namespace, xp


class OuterProduct:
    """sum_i outer(g_i, x_i) = g.T @ x for rows x (N, in) and g (N, out), still to be computed.

    The gradient of a weight: as large as the weight, and wanted in a place that exists already. `into` writes it
    there without a temporary; both forms compute x.T @ g, in the memory order of nn.Linear's weight.
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
        else:
            out[...] = self.value()


class Scattered:
    """Zeros of this shape with g at the index, which names no element twice: the gradient of a[index].

    A sum of several, for the pieces that an array was cut into, is computed in the memory of the first.
    """

    __slots__ = ("g", "index", "shape", "dtype", "total")

    def __init__(self, g, index, shape):
        self.g, self.index, self.shape, self.dtype = g, index, shape, g.dtype
        self.total: Any = None

    def value(self):
        if self.total is None:
            self.total = full(self.shape, 0, self.g)
            self.total[self.index] = self.g
        return self.total

    def plus(self, other):
        """The sum with another or with an array; self must not be used again."""
        if type(other) is not Scattered:
            return self.value() + other
        if other.dtype != self.dtype:
            return self.value() + other.value()
        self.value()[other.index] += other.g
        return self
