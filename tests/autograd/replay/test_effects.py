"""Effects of captured functions: draws and running statistics are those of the function itself, bit for bit."""

from contextlib import nullcontext

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd import random
from allgrad.autograd.replay.effects import Effects
from tests.autograd.replay.steps import LIBRARIES, as_arrays


def network(library="numpy"):
    ag.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 12), nn.BatchNorm1d(12),
        nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3),
    )  # fmt: skip
    return model.to(device=LIBRARIES[library])


def batch(n, seed, library="numpy"):
    rng = np.random.default_rng(seed)
    return as_arrays(library, rng.standard_normal((n, 8)).astype("f4"), rng.integers(0, 3, n))


def state(model, optimizer):
    """What training has made: weights, the last gradient, running statistics and counters, draws."""
    buffers = [b.numpy().tobytes() for _, b in model.named_buffers()]
    return (
        optimizer.arena.sha256(),
        ag.tensor(optimizer.arena.grad).numpy().tobytes(),
        buffers,
        random.here.stream.draws,
    )


def library_of(model):
    return "numpy" if isinstance(model[0].weight.data, np.ndarray) else "torch"


def change_nothing(model):
    pass


def replace_dropout(model):
    model.layers[3] = nn.Dropout(0.7)


def replace_norm(model):
    model.layers[5] = nn.BatchNorm1d(12, momentum=0.5, affine=False).to(device=LIBRARIES[library_of(model)])


CHANGES = [change_nothing, nn.Module.eval, replace_dropout, replace_norm]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("keyed", [False, True], ids=["one stream", "keyed"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_training_has_the_same_bits(change, keyed, library):
    found = []
    for wrap in (lambda f: f, ag.capture):
        model, calls = network(library), []
        optimizer = optim.SGD(model, lr=0.1, momentum=0.9)

        def f(x, y):
            calls.append(len(x))
            loss = ag.cross_entropy(model(x), y)
            loss.backward()
            return loss

        step, seen = wrap(f), []
        for i, n in enumerate((6, 6, 6, 4, 6, 4, 4, 6, 4, 6)):
            optimizer.zero_grad()
            if i == 6:
                change(model)
            arrays = batch(n, i, library)
            with random.keyed(7, i) if keyed else nullcontext():
                loss = step(*arrays)
            optimizer.step()
            seen.append((loss.item(), state(model, optimizer)))
        found.append((seen, len(calls)))
    assert found[0][0] == found[1][0]
    assert found[1][1] < 16


@pytest.mark.parametrize("library", LIBRARIES)
def test_recording_and_comparing_have_no_effect(library):
    """The state after one captured call is that after one call."""
    found = []
    for wrap in (lambda f: f, ag.capture):
        model = network(library)
        optimizer = optim.SGD(model, lr=0.1)
        wrap(lambda x, y: ag.cross_entropy(model(x), y).backward())(*batch(5, 0, library))
        found.append(state(model, optimizer))
    assert found[0] == found[1]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_replay_that_does_not_hold_leaves_nothing_behind(library):
    """Dropout has drawn and a statistic has moved before a decision comes out otherwise."""
    found = []
    for wrap in (lambda f: f, ag.capture):
        model = network(library)
        optimizer = optim.SGD(model, lr=0.1)

        def f(x, y):
            z = model(x)
            loss = ag.cross_entropy(z, y) if (x.sum() > 0.0).any() else (z * z).mean()
            loss.backward()
            return loss

        step = wrap(f)
        for i, sign in enumerate((1, 1, -1, -1, 1)):
            x, y = batch(5, i, library)
            optimizer.zero_grad()
            step(sign * abs(x), y)
        found.append(state(model, optimizer))
    assert found[0] == found[1]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_function_that_fails_while_it_is_recorded_leaves_nothing_behind(library):
    model = network(library)
    optimizer = optim.SGD(model, lr=0.1)
    step, before = ag.capture(lambda x, y: (model(x) * float(x.sum())).sum().backward()), state(model, optimizer)
    with pytest.raises(RuntimeError, match="takes values as Python numbers"):
        step(*batch(5, 0, library))
    assert state(model, optimizer) == before


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_constant_that_is_assigned_what_was_computed(library):
    """An average that a layer keeps by `assign`, as a user may write it."""
    found = []
    for wrap in (lambda f: f, ag.capture):
        mean, w = (ag.tensor(a) for a in as_arrays(library, np.zeros(3), np.ones(3)))
        w.requires_grad_()

        def f(x):
            mean.assign(mean * 0.9 + 0.1 * ag.tensor(x))
            loss = (w * x * mean).sum()
            loss.backward()
            return loss

        step = wrap(f)
        losses = [step(*as_arrays(library, np.arange(3.0) + i)).item() for i in range(5)]
        found.append((losses, mean.tolist()))
    assert found[0] == found[1]


W = ag.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, dtype="float32")
frozen = nn.Parameter(np.ones(3)).requires_grad_(False)
held = np.zeros(3, "f4")


def into(target, x):
    target += x.sum(0) @ W.data
    return x @ W


def within_key(x):
    with random.keyed(3):
        return ag.dropout(x @ W, 0.5)


REFUSED = {
    "draws random numbers by more than `random_raw`": lambda x: x @ W + ag.rand(3),
    "draws random numbers by a key of its own": lambda x: x @ W + random.generator(3).random(3, "f4"),
    "dropout draws random numbers by a key of its own": within_key,
    "seeds the stream of random numbers": lambda x: (ag.manual_seed(3), ag.dropout(x @ W, 0.5))[1],
    "writes to an array made elsewhere that is no constant tensor's": lambda x: into(W.data, x),
    "function writes to an array made elsewhere": lambda x: into(held, x),
    "the function writes to an array": lambda x: into(frozen.data, x),
    "takes values as Python numbers .*item": lambda x: nn.BatchNorm1d(3, momentum=None)(x @ W),
}


@pytest.mark.parametrize("text", REFUSED)
def test_effects_that_no_replay_could_have_are_refused(text):
    before = W.data.copy(), held.copy(), frozen.data.copy()
    ag.manual_seed(0)
    with pytest.raises(RuntimeError, match="^cannot be captured: .*" + text):
        ag.capture(lambda x: REFUSED[text](x).sum().backward())(np.ones((4, 2), "f4"))
    assert W.grad is None and all(map(np.array_equal, before, (W.data, held, frozen.data)))


def test_undone_puts_back_arrays_and_draws():
    array, effects = np.zeros(3), Effects()
    ag.manual_seed(0)
    with effects.undone():
        random.draw()
        effects.add(array)
        array += 1.0
        effects.draws = 1
        assert not effects.seeds()
    assert array.tolist() == [0.0] * 3 and random.here.stream.draws == 0 and effects
    with effects.undone():
        array += 2.0
        assert effects.seeds() and effects.found()[0].tolist() == [2.0] * 3
    assert array.tolist() == [0.0] * 3
