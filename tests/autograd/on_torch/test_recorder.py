"""Recordings of torch's tensors: what torch reports, and what cannot be replayed."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.on_torch.recorder import TorchRecorder
from tests.autograd.replay.steps import step_of

counter, kept = ag.tensor(0.0).to("cpu"), []
held = torch.zeros(3)
optimizer = optim.SGD(nn.Linear(2, 2).to(device="cpu"), lr=0.1)
REFUSED = {
    "sum takes values as Python numbers .*item": lambda x, w: x @ w * (x @ w).sum().item(),
    "the function takes values as Python numbers .*__float__": lambda x, w: float(x.sum()) * x @ w,
    "matmul takes values .*tolist": lambda x, w: x @ w * len((x @ w).data.tolist()),
    "takes values .*__array__": lambda x, w: x @ w * np.asarray(x).sum(),
    "takes values .*equal": lambda x, w: x @ w if torch.equal(x, x) else w,
    "takes values .*__format__": lambda x, w: (f"{x}", x @ w)[1],
    "takes values .*__dlpack__": lambda x, w: (np.from_dlpack(x), x @ w)[1],
    "takes from torch's nonzero a result whose shape": lambda x, w: x[torch.nonzero(x[:, 0])[:, 0]] @ w,
    "takes from torch's __getitem__ a result whose shape": lambda x, w: x[x[:, 0] > 0.5] @ w,
    "takes from torch's repeat_interleave a result": lambda x, w: x.repeat_interleave((x[:, 0] > 0.5).long(), 0) @ w,
    "takes a Python UntypedStorage from torch's untyped_storage": lambda x, w: (x @ w) if x.untyped_storage() else w,
    "draws random numbers by torch's rand_like": lambda x, w: torch.rand_like(x) @ w,
    "sets an attribute of a tensor": lambda x, w: (setattr(x, "grad", None), x @ w)[1],
    "writes to an array made elsewhere": lambda x, w: x.mul_(2.0) @ w,
    "function writes to an array made elsewhere": lambda x, w: (held.add_(x.sum()), x @ w)[1],
    "moves running statistics by torch's batch_norm": lambda x, w: (
        torch.nn.functional.batch_norm(x @ w.data, held, held, training=True), x @ w,
    )[1],
    "the function looks at gradients": lambda x, w: x @ w if w.grad is None else w,
    "the function assigns to a tensor": lambda x, w: w.assign(1.0),
    "changes a tensor in place": lambda x, w: x @ w + counter.__iadd__(1.0),
    "forgets gradients .zero_grad.": lambda x, w: (optimizer.zero_grad(), x @ w)[1],
    "keeps something that it computed": lambda x, w: (kept.append(x @ w), kept[-1])[1],
    "which has several results": lambda x, w: x @ w * np.divmod(x.numpy(), 0.3)[1].sum(),
    "decides by a value after gradients have arrived": lambda x, w: (
        (x @ w).sum().backward(), x @ w if (x.sum() > 0) else w,
    )[1],
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_replayed_is_refused(text):
    f, w, x = step_of(REFUSED[text], "torch")
    before = x.clone()
    with pytest.raises(RuntimeError, match="^cannot be captured: .*" + text):
        ag.capture(f)(x)
    assert torch.equal(x, before) and type(w.data) is torch.Tensor
    held.zero_()


def recorded(f, *arrays):
    recorder = TorchRecorder()
    recorder.run(f, arrays)
    return [step.source.split("(")[0] for step in recorder.steps], recorder


def test_a_step_for_each_call_and_none_for_what_torch_says_of_a_tensor():
    x = torch.ones(2, 3)
    calls, recorder = recorded(lambda x: (x @ x.mT).relu().reshape(x.shape[0] * 2), x)
    names = [getattr(recorder.constants[call], "__name__", "") for call in calls]
    assert names == ["__get__", "matmul", "relu", "reshape"]
    assert [step.makes for step in recorder.steps] == [1, 2, 3, 4] and recorder.steps[1].uses == {0, 1}


def test_numbers_that_numpy_takes_from_a_tensor_are_followed():
    """An index that NumPy computes from values."""
    f, _, x = step_of(lambda x, w: (x @ w)[torch.as_tensor(np.argsort(x.numpy()[:, 0]))] * torch.arange(3.0), "torch")
    step = ag.capture(f)
    for factor in (1.0, -1.0, 2.0):
        assert step(factor * x).item() == f(factor * x).item()


def test_views_of_constants_that_are_changed_go_back():
    statistics = ag.tensor(np.zeros(3)).to("cpu")

    def f(x):
        statistics.data[1:] += x.sum()
        loss = (w * x).sum()
        loss.backward()
        return loss

    w = ag.tensor(torch.ones(3, dtype=torch.float64), requires_grad=True)
    step = ag.capture(f)
    for i in range(3):
        step(torch.full((3,), float(i + 1), dtype=torch.float64))
        assert statistics.tolist() == [0.0, *[1.5 * (i + 1) * (i + 2)] * 2]
