"""Attention in several heads, over sequences (T, N, E), or (N, T, E) with batch_first, or one sequence (T, E)."""

import math
from typing import Any

import numpy as np

from allgrad.autograd import init as initial
from allgrad.autograd.arrays import cast_like, full, kind, lower_triangle, to_backend_of
from allgrad.autograd.engine import Tensor, shape_of, unwrap
from allgrad.autograd.nn.layers import Linear
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import (
    chunk,
    concatenate,
    expand,
    linear,
    matmul,
    pad,
    permute,
    scaled_dot_product_attention,
    squeeze,
    unsqueeze,
    where,
)
from allgrad.autograd.random import draw


class MultiheadAttention(Module):
    """Attention in several heads side by side. Vaswani et al. 2017, section 3.2.2.

    in_proj_weight (3 E, E) holds the projections of queries, keys and values one below the other, as in torch; where
    keys have kdim or values vdim features, they are q_proj_weight, k_proj_weight and v_proj_weight. add_bias_kv adds a
    learned key and value (bias_k, bias_v) to each sequence of them, add_zero_attn a key and value of zeros.
    """

    @placed
    def __init__(
        self, embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None,
        vdim=None, batch_first=False, rng=None,
    ):  # fmt: skip
        if embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: {embed_dim} features cannot be cut into {num_heads} heads")
        if not isinstance(batch_first, bool) or not isinstance(add_bias_kv, bool):
            got = f"{batch_first!r} and {add_bias_kv!r}"
            raise TypeError(f"MultiheadAttention: batch_first and add_bias_kv are True or False, got {got}")
        rng = rng or np.random.Generator(draw())
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.add_zero_attn, self.kdim, self.vdim = add_zero_attn, kdim or embed_dim, vdim or embed_dim

        def matrix(*shape):
            return Parameter(np.asfortranarray(initial.xavier_uniform(shape, rng)))

        self.in_proj_weight = self.q_proj_weight = self.k_proj_weight = self.v_proj_weight = None
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = matrix(3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight, self.k_proj_weight = matrix(embed_dim, embed_dim), matrix(embed_dim, self.kdim)
            self.v_proj_weight = matrix(embed_dim, self.vdim)
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim)) if bias else None
        self.bias_k = self.bias_v = None
        if add_bias_kv:
            deviation = math.sqrt(2.0 / (2 * embed_dim))
            self.bias_k, self.bias_v = (Parameter(rng.normal(0.0, deviation, (1, 1, embed_dim))) for _ in range(2))
        self.out_proj = Linear(embed_dim, embed_dim, bias, rng=rng)
        if self.out_proj.bias is not None:
            self.out_proj.bias.assign(0.0)

    def __call__(
        self, query, key, value, key_padding_mask=None, need_weights=None, attn_mask=None, average_attn_weights=True,
        is_causal=False,
    ):  # fmt: skip
        """The attended values, in the layout of the query; with need_weights True or False, a pair as torch returns it.

        attn_mask (L, S) or (N H, L, S): numbers added to the scores, or, as in torch.nn, True where a query may NOT
        look: the opposite of `ag.scaled_dot_product_attention`. key_padding_mask (N, S): the same for each key of a
        sequence. is_causal lets query i look at the keys 0 .. i only. A query that may look nowhere gets zeros.
        need_weights: None returns the values alone; True the pair (values, weights), with weights (N, L, S), their
        mean over the heads, or (N, H, L, S) without average_attn_weights; False the pair (values, None).
        """
        single, batch_axis = query.ndim == 2, 0 if self.batch_first else 1
        self._check_inputs(query, key, value)
        if single:
            same = query is key and key is value
            query = unsqueeze(query, batch_axis)
            key, value = (query, query) if same else (unsqueeze(x, batch_axis) for x in (key, value))
            key_padding_mask = None if key_padding_mask is None else unwrap(key_padding_mask)[None]
        q, k, v = self._projected(query, key, value)
        q, k, v = self._heads(q), self._heads(self._longer(k, self.bias_k)), self._heads(self._longer(v, self.bias_v))
        sources = key.shape[1 - batch_axis]
        plain = attn_mask is key_padding_mask is None and k.shape[2] == sources
        mask = None if plain else self._mask(attn_mask, key_padding_mask, is_causal, q, sources, k.shape[2] - sources)
        p, weights = self.dropout if self.training else 0.0, None
        if need_weights:  # those of the values 1, 0, 0, ... and so on
            identity = Tensor(cast_like(np.eye(k.shape[2]), unwrap(k)))
            weights = scaled_dot_product_attention(q, k, identity, mask, p, is_causal and plain)  # (N, H, L, S)
            y = matmul(weights, v)
        else:
            y = scaled_dot_product_attention(q, k, v, mask, p, is_causal and plain)  # (N, H, L, E / H)
        y = permute(y, 0, 2, 1, 3) if self.batch_first else permute(y, 2, 0, 1, 3)
        y = self.out_proj(y.reshape(*y.shape[:2], -1))
        y = squeeze(y, batch_axis) if single else y
        if need_weights is None:
            return y
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights[0] if single else weights
        return y, weights

    def _check_inputs(self, query, key, value):
        shapes = [shape_of(x) for x in (query, key, value)]
        widths, axes = [self.embed_dim, self.kdim, self.vdim], {*map(len, shapes)}
        if axes not in ({2}, {3}) or [s[-1] for s in shapes] != widths or shapes[1][:-1] != shapes[2][:-1]:
            wanted = f"sequences of {widths} features, all with or all without a batch, as many keys as values"
            raise ValueError(f"MultiheadAttention: query, key and value are {wanted}, got {shapes}")

    def _projected(self, query, key, value):
        if self.in_proj_weight is not None and query is key and key is value:
            return chunk(linear(query, self.in_proj_weight, self.in_proj_bias), 3, -1)
        weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        if self.in_proj_weight is not None:
            weights = chunk(self.in_proj_weight, 3)
        biases = [None] * 3 if self.in_proj_bias is None else chunk(self.in_proj_bias, 3)
        return [linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]

    def _heads(self, x):
        """(T, N, E) or (N, T, E) to (N, H, T, E / H)."""
        x = x.reshape(*x.shape[:2], self.num_heads, -1)
        return permute(x, 0, 2, 1, 3) if self.batch_first else permute(x, 1, 2, 0, 3)

    def _longer(self, x, learned):
        """Keys or values, with those of add_bias_kv and add_zero_attn at the end of each sequence."""
        shape = (len(x), 1, self.embed_dim) if self.batch_first else (1, x.shape[1], self.embed_dim)
        more = [] if learned is None else [expand(learned, shape)]
        more += [Tensor(full(shape, 0.0, unwrap(x)))] if self.add_zero_attn else []
        return concatenate([x, *more], 1 if self.batch_first else 0) if more else x

    def _mask(self, attn_mask, key_padding_mask, is_causal, q, sources, added):
        """All masks as one for `scaled_dot_product_attention`; the keys that were added may be looked at."""
        n, h, length, _ = q.shape
        found = [("attn_mask", attn_mask, {(length, sources): (1, 1), (n * h, length, sources): (n, h)})]
        found += [("key_padding_mask", key_padding_mask, {(n, sources): (n, 1, 1)})]
        parts: list[Any] = [~lower_triangle(length, sources, unwrap(q))] if is_causal else []
        for name, mask, shapes in found:
            if mask is None:
                continue
            shape = shape_of(mask)
            if shape not in shapes:
                wanted = " or ".join(map(str, shapes))
                raise ValueError(f"MultiheadAttention: {name} is an array of shape {wanted}, got {shape}")
            boolean = kind(mask.dtype) == "b"
            mask = to_backend_of(unwrap(mask), unwrap(q)) if boolean or type(mask) is not Tensor else mask
            parts.append(mask.reshape(*shapes[shape], *shape[-2 if name == "attn_mask" else -1 :]))
        hidden: Any = None
        scores: Any = None
        for part in parts:
            if kind(part.dtype) == "b":
                if added:
                    longer: Any = full((*part.shape[:-1], sources + added), 0.0, part)
                    longer[..., :sources] = part
                    part = longer
                hidden = part if hidden is None else hidden | part
            else:
                part = pad(part if type(part) is Tensor else Tensor(part), (0, added)) if added else part
                scores = part if scores is None else scores + part
        if scores is None:
            return None if hidden is None else ~hidden
        return scores if hidden is None else where(hidden, -math.inf, scores)
