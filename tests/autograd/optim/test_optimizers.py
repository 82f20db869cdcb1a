"""Optimizers: whole training runs beside torch.optim or the paper in float64, and what an optimizer promises."""

import copy
import math

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arrays import cast_like
from allgrad.autograd.optim import base
from allgrad.autograd.random import generator

X = generator("optim").standard_normal((12, 6))
LABELS = np.arange(12) % 3
W = np.array([2.0, -3.0, 0.0, 0.5])


def rule(name, **options):
    return name, options


OF_TORCH = [
    rule("SGD", lr=0.3),
    rule("SGD", lr=0.3, weight_decay=0.1),
    rule("SGD", lr=0.1, momentum=0.9),
    rule("SGD", lr=0.1, momentum=0.9, weight_decay=0.1),
    rule("SGD", lr=0.1, momentum=0.9, nesterov=True),
    rule("SGD", lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
    rule("Adam"),
    rule("Adam", lr=0.05, betas=(0.8, 0.95), eps=1e-3),
    rule("Adam", lr=0.05, weight_decay=0.1),
    rule("AdamW"),
    rule("AdamW", lr=0.05, weight_decay=0.3, betas=(0.0, 0.9)),
    rule("AdamW", lr=0.05, weight_decay=0.0),
    rule("Adagrad"),
    rule("Adagrad", lr=0.1, eps=1e-3, weight_decay=0.1),
    rule("RMSprop"),
    rule("RMSprop", alpha=0.9, eps=1e-3, weight_decay=0.1),
    rule("RMSprop", momentum=0.9, weight_decay=0.1),
    rule("RMSprop", alpha=0.9, centered=True),
    rule("RMSprop", alpha=0.9, eps=1e-6, momentum=0.5, centered=True, weight_decay=0.1),
]
OF_PAPERS = [
    rule("LARS", lr=20.0, momentum=0.0),
    rule("LARS", lr=20.0, weight_decay=0.1),
    rule("LARS", lr=0.5, momentum=0.5, trust=0.1, weight_decay=0.01),
    rule("LARS", lr=0.1, weight_decay=0.01, adapt=False),
    rule("LAMB", lr=0.01),
    rule("LAMB", lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.0),
    rule("LAMB", lr=0.05, weight_decay=0.3, adapt=False),
]
GROUPS = {"*.bias": {"weight_decay": 0.0}, "2.*": {"lr_scale": 0.5, "weight_decay": 0.2}, "4.bias": {"lr_scale": 3.0}}
RULES = [
    *OF_TORCH,
    *OF_PAPERS,
    *[
        rule(name, **options, l1=0.01)
        for name, options in [OF_TORCH[i] for i in (0, 5, 8, 10, 13, 18)] + OF_PAPERS[1:6:4]
    ],
    rule("SGD", lr=0.1, groups={"*.bias": {"momentum": 0.9, "nesterov": True}, "0.*": {"l1": 0.01}}),
    rule("RMSprop", groups=GROUPS | {"4.*": {"centered": True}}),
    rule("AdamW", groups=GROUPS),
    rule("LARS", lr=1.0, groups=GROUPS),
    rule("LAMB", groups=GROUPS),
]
of_torch = pytest.mark.parametrize("name, options", OF_TORCH, ids=lambda x: str(x).replace(" ", ""))
each_rule = pytest.mark.parametrize("name, options", RULES, ids=lambda x: str(x).replace(" ", ""))


def mlp(n):
    return n.Sequential(n.Linear(6, 8), n.Tanh(), n.Linear(8, 5), n.ReLU(), n.Linear(5, 3))


def model_and_twin():
    ag.manual_seed(7)
    model, twin = mlp(nn).to("float64"), mlp(torch.nn).double()
    twin.load_state_dict({name: torch.tensor(a) for name, a in model.state_dict().items()})
    return model, twin


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        ag.cross_entropy(model(cast_like(X, optimizer.arena.data)), LABELS).backward()
        optimizer.step()


def train_torch(model, optimizer, steps, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.tensor(X)), torch.tensor(LABELS)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def close(model, twin):
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.detach(), rtol=1e-12, atol=1e-12)


def make(name, options, dtype="float64"):
    model = model_and_twin()[0].to(dtype)
    return model, getattr(optim, name)(model, **options)


# --- optimizers --------------------------------------------------------------------------------------------------


@of_torch
def test_training_is_that_of_torch(name, options):
    model, twin = model_and_twin()
    train(model, getattr(optim, name)(model, **options), 50)
    train_torch(twin, getattr(torch.optim, name)(twin.parameters(), **options), 50)
    close(model, twin)


@of_torch
def test_training_on_torch_tensors_is_that_of_torch(name, options):
    """Where torch has a kernel for the whole update, it is used."""
    model, twin = model_and_twin()
    model.to(device="cpu")
    train(model, getattr(optim, name)(model, **options), 50)
    train_torch(twin, getattr(torch.optim, name)(twin.parameters(), **options), 50)
    close(model, twin)


