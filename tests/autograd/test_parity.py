"""Whole networks against torch: the same code on either library has the same state, loss and gradients."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.arrays import to_numpy

torch = pytest.importorskip("torch")
VOCABULARY, LENGTH = 11, 8
rng = np.random.default_rng(0)


def lenet(nn):
    """LeNet-5 over 28 x 28 images. LeCun et al. 1998."""
    features = nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Sigmoid()
    head = nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10)
    return nn.Sequential(*features, nn.AvgPool2d(2), nn.Flatten(), *head)


def transformer(nn):
    """A causal language model over characters: two layers, learned positions."""

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.characters, self.positions = nn.Embedding(VOCABULARY, 16), nn.Embedding(LENGTH, 16)
            options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
            self.layers = nn.ModuleList([nn.TransformerEncoderLayer(16, 4, 32, **options) for _ in range(2)])
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, VOCABULARY)

        def forward(self, x, positions):
            x = self.characters(x) + self.positions(positions)
            for layer in self.layers:
                x = causal(layer, x)
            return self.head(self.norm(x)).reshape(-1, VOCABULARY)

    return Transformer()


def causal(layer, x):
    if isinstance(layer, nn.Module):
        return layer(x, is_causal=True)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=x.dtype)
    return layer(x, mask, is_causal=True)


def lstm(nn):
    """A language model over characters: two layers of LSTM."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.characters, self.lstm = nn.Embedding(VOCABULARY, 12), nn.LSTM(12, 20, 2, batch_first=True)
            self.head = nn.Linear(20, VOCABULARY)

        def forward(self, x):
            return self.head(self.lstm(self.characters(x))[0]).reshape(-1, VOCABULARY)

    return Recurrent()


def resnet(nn):
    """The network of 6n + 2 layers for CIFAR with n = 1, shortcuts of 1 x 1 convolutions. He et al. 2016, 4.2."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.relu, self.shortcut = nn.ReLU(), nn.Identity()
            if stride > 1:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + self.shortcut(x))

    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    blocks = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


TEXT = rng.integers(0, VOCABULARY, (5, LENGTH + 1))
NETWORKS = {  # build, inputs, labels
    "LeNet-5": (lenet, (rng.normal(size=(6, 1, 28, 28)),), rng.integers(0, 10, 6)),
    "Transformer": (transformer, (TEXT[:, :-1], np.arange(LENGTH)), TEXT[:, 1:].ravel()),
    "LSTM": (lstm, (TEXT[:, :-1],), TEXT[:, 1:].ravel()),
    "ResNet-8": (resnet, (rng.normal(size=(4, 3, 32, 32)),), rng.integers(0, 10, 4)),
}


def distance(have, want):
    """Relative, in the Euclidean norm."""
    have, want = to_numpy(have), want.detach().numpy()
    assert (have.dtype, have.shape) == (want.dtype, want.shape)
    return np.linalg.norm(have - want) / max(np.linalg.norm(want), 1e-300)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype, accuracy", [("float64", 1e-10), ("float32", 3e-5)])  # torch is 6e-6 off itself
@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_networks_train_as_torchs(name, dtype, accuracy, device):
    """Loss, gradients and state over steps of plain SGD, then the outputs in evaluation."""
    build, inputs, labels = NETWORKS[name]
    ag.manual_seed(1)
    mine, other = build(nn).to(dtype, device), build(torch.nn).to(getattr(torch, dtype))
    assert list(mine.state_dict()) == list(other.state_dict())
    inputs = [x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs]
    theirs, targets = [torch.from_numpy(x) for x in inputs], torch.from_numpy(labels)
    inputs = theirs if device == "cpu" else inputs
    for _ in range(3):
        other.load_state_dict({k: torch.from_numpy(a) for k, a in mine.state_dict().items()}, strict=True)
        loss = ag.cross_entropy(mine(*inputs), labels)
        wanted = torch.nn.functional.cross_entropy(other(*theirs), targets)
        mine.zero_grad(), other.zero_grad()
        loss.backward(), wanted.backward()
        assert distance(loss.data, wanted) < accuracy
        gradients = {k: p.grad for k, p in mine.named_parameters()}
        for k, p in other.named_parameters():
            assert distance(gradients[k], p.grad) < accuracy, k
            p.data -= 0.1 * p.grad
        for k, t in other.state_dict().items():
            if k not in gradients:  # running statistics
                assert distance(mine.state_dict()[k], t) < accuracy, k
        mine.load_state_dict(other.state_dict())
    mine.eval(), other.eval()
    assert distance(mine(*inputs).data, other(*theirs)) < accuracy
