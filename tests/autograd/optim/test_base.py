"""What every optimizer promises: groups, state, who owns the parameters, and what a step's bits depend on."""

import copy
import json

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.optim import base
from tests.autograd.optim.training import GROUPS, LABELS, X, close, each_rule, make, model_and_twin, train, train_torch


def test_neighbours_of_equal_hyperparameters_share_a_run():
    model, _ = model_and_twin()
    for groups, runs in [({}, 1), ({"*.bias": {"lr_scale": 1.0}}, 1), ({"4.*": {"l1": 1.0}}, 2), (GROUPS, 5)]:
        optimizer = optim.Adam(model, weight_decay=0.1, groups=groups)
        assert len(optimizer.runs) == runs
        assert [span.start for span, _ in optimizer.runs[1:]] == [span.stop for span, _ in optimizer.runs[:-1]]
        assert (optimizer.runs[0][0].start, optimizer.runs[-1][0].stop) == (0, optimizer.arena.data.size)


@pytest.mark.parametrize(
    "owner", [lambda m: m, ag.Arena, lambda m: optim.SGD(m, 0.1), lambda m: dict(m.named_parameters())]
)
def test_no_decay_names_biases_and_normalisation(owner):
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3, bias=False))
    groups = optim.no_decay(owner(model), adapt=False)
    assert list(groups) == ["0.bias", "1.weight", "1.bias"]
    assert all(given == {"weight_decay": 0.0, "l1": 0.0, "adapt": False} for given in groups.values())
    optimizer = optim.LARS(model, 0.1, weight_decay=0.1, groups=groups)
    assert [(h.weight_decay, h.adapt) for _, h in optimizer.runs] == [(0.1, True), (0.0, False), (0.1, True)]


@each_rule
def test_the_length_of_chunks_changes_no_bit(name, options, monkeypatch):
    hashes = set()
    for chunk in (base.CHUNK_ELEMENTS, 5, 64, 1):
        monkeypatch.setattr(base, "CHUNK_ELEMENTS", chunk)
        model, optimizer = make(name, options, "float32")
        train(model, optimizer, 5)
        hashes.add(optimizer.arena.sha256())
    assert len(hashes) == 1


@each_rule
def test_a_step_leaves_gradients_as_they_are(name, options):
    model, optimizer = make(name, options)
    ag.cross_entropy(model(X), LABELS).backward()
    before = optimizer.arena.grad.copy()
    optimizer.step()
    np.testing.assert_array_equal(optimizer.arena.grad, before)
    assert next(model.parameters()).grad is not None


def test_a_graph_of_the_values_before_a_step_is_refused():
    model, optimizer = make("SGD", {"lr": 0.1})
    loss = ag.cross_entropy(model(X), LABELS)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"^'4.weight' was modified in place after 'linear' used it: run backward"):
        loss.backward()


@each_rule
def test_a_restored_state_continues_exactly(name, options):
    model, optimizer = make(name, options)
    train(model, optimizer, 4)
    state, weights = optimizer.state_dict(), model.state_dict()
    kept = copy.deepcopy(state)
    train(model, optimizer, 4)
    more = {"left", "right", "left_basis", "right_basis", "sums"}  # of SOAP, and of schedule-free rules
    assert state["steps"] == 4 and state.keys() - {"steps"} - more == optimizer.state.keys()
    for key in optimizer.state:
        assert {n: a.shape for n, a in state[key].items()} == {n: p.shape for n, p in model.named_parameters()}
        for n, a in state[key].items():
            assert a.flags.c_contiguous
            np.testing.assert_array_equal(a, kept[key][n])
    other, again = make(name, options)
    train(other, again, 1)
    other.load_state_dict(weights)
    again.load_state_dict(state)
    train(other, again, 4)
    assert other.arena.sha256() == model.arena.sha256() and again.steps == 8


