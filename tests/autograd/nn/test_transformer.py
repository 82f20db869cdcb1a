"""The Transformer's layers and stacks against torch's; the encoder layer without masks is rows of test_layers."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn
from allgrad.autograd.engine.graph import Leaf, topological_order
from allgrad.autograd.random import keyed


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


PADDED, CAUSAL = np.arange(5) >= np.array([[3], [5], [4]]), np.arange(5) > np.arange(5)[:, None]
NETWORKS = [  # what is built from either library, how many inputs it has, and masks
    (lambda m: m.TransformerEncoderLayer(8, 2, 12, 0.0, activation=silu(m), bias=False), 1,
     {"src_mask": CAUSAL, "src_key_padding_mask": PADDED}),
    (lambda m: m.TransformerEncoder(m.TransformerEncoderLayer(8, 2, 12, 0.0), 2, m.LayerNorm(8)), 1,
     {"mask": CAUSAL, "src_key_padding_mask": PADDED}),
    (lambda m: m.TransformerDecoderLayer(8, 2, 12, 0.0, bias=False), 2,
     {"tgt_mask": CAUSAL, "tgt_key_padding_mask": PADDED, "memory_key_padding_mask": PADDED}),
    (lambda m: m.TransformerDecoder(m.TransformerDecoderLayer(8, 2, 12, 0.0), 2), 2, {"memory_mask": CAUSAL}),
    (lambda m: m.Transformer(8, 2, 1, 2, 12, 0.0), 2, {"tgt_mask": CAUSAL, "src_key_padding_mask": PADDED}),
    (lambda m: m.Transformer(8, 2, 1, 1, 12, 0.0, "gelu"), 2, {}),
]  # fmt: skip


def silu(library):
    return ag.silu if library is nn else torch.nn.functional.silu


@pytest.mark.filterwarnings("ignore")  # torch's own, about its fast paths and nested tensors
@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("build, inputs, masks", NETWORKS)
def test_masks_and_stacks(build, inputs, masks, device):
    mine, other = build(nn).to("float64", device), build(torch.nn).double()
    assert list(mine.state_dict()) == list(other.state_dict())
    mine.load_state_dict(other.state_dict())
    theirs = [torch.tensor(x, requires_grad=True) for x in np.random.default_rng(1).normal(size=(inputs, 5, 3, 8))]
    convert = torch.from_numpy if device == "cpu" else np.asarray
    ours = [ag.tensor(convert(x.detach().numpy()), requires_grad=True) for x in theirs]
    y = mine(*ours, **{name: convert(mask) for name, mask in masks.items()})
    ty = other(*theirs, **{name: torch.from_numpy(mask) for name, mask in masks.items()})
    (y * y).sum().backward(), ty.square().sum().backward()
    gradients = {name: p.grad for name, p in mine.named_parameters()}
    pairs = [(y.numpy(), ty.detach()), *((a.grad, b.grad) for a, b in zip(ours, theirs))]
    for a, b in [*pairs, *((gradients[name], p.grad) for name, p in other.named_parameters())]:
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_copies_of_a_layer_start_equal_and_are_trained_apart():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 3), 2)
    first, second = (layer.linear1.weight for layer in encoder.layers)
    assert first is not second and np.array_equal(first.data, second.data) and len(list(encoder.parameters())) == 24


def test_a_stack_of_checkpoints_has_the_same_bits():
    with keyed("layers"):
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 3), 3)
    x, found = ag.tensor(np.random.default_rng(0).standard_normal((5, 2, 4)).astype("f4"), requires_grad=True), []
    for encoder.checkpoints in (False, True):
        x.grad = None
        for p in encoder.parameters():
            p.grad = None
        with keyed("masks"):
            y = encoder(x, is_causal=True)
        nodes = count_nodes(y.node)
        (y * y).sum().backward()
        found.append([y.data.tolist(), x.grad.tolist(), [p.grad.tolist() for p in encoder.parameters()]])
    assert found[0] == found[1] and nodes == 3


def count_nodes(root):
    return sum(not isinstance(node, Leaf) for node in topological_order(root))
