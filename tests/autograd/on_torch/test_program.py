"""Programs of torch's tensors: what is left of a recording, and when the function itself is called."""

import gc
import weakref

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.on_torch.program import TorchProgram
from tests.autograd.replay.steps import step_of


def program_of(f, *arrays):
    return TorchProgram(f, [torch.as_tensor(a) for a in arrays])


def lines(program):
    return len({*program.code.__code__.co_lines()})


def test_steps_that_nothing_uses_are_left_out():
    bare, _, x = step_of(lambda x, w: x @ w, "torch")
    more, w, _ = step_of(lambda x, w: (ag.exp(x @ w), torch.cos(x), x @ w)[2], "torch")
    assert lines(program_of(more, x)) == lines(program_of(bare, x)) and w.grad is None


def test_arrays_are_let_go_after_their_last_use():
    """Of many layers in a row without gradients, few arrays are there at a time."""
    seen = []

    def looked(x):
        seen.append(weakref.ref(x))
        return x

    def f(x):
        y = x
        for _ in range(30):
            y = torch.cos(y)
        (w * y).sum().backward()

    w = ag.tensor(torch.ones(3), requires_grad=True)
    program = program_of(f, np.zeros(3, "f"))
    cos, alive = torch.cos, []

    def counted(y):
        alive.append(sum(r() is not None for r in seen))
        return looked(cos(y))

    places = program.code.__globals__
    places.update({name: counted for name, x in places.items() if x is cos})
    program.replay()
    gc.collect()
    assert len(alive) == 30 and max(alive) <= 2


def test_halves_doubles_and_strides_have_recordings_of_their_own():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        w = ag.tensor(torch.ones(3, 2, dtype=dtype), requires_grad=True)

        def f(x):
            loss = ag.gelu(x @ w).sum()
            loss.backward()
            return loss

        step = ag.capture(f)
        for x in (torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).to(dtype) for _ in range(3)):
            for y in (x, x.t().contiguous().t(), x[:, torch.tensor([2, 0, 1])]):
                found = []
                for call in (f, step):
                    w.grad = None
                    loss = call(y)
                    found.append((loss.item(), w.grad.view(torch.uint8).tolist()))
                assert found[0] == found[1]


def test_an_index_out_of_bounds_is_told_by_the_function_itself():
    table = nn.Embedding(4, 3).to(device="cpu")

    def f(i):
        loss = table(i).sum()
        loss.backward()
        return loss

    step = ag.capture(f)
    for good in ([0, 1], [3, 2]):
        step(torch.tensor(good))
    with pytest.raises(IndexError) as usual:
        f(torch.tensor([0, 4]))
    before = table.weight.grad.clone()
    with pytest.raises(IndexError) as captured:
        step(torch.tensor([0, 4]))
    assert str(captured.value) == str(usual.value) and torch.equal(table.weight.grad, before)


def test_labels_out_of_range_and_labels_that_count_for_nothing():
    model = nn.Linear(2, 3).to(device="cpu")

    def f(x, y):
        loss = ag.cross_entropy(model(x), y)
        loss.backward()
        return loss

    step, x = ag.capture(f), torch.ones(2, 2)
    for y in ([0, 2], [1, 1], [1, -100], [2, 2]):
        assert step(x, torch.tensor(y)).item() == f(x, torch.tensor(y)).item()
    with pytest.raises((ValueError, IndexError), match="label 7 is not one of the 3 classes"):
        step(x, torch.tensor([0, 7]))


def test_an_argument_of_nan_and_one_that_is_not_read():
    f, w, x = step_of(lambda x, w: x @ w, "torch")
    calls = []
    step = ag.capture(lambda x, y: (calls.append(1), f(x))[1])
    y = torch.zeros(2)
    for a, b in ((x, y), (x * float("nan"), y), (x, y), (x, y + 1.0), (x, y)):
        w.grad = None
        found = step(a, b).item(), w.grad.clone()
        w.grad = None
        wanted = f(a).item(), w.grad
        assert np.array_equal(found[0], wanted[0], True) and torch.equal(found[1].isnan(), wanted[1].isnan())
    assert len(calls) == 5  # recorded, compared, compared for nan and for another y, and called itself for that


def test_arrays_of_two_libraries_are_refused():
    f, _, x = step_of(lambda x, w: x @ w, "torch")
    with pytest.raises(TypeError, match="takes NumPy arrays, or tensors of torch, got Tensor, ndarray"):
        ag.capture(lambda x, y: f(x))(x, np.ones(3))
    with pytest.raises(TypeError, match="got list"):
        ag.capture(f)([1.0])


def test_a_model_that_moves_to_torch_is_recorded_again():
    model, x = nn.Linear(2, 3), np.ones((4, 2), "f")
    step = ag.capture(lambda x: model(x).sum().backward())
    step(x)
    model.to(device="cpu")
    optimizer = optim.SGD(model, lr=0.1)
    step(torch.as_tensor(x))
    assert type(optimizer.arena.grad) is torch.Tensor and model.weight.grad.tolist() == [[4.0, 4.0]] * 3
