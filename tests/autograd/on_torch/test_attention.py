"""Attention by torch's kernels, beside the formula."""

import math
from unittest import mock

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad.autograd.ops import attention as formula
from tests.device.pretend import pretend

L, S, WIDTH = 6, 8, 8
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def allowed(*shape):
    """A mask with a row in which nothing is allowed, if it has rows."""
    mask = torch.arange(math.prod(shape)).reshape(shape) % 3 != 1
    if shape[-2] > 2:
        mask[..., 2, :] = False
    return mask


MASKS = {
    "no mask": None,
    **{f"booleans {shape}": allowed(*shape) for shape in ((L, S), (2, 3, L, S), (1, S), (L, 1), (2, 1, 1, S))},
    "numbers": torch.where(allowed(L, S), torch.linspace(-2.0, 2.0, S), -math.inf),
}


def inputs(dtype=torch.float32, heads=3, queries=L, width=WIDTH):
    shapes = (2, 3, queries, width), (2, heads, S, width), (2, heads, S, width)
    return [torch.sin(torch.arange(math.prod(s)) * (i + 0.7)).reshape(s).to(dtype) for i, s in enumerate(shapes)]


def run(arrays, *options, device="cpu", **more):
    """Value and gradients, on the CPU."""
    x = [ag.tensor(a.to(device), requires_grad=True) for a in arrays]
    y = ag.scaled_dot_product_attention(*x, *options, **more)
    (y * torch.arange(1.0, y.shape[-1] + 1).to(y.dtype).to(device)).sum().backward()
    return [a.cpu() for a in (y.data, *(t.grad for t in x))]


def by_formula(arrays, mask=None, dropout=0.0, causal=False, scale=None, enable_gqa=False):
    with mock.patch.object(formula, "_attention", lambda q, k, v, mask, causal, scale: formula._composed(
        q, k, v, mask, 0.0, causal, scale)):  # fmt: skip
        return run(arrays, mask, dropout, causal, scale, enable_gqa)


@pytest.fixture
def no_formula():
    """What is computed here is computed by a kernel."""
    with mock.patch.object(formula, "_composed", side_effect=AssertionError("the formula")):
        yield


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_values_and_gradients_are_those_of_the_formula(mask, dtype):
    arrays, rounding = inputs(dtype), ROUNDING[dtype]
    with mock.patch.object(formula, "_composed", side_effect=AssertionError("the formula")):
        found = run(arrays, MASKS[mask])
    expected = by_formula(arrays, MASKS[mask])
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)
    if mask == f"booleans {(L, S)}":
        assert not found[0][:, :, 2].any() and not found[1][:, :, 2].any()  # a row that may look nowhere


