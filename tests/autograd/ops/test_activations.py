"""Activation functions.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.large import *  # noqa: F403 - the test of each row of LARGE
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4)], "m.sigmoid(a)", "m.relu(a)", "m.leaky_relu(a)", "m.leaky_relu(a, 0.3)", "m.silu(a)"),
    *cases([(3, 4)], "m.softplus(a)", "m.softplus(a, 2.0, 3.0)", "m.elu(a)", "m.elu(a, 0.5)", "m.hardtanh(a)"),
    *cases([(3, 4)], "m.gelu(a)", "m.gelu(a, approximate='tanh')"),
    *cases([()], "a.sigmoid()", "a.relu()", "m.softmax(a, 0)", "m.log_softmax(a, -1)"),
    *cases([(0, 3)], "m.relu(a)", "m.sigmoid(a)", "m.softmax(a, 1)", "m.log_softmax(a, 1)"),
    *cases([(3, 4)], "m.softmax(a, -1)", "m.softmax(a, dim=0)", "m.log_softmax(a, -1)", "m.log_softmax(a, dim=0)"),
    *cases([(2, 3, 4)], "a.softmax(1) * a.log_softmax(1)"),
]  # fmt: skip
KINKS = ["m.relu(a)", "m.leaky_relu(a, 0.3)", "m.elu(a)", "m.softplus(a)", "m.hardtanh(a)"]
LARGE = ["m.sigmoid(a)", "m.softmax(a, 1)", "m.log_softmax(a, 1)"]


def test_gelu_in_single_precision_follows_the_exact_one_over_the_whole_line():
    x = np.concatenate([np.linspace(-14.0, 14.0, 200_001), [1e30, -1e30, 1e-40, -20.0, np.nan]]).astype("f")
    with np.errstate(over="ignore"):
        exact, slope = ag.vjp(ag.gelu, x.astype("d"))
    y, pullback = ag.vjp(ag.gelu, x)
    np.testing.assert_allclose(y, exact, rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(pullback(np.ones_like(x))[0], slope(np.ones(x.shape))[0], rtol=0, atol=3e-7)
    np.testing.assert_array_equal(ag.gelu(x.reshape(-1, 2).T).numpy().T.reshape(-1), y, strict=True)  # in any order


@pytest.mark.parametrize("dtype, lowest", [("float32", -80.0), ("float64", -700.0)])
def test_the_logistic_function_keeps_its_digits_far_below_0(dtype, lowest):
    x = np.linspace(lowest, 20.0, 50).astype(dtype)
    for name in ("sigmoid", "silu"):
        expected = getattr(torch.nn.functional, name)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(getattr(ag, name)(x).data, expected, rtol=20 * np.finfo(dtype).eps)
    z = ag.tensor([-20.0], requires_grad=True)
    ag.log(ag.sigmoid(z)).sum().backward()
    assert z.grad == pytest.approx(1.0)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_nan_passes_an_activation_and_its_gradient(array):
    """As in torch for single numbers; its vector code differs in elu and hardtanh."""
    for f in (ag.relu, ag.elu, ag.hardtanh):
        x = ag.tensor(array(np.array([np.nan, 0.5])), requires_grad=True)
        y = f(x)
        y.sum().backward()
        assert np.isnan(y.numpy()).tolist() == [True, False] and x.grad.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(ag.leaky_relu(ag.tensor(array(np.array([2, -3]))), 0.5).numpy(), [2.0, -1.5])


def test_activations_of_half_precision_stay_so():
    x = ag.tensor(np.float16([-1.0, 0.5]), requires_grad=True)
    for f in (ag.gelu, ag.erf):
        y = f(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == np.float16
