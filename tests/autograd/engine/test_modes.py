"""Modes: what is recorded, and where each of them ends."""

import threading
from concurrent.futures import ThreadPoolExecutor

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


def in_threads(*functions):
    """Run functions at the same time, each in a thread of its own, and raise what one of them raises."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(f) for f in functions]]


def test_each_thread_has_modes_of_its_own():
    meeting = threading.Barrier(2, timeout=10)

    def silent():
        with ag.no_grad(), ag.default_dtype("float64"):
            meeting.wait()
            assert not (X * 2.0).requires_grad and ag.tensor(1.0).dtype == "float64"
            meeting.wait()

    def usual():
        meeting.wait()
        assert (X * 2.0).requires_grad and ag.tensor(1.0).dtype == "float32"
        with ag.no_grad():  # goes on when the other one has ended
            meeting.wait()
        assert (X * 2.0).requires_grad

    in_threads(silent, usual)
    assert (X * 2.0).requires_grad


def test_recording_is_asked_for_and_switched():
    x = ag.tensor([1.0], requires_grad=True)
    with ag.set_grad_enabled(False):
        assert not ag.is_grad_enabled() and not (x * 2.0).requires_grad
        with ag.set_grad_enabled(True):
            assert (x * 2.0).requires_grad
        assert not (x * 2.0).requires_grad
    assert ag.is_grad_enabled() and (x * 2.0).requires_grad
    ag.set_grad_enabled(False)  # from now on
    try:
        assert not (x * 2.0).requires_grad
    finally:
        ag.set_grad_enabled(True)
    assert (x * 2.0).requires_grad
    with ag.inference_mode():
        assert not (x * 2.0).requires_grad
    with ag.inference_mode(False):
        assert (x * 2.0).requires_grad
