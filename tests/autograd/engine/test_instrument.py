"""Looking on while operations are computed: who is active, and that everything is put back, also after an error."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.engine import (
    Leaf,
    Tensor,
    format_location,
    instrument,
    instrumented,
    is_active,
    operations,
    patched,
    users_line,
)  # fmt: skip


def test_whoever_looks_on_sees_every_operation_and_leaves_the_rules_as_they_were():
    seen, before = [], {operation: operation.wrap_rule(lambda rule: rule) for operation in operations}

    def around(name, rule):
        def called(*args, **static):
            seen.append(name)
            return rule(*args, **static)

        return called

    x = ag.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ZeroDivisionError), instrumented("test", around):
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

    with pytest.raises(ZeroDivisionError), patched("test", Owner, there=2, new=3):
        assert (Owner.there, Owner.new) == (2, 3)
        raise ZeroDivisionError
    assert Owner.there == 1 and not hasattr(Owner, "new")


def test_places_are_those_of_the_users_code():
    place = users_line()  # here
    assert place[0] == __file__
    assert format_location(place).endswith(f"test_instrument.py:{place[1]} (place = users_line()  # here)")
    assert format_location(("nowhere.py", 3)) == "nowhere.py:3"


def test_a_patch_is_registered_while_it_lasts():
    class Thing:
        inherited = 1

    thing = Thing()
    with patched("outer", thing, inherited=2), patched("inner", thing, inherited=3, new=4):
        assert [(p.by, p.owner, p.attributes) for p in instrument.active] == [
            ("outer", thing, ("inherited",)),
            ("inner", thing, ("inherited", "new")),
        ]
        assert is_active("outer") and is_active("inner") and not is_active("other")
        assert (thing.inherited, thing.new) == (3, 4)
    assert not instrument.active and not vars(thing) and thing.inherited == 1


def test_an_error_inside_takes_patches_back():
    usual = Leaf.accumulate, Tensor.backward
    with pytest.raises(RuntimeError, match=r"log at .* gave -inf"), ag.detect_anomaly():
        assert is_active("detect_anomaly") and Leaf.accumulate is not usual[0]
        ag.log(ag.tensor([0.0], requires_grad=True))
    assert not is_active("detect_anomaly") and (Leaf.accumulate, Tensor.backward) == usual


def test_every_tool_says_who_it_is():
    seen = set()

    class Model(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 1)

        def __call__(self, x):
            seen.update(patch.by for patch in instrument.active)
            return self.layer(x).sum()

    x, network = np.ones((1, 2), "f4"), Model()
    with ag.detect_anomaly():
        network(x)
    ag.count_operations(lambda: network(x))
    ag.summary(network, x)
    ag.draw_graph(lambda: network(x), network)
    ag.capture(lambda x: network(x).backward())(x)
    assert seen == {"detect_anomaly", "count_operations", "summary", "draw_graph", "capture"} and not instrument.active


def test_rules_are_wrapped_one_around_the_other():
    calls = []

    def around(by):
        def wrap(name, rule):
            def wrapped(*operands, **static):
                calls.append((by, name))
                return rule(*operands, **static)

            return wrapped

        return instrumented(by, wrap)

    with around("outer"), around("inner"):
        ag.exp(ag.tensor([1.0]))
    ag.exp(ag.tensor([1.0]))
    assert calls == [("inner", "exp"), ("outer", "exp")]
