"""Tools that look on: who is active, and that everything is put back, also after an error."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.engine import Leaf, Tensor, instrument, instrumented, is_active, patched


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
