"""Modules: what they hold and under which names, how they start, what torch makes of their state, and their arena."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd import init
from allgrad.autograd.arena import EXTRAS, arena_of
from allgrad.autograd.random import generator, keyed

X = generator("nn").standard_normal((7, 2, 3)).astype(np.float32)
STRUCTURES = [
    lambda n: n.Sequential(n.Flatten(), n.Linear(6, 5), n.ReLU(), n.Linear(5, 4, bias=False), n.LogSoftmax(dim=1)),
    lambda n: n.Sequential(n.Linear(3, 4), n.Sequential(n.Tanh(), n.Dropout(0.0), n.Linear(4, 2)), n.Sigmoid()),
    lambda n: n.Sequential(n.Linear(3, 1), n.LeakyReLU(0.2), n.Linear(1, 3), n.Softmax(dim=-1), n.LeakyReLU()),
]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_states_travel_to_torch_and_back(structure):
    model, twin = structure(nn), structure(torch.nn)
    assert list(model.state_dict()) == list(twin.state_dict()) == [name for name, _ in model.named_parameters()]
    twin.load_state_dict({name: torch.tensor(a) for name, a in model.state_dict().items()})
    other = structure(nn)
    other.load_state_dict(twin.state_dict())
    expected = twin(torch.tensor(X))
    expected.square().sum().backward()
    for ours in (model, other):
        y = ours(X)
        (y * y).sum().backward()
        np.testing.assert_allclose(y.data, expected.detach(), rtol=1e-5, atol=1e-6)
        for p, q in zip(ours.parameters(), twin.parameters()):
            np.testing.assert_allclose(p.grad, q.grad, rtol=1e-4, atol=1e-5)


# --- modules -----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Everything a walk meets: lists, dicts, tuples, a nested module, a tied weight, a constant, a frozen tensor."""

    def __init__(self):
        self.first = nn.Linear(4, 4)
        self.blocks = [nn.Linear(4, 4, bias=False), {"a": nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), 2: (nn.ReLU(),)}]
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.scale = nn.Parameter(2.0)
        self.shift = ag.tensor([1.0, 2.0])
        self.width, self.label, self.again = 4, "net", self.blocks

    def __call__(self, x):
        linear, rest = self.blocks
        return self.tied(rest["a"](linear(self.first(x)))) * self.scale


def test_parameters_are_found_once_in_order_of_definition():
    names = ["first.weight", "first.bias", "blocks.0.weight", "blocks.1.a.1.weight", "blocks.1.a.1.bias", "tied.bias"]
    net = Net()
    assert [name for name, _ in net.named_parameters()] == [*names, "scale"]
    assert list(net.state_dict()) == [*names[:5], "tied.weight", "tied.bias", "scale", "shift"]
    assert len(list(net.parameters())) == 7
    kinds = [type(m).__name__ for m in net.modules()]
    assert kinds == ["Net", "Linear", "Linear", "Sequential", "Tanh", "Linear", "ReLU", "Linear"]
    arena = arena_of(net)
    assert list(arena.parameters) == [*names, "scale"] == [p.name for p in net.parameters()] and arena_of(net) is arena


def test_state_dict_is_a_copy_in_c_order_and_loading_is_all_or_nothing():
    net, other = Net(), Net()
    state = net.state_dict()
    assert all(a.flags.c_contiguous and a.flags.owndata for a in state.values())
    other.load_state_dict(state)
    np.testing.assert_array_equal(net(np.eye(4, dtype="f")).data, other(np.eye(4, dtype="f")).data)
    y = other(np.eye(4, dtype="f")).sum()
    for bad in ({**state, "extra": 0}, {**state, "scale": np.ones(2)}, {k: state[k] for k in list(state)[:-1]}):
        bad["first.weight"] = np.zeros((4, 4))
        with pytest.raises(ValueError, match="load_state_dict"):
            other.load_state_dict(bad)
    np.testing.assert_array_equal(other.first.weight.data, state["first.weight"])
    other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="modified in place"):
        y.backward()


def test_sequential_is_a_sequence_and_a_subclass_may_hold_more():
    class Tail(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 3), nn.ReLU())
            self.head = nn.Linear(3, 1, bias=False)

        def __call__(self, x):
            return self.head(super().__call__(x))

    model = Tail()
    assert len(model) == 2 and list(model) == [model[0], model[1]] and isinstance(model[-1], nn.ReLU)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "head.weight"]
    assert model(np.ones((5, 2), "f")).shape == (5, 1)


