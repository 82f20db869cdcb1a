"""gradcheck finds rules that are wrong, of either order, and says where."""

import numpy as np
import pytest

import allgrad as ag
from allgrad.autograd.random import generator

X = generator("transforms", 2, 3).standard_normal((2, 3))


def test_gradcheck_catches_a_wrong_rule_of_either_order():
    @ag.primitive
    def wrong(a):
        return a**3, lambda g: g * 3.0001 * a**2

    @ag.primitive
    def frozen(a):
        slope = 3.0 * np.asarray(a.data if type(a) is ag.Tensor else a) ** 2
        return a**3, lambda g: g * slope

    for analytic in (False, True):
        with pytest.raises(AssertionError, match="gradcheck: the rules give"):
            ag.gradcheck(wrong, X, analytic=analytic)
    ag.gradcheck(lambda x: x**3, X, order=2, analytic=True, tolerance=1e-9)
    ag.gradcheck(frozen, X, analytic=True)
    with pytest.raises(AssertionError, match="gradcheck: the rules give"):
        ag.gradcheck(frozen, X, order=2)


def test_gradcheck_names_the_derivative_that_is_off():
    @ag.primitive
    def scaled(a, b):
        off = np.ones(np.shape(b.data if type(b) is ag.Tensor else b))
        off[1, 2] = 1.5
        return a * b, lambda g: g * b, lambda g: g * a * off

    message = r"rules give 3 for element \(1, 2\) of the function by argument 1 at index \(1, 2\), differences 2(\.0)?"
    with pytest.raises(AssertionError, match=message):
        ag.gradcheck(scaled, np.full((2, 3), 2.0), X, eps=1e-3)
    assert ag.gradcheck(lambda a, b: a * b, X, X, order=2) is True
