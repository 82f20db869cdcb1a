"""Changes in place under torch's names."""

import numpy as np
import pytest
import torch

import allgrad as ag

CHANGES = [
    lambda x: x.add_(2.0), lambda x: x.add_(3.0, alpha=2), lambda x: x.sub_(2.0), lambda x: x.sub_(3.0, alpha=0.5),
    lambda x: x.mul_(2.0), lambda x: x.div_(4.0), lambda x: x.clamp_(-1.0, 0.5), lambda x: x.clamp_(min=0.5),
    lambda x: x.fill_(3.0), lambda x: x.zero_(), lambda x: x.mul_(2.0).add_(1.0), lambda x: x.copy_(x.detach() * 2.0),
]  # fmt: skip
VALUES = np.array([[1.0, -2.0, 0.25], [0.0, 3.0, -0.5]])


@pytest.mark.parametrize("change", CHANGES)
def test_leaves_under_no_grad_and_constants_are_changed_as_in_torch(change):
    expected = change(torch.tensor(VALUES)).numpy()
    constant, leaf = ag.tensor(VALUES), ag.tensor(VALUES, requires_grad=True)
    assert change(constant) is constant
    memory = leaf.data
    with ag.no_grad():
        assert change(leaf) is leaf
    assert leaf.data is memory and leaf.requires_grad
    for x in constant, leaf:
        np.testing.assert_array_equal(x.data, expected)


@pytest.mark.parametrize("change", CHANGES[4:])
def test_a_leaf_is_not_changed_where_operations_are_recorded(change):
    leaf = ag.tensor(VALUES, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"ag\.no_grad|not recorded"):
        change(leaf)
    np.testing.assert_array_equal(leaf.data, VALUES)


@pytest.mark.parametrize("change", [*CHANGES[:8], CHANGES[10]])
def test_gradients_flow_through_arithmetic_on_what_was_computed(change):
    x, twin = ag.tensor(VALUES, requires_grad=True), torch.tensor(VALUES, requires_grad=True)
    (change(x * 2.0) * VALUES).sum().backward()
    (change(twin * 2.0) * torch.tensor(VALUES)).sum().backward()
    np.testing.assert_array_equal(x.grad, twin.grad.numpy())


def test_draws_have_the_given_moments_and_depend_on_the_seed():
    x = ag.tensor(np.zeros(10000, "f"))
    ag.manual_seed(0)
    first = x.normal_(3.0, 2.0).numpy().copy()
    assert abs(first.mean() - 3.0) < 0.1 and abs(first.std() - 2.0) < 0.1 and x.dtype == np.float32
    ag.manual_seed(0)
    np.testing.assert_array_equal(x.normal_(3.0, 2.0).data, first)
    x.uniform_(-1.0, 3.0)
    assert -1.0 <= x.data.min() < -0.99 and 2.99 < x.data.max() < 3.0 + 1e-6 and abs(x.data.mean() - 1.0) < 0.1
