"""Tables: lookups that change the weight or the gradient, and bags, against torch's."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn

INDICES = np.array([[0, 1, 1], [4, 0, 3]])


def compare(mine, other, device, *inputs):
    """Values and gradients of the weight, from equal weights; the weights are equal afterwards too."""
    mine.to("float64", device).load_state_dict(other.state_dict())
    theirs = [None if x is None else torch.from_numpy(x) for x in inputs]
    have, want = mine(*(theirs if device == "cpu" else inputs)), other(*theirs)
    g = np.cos(np.arange(want.numel())).reshape(want.shape)
    have.backward(g), want.backward(torch.from_numpy(g))
    pairs = (have.numpy(), want), (mine.weight.grad, other.weight.grad), (mine.weight.numpy(), other.weight)
    for a, b in pairs:
        np.testing.assert_allclose(a, b.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"max_norm": 0.5, "norm_type": 1.0},
                                     {"scale_grad_by_freq": True}, {"padding_idx": -1}])  # fmt: skip
def test_options_of_embedding(options, device):
    compare(nn.Embedding(5, 3, **options), torch.nn.Embedding(5, 3, **options).double(), device, INDICES)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 1])
def test_bags(mode, padding, device):
    def made(nn):
        return nn.EmbeddingBag(5, 3, mode=mode, padding_idx=padding)

    compare(made(nn), made(torch.nn).double(), device, INDICES)
    compare(made(nn), made(torch.nn).double(), device, INDICES.ravel(), np.array([0, 2, 2, 5]))  # the second is empty


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_weights_of_samples_and_a_last_offset(device):
    options = {"mode": "sum", "include_last_offset": True}
    weights = np.arange(6.0)
    mine, other = nn.EmbeddingBag(5, 3, **options), torch.nn.EmbeddingBag(5, 3, **options).double()
    compare(mine, other, device, INDICES.ravel(), np.array([0, 2, 6]), weights)


def test_pretrained_rows_are_constants_unless_they_are_thawed():
    rows = np.arange(6, dtype="f").reshape(3, 2)
    for table in (nn.Embedding, nn.EmbeddingBag):
        frozen, free = table.from_pretrained(rows), table.from_pretrained(rows, freeze=False)
        assert not list(frozen.parameters()) and list(frozen.state_dict()) == ["weight"] == [*free.state_dict()]
        assert np.array_equal(frozen.weight.data, rows) and free.weight.requires_grad
    assert nn.Embedding.from_pretrained(rows)(np.array([2])).tolist() == [[4.0, 5.0]]


def test_max_norm_in_two_lookups_of_one_graph():
    layer = nn.Embedding(3, 2, max_norm=0.1)
    (layer(np.array([0])) + layer(np.array([1]))).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    assert ag.norm(layer.weight, dim=1).numpy()[:2] == pytest.approx(0.1, rel=1e-4)