def test_train_and_eval_reach_every_module_and_switch_dropout():
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.5)), nn.ReLU())
    x = np.ones((50, 50), "f")
    assert all(m.training for m in model.modules())
    assert model.eval() is model and not any(m.training for m in model.modules())
    np.testing.assert_array_equal(model(x).data, x)
    assert model.train() is model and all(m.training for m in model.modules())
    assert 0.0 in model(x).data


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_keeps_the_mean_and_depends_on_the_key_alone(p):
    def draw(*key):
        with keyed(*key):
            return nn.Dropout(p)(ag.tensor(np.ones((300, 100)))).data

    y, n = draw("a"), 30_000
    kept = y[y > 0.0]
    assert abs(kept.size - n * (1 - p)) <= 4.0 * np.sqrt(n * p * (1 - p))
    np.testing.assert_allclose(kept, 1.0 / (1.0 - p) if p < 1.0 else [], rtol=2.0**-12)
    np.testing.assert_array_equal(y, draw("a"))
    assert p in (0.0, 1.0) or (y != draw("b")).any()


def test_manual_seed_repeats_weights_and_masks():
    def draw(seed):
        ag.manual_seed(seed)
        layers = nn.Linear(3, 4), nn.Linear(3, 4)
        return [*(p.data.tolist() for layer in layers for p in layer.parameters()), ag.dropout(np.ones(20)).tolist()]

    assert draw(1) == draw(1) == draw(np.int64(1)) != draw(2)
    first = draw(1)
    assert first[0] != first[2]


def test_to_zero_grad_and_parameter():
    model = nn.Linear(3, 2)
    model(np.ones((1, 3), "f")).sum().backward()
    assert model.weight.grad is not None
    model.zero_grad()
    assert model.weight.grad is None and model.to("float64") is model
    model(np.ones((1, 3))).sum().backward()
    assert model.weight.dtype == model.weight.grad.dtype == np.float64
    array = np.arange(6.0).reshape(2, 3).T
    p = nn.Parameter(array)
    assert p.dtype == np.float32 and p.data.flags.f_contiguous and p.requires_grad and p.tolist() == array.tolist()
    assert nn.Parameter(1, dtype="float64").shape == () and model.weight.data.T.flags.c_contiguous


# --- initial weights ---------------------------------------------------------------------------------------------

INITS = [
    (init.zeros, 0.0, 0.0), (init.normal(0.3), 0.09, None), (init.uniform(0.6), 0.12, 0.6),
    (init.gaussian, 1 / 1200, None), (init.torch_default, 1 / 3600, (1 / 1200) ** 0.5),
    (init.kaiming, 2 / 1200, None), (init.kaiming_uniform, 2 / 1200, (6 / 1200) ** 0.5),
    (init.xavier, 2 / 1800, None), (init.xavier_uniform, 2 / 1800, (6 / 1800) ** 0.5),
]  # fmt: skip


@pytest.mark.parametrize("rule, variance, bound", INITS)
def test_initial_weights_have_the_documented_variance(rule, variance, bound):
    shape = (150, 300, 2, 2)  # fan_in 1200, fan_out 600
    w = rule(shape, np.random.default_rng(3))
    assert w.shape == shape and init.fans(shape) == (1200, 600)
    assert abs(w.var() - variance) <= 0.02 * variance and abs(w.mean()) <= 5 * np.sqrt(variance / w.size)
    if bound is None:
        assert np.abs(w).max() > 3.5 * np.sqrt(variance)  # a Gaussian has tails
    else:
        assert 0.999 * bound <= np.abs(w).max() <= bound
    np.testing.assert_array_equal(w, rule(shape, np.random.default_rng(3)))


def test_linear_starts_as_asked():
    layer = nn.Linear(100, 50, rng=np.random.default_rng(0))
    for p in (layer.weight, layer.bias):
        assert 0.08 < np.abs(p.data).max() <= 0.1
    layer, again = (nn.Linear(100, 50, init=init.kaiming, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(layer.weight.data, again.weight.data)
    np.testing.assert_array_equal(layer.weight.data, init.kaiming((50, 100), np.random.default_rng(5)).astype("f"))
    assert not layer.bias.data.any() and nn.Linear(2, 3, bias=False).bias is None


# --- arenas ------------------------------------------------------------------------------------------------------


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
