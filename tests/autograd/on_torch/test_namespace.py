"""torch's tensors under NumPy's names, and who records what is done to them."""

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