@pytest.mark.parametrize("queries", [L, S])
@pytest.mark.parametrize("axes", [2, 3, 4, 5])
def test_a_query_looks_back_only_whatever_the_number_of_axes(queries, axes):
    cut = {2: lambda x: x[0, 0], 3: lambda x: x[0], 4: lambda x: x, 5: lambda x: x[None]}[axes]
    arrays = [cut(x) for x in inputs(queries=queries)]
    torch.testing.assert_close(run(arrays, is_causal=True), by_formula(arrays, causal=True), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("no_formula")
def test_queries_may_share_keys():
    x = inputs(heads=1)
    repeated = [x[0], *(y.repeat_interleave(3, 1) for y in x[1:])]
    found, expected = run(x, enable_gqa=True), run(repeated)
    torch.testing.assert_close(found[:2], expected[:2])
    torch.testing.assert_close(found[2:], [d.sum(1, keepdim=True) for d in expected[2:]], rtol=1e-5, atol=1e-5)


def test_other_cases_go_by_the_formula():
    q, k, v = inputs()
    other_width = (q, k, v[..., :5])
    trained = ag.tensor(torch.zeros(L, S), requires_grad=True)
    for arrays, mask, dropout in ((other_width, None, 0.0), ((q, k, v), trained, 0.0), ((q, k, v), None, 0.5)):
        with mock.patch.object(formula, "_composed", side_effect=formula._composed) as composed:
            run(arrays, mask, dropout)
        assert composed.called
    assert trained.grad is not None
    f = lambda q: (ag.scaled_dot_product_attention(q, k.double(), v.double()) ** 2).sum()
    second = ag.hvp(f, q.double(), q.double())
    g = lambda q: (ag.scaled_dot_product_attention(q, k.double().numpy(), v.double().numpy()) ** 2).sum()
    np.testing.assert_allclose(second, ag.hvp(g, q.double().numpy(), q.double().numpy()), rtol=1e-10)


@pytest.mark.usefixtures("no_formula")
@pytest.mark.parametrize(
    ("dtype", "queries", "mask", "causal", "kernel"),
    [
        (torch.bfloat16, L, None, False, "flash"), (torch.float16, S, None, True, "flash"),
        (torch.bfloat16, L, None, True, "efficient"), (torch.float32, S, None, True, "efficient"),
        (torch.bfloat16, L, "numbers", False, "efficient"),
        (torch.float32, L, f"booleans {(L, 1)}", False, "efficient"),
        (torch.float32, L, f"booleans {(2, 1, 1, S)}", False, "efficient"),
    ],
)  # fmt: skip
def test_a_device_has_its_own_kernels(dtype, queries, mask, causal, kernel):
    arrays, mask = inputs(dtype, queries=queries), None if mask is None else MASKS[mask]
    expected = run(arrays, mask, 0.0, causal)
    with pretend() as device:
        torch.use_deterministic_algorithms(True)
        mask = None if mask is None else mask.to("cuda")
        found = run(arrays, mask, 0.0, causal, device="cuda")
        assert device.launches[f"_scaled_dot_product_{kernel}_attention_backward"] == 1
    for a, b in zip(found, expected):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("dtype", "width", "keys"), [(torch.float64, 8, 8), (torch.float32, 4, 8), (torch.bfloat16, 8, 7)]
)
def test_a_device_goes_by_the_formula_where_its_kernels_cannot(dtype, width, keys):
    arrays = inputs(dtype, width=width)
    arrays = [arrays[0], *(x[:, :, :keys] for x in arrays[1:])]
    mask = allowed(L, keys)
    with pretend() as device:
        run(arrays, mask.to("cuda"), device="cuda")
        assert not any("attention" in name for name in device.launches)


def test_a_device_is_not_waited_for():
    with pretend() as device:
        x, mask = [ag.tensor(a.to("cuda"), requires_grad=True) for a in inputs()], MASKS["numbers"].to("cuda")
        with device.no_waits():
            for options in ((None, 0.0, True), (mask,), (None, 0.5, True), (mask, 0.5)):
                ag.scaled_dot_product_attention(*x, *options).sum().backward()


@pytest.mark.parametrize("cut", [slice(16), slice(4, 20)], ids=["rows apart", "first row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("no_formula")
def test_rows_that_do_not_begin_on_16_bytes_are_copied(dtype, cut):
    whole = torch.sin(torch.arange(2.0 * 3 * 8 * 24)).reshape(2, 3, 8, 24)[..., : 20 if cut.start is None else 24]
    whole, numbers = whole.contiguous().to(dtype), torch.linspace(-1.0, 1.0, 8 * 12).reshape(8, 12).to(dtype)
    found = []
    with pretend():
        for device in ("cuda", "cpu"):
            x = ag.tensor(whole.to(device), requires_grad=True)
            y = ag.scaled_dot_product_attention(*[x[..., cut]] * 3, attn_mask=numbers.to(device)[:, 2:10])
            y.sum().backward()
            found.append((y.data.cpu(), x.grad.cpu()))
    torch.testing.assert_close(*found)