@of_torch
def test_a_part_of_the_arrays_is_updated_to_the_same_bits(name, options):
    """On torch tensors too, if parts begin where a vector register does: what ranks that share the state depend on."""
    weights, gradient = torch.randn(2, 1008, generator=torch.Generator().manual_seed(0))

    def trained(*cuts):
        optimizers = []
        for part in map(slice, cuts, cuts[1:]):
            p = ag.tensor(weights, requires_grad=True)
            optimizers.append((p, getattr(optim, name)({"p": p}, **options), part))
            optimizers[-1][1].shard_state(part)
        for _ in range(3):
            for p, optimizer, _ in optimizers:
                optimizer.arena.zero_grad()
                (p * gradient).sum().backward()
                optimizer.step()
        return torch.cat([p.data[part] for p, _, part in optimizers]).numpy().tobytes()

    assert trained(0, 16, 64, 528, 1008) == trained(0, 1008)


@of_torch
def test_training_by_groups_is_that_of_torch(name, options):
    """A later pattern wins over an earlier one, for the hyperparameters that both set."""
    expected = {  # of what GROUPS sets: a factor of the learning rate, the weight decay
        "0.weight": (1.0, None), "0.bias": (1.0, 0.0), "2.weight": (0.5, 0.2), "2.bias": (0.5, 0.2),
        "4.weight": (1.0, None), "4.bias": (3.0, 0.0),
    }  # fmt: skip
    model, twin = model_and_twin()
    theirs = getattr(torch.optim, name)(twin.parameters(), **options)
    groups = []
    for key, p in twin.named_parameters():
        scale, decay = expected[key]
        decay = theirs.defaults["weight_decay"] if decay is None else decay
        groups.append({"params": [p], "lr": theirs.defaults["lr"] * scale, "weight_decay": decay})
    train_torch(twin, getattr(torch.optim, name)(groups, **options), 50)
    ours = getattr(optim, name)(model, **options, groups=GROUPS)
    train(model, ours, 50)
    close(model, twin)


def test_groups_may_set_what_needs_a_state_of_its_own():
    model, twin = model_and_twin()
    groups = {"0.*": {"momentum": 0.9}, "2.*": {"centered": True, "alpha": 0.9}, "4.*": {"eps": 1e-3}}
    train(model, optim.RMSprop(model, groups=groups), 50)
    theirs = [{"params": [*twin[int(key[0])].parameters()], **given} for key, given in groups.items()]
    train_torch(twin, torch.optim.RMSprop(theirs), 50)
    close(model, twin)
    assert optim.SGD(model, lr=0.1, groups={"*.weight": {"momentum": 0.0}}).state == {}


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


def transcribed(name, weights, gradients, lr, steps, weight_decay, adapt=True, l1=0.0, **o):
    """LARS and LAMB as their papers' algorithms say, on dicts of arrays; gradients(weights) gives such a dict."""
    norm = np.linalg.norm
    m, v = ({key: np.zeros_like(w) for key, w in weights.items()} for _ in "mv")
    for t in range(1, steps + 1):
        for key, g in gradients(weights).items():
            w = weights[key]
            g = g + l1 * np.sign(w)
            if name == "LARS":
                divisor = norm(g) + weight_decay * norm(w)
                ratio = o["trust"] * norm(w) / divisor if adapt and norm(w) and divisor else 1.0
                v[key] = o["momentum"] * v[key] + lr * ratio * (g + weight_decay * w)
                weights[key] = w - v[key]
            else:
                b1, b2 = o["betas"]
                m[key] = b1 * m[key] + (1 - b1) * g
                v[key] = b2 * v[key] + (1 - b2) * g**2
                r = m[key] / (1 - b1**t) / (np.sqrt(v[key] / (1 - b2**t)) + o["eps"])
                update = r + weight_decay * w
                ratio = norm(w) / norm(update) if adapt and norm(w) and norm(update) else 1.0
                weights[key] = w - lr * ratio * update
    return weights


