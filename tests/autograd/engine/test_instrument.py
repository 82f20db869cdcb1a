"""Looking on while operations are computed, and leaving nothing behind."""

import numpy as np
import pytest

import allgrad as ag
from allgrad.autograd.engine import format_location, instrumented, operations, patched, users_line


def test_whoever_looks_on_sees_every_operation_and_leaves_the_rules_as_they_were():
    seen, before = [], {operation: operation.wrap_rule(lambda rule: rule) for operation in operations}

    def around(name, rule):
        def called(*args, **static):
            seen.append(name)
            return rule(*args, **static)

        return called

    x = ag.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ZeroDivisionError), instrumented(around):
        (ag.exp(x) * 2.0).sum().backward()
        raise ZeroDivisionError
    assert seen == ["exp", "mul", "sum"]
    ag.exp(x)
    assert len(seen) == 3
    assert before == {operation: operation.wrap_rule(lambda rule: rule) for operation in operations}
    np.testing.assert_allclose(x.grad, 2.0 * np.exp(x.data))


def test_patched_attributes_are_put_back_or_taken_away():
    class Owner:
        there = 1

    with pytest.raises(ZeroDivisionError), patched(Owner, there=2, new=3):
        assert (Owner.there, Owner.new) == (2, 3)
        raise ZeroDivisionError
    assert Owner.there == 1 and not hasattr(Owner, "new")


def test_places_are_those_of_the_users_code():
    place = users_line()  # here
    assert place[0] == __file__
    assert format_location(place).endswith(f"test_instrument.py:{place[1]} (place = users_line()  # here)")
    assert format_location(("nowhere.py", 3)) == "nowhere.py:3"
