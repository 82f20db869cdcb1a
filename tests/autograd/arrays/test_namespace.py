"""Which library computes on an array, and how arrays of one become those of the other."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad.autograd.arrays import (
    as_operand,
    astype,
    cast_like,
    full,
    integers,
    is_torch,
    kind,
    namespace,
    to_backend_of,
    to_device,
    to_numpy,
    xp,
)
from allgrad.autograd.on_torch import namespace as on_torch

A, T = np.array([1.5, -2.0], np.float32), torch.tensor([1.5, -2.0])


def test_each_kind_of_array_has_its_namespace():
    assert xp[np.ndarray] is xp[np.float64] is np and xp[torch.Tensor] is xp[torch.nn.Parameter] is on_torch
    assert namespace(A, 1.0) is np and namespace(1.0, A, T) is on_torch and namespace(T, ag.tensor(A)) is xp[ag.Tensor]
    assert is_torch(T) and not is_torch(A) and not is_torch(1.0)
    with pytest.raises(TypeError, match="autograd computes on NumPy arrays, torch tensors, numbers and Tensors, not"):
        xp[str]


def test_what_meets_a_tensor_is_an_array_or_a_number_that_promotes_nothing():
    assert as_operand(A, "f") is A and as_operand(T, "f") is T
    assert type(as_operand(np.float64(2.0), "f")) is float and type(as_operand(np.int32(2), "f")) is int
    parameter = torch.nn.Parameter(T)
    assert type(as_operand(parameter, "f")) is torch.Tensor and not as_operand(parameter, "f").requires_grad
    with pytest.raises(TypeError, match=r"f: autograd computes on .* not on list"):
        as_operand([1.0], "f")


@pytest.mark.parametrize("like", [np.zeros(1), torch.zeros(1, dtype=torch.float64)], ids=["numpy", "torch"])
@pytest.mark.parametrize("a", [A, T], ids=["of numpy", "of torch"])
def test_arrays_go_where_others_are(a, like):
    for moved in (to_backend_of(a, like), cast_like(a, like), full((2,), 7, like), full((2,), 0, like)):
        assert type(moved) is type(like)
    assert "float32" in str(to_backend_of(a, like).dtype) and cast_like(a, like).dtype == like.dtype
    np.testing.assert_array_equal(to_numpy(cast_like(a, like)), A)
    assert full((2,), 7, like).tolist() == [7.0, 7.0] and "int64" in str(full((1,), 0, like, "int64").dtype)
    assert astype(like, like.dtype) is like and "float32" in str(astype(like, "float32").dtype)


def test_indices_of_torch_are_of_the_dtype_that_its_kernels_take():
    assert integers(torch.tensor([1], dtype=torch.uint8), T).dtype == torch.int64
    assert (
        integers(np.array([1], np.int16), T).dtype == torch.int64 and integers(np.array([True]), T).dtype == torch.bool
    )
    assert integers(np.array([1], np.int16), A).dtype == np.int16


def test_devices():
    assert to_device(T, "numpy").tolist() == A.tolist() and type(to_device(A, "cpu")) is torch.Tensor
    assert to_numpy(A) is A and np.shares_memory(to_numpy(T), T.numpy())
    assert to_numpy(T.bfloat16()).dtype == np.float32  # NumPy has no bfloat16


@pytest.mark.parametrize(
    "name, letter", [("float32", "f"), ("int64", "i"), ("uint8", "u"), ("bool", "b"), ("complex64", "c")]
)
def test_sorts_of_dtypes_have_the_letters_of_numpy(name, letter):
    assert kind(np.dtype(name)) == kind(getattr(torch, name)) == letter