@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("name, options", OF_PAPERS)
def test_training_is_that_of_the_paper(name, options, zeros, l1):
    usual = {
        "LARS": {"momentum": 0.9, "weight_decay": 0.0, "trust": 0.001},
        "LAMB": {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01},
    }
    model, twin = model_and_twin()
    if zeros:  # a parameter that starts at 0 has to move
        model[4].weight.assign(0.0)
    start = {key: w.copy() for key, w in model.state_dict().items()}

    def gradients(weights):
        twin.load_state_dict({key: torch.tensor(w) for key, w in weights.items()})
        twin.zero_grad()
        torch.nn.functional.cross_entropy(twin(torch.tensor(X)), torch.tensor(LABELS)).backward()
        return {key: p.grad.numpy().copy() for key, p in twin.named_parameters()}

    expected = transcribed(name, start, gradients, steps=50, **{**usual[name], **options, "l1": l1})
    train(model, getattr(optim, name)(model, **options, l1=l1), 50)
    assert not zeros or model[4].weight.data.any()
    for key, w in model.state_dict().items():
        np.testing.assert_allclose(w, expected[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, options, step",
    [
        ("SGD", {}, lambda g: g),
        ("SGD", {"momentum": 0.5, "nesterov": True, "weight_decay": 1.0}, lambda g: 1.5 * (g + W)),
        ("Adagrad", {}, np.sign),
        ("RMSprop", {"alpha": 0.75}, lambda g: 2.0 * np.sign(g)),
        ("Adam", {}, np.sign),
        ("AdamW", {"weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
        ("LARS", {"adapt": False, "weight_decay": 0.5}, lambda g: g + 0.5 * W),
        ("LAMB", {"adapt": False, "weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
    ],
)
def test_l1_adds_the_sign_of_the_weights_to_the_gradient(name, options, step):
    w = nn.Parameter(W, dtype="float64")
    (w * np.array([1.0, 0.0, 1.0, -1.0])).sum().backward()
    getattr(optim, name)({"w": w}, lr=0.5, l1=0.25, **options).step()
    np.testing.assert_allclose(w.data, W - 0.5 * step(np.array([1.25, -0.25, 1.0, -0.75])), rtol=1e-5)


def test_l1_makes_weights_vanish_that_the_loss_does_not_need():
    w = nn.Parameter([1.0, 1.0], dtype="float64")
    optimizer = optim.SGD({"w": w}, lr=0.01, l1=0.5)
    for _ in range(500):  # the minimum of (a - 2)^2 + (b - 0.2)^2 + (|a| + |b|) / 2 is a = 1.75, b = 0
        optimizer.zero_grad()
        ((w - np.array([2.0, 0.2])) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.data, [1.75, 0.0], atol=0.01)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad", "RMSprop", "LAMB"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_never_had_a_gradient_stays_without_eps(name, dtype):
    """0 / 0 in the padding would make every norm nan."""
    model, optimizer = make(name, {"eps": 0.0, "weight_decay": 0.0}, dtype)
    model[4].bias.assign(0.0)
    for _ in range(3):
        optimizer.zero_grad()
        model(X.astype(dtype))[:, :2].sum().backward()  # the third output has no gradient
        optimizer.step()
    gaps = np.ones(optimizer.arena.data.size, bool)
    for span in optimizer.arena.spans.values():
        gaps[span] = False
    assert gaps.any() and not optimizer.arena.data[gaps].any() and np.isfinite(optimizer.arena.data).all()
    assert model[4].bias.data[2] == 0.0 and model[4].bias.data[:2].all()


@each_rule
def test_the_length_of_chunks_changes_no_bit(name, options, monkeypatch):
    hashes = set()
    for chunk in (base.CHUNK, 5, 64, 1):
        monkeypatch.setattr(base, "CHUNK", chunk)
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
    assert state["steps"] == 4 and state.keys() - {"steps"} == optimizer.state.keys()
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


# --- clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters(), lambda m: optim.SGD(m, lr=0.1), ag.Arena])
def test_clipping_is_that_of_torch(owner, max_norm):
    model, twin = model_and_twin()
    held = owner(model)
    ag.cross_entropy(model(X), LABELS).backward()
    torch.nn.functional.cross_entropy(twin(torch.tensor(X)), torch.tensor(LABELS)).backward()
    expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), max_norm).item()
    np.testing.assert_allclose(optim.clip_grad_norm(held, max_norm), expected, rtol=1e-12)
    np.testing.assert_allclose(optim.grad_norm(list(model.parameters())), min(max_norm, expected), rtol=1e-12)
    for p, q in zip(model.parameters(), twin.parameters()):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-3)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("limit", [0.0, 0.01, 1e6])
@pytest.mark.parametrize("owner", [lambda m: m, lambda m: m.parameters(), lambda m: optim.SGD(m, lr=0.1), ag.Arena])
def test_clipping_by_value_is_that_of_torch(owner, limit):
    model, twin = model_and_twin()
    held = owner(model)
    ag.cross_entropy(model(X), LABELS).backward()
    torch.nn.functional.cross_entropy(twin(torch.tensor(X)), torch.tensor(LABELS)).backward()
    torch.nn.utils.clip_grad_value_(twin.parameters(), limit)
    optim.clip_grad_value(held, limit)
    for p, q in zip(model.parameters(), twin.parameters()):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-10, atol=1e-15)


def test_clipping_counts_no_gradient_of_an_earlier_step():
    used, unused = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD({"used": used, "unused": unused}, lr=0.1)
    (used * 3.0 + unused * 4.0).sum().backward()
    assert optim.grad_norm(optimizer) == 5.0
    optimizer.zero_grad()
    (used * 3.0).sum().backward()
    assert optim.clip_grad_norm(optimizer, 1.5) == 3.0 and used.grad == 1.5 and unused.grad == 0.0


def test_clipping_by_the_parameters_leaves_them_to_their_optimizer():
    model, _ = model_and_twin()
    optimizer = optim.SGD(model, lr=0.1)
    ag.cross_entropy(model(X), LABELS).backward()
    optim.clip_grad_norm(model.parameters(), 1e-3)
    assert math.isclose(optim.grad_norm(optimizer), 1e-3, rel_tol=1e-12)
    before = optimizer.arena.sha256()
    optimizer.step()
    assert model.arena.sha256() == ag.Arena(model).sha256() != before
