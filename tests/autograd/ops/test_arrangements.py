"""Moving elements by the names that torch has for it.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(3, 4)], "a.view(2, 6)", "a.view((-1,)) * 2", "a.view_as(m.reshape(a, (4, 3)))", "a.reshape_as(a.T) * 2"),
    *cases([(3, 1), (3, 4)], "a.expand_as(b) * b", "m.broadcast_tensors(a, b)[0] * b", "m.hstack([a, b])"),
    *cases([(3, 4)], "m.ravel(a) * 2", "m.unflatten(a, 1, (2, -1))", "m.narrow(a, 1, 1, 2)", "a.narrow(0, -2, 2)"),
    *cases([(3, 4)], "m.select(a, 1, -1)", "m.unbind(a)[1]", "a.unbind(1)[0] * a[:, 3]", "a.repeat(2, 3)"),
    *cases([(3, 4)], "a.repeat(2, 1, 2)"),
    *cases([(3, 4)], "m.tile(a, (2,))", "a.tile(2, 1, 1)", "m.repeat_interleave(a, 2)"),
    *cases([(3, 4)], "a.repeat_interleave(3, dim=1)"),
    *cases([(3, 4)], "m.repeat_interleave(a, m.array([0, 2, 1]), 0)", "m.tensor_split(a, 3, 1)[0]"),
    *cases([(3, 4)], "m.tensor_split(a, (1, 3), dim=1)[1]", "m.hsplit(a, 2)[1]", "m.vsplit(a, [1])[1]", "m.t(a)"),
    *cases([(4,), (4,)], "m.hstack([a, b])", "m.vstack([a, b])", "m.dstack([a, b])", "m.column_stack([a, b])"),
    *cases([(4,)], "m.atleast_1d(a) * 2", "m.atleast_2d(a)", "m.atleast_3d(a)", "m.diag(a)", "a.diag(-1)"),
    *cases([(4,)], "a.diag_embed(1)"),
    *cases([(2, 3, 4)], "m.movedim(a, 0, -1)", "m.movedim(a, (0, 1), (2, 0))", "a.swapaxes(0, 2)"),
    *cases([(2, 3, 4)], "m.rot90(a, 1, (1, 2))"),
    *cases([(3, 4)], "m.rot90(a)", "a.rot90(2)", "a.rot90(-1)", "m.fliplr(a)", "m.flipud(a)", "m.trace(a)"),
    *cases([(3, 4)], "m.diag(a, 1)"),
    *cases([(2, 3, 4)], "m.diagonal(a)", "a.diagonal(1, 1, 2)", "a.diagonal(-1, -1, 0)", "m.diag_embed(a, -1, 0, 2)"),
    *cases([(3, 2)], "m.diagflat(a)", "a.diagflat(1)"),
    *cases([(3,), (2,)], "m.meshgrid(a, b, indexing='ij')[0]", "m.meshgrid([a, b], indexing='xy')[1]"),
    *cases([()], "m.atleast_1d(a)", "a.repeat(3)", "a.ravel()", "a.t()"),
]  # fmt: skip


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_a_view_shares_memory_where_it_can_and_copies_where_it_must(array):
    x = ag.tensor(array(np.arange(12.0).reshape(3, 4)))
    assert np.shares_memory(x.view(2, 6).numpy(), x.numpy())
    y = x.T.view(12)  # which torch refuses
    assert y.tolist() == x.numpy().T.ravel().tolist() and not np.shares_memory(y.numpy(), x.numpy())
