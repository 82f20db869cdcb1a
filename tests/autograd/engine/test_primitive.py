"""Primitives: a value and its vjps as one function of arrays and tensors."""

import numpy as np

import allgrad as ag
from allgrad.autograd.random import generator


def leaf(*shape, name="x", dtype="float64"):
    return ag.tensor(generator(name, *shape).standard_normal(shape), requires_grad=True, dtype=dtype, name=name)


def test_a_primitive_shares_one_pullback_and_takes_arrays_by_name():
    calls = []

    @ag.primitive
    def _product(a, b, *, times=1):
        return a * b * times, *ag.shared(lambda g: calls.append(times) or (g * b * times, g * a * times), 2)

    x, y = leaf(3), leaf(3, name="y")
    z = _product(x, times=2, b=y)
    assert (z.name, _product.__name__) == ("product", "product")
    z.backward(np.ones(3), retain_graph=True)
    z.backward(np.ones(3))
    assert calls == [2, 2]
    np.testing.assert_array_equal(x.grad, 4 * y.data)
    np.testing.assert_array_equal(y.grad, 4 * x.data)
