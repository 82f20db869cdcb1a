"""States of recurrent layers and their cells, against torch's; outputs from zeros are rows of test_layers."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn


@pytest.mark.parametrize("lead", [(), (4,)])
@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("name, options", [("RNN", {}), ("GRU", {"bidirectional": True}), ("LSTM", {"proj_size": 2}),
                                           ("RNNCell", {}), ("GRUCell", {}), ("LSTMCell", {})])  # fmt: skip
def test_states_go_in_and_come_out_as_torchs(name, options, lead, device):
    mine, other = getattr(nn, name)(3, 5, **options), getattr(torch.nn, name)(3, 5, **options).double()
    mine.to("float64", device).load_state_dict(other.state_dict())
    rng, layers = np.random.default_rng(0), () if "Cell" in name else (1 + ("bidirectional" in options),)
    x = rng.normal(size=(*((6,) if layers else ()), *lead, 3))
    widths = [options.get("proj_size", 5), 5][: 1 + ("LSTM" in name)]
    states = [rng.normal(size=(*layers, *lead, width)) for width in widths]
    theirs = [torch.tensor(s, requires_grad=True) for s in states]
    want = other(torch.from_numpy(x), tuple(theirs) if len(theirs) > 1 else theirs[0])
    ours = [ag.tensor(t.detach() if device == "cpu" else t.detach().numpy(), requires_grad=True) for t in theirs]
    have = mine(torch.from_numpy(x) if device == "cpu" else x, tuple(ours) if len(ours) > 1 else ours[0])
    pairs = [*zip(_flat(have), _flat(want), strict=True)]
    sum((a * a).sum() for a, _ in pairs).backward()
    sum((b * b).sum() for _, b in pairs).backward()
    for a, b in [*((a.numpy(), b.detach()) for a, b in pairs), *((a.grad, b.grad) for a, b in zip(ours, theirs))]:
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def _flat(y):
    return [t for part in y for t in _flat(part)] if isinstance(y, tuple) else [y]


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_inputs_of_another_precision_than_the_weights_are_named(layer, device):
    x = np.ones((2, 3) if "Cell" in layer.__name__ else (2, 4, 3))
    x = ag.tensor(torch.from_numpy(x) if device == "cpu" else x)
    with pytest.raises(ValueError, match=rf"{layer.__name__}: x is float64, and the weights are float32: convert x"):
        layer(3, 5).to(device=device)(x)
    layer(3, 5).to("float64", device)(x)
