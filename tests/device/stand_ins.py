"""What computes on the pretended device in the place of kernels that only CUDA has, and refuses what they refuse."""

import torch

aten = torch.ops.aten
HALVES = (torch.float16, torch.bfloat16)


def _check_rows(*arrays):
    for x in arrays:
        assert x.dim() == 4 and x.stride(-1) == 1, "rows of four axes, whose elements are neighbours"
        assert all(n % 8 == 0 for n in (x.shape[-1], x.storage_offset(), *x.stride()[:-1])), "rows that begin on 16 B"


def _flash(q, k, v, dropout=0.0, causal=False, debug=False, *, scale=None):
    _check_rows(q, k, v)
    assert q.dtype in HALVES and q.shape[-1] == v.shape[-1] <= 256
    assert not causal or q.shape[-2] == k.shape[-2], "flash attention counts from the last query and key"
    y, log = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, causal, scale=scale)
    state = torch.zeros(2, dtype=torch.int64)
    return y, log, None, None, q.shape[-2], k.shape[-2], state, state.clone(), y.new_empty(0)


def _flash_back(g, q, k, v, y, log, cum_q, cum_k, m, n, dropout, causal, state, unused, *, scale=None):
    _check_rows(g)
    back = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return back(g, q, k, v, y, log, dropout, causal, scale=scale)


def _efficient(q, k, v, bias, log, dropout=0.0, causal=False, *, scale=None):
    _check_rows(q, k, v)
    assert log and q.dtype != torch.float64
    if bias is not None:
        assert bias.dtype == q.dtype and bias.shape == (*q.shape[:-1], k.shape[-2])
        assert not torch.isinf(bias).all(-1).any(), "a row of -inf, which may come out as nan"
        assert bias.stride(-1) == 1 and all(n % 8 == 0 for n in (bias.storage_offset(), *bias.stride()[:-1]))
    y, log = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, causal, attn_mask=bias, scale=scale)
    return y, log, torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)


def _efficient_back(g, q, k, v, bias, y, log, seed, offset, dropout, wanted, causal=False, *, scale=None):
    _check_rows(g)
    back = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return *back(g, q, k, v, y, log, dropout, causal, attn_mask=bias, scale=scale), None


def _product_in_float32(a, b, dtype, *, out):
    assert a.dtype == b.dtype and a.dtype in HALVES and dtype == out.dtype == torch.float32
    return out.copy_(a.float() @ b.float())


WITH_VALUES = {
    aten._scaled_dot_product_flash_attention.default: _flash,
    aten._scaled_dot_product_flash_attention_backward.default: _flash_back,
    aten._scaled_dot_product_efficient_attention.default: _efficient,
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_back,
    aten.mm.dtype_out: _product_in_float32,
}
OF_SHAPES = {aten.mm.dtype_out: lambda a, b, dtype, *, out: out}
