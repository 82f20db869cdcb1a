"""The Transformer: its layers, stacks of them, and the whole. Vaswani et al. 2017.

Sequences are (T, N, E), or (N, T, E) with batch_first, or (T, E). Masks are those of `MultiheadAttention`, as in torch:
True hides. `..._is_causal` hides from each place those after it, with a mask or without.
"""

import copy
from typing import Any

import numpy as np

from allgrad.autograd import init as initial
from allgrad.autograd.engine import checkpoint
from allgrad.autograd.nn.attention import MultiheadAttention
from allgrad.autograd.nn.containers import ModuleList
from allgrad.autograd.nn.layers import Linear
from allgrad.autograd.nn.module import Module
from allgrad.autograd.nn.normalization import LayerNorm
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import dropout, gelu, relu
from allgrad.autograd.random import draw


class _TransformerLayer(Module):
    """Attentions and a two-layer network, each with a residual connection, dropout and layer norm."""

    attentions: tuple[str, ...] = ()

    @placed
    def __init__(
        self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", layer_norm_eps=1e-5,
        batch_first=False, norm_first=False, bias=True, rng=None,
    ):  # fmt: skip
        known = {"relu": relu, "gelu": gelu}
        if not callable(activation) and activation not in known:
            name = type(self).__name__
            raise ValueError(f'{name}: activation is "relu", "gelu" or a function of a tensor, got {activation!r}')
        rng = rng or np.random.Generator(draw())
        options = {"bias": bias, "batch_first": batch_first, "rng": rng}
        for name in self.attentions:
            setattr(self, name, MultiheadAttention(d_model, nhead, dropout, **options))
        self.linear1 = Linear(d_model, dim_feedforward, bias, rng=rng)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rng=rng)
        for i in range(len(self.attentions) + 1):
            setattr(self, f"norm{i + 1}", LayerNorm(d_model, layer_norm_eps, bias=bias))
        self.p, self.norm_first = dropout, norm_first
        self.activation = activation if callable(activation) else known[activation]

    def _residual(self, x, part, norm):
        """x plus what a part makes of it, normalised after the sum or, with norm_first, before the part."""
        return x + self._drop(part(norm(x))) if self.norm_first else norm(x + self._drop(part(x)))

    def _feed_forward(self, x):
        return self.linear2(self._drop(self.activation(self.linear1(x))))

    def _drop(self, x):
        return dropout(x, self.p, self.training)


def _attend(attention, x, memory, mask, padding, is_causal):
    return attention(x, memory, memory, key_padding_mask=padding, attn_mask=mask, is_causal=is_causal)


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and a two-layer network, each with a residual connection, dropout and layer norm.

    activation: "relu", "gelu" or a function. norm_first normalises before each part instead of after (Xiong et al.
    2020). With is_causal it is the decoder-only block of a language model. Vaswani et al. 2017, section 3.1.
    """

    attentions = ("self_attn",)

    def __call__(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        look = lambda y: _attend(self.self_attn, y, y, src_mask, src_key_padding_mask, is_causal)
        x = self._residual(src, look, self.norm1)
        return self._residual(x, self._feed_forward, self.norm2)


class TransformerDecoderLayer(_TransformerLayer):
    """An encoder layer with attention to `memory`, the encoder's outputs, between its parts."""

    attentions = ("self_attn", "multihead_attn")

    def __call__(
        self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
        tgt_is_causal=False, memory_is_causal=False,
    ):  # fmt: skip
        look = lambda y: _attend(self.self_attn, y, y, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        x = self._residual(tgt, look, self.norm1)
        masks = memory_mask, memory_key_padding_mask, memory_is_causal
        x = self._residual(x, lambda y: _attend(self.multihead_attn, y, memory, *masks), self.norm2)
        return self._residual(x, self._feed_forward, self.norm3)


class _Stack(Module):
    """num_layers copies of a layer, which start with equal weights as in torch, and a norm at the end.

    With `checkpoints` set to True, layers go by `ag.checkpoint`: their arrays for backward are computed again there.
    """

    checkpoints = False

    def __init__(self, layer, num_layers, norm=None):
        self.layers = ModuleList([copy.deepcopy(layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def _run(self, x, *arguments):
        for layer in self.layers:
            x = checkpoint(layer, x, *arguments) if self.checkpoints else layer(x, *arguments)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """num_layers copies of an encoder layer, one after the other; norm: a layer applied at the end."""

    def __init__(self, encoder_layer, num_layers, norm=None):
        super().__init__(encoder_layer, num_layers, norm)

    def __call__(self, src, mask=None, src_key_padding_mask=None, is_causal=None):
        return self._run(src, mask, src_key_padding_mask, bool(is_causal))


class TransformerDecoder(_Stack):
    """num_layers copies of a decoder layer, one after the other; norm: a layer applied at the end."""

    def __init__(self, decoder_layer, num_layers, norm=None):
        super().__init__(decoder_layer, num_layers, norm)

    def __call__(
        self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
        tgt_is_causal=None, memory_is_causal=False,
    ):  # fmt: skip
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self._run(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)


class Transformer(Module):
    """An encoder and a decoder that attends to its outputs, model(src, tgt); the defaults are those of the paper.

    src (S, N, E) and tgt (T, N, E) give (T, N, E): there is no embedding, and no layer after it.
    """

    @placed
    def __init__(
        self, d_model=512, nhead=8, num_encoder_layers=6, num_decoder_layers=6, dim_feedforward=2048, dropout=0.1,
        activation="relu", custom_encoder=None, custom_decoder=None, layer_norm_eps=1e-5, batch_first=False,
        norm_first=False, bias=True, rng=None,
    ):  # fmt: skip
        rng = rng or np.random.Generator(draw())
        options = dropout, activation, layer_norm_eps, batch_first, norm_first, bias, rng
        norm = lambda: LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.encoder: Any = custom_encoder
        self.decoder: Any = custom_decoder
        if custom_encoder is None:
            layer = TransformerEncoderLayer(d_model, nhead, dim_feedforward, *options)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        if custom_decoder is None:
            layer = TransformerDecoderLayer(d_model, nhead, dim_feedforward, *options)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        for p in self.parameters():
            if p.ndim > 1:
                p.assign(initial.xavier_uniform(tuple(p.shape), rng))
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def __call__(
        self, src, tgt, src_mask=None, tgt_mask=None, memory_mask=None, src_key_padding_mask=None,
        tgt_key_padding_mask=None, memory_key_padding_mask=None, src_is_causal=None, tgt_is_causal=None,
        memory_is_causal=False,
    ):  # fmt: skip
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(size):
        """The mask (size, size) that hides from each place those after it: -inf above the diagonal, 0 elsewhere."""
        return np.triu(np.full((size, size), -np.inf, np.float32), 1)
