"""Attention by torch's fused kernels, which never hold the matrix (L, S) of scores of a whole head.

Dao et al. 2022, "FlashAttention"; Rabe and Staats 2021. Their backwards have the same bits every time where
torch.use_deterministic_algorithms asks for it.
"""

import math
from functools import lru_cache

import torch

from allgrad.autograd.engine import shared
from allgrad.autograd.on_torch.rules import aten, torch_rule
from allgrad.autograd.ops import attention

HALVES = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 192  # that flash attention can also go back through on every GPU
ALIGNED = 8  # elements: what kernels of CUDA ask of the length of rows


@torch_rule(attention._attention)
def attend(q, k, v, *, mask, causal, scale):
    if not q.dtype == k.dtype == v.dtype or 0 in (*q.shape, *k.shape, *v.shape) or not q.is_floating_point():
        return NotImplemented
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return NotImplemented
    shapes, result = (q.shape, k.shape, v.shape), (*q.shape[:-1], v.shape[-1])
    q, k, v = map(_aligned, map(_with_four_axes, (q, k, v)))
    somewhere = None
    if mask is not None:
        mask, somewhere = _as_scores(mask, q.dtype)
        mask = _aligned(_with_four_axes(mask.expand(*result[:-1], k.shape[-2])))
    kernel = _kernel_for(q, k, v, mask, causal)
    if kernel is None:
        return NotImplemented
    y, back = kernel(q, k, v, mask, causal, scale)
    y = y.reshape(result)

    def pullback(g):
        g = g if somewhere is None else g * somewhere
        g = _aligned(g.reshape(q.shape[:-1] + v.shape[-1:]))
        return [d.reshape(shape) for d, shape in zip(back(g), shapes)]

    return y if somewhere is None else y * somewhere, *shared(pullback, 3)


def _with_four_axes(x):
    """x (..., L, E) as (N, H, L, E)."""
    return (
        x if x.ndim == 4 else x.reshape(1, *(1,) * (3 - x.ndim), *x.shape) if x.ndim < 4 else x.flatten(0, x.ndim - 4)
    )


def _aligned(x):
    """x, or a copy whose rows are neighbours in memory and begin where kernels of CUDA can read them."""
    rows = x.is_cpu or not (x.storage_offset() % ALIGNED or any(s % ALIGNED for s in x.stride()[:-1]))
    return x if rows and x.stride(-1) == 1 else x.contiguous()


def _as_scores(mask, dtype):
    """A mask as numbers to add to the scores, none -inf in a whole row, and which rows may look somewhere."""
    mask = mask if mask.dtype is torch.bool else mask.to(dtype)  # where -1e9 may be -inf
    allowed = mask if mask.dtype is torch.bool else mask != -math.inf
    somewhere = allowed.any(-1, keepdim=True)
    scores = torch.where(mask, 0.0, -math.inf) if mask.dtype is torch.bool else mask
    return torch.where(somewhere, scores, 0.0).to(dtype), somewhere


def _kernel_for(q, k, v, mask, causal):
    """A function of (q, k, v, mask, causal, scale) that calls the kernel for these, or None."""
    width, halves = q.shape[-1], q.dtype in HALVES
    if q.is_cpu:
        return on_cpu if width == v.shape[-1] else None
    if q.device.type != "cuda" or q.dtype is torch.float64 or width % ALIGNED or v.shape[-1] % ALIGNED:
        return None
    if halves and not _has_flash(q.device):
        return None
    square = not causal or q.shape[-2] == k.shape[-2]  # else flash attention would let the last query see all keys
    if halves and mask is None and square and width == v.shape[-1] and width <= WIDEST_HEAD:
        return flash
    return efficient if mask is None or k.shape[-2] % ALIGNED == 0 else None


@lru_cache
def _has_flash(device):
    return torch.cuda.get_device_capability(device) >= (8, 0)


def on_cpu(q, k, v, mask, causal, scale):
    options = {"attn_mask": mask, "scale": scale}
    y, log = aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, v, 0.0, causal, **options)
    back = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    return y, lambda g: back(g, q, k, v, y, log, 0.0, causal, **options)


def flash(q, k, v, mask, causal, scale):
    forward = aten._scaled_dot_product_flash_attention.default
    y, log, *lengths, state, unused, _ = forward(q, k, v, 0.0, causal, False, scale=scale)
    back = aten._scaled_dot_product_flash_attention_backward.default
    return y, lambda g: back(g, q, k, v, y, log, *lengths, 0.0, causal, state, unused, scale=scale)


def efficient(q, k, v, mask, causal, scale):
    forward = aten._scaled_dot_product_efficient_attention.default
    y, log, seed, offset = forward(q, k, v, mask, True, 0.0, causal, scale=scale)
    back, wanted = aten._scaled_dot_product_efficient_attention_backward.default, (True, True, True, False)
    return y, lambda g: back(g, q, k, v, mask, y, log, seed, offset, 0.0, wanted, causal, scale=scale)[:3]
