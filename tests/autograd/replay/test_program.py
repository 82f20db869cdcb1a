"""Captured steps: the bits of the function itself, its errors and hooks, whatever comes after the recording."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.replay import CannotReplay, watch
from allgrad.autograd.replay.program import NumPyProgram
from allgrad.autograd.replay.recorder import Recorder
from tests.autograd.replay.steps import LIBRARIES, as_arrays, step_of


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
        self.lstm, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

    def __call__(self, x):
        return self.head(self.lstm(x)[0][:, -1])


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
    return ag.mse_loss(z, ag.sin(y))


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


def trained(case, library, wrap, batches=(4, 4, 4, 3, 4, 3, 3)):
    make, data, loss, rule = CASES[case]
    ag.manual_seed(1)
    model = make().to(device=LIBRARIES[library])
    rng, losses = np.random.default_rng(2), []
    optimizer = rule(model, lr=0.05, **({"momentum": 0.9} if rule is optim.SGD else {}))

    def f(x, y):
        value = loss(model(x), y, model)
        value.backward()
        return value

    step = wrap(f)
    for n in batches:
        optimizer.zero_grad()
        value = step(*as_arrays(library, *data(rng, n)))
        optimizer.step()
        losses.append((value.item(), ag.tensor(optimizer.arena.grad).numpy().tobytes()))
    return losses, optimizer.arena.sha256()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CASES)
def test_training_has_the_same_bits(case, library):
    calls = []

    def counted(f):
        return ag.capture(lambda *arrays: (calls.append(1), f(*arrays))[1])

    assert trained(case, library, counted) == trained(case, library, lambda f: f)
    assert len(calls) == 6  # recorded and compared, and compared for other values, for two shapes


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


def pair():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.Linear(4, 2))
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((4, 3)).astype("f4"), rng.integers(0, 2, 4)) for _ in range(6)]
    return model, batches


def replace_layer(model):
    model.layers[0] = nn.Linear(3, 4)


def replace_activation(model):
    model.layers[1] = nn.Tanh()


def append_layer(model):
    model.append(nn.Linear(2, 2))


def tie(model):
    model[0].bias = nn.Parameter(np.ones(4))


def freeze(model):
    model[2].weight.requires_grad_(False)


def move(model):
    optim.SGD(model, lr=0.1)


@pytest.mark.parametrize("change", [replace_layer, replace_activation, append_layer, tie, freeze, move])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_what_changes_around_the_function_is_recorded_again(change, calls):
    found = []
    for wrap in (lambda f: f, ag.capture):
        ag.manual_seed(3)
        model, batches = pair()
        old = model[0].weight  # is still there

        def f(x, y):
            loss = ag.cross_entropy(model(x), y)
            loss.backward()
            return loss

        step = wrap(f)
        for x, y in batches[:calls]:
            step(x, y)
        change(model)
        model.zero_grad()
        old.node.reset()
        losses = [step(x, y).item() for x, y in batches[calls:]]
        found.append((losses, {name: p.grad.tobytes() for name, p in model.named_parameters() if p.requires_grad}))
    assert found[0] == found[1]


def test_a_variable_that_the_function_closes_over_may_change():
    scale, w = 1.0, ag.tensor(np.ones(3), requires_grad=True)
    step = ag.capture(lambda x: (w * x).sum() * scale)
    x = np.ones(3)
    assert step(x).item() == step(x).item() == 3.0
    scale = 2.0
    assert step(x).item() == 6.0
    for scale in range(20):  # from the ninth recording on by the function itself
        assert step(x).item() == 3.0 * scale


def test_each_mode_has_recordings_of_its_own():
    f, w, x = step_of(lambda x, w: x @ w)
    step = ag.capture(f)
    step(x)
    w.grad = None
    with ag.no_grad(), pytest.raises(RuntimeError, match="computed under no_grad"):
        step(x)
    assert w.grad is None


def test_threads_replay_side_by_side():
    f, w, x = step_of(lambda x, w: x @ w)
    step, wanted = ag.capture(f), [f(x * np.float32(k)).item() for k in (1, 2)]
    w.grad, times = None, 50

    def run(k):
        return {step(x * np.float32(k)).item() for _ in range(times)}

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(run, (1, 2))] == [{wanted[0]}, {wanted[1]}]
    got, w.grad = w.grad.copy(), None
    f(x)
    f(x * np.float32(2))
    np.testing.assert_allclose(got, times * w.grad, rtol=1e-4)


def in_a_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def test_a_thread_that_waited_for_the_recording_of_another_does_not_bring_it_back(monkeypatch):
    first_records, second_waits, second_records, looked = (threading.Event() for _ in range(4))

    class Announced:
        """The lock of recordings, which tells when the second thread asks for it."""

        def __enter__(self):
            if threading.current_thread() is not first:
                second_waits.set()
            return usual.__enter__()

        def __exit__(self, *error):
            return usual.__exit__(*error)

    def first_step(x):
        first_records.set()
        assert second_waits.wait(10)
        return f(x)

    def second_step(x):
        second_records.set()
        assert looked.wait(10)
        return f(x)

    def second():
        assert first_records.wait(10)
        return ag.capture(second_step)(x).item()

    f, w, x = step_of(lambda x, w: x @ w)
    found, usual, first = w.data, watch.lock, threading.current_thread()
    monkeypatch.setattr(watch, "lock", Announced())
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        Recorder().run(first_step, [x])
        assert second_records.wait(10)
        seen = w.data
        looked.set()
        assert other.result() == f(x).item() and seen is found


def test_what_another_thread_computes_is_not_recorded():
    f, _, x = step_of(lambda x, w: x @ w)
    kept = []

    def keeping(x):
        kept.append(x)
        return f(x)

    with pytest.raises(CannotReplay, match="keeps something that it computed"):
        ag.capture(keeping)(x)

    def beside(x):
        sums.append(in_a_thread(lambda: (kept[0] * 2.0).sum()))
        return f(x)

    sums: list = []
    ag.capture(beside)(x)
    assert {*sums} == {(x * 2.0).sum()}


def test_programs_of_a_thread_are_gone_with_it():
    f, _, x = step_of(lambda x, w: x @ w)
    step = ag.capture(f)
    programs = lambda: [p for p in gc.get_objects() if type(p) is NumPyProgram and p.function is f]
    in_a_thread(step, x)
    gc.collect()
    assert not programs()
    step(x)
    assert len(programs()) == 1


LAYOUTS = {
    "the same row again": lambda x: np.broadcast_to(x[0], x.shape),
    "the same column again": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "every other column": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "by columns": np.asfortranarray,
    "one column of many": lambda x: x[:, 1:2],
    "no rows": lambda x: x[:0, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_may_lie_in_memory_in_any_way(layout):
    rng = np.random.default_rng(0)
    w = ag.tensor(rng.standard_normal((9, 33)).astype("f4"), requires_grad=True)

    def f(x):
        y = ((ag.Tensor(x) * w[0, : x.shape[1]]).sum(0) ** 2).sum() + (ag.Tensor(x) @ w[:, : x.shape[1]].T).sum()
        y.backward()
        return y

    step = ag.capture(f)
    for _ in range(4):
        x, found = LAYOUTS[layout](rng.standard_normal((17, 33)).astype("f4")), []
        for compute in (f, step):
            w.grad = None
            found.append((compute(x).item(), w.grad.tobytes()))
        assert found[0] == found[1]


def test_an_error_of_a_hook_is_not_taken_for_that_of_an_index():
    f, w, x = step_of(lambda x, w: x @ w)
    step = ag.capture(f)
    step(x)
    w.grad = None

    def hook(leaf):
        raise IndexError("of the hook")

    w.register_hook(hook)
    with pytest.raises(IndexError, match="of the hook"):
        step(x)
    once = w.grad.copy()
    w.node.hook = w.grad = None
    f(x)
    np.testing.assert_array_equal(once, w.grad)  # and not twice of it


def test_a_capture_inside_another_is_part_of_it():
    w = ag.tensor(np.ones(3), requires_grad=True)

    def g(x):
        loss = (w * x).sum()
        loss.backward()
        return loss

    inner = ag.capture(g)
    step = ag.capture(lambda x: inner(x * 2.0).data * 3.0)
    for k in (1.0, 2.0, 3.0):
        w.grad = None
        assert step(k * np.ones(3)) == 18.0 * k and w.grad.tolist() == [2.0 * k] * 3
        w.grad = None
        assert inner(k * np.ones(3)).item() == 3.0 * k and w.grad.tolist() == [k] * 3
