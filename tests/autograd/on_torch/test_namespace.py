"""torch's tensors under NumPy's names, and who records what is done to them."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.on_torch.namespace import SMALL_BYTES, asarray, sum_by_doubling
from tests.device.pretend import pretend


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


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape, axis", [((4097,), 0), ((3, 100), -1), ((100, 3), 0), ((1, 3), 0), ((0, 3), 0), ((), 0)]
)
def test_a_running_sum_by_doubling_is_as_accurate_as_pairs_are(shape, axis, dtype):
    a = (torch.sin(torch.arange(math.prod(shape)) * 1.3) + 0.5).reshape(shape).to(getattr(torch, dtype))
    found, exact = sum_by_doubling(a, axis), np.cumsum(a.double().numpy().reshape(shape or 1), axis).reshape(shape)
    assert found.dtype == a.dtype
    error = 8.0 * torch.finfo(a.dtype).eps
    np.testing.assert_allclose(found.double(), exact, rtol=error, atol=error)


def test_a_running_sum_leaves_what_is_not_finite_where_it_is():
    a = torch.tensor([1.0, 2.0, math.inf, 3.0, math.nan])
    assert sum_by_doubling(a, 0).tolist()[:4] == [1.0, 3.0, math.inf, math.inf]


INDICES = [
    *[slice(None, None, -1), slice(None, None, -2), slice(3, 0, -2), slice(0, 3, -1), (..., slice(None, None, -1))],
    *[(slice(None, None, -1), None, slice(2, None, -1)), (1, slice(None, None, -1)), (slice(None, None, -1), [0, 2])],
    *[(1, slice(None), [0, 2]), ([0, 2], slice(None), 1), (1, [0, 2]), (-1, [0, 2], 1), (np.array([0, 3]), 2)],
    *[(slice(None, None, -1), np.array(1), [0, 1, 2]), (np.array(1), slice(None), np.array([1, 0, 1]))],
    *[(slice(None, None, -3), np.array([True, False, True])), (0, np.array([True, False, True])), np.arange(4) > 1],
]  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 3)])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_picks_what_it_picks_of_numpy(index, shape):
    a = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    x, y = ag.tensor(a, requires_grad=True), ag.tensor(torch.as_tensor(a), requires_grad=True)
    for leaf in (x, y):
        picked = leaf[index]
        (picked * picked).sum().backward()
    np.testing.assert_array_equal(picked.numpy(), a[index])
    np.testing.assert_array_equal(y.grad, x.grad)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_axes_are_turned_around(length):
    x = ag.tensor(torch.arange(3.0 * length).reshape(length, 3), requires_grad=True)
    for y in (ag.flip(x, 0), x[::-1], ag.flip(x, (0, 1))[:, ::-1]):
        y.sum().backward()
        assert y.tolist() == x.tolist()[::-1]
    assert x.grad.tolist() == [[3.0] * 3] * length


def test_an_integer_out_of_range_beside_arrays_is_an_error_before_a_device_sees_it():
    with pytest.raises(IndexError, match="index 4 is out of bounds for axis 0 with size 4"):
        ag.tensor(torch.zeros(4, 3, 5))[4, :, [0, 1]]


def test_a_device_is_not_waited_for_by_constants_and_numbers_beside_it():
    functions = [
        lambda x: ag.maximum(x, 0.0), lambda x: ag.minimum(1, x), lambda x: ag.clamp(x, -1, 1), lambda x: x[::-1, 1],
        lambda x: ag.where(x > 0, 1.0, 2.0).to("float32") * x, lambda x: ag.where(x > 0, x, 0), lambda x: x**x.detach(),
        lambda x: 2.0**x, lambda x: x[np.array([0, 1]), ::-2], lambda x: x[[0, 1], 2], lambda x: ag.flip(x, 0),
        lambda x: ag.cumsum(x, 1), lambda x: ag.take_along_dim(x, np.zeros((4, 1), int), 1), lambda x: ag.leaky_relu(x),
        lambda x: ag.binary_cross_entropy(ag.sigmoid(x), x.detach() * 0.0), lambda x: ag.elu(x), lambda x: x.mean(),
    ]  # fmt: skip
    with pretend() as device:
        torch.use_deterministic_algorithms(True)
        x = ag.tensor(torch.linspace(0.5, 2.0, 20).reshape(4, 5).to("cuda"), requires_grad=True)
        with device.no_waits():
            for f in functions:
                f(x).sum().backward()


def test_large_arrays_of_the_host_are_not_copied_to_pinned_memory_first():
    with pretend() as device:
        like = torch.zeros((), device="cuda")
        asarray(np.zeros(SMALL_BYTES // 8), like=like)
        assert not device.waits and len(device.copies) == 1
        asarray(np.zeros(SMALL_BYTES // 8 + 1), like=like)
        assert len(device.waits) == 1
