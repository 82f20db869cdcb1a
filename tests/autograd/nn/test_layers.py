"""Layers against torch.nn: state dicts cross over, and outputs and gradients agree."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn
from allgrad.autograd import init

IMAGES, SEQUENCE, SIGNAL = (2, 4, 9, 8), (5, 3, 6), (2, 4, 11)
LAYERS = [  # class, arguments, shape of the input
    ("Conv2d", (4, 6, 3), {}, IMAGES),
    ("Conv2d", (4, 6, (3, 2), (2, 1), (1, 0)), {"groups": 2}, IMAGES),
    ("Conv2d", (4, 2, 3), {"padding": "same", "dilation": 2, "bias": False}, IMAGES),
    ("Conv1d", (4, 6, 3, 2, 1), {}, SIGNAL),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1), {"groups": 2}, IMAGES),
    ("MaxPool2d", (3, 2, 1), {}, IMAGES),
    ("AvgPool2d", (2,), {}, IMAGES),
    ("AdaptiveAvgPool2d", ((4, 3),), {}, IMAGES),
    ("LayerNorm", (6,), {}, SEQUENCE),
    ("GroupNorm", (2, 4), {}, IMAGES),
    ("BatchNorm1d", (4,), {}, SIGNAL),
    ("BatchNorm2d", (4,), {"momentum": None}, IMAGES),
    ("Linear", (6, 3), {}, SEQUENCE),
    ("Dropout", (0.0,), {}, SEQUENCE),
    ("Identity", (5,), {"unused": True}, SEQUENCE),
    ("Flatten", (), {}, IMAGES),
    ("ReLU", (), {}, IMAGES),
    ("LeakyReLU", (0.2,), {}, IMAGES),
    ("ELU", (0.5,), {}, IMAGES),
    ("GELU", (), {}, IMAGES),
    ("GELU", ("tanh",), {}, IMAGES),
    ("SiLU", (), {}, IMAGES),
    ("Softplus", (3, 0.5), {}, IMAGES),
    ("Hardtanh", (-0.5, 0.25), {}, IMAGES),
    ("Sigmoid", (), {}, IMAGES),
    ("Tanh", (), {}, IMAGES),
    ("Softmax", (1,), {}, IMAGES),
    ("LogSoftmax", (-1,), {}, IMAGES),
    ("RNN", (6, 7, 2), {}, SEQUENCE),
    ("RNN", (6, 7), {"nonlinearity": "relu", "bias": False}, SEQUENCE),
    ("LSTM", (6, 7, 2), {"bidirectional": True}, SEQUENCE),
    ("GRU", (6, 7), {"batch_first": True}, SEQUENCE),
    ("TransformerEncoderLayer", (6, 2, 16, 0.0), {}, SEQUENCE),
    ("TransformerEncoderLayer", (6, 3, 16, 0.0, "gelu"), {"batch_first": True, "norm_first": True}, SEQUENCE),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_agrees_with_torch(name, arguments, options, shape):
    mine = getattr(nn, name)(*arguments, **options).to("float64")
    other = getattr(torch.nn, name)(*arguments, **options).double()
    state = {name: torch.from_numpy(a) for name, a in mine.state_dict().items()}
    other.load_state_dict(state)
    mine.load_state_dict({name: a.numpy() for name, a in other.state_dict().items()})
    rng = np.random.default_rng(0)
    x = ag.tensor(rng.normal(size=shape), requires_grad=True)
    tx = torch.tensor(x.numpy(), requires_grad=True)
    y, ty = _outputs(mine(x)), _outputs(other(tx))
    assert len(y) == len(ty)
    g = [rng.normal(size=t.shape) for t in ty]
    sum((a * b).sum() for a, b in zip(y, g)).backward()
    sum((a * torch.from_numpy(b)).sum() for a, b in zip(ty, g)).backward()
    for a, b in zip(y, ty):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(x.grad, tx.grad.numpy(), rtol=1e-9, atol=1e-11)
    gradients = {name: p.grad for name, p in mine.named_parameters()}
    for name, p in other.named_parameters():
        np.testing.assert_allclose(gradients[name], p.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_float32_agrees_with_torch_in_training_and_evaluation(name, arguments, options, shape):
    mine, other = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    rng = np.random.default_rng(3)
    mine.load_state_dict(other.state_dict())
    for training in (True, True, False):
        mine.train(training), other.train(training)
        x = rng.normal(size=shape).astype("f4")
        for a, b in zip(_outputs(mine(ag.tensor(x))), _outputs(other(torch.from_numpy(x)))):
            assert a.dtype == np.float32
            assert np.linalg.norm(a.numpy() - b.detach().numpy()) <= 1e-6 * np.linalg.norm(b.detach().numpy())
    state, theirs = mine.state_dict(), other.state_dict()
    assert [(k, a.dtype, a.shape) for k, a in state.items()] == [
        (k, t.numpy().dtype, tuple(t.shape)) for k, t in theirs.items()
    ]


def test_every_layer_has_been_held_against_torchs():
    alone = {"Embedding", "MultiheadAttention", "TransformerDecoderLayer"}  # take something else than one tensor
    containers = {"Module", "ModuleDict", "ModuleList", "Parameter", "ParameterDict", "ParameterList", "Sequential"}
    assert {name for name, *_ in LAYERS} | alone | containers == set(nn.__all__)


def _outputs(y):
    """All tensors of a result: recurrent layers return (outputs, h) or (outputs, (h, c))."""
    return [y] if not isinstance(y, tuple) else [t for part in y for t in _outputs(part)]


BATCH_NORMS = [  # class, options, shape of the input
    ("BatchNorm1d", {}, (5, 3)),
    ("BatchNorm1d", {"momentum": None, "eps": 0.1}, (4, 3, 6)),
    ("BatchNorm2d", {"momentum": 0.3}, (2, 3, 5, 4)),
    ("BatchNorm2d", {"affine": False}, (2, 3, 1, 4)),
    ("BatchNorm2d", {"track_running_stats": False}, (2, 3, 2, 2)),
]


@pytest.mark.parametrize(("name", "options", "shape"), BATCH_NORMS)
@pytest.mark.parametrize("dtype, accuracy", [("float64", 1e-11), ("float32", 2e-6)])
def test_batch_norm_trains_and_evaluates_as_torchs(name, options, shape, dtype, accuracy):
    """Outputs, gradients and running statistics over steps, with the state crossing over in the middle."""
    mine = getattr(nn, name)(3, **options).to(dtype)
    other = getattr(torch.nn, name)(3, **options, dtype=getattr(torch, dtype))
    rng = np.random.default_rng(2)
    for step in range(6):
        training = step % 3 < 2
        mine.train(training), other.train(training)
        if step == 2:
            for p, q in zip(mine.parameters(), other.parameters()):
                p.assign(rng.normal(size=3))
                q.data = torch.from_numpy(p.numpy().copy())
        if step == 3:
            mine.load_state_dict({k: 2 * a.numpy() for k, a in other.state_dict().items()})
            other.load_state_dict({k: torch.from_numpy(a) for k, a in mine.state_dict().items()})
        x = ag.tensor(rng.normal(2, 3, shape).astype(dtype), requires_grad=True)
        tx = torch.tensor(x.numpy(), requires_grad=True)
        g = rng.normal(size=shape).astype(dtype)
        y, ty = mine(x), other(tx)
        mine.zero_grad(), other.zero_grad()
        y.backward(g), ty.backward(torch.from_numpy(g))
        pairs = [(y.numpy(), ty.detach()), (x.grad, tx.grad), *zip([p.grad for p in mine.parameters()], grads(other))]
        state, theirs = mine.state_dict(), other.state_dict()
        assert list(state) == list(theirs)
        for a, b in [*pairs, *((state[k], theirs[k]) for k in state)]:
            assert (a.dtype, a.shape) == (b.numpy().dtype, tuple(b.shape))
            np.testing.assert_allclose(a, b, rtol=accuracy, atol=3 * accuracy)


def grads(module):
    return [p.grad for p in module.parameters()]


def test_batch_norm_in_evaluation_leaves_its_statistics_alone_and_keeps_an_integer_counter():
    layer = nn.BatchNorm1d(3).to("float64").eval()
    before = layer.state_dict()
    layer(np.ones((4, 3)))
    after = layer.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert [a.dtype for a in after.values()] == [np.float64] * 4 + [np.int64] and after[
        "num_batches_tracked"
    ].shape == ()
    assert [name for name, _ in layer.named_buffers()] == list(layer.running_statistics)


def test_embedding_rows_of_one_index_share_their_gradient():
    layer = nn.Embedding(5, 3, padding_idx=1)
    y = layer(np.array([[0, 1], [4, 0]]))
    assert y.shape == (2, 2, 3)
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad, np.array([2, 0, 0, 0, 1])[:, None] * np.ones(3))
    assert not layer.weight.data[1].any()


def test_linear_starts_as_asked():
    layer = nn.Linear(100, 50, rng=np.random.default_rng(0))
    for p in (layer.weight, layer.bias):
        assert 0.08 < np.abs(p.data).max() <= 0.1
    layer, again = (nn.Linear(100, 50, init=init.kaiming, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(layer.weight.data, again.weight.data)
    np.testing.assert_array_equal(layer.weight.data, init.kaiming((50, 100), np.random.default_rng(5)).astype("f"))
    assert not layer.bias.data.any() and nn.Linear(2, 3, bias=False).bias is None
