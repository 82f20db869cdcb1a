"""Arenas: parameters and gradients in one array each, what rides behind the gradients, copies, half precision."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arena import EXTRAS, arena_of
from allgrad.autograd.random import generator
from tests.autograd.networks import Net

X = generator("nn").standard_normal((7, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_aligned_views_of_the_arena_with_their_values_and_gradients(dtype):
    net = Net().to(dtype)
    before = net.state_dict()
    (net(np.ones((3, 4), dtype)) ** 2).sum().backward()
    gradients = {name: p.grad.copy() for name, p in net.named_parameters()}
    arena, extras = ag.Arena(net), EXTRAS + len(gradients)
    assert arena.dtype == dtype and np.shares_memory(arena.grad, arena.message) and arena.extras.size == extras
    assert arena.message.size == arena.data.size + extras and arena.message.flags.c_contiguous
    for name, p in net.named_parameters():
        assert np.shares_memory(p.data, arena.data) and np.shares_memory(p.grad, arena.grad)
        assert p.data.ctypes.data % 64 == p.grad.ctypes.data % 64 == 0
        assert p.data.strides == p.grad.strides
        np.testing.assert_array_equal(p.data, before[name])
        np.testing.assert_array_equal(p.grad, gradients[name])
        np.testing.assert_array_equal(arena.unflatten(arena.grad)[name], p.grad)
    assert net.first.weight.data.T.flags.c_contiguous
    arena.unflatten(arena.data)["first.bias"][...] = 7.0
    assert net.first.bias.tolist() == [7.0] * 4


RULES = [
    lambda m: optim.SGD(m, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    lambda m: optim.Adam(m, 0.1, weight_decay=0.1),
    lambda m: optim.AdamW(m, 0.1),
    lambda m: optim.Adagrad(m, 0.1, weight_decay=0.1),
]


@pytest.mark.parametrize("rule", RULES, ids=["SGD", "Adam", "AdamW", "Adagrad"])
def test_padding_stays_zero_through_training(rule):
    net = Net()
    optimizer = rule(net)
    gaps = np.ones(optimizer.arena.data.size, bool)
    for span in optimizer.arena.spans.values():
        gaps[span] = False
    assert gaps.sum() > 0
    for _ in range(3):
        optimizer.zero_grad()
        (net(X[:4, 0].repeat(2, 1)[:, :4]) ** 2).sum().backward()
        optimizer.step()
        for flat in (optimizer.arena.data, optimizer.arena.grad, *optimizer.state.values()):
            assert not flat[gaps].any() and flat[~gaps].any()


def test_sha256_is_that_of_the_bytes_in_sorted_name_order():
    net = Net()
    state = {k: a for k, a in net.state_dict().items() if k not in ("tied.weight", "shift")}
    expected = hashlib.sha256(b"".join(state[name].astype("<f4").tobytes() for name in sorted(state))).hexdigest()
    assert arena_of(net).sha256() == expected
    assert ag.Arena({k: nn.Parameter(a) for k, a in reversed(state.items())}).sha256() == expected
    net.scale.assign(np.nextafter(np.float32(2), np.float32(3)))
    assert arena_of(net).sha256() != expected


def test_an_arena_takes_dicts_lists_and_iterators_and_keeps_tied_and_frozen_ones_apart():
    p, q, frozen = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(2)), ag.tensor([1.0])
    assert list(ag.Arena({"p": p, "c": frozen, "p again": p, "q": q}).spans.items()) == [
        ("p", slice(0, 3)), ("q", slice(16, 18)),
    ]  # fmt: skip
    assert list(ag.Arena(iter([p, q, p])).parameters) == ["parameter0", "parameter1"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_model_in_training_trains_by_itself(copied):
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    optimizer = optim.SGD(model, lr=0.1, momentum=0.9)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(X[:, 0]).sum().backward()
        optimizer.step()
        return optimizer.arena.sha256()

    step(model, optimizer)
    twin, twin_optimizer = copied((model, optimizer))
    assert twin.arena is twin_optimizer.arena is not model.arena
    before = model.arena.sha256()
    after = step(twin, twin_optimizer)
    assert model.arena.sha256() == before != after == step(model, optimizer)
    np.testing.assert_array_equal(twin[0].weight.data, model[0].weight.data)


def test_a_model_in_half_precision_may_change_to_another_half_and_be_copied():
    model = nn.Linear(3, 2).to(device="cpu")
    optim.SGD(model, lr=0.1)
    model.compute_in("bfloat16")
    model.compute_in("float16")
    twin = copy.deepcopy(model)
    for one in (model, twin):
        optimizer, before = optim.SGD(one, lr=0.1), one.state_dict()["weight"]
        assert (one.weight.dtype, optimizer.arena.data.dtype) == (torch.float16, torch.float32)
        one(torch.ones(4, 3, dtype=torch.float16)).sum().backward()
        optimizer.step()
        assert (one.state_dict()["weight"] != before).all()
    assert model.arena.sha256() == twin.arena.sha256()


def leaf(*shape, name="x", dtype="float64"):
    return ag.tensor(generator(name, *shape).standard_normal(shape), requires_grad=True, dtype=dtype, name=name)


def test_an_unused_parameter_gets_zero_and_its_hook_from_finish():
    used, unused = leaf(3, name="used"), leaf(2, name="unused")
    arena, fired = ag.Arena({"used": used, "unused": unused}), []
    for p in (used, unused):
        p.register_hook(lambda leaf: fired.append(leaf.name))
    for _ in range(2):
        arena.grad[arena.spans["unused"]] = 7.0  # what an earlier step left behind
        arena.zero_grad()
        assert used.grad is None and unused.grad is None
        (used * 2.0).sum().backward()
        assert unused.grad is None
        arena.zero_missing_grads()
        np.testing.assert_array_equal(unused.grad, np.zeros(2))
        np.testing.assert_array_equal(used.grad, np.full(3, 2.0))
    assert fired == ["used", "unused"] * 2


def test_an_optimizer_follows_the_gradients_to_other_memory():
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model, lr=1.0)
    optimizer.zero_grad()
    optimizer.step()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    message = np.zeros_like(model.arena.message)
    model.arena.adopt_buffer(message)
    optimizer.zero_grad()
    (model(np.ones((1, 3), np.float32)).sum() * 2.0).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert np.shares_memory(p.grad, message)
        assert np.array_equal(p.numpy(), before[name] - 2.0)


class Chain(nn.Module):
    """A list and a dict of layers, a tied weight."""

    def __init__(self):
        self.layers, self.more = [nn.Linear(3, 3)], {}
        self.first, self.tied = nn.Linear(3, 3), nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.spare = (lambda layer: lambda: layer)(nn.Linear(3, 3))

    def __call__(self, x):
        for layer in (*self.layers, *self.more.values(), self.first, self.tied, self.frozen):
            x = layer(x)
        return (x * x).mean()


LATER = {  # what is done to the model after its optimizer was made, and which parameter is named
    "appended": (lambda m: m.layers.append(nn.Linear(3, 3)), "'layers.1.weight'"),
    "made before": (lambda m: m.layers.append(m.spare()), "'layers.1.weight'"),
    "a copy": (lambda m: m.layers.append(copy.deepcopy(m.layers[0])), "'layers.1.weight'"),
    "unpickled": (lambda m: m.layers.append(pickle.loads(pickle.dumps(m.first))), "'layers.1.weight'"),
    "in a dict": (lambda m: m.more.update(a=nn.Linear(3, 3)), "'more.a.weight'"),
    "weight replaced": (lambda m: setattr(m.first, "weight", nn.Parameter(np.eye(3))), "'first.weight'"),
    "module replaced": (lambda m: setattr(m, "first", nn.Linear(3, 3)), "'first.weight'"),
    "untied": (lambda m: setattr(m.tied, "weight", nn.Parameter(m.first.weight.data)), "'tied.weight'"),
    "unfrozen": (lambda m: m.frozen.requires_grad_(), "'frozen.weight'"),
    "frozen": (lambda m: m.first.requires_grad_(False), "was frozen"),
}


@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters()], ids=["module", "parameters"])
@pytest.mark.parametrize("change", LATER)
def test_a_model_that_changes_after_its_optimizer_was_made_is_refused(change, owner):
    model = Chain()
    optimizer = optim.Adam(owner(model), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(X[:, 0]).backward()
        optimizer.step()

    step()
    act, named = LATER[change]
    act(model)
    with pytest.raises(RuntimeError, match=named):
        step()
    optimizer = optim.Adam(owner(model), lr=0.1)
    step()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.layers.clear(),
        lambda m: setattr(m.layers[0], "weight", m.first.weight),
        lambda m: setattr(m.first, "bias", None),
        lambda m: [
            m.requires_grad_(False),
            m.first.requires_grad_(),
            m.tied.requires_grad_(),
            m.layers[0].requires_grad_(),
        ],
        lambda m: m.more.update(a=nn.Linear(3, 3).requires_grad_(False)),
        lambda m: setattr(m, "other", optim.SGD(m.more.setdefault("a", nn.Linear(3, 3)), lr=0.1)),
    ],
    ids=["removed", "tied", "without bias", "frozen for a while", "a frozen layer", "another optimizer"],
)
def test_a_change_that_leaves_nothing_out_is_not(change):
    model = Chain()
    optimizer = optim.SGD(model, lr=0.1)
    change(model)
    before = model.tied.weight.data.copy()
    model(X[:, 0]).backward()
    optimizer.step()
    assert (model.tied.weight.data != before).any()


def test_a_weight_frozen_by_detach_stays_while_its_old_optimizer_goes_on():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = optim.SGD(model, lr=0.1, momentum=0.9, weight_decay=0.1)

    def step():
        optimizer.zero_grad()
        model(X[:, 0]).sum().backward()
        optimizer.step()

    step()
    model[0].weight = model[0].weight.detach()
    before = model.state_dict()
    step()
    assert [name for name, a in model.state_dict().items() if (a == before[name]).all()] == ["0.weight"]
