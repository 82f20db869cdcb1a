"""A tensor among arrays and numbers: dtypes, operators from either side, and what it shows of its array."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import generator


def leaf(*shape, name="x", dtype="float64"):
    return ag.tensor(generator(name, *shape).standard_normal(shape), requires_grad=True, dtype=dtype, name=name)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x * np.float64(2), lambda x: np.float64(2) * x, lambda x: x / np.sqrt(64), lambda x: x**2,
        lambda x: 1 - x, lambda x: x + np.int64(1), lambda x: np.float64(1) - x, lambda x: x * True,
        lambda x: ag.where(x > 0, x, 0.0), lambda x: x.mean() * 3, lambda x: x.amax() + np.float64(1),
        lambda x: x.std() / np.float64(3), lambda x: x * (x > 0), lambda x: ag.maximum(x, np.float64(0)),
    ],
)  # fmt: skip
def test_numbers_do_not_promote(use):
    x = leaf(3, dtype="float32")
    y = use(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32


def test_arrays_on_the_left_meet_tensors():
    a, x = np.arange(1.0, 5.0).reshape(2, 2), leaf(2, 2)
    for y, expected in [
        (a + x, a + x.data), (a - x, a - x.data), (a * x, a * x.data), (a / x, a / x.data), (a @ x, a @ x.data),
        (a**x, a**x.data),
    ]:  # fmt: skip
        assert type(y) is ag.Tensor and y.requires_grad
        np.testing.assert_array_equal(y.data, expected)
    assert (np.zeros((2, 2)) < x).tolist() == (x > 0).tolist() == (x.data > 0).tolist()
    assert (x == x).all() and not (x != x).any() and (x <= x).all() and (x >= x).all()


def test_another_dtype_in_the_graph_is_reported():
    for use in (lambda w: (w * np.ones(3)).sum(), lambda w: ag.linear(np.ones((2, 3)), w.unsqueeze(0)).sum()):
        with pytest.warns(UserWarning, match="gradient of 'w' arrived as float64, not float32: an array of another"):
            use(leaf(3, name="w", dtype="float32")).backward()
    w = leaf(2, 3, name="w", dtype="float32")
    ag.Arena([w])
    with pytest.warns(UserWarning, match="gradient of 'parameter0' arrived as float64, not float32"):
        ag.linear(np.ones((4, 3)), w).sum().backward()
    np.testing.assert_array_equal(w.grad, np.full((2, 3), 4.0, np.float32))


def test_tensor_looks_like_its_array():
    x = ag.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True, name="x")
    assert (x.shape, x.ndim, x.size, x.dtype, len(x), x.requires_grad) == ((2, 2), 2, 4, np.float32, 2, True)
    assert x.tolist() == [[1, 2], [3, 4]] == np.asarray(x).tolist() and [row.tolist() for row in x][1] == [3, 4]
    assert (x[0, 1].item(), float(x[0, 1]), f"{x[0, 1]:.2f}", bool(x[0, 0])) == (2.0, 2.0, "2.00", True)
    assert (x.name, x.exp().name, x.detach().name, str(x[0, 0])) == (
        "x",
        "exp",
        "constant",
        "Tensor(np.float32(1.0), getitem)",
    )
    assert x in {x} and x.detach().data is x.data and np.asarray(x, dtype="float64").dtype == np.float64
    array = np.ones(2)
    assert ag.tensor(array).dtype == np.float64 and not np.shares_memory(ag.tensor(array).data, array)
    assert ag.tensor([1, 2]).dtype == np.int64 and ag.tensor(ag.tensor(1.0)).shape == ()
    with ag.default_dtype("float64"):
        assert ag.tensor(1.0).dtype == ag.get_default_dtype() == nn.Linear(1, 1).weight.dtype == np.float64
    assert ag.get_default_dtype() == np.float32
