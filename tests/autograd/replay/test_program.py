"""Captured steps: the bits of the function itself, on other values than those recorded; what is refused, and memory."""

import tracemalloc

import numpy as np
import pytest
import scipy.special
import torch

import allgrad as ag
from allgrad import nn, optim


class Characters(nn.Module):
    def __init__(self):
        self.table = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(16, 20)

    def __call__(self, x):
        return self.head(self.block(self.table(x))).reshape(-1, 20)


class Sequences(nn.Module):
    def __init__(self):
        self.lstm, self.head = nn.LSTM(5, 7), nn.Linear(7, 3)

    def __call__(self, x):
        return self.head(self.lstm(x.transpose(1, 0, 2))[0][-1])


def mlp():
    layers = [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid()]
    return nn.Sequential(*(part for layer in layers for part in (nn.Linear(20, 20), layer)))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Sigmoid(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 20), nn.Sigmoid(), nn.Linear(20, 10),
    )  # fmt: skip


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 1), nn.GroupNorm(2, 4), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(36, 10),
    )  # fmt: skip


def penalised(z, y, model):
    return ag.cross_entropy(z, y) + 0.01 * sum((p * p).sum() for p in model.parameters())


def regression(z, y, model):
    return ag.mse_loss(z, np.sin(y))


def entropy(z, y, model):
    return ag.cross_entropy(z, y.reshape(-1))


def images(rng, n):
    return rng.random((n, 1, 20, 20), dtype="f"), rng.integers(0, 10, n)


def vectors(rng, n):
    return rng.random((n, 20), dtype="f"), rng.integers(0, 10, n)


CASES = {
    "mlp": (mlp, vectors, entropy, optim.SGD),
    "penalty": (mlp, vectors, penalised, optim.SGD),
    "regression": (mlp, lambda rng, n: rng.random((2, n, 20), dtype="f"), regression, optim.SGD),
    "lenet": (lenet, images, entropy, optim.SGD),
    "cnn": (cnn, images, entropy, optim.SGD),
    "transformer": (
        Characters, lambda rng, n: (rng.integers(0, 20, (n, 6)), rng.integers(0, 20, (n, 6))), entropy, optim.Adam,
    ),
    "lstm": (Sequences, lambda rng, n: (rng.random((n, 4, 5), dtype="f"), rng.integers(0, 3, n)), entropy, optim.Adam),
}  # fmt: skip


def trained(case, wrap, batches=(4, 4, 4, 3, 4, 3, 3)):
    make, data, loss, rule = CASES[case]
    ag.manual_seed(1)
    model = make()
    rng, losses = np.random.default_rng(2), []
    optimizer = rule(model, lr=0.05, **({"momentum": 0.9} if rule is optim.SGD else {}))

    def f(x, y):
        value = loss(model(x), y, model)
        value.backward()
        return value

    step = wrap(f)
    for n in batches:
        optimizer.zero_grad()
        value = step(*data(rng, n))
        optimizer.step()
        losses.append((value.item(), optimizer.arena.grad.tobytes()))
    return losses, optimizer.arena.sha256()


@pytest.mark.parametrize("case", CASES)
def test_training_has_the_same_bits(case):
    calls = []

    def counted(f):
        return ag.capture(lambda *arrays: (calls.append(1), f(*arrays))[1])

    assert trained(case, counted) == trained(case, lambda f: f)
    assert len(calls) == 4  # recorded and compared, for two shapes


def step_of(f, **options):
    """f(x, w) as a step, w, and x."""
    w = ag.tensor(np.arange(1.0, 7.0, dtype="f").reshape(2, 3) / 6, requires_grad=True)

    def step(x):
        y = f(x, w).sum()
        y.backward()
        return y

    return step, w, np.random.default_rng(0).random((4, 2), dtype="f")


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
    "a derivative inside": lambda x, w: ag.hvp(lambda v: (v**3).sum(), w, np.ones((2, 3), "f")),
    "a gradient of constants": lambda x, w: ag.conv2d(np.ones((1, 1, 3, 4), "f"), w[None, None]),
}


@pytest.mark.parametrize("name", SAME)
def test_values_and_gradients_have_the_same_bits(name):
    f, w, x = step_of(SAME[name])
    captured = ag.capture(f)
    for factor in (1.0, 2.0, 3.0, 1.5):
        found = []
        for step in (f, captured):
            w.grad = None
            found.append((step(np.float32(factor) * x).item(), w.grad.tobytes()))
        assert found[0] == found[1]
        w.assign(w.data * 1.25)


