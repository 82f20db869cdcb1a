"""Recordings: what is seen of a step and has its bits, and what cannot be replayed."""

import numpy as np
import pytest
import scipy.special
import torch

import allgrad as ag
from allgrad import nn, optim
from tests.autograd.replay.steps import LIBRARIES, step_of

LABELS = np.array([0, 1, 2, 0])
SAME = {
    "a sum of weights alone": lambda x, w: (x @ w).sum() + (w * w).sum() + ag.exp(w).sum(),
    "a tensor of the input": lambda x, w: ag.tensor(x) @ w,
    "scipy": lambda x, w: scipy.special.expit(x) @ w,
    "reductions": lambda x, w: ag.std(x @ w, 0) * ag.logsumexp(x @ w, 0) * ag.prod(x @ w, 0) * ag.max(x @ w, 0)[0],
    "powers": lambda x, w: (x @ w) ** 2 + (x @ w) ** 0.5 + (x @ w) ** w[:1],
    "shapes": lambda x, w: ag.pad(ag.roll(ag.flip(x @ w, 0), 1, 0), (1, 1), "reflect") * ag.stack([x[:, 0]] * 5, 1),
    "indices": lambda x, w: ag.gather(x @ w, 1, LABELS[:, None]) * ag.index_select(x @ w, 1, LABELS),
    "numpy around": lambda x, w: (np.sort(x, 0) / np.linalg.norm(x) + np.clip(x, 0.2, x.max())) @ w,
    "rows one by one": lambda x, w: sum(row @ w for row in x),
    "a branch": lambda x, w: x @ w if x.sum() > 6 else x @ w * 2.0,
    "labels": lambda x, w: ag.nll_loss(ag.log_softmax(x @ w), LABELS) + ag.cross_entropy(x @ w, LABELS),
    "smoothed": lambda x, w: ag.cross_entropy(x @ w, LABELS, label_smoothing=0.1, weight=np.ones(3, "f")),
    "bce": lambda x, w: ag.binary_cross_entropy_with_logits(x @ w, np.full((4, 3), 0.5, "f")),
    "convolution": lambda x, w: ag.conv_transpose2d(x[None, None], ag.conv2d(w[None, None], x[None, None, :1, :1])),
    "moments of a batch": lambda x, w: ag.batch_norm(x @ w, training=True) * x[:, :1],
    "attention": lambda x, w: ag.scaled_dot_product_attention(x @ w, x @ w, x @ w, is_causal=True),
    "a derivative inside": lambda x, w: ag.hvp(lambda v: (v**3).sum(), w, x[:2] @ w.data),
    "a gradient of constants": lambda x, w: ag.conv2d(np.ones((1, 1, 3, 4), "f"), w[None, None]),
}


OF_NUMPY = {"scipy", "numpy around", "a gradient of constants"}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", SAME)
def test_values_and_gradients_have_the_same_bits(name, library):
    if library != "numpy" and name in OF_NUMPY:
        pytest.skip("functions of NumPy arrays")
    f, w, x = step_of(SAME[name], library)
    captured = ag.capture(f)
    for factor in (1.0, 2.0, 3.0, 1.5):
        found = []
        for step in (f, captured):
            w.grad = None
            found.append((step(factor * x).item(), ag.tensor(w.grad).numpy().tobytes()))
        assert found[0] == found[1]
        w.assign(w.data * 1.25)


