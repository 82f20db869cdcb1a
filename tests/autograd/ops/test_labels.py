"""Labels that are no class: an error on the CPU, and nan on a device, which nobody waits for."""

import itertools

import pytest
import torch

import allgrad as ag
from allgrad.autograd.ops.labels import unknown_label
from allgrad.ddp import Communicator
from allgrad.ddp.parallel.consistency import first_not_finite
from tests.device.pretend import pretend

OPTIONS = [{}, {"ignore_index": 1}, {"ignore_index": -7}, {"weight": True}, {"label_smoothing": 0.1}]
LOSSES = [
    (f, o)
    for f, o in itertools.product((ag.cross_entropy, ag.nll_loss), OPTIONS)
    if f.__name__[0] == "c" or o != OPTIONS[-1]
]


def run(loss, z, labels, device, weight=False, **options):
    """The loss and the gradient by z, as tensors of the CPU."""
    z = ag.tensor(z.to(device), requires_grad=True)
    if weight:
        options["weight"] = torch.linspace(0.5, 1.5, 5).to(device)
    y = loss(z, torch.tensor(labels).to(device), **options)
    y.sum().backward()
    return y, y.data.cpu(), z.grad.cpu()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_a_label_on_a_device_that_is_no_class_is_nan_and_is_told_afterwards(loss, options, reduction):
    z = torch.linspace(-2.0, 3.0, 20).reshape(4, 5)
    with pretend() as device:
        for labels in ([0, 1, 4, 2], [0, -100, 4, 2], [0, 1, 5, 2], [-7, 1, 3, 2]):
            y, value, gradient = run(loss, z, labels, "cuda", **options, reduction=reduction)
            assert hasattr(y, "mean_of") == (reduction == "mean")
            said = unknown_label()
            try:
                _, expected, by_z = run(loss, z, labels, "cpu", **options, reduction=reduction)
            except ValueError as error:
                assert said == str(error)
                bad = torch.tensor([not 0 <= label < 5 for label in labels])
                assert value[bad if reduction == "none" else ...].isnan().all() and gradient[bad].isnan().any(1).all()
                assert reduction != "none" or not gradient[~bad].isnan().any()
            else:
                assert said is None
                torch.testing.assert_close((value, gradient), (expected, by_z))
        assert unknown_label() is None
        for labels in ([0, 1, 4, 2], [9, 1, 4, 2]):
            device.reset()
            x, t = ag.tensor(z.to("cuda"), requires_grad=True), torch.tensor(labels).to("cuda")
            with device.no_waits():
                loss(x, t).backward()
        assert unknown_label() == f"{loss.__name__}: label 9 is not one of the 5 classes 0 .. 4"


@pytest.mark.parametrize("padding", [None, 1])
def test_an_index_on_a_device_that_is_no_row_of_a_table_finds_nan(padding):
    table = torch.linspace(-1.0, 1.0, 15).reshape(5, 3)
    with pretend() as device:
        for indices in ([[0, 4], [1, 1]], [[0, 5], [1, -2]], []):
            w, at = ag.tensor(table.to("cuda"), requires_grad=True), torch.tensor(indices, dtype=torch.int32).to("cuda")
            device.reset()
            with device.no_waits():
                y = ag.embedding(at, w, padding)
                (y * y).sum().backward()
            known = (torch.tensor(indices) >= 0) & (torch.tensor(indices) < 5)
            same = ag.tensor(table, requires_grad=True)
            rows = ag.embedding(torch.tensor(indices).long()[known], same, padding)
            (rows * rows).sum().backward()
            assert torch.equal(y.data.cpu()[known], rows.data) and y.data.cpu()[~known].isnan().all()
            if known.all():
                assert unknown_label() is None and torch.equal(w.grad.cpu(), same.grad)
            else:
                assert unknown_label() == "embedding: index -2 is not one of the 5 rows 0 .. 4"


def test_what_is_not_finite_is_said_to_come_from_the_label():
    class Arena:
        grad, spans = torch.ones(2), {"w": slice(0, 2)}

    with pretend():
        z, t = ag.tensor(torch.zeros(1, 3).to("cuda")), torch.tensor([3]).to("cuda")
        ag.cross_entropy(z, t)
        said = first_not_finite(Communicator(), Arena, None)
    assert said == "cross_entropy: label 3 is not one of the 3 classes 0 .. 2"
    assert first_not_finite(Communicator(), Arena, None) is None
