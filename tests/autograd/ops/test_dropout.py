"""Dropout: its masks, the mean that they keep, and the key that they depend on.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import keyed, manual_seed
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases
from tests.device.pretend import pretend

TABLE = [
    *cases([(6, 7)], "m.dropout(a, 0.25)", torch="a * m.array(ag.dropout(np.ones((6, 7)), 0.25).data)"),
    *cases([(3, 4)], "m.dropout(a, 0.25, training=False) * a", "m.dropout(a, 0.0) * a", "m.dropout(a, 1.0) * a"),
]  # fmt: skip


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_keeps_the_mean_and_depends_on_the_key_alone(p):
    def draw(*key):
        with keyed(*key):
            return nn.Dropout(p)(ag.tensor(np.ones((300, 100)))).data

    y, n = draw("a"), 30_000
    kept = y[y > 0.0]
    assert abs(kept.size - n * (1 - p)) <= 4.0 * np.sqrt(n * p * (1 - p))
    np.testing.assert_allclose(kept, 1.0 / (1.0 - p) if p < 1.0 else [], rtol=2.0**-12)
    np.testing.assert_array_equal(y, draw("a"))
    assert p in (0.0, 1.0) or (y != draw("b")).any()


def test_dropout_masks_belong_to_the_key_in_force():
    def draw(*key):
        with keyed(*key):
            return ag.dropout(np.ones(64)).tolist(), ag.dropout(np.ones(64)).tolist()

    assert draw(0, 1) == draw(0, np.int64(1)) != draw(1, 0)
    assert draw(0)[0] != draw(0)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_device_draws_and_applies_a_mask_by_one_kernel(dtype):
    with pretend() as device:
        x = ag.tensor(torch.ones(300, 100, dtype=dtype, device="cuda"), requires_grad=True)
        device.reset()
        with device.no_waits():
            y = ag.dropout(x, 0.25)
            y.sum().backward()
        assert device.launches["native_dropout"] == device.launches["native_dropout_backward"] == 1
        y, slope = y.numpy(), x.grad.cpu().float().numpy()
        second = ag.dropout(ag.tensor(torch.ones(4, device="cuda")), 1.0).numpy()
    np.testing.assert_array_equal(y, slope)
    kept = y[y > 0.0]
    assert abs(kept.size - 30_000 * 0.75) <= 4.0 * np.sqrt(30_000 * 0.25 * 0.75)
    np.testing.assert_allclose(kept, 4.0 / 3.0, rtol=4e-3)
    assert not second.any()


def test_masks_on_a_device_belong_to_the_key_however_keys_take_turns():
    def masks(n, *between):
        x, found = ag.tensor(torch.ones(64, device="cuda")), []
        for i in range(n):
            found.append(ag.dropout(x).tolist())
            if i == 0:
                for key in between:
                    with keyed(key):
                        ag.dropout(x)
        return found

    with pretend():
        with keyed("a"):
            undisturbed = masks(3)
        with keyed("a"):
            assert masks(3, "b", "c") == undisturbed and undisturbed[0] != undisturbed[1]
        with keyed("b"):
            assert masks(1) != undisturbed[:1]
        manual_seed(7)
        first = masks(2)
        with keyed("a"):
            assert masks(3) == undisturbed
        third = masks(1)
        manual_seed(7)
        assert masks(3) == [*first, *third]
        manual_seed(8)
        assert masks(2) != first


def test_a_recorded_backward_of_dropout_on_a_device_has_the_same_mask():
    with pretend():
        x = torch.linspace(0.5, 2.0, 32, dtype=torch.float64, device="cuda")
        cubes = lambda x: (ag.dropout(x, 0.5) ** 3).sum()
        with keyed(0):
            mask = ag.dropout(ag.tensor(torch.ones_like(x)), 0.5).numpy()
        with keyed(0):
            second = ag.hvp(cubes, x, torch.ones_like(x)).cpu()
        np.testing.assert_allclose(second, 6.0 * mask**3 * x.cpu().numpy(), rtol=1e-12)
