"""Summaries of models: every line of the table, and a model that is left as it was."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn


class Forked(nn.Module):
    """Children called in another order than defined, one of them twice, one never, one in a list, a frozen tensor."""

    def __init__(self):
        self.last = nn.Linear(4, 2)
        self.blocks = [nn.Sequential(nn.Linear(3, 4), nn.Tanh())]
        self.spare = nn.Linear(9, 9)
        self.scale = ag.tensor(np.ones(7))

    def __call__(self, x, *, twice=True):
        x = self.blocks[0](x)
        return self.last(x) + self.last(x) if twice else self.last(x)


def test_a_summary_has_names_types_shapes_parameters_and_totals():
    model = Forked()
    text = ag.summary(model, (6, 3))
    assert text.split("\n") == [
        "name            type        output    parameters  multiply-adds",
        "model           Forked      (6, 2)  0 + 7 frozen              0",
        "  blocks.0      Sequential  (6, 4)             0              0",
        "    blocks.0.0  Linear      (6, 4)            16             72",
        "    blocks.0.1  Tanh        (6, 4)             0              0",
        "  last          Linear      (6, 2)            10             96",
        "  spare         Linear      -                 90              0",
        "---------------------------------------------------------------",
        "116 parameters to train, 7 frozen, 123 in all",
        "168 multiply-adds in one forward pass",
    ]
    assert ag.summary(model, input_shape=(6, 3)) == ag.summary(model, np.zeros((6, 3), "f")) == text
    bare = ag.summary(model)
    assert "(6, 4)" not in bare and "Tanh" in bare and bare.endswith("116 parameters to train, 7 frozen, 123 in all")


def test_a_summary_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(0.5), nn.LSTM(4, 3))
    model[1].training = False
    ag.manual_seed(3)
    before = ag.dropout(ag.tensor(np.ones(20))).data
    ag.manual_seed(3)
    text = ag.summary(model, (7, 2))
    assert "(7, 2, 3), (1, 2, 3), (1, 2, 3)" in text
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert "training" not in vars(model) and nn.Embedding.__call__.__qualname__ == "Embedding.__call__"
    np.testing.assert_array_equal(ag.dropout(ag.tensor(np.ones(20))).data, before)
    with pytest.raises(ValueError, match="linear: shapes"):
        ag.summary(nn.Linear(3, 4), (2, 5))
    assert nn.Linear.__call__.__qualname__ == "Linear.__call__"


def test_summaries_and_drawings_of_models_on_torch_tensors():
    models = [nn.Sequential(nn.Linear(2, 3), nn.Tanh()).to(device) for device in ("numpy", "cpu")]
    one, other = (ag.summary(model, (5, 2)) for model in models)
    assert one == other and "(5, 3)" in one
    assert "tanh" in ag.to_dot(models[1](torch.ones(1, 2)))
