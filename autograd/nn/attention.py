"""Attention layers and the Transformer's blocks, over sequences (T, N, E), or (N, T, E) with batch_first."""

import numpy as np

from allgrad.autograd import init as initial
from allgrad.autograd.arrays import kind
from allgrad.autograd.engine import unwrap
from allgrad.autograd.nn.layers import LayerNorm, Linear
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.ops import chunk, dropout, gelu, linear, permute, relu, scaled_dot_product_attention
from allgrad.autograd.random import draw


class MultiheadAttention(Module):
    """Attention in several heads side by side. Vaswani et al. 2017, section 3.2.2.

    in_proj_weight (3 E, E) holds the projections of queries, keys and values one below the other, as in torch.
    """

    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=False, rng=None):
        if embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: {embed_dim} features cannot be cut into {num_heads} heads")
        rng = rng or np.random.Generator(draw())
        self.num_heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        weight = initial.xavier_uniform((3 * embed_dim, embed_dim), rng)
        self.in_proj_weight = Parameter(np.asfortranarray(weight))
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, rng=rng)
        if self.out_proj.bias is not None:
            self.out_proj.bias.assign(0.0)

    def __call__(self, query, key, value, attn_mask=None, is_causal=False):
        """The attended values alone, in the layout of the query.

        attn_mask: numbers added to the scores, or, as in torch.nn, True where a query may NOT look: the opposite of
        `ag.scaled_dot_product_attention`. is_causal lets query i look at the keys 0 .. i only.
        """
        if attn_mask is not None and kind(attn_mask.dtype) == "b":
            attn_mask = ~unwrap(attn_mask)
        if query is key and key is value:
            q, k, v = chunk(linear(query, self.in_proj_weight, self.in_proj_bias), 3, -1)
        else:
            weights = chunk(self.in_proj_weight, 3)
            biases = [None] * 3 if self.in_proj_bias is None else chunk(self.in_proj_bias, 3)
            q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases))
        q, k, v = map(self._heads, (q, k, v))
        p = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, attn_mask, p, is_causal)  # (N, H, T, E / H)
        y = permute(y, 0, 2, 1, 3) if self.batch_first else permute(y, 2, 0, 1, 3)
        return self.out_proj(y.reshape(*y.shape[:2], -1))

    def _heads(self, x):
        """(T, N, E) or (N, T, E) to (N, H, T, E / H)."""
        x = x.reshape(*x.shape[:2], self.num_heads, -1)
        return permute(x, 0, 2, 1, 3) if self.batch_first else permute(x, 1, 2, 0, 3)


class _TransformerLayer(Module):
    """Attentions and a two-layer network, each with a residual connection, dropout and layer norm."""

    attentions: tuple[str, ...] = ()

    def __init__(
        self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", layer_norm_eps=1e-5,
        batch_first=False, norm_first=False, rng=None,
    ):  # fmt: skip
        if activation not in ("relu", "gelu"):
            raise ValueError(f'{type(self).__name__}: activation is "relu" or "gelu", got {activation!r}')
        rng = rng or np.random.Generator(draw())
        for name in self.attentions:
            setattr(self, name, MultiheadAttention(d_model, nhead, dropout, batch_first=batch_first, rng=rng))
        self.linear1 = Linear(d_model, dim_feedforward, rng=rng)
        self.linear2 = Linear(dim_feedforward, d_model, rng=rng)
        for i in range(len(self.attentions) + 1):
            setattr(self, f"norm{i + 1}", LayerNorm(d_model, layer_norm_eps))
        self.p, self.norm_first = dropout, norm_first
        self.activation = relu if activation == "relu" else gelu

    def _residual(self, x, part, norm):
        """x plus what a part makes of it, normalised after the sum or, with norm_first, before the part."""
        return x + self._drop(part(norm(x))) if self.norm_first else norm(x + self._drop(part(x)))

    def _feed_forward(self, x):
        return self.linear2(self._drop(self.activation(self.linear1(x))))

    def _drop(self, x):
        return dropout(x, self.p, self.training)


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and a two-layer network, each with a residual connection, dropout and layer norm.

    norm_first normalises before each part instead of after (Xiong et al. 2020). With is_causal it is the decoder-only
    block of a language model. Vaswani et al. 2017, section 3.1.
    """

    attentions = ("self_attn",)

    def __call__(self, x, attn_mask=None, is_causal=False):
        x = self._residual(x, lambda y: self.self_attn(y, y, y, attn_mask, is_causal), self.norm1)
        return self._residual(x, self._feed_forward, self.norm2)


class TransformerDecoderLayer(_TransformerLayer):
    """An encoder layer with attention to `memory`, the encoder's outputs, between its parts.

    Masks: see `MultiheadAttention`; tgt_is_causal hides from each place of tgt those after it.
    """

    attentions = ("self_attn", "multihead_attn")

    def __call__(self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_is_causal=False, memory_is_causal=False):
        x = self._residual(tgt, lambda y: self.self_attn(y, y, y, tgt_mask, tgt_is_causal), self.norm1)
        look = lambda y: self.multihead_attn(y, memory, memory, memory_mask, memory_is_causal)
        x = self._residual(x, look, self.norm2)
        return self._residual(x, self._feed_forward, self.norm3)
