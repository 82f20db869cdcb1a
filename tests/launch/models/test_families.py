"""The families of models: what they are, what they need, what is refused, and that they train."""

import json

import numpy as np
import pytest

import allgrad as ag
from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.data import load
from allgrad.launch.models import FAMILIES, build
from tests.launch.models.samples import CIFAR, DIGITS, MNIST, TABLE, TEXT, data_of, shapes


@pytest.mark.parametrize("spec, data, widths", [
    ("cnn", CIFAR, [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (10, 2048)]),
    ("cnn:8", DIGITS, [(8, 1, 3, 3), (10, 128)]),
    ("cnn:4,6", MNIST, [(4, 1, 3, 3), (6, 4, 3, 3), (10, 294)]),
    ("vgg-small", DIGITS, [(32, 1, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3),
                           (128, 128, 3, 3), (256, 128), (10, 256)]),
    ("autoencoder", DIGITS, [(128, 64), (32, 128), (128, 32), (64, 128)]),
    ("autoencoder:7", CIFAR, [(7, 3072), (3072, 7)]),
])  # fmt: skip
def test_widths_are_those_of_the_name(spec, data, widths):
    found = shapes(build(spec, data)).values()
    assert [shape for shape in found if len(shape) > 1] == widths


@pytest.mark.parametrize("spec, data", [
    ("lenet5", DIGITS), ("cnn:4", DIGITS), ("vgg-small", DIGITS), ("resnet:8", DIGITS), ("autoencoder:4", DIGITS),
    ("lstm:4", TEXT), ("transformer:4,2,1", TEXT),
])  # fmt: skip
def test_the_weights_depend_on_the_seed_and_on_nothing_else(spec, data):
    one, again, other = (build(spec, data, seed).state_dict() for seed in (3, 3, 4))
    assert all((one[name] == again[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


@pytest.mark.parametrize("spec, data, fragments", [
    ("lstm:8", DIGITS, ["lstm:8 needs text", "text:PATH", "images of (1, 8, 8)", "resnet:N"]),
    ("transformer", TABLE, ["transformer needs text", "shape (5,)"]),
    ("mlp:8", TEXT, ["mlp:8 needs numbers", "windows of 6 characters", "lstm[:HIDDEN[,LAYERS]]"]),
    ("autoencoder", TEXT, ["autoencoder needs numbers"]),
    ("cnn", TABLE, ["cnn needs images", "(N, C, H, W)", "shape (5,)"]),
    ("lenet5", TEXT, ["lenet5 needs images", "6 characters"]),
    ("lenet5:3", MNIST, ["unknown model 'lenet5:3'"]),
    ("vgg-small:2", MNIST, ["unknown model 'vgg-small:2'"]),
    ("cnn:", MNIST, ["'' is not a number of filters; write cnn:32,64,128"]),
    ("cnn:8,0", MNIST, ["'0' is not a number of filters"]),
    ("cnn:4,4,4,4", DIGITS, ["halves an image 4 times", "16x16", "8x8"]),
    ("vgg-small", data_of(1, 8, 7), ["8x8 pixels or more, got 8x7"]),
    ("resnet", MNIST, ["'' is not a number of layers; write resnet:20"]),
    ("resnet:18", MNIST, ["resnet:18", "6n + 2", "nearest is resnet:20"]),
    ("resnet:2", MNIST, ["nearest is resnet:8"]),
    ("resnet:20,2", MNIST, ["2 numbers after its name: write resnet:N"]),
    ("lstm:8,1,1", TEXT, ["3 numbers after its name"]),
    ("transformer:10,3", TEXT, ["width of 10 cannot be cut into 3 heads"]),
    ("autoencoder:a", MNIST, ["'a' is not a number of hidden units; write autoencoder:128,32"]),
])  # fmt: skip
def test_what_does_not_fit_gets_one_sentence(spec, data, fragments):
    with pytest.raises(ConfigurationError) as caught:
        build(spec, data)
    text = str(caught.value)
    assert "\n" not in text and not [fragment for fragment in fragments if fragment not in text], text


@pytest.mark.parametrize(
    "flags, text",
    [
        ("--model softmax --dropout 0.1", "--dropout has no effect on softmax: it is for mlp, cnn"),
        ("--model lenet5 --dropout 0.1", "--dropout has no effect on lenet5"),
        ("--model autoencoder --dropout 0.1", "--dropout has no effect on autoencoder"),
        (
            "--model cnn --checkpoint-activations",
            "--checkpoint-activations has no effect on cnn: it is for resnet, transformer",
        ),
        ("--data text --model lstm:4 --init zeros", "--init has no effect on lstm:4: it is for mlp, softmax, lenet5"),
    ],
)
def test_options_without_effect_are_refused(flags, text, capsys):
    assert main(["train", *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


def test_an_autoencoder_is_measured_against_its_input(tmp_path):
    flags = "--model autoencoder:8 --optimizer adam --lr 0.01 --steps 150"
    assert main(["train", *flags.split(), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    x = load("digits").val_x
    mean_squared = float((x * x).mean())
    assert summary["val_loss"] < 0.6 * mean_squared and summary["val_accuracy"] is None


EVERY = [
    ("mlp:8", DIGITS), ("softmax", DIGITS), ("autoencoder:8", DIGITS), ("lenet5", DIGITS), ("cnn:4,8", DIGITS),
    ("vgg-small", CIFAR), ("resnet:8", DIGITS), ("lstm:8", TEXT), ("transformer:8,2,1", TEXT),
]  # fmt: skip


@pytest.mark.parametrize("spec, data", EVERY, ids=[spec for spec, _ in EVERY])
def test_every_model_computes_on_torch_tensors_what_it_does_on_arrays(spec, data):
    torch = pytest.importorskip("torch")
    assert {spec.split(":")[0] for spec, _ in EVERY} == set(FAMILIES)
    x = data.train_x.astype("f8") if data.vocabulary is None else data.train_x
    values = []
    for device in ("numpy", "cpu"):
        model = build(spec, data, dtype="float64").to(device=device)
        y = model(x if device == "numpy" else torch.from_numpy(x))
        (y * y).sum().backward()
        values.append([y.numpy(), *(ag.tensor(p.grad).numpy() for p in model.parameters())])
    for a, b in zip(*values):
        assert np.linalg.norm(a - b) < 1e-10 * (1e-3 + np.linalg.norm(a))
