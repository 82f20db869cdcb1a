"""Rules that torch has kernels of its own for. That they agree with the usual ones, the tables of `ops/` test."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad.autograd.on_torch import rules
from tests.device.pretend import pretend


def test_a_cross_entropy_of_half_precision_is_a_number_of_float32():
    z = torch.linspace(-2.0, 3.0, 12).reshape(3, 4)
    half = ag.tensor(z.bfloat16(), requires_grad=True)
    whole = ag.tensor(z.bfloat16().float(), requires_grad=True)
    losses = [ag.cross_entropy(x, torch.tensor([0, 3, 1])) for x in (half, whole)]
    for loss in losses:
        loss.backward()
    assert losses[0].dtype == torch.float32 and losses[0].item() == losses[1].item()
    assert half.grad.dtype == torch.bfloat16 and torch.allclose(half.grad.float(), whole.grad, atol=2e-3)


TARGETS = torch.linspace(0.1, 0.9, 12).reshape(3, 4)
MIXED = {
    "mse": lambda z: ag.mse_loss(z, TARGETS),
    "bce": lambda z: ag.binary_cross_entropy_with_logits(z, TARGETS),
    "probabilities": lambda z: ag.cross_entropy(z, TARGETS),
    "smoothing": lambda z: ag.cross_entropy(z, torch.tensor([0, 3, 1]), label_smoothing=0.25),
    "smoothing, weights": lambda z: ag.cross_entropy(
        z, torch.tensor([0, 3, 1]), weight=torch.linspace(0.5, 2.0, 4), label_smoothing=0.25
    ),
    "kl": lambda z: ag.kl_div(ag.log_softmax(z, 1), TARGETS),
    "matmul": lambda z: (z @ ag.tensor(torch.ones(4, 2, dtype=z.dtype)) * TARGETS[:, :2]).sum(),
    "einsum": lambda z: (ag.einsum("ij,kj->ik", z, z) * TARGETS[:, :3]).sum(),
    "attention": lambda z: (ag.scaled_dot_product_attention(z, z, z[:, :2]) * TARGETS[:, :2]).sum(),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", MIXED.values(), ids=MIXED)
def test_float32_beside_half_precision_leaves_gradients_of_half_precision(loss, dtype):
    x = torch.sin(torch.arange(15.0)).reshape(3, 5).to(dtype)
    w, b = torch.cos(torch.arange(20.0)).reshape(4, 5).to(dtype), torch.linspace(-1.0, 1.0, 4).to(dtype)
    found = []
    for wanted in (dtype, torch.float64):
        leaves = [ag.tensor(a.to(wanted), requires_grad=True) for a in (x, w, b)]
        y = loss(ag.tanh(ag.linear(*leaves)))
        y.backward()
        assert {leaf.grad.dtype for leaf in leaves} == {wanted}
        found.append([y.data, *(leaf.grad for leaf in leaves)])
    assert found[0][0].dtype == torch.float32
    for have, want in zip(*found, strict=True):
        torch.testing.assert_close(have.double(), want.double(), rtol=0.05, atol=0.05)


def test_smoothed_labels_of_half_precision_lose_no_digits_of_the_loss():
    z = torch.sin(torch.arange(300.0)).reshape(3, 100).bfloat16()
    half, whole = (ag.cross_entropy(x, torch.tensor([0, 3, 1]), label_smoothing=0.9) for x in (z, z.float()))
    assert half.item() == whole.item()


def test_a_label_that_is_none_is_named_as_it_is_without_torch():
    for z in (np.zeros((2, 3)), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=r"cross_entropy: label 3 is not one of the 3 classes 0 \.\. 2"):
            ag.cross_entropy(ag.tensor(z, requires_grad=True), np.array([0, 3]))


@pytest.mark.parametrize("f", [ag.relu, ag.gelu, ag.silu, ag.sigmoid, ag.tanh, lambda x: ag.softmax(x, 0)])
def test_a_gradient_that_is_itself_recorded_takes_the_usual_rule(f):
    """torch's kernels for backward have no vjps here."""
    x, v = torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weighted = lambda x: (f(x) * f(x)).sum()
    found, expected = (ag.hvp(weighted, x, v), ag.hvp(weighted, x.numpy(), v.numpy()))
    assert type(found) is torch.Tensor
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_cross_entropy_in_chunks_is_that_of_the_whole(dtype, reduction, ignored, monkeypatch):
    z = torch.sin(torch.arange(70.0) * 3.7).reshape(14, 5).to(dtype) * 3.0
    labels, g = torch.arange(14) % 5, torch.linspace(0.5, 2.0, 14).to(torch.promote_types(dtype, torch.float32))
    if ignored:
        labels[3] = -100

    def run():
        x = ag.tensor(z, requires_grad=True)
        loss = ag.cross_entropy(x, labels, reduction=reduction)
        for _ in range(2):  # the graph may be walked twice
            loss.backward(g if reduction == "none" else 0.75, retain_graph=True)
        return loss.data, x.grad

    whole = run()
    for elements in (10, 15, 1):
        monkeypatch.setattr(rules, "ON_CPU", (0, elements))
        loss, by_logits = run()
        assert torch.equal(by_logits, whole[1]) and loss.dtype == whole[0].dtype
        torch.testing.assert_close(loss, whole[0])


def test_large_logits_need_memory_for_their_gradient_and_a_chunk(monkeypatch):
    tokens, vocabulary, chunk = 4096, 1024, 1 << 18
    monkeypatch.setattr(rules, "ON_DEVICE", (chunk, chunk))
    with pretend(values=False) as device:
        x = torch.empty((tokens, vocabulary), dtype=torch.bfloat16, device="cuda")
        z, labels = ag.tensor(x, requires_grad=True), torch.zeros(tokens, dtype=torch.int64, device="cuda")
        del x
        device.reset()
        before = device.live_bytes
        with device.no_waits():
            ag.cross_entropy(z * 1.0, labels).backward()
        logits = 2 * tokens * vocabulary
        # the product z * 1.0, its gradient, that of z, and of a chunk: in bfloat16, and twice or thrice in float32
        assert device.peak_bytes - before < 3 * logits + 4 * 4 * chunk + (1 << 20)


@pytest.mark.parametrize(
    ("dtype", "tf32", "innermost"),
    [(torch.bfloat16, False, True), (torch.float32, True, True), (torch.float32, False, False)],
    ids=str,
)
def test_tensor_cores_get_images_with_the_channels_innermost(dtype, tf32, innermost):
    x, w = torch.ones(2, 3, 4, 4, dtype=dtype), torch.ones(5, 3, 3, 3, dtype=dtype)
    with pretend(), torch.backends.cudnn.flags(allow_tf32=tf32):
        y = ag.conv2d(ag.tensor(x.to("cuda"), requires_grad=True), ag.tensor(w.to("cuda")), padding=1)
        z = ag.relu(ag.max_pool2d(y, 2)).data
        for image in (y.data, z):
            assert image.is_contiguous(memory_format=torch.channels_last) == innermost
