"""New tensors. A new operator is a new row of VALUES, if it is not random."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad.autograd.random import keyed
from tests.autograd.ops.values import *  # noqa: F403 - the test of each row of VALUES

VALUES = [
    "m.zeros(2, 3)", "m.zeros((2, 3), dtype=a.dtype)", "m.ones(3)", "m.full((2,), 7)", "m.full((2,), 0.1)",
    "m.full((), True)",
    "m.arange(5)", "m.arange(1, 9, 3)", "m.arange(0.0, 1.0, 0.3)", "m.arange(5, 1, -2)", "m.linspace(0, 1, 5)",
    "m.eye(2)",
    "m.logspace(0, 2, 5)", "m.eye(2, 3)", "m.tril_indices(3, 4)", "m.triu_indices(3, 3, 1)", "m.zeros_like(a)",
    "m.zeros(0)",
    "m.ones_like(i)", "m.full_like(a, 0.5)", "m.full_like(i, 2)", "m.zeros_like(i, dtype=a.dtype)", "a.new_zeros(2, 3)",
    "a.new_ones((2,))", "i.new_full((2, 2), 3)", "a.new_tensor([1, 2])", "i.new_tensor([[1]])", "0 * m.empty(3, 2)",
    "0 * m.empty_like(a[1:1])", "a.new_empty(0, 3)", "m.bernoulli(p)", "m.one_hot(i)",
    "0 * m.rand(2, 3)", "0 * m.randn(2)", "0 * m.randint(3, (2,))", "0 * m.randint(1, 3, (2,))", "0 * m.randperm(4)",
    "0 * m.rand_like(p)", "0 * m.randn_like(p[1:])", "0 * m.normal(0.0, 1.0, (2,))", "0 * m.multinomial(p, 1)",
]  # fmt: skip


def test_labels_become_vectors_with_a_1():
    for labels, array in ((np.array([[0, 2], [1, 1]]), np.asarray), (torch.tensor([2, 0]), torch.as_tensor)):
        for options in ({}, {"num_classes": 5}):
            have, want = ag.one_hot(labels, **options), torch.nn.functional.one_hot(torch.as_tensor(labels), **options)
            assert (
                have.tolist() == want.tolist() and type(have.data) is type(array(labels)) and "int64" in str(have.dtype)
            )
    with pytest.raises(ValueError, match="got int64 from -1 to 0"):
        ag.one_hot(np.array([0, -1]), 3)


def test_a_tensor_is_made_where_and_as_it_is_wanted():
    for made in (ag.zeros(2, requires_grad=True), ag.ones((2,), requires_grad=True), ag.randn(2, requires_grad=True)):
        assert made.requires_grad and made.dtype == np.float32 and type(made.data) is np.ndarray
    for made in (ag.zeros(2, device="cpu"), ag.rand(2, device="cpu"), ag.zeros_like(torch.ones(2))):
        assert type(made.data) is torch.Tensor and made.data.dtype is torch.float32
    assert ag.zeros(2, device="cpu", dtype="bfloat16").data.dtype is torch.bfloat16
    assert ag.ones_like(np.ones(2, np.float16), device="cpu", requires_grad=True).requires_grad
    with ag.default_dtype("float64"):
        assert {x.dtype for x in (ag.zeros(1), ag.rand(1), ag.arange(0.0, 1.0), ag.eye(1))} == {np.dtype("float64")}


def test_random_numbers_follow_the_seed_and_the_key():
    def drawn():
        shapes = ag.rand(3), ag.randn(2, 2), ag.randint(5, size=(3,)), ag.randperm(4), ag.normal(1.0, 2.0, (2,))
        more = ag.rand_like(np.ones(2)), ag.randn_like(np.ones(2)), ag.bernoulli(np.full(9, 0.5))
        return [x.tolist() for x in (*shapes, *more, ag.multinomial(np.ones(9), 4))]

    ag.manual_seed(3)
    first, second = drawn(), drawn()
    ag.manual_seed(3)
    assert drawn() == first != second
    with keyed("a", 1):
        inside = drawn()
    with keyed("a", 1):
        assert drawn() == inside


def test_random_numbers_have_their_distributions():
    """Means and deviations within 5 standard errors of 40,000 draws."""
    n = 40_000
    with keyed("distributions"):
        rows = [
            (ag.rand(n).data, 0.5, 12**-0.5), (ag.randn(n).data, 0.0, 1.0), (ag.normal(3.0, 2.0, n).data, 3.0, 2.0),
            (ag.randint(2, 5, n).data, 3.0, (2 / 3) ** 0.5), (ag.bernoulli(np.full(n, 0.2)).data, 0.2, 0.4),
            (ag.multinomial(np.array([1.0, 0.0, 3.0]), n, True).data, 1.5, 0.75**0.5),
            (ag.multinomial(np.tile([1.0, 0.0, 3.0], (n, 1)), 1).data, 1.5, 0.75**0.5),
        ]  # fmt: skip
    for drawn, mean, deviation in rows:
        assert (
            abs(drawn.mean() - mean) < 5 * deviation / n**0.5 and abs(drawn.std() - deviation) < 5 * deviation / n**0.5
        )
    assert set(rows[3][0]) == {2, 3, 4} and rows[0][0].min() >= 0.0 and rows[0][0].max() < 1.0
    assert sorted(ag.randperm(7).tolist()) == list(range(7))
    chosen = ag.multinomial(np.array([[1.0, 2.0, 0.0, 5.0]] * 50), 3).data
    assert all(sorted(row) == [0, 1, 3] for row in chosen.tolist())
