"""Networks for images: against the text books, torch and the papers, and that they learn."""

import json

import numpy as np
import pytest

from allgrad.launch.__main__ import main
from allgrad.launch.data import load
from allgrad.launch.models import build, remark
from allgrad.launch.models.images import resized
from tests.launch.models.samples import CIFAR, DIGITS, MNIST, RNG, TABLE, TEXT, data_of, shapes


def size(model):
    return sum(p.size for p in model.parameters())


@pytest.mark.parametrize("data", [MNIST, data_of(1, 28, 28), data_of(28, 28), DIGITS])
def test_lenet5_is_that_of_the_text_books(data):
    assert shapes(build("lenet5", data)) == {
        "0.weight": (6, 1, 5, 5), "0.bias": (6,), "3.weight": (16, 6, 5, 5), "3.bias": (16,),
        "7.weight": (120, 400), "7.bias": (120,), "9.weight": (84, 120), "9.bias": (84,),
        "11.weight": (10, 84), "11.bias": (10,),
    }  # fmt: skip


@pytest.mark.parametrize("data", [MNIST, DIGITS, CIFAR])
def test_lenet5_computes_what_torch_computes(data):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    channels, height, _ = data.image
    theirs = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    ).double()  # fmt: skip
    ours = build("lenet5", data, dtype="float64")
    theirs.load_state_dict({name: torch.tensor(value) for name, value in ours.state_dict().items()})
    x = RNG.normal(size=(3, *data.image))
    images = nn.functional.interpolate(torch.tensor(x), (28, 28), mode="bilinear", align_corners=False)
    y = ours(x.reshape(3, *data.features)).data
    np.testing.assert_allclose(y, theirs(images).detach().numpy(), rtol=1e-9, atol=1e-12)
    assert (remark(ours) is None) == (height == 28)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 32, 32), (1, 2, 5, 40), (1, 1, 1, 1)])
def test_images_are_resized_as_torch_resizes_them(shape):
    torch = pytest.importorskip("torch")
    x = RNG.normal(size=shape)
    expected = torch.nn.functional.interpolate(torch.tensor(x), (28, 28), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resized(x, 28).data, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("depth, parameters", [(8, 75_290), (20, 269_722), (32, 464_154)])
def test_resnet_has_the_size_of_the_paper(depth, parameters):
    model = build(f"resnet:{depth}", data_of(3, 32, 32, classes=10))
    assert size(model) == parameters
    assert sum(name.endswith("weight") and value.ndim in (2, 4) for name, value in model.state_dict().items()) == depth
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer3.0.conv2.weight", "layer1.0.bn1.weight", "fc.bias"} <= names


def test_an_untrained_residual_branch_leaves_the_shortcut():
    """With the branches' last scale at zero the network is its stem, every other pixel of it, padded with zeros."""
    model = build("resnet:8", CIFAR, dtype="float64").eval()
    for block in (*model.layer1, *model.layer2, *model.layer3):
        block.bn2.weight.assign(0.0)
    model.fc.weight.assign(np.eye(10, 64))
    model.fc.bias.assign(0.0)
    x = CIFAR.train_x.astype("f8")
    stem = np.maximum(model.bn1(model.conv1(x)).data, 0.0)
    np.testing.assert_allclose(model(x).data, stem[:, :10, ::4, ::4].mean((2, 3)), atol=1e-12)


def test_images_of_named_data_sets_are_known():
    assert load("digits").image == (1, 8, 8)
    assert [data.image for data in (MNIST, CIFAR, TABLE, TEXT, data_of(7, 9))] == [
        (1, 28, 28), (3, 32, 32), None, None, (1, 7, 9),
    ]  # fmt: skip


@pytest.mark.parametrize("model, how, reached", [
    ("cnn:8", "--lr 0.1 --steps 45", 0.8),
    ("vgg-small", "--lr 0.05 --steps 20", 0.4),
    ("resnet:8", "--lr 0.1 --steps 30", 0.5),
    ("lenet5", "--optimizer adam --lr 0.01 --steps 45", 0.5),
])  # fmt: skip
def test_image_networks_learn_the_digits(model, how, reached, tmp_path, capsys):
    flags = f"--model {model} {how} --global-batch 32"
    assert main(["train", *flags.split(), "--out", str(tmp_path / "out")]) == 0
    assert ("images of 8x8 are resized to 28x28" in capsys.readouterr().out) == (model == "lenet5")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["val_accuracy"] > reached
