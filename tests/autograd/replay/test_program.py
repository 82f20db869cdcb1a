"""Captured steps: the bits of the function itself, its errors and hooks, whatever comes after the recording."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from tests.autograd.replay.steps import step_of


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