@each_rule
def test_numpy_scalars_are_the_same_hyperparameters(name, options):
    hashes = set()
    for number, lr in [(float, float), (np.float64, np.float64), (np.float64, lambda x: lambda step: np.float64(x))]:
        numbers = lambda o: {
            key: numbers(x) if type(x) is dict else number(x) if type(x) is float else x for key, x in o.items()
        }
        given = numbers(options)
        model, optimizer = make(name, {**given, "lr": lr(options.get("lr", 0.01))}, "float32")
        train(model, optimizer, 3)
        hashes.add(optimizer.arena.sha256())
    assert len(hashes) == 1


def test_a_parameter_without_gradient_takes_a_step_with_gradient_zero():
    used, unused = nn.Parameter([1.0, 1.0]), nn.Parameter([2.0])
    optimizer = optim.SGD({"used": used, "unused": unused}, lr=0.5, momentum=0.5, weight_decay=0.5)
    for expected in (1.5, 1.0 - 0.125):
        optimizer.zero_grad()
        used.sum().backward()
        optimizer.step()
        assert unused.tolist() == [expected]


def test_owners_of_parameters():
    class Holder:
        def __init__(self, model):
            self.arena = ag.Arena(model)

    hashes = set()
    for owner in (lambda m: m, ag.Arena, Holder, lambda m: dict(m.named_parameters()), lambda m: list(m.parameters()),
                  lambda m: m.parameters()):  # fmt: skip
        model, _ = model_and_twin()
        train(model, optim.SGD(owner(model), lr=0.1), 3)
        hashes.add(ag.Arena(model).sha256())
    assert len(hashes) == 1
    model, _ = model_and_twin()
    first, second = optim.SGD(model[0], lr=0.1), optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.1)
    for _ in range(3):
        for optimizer in (first, second):
            optimizer.zero_grad()
        ag.cross_entropy(model(X), LABELS).backward()
        for optimizer in (first, second):
            optimizer.step()
    assert ag.Arena(model).sha256() in hashes


def test_one_arena_serves_several_optimizers_of_a_module_in_turn():
    model, twin = model_and_twin()
    train(model, optim.SGD(model, lr=0.1), 3)
    train(model, optim.Adam(model, lr=0.1), 3)
    train_torch(twin, torch.optim.SGD(twin.parameters(), lr=0.1), 3)
    train_torch(twin, torch.optim.Adam(twin.parameters(), lr=0.1), 3)
    close(model, twin)


@each_rule
def test_a_copy_goes_on_by_itself(name, options):
    model, optimizer = make(name, options)
    train(model, optimizer, 2)
    twin, again = copy.deepcopy((model, optimizer))
    train(model, optimizer, 2)
    train(twin, again, 2)
    assert twin.arena is again.arena is not model.arena and twin.arena.sha256() == model.arena.sha256()


def test_an_optimizer_made_after_a_layer_was_exchanged_trains_the_new_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    optim.SGD(model, lr=0.1)
    model[1] = nn.Linear(2, 5)
    before = model[1].weight.data.copy()
    optimizer = optim.SGD(model, lr=0.1)
    (model(np.ones((4, 2), "f4")) ** 2).sum().backward()
    norm = optim.grad_norm(model)
    optimizer.step()
    assert norm > 0 and (model[1].weight.data != before).any()


def test_a_parameter_frozen_after_an_optimizer_was_made_stays():
    model = nn.Linear(2, 2)
    optim.Adam(model, lr=0.1)
    model.weight = model.weight.detach()
    before = model.weight.data.copy()
    optimizer = optim.Adam(model, lr=0.1, weight_decay=0.5)
    model(np.ones((4, 2), "f4")).sum().backward()
    optimizer.step()
    assert (model.weight.data == before).all()


# --- groups as in torch --------------------------------------------------------------------------------------------


def two_groups(model, linear):
    return [{"params": model[0].parameters()}, {"params": [*model[2].parameters(), *model[4].parameters()], **linear}]


