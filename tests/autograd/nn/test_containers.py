"""Modules that hold modules or parameters: what they do and what they are called, beside torch's."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn


def parameter(nn, *numbers):
    return nn.Parameter(torch.tensor(numbers) if nn is torch.nn else np.array(numbers))


def lists(nn):
    layers = nn.ModuleList([nn.Linear(2, 3)])
    layers.insert(0, nn.Tanh())
    assert layers.append(nn.Linear(3, 1)) is layers and layers.extend([nn.ReLU()]) is layers
    layers += [nn.Linear(1, 1, bias=False), nn.Linear(4, 4)]
    del layers[-1]
    assert isinstance(layers.pop(1), nn.Linear) and layers[1] in layers
    return layers[1:] + nn.ModuleList([nn.Linear(7, 1)])


def dicts(nn):
    heads = nn.ModuleDict({"left": nn.Linear(2, 3), "right": nn.Tanh()})
    heads.update([("up", nn.Linear(1, 1))])
    heads["right"] = nn.Linear(5, 1)
    heads.add_module("down", nn.Linear(1, 2))
    assert isinstance(heads.pop("left"), nn.Linear) and "left" not in heads and list(heads) == [*heads.keys()]
    assert len(heads) == 3 and heads.up is heads["up"] is [*heads.values()][1] is dict(heads.items())["up"]
    return heads


def parameters(nn):
    values = nn.ParameterList([parameter(nn, 1.0)])
    values.append(parameter(nn, 2.0, 3.0))
    values.extend([torch.ones(4) if nn is torch.nn else ag.tensor(np.ones(4))])
    named = nn.ParameterDict({"a": parameter(nn, 1.0)})
    named["b"] = torch.ones(2) if nn is torch.nn else ag.tensor(np.ones(2))
    named["text"] = "not a parameter"
    assert isinstance(named.b, nn.Parameter) and isinstance(values[2], nn.Parameter)
    return nn.ModuleDict({"listed": values, "named": named})


def named(nn):
    net = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), act=nn.ReLU()))
    net.add_module("last", nn.Linear(3, 1))
    net.append(nn.Linear(1, 2))
    net.first = nn.Linear(2, 3, bias=False)
    assert net.first is net[0] and net.get_submodule("first") is net[0] and len(net) == 4
    return net[1:3]


def numbered(nn):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 4))
    net.add_module("4", nn.Linear(4, 1))
    del net[2]
    setattr(net, "0", nn.Linear(2, 3, bias=False))
    net.insert(1, nn.Sigmoid())
    assert getattr(net, "0") is net[0] and isinstance(net[1], nn.Sigmoid)
    return net


@pytest.mark.parametrize("build", [lists, dicts, parameters, named, numbered])
def test_names_and_modules_are_torchs(build):
    mine, other = build(nn), build(torch.nn)
    assert [*mine.state_dict()] == [*other.state_dict()]
    for listed in ("named_modules", "named_children", "named_parameters"):
        assert [name for name, _ in getattr(mine, listed)()] == [name for name, _ in getattr(other, listed)()]
    assert [type(m).__name__ for m in mine.modules()] == [type(m).__name__ for m in other.modules()]
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert {k: a.tolist() for k, a in copied.state_dict().items()} == {
            k: a.tolist() for k, a in mine.state_dict().items()
        }
    assert mine in {mine} and mine != copied


def test_a_named_sequential_applies_what_was_added_and_replaced():
    net = nn.Sequential({"before": nn.Identity()})
    net.add_module("linear", nn.Linear(2, 1))
    net.before = nn.ReLU()
    x = np.array([[-1.0, 2.0]], "f4")
    np.testing.assert_array_equal(net(x).data, net.linear(np.maximum(x, 0.0)).data)


@pytest.mark.parametrize("container", [nn.ModuleList, nn.Sequential, nn.ModuleDict, nn.ParameterList])
def test_a_forgotten_constructor_is_named(container):
    class Own(container):
        def __init__(self):
            self.size = 3

    with pytest.raises(AttributeError, match=r"begin Own.__init__ with super\(\).__init__\(\)"):
        Own()
