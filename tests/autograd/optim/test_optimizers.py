"""Every rule: whole training runs beside torch.optim or the paper in float64."""

import inspect

import numpy as np
import pytest
import torch

from allgrad import nn, optim
from tests.autograd.optim.training import (
    GROUPS,
    LABELS,
    OF_PAPERS,
    OF_TORCH,
    WITH_TESTS_OF_THEIR_OWN,
    X,
    close,
    make,
    model_and_twin,
    of_torch,
    train,
    train_torch,
)

W = np.array([2.0, -3.0, 0.0, 0.5])


# --- optimizers --------------------------------------------------------------------------------------------------


@of_torch
def test_training_is_that_of_torch(name, options):
    model, twin = model_and_twin()
    train(model, getattr(optim, name)(model, **options), 50)
    train_torch(twin, getattr(torch.optim, name)(twin.parameters(), **options), 50)
    close(model, twin)


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


def transcribed(name, weights, gradients, lr, steps, weight_decay, adapt=True, l1=0.0, **o):
    """LARS, LAMB and Lion as their papers' algorithms say, on dicts of arrays; gradients(weights) gives such a dict."""
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
            elif name == "Lion":
                b1, b2 = o["betas"]
                weights[key] = w - lr * (np.sign(b1 * m[key] + (1 - b1) * g) + weight_decay * w)
                m[key] = b2 * m[key] + (1 - b2) * g
            elif name == "Muon":
                w = (1 - lr * weight_decay) * w
                b1, b2 = (o["momentum"],) * 2 if w.ndim > 1 else (0.9, 0.95)
                m[key] = b1 * m[key] + (1 - b1) * g
                if w.ndim < 2:
                    v[key] = b2 * v[key] + (1 - b2) * g**2
                    weights[key] = w - lr * m[key] / (1 - b1**t) / (np.sqrt(v[key] / (1 - b2**t)) + 1e-7)
                    continue
                x = (1 - b1) * g + b1 * m[key] if o["nesterov"] else m[key]
                y = x / max(norm(x), 1e-7)
                for _ in range(5):  # the iteration on the singular values alone
                    left, s, right = np.linalg.svd(y, full_matrices=False)
                    y = left * (3.4445 * s - 4.775 * s**3 + 2.0315 * s**5) @ right
                rows, columns = w.shape
                original = o.get("adjust_lr_fn", "original") == "original"
                factor = np.sqrt(max(1, rows / columns)) if original else 0.2 * np.sqrt(max(rows, columns))
                weights[key] = w - lr * factor * y
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
        "Lion": {"betas": (0.9, 0.99), "weight_decay": 0.0},
        "Muon": {"momentum": 0.95, "nesterov": True, "weight_decay": 0.1},
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


FIRST_STEPS = [  # rule, options, and how far it goes against a gradient g in its first step at rate 1
    ("SGD", {}, lambda g: g),
    ("SGD", {"momentum": 0.5, "nesterov": True, "weight_decay": 1.0}, lambda g: 1.5 * (g + W)),
    ("Adagrad", {}, np.sign),
    ("Adadelta", {"rho": 0.75, "eps": 1e-12}, lambda g: 2e-6 * np.sign(g)),
    ("RAdam", {}, lambda g: g),
    ("Muon", {"weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
    ("RMSprop", {"alpha": 0.75}, lambda g: 2.0 * np.sign(g)),
    ("Adam", {}, np.sign),
    ("AdamW", {"weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
    ("Lion", {"weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
    ("LARS", {"adapt": False, "weight_decay": 0.5}, lambda g: g + 0.5 * W),
    ("LAMB", {"adapt": False, "weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
    ("SOAP", {"weight_decay": 0.5}, lambda g: np.sign(g) + 0.5 * W),
    ("ScheduleFreeSGD", {"weight_decay": 0.5}, lambda g: g + 0.5 * W),
    ("ScheduleFreeAdamW", {"weight_decay": 0.5, "betas": (0.9, 0.0)}, lambda g: np.sign(g) + 0.5 * W),
]
RULES = {name: x for name, x in vars(optim).items() if isinstance(x, type) and issubclass(x, optim.Optimizer)}
EXPORTED = {name: x for name, x in RULES.items() if name not in ("Optimizer", "ScheduleFree")}


def test_every_optimizer_has_its_rows():
    for rows in (
        {name for name, _ in OF_TORCH + OF_PAPERS + WITH_TESTS_OF_THEIR_OWN},
        {name for name, *_ in FIRST_STEPS},
    ):
        assert not EXPORTED.keys() - rows, f"no row of {EXPORTED.keys() - rows}"


@pytest.mark.parametrize("name, options, step", FIRST_STEPS)
def test_l1_adds_the_sign_of_the_weights_to_the_gradient(name, options, step):
    w = nn.Parameter(W, dtype="float64")
    (w * np.array([1.0, 0.0, 1.0, -1.0])).sum().backward()
    getattr(optim, name)({"w": w}, lr=0.5, l1=0.25, **options).step()
    np.testing.assert_allclose(w.data, W - 0.5 * step(np.array([1.25, -0.25, 1.0, -0.75])), rtol=1e-5)


def test_lion_by_hand():
    """Two steps of 0.1 from w = 1 with gradients 1 and -0.2, betas (0.5, 0.75) and weight decay 0.5."""
    w = nn.Parameter([1.0], dtype="float64")
    optimizer = optim.Lion({"w": w}, lr=0.1, betas=(0.5, 0.75), weight_decay=0.5)
    for g, expected, mean in [(1.0, 0.85, 0.25), (-0.2, 0.7075, 0.1375)]:  # 0.5 * 0.25 + 0.5 * -0.2 is above 0
        optimizer.zero_grad()
        (w * g).sum().backward()
        optimizer.step()
        np.testing.assert_allclose([*w.data, *optimizer.state["mean"][:1]], [expected, mean], rtol=1e-12)


def test_lion_on_torch_tensors_is_that_on_arrays():
    (model, _), (other, _) = model_and_twin(), model_and_twin()
    other.to(device="cpu")
    for m in (model, other):
        train(m, optim.Lion(m, lr=0.01, weight_decay=0.1, l1=0.01, groups=optim.no_decay(m)), 20)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.numpy(), rtol=1e-12, atol=1e-12)


def test_l1_makes_weights_vanish_that_the_loss_does_not_need():
    w = nn.Parameter([1.0, 1.0], dtype="float64")
    optimizer = optim.SGD({"w": w}, lr=0.01, l1=0.5)
    for _ in range(500):  # the minimum of (a - 2)^2 + (b - 0.2)^2 + (|a| + |b|) / 2 is a = 1.75, b = 0
        optimizer.zero_grad()
        ((w - np.array([2.0, 0.2])) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.data, [1.75, 0.0], atol=0.01)


@pytest.mark.parametrize("name", [name for name, x in EXPORTED.items() if "eps" in inspect.signature(x).parameters])
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
