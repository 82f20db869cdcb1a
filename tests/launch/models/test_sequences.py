"""Networks for text."""

import numpy as np
import pytest

from allgrad.launch.data import Data
from allgrad.launch.models import build

RNG = np.random.default_rng(0)


def data_of(*features, classes=10, vocabulary=None, grid=None):
    x = RNG.integers(0, classes, (4, *features)) if vocabulary else RNG.normal(size=(4, *features)).astype("f4")
    y = np.zeros((4, *features) if vocabulary else 4, np.int64)
    return Data("made", x, y, x, y, classes, vocabulary, grid)


TABLE, TEXT = data_of(5, classes=2), data_of(6, classes=4, vocabulary="abc")


def shapes(model):
    return {name: value.shape for name, value in model.state_dict().items()}


def size(model):
    return sum(p.size for p in model.parameters())


def test_sequence_models_take_what_is_left_out_from_their_defaults():
    assert shapes(build("lstm:8", TEXT)) == shapes(build("lstm:8,1", TEXT))
    assert "lstm.weight_hh_l1" in shapes(build("lstm:8,2", TEXT))
    assert size(build("lstm", TEXT)) == size(build("lstm:128,1", TEXT))
    assert shapes(build("transformer:16", TEXT)) == shapes(build("transformer:16,4,2", TEXT))
    assert shapes(build("transformer:16", TEXT))["positions.weight"] == (6, 16)


@pytest.mark.parametrize("spec", ["lstm:5,2", "transformer:8,2,2"])
def test_no_character_sees_those_after_it(spec):
    model = build(spec, TEXT, dtype="float64").eval()
    x = RNG.integers(0, 4, (1, 6))
    before = model(x).data
    assert before.shape == (1, 6, 4)
    for t in range(6):
        other = x.copy()
        other[0, t] = (x[0, t] + 1) % 4
        changed = np.abs(model(other).data - before)[0].max(axis=1) > 1e-12
        assert not changed[:t].any() and changed[t]
