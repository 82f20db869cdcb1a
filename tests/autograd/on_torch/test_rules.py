"""Rules that torch has kernels of its own for. That they agree with the usual ones, the tables of `ops/` test."""

import numpy as np
import pytest
import torch

import allgrad as ag


def test_a_cross_entropy_of_half_precision_is_a_number_of_float32():
    z = torch.linspace(-2.0, 3.0, 12).reshape(3, 4)
    half = ag.tensor(z.bfloat16(), requires_grad=True)
    whole = ag.tensor(z.bfloat16().float(), requires_grad=True)
    losses = [ag.cross_entropy(x, torch.tensor([0, 3, 1])) for x in (half, whole)]
    for loss in losses:
        loss.backward()
    assert losses[0].dtype == torch.float32 and losses[0].item() == losses[1].item()
    assert half.grad.dtype == torch.bfloat16 and torch.allclose(half.grad.float(), whole.grad, atol=2e-3)


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
