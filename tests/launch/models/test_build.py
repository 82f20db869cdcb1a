"""What `build` makes: weights by the seed and the initialiser, and classes of the user's own."""

import numpy as np
import pytest

import allgrad as ag
from allgrad.ddp import ConfigurationError
from allgrad.launch.models import INITS, build
from tests.launch.models.tables import FLAT, weights


def test_the_weights_depend_on_the_seed_and_on_nothing_else():
    first = weights(build("mlp:5", FLAT, seed=0))
    ag.manual_seed(9)
    assert weights(build("mlp:5", FLAT, seed=0)) == first
    assert weights(build("mlp:5", FLAT, seed=1)) != first


def test_every_init_gives_other_weights():
    made = {name: weights(build("mlp:5", FLAT, init_name=name)) for name in INITS}
    assert not np.any(made["zeros"]["0.weight"])
    assert len({str(found) for found in made.values()}) == len(INITS)


OWN = """
from allgrad import nn

class Two(nn.Module):
    def __init__(self, inputs, outputs, width=4):
        self.hidden, self.out = nn.Linear(inputs, width), nn.Linear(width, outputs)

    def __call__(self, x):
        return self.out(self.hidden(x))

def made():
    return Two(6, 3)

def wide(inputs, outputs):
    return nn.Linear(inputs, outputs + 1)

def narrow():
    return nn.Linear(5, 3)

def empty():
    return nn.ReLU()

def three(inputs, outputs, width):
    return nn.Linear(inputs, outputs)

def number():
    return 3

text = "no class"
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return lambda name: build(f"{tmp_path}/own.py:{name}", FLAT, seed=2)


@pytest.mark.parametrize("name", ["Two", "made"])
def test_a_class_or_a_function_of_the_users_own(name, own):
    assert [p.shape for p in own(name).parameters()] == [(4, 6), (4,), (3, 4), (3,)]
    assert weights(own(name)) == weights(own("Two"))


@pytest.mark.parametrize(
    "name, text",
    [
        ("wide", r"maps 2 samples to shape \(2, 4\), but the data needs \(2, 3\)"),
        ("narrow", r"cannot take samples of shape \(6,\): .*\(2, 6\)"),
        ("empty", "has no parameters to train"),
        ("number", "made a int, not an autograd.nn.Module"),
        ("text", "defines no class or function 'text'"),
        ("", r"names no class: write .*own\.py:CLASS"),
        ("three", r"takes 3 arguments; it is given \(inputs, outputs\) or none"),
    ],
)
def test_what_cannot_be_trained_is_refused(name, text, own):
    with pytest.raises(ConfigurationError, match=text):
        own(name)


@pytest.mark.parametrize(
    "spec, text",
    [
        ("none.py:Net", "there is no file none.py"),
        ("densenet", "unknown model 'densenet': use mlp:H1,H2,...[:ACTIVATION], softmax, lenet5, cnn[:C1,C2,...]"),
        ("softmax:3", "unknown model 'softmax:3'"),
        ("mlp", "'' is not a number of hidden units"),
        ("mlp:0", "'0' is not a number of hidden units"),
        ("mlp:8:", "activation '' is not one of relu, leaky-relu, elu"),
        ("mlp:8:reul", "activation 'reul' is not one of relu"),
        ("mlp:8:tanh:relu", "activation 'tanh:relu' is not one of"),
        ("softmax:tanh", "unknown model 'softmax:tanh'"),
        ("autoencoder:8:tanh", "it has no choice of activations; write autoencoder[:H1,H2,...]"),
    ],
)
def test_unknown_models_are_refused(spec, text):
    with pytest.raises(ConfigurationError) as caught:
        build(spec, FLAT)
    assert text in str(caught.value)