counter, kept = ag.tensor(0.0), []
optimizer = optim.SGD(nn.Linear(2, 2), lr=0.1)
REFUSED = {
    "the function writes to an array made elsewhere": lambda x, w: x.__imul__(2.0) @ w,
    "sum takes values as Python numbers .*item": lambda x, w: x @ w * (x @ w).sum().item(),
    "the function takes values as Python numbers .*float": lambda x, w: float(x.sum()) * x @ w,
    "matmul takes values .*flat": lambda x, w: x @ w * x.flat[0],
    "matmul takes values .*tolist": lambda x, w: x @ w * len((x @ w).tolist()),
    "matmul takes from numpy's nonzero a result whose shape": lambda x, w: (x @ w)[np.nonzero(x[:, 0])],
    "getitem picks elements by a mask": lambda x, w: (x @ w)[x[:, 0] > 0.5],
    "matmul computes on torch tensors": lambda x, w: torch.ones(4, 2) @ w,
    "computes numpy's divmod, which has several results": lambda x, w: np.divmod(x, 0.3)[1] @ w,
    "the function looks at gradients": lambda x, w: x @ w if w.grad is None else w,
    "the function assigns to a tensor": lambda x, w: w.assign(1.0),
    "changes a tensor in place": lambda x, w: x @ w + counter.__iadd__(1.0),
    "the function forgets gradients": lambda x, w: (setattr(w, "grad", None), x @ w)[1],
    "forgets gradients .zero_grad.": lambda x, w: (optimizer.zero_grad(), x @ w)[1],
    "changes parameters": lambda x, w: (optimizer.arena.bump_versions(), x @ w)[1],
    "keeps something that it computed": lambda x, w: (kept.append(x @ w), kept[-1])[1],
    "the function takes values .*str": lambda x, w: (print(x), x @ w)[1],
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_replayed_is_refused(text):
    f, w, x = step_of(REFUSED[text])
    with pytest.raises(RuntimeError, match="^cannot be captured: .*" + text):
        ag.capture(f)(x)
    assert w.grad is None
    assert type(w.data) is np.ndarray


def test_what_is_no_function_of_the_arguments_is_found_in_the_first_call():
    f, w, x = step_of(lambda x, w: (x + np.random.rand()) @ w)
    with pytest.raises(RuntimeError, match="other bits than the function itself"):
        ag.capture(f)(x)
    assert w.grad is None


TABLE = np.eye(3, dtype="f")


def test_an_argument_that_is_used_unseen_is_found_when_it_changes_first():
    w = ag.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, dtype="float32")

    def f(x, y):
        loss = ag.mse_loss(x @ w, TABLE[y])
        loss.backward()
        return loss

    step, rng, y = ag.capture(f), np.random.default_rng(0), np.array([0, 2, 1, 0])
    for _ in range(4):  # the same labels, such as to warm up
        x = rng.standard_normal((4, 2)).astype("f")
        assert step(x, y).item() == f(x, y).item()
    w.grad = None
    with pytest.raises(RuntimeError, match=r"reads an argument unseen, as by np\.asarray"):
        step(x, y[::-1].copy())
    assert w.grad is None


FILLED = {
    "full": lambda x, n: np.full((4, 2), n, "f", like=x),
    "full by names": lambda x, n: np.full(shape=(4, 2), fill_value=n, dtype="f", like=x),
    "full_like": lambda x, n: np.full_like(x, n),
    "full_like of a number": lambda x, n: np.full_like(x, 2.0) * n.astype("f"),
}


@pytest.mark.parametrize("name", FILLED)
def test_arrays_may_be_filled_with_what_was_computed(name):
    w = ag.tensor(np.arange(6.0, dtype="f").reshape(2, 3), requires_grad=True)

    def f(x):
        loss = (FILLED[name](x, (x > 0).sum()) @ w).sum()
        loss.backward()
        return loss

    step = ag.capture(f)
    for row in ([1, -1], [-1, 1], [1, 1], [-1, -1]):  # of the second, with which the first is compared, the same count
        x = np.repeat(np.array([row], "f"), 4, 0)
        assert step(x).item() == f(x).item()


UNSEEN = {
    "a count": lambda z, y: z.sum() / (np.asarray(y) != 0).sum(),
    "a decision": lambda z, y: z.sum() * 2.0 if (np.array(y) == 0).any() else z.sum(),
    "a factor": lambda z, y: z.sum() * (1.0 + (np.ascontiguousarray(y) == 0).any()),
    "a buffer": lambda z, y: z.sum() * (1.0 + bytes(memoryview(y)).count(0)),
    "a table": lambda z, y: z.sum() * TABLE[y].any(0).sum(),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_an_argument_that_numpy_reads_unseen_is_never_taken_for_another(name):
    w = ag.tensor(np.arange(9.0).reshape(3, 3), requires_grad=True)
    step = ag.capture(lambda x, y: UNSEEN[name](x @ w, y))
    for labels in [0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 0, 2], [1, 1, 1], [0, 2, 1]:
        x, y = np.cos(np.arange(9.0) + len(labels)).reshape(3, 3), np.array(labels)
        assert step(x, y).item() == UNSEEN[name](x @ w, y).item()


def test_an_array_of_elements_of_an_argument_is_refused():
    f, _, x = step_of(lambda x, w: np.array([x[0, 0], x[0, 1]]) @ w)
    with pytest.raises(RuntimeError, match="reads values by numpy's array"):
        ag.capture(f)(x)


def test_numbers_computed_from_arguments_promote_nothing_as_outside_of_a_capture():
    w = ag.tensor(np.arange(3.0), requires_grad=True, dtype="float32")
    for scale in (
        lambda y: 1.0 + y.max(), lambda y: y.mean(), lambda y: y[0], lambda y: y.astype("f").sum(), lambda y: y.any(),
    ):  # fmt: skip

        def f(x, y):
            loss = (w * x).sum() * scale(y) + (w * scale(y) * x).mean()
            loss.backward()
            return loss

        step = ag.capture(f)
        for y in (np.array([0, 1, 2]), np.array([3, 1, 2])):
            found = []
            for call in (f, step):
                w.grad = None
                loss = call(np.full(3, 0.1, "f"), y)
                found.append((loss.dtype, loss.item(), w.grad.dtype, w.grad.tobytes()))
            assert found[0] == found[1]
