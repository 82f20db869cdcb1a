"""Layers against torch.nn: state dicts cross over, and outputs and gradients agree."""

import copy
import pickle

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn
from allgrad.autograd import init

IMAGES, SEQUENCE, SIGNAL, VOLUMES = (2, 4, 9, 8), (5, 3, 6), (2, 4, 11), (2, 4, 4, 5, 3)
MODES = "zeros", "reflect", "replicate", "circular"
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
    *[("RNN", (6, 7, 2), {}, shape) for shape in (SEQUENCE, (5, 6))],
    ("RNN", (6, 7), {"nonlinearity": "relu", "bias": False}, SEQUENCE),
    *[("LSTM", (6, 7, 2), {"bidirectional": True}, shape) for shape in (SEQUENCE, (5, 6))],
    ("LSTM", (6, 7, 2), {"bidirectional": True, "proj_size": 3}, SEQUENCE),
    ("LSTM", (6, 7), {"proj_size": 2, "bias": False, "batch_first": True}, (5, 6)),
    *[("GRU", (6, 7), {"batch_first": True}, shape) for shape in (SEQUENCE, (5, 6))],
    *[(cell, (6, 7), {}, shape) for cell in ("RNNCell", "LSTMCell", "GRUCell") for shape in ((5, 6), (6,))],
    ("RNNCell", (6, 7, False, "relu"), {}, (5, 6)),
    *[("TransformerEncoderLayer", (6, 2, 16, 0.0), {}, shape) for shape in (SEQUENCE, (5, 6))],
    ("TransformerEncoderLayer", (6, 3, 16, 0.0, "gelu"), {"batch_first": True, "norm_first": True}, SEQUENCE),
    ("TransformerEncoderLayer", (6, 3, 16, 0.0), {"bias": False, "batch_first": True}, (5, 6)),
    ("Conv3d", (4, 6, 2), {"stride": (1, 2, 1), "padding": (1, 0, 1), "groups": 2}, VOLUMES),
    ("Conv3d", (4, 6, (1, 2, 3)), {"bias": False, "padding": "valid"}, VOLUMES[1:]),
    ("ConvTranspose1d", (4, 6, 3, 2, 1, 1), {"groups": 2}, SIGNAL),
    ("ConvTranspose3d", (4, 6, 2, 2, 1, 1), {}, VOLUMES),
    *[("Conv2d", (4, 6, 3), {"padding_mode": mode, "padding": (2, 1)}, IMAGES) for mode in MODES],
    ("Conv1d", (4, 6, 4), {"padding_mode": "reflect", "padding": "same", "dilation": 2}, SIGNAL),
    ("Conv3d", (4, 6, 2), {"padding_mode": "circular", "padding": 1}, VOLUMES),
    *[
        (f"{kind}{axes}d", (padding, *value), {}, shape)
        for kind, *value in (
            ("ZeroPad",),
            ("ConstantPad", 1.5),
            ("ReflectionPad",),
            ("ReplicationPad",),
            ("CircularPad",),
        )
        for axes, padding, shape in ((1, 2, SIGNAL), (2, (1, 0, 2, 1), IMAGES[1:]), (3, (1, 1, 0, 1, 2, 0), VOLUMES))
    ],
    ("BatchNorm3d", (4,), {}, VOLUMES),
    ("InstanceNorm1d", (4,), {}, SIGNAL),
    ("InstanceNorm2d", (4,), {"affine": True}, IMAGES[1:]),
    ("InstanceNorm2d", (4, 1e-3, 0.3, True, True), {}, IMAGES),
    ("InstanceNorm3d", (4,), {"track_running_stats": True}, VOLUMES),
    ("GroupNorm", (2, 4), {"bias": False}, IMAGES),
    ("BatchNorm2d", (4,), {"bias": False}, IMAGES),
    ("InstanceNorm1d", (4,), {"affine": True, "bias": False}, SIGNAL),
    ("RMSNorm", (6,), {}, SEQUENCE),
    ("RMSNorm", ((3, 6), 0.1), {"elementwise_affine": False}, SEQUENCE),
    ("LocalResponseNorm", (3,), {"alpha": 0.5}, IMAGES),
    ("LayerNorm", (6,), {"bias": False}, SEQUENCE),
    ("MaxPool1d", (3, 2, 1), {}, SIGNAL),
    ("MaxPool2d", (2, None, 0, 1, False, True), {}, IMAGES),  # ceil_mode comes last
    ("MaxPool3d", (2,), {}, VOLUMES),
    ("AvgPool1d", (3,), {"stride": 1, "padding": 1, "count_include_pad": False}, SIGNAL),
    ("AvgPool3d", ((1, 2, 2),), {}, VOLUMES),
    ("LPPool1d", (2, 3), {}, SIGNAL),
    ("LPPool2d", (2, 3, 2), {"ceil_mode": True}, IMAGES),
    ("AdaptiveAvgPool1d", (3,), {}, SIGNAL),
    ("AdaptiveAvgPool3d", ((2, None, 3),), {}, VOLUMES),
    ("AdaptiveMaxPool1d", (3,), {}, SIGNAL),
    ("AdaptiveMaxPool2d", ((4, 3),), {}, IMAGES),
    ("AdaptiveMaxPool3d", (2,), {}, VOLUMES),
    ("PixelShuffle", (2,), {}, IMAGES),
    ("PixelUnshuffle", (2,), {}, (2, 3, 4, 6)),
    ("Upsample", (), {"scale_factor": 2}, SIGNAL),
    ("Upsample", ((3, 9), None, "bilinear"), {}, IMAGES),
    ("Upsample", (None, 1.3, "trilinear", True, True), {}, VOLUMES),
    ("UpsamplingNearest2d", (5,), {}, IMAGES),
    ("UpsamplingBilinear2d", (), {"scale_factor": (2, 1.5)}, IMAGES),
    ("Flatten", (0, 1), {}, IMAGES),
    ("Flatten", (), {"start_dim": 2}, IMAGES),
    ("Unflatten", (1, (2, -1)), {}, IMAGES),
    *[(name, (True,), {}, IMAGES) for name in ("ReLU", "ReLU6", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "SELU")],
    *[(name, (), {}, IMAGES) for name in ("LogSigmoid", "Softsign", "Tanhshrink", "GLU", "Softmax2d", "PReLU")],
    ("CELU", (0.5,), {"inplace": True}, IMAGES),
    ("Hardshrink", (0.3,), {}, IMAGES),
    ("Softshrink", (), {"lambd": 0.3}, IMAGES),
    ("Threshold", (0.1, 20.0), {}, IMAGES),
    ("Softmin", (1,), {}, IMAGES),
    ("PReLU", (4, 0.1), {}, IMAGES),
    *[
        (name, (0.0,), {}, shape)
        for name, shape in (
            ("Dropout1d", SIGNAL),
            ("Dropout2d", IMAGES),
            ("Dropout3d", VOLUMES),
            ("AlphaDropout", SEQUENCE),
        )
    ],
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_agrees_with_torch(name, arguments, options, shape, device):
    mine = getattr(nn, name)(*arguments, **options).to("float64", device)
    other = getattr(torch.nn, name)(*arguments, **options).double()
    state = {name: torch.from_numpy(a) for name, a in mine.state_dict().items()}
    other.load_state_dict(state)
    mine.load_state_dict({name: a.numpy() for name, a in other.state_dict().items()})
    rng = np.random.default_rng(0)
    tx = torch.tensor(rng.normal(size=shape), requires_grad=True)
    x = tx.detach().clone() if device == "cpu" else tx.detach().numpy()
    x = ag.tensor(x, requires_grad=True)
    y, ty = _outputs(mine(x)), _outputs(other(tx * 1.0))  # a copy: some work in place
    assert [tuple(a.shape) for a in y] == [tuple(t.shape) for t in ty]
    g = [rng.normal(size=t.shape) for t in ty]
    sum((a * (torch.from_numpy(b) if device == "cpu" else b)).sum() for a, b in zip(y, g)).backward()
    sum((a * torch.from_numpy(b)).sum() for a, b in zip(ty, g)).backward()
    for a, b in zip(y, ty):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    accuracy = 4e-8 if name == "Hardsigmoid" else 1e-9  # torch's 1 / 6 there is a float32
    np.testing.assert_allclose(x.grad, tx.grad.numpy(), rtol=accuracy, atol=1e-11)
    gradients = {name: p.grad for name, p in mine.named_parameters()}
    for name, p in other.named_parameters():
        np.testing.assert_allclose(gradients[name], p.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # of torch
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_float32_agrees_with_torch_in_training_and_evaluation(name, arguments, options, shape):
    torch.manual_seed(0)
    mine, other = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    rng = np.random.default_rng(3)
    mine.load_state_dict(other.state_dict())
    for training in (True, True, False):
        mine.train(training), other.train(training)
        x = rng.normal(size=shape).astype("f4")
        for a, b in zip(_outputs(mine(ag.tensor(x))), _outputs(other(torch.tensor(x)))):
            assert a.dtype == np.float32
            b = b.detach().numpy()
            roundings = 1e-6 * np.linalg.norm(b) + 2**-25 * b.size**0.5  # of results, and of summands of about 1 / 2
            assert np.linalg.norm(a.numpy() - b) <= roundings
    state, theirs = mine.state_dict(), other.state_dict()
    assert [(k, a.dtype, a.shape) for k, a in state.items()] == [
        (k, t.numpy().dtype, tuple(t.shape)) for k, t in theirs.items()
    ]


def test_every_layer_has_been_held_against_torchs():
    alone = {"Embedding", "EmbeddingBag", "MultiheadAttention", "Bilinear", "CosineSimilarity", "PairwiseDistance"}
    alone |= {"TransformerDecoderLayer", "TransformerEncoder", "TransformerDecoder", "Transformer"}
    containers = {"Module", "ModuleDict", "ModuleList", "Parameter", "ParameterDict", "ParameterList", "Sequential"}
    held = {name for name, *_ in LAYERS} | alone | containers  # or have several inputs, and tests of their own
    assert held == {name for name in nn.__all__ if not name.endswith("Loss")}


def _outputs(y):
    """All tensors of a result: recurrent layers return (outputs, h) or (outputs, (h, c))."""
    return [y] if not isinstance(y, tuple) else [t for part in y for t in _outputs(part)]


BATCH_NORMS = [  # class, options, shape of the input
    ("BatchNorm1d", {}, (5, 3)),
    ("BatchNorm1d", {"momentum": None, "eps": 0.1}, (4, 3, 6)),
    ("BatchNorm2d", {"momentum": 0.3}, (2, 3, 5, 4)),
    ("BatchNorm2d", {"affine": False}, (2, 3, 1, 4)),
    ("BatchNorm2d", {"track_running_stats": False}, (2, 3, 2, 2)),
    ("BatchNorm3d", {}, (2, 3, 2, 2, 2)),
    ("InstanceNorm1d", {"affine": True, "track_running_stats": True}, (2, 3, 4)),
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


TWO_INPUTS = [  # class, arguments, options, shapes of the inputs
    ("Bilinear", (3, 4, 5), {}, ((2, 6, 3), (2, 6, 4))),
    ("Bilinear", (3, 4, 5, False), {}, ((3,), (4,))),
    ("CosineSimilarity", (), {"dim": -1}, ((6, 3), (6, 3))),
    ("PairwiseDistance", (3.0,), {"keepdim": True}, ((6, 3), (6, 3))),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shapes"), TWO_INPUTS)
def test_layers_of_two_inputs_agree_with_torch(name, arguments, options, shapes):
    mine, other = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options).double()
    mine.to("float64").load_state_dict(other.state_dict())
    rng = np.random.default_rng(5)
    xs = [ag.tensor(rng.normal(size=shape), requires_grad=True) for shape in shapes]
    txs = [torch.tensor(x.numpy(), requires_grad=True) for x in xs]
    y, ty = mine(*xs), other(*txs)
    (y * y).sum().backward(), ty.square().sum().backward()
    pairs = zip([*xs, *mine.parameters()], [*txs, *other.parameters()])
    for a, b in [(y.numpy(), ty.detach()), *((a.grad, b.grad) for a, b in pairs)]:
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_arguments_have_torchs_names_and_show_as_attributes():
    pool = nn.MaxPool2d(3, return_indices=True, stride=2)
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 0) and len(pool(np.ones((1, 1, 4, 4)))) == 2
    pool.return_indices = False
    assert pool(np.ones((1, 1, 4, 4))).shape == (1, 1, 1, 1)
    layer = nn.Linear(in_features=2, out_features=3)
    conv = nn.Conv2d(in_channels=2, out_channels=4, kernel_size=3)
    assert (layer.in_features, layer.out_features) == (2, 3) and layer.weight.shape == (3, 2)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (2, 4, (3, 3))
    assert nn.ReLU(inplace=True).inplace and nn.Dropout(0.5, inplace=True).inplace
    assert nn.ReLU.__module__ == "allgrad.autograd.nn.functions" and "max(x, 0)" in str(nn.ReLU.__doc__)


def test_modules_of_functions_can_be_pickled_and_copied():
    for layer in (nn.LeakyReLU(0.2), nn.MaxPool1d(2), nn.ReflectionPad1d(1), nn.CrossEntropyLoss(np.ones(2, "f"))):
        for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
            assert type(other) is type(layer) and {*vars(other)} == {*vars(layer)}


def test_linear_starts_as_asked():
    layer = nn.Linear(100, 50, rng=np.random.default_rng(0))
    for p in (layer.weight, layer.bias):
        assert 0.08 < np.abs(p.data).max() <= 0.1
    layer, again = (nn.Linear(100, 50, init=init.kaiming, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(layer.weight.data, again.weight.data)
    np.testing.assert_array_equal(layer.weight.data, init.kaiming((50, 100), np.random.default_rng(5)).astype("f"))
    assert not layer.bias.data.any() and nn.Linear(2, 3, bias=False).bias is None