batch_norm = nn.BatchNorm1d(3)
REFUSED = {
    "dropout draws random numbers": lambda x, w: ag.dropout(x @ w, 0.5),
    "batch_norm writes to an array made elsewhere": lambda x, w: batch_norm(x @ w),
    "the function writes to an array made elsewhere": lambda x, w: x.__imul__(2.0) @ w,
    "sum takes values as Python numbers .*item": lambda x, w: x @ w * (x @ w).sum().item(),
    "the function takes values as Python numbers .*float": lambda x, w: float(x.sum()) * x @ w,
    "matmul takes values .*tolist": lambda x, w: x @ w * len((x @ w).tolist()),
    "matmul takes from numpy's nonzero a result whose shape": lambda x, w: (x @ w)[np.nonzero(x[:, 0])],
    "getitem picks elements by a mask": lambda x, w: (x @ w)[x[:, 0] > 0.5],
    "matmul computes on torch tensors": lambda x, w: torch.ones(4, 2) @ w,
    "computes numpy's divmod, which has several results": lambda x, w: np.divmod(x, 0.3)[1] @ w,
    "the function looks at gradients": lambda x, w: x @ w if w.grad is None else w,
    "the function assigns to a tensor": lambda x, w: w.assign(1.0),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_replayed_is_refused(text):
    f, w, x = step_of(REFUSED[text])
    with pytest.raises(RuntimeError, match="^cannot be captured: .*" + text):
        ag.capture(f)(x)
    assert w.grad is None
    assert type(w.data) is np.ndarray


@pytest.mark.parametrize("f", [lambda x, w: (np.asarray(x) * 2.0) @ w, lambda x, w: (x + np.random.rand()) @ w])
def test_what_is_computed_unseen_is_found_in_the_second_call(f):
    f, _, x = step_of(f)
    step = ag.capture(f)
    step(x)
    with pytest.raises(RuntimeError, match="other bits than the function itself"):
        step(x + 1.0)


def test_errors_are_those_of_the_function_itself():
    model = nn.Linear(2, 3)

    def f(x, y):
        ag.cross_entropy(model(x), y).backward()

    step, x = ag.capture(f), np.ones((2, 2), "f")
    with pytest.raises(ValueError, match="label 7 is not one of the 3 classes"):
        step(x, np.array([0, 7]))
    for _ in range(3):
        step(x, np.array([0, 2]))
    with pytest.raises(ValueError, match="label -1 is not one of the 3 classes"):
        step(x, np.array([-1, 2]))
    with pytest.raises(ValueError, match="do not fit together"):
        step(np.ones((2, 3), "f"), np.array([0, 2]))


def test_gradients_add_up_hooks_fire_and_old_ones_are_kept():
    f, w, x = step_of(lambda x, w: x @ w)
    step, seen = ag.capture(f), []
    step(x)
    once, kept = w.grad.copy(), w.grad
    w.register_hook(lambda leaf: seen.append(leaf.grad.copy()))
    step(x)
    step(x)
    np.testing.assert_array_equal(w.grad, once + once + once)
    assert len(seen) == 2
    w.grad = None
    step(x * 2.0)
    np.testing.assert_array_equal(kept, once + once + once)
    np.testing.assert_array_equal(w.grad, once * 2.0)


def test_replays_treat_overflow_as_the_function_does_and_deliver_once():
    def f(x, w):
        with np.errstate(over="raise"):
            return ag.exp(x @ w)

    step, w, x = step_of(f)
    captured = ag.capture(step)
    with np.errstate(over="ignore"):

        def whole(x):
            with np.errstate(over="raise"):
                return step(x)

        around = ag.capture(whole)
    for replay in (captured, around):
        for factor in (1.0, 2.0, 3.0):
            w.grad = None
            replay(factor * x)
            delivered = w.grad.copy()
            w.grad = None
            step(factor * x)
            assert delivered.tobytes() == w.grad.tobytes()
        with np.errstate(over="ignore"), pytest.raises(FloatingPointError):
            replay(1000.0 * x)


def test_replays_need_no_more_memory_and_little_in_all():
    model = nn.Sequential(*(nn.Linear(64, 64) if i % 2 else nn.ReLU() for i in range(24)))
    optimizer = optim.SGD(model, lr=0.01)
    x = np.random.default_rng(0).random((512, 64), dtype="f")

    def f(x):
        ag.mse_loss(model(x), x).backward()

    step = ag.capture(f)

    def peak(step, count=1):
        tracemalloc.start()
        for _ in range(count):
            optimizer.zero_grad()
            step(x)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    f(x)
    eager = peak(f)
    tracemalloc.start()
    step(x)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    step(x)
    assert held < 1.3 * eager
    assert peak(step, 50) < 40_000


def test_parameters_may_move_to_an_arena_after_the_first_calls():
    for calls in (1, 2, 3):
        found = []
        for wrap in (ag.capture, lambda f: f):
            f, w, x = step_of(lambda x, w: x @ w * (w.data * 2.0)[0])
            step = wrap(f)
            for i in range(calls):
                step(x + np.float32(i))
            optimizer = optim.SGD([w], lr=0.1)
            for i in range(4):
                optimizer.zero_grad()
                step(x + np.float32(i))
                optimizer.step()
            found.append(optimizer.arena.sha256())
        assert found[0] == found[1]


def test_a_ninth_shape_is_computed_by_the_function_itself():
    f, w, _ = step_of(lambda x, w: x @ w)
    step = ag.capture(f)
    for n in range(1, 11):
        w.grad = None
        assert step(np.ones((n, 2), "f")).item() == f(np.ones((n, 2), "f")).item()
