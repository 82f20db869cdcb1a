"""torch's tensors under NumPy's names, and who records what is done to them."""

import subprocess
import sys

import pytest
import torch

import allgrad as ag
from allgrad import nn, optim


def test_torch_tensors_that_require_gradients_are_constants_here():
    x, p = ag.tensor(torch.tensor([1.0, 2.0]), requires_grad=True), torch.nn.Parameter(torch.ones(2))
    y = (x * p + torch.ones(2, requires_grad=True)).sum()
    y.backward()
    assert y.data.grad_fn is None and p.grad is None and x.grad.tolist() == [1.0, 1.0]
    model = nn.Linear(2, 2).to("cpu")
    optim.SGD(model, lr=0.1)
    model(torch.ones(3, 2, requires_grad=True)).sum().backward()
    assert model.weight.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]


@pytest.mark.parametrize("imports", ["import torch, allgrad as ag", "import allgrad as ag, torch"])
def test_the_first_operation_on_torch_tensors_is_computed_as_all_later_ones(imports):
    script = f"""{imports}
x = torch.linspace(-1.0, 1.0, 16, dtype=torch.float64).reshape(2, 8)
slope = ag.grad(lambda x: (ag.layer_norm(x, 8) * torch.arange(8.0, dtype=torch.float64)).sum())
assert torch.equal(slope(x), slope(x))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
