"""Scaled dot-product attention."""

import math

import numpy as np

from allgrad.autograd.arrays import astype, is_torch, kind, lower_triangle, on_cpu, to_backend_of, xp
from allgrad.autograd.engine import Tensor, number, primitive, shape_of, unfused, unwrap
from allgrad.autograd.engine.tensor import loses_gradient
from allgrad.autograd.ops.activations import softmax
from allgrad.autograd.ops.arrangements import repeat_interleave
from allgrad.autograd.ops.dropout import dropout
from allgrad.autograd.ops.elementwise import where
from allgrad.autograd.ops.linalg import matmul


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(query key^T scale) value. Vaswani et al. 2017, section 3.2.1.

    query (..., L, E), key (..., S, E), value (..., S, D); result (..., L, D). scale is 1 / sqrt(E) if absent.
    attn_mask broadcasts to (..., L, S): True where a query may look, or numbers added to the scores. is_causal lets
    query i look at the keys 0 .. i only. A query that may look nowhere gets zeros. enable_gqa: several queries, in axis
    -3, share a key and a value, of which there are fewer (Ainslie et al. 2023).
    """
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if enable_gqa:
        key, value = (repeat_interleave(x, query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    _check_shapes(query, key, value, attn_mask)
    scale = 1.0 / math.sqrt(max(query.shape[-1], 1)) if scale is None else number(scale, "attention: scale")
    if dropout_p or loses_gradient(attn_mask) or not is_torch(unwrap(query)):
        return _composed(query, key, value, attn_mask, dropout_p, is_causal, scale)
    mask = None if attn_mask is None else to_backend_of(unwrap(attn_mask), unwrap(query))
    return _attention(query, key, value, mask=mask, causal=is_causal, scale=scale)


@primitive
def _attention(query, key, value, *, mask, causal, scale):
    """Attention by the formula, of tensors for which the library has no kernel: see `on_torch.attention`."""
    return unfused(lambda q, k, v: _composed(q, k, v, mask, 0.0, causal, scale), query, key, value)


def _composed(query, key, value, attn_mask, dropout_p, is_causal, scale):
    scores = matmul(query * scale, key.mT)
    if is_causal:
        attn_mask = lower_triangle(scores.shape[-2], scores.shape[-1], unwrap(scores))
    if attn_mask is None:
        return matmul(dropout(softmax(scores), dropout_p), value)
    mask = to_backend_of(unwrap(attn_mask), unwrap(scores))
    if kind(mask.dtype) != "b" and type(attn_mask) is not Tensor:
        with np.errstate(over="ignore"):  # of half precision, where -1e9 is -inf
            attn_mask = mask = astype(mask, scores.dtype)
    allowed = mask if kind(mask.dtype) == "b" else mask != -math.inf
    somewhere = allowed.any(axis=-1, keepdims=True)
    if kind(mask.dtype) == "b":
        attn_mask = astype(xp[type(mask)].where(mask, 0.0, -math.inf), scores.dtype)
    y = matmul(dropout(softmax(scores + where(somewhere, attn_mask, 0.0)), dropout_p), value)
    return y if on_cpu(somewhere) and somewhere.all() else y * somewhere


def _check_shapes(query, key, value, attn_mask):
    shapes: list = [shape_of(x) for x in (query, key, value, 0.0 if attn_mask is None else attn_mask)]
    name, (q, k, v, mask) = "scaled_dot_product_attention", shapes
    if min(map(len, (q, k, v))) < 2 or q[-1] != k[-1] or k[-2] != v[-2]:
        raise ValueError(f"{name}: needs (..., L, E), (..., S, E) and (..., S, D), got {q}, {k}, {v}")
    if any(n not in (1, m) for n, m in zip(mask[::-1], (k[-2], q[-2]))) or isinstance(attn_mask, (list, tuple)):
        wanted, got = (*q[:-1], k[-2]), f"{type(attn_mask).__name__} of shape {mask}"
        raise ValueError(f"{name}: attn_mask is an array that broadcasts to {wanted}, got {got}")
