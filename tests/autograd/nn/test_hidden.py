"""Parameters that no walk over attributes finds are found when a step would leave them out."""

import types
from collections import UserDict, deque, namedtuple
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from allgrad import nn, optim
from allgrad.autograd.nn.hidden import hidden_parameters

X = np.ones((3, 4), "f4")
Pair = namedtuple("Pair", "layer number")
GLOBAL = nn.Linear(4, 4)


@dataclass
class Holder:
    layer: nn.Module


class Slots:
    __slots__ = ("layer",)

    def __init__(self, layer):
        self.layer = layer


class Net(nn.Module):
    """keep(layer) is an attribute of it, of which find(attribute) is the layer."""

    def __init__(self, keep, find):
        self.kept, self.find = keep(nn.Linear(4, 4)), find
        self.last = nn.Linear(4, 1)

    def __call__(self, x):
        return self.last(self.find(self.kept)(x)).sum()


class OfTheClass(nn.Module):
    shared = nn.Linear(4, 1)

    def __init__(self):
        self.own = nn.Linear(4, 4)

    def __call__(self, x):
        return self.shared(self.own(x)).sum()


class OfTheProgram(OfTheClass):
    def __call__(self, x):
        return GLOBAL(self.own(x)).sum()


class Lazy(OfTheClass):
    def __call__(self, x):
        if not hasattr(self, "made"):
            self.made = nn.Linear(4, 1)
        return self.made(self.own(x)).sum()


FOUND = {
    "list": (lambda a: [a], lambda kept: kept[0]),
    "named tuple": (lambda a: Pair(a, 1), lambda kept: kept.layer),
    "nested": (lambda a: {"k": ({"j": [a]},)}, lambda kept: kept["k"][0]["j"][0]),
}
MISSED = {
    "set": (lambda a: {a}, lambda kept: next(iter(kept))),
    "frozenset": (lambda a: frozenset([a]), lambda kept: next(iter(kept))),
    "deque": (lambda a: deque([a]), lambda kept: kept[0]),
    "mapping": (lambda a: types.MappingProxyType({"a": a}), lambda kept: kept["a"]),
    "UserDict": (lambda a: UserDict(a=a), lambda kept: kept["a"]),
    "objects": (lambda a: np.array([a, None], object), lambda kept: kept[0]),
    "dataclass": (Holder, lambda kept: kept.layer),
    "slots": (Slots, lambda kept: kept.layer),
    "set of parameters": (lambda a: {nn.Parameter(np.eye(4))}, lambda kept: lambda x: x @ next(iter(kept))),
    "closure": (lambda a: lambda: a, lambda kept: kept()),
    "default": (lambda a: lambda a=a: a, lambda kept: kept()),
    "partial": (lambda a: partial(lambda layer, x: layer(x), a), lambda kept: kept),
    "method": (lambda a: a.__call__, lambda kept: kept),
    "iterator": (lambda a: (a for _ in range(9)), next),
}


def two_steps(model, owner):
    optimizer = optim.SGD(owner(model), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).backward()
        optimizer.step()


@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters()], ids=["module", "parameters"])
@pytest.mark.parametrize("kind", MISSED)
def test_what_a_step_would_leave_out_is_refused(kind, owner):
    with pytest.raises(
        RuntimeError, match=r"the parameter that 'kept' refers to of shape \(.*\) has a gradient, and no"
    ):
        two_steps(Net(*MISSED[kind]), owner)


@pytest.mark.parametrize("kind", FOUND)
def test_lists_tuples_and_dicts_are_trained(kind):
    model = Net(*FOUND[kind])
    layer = model.find(model.kept)
    before = layer.weight.data.copy()
    two_steps(model, lambda m: m)
    assert len(list(model.parameters())) == 4 and (layer.weight.data != before).all()
    assert not hidden_parameters(model)


@pytest.mark.parametrize("model", [OfTheClass, OfTheProgram, Lazy])
def test_layers_of_the_class_of_the_program_and_of_the_first_call_are_refused(model):
    with pytest.raises(RuntimeError, match="has a gradient, and no optimizer"):
        two_steps(model(), lambda m: m)


def test_what_is_frozen_has_another_optimizer_or_belongs_to_another_model_is_not():
    kept = nn.Linear(4, 4)
    model, other = Net(lambda _: lambda: kept, lambda f: f()), nn.Linear(4, 4)
    assert hidden_parameters(model) == {"kept": kept.bias}
    optim.SGD(kept, lr=0.1)
    assert not hidden_parameters(model)
    two_steps(model, lambda m: m)
    model = Net(lambda _: {nn.Linear(4, 4).requires_grad_(False)}, lambda kept: next(iter(kept)))
    two_steps(model, lambda m: m)
    head = nn.Sequential(nn.Linear(4, 1))
    optimizer = optim.SGD(head, lr=0.1)
    head(other(X)).sum().backward()  # torch lets who trains the head alone do so, too
    optimizer.step()
    assert other.weight.grad is not None


def test_the_walk_is_not_lost_in_what_a_module_refers_to():
    model = nn.Linear(2, 2)
    model.optimizer, model.itself, model.library, model.result = optim.SGD(model, 0.1), {model}, np, model(X[:, :2])
    model.ring = [model]
    model.ring.append(model.ring)
    assert not hidden_parameters(model) and [name for name, _ in model.named_parameters()] == ["weight", "bias"]
