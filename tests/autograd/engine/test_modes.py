"""Modes: what is recorded, and where each of them ends."""

import pytest

import allgrad as ag
from allgrad.autograd.random import generator


def leaf(*shape, name="x", dtype="float64"):
    return ag.tensor(generator(name, *shape).standard_normal(shape), requires_grad=True, dtype=dtype, name=name)


def test_no_grad_records_nothing_and_enable_grad_records_inside_it():
    x = leaf(2)
    with ag.no_grad():
        assert not (x * 2).requires_grad and not x.exp().requires_grad and not ag.linear(x, leaf(2, 2)).requires_grad
        with ag.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError), ag.no_grad():
        raise ZeroDivisionError
    assert (x * 2).requires_grad and not (x * 2).detach().requires_grad


X = ag.tensor([[0.0, 1.0, 2.0]], requires_grad=True, name="x")


def test_no_grad_decorates_and_nests():
    @ag.no_grad()
    def constant(x):
        with ag.enable_grad():
            assert (x * 2.0).requires_grad
            with ag.no_grad():
                assert not (x * 2.0).requires_grad
            assert (x * 2.0).requires_grad
        return x * 2.0

    for _ in range(2):
        assert not constant(X).requires_grad and (X * 2.0).requires_grad
    with pytest.raises(ZeroDivisionError), ag.no_grad():
        raise ZeroDivisionError
    assert (X * 2.0).requires_grad