@pytest.mark.parametrize(("rule", "options", "second"), [
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {"lr": 0.02, "weight_decay": 0.1}),
    ("Adam", {}, {"lr": 0.03, "betas": (0.5, 0.9), "amsgrad": True}),
    ("Adagrad", {"lr": 0.1}, {"lr_decay": 0.1}),
])  # fmt: skip
def test_a_list_of_groups_trains_as_in_torch_and_may_be_changed_on_the_way(rule, options, second):
    model, twin = model_and_twin()
    ours = getattr(optim, rule)(two_groups(model, second), **options)
    theirs = getattr(torch.optim, rule)(two_groups(twin, second), **options)
    for factor in (1.0, 0.5, 0.1):
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] *= factor
            optimizer.param_groups[1]["weight_decay"] = 0.05
        train(model, ours, 5)
        train_torch(twin, theirs, 5)
    close(model, twin)
    for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [p.shape for p in group["params"]] == [tuple(p.shape) for p in other["params"]]
        assert all(group[key] == pytest.approx(other[key]) for key in group.keys() & other.keys() - {"params"})


def test_one_group_follows_a_schedule_until_its_rate_is_set():
    model, _ = model_and_twin()
    optimizer = optim.SGD(model, lr=lambda step: 0.1 / (1 + step))
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()] and group["lr"] == 0.1
    train(model, optimizer, 1)
    assert group["lr"] == 0.05
    group["lr"] = 0.7
    train(model, optimizer, 1)
    assert group["lr"] == 0.7 and dict(group)["momentum"] == 0.0 and len(group) == len([*group])


def test_what_was_set_in_groups_is_part_of_the_state():
    model, _ = model_and_twin()
    first, second = (
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.2}] for _ in range(2)
    )
    optimizer = optim.Adam(first, lr=0.1)
    assert "groups" not in optimizer.state_dict() and optimizer.current_lr == 0.1
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    optimizer.param_groups[1]["betas"] = (0.5, 0.6)
    state = json.loads(json.dumps(optimizer.state_dict()["groups"]))
    again = optim.Adam(second, lr=0.1)
    again.load_state_dict({**optimizer.state_dict(), "groups": state})
    assert [group["lr"] for group in again.param_groups] == [0.05, 0.1] and again.current_lr == 0.05
    assert again.param_groups[1]["betas"] == (0.5, 0.6)
    with pytest.raises(ValueError, match="Adam has 1 groups of parameters, and the state is that of 2"):
        optim.Adam([{"params": [*model[0].parameters(), *model[2].parameters()]}]).load_state_dict(
            {**optimizer.state_dict(), "groups": state}
        )


def test_groups_that_cannot_be():
    model, _ = model_and_twin()
    weight = model[0].weight
    for owner, error, text in [
        ([{"params": [weight]}, {"params": [weight]}], ValueError, "in a group already"),
        ([{"params": [weight], "momentun": 0.5}], ValueError, "group 0 sets 'momentun', which is none of"),
        ([{"lr": 0.5}], TypeError, "dicts with 'params'"),
        ([{"params": [weight]}, weight], TypeError, "as number 1"),
    ]:
        with pytest.raises(error, match=text):
            optim.SGD(owner, lr=0.1)
    (group,) = optim.SGD(model, lr=0.1).param_groups
    for key, value, error, text in [
        ("momentum", 0.9, ValueError, "needs the state 'momentum': give it to the constructor"),
        ("lr", -1.0, ValueError, "lr is a finite number of at least 0"),
        ("speed", 1.0, ValueError, "'speed' cannot be set"),
        ("params", [], ValueError, "'params' cannot be set"),
    ]:
        with pytest.raises(error, match=text):
            group[key] = value
    with pytest.raises(ValueError, match="keeps its 'lr'"):
        del group["lr"]
    assert group["momentum"] == 0.0 and group["lr"] == 0.1


def test_a_closure_computes_the_gradients_and_its_loss_is_returned():
    w = nn.Parameter([2.0], dtype="float64")
    optimizer = optim.SGD({"w": w}, lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0 and w.data == 0.0


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "LAMB", "RAdam", "Adadelta"])
def test_parameters_of_extended_precision_take_a_step(name):
    w = nn.Parameter(np.ones(3), dtype=np.longdouble)
    (w * 2.0).sum().backward()
    getattr(optim, name)({"w": w}, lr=0.5).step()
    assert w.dtype == np.longdouble and (w.data < 1.0).all()
