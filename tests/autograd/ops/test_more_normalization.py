"""Normalisation by a root mean square, of each image, and by neighbouring channels.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import torch

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4), (4,)], "m.rms_norm(a, (4,), b, 0.1)", "m.rms_norm(a, b.shape, eps=1e-5)"),
    *cases([(2, 3, 4), (3, 4)], "m.rms_norm(a, (3, 4), b, 1e-3)"),
    *cases([(2, 3, 5), (3,), (3,)], "m.instance_norm(a, weight=b, bias=c)"),
    *cases([(2, 3, 2, 2)], "m.instance_norm(a, eps=0.1)"),
    *cases([(2, 3, 5)], "m.instance_norm(a, m.array(np.arange(3.0)), m.array(np.ones(3)), use_input_stats=False)"),
    *cases([(2, 5, 3)], "m.local_response_norm(a, 3, 0.5)", "m.local_response_norm(a, 2, 1.0, 0.5, 2.0)"),
    *cases([(2, 4, 2, 3)], "m.local_response_norm(a, 5)"),
]


def test_the_root_mean_square_of_half_precision_does_not_overflow():
    x = torch.full((2, 4), 300.0, dtype=torch.float16, requires_grad=True)
    want = torch.nn.functional.rms_norm(x, (4,))
    want.sum().backward()
    a = ag.tensor(x.detach(), requires_grad=True)
    y = ag.rms_norm(a, 4)
    y.backward(torch.ones(2, 4))
    assert y.dtype == torch.float16 and torch.equal(y.data, want.detach()) and torch.allclose(a.grad, x.grad)
    assert np.array_equal(ag.rms_norm(ag.tensor(x.detach().numpy()), 4).numpy(), y.numpy())
