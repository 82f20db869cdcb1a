"""Functions that take turns: what they wait for, what each finds and leaves, and how they end."""

import threading

import numpy as np
import pytest

import allgrad as ag
from allgrad.autograd.engine.stepped import SteppedFunction


def test_a_function_stops_in_the_middle_and_goes_on_with_the_answer():
    def f():
        first = function.wait("one")
        return first, function.wait("two")

    function = SteppedFunction(f)
    assert function.resume() == "one" and not function.finished
    assert function.resume(1) == "two" and function.resume(2) == (1, 2) and function.finished


def test_each_has_modes_and_attributes_of_its_own():
    class Owner:
        value = "outside"

    seen = []

    def f(name):
        ag.manual_seed(0)
        with ag.no_grad():
            seen.append((name, Owner.value, ag.dropout(np.ones(50)).tolist()))
            Owner.value = f"left by {name}"
            functions[name].wait(None)
            x = ag.tensor([1.0], requires_grad=True)
            seen.append((name, Owner.value, (x * 2.0).requires_grad, ag.dropout(np.ones(50)).tolist()))

    own = {name: {(Owner, "value"): f"of {name}"} for name in "ab"}
    functions = {name: SteppedFunction(lambda name=name: f(name), own[name]) for name in "ab"}
    ag.manual_seed(5)
    before = ag.dropout(np.ones(50)).tolist()
    for _ in range(2):
        for function in functions.values():
            function.resume()
            assert Owner.value == "outside" and (ag.tensor([1.0], requires_grad=True) * 2.0).requires_grad
    (_, a, first), (_, b, same), (_, a_then, a_records, second), (_, b_then, b_records, second_too) = seen
    assert (a, b, a_then, b_then) == ("of a", "of b", "left by a", "left by b") and not a_records and not b_records
    assert first == same != second == second_too
    assert functions["a"].own[Owner, "value"] == "left by a"
    ag.manual_seed(5)
    assert ag.dropout(np.ones(50)).tolist() == before  # nobody has moved the stream outside


def test_what_it_raises_is_raised_where_it_is_resumed():
    function = SteppedFunction(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        function.resume()
    assert function.finished


def test_one_that_is_cancelled_cleans_up_and_ends():
    cleaned = []

    def f():
        try:
            function.wait(None)
        finally:
            cleaned.append(threading.current_thread() is function.thread)

    function = SteppedFunction(f)
    function.cancel()  # it has not begun
    function.resume()
    function.cancel()
    assert cleaned == [True] and function.finished and not function.thread.is_alive()
    function.cancel()
