"""Losses as modules, against torch's: values, gradients and state, on NumPy's arrays and on torch's."""

import inspect

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn

RNG = np.random.default_rng(2)
A, B, C = RNG.normal(size=(3, 5, 4))
SIGNS, LABELS, POSITIVE = np.sign(RNG.normal(size=5)), np.array([0, 3, -100, 1, 2]), np.abs(C) + 0.5
UNIT, WEIGHT = 1.0 / (1.0 + np.exp(-B)), np.array([0.5, 1.0, 2.0, 3.0])
LOSSES = [  # class, arguments, options, what it is called with: the gradient is taken by the first
    ("CrossEntropyLoss", (), {}, (A, LABELS)),
    ("CrossEntropyLoss", (WEIGHT,), {"label_smoothing": 0.1, "ignore_index": 1}, (A, np.abs(LABELS) % 4)),
    ("CrossEntropyLoss", (), {"weight": WEIGHT}, (A, UNIT)),
    ("NLLLoss", (WEIGHT,), {"ignore_index": 3}, (A, np.abs(LABELS) % 4)),
    ("MSELoss", (), {}, (A, B)),
    ("L1Loss", (), {}, (A, B)),
    ("SmoothL1Loss", (), {"beta": 0.5}, (A, B)),
    ("HuberLoss", (), {"delta": 0.5}, (A, B)),
    ("BCELoss", (), {}, (1.0 - UNIT, UNIT)),
    ("BCELoss", (WEIGHT,), {}, (1.0 - UNIT, UNIT)),
    ("BCEWithLogitsLoss", (), {"pos_weight": WEIGHT}, (A, UNIT)),
    ("BCEWithLogitsLoss", (WEIGHT,), {}, (A, UNIT)),
    ("KLDivLoss", (), {"log_target": True}, (A, B)),
    ("KLDivLoss", (), {}, (A, UNIT)),
    ("PoissonNLLLoss", (False, True), {"eps": 1e-3}, (POSITIVE, 3.0 * UNIT)),
    ("PoissonNLLLoss", (), {}, (A, UNIT)),
    ("GaussianNLLLoss", (), {"full": True}, (A, B, POSITIVE)),
    ("GaussianNLLLoss", (), {}, (A, B, POSITIVE[:, :1])),
    ("GaussianNLLLoss", (), {}, (A, B, POSITIVE[:1])),
    ("GaussianNLLLoss", (), {"eps": 1.0}, (A, B, POSITIVE[:, 0])),
    ("SoftMarginLoss", (), {}, (A, np.sign(B))),
    ("HingeEmbeddingLoss", (0.7,), {}, (A, np.sign(B))),
    ("MarginRankingLoss", (0.2,), {}, (A[:, 0], B[:, 0], SIGNS)),
    ("CosineEmbeddingLoss", (0.1,), {}, (A, B, SIGNS)),
    ("TripletMarginLoss", (0.8, 3.0), {"swap": True}, (A, B, C)),
    ("TripletMarginLoss", (), {}, (A[0], B[0], C[0])),
    ("TripletMarginWithDistanceLoss", (), {"margin": 0.5}, (A, B, C)),
    ("MultiMarginLoss", (2,), {"margin": 0.8}, (A, np.abs(LABELS) % 4)),
    ("MultiMarginLoss", (1, 0.8, WEIGHT), {}, (A, np.abs(LABELS) % 4)),
    ("MultiLabelSoftMarginLoss", (WEIGHT,), {}, (A, UNIT)),
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # of torch, about kl_div
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "arguments", "options", "inputs"), LOSSES)
def test_loss_is_that_of_torch(name, arguments, options, inputs, reduction):
    def torchs(x):
        return torch.from_numpy(x) if isinstance(x, np.ndarray) else x

    def made(library, convert):
        given = {key: convert(x) for key, x in options.items()} | {"reduction": reduction}
        return getattr(library, name)(*map(convert, arguments), **given)

    other, x = made(torch.nn, torchs), torch.tensor(inputs[0], requires_grad=True)
    want = other(x, *map(torchs, inputs[1:]))
    g = np.cos(np.arange(want.numel())).reshape(want.shape)
    want.backward(torch.from_numpy(g))
    for convert in (lambda x: x, torchs):
        mine, leaf = made(nn, convert), ag.tensor(convert(inputs[0]), requires_grad=True)
        loss = mine(leaf, *map(convert, inputs[1:]))
        loss.backward(g)
        np.testing.assert_allclose(loss.numpy(), want.detach(), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(leaf.grad, x.grad, rtol=1e-10, atol=1e-12)
        state = mine.state_dict()
        assert list(state) == list(other.state_dict()) and not list(mine.parameters())
        mine.load_state_dict(other.state_dict())
        other.load_state_dict({key: torch.from_numpy(a) for key, a in state.items()})


def test_every_loss_is_tried():
    assert {name for name, *_ in LOSSES} == {name for name in nn.__all__ if name.endswith("Loss")}


@pytest.mark.parametrize(("name", "inputs"), {name: inputs for name, _, _, inputs in LOSSES}.items())
def test_inputs_go_by_torchs_names(name, inputs):
    names = [n for n in inspect.signature(getattr(torch.nn, name).forward).parameters if n != "self"]
    loss = getattr(nn, name)()
    want = loss(*inputs).item()
    assert [*loss.inputs] == names and loss(**dict(zip(names, inputs))).item() == want
    assert loss(inputs[0], **dict(zip(names[1:], inputs[1:]))).item() == want


def test_a_distance_of_ones_own():
    x, y, z = (ag.tensor(a) for a in (A, B, C))
    own = nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: ag.abs(a - b).sum(-1), margin=2.0)
    assert own(x, y, z).item() == pytest.approx(nn.TripletMarginLoss(2.0, 1.0, 0.0)(x, y, z).item())


def test_class_weights_are_constants_of_the_module_and_lists_take_the_default_dtype():
    loss = nn.CrossEntropyLoss([1.0, 2.0])
    assert loss.weight.dtype == np.float32 and [name for name, _ in loss.named_buffers()] == ["weight"]
    assert isinstance(loss.to("cpu").weight.data, torch.Tensor) and loss.weight.requires_grad is False
