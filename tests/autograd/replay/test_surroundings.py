"""What is noticed around a function, and what may change without being noticed."""

from functools import partial
from types import ModuleType, SimpleNamespace

import pytest

from allgrad import nn
from allgrad.autograd.replay.surroundings import Surroundings

LAYERS = [nn.Linear(2, 2)]


class Owner:
    def __init__(self):
        self.model, self.steps = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), 0

    def loss(self, x):
        return self.model(x)


def named(x):
    return LAYERS[0](x)


OWNER = Owner()
FUNCTIONS = {
    "a method": (OWNER.loss, OWNER),
    "a variable": ((lambda owner: lambda x: owner.loss(x))(OWNER), OWNER),
    "a partial": (partial(Owner.loss, OWNER), OWNER),
    "a function inside": (lambda x: [OWNER.loss(y) for y in x], OWNER),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layers_and_their_attributes_are_noticed_by_whichever_way(name):
    function, owner = FUNCTIONS[name]
    layer, model = owner.model.layers[0], owner.model
    for change, undo in (
        (lambda: setattr(layer, "bias", None), lambda: None),
        (lambda: owner.model.eval(), lambda: owner.model.train()),
        (lambda: setattr(owner.model.layers[1], "p", 0.1), lambda: None),
        (lambda: owner.model.append(nn.ReLU()), lambda: owner.model.layers.pop()),
        (lambda: setattr(owner, "model", nn.Linear(1, 1)), lambda: setattr(owner, "model", model)),
    ):
        before = Surroundings(function)
        owner.steps += 1
        assert before.unchanged()
        change()
        assert not before.unchanged()
        undo()
    layer.bias, owner.model.layers[1].p = nn.Parameter([1.0, 1.0]), 0.5


def test_globals_that_a_function_names_are_noticed():
    before, layer = Surroundings(named), LAYERS[0]
    LAYERS[0] = nn.Linear(2, 2)
    assert not before.unchanged()
    LAYERS[0] = layer
    assert before.unchanged()


class Settings:
    scale = 1.0
    log = 0


class Older(Settings):
    pass


STATE, RATES, SETTINGS = {"scale": 1.0}, [1.0], SimpleNamespace(scale=1.0, inner={"scale": 1.0}, log=0)


class Scaled:
    def __init__(self):
        self.scale, self.calls = 1.0, 0

    def loss(self, x):
        return x * self.scale


SCALED, OLDER, MODULE = Scaled(), Older(), ModuleType("settings")


@pytest.mark.parametrize(
    "function, change",
    [
        (lambda x: x * STATE["scale"], lambda value: STATE.update(scale=value)),
        (lambda x: x * RATES[0], lambda value: RATES.__setitem__(0, value)),
        (lambda x: x * SETTINGS.scale, lambda value: setattr(SETTINGS, "scale", value)),
        (lambda x: x * SETTINGS.inner["scale"], lambda value: SETTINGS.inner.update(scale=value)),
        (lambda x, state=STATE: x * state["scale"], lambda value: STATE.update(scale=value)),
        (SCALED.loss, lambda value: setattr(SCALED, "scale", value)),
        (lambda x: SCALED.loss(x), lambda value: setattr(SCALED, "scale", value)),
        (lambda x: x * Settings.scale, lambda value: setattr(Settings, "scale", value)),
        (lambda x: x * Older.scale, lambda value: setattr(Settings, "scale", value)),
        (lambda x: x * OLDER.scale, lambda value: setattr(Settings, "scale", value)),
        (lambda x: x * OLDER.scale, lambda value: setattr(OLDER, "scale", value)),
        ((lambda settings: lambda x: x * settings.scale)(Settings), lambda value: setattr(Settings, "scale", value)),
        (lambda x: x * MODULE.scale, lambda value: setattr(MODULE, "scale", value)),
    ],
)
def test_numbers_in_lists_dicts_and_attributes_that_a_function_names_are_noticed(function, change):
    Settings.scale = MODULE.scale = 1.0
    vars(OLDER).clear()
    before = Surroundings(function)
    SETTINGS.log += 1
    Settings.log += 1
    SCALED.calls += 1
    assert before.unchanged()
    change(2.0)
    assert not before.unchanged()
    before.forget_changed()
    assert before.unchanged()  # the function counts something itself
    change(1.0)
