"""NumPy's functions of tensors: gradients of those that we know, refusals of all others, arrays of constants."""

import array

import numpy as np
import pytest
import torch

import allgrad as ag

X = np.random.default_rng(0).standard_normal((2, 3))
OTHER = np.random.default_rng(1).standard_normal((2, 3))
SAME = {  # function of NumPy arrays and of tensors: the same values, and gradients as central differences
    "concatenate": lambda x: np.concatenate([x, OTHER, x]),
    "concatenate flat": lambda x: np.concatenate([x, OTHER[0]], axis=None),
    "stack": lambda x: np.stack([x[0], OTHER[0], x[1]], axis=1),
    "append": lambda x: np.append(x, x),
    "dot": lambda x: np.dot(x, OTHER.T),
    "dot from the left": lambda x: np.dot(OTHER[:, :2], x),
    "dot of a number": lambda x: np.dot(3.0, x),
    "where": lambda x: np.where(OTHER > 0, x, 0.0),
    "outer": lambda x: np.outer(x, x[0]),
    "cumsum": np.cumsum,
    "cumsum of an axis": lambda x: np.cumsum(x, axis=1),
    "norm": np.linalg.norm,
    "norm of rows": lambda x: np.linalg.norm(x, 1, axis=1),
    "frobenius": lambda x: np.linalg.norm(x, "fro"),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, OTHER),
    "reshape": lambda x: np.reshape(x, (3, 2)) * OTHER.reshape(3, 2),
    "ravel": lambda x: np.ravel(x) * OTHER.ravel(),
    "transpose": lambda x: np.transpose(x) * OTHER.T,
    "swapaxes": lambda x: np.swapaxes(x, 0, 1) * OTHER.T,
    "squeeze": lambda x: np.squeeze(x[:1]),
    "expand_dims": lambda x: np.expand_dims(x, 1) * OTHER,
    "broadcast_to": lambda x: np.broadcast_to(x, (4, 2, 3)) * OTHER,
    "flip": lambda x: np.flip(x) * OTHER,
    "flip rows": lambda x: np.flip(x, 0) * OTHER,
    "roll": lambda x: np.roll(x, 1) * OTHER,
    "tril": np.tril,
    "triu": lambda x: np.triu(x, 1),
    "clip": lambda x: np.clip(x, -0.3, 0.6),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[0, 0, 2], [1, 1, 1]]), 1) * OTHER,
    "copy": lambda x: np.copy(x) * OTHER,
    "var": np.var,
    "std of columns": lambda x: np.std(x, 0, ddof=1),
    "max": np.max,
    "amin of rows": lambda x: np.amin(x, axis=1, keepdims=True),
    "sum": np.sum,
    "sum with nothing": lambda x: np.sum(x, axis=0, dtype=None, out=None),
    "mean": lambda x: np.mean(x, 1, keepdims=True) * OTHER,
    "prod": np.prod,
}


@pytest.mark.parametrize("name", SAME)
def test_functions_that_are_known_have_values_and_gradients(name):
    f, x = SAME[name], ag.tensor(X, requires_grad=True)
    y = f(x)
    np.testing.assert_allclose(y.data, f(X), rtol=1e-12)
    (y * y).sum().backward()
    slopes, h = np.zeros_like(X), 1e-6
    for at in np.ndindex(*X.shape):
        step = np.zeros_like(X)
        step[at] = h
        slopes[at] = ((f(X + step) ** 2).sum() - (f(X - step) ** 2).sum()) / (2 * h)
    np.testing.assert_allclose(x.grad, slopes, atol=1e-7)


REFUSED = {
    "another dtype": lambda x: np.sum(x, dtype="float32"),
    "an array to write to": lambda x: np.mean(x, out=np.zeros(())),
    "some elements": lambda x: np.sum(x, where=OTHER > 0),
    "a norm of matrices": lambda x: np.linalg.norm(x, 2),
    "stacks of matrices": lambda x: np.dot(np.ones((2, 2, 2)), x),
    "unknown here": lambda x: np.fft.fft(x),
    "a list": lambda x: np.array([x, x]),
    "a list to sum": lambda x: np.sum([x, x]),
    "a tensor of tensors": lambda x: ag.tensor([x[0, 0], x[0, 1]]),
    "a tensor of a tensor": lambda x: ag.tensor(x * 2.0),
    "brackets": lambda x: np.r_[x, x],
    "into an array": lambda x: np.zeros((2, 3)).__setitem__(slice(None), x),
    "asarray": np.asarray,
    "inside another derivative": lambda x: ag.grad(lambda v: np.asarray(v).sum() * v.sum())(x),
    "exp": np.exp,
    "add.reduce": np.add.reduce,
    "multiply.outer": lambda x: np.multiply.outer(x, x),
    "add.at": lambda x: np.add.at(np.zeros((2, 3)), 0, x[0]),
    "into the first": lambda x: np.add(OTHER, x, out=np.zeros((2, 3))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_others_are_refused(name):
    with pytest.raises(TypeError, match=r"would be lost: use a function of allgrad, or give|does not support ufuncs"):
        REFUSED[name](ag.tensor(X, requires_grad=True))


def test_tensors_without_a_gradient_to_lose_are_arrays_to_numpy():
    x, w = ag.tensor(X), ag.tensor(X, requires_grad=True)
    for constant in (x, w.detach()):
        for made in (np.asarray(constant), np.array([constant])[0], np.fft.ifft2(np.fft.fft2(constant)).real):
            assert type(made) is np.ndarray
            np.testing.assert_allclose(made, X)
    with ag.no_grad():
        np.testing.assert_array_equal(np.concatenate([w, w]), np.concatenate([X, X]))
    assert np.shape(w) == (2, 3) and np.argmax(w) == X.argmax() and np.allclose(w, X)
    assert type(np.zeros_like(w)) is np.ndarray


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_whatever_is_an_index_adds_up_the_elements_it_picks_twice(library):
    zero = ag.tensor(0)
    for index in (
        np.array([0, 0, 1]), [0, 0, 1], (0, 0, 1), array.array("q", [0, 0, 1]), memoryview(np.array([0, 0, 1])),
        [zero, zero, ag.tensor(1)], [np.int64(0), np.int64(0), np.int64(1)], ag.tensor([0, 0, 1]),
    ):  # fmt: skip
        x = ag.tensor(library(X.T.copy()), requires_grad=True)
        (x[(index, slice(None))] * 2.0).sum().backward()
        assert x.grad.tolist() == [[4.0, 4.0], [2.0, 2.0], [0.0, 0.0]]
    x = ag.tensor(library(X.T.copy()), requires_grad=True)
    x[range(2)].sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
