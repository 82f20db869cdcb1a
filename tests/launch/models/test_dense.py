"""Fully connected networks: shapes, dropout and activations."""

import numpy as np
import pytest

from allgrad import nn
from allgrad.launch.models import build
from tests.launch.models.tables import FLAT, data_of, weights


@pytest.mark.parametrize(
    "spec, data, shapes",
    [
        ("mlp:5,4", FLAT, [(5, 6), (5,), (4, 5), (4,), (3, 4), (3,)]),
        ("softmax", FLAT, [(3, 6), (3,)]),
        ("softmax", data_of(2, 4), [(3, 8), (3,)]),
        ("mlp:7", data_of(2, 4, targets=2), [(7, 8), (7,), (2, 7), (2,)]),
    ],
)
def test_shapes_follow_the_data(spec, data, shapes):
    model = build(spec, data, dtype="float64")
    assert [p.shape for p in model.parameters()] == shapes
    assert model.training and {p.dtype for p in model.parameters()} == {np.dtype("float64")}


def test_dropout_follows_each_hidden_layer():
    kinds = [type(layer) for layer in build("mlp:5,4", FLAT, dropout=0.5)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    assert nn.Dropout not in map(type, build("mlp:5,4", FLAT))


def test_an_activation_by_name():
    x = FLAT.train_x
    for name, layer in (("tanh", nn.Tanh), ("gelu", nn.GELU), ("relu", nn.ReLU)):
        model, plain = build(f"mlp:5:{name}", FLAT), build("mlp:5", FLAT)
        assert type(model[1]) is layer and weights(model) == weights(plain)
        assert np.array_equal(model(x).data, plain(x).data) == (name == "relu")
