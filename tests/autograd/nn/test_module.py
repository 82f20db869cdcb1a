"""Modules: what they hold and under which names, how they are switched, and what torch makes of their state."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arena import arena_of
from allgrad.autograd.random import generator
from tests.autograd.networks import Net

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


def test_module_list_names_its_modules_by_position():
    def build(nn):
        net = nn.Module()
        net.layers = nn.ModuleList([nn.Linear(2, 3)])
        assert net.layers.append(nn.ReLU()) is net.layers
        assert net.layers.extend([nn.Linear(3, 1, bias=False), nn.Tanh()]) is net.layers
        net.layers[3] = nn.Sequential(nn.Linear(1, 4))
        return net

    mine, other = build(nn), build(torch.nn)
    assert list(mine.state_dict()) == list(other.state_dict()) == [
        "layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.3.0.weight", "layers.3.0.bias",
    ]  # fmt: skip
    assert len(mine.layers) == 4 and [*mine.layers][2] is mine.layers[-2] is mine.layers[1:3][1]
    assert type(mine.layers[1:]) is nn.ModuleList and type(mine.layers[3][:1]) is nn.Sequential
    mine.eval()
    assert not mine.layers[1].training
    with pytest.raises(TypeError, match="ModuleList defines no __call__"):
        mine.layers(np.ones((1, 2)))


def test_tied_weights_have_all_their_names_in_the_state_as_in_torch():
    def make(nn):
        model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
        model[1].weight = model[0].weight
        return model

    mine, other = make(nn), make(torch.nn)
    other.load_state_dict({name: torch.from_numpy(a) for name, a in mine.state_dict().items()}, strict=True)
    assert list(mine.state_dict()) == list(other.state_dict()) and len(dict(mine.named_parameters())) == 1
    other[0].weight.data += 1.0
    mine.load_state_dict({name: p.bfloat16() for name, p in other.state_dict().items()})
    np.testing.assert_allclose(mine[1].weight.data, other[1].weight.detach(), rtol=1e-2)
    mine.load_state_dict({**dict(other.named_parameters()), "1.weight": other[1].weight})


def test_what_a_module_keeps_of_its_calls_is_not_its_state():
    class Keeping(nn.Module):
        def __init__(self):
            self.fc, self.seen, self.shift = nn.Linear(2, 2), [], ag.tensor([1.0, 2.0])

        def __call__(self, x):
            self.last, self.y = x, self.fc(x)
            self.seen.append(x)
            return self.y

    model = Keeping()
    before = model.state_dict()
    for requires_grad in (False, True):
        model(ag.tensor(np.ones((1, 2), "f4"), requires_grad))
    assert list(model.state_dict()) == list(before) == ["fc.weight", "fc.bias", "shift"]
    assert [name for name, _ in model.named_parameters()] == ["fc.weight", "fc.bias"]
    assert [name for name, _ in model.named_buffers()] == ["shift"]
    model.load_state_dict(before)
    model.load_state_dict({**before, "last": np.zeros((1, 2))})  # of a time when all tensors were state
    assert model.last.tolist() == [[0.0, 0.0]]


def registered(nn, tensor):
    net = nn.Module()
    net.register_buffer("mean", tensor([1.0, 2.0]))
    net.register_buffer("cache", tensor([3.0]), persistent=False)
    net.register_buffer("later", None)
    net.later = tensor([4.0])
    net.register_parameter("absent", None)
    net.register_parameter("weight", nn.Parameter(tensor([5.0])))
    net.add_module("below", nn.Sequential(nn.Linear(1, 1)))
    net.register_module("none", None)
    net.mean = net.mean + 1.0
    return net


def test_what_is_registered_is_listed_as_in_torch():
    mine, other = registered(nn, ag.tensor), registered(torch.nn, torch.tensor)
    for listed in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        for options in ({}, {"prefix": "net"}, {"recurse": False}):
            if (listed, *options) in [("named_modules", "recurse"), *(("named_children", x) for x in options)]:
                continue
            names = [name for name, _ in getattr(mine, listed)(**options)]
            assert names == [name for name, _ in getattr(other, listed)(**options)], (listed, options)
    assert {*mine.state_dict(prefix="net.")} == {*other.state_dict(prefix="net.")}
    assert mine.state_dict()["mean"].tolist() == [2.0, 3.0] == mine.get_buffer("mean").tolist()
    assert mine.get_submodule("below.0") is mine.below[0] and mine.get_submodule("") is mine
    assert mine.get_parameter("below.0.bias") is mine.below[0].bias
    before = mine.state_dict()
    mine.mean = mine.mean * mine.weight  # a buffer that was computed
    mine.load_state_dict(before)
    assert mine.mean.tolist() == [2.0, 3.0] and not mine.mean.requires_grad
    del mine.mean
    assert "mean" not in mine.state_dict()


def test_apply_repr_and_types():
    def build(nn):
        return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Tanh()))

    def order(model):
        seen = []
        assert model.apply(lambda m: seen.append(type(m).__name__)) is model
        return seen

    class Scale(nn.Module):
        def __init__(self):
            self.layers = [nn.ReLU()]

        def extra_repr(self):
            return "factor=2"

    model = build(nn)
    assert order(model) == order(build(torch.nn))
    assert repr(nn.Sequential(Scale(), nn.Tanh())) == (
        "Sequential(\n  (0): Scale(\n    factor=2\n    (layers.0): ReLU()\n  )\n  (1): Tanh()\n)"
    )
    assert [str(getattr(model, name)()[0].weight.dtype) for name in ("double", "half", "float")] == [
        "float64", "float16", "float32",
    ]  # fmt: skip
    assert str(model.to("cpu").bfloat16()[0].bias.dtype) == "torch.bfloat16"
    assert isinstance(model[0].weight, nn.Parameter) and not isinstance(ag.tensor([1.0], True), nn.Parameter)


def test_load_state_dict_that_is_not_strict_says_what_was_left():
    def build(nn):
        return nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))

    mine, other = build(nn), build(torch.nn)
    state = {"0.weight": np.full((1, 2), 7.0, "f4"), "1.bias": np.zeros(1, "f4"), "extra": np.zeros(3)}
    found = mine.load_state_dict(state, strict=False)
    theirs = other.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()}, strict=False)
    assert [*found] == [sorted(theirs.missing_keys), theirs.unexpected_keys] and found.unexpected_keys == ["extra"]
    assert mine[0].weight.tolist() == [[7.0, 7.0]]
    with pytest.raises(ValueError, match="shape"):
        mine.load_state_dict({"0.weight": np.zeros(5)}, strict=False)
    assert mine.load_state_dict(mine.state_dict()) == ([], [])


def test_a_shared_module_is_saved_once_and_loaded_by_each_of_its_names():
    def build(nn):
        net = nn.Module()
        net.a = nn.Linear(2, 1)
        net.b = net.a
        return net

    mine, other = build(nn), build(torch.nn)
    assert list(mine.state_dict()) == ["a.weight", "a.bias"]
    mine.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(mine.b.weight.data, other.b.weight.detach())
    assert [name for name, _ in mine.named_modules(remove_duplicate=False)] == ["", "a", "b"]
    with pytest.raises(ValueError, match=r"'a.weight' and 'b.weight' are one tensor here, and have different values"):
        mine.load_state_dict({**mine.state_dict(), "b.weight": np.zeros((1, 2))})


def test_a_parameter_is_not_replaced_by_what_would_not_be_trained():
    model = nn.Linear(2, 1)
    before = model.weight
    with pytest.raises(TypeError, match="weight is a Parameter and cannot become a Tensor"):
        model.weight = model.weight - 0.1
    with pytest.raises(TypeError, match="cannot become a ndarray"):
        model.weight = np.zeros((1, 2))
    assert model.weight is before
    model.weight = nn.Parameter(np.zeros((1, 2)))
    model.bias = None
    assert [name for name, _ in model.named_parameters()] == ["weight"]


def test_what_is_frozen_stays_a_parameter_and_state():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    names = [name for name, _ in model.named_parameters()]
    assert model[0].requires_grad_(False) is model[0] and not model[0].weight.requires_grad
    model[1].bias = model[1].bias.detach()  # another way to freeze
    model.double()
    assert [name for name, _ in model.named_parameters()] == names[:3] and list(model.state_dict()) == names
    x = np.ones((1, 2))
    optimizer, before = optim.SGD(model, lr=0.1), model.state_dict()
    assert list(optimizer.arena.parameters) == ["1.weight"]
    model(x).sum().backward()
    optimizer.step()
    assert [name for name, a in model.state_dict().items() if (a != before[name]).any()] == ["1.weight"]
    for p in model.parameters():
        p.requires_grad = True
    assert list(optim.SGD(model, lr=0.1).arena.parameters) == names[:3]
    model(x).sum().backward()
    assert model[0].weight.grad.dtype == np.float64


def test_forward_and_call_are_one():
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2.0

    class Shifted(nn.Module):
        def forward(self, x):
            return x + 1.0

    class Called(Shifted):
        def __call__(self, x):
            return super().__call__(x) * 2.0

    class Again(Called):
        def forward(self, x):
            return super().forward(x) + 10.0

    x, model = np.ones((1, 2), "f4"), Doubled(2, 2)
    np.testing.assert_array_equal(model(x).data, 2.0 * nn.Linear.__call__(model, x).data)
    np.testing.assert_array_equal(model.forward(x).data, model(x).data)
    assert (Shifted().forward(1.0), Called()(1.0), Again()(1.0)) == (2.0, 4.0, 12.0)
    assert nn.ReLU().forward(x).tolist() == x.tolist()


def test_tensors_that_a_constructor_makes_to_be_trained_are_parameters():
    class Scaled(nn.Module):
        def __init__(self):
            self.scale = ag.tensor(2.0, requires_grad=True)

        def __call__(self, x):
            return x * self.scale

    model = Scaled()
    optimizer = optim.SGD(model, lr=1.0)
    model(3.0).backward()
    optimizer.step()
    assert model.scale.item() == -1.0 and list(model.state_dict()) == ["scale"]


def test_to_takes_what_torch_takes():
    model = nn.Linear(2, 2).to("cpu")
    assert model.to(torch.float64).weight.dtype == torch.float64
    assert model.to("numpy").to(np.float32).weight.dtype == np.float32
    with pytest.raises(TypeError, match="parameters have a floating dtype"):
        model.to("int64")
