"""Gradients that are still to be computed: outer products and scattered pieces, and where they are added up."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn
from allgrad.autograd.arena import Arena
from allgrad.autograd.arrays import OuterProduct, Scattered
from tests.device.pretend import pretend


@pytest.mark.parametrize(
    "f",
    [
        lambda y: (y[0] * y[1] + y[1:, 2].sum() * y[0]).sum(),
        lambda y: (y[0] * y).sum() + (y[y.data > 0] ** 2).sum(),
        lambda y: (y * y[1]).sum() + (y[[0, 0]] * y[2]).sum(),
    ],
)
def test_pieces_of_an_array_add_up_with_each_other_and_the_whole(f):
    x = np.random.default_rng(0).normal(size=(3, 3))
    ag.gradcheck(lambda x: f(x * 1.0), x)
    hessian = ag.hessian(lambda x: f(x * 1.0))(x).reshape(9, 9)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12)
    leaf = ag.tensor(x, requires_grad=True)
    loss = f(leaf * 1.0)
    loss.backward(retain_graph=True)
    once = leaf.grad.copy()
    loss.backward()
    np.testing.assert_array_equal(leaf.grad, 2.0 * once)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_an_outer_product_is_written_where_it_is_wanted(array):
    x, g = np.arange(6.0).reshape(2, 3), np.arange(8.0).reshape(2, 4) - 3.0
    product = OuterProduct(array(x), array(g))
    assert (tuple(product.shape), product.dtype) == ((4, 3), array(x).dtype)
    np.testing.assert_array_equal(product.value(), g.T @ x)
    for dtype in (np.float64, np.float32):  # of another dtype by way of its value
        out = array(np.zeros((3, 4), dtype)).T
        product.into(out)
        np.testing.assert_array_equal(out, g.T @ x)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_scattered_pieces_add_up_in_the_memory_of_the_first(array):
    first, second = (Scattered(array(np.full(2, n)), slice(i, i + 2), (4,)) for i, n in enumerate((1.0, 10.0)))
    memory = first.value()
    assert memory.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert first.plus(second) is first and first.value() is memory and memory.tolist() == [1.0, 11.0, 10.0, 0.0]
    assert second.plus(array(np.ones(4))).tolist() == [1.0, 11.0, 11.0, 1.0]
    wide = Scattered(array(np.ones(1, np.float32)), slice(0, 1), (4,))
    assert wide.plus(second).tolist() == [1.0, 10.0, 10.0, 0.0] and wide.plus(second).dtype == second.dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_half_precision_reach_float32_on_a_device_without_rounding(dtype):
    with pretend() as device:
        model = nn.Linear(8, 16).to("cuda")
        model.arena = Arena(model)
        model.compute_in(dtype)
        x = torch.linspace(-1.0, 1.0, 256 * 8).reshape(256, 8).to(getattr(torch, dtype))
        g = torch.sin(torch.arange(256 * 16.0)).reshape(256, 16).to(x.dtype)
        y = model(ag.tensor(x.to("cuda")))
        by_y = g.to("cuda")
        device.reset()
        y.backward(by_y)
        assert device.launches == {"mm": 1, "sum": 1}
        grads = [leaf.grad.cpu() for leaf in (model.weight.leaf, model.bias.leaf)]
        assert model.arena.grad.dtype == torch.float32
    exact = g.double().T @ x.double(), g.double().sum(0)
    for found, expected in zip(grads, exact):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert not torch.equal(found, found.to(x.dtype).float())
