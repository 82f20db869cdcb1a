"""The exponential moving average of the weights."""

import numpy as np
import pytest

from allgrad import nn, optim
from tests.autograd.optim.training import model_and_twin, train


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_the_average_is_that_of_adam(device, monkeypatch):
    monkeypatch.setattr("allgrad.autograd.optim.averages.CHUNK_ELEMENTS", 7)
    model = model_and_twin()[0].to(device=device)
    optimizer, ema = optim.SGD(model, lr=0.3), optim.EMA(model, decay=0.8)
    m = {name: 0.0 for name, _ in model.named_parameters()}
    for n in range(1, 26):
        train(model, optimizer, 1)
        ema.update()
        m = {name: 0.8 * m[name] + 0.2 * np.array(p.numpy()) for name, p in model.named_parameters()}
        if n in (1, 2, 25):
            with ema.applied():
                for name, p in model.named_parameters():
                    np.testing.assert_allclose(p.numpy(), m[name] / (1 - 0.8**n), rtol=1e-12, atol=1e-14)


def test_after_one_update_it_is_the_weights_and_without_decay_always():
    model, _ = model_and_twin()
    optimizer, emas = optim.SGD(model, lr=0.3), [optim.EMA(model, 0.99), optim.EMA(model, 0.0)]
    for ema in emas:
        ema.update()
        assert (ema.mean == ema.arena.data).all()
    train(model, optimizer, 3)
    for ema in emas:
        ema.update()
    assert not np.allclose(emas[0].mean, emas[0].arena.data) and np.allclose(emas[1].mean, emas[1].arena.data, 1e-15)


def test_an_old_weight_counts_half_after_the_half_life():
    w = nn.Parameter([1.0], dtype="float64")
    ema = optim.EMA({"w": w}, half_life_steps=5)
    assert ema.decay**5 == pytest.approx(0.5)
    with pytest.raises(ValueError, match="give decay or half_life_steps, one of the two"):
        optim.EMA({"w": w}, 0.9, 5)
    with pytest.raises(ValueError, match=r"decay is in \[0, 1\), got 1.0"):
        optim.EMA({"w": w}, 1.0)
    with pytest.raises(ValueError, match="half_life_steps is above 0, got 0"):
        optim.EMA({"w": w}, half_life_steps=0)


def test_it_is_shown_and_taken_back_bit_by_bit():
    model, _ = model_and_twin()
    optimizer, ema = optim.AdamW(model, lr=0.05), optim.EMA(model, 0.9)
    assert not ema.eval() and not ema.train()  # there is no average yet
    for _ in range(5):
        train(model, optimizer, 1)
        ema.update()
    before, weights = ema.arena.sha256(), ema.weights.copy()
    assert ema.eval() and not ema.eval() and ema.arena.sha256() != before and (ema.weights == weights).all()
    with pytest.raises(RuntimeError, match=r"call train\(\) before update\(\)"):
        ema.update()
    with ema.applied():  # inside, nothing changes
        pass
    assert (ema.arena.data == ema.mean).all()
    assert ema.train() and not ema.train() and ema.arena.sha256() == before
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    assert ema.arena.sha256() == before


def test_its_state_goes_on_exactly():
    model, _ = model_and_twin()
    optimizer, ema = optim.SGD(model, lr=0.3), optim.EMA(model, 0.9)
    for _ in range(3):
        train(model, optimizer, 1)
        ema.update()
    other, _ = model_and_twin()
    again = optim.EMA(other, 0.9)
    again.update()
    again.eval()
    again.load_state_dict(ema.state_dict())
    other.load_state_dict(model.state_dict())
    for m, average in ((model, ema), (other, again)):
        train(m, optim.SGD(m, lr=0.3), 2)
        average.update()
    assert (again.mean == ema.mean).all() and again.updates == ema.updates == 4
    state = ema.state_dict()
    state["mean"]["0.weight"] = state["mean"]["0.weight"].T
    with pytest.raises(ValueError, match=r"EMA: '0.weight' has shape \(6, 8\) in the state, the parameter \(8, 6\)"):
        again.load_state_dict(state)
