"""Other dtypes, libraries and memory.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4)], "m.clone(a) * a", "a.clone()", "a.T.contiguous() * 2", "a * m.numel(a)"),
    *cases([(3, 4)], "a * m.is_floating_point(a)"),
    *cases([(3, 4)], "a.to(a) * 2", "a.type_as(a)", "a.cpu() * a"),
    *cases([(3, 4)], "a * a.dim() * a.nelement() * a.size(1) * a.size()[0]"),
    *cases([(3, 4)], "a.double().sum().to(a.dtype) * a", "a.to('cpu', copy=True).type_as(a)", torch="a.sum() * a"),
]  # fmt: skip
TABLE[-1] = cases([(3, 4)], "a.to('cpu', copy=True).type_as(a)", torch="a * 1")[0]


def test_a_gradient_returns_in_the_dtype_and_the_library_of_its_tensor():
    x = ag.tensor(np.ones(3, np.float32), requires_grad=True)
    for y, dtype in ((x.double(), np.float64), (x.half(), np.float16), (x.to("float64"), np.float64)):
        assert y.dtype == dtype and x.to("float32") is x
        y.sum().backward()
    moved = x.to("cpu", torch.bfloat16)
    assert moved.data.dtype is torch.bfloat16 and moved.float().numpy().tolist() == [1.0, 1.0, 1.0]
    (moved * 2.0).sum().backward()
    assert type(x.grad) is np.ndarray and x.grad.dtype == np.float32 and x.grad.tolist() == [5.0, 5.0, 5.0]
    assert type(moved.to("numpy", "float32").data) is np.ndarray and moved.cpu() is moved


def test_integers_and_booleans_are_constants():
    x = ag.tensor([1.7, -0.2, 0.0], requires_grad=True)
    names = ["long", "int", "short", "char", "bool", "float", "double", "half"]
    for name in names:
        y, expected = getattr(x, name)(), getattr(torch.tensor([1.7, -0.2, 0.0]), name)()
        assert y.tolist() == expected.tolist() and f"torch.{y.dtype}" == str(expected.dtype)
        assert y.requires_grad == expected.is_floating_point()
    assert x.bool().type("int32").dtype == np.int32 and x.type() == "float32" and x.element_size() == x.itemsize == 4


def test_size_is_a_number_and_a_method():
    x = ag.tensor(np.ones((2, 3)))
    assert x.size == 6 and x.size() == (2, 3) and x.size(-1) == 3 and x.nbytes == 48 and x.ndimension() == 2
    assert x.T.stride() == (1, 3) and x.stride(0) == 3 and x.grad_fn is None


def test_a_constant_becomes_a_leaf_and_a_leaf_a_constant():
    x = ag.tensor([1.0, 2.0])
    assert x.requires_grad_() is x and x.requires_grad and x.is_leaf
    y = x * x
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0] and not y.is_leaf and y.requires_grad_() is y
    assert not x.requires_grad_(False).requires_grad and (x * x).node is None
    with pytest.raises(TypeError, match="requires_grad needs a floating dtype"):
        ag.tensor([1]).requires_grad_()


def test_contiguous_copies_only_what_lies_otherwise():
    x = ag.tensor(np.ones((2, 3)))
    assert x.is_contiguous() and x.contiguous() is x and not x.T.is_contiguous() and x.T.contiguous().is_contiguous()
    assert not np.shares_memory(x.clone().data, x.data)


@pytest.mark.parametrize(
    "name", ["sum", "mean", "prod", "cumsum", "cumprod", "softmax", "log_softmax", "norm", "nansum"]
)
def test_operators_that_take_a_dtype_convert_before_they_compute(name):
    f, options = getattr(ag, name), {"dim": 1}
    x = ag.tensor(np.full((2, 3), 30.0, np.float16) / 7, requires_grad=True)
    y = f(x, **options, dtype="float32")
    library = torch if hasattr(torch, name) and name != "norm" else torch.linalg
    function = library.vector_norm if library is torch.linalg else getattr(torch, name)
    expected = function(torch.tensor(x.data), **options, dtype=torch.float32)
    np.testing.assert_allclose(y.data, expected, rtol=1e-6)
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float16
