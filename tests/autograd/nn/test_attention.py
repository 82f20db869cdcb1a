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
    have = mine(q, k, k, attn_mask=~allowed if mask == "bool" else None, is_causal=mask == "causal")
    np.testing.assert_allclose(have.numpy(), want.detach().numpy(), rtol=1e-10, atol=1e-12)


OPTIONS = [
    {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True, "batch_first": True}, {"kdim": 5, "vdim": 3},
    {"kdim": 5, "vdim": 3, "add_bias_kv": True, "add_zero_attn": True},
]  # fmt: skip
HIDDEN, ADDED = np.random.default_rng(3).random((4, 6)) < 0.3, np.random.default_rng(4).normal(size=(4, 6))
PADDED = np.arange(6) >= np.array([[3], [6], [5]])
MASKS = [
    {}, {"key_padding_mask": PADDED}, {"attn_mask": HIDDEN & (np.arange(6) > 0), "key_padding_mask": PADDED},
    {"attn_mask": ADDED}, {"attn_mask": ADDED, "key_padding_mask": PADDED}, {"key_padding_mask": PADDED * -2.0},
    {"attn_mask": np.stack([ADDED * i for i in range(6)])}, {"attn_mask": np.arange(6) > np.arange(4)[:, None]},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of torch, which takes both kinds
@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("masks", MASKS, ids=lambda m: "+".join(m))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_and_masks_of_attention(options, masks, device):
    """Values, weights and gradients, with a batch and for a sequence alone."""
    mine, other = nn.MultiheadAttention(8, 2, **options), torch.nn.MultiheadAttention(8, 2, **options).double()
    mine.to("float64", device).load_state_dict(other.state_dict())
    assert list(mine.state_dict()) == list(other.state_dict())
    rng, first = np.random.default_rng(0), options.get("batch_first", False)
    widths = 8, options.get("kdim", 8), options.get("vdim", 8)
    inputs = [rng.normal(size=(3, n, c) if first else (n, 3, c)) for n, c in zip((4, 6, 6), widths)]
    for alone in (False, True):
        given = [x[0] if first else x[:, 0] for x in inputs] if alone else inputs
        kept = {name: mask[0] if alone and name == "key_padding_mask" else mask for name, mask in masks.items()}
        kept = {name: mask[:2] if alone and mask.ndim == 3 else mask for name, mask in kept.items()}
        for weights in ({"need_weights": True}, {"need_weights": True, "average_attn_weights": False}, {}):
            theirs = [torch.tensor(x, requires_grad=True) for x in given]
            told = {k: torch.from_numpy(m) for k, m in kept.items()} | (weights or {"need_weights": False})
            want, want_weights = other(*theirs, **told)
            convert = torch.from_numpy if device == "cpu" else np.asarray
            ours = [ag.tensor(convert(x), requires_grad=True) for x in given]
            have = mine(*ours, **{name: convert(mask) for name, mask in kept.items()}, **weights)
            pairs = [(have, want)] if not weights else [*zip(have, (want, want_weights), strict=True)]
            sum((a * a).sum() for a, _ in pairs).backward()
            sum((b * b).sum() for _, b in pairs).backward()
            pairs = [(a.numpy(), b) for a, b in pairs]
            for a, b in [*pairs, *((a.grad, b.grad) for a, b in zip(ours, theirs))]:
                assert a.shape == tuple(b.shape)
                np.testing.assert_allclose(a, b.detach(), rtol=1e-9, atol=1e-11)


def test_what_attention_returns():
    x = np.ones((4, 3, 8), "f")
    layer = nn.MultiheadAttention(8, 2)
    values, weights = layer(x, x, x, need_weights=True)
    same, none = layer(x, x, x, need_weights=False)
    assert weights.shape == (3, 4, 4) and none is None and np.allclose(values.numpy(), same.numpy(), atol=1e-6)
    assert np.array_equal(layer(x, x, x).numpy(), same.numpy())


def test_learned_numbers_of_a_mask_get_their_gradient():
    layer, x = nn.MultiheadAttention(8, 2).to("float64"), np.random.default_rng(0).normal(size=(4, 8))
    ag.gradcheck(lambda bias: layer(x, x, x, attn_mask=bias, key_padding_mask=np.arange(4) > 2), np.ones((4, 4)))


def test_causal_with_a_mask_or_without_is_one_thing():
    x, layer = np.random.default_rng(0).normal(size=(4, 3, 8)).astype("f"), nn.MultiheadAttention(8, 2)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    assert np.array_equal(mask, torch.nn.Transformer.generate_square_subsequent_mask(4))
    want = layer(x, x, x, is_causal=True).numpy()
    for options in ({"attn_mask": mask}, {"attn_mask": mask == -np.inf}, {"attn_mask": mask, "is_causal": True}):
        np.testing.assert_allclose(layer(x, x, x, **options).numpy(), want, atol=1e-6)
    np.testing.assert_allclose(layer(x, x, x, is_causal=True, need_weights=True)[0].numpy(), want, atol=1e-6)
