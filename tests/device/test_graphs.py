"""Captured steps on a CUDA device: graphs have the bits of the function, and what they cannot hold is refused."""

import contextlib

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd import random
from allgrad.autograd.on_torch import graphs as module, recorder
from tests.device.real import REAL
from tests.device.software_graph import graphs
from tests.device.workloads import WORKLOADS, trainer_of

PLACE = "cuda:0"


@pytest.fixture(autouse=True)
def with_graphs(device, monkeypatch):
    """Graphs on the device; a pretended tensor has its address inside."""
    address = recorder._address
    monkeypatch.setattr(recorder, "_address", lambda x: address(getattr(x, "inner", x)))
    with contextlib.nullcontext() if REAL else graphs():
        yield


@pytest.mark.parametrize("name", WORKLOADS)
def test_training_has_the_same_bits(name, device):
    found = []
    for capture in (False, True):
        trainer = trainer_of(WORKLOADS[name], PLACE)
        gradients = trainer.parallel.shard_gradients
        gradients.capture = "on" if capture else "off"
        trainer.fit()
        buffers = [b.numpy().tobytes() for _, b in trainer.parallel.model.named_buffers()]
        found.append((trainer.parallel.arena.sha256(), buffers))
        assert bool(gradients.captured) is capture
    assert found[0] == found[1]


def network():
    ag.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 12), nn.Dropout(0.5),
        nn.Linear(12, 3),
    ).to(device=PLACE)  # fmt: skip


def batch(n, seed):
    rng = np.random.default_rng(seed)
    return [ag.tensor(a).to(PLACE).data for a in (rng.standard_normal((n, 8)).astype("f4"), rng.integers(0, 3, n))]


def trained(wrap, change=lambda model: None, accumulate=1, keyed=True):
    model, found = network(), []
    optimizer = optim.SGD(model, lr=0.1, momentum=0.9)

    def f(x, y):
        loss = ag.cross_entropy(model(x), y)
        loss.backward()
        return loss

    step = wrap(f)
    for i, n in enumerate((6, 6, 5, 6, 5, 6, 5, 6)):
        optimizer.zero_grad()
        if i == 5:
            change(model)
        for part in range(accumulate):
            with random.keyed(3, i, part) if keyed else contextlib.nullcontext():
                loss = step(*batch(n, i + 10 * part))
        optimizer.step()
        found.append((loss.item(), optimizer.arena.sha256(), [b.tolist() for _, b in model.named_buffers()]))
    return found


def replace(model):
    model.layers[3] = nn.Dropout(0.7)


@pytest.mark.parametrize(
    "options",
    [{}, {"change": nn.Module.eval}, {"change": replace}, {"accumulate": 2}, {"keyed": False}],
    ids=["as it is", "eval", "another layer", "two backwards a step", "one stream"],
)
def test_draws_and_running_statistics_have_the_same_bits(options, device):
    assert trained(ag.capture, **options) == trained(lambda f: f, **options)


@pytest.mark.skipif(REAL, reason="a real device does not count")
def test_a_replay_is_one_launch_and_few_copies_and_nobody_waits(device):
    model = network()
    optimizer = optim.SGD(model, lr=0.1, momentum=0.9)
    step = ag.capture(lambda x, y: ag.cross_entropy(model(x), y).backward())
    for i in range(3):
        optimizer.zero_grad()
        with random.keyed(i):
            step(*batch(6, i))
    arrays = batch(6, 4)
    device.reset()
    optimizer.zero_grad()
    with random.keyed(4), device.no_waits():
        step(*arrays)
    assert device.launches["graph"] == 1 and sum(device.launches.values()) <= 4, device.launches


def test_hooks_are_called_in_the_order_of_the_gradients():
    model, seen = network(), []
    optimizer = optim.SGD(model, lr=0.1)
    for name, p in model.named_parameters():
        p.register_hook(lambda leaf, name=name: seen.append((name, leaf.grad.sum().item())))
    f = lambda x, y: ag.cross_entropy(model(x), y).backward()
    orders = []
    for step in (f, ag.capture(f)):
        optimizer.zero_grad()
        seen.clear()
        with random.keyed(0):
            step(*batch(6, 0))
        orders.append([*seen])
    assert orders[0] == orders[1] and len(orders[0]) == len(optimizer.arena.leaves)


W = np.arange(24.0, dtype="f").reshape(8, 3)
REFUSED = {
    "decides by a value, for which the host would wait": lambda x, w: x @ w if x.sum() > 0 else w,
    "takes values as Python numbers .*item": lambda x, w: x @ w * x.sum().item(),
    "copies values to the host, which would wait for them": lambda x, w: x @ w * len(x.cpu()),
    "takes from torch's nonzero a result whose shape": lambda x, w: x[torch.nonzero(x[:, 0])[:, 0]] @ w,
    "draws random numbers on the host": lambda x, w: x @ w + ag.rand(3).to(PLACE),
    "draws random numbers by torch's rand_like": lambda x, w: torch.rand_like(x) @ w,
    "writes to an array made elsewhere": lambda x, w: x.mul_(2.0) @ w,
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_no_graph_can_hold_is_refused(text, device):
    w = ag.tensor(ag.tensor(W).to(PLACE).data, requires_grad=True)
    with pytest.raises(RuntimeError, match="^cannot be captured: .*" + text):
        ag.capture(lambda x: REFUSED[text](x, w).sum().backward())(batch(6, 0)[0])
    assert w.grad is None


@pytest.mark.skipif(REAL, reason="a capture that fails on purpose")
def test_a_capture_that_fails_is_told_in_one_sentence(device, monkeypatch):
    @contextlib.contextmanager
    def fails(*args, **options):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    model, arrays = network(), batch(6, 0)
    before = [b.tolist() for _, b in model.named_buffers()]
    step = ag.capture(lambda x, y: ag.cross_entropy(model(x), y).backward())
    with pytest.raises(
        RuntimeError, match=r"^cannot be captured: a CUDA graph cannot hold this function: operation not"
    ):
        step(*arrays)
    assert [b.tolist() for _, b in model.named_buffers()] == before


def test_graphs_of_a_thread_share_their_memory(device):
    step = ag.capture(lambda x, y: ag.cross_entropy(model(x), y).backward())
    model = network()
    optim.SGD(model, lr=0.1)
    module._pools.clear()
    for n in (4, 5, 6):
        step(*batch(n, n))
    assert len(module._pools) == 1


def test_a_result_stays_what_it_was_when_the_graph_runs_again(device):
    model = network()
    optimizer = optim.SGD(model, lr=0.1)

    def f(x, y):
        loss = ag.cross_entropy(model(x), y)
        loss.backward()
        return loss

    step = ag.capture(f)
    first = step(*batch(6, 0))
    value = first.item()
    optimizer.zero_grad()
    assert step(*batch(6, 1)).item() != value and first.item() == value
