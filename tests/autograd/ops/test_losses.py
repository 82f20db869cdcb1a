"""Losses, with every reduction.

A new operator is a new row of TABLE: see `table.py`.
"""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.large import *  # noqa: F403 - the test of each row of LARGE
from tests.autograd.ops.properties import SEEDS, check_with_torch, like, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import Case, cases, over, run

TABLE = [
    *[c for r in ("batchmean", "sum", "none") for c in [
        *cases([(3, 4), (3, 4)], f"m.kl_div(a, m.softmax(b, 1), reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.kl_div(a, b, reduction='{r}', log_target=True)"),
    ]],
    *[c for r in ("mean", "sum", "none") for c in [
        *cases([(5, 3)], f"m.nll_loss(a, m.array([2, 0, 0, 1, 2]), reduction='{r}')"),
        *cases([(5, 3)], f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), ignore_index=0, reduction='{r}')"),
        *cases([(5, 3)], f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), label_smoothing=0.1, reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.l1_loss(a, b, reduction='{r}')", f"m.huber_loss(a, b, '{r}', 0.9)"),
        *cases([(5, 3)], f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), reduction='{r}')"),
        *cases([(3,)], f"m.cross_entropy(a, m.array(1), reduction='{r}')"),
        *cases([(3, 3, 4)], f"m.cross_entropy(a, m.array(MASK * 2), reduction='{r}')"),
        *cases([(2, 4, 2, 3)], f"m.cross_entropy(a, m.array(MASK.reshape(2, 2, 3) * 3), reduction='{r}')"),
        *over(f"m.cross_entropy(a, m.softmax(b, 1), reduction='{r}')", [(5, 3), (5, 3)], [(2, 3, 4), (2, 3, 4)]),
        *cases([(3,), (3,)], f"m.cross_entropy(a, m.softmax(b, 0), reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.binary_cross_entropy(m.sigmoid(a), m.sigmoid(b), reduction='{r}')"),
        *over(f"m.mse_loss(a, b, reduction='{r}')", [(3, 4), (3, 4)], [(), ()]),
        *over(f"m.binary_cross_entropy_with_logits(a, m.sigmoid(b), reduction='{r}')", [(3, 4), (3, 4)], [(), ()]),
    ]],
]  # fmt: skip
KINKS = ["m.huber_loss(a, a * a)"]
LARGE = [
    "m.cross_entropy(a, m.array([2, 1]))", "m.cross_entropy(a, m.softmax(a, 1))",
    "m.binary_cross_entropy_with_logits(a, m.array(TIES) ** 2)",
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_an_empty_batch_are_those_of_torch(reduction):  # a mean of nothing is nan
    for expression in (
        "m.cross_entropy(a, [], reduction=R)",
        "m.cross_entropy(a, a, reduction=R)",
        "m.nll_loss(a, [], reduction=R)",
        "m.mse_loss(a, a, reduction=R)",
        "m.l1_loss(a, a, reduction=R)",
        "m.huber_loss(a, a, reduction=R)",
        "m.kl_div(a, a, reduction=R)",
        "m.binary_cross_entropy(a, a, reduction=R)",
        "m.binary_cross_entropy_with_logits(a, a, reduction=R)",
    ):
        expression = expression.replace("[]", "np.zeros(0, int)").replace("R", repr(reduction))
        y, (gradient,) = run(Case(expression, ((0, 3),)), [np.zeros((0, 3))])
        assert np.array_equal(np.sum(y.data), np.nan if reduction == "mean" else 0.0, equal_nan=True)
        assert gradient.shape == (0, 3)


@settings(max_examples=20)
@given(st.data(), st.sampled_from([(4,), (3, 4), (1, 2), (2, 3, 2), (2, 3, 1, 2)]), SEEDS)
def test_cross_entropy_is_that_of_torch_with_every_option(data, shape, seed):
    classes, places = shape[0 if len(shape) == 1 else 1], shape[:-1][:1] + shape[2:]
    z, w = normal(seed, shape, (classes,))
    labels = data.draw(hnp.arrays(np.int64, places, elements=st.integers(0, classes - 1)))
    ignored = data.draw(st.sampled_from([-100, -1, 0, 1]))
    labels = np.where(data.draw(hnp.arrays(bool, places)), ignored, labels)
    assume(np.any(labels != ignored))  # or the mean is nan
    probabilities = np.exp(np.sin(z)) / classes
    for reduction, weighted, smoothing in itertools.product(("mean", "sum", "none"), (False, True), (0.0, 0.1)):

        def loss(m, z, target, reduction=reduction, weighted=weighted, smoothing=smoothing, **options):
            f = ag.cross_entropy if m is ag else F.cross_entropy
            weight = like(m, np.abs(w)) if weighted else None
            return f(z, like(m, target), weight=weight, reduction=reduction, label_smoothing=smoothing, **options)

        check_with_torch(lambda m, z: loss(m, z, labels, ignore_index=ignored), z, seed=seed)
        check_with_torch(lambda m, z: loss(m, z, probabilities), z, seed=seed)


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (5, 1), (40, 200)])
@pytest.mark.parametrize("dtype", ["int64", "int16", "uint8", "uint64"])
def test_cross_entropy_takes_logits_in_any_memory_order_and_labels_of_any_width(shape, dtype):
    labels = np.arange(shape[0]) % shape[1]
    z = torch.tensor(np.random.default_rng(0).standard_normal(shape, "f"), requires_grad=True)
    torch.nn.functional.cross_entropy(z, torch.from_numpy(labels)).backward()
    for order in (0, 1), (1, 0):  # in which the memory has the axes
        logits = ag.tensor(np.ascontiguousarray(z.detach().numpy().transpose(order)), requires_grad=True)
        ag.cross_entropy(logits.permute(*order), labels.astype(dtype)).backward()
        np.testing.assert_allclose(logits.grad.transpose(order), z.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_and_rows_of_any_integer_type(dtype):
    z, labels = ag.tensor(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), requires_grad=True), torch.tensor([1, 0]).to(dtype)
    expected = ag.cross_entropy(z, labels.long()).item()
    assert ag.cross_entropy(z, labels).item() == ag.cross_entropy(z, labels, weight=[1.0, 1.0]).item() == expected
    assert ag.embedding(labels, z).tolist() == [[0.0, 1.0], [1.0, 2.0]]
