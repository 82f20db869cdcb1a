"""Attention and the Transformer's layers against torch's; those of one input are rows of test_layers."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("mask", [None, "causal", "bool"])
def test_multihead_attention(cross, mask):
    mine, other = nn.MultiheadAttention(8, 2).to("float64"), torch.nn.MultiheadAttention(8, 2).double()
    other.load_state_dict({name: torch.from_numpy(a) for name, a in mine.state_dict().items()})
    rng = np.random.default_rng(1)
    q = rng.normal(size=(5, 3, 8))
    k = rng.normal(size=(5, 3, 8)) if cross else q
    allowed = {"causal": np.tri(5, dtype=bool), "bool": rng.random((5, 5)) < 0.8, None: None}[mask]
    if mask == "bool":
        allowed |= np.eye(5, dtype=bool)
    theirs = None if allowed is None else torch.from_numpy(~allowed)  # torch's mask says where not to look
    want = other(*map(torch.from_numpy, (q, k, k)), attn_mask=theirs, need_weights=False)[0]
    have = mine(q, k, k, ~allowed if mask == "bool" else None, is_causal=mask == "causal")
    np.testing.assert_allclose(have.numpy(), want.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu", "batch_first": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_transformer_decoder_layer(options, masked):
    mine = nn.TransformerDecoderLayer(8, 2, 12, 0.0, **options).to("float64")
    other = torch.nn.TransformerDecoderLayer(8, 2, 12, 0.0, **options).double()
    other.load_state_dict({name: torch.from_numpy(a) for name, a in mine.state_dict().items()})
    assert list(mine.state_dict()) == list(other.state_dict())
    rng = np.random.default_rng(4)
    shapes = [(3, 5, 8), (3, 7, 8)] if options else [(5, 3, 8), (7, 3, 8)]
    xs = [ag.tensor(rng.normal(size=shape), requires_grad=True) for shape in shapes]
    txs = [torch.tensor(x.numpy(), requires_grad=True) for x in xs]
    allowed = np.arange(7) != np.arange(5)[:, None]
    causal, hidden = torch.ones(5, 5, dtype=torch.bool).triu(1), torch.from_numpy(~allowed)
    y = mine(*xs, memory_mask=~allowed, tgt_is_causal=True) if masked else mine(*xs)
    ty = other(*txs, tgt_mask=causal, memory_mask=hidden) if masked else other(*txs)
    g = rng.normal(size=ty.shape)
    y.backward(g), ty.backward(torch.from_numpy(g))
    pairs = [(y.numpy(), ty.detach()), *((x.grad, t.grad) for x, t in zip(xs, txs))]
    for a, b in [*pairs, *((p.grad, t.grad) for p, t in zip(mine.parameters(), other.parameters()))]:
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_the_decoder_drops_out_in_training_only():
    layer, x = nn.TransformerDecoderLayer(8, 2, 12, 0.5), np.ones((5, 3, 8), "f4")
    assert np.any(layer(x, x).numpy() != layer(x, x).numpy())
    layer.eval()
    assert np.array_equal(layer(x, x).numpy(), layer(x, x).numpy())
