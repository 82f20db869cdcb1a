"""`allgrad train --device cuda`, from the options to the checkpoint, on a CUDA device."""

import json

import numpy as np
import pytest
import torch

from allgrad.launch.__main__ import main
from tests.device.real import REAL

CUDA = "--arrays torch --device cuda --steps 6 --eval-every 3 --global-batch 32"
MLP = "--data digits --model mlp:32"
RUNS = {
    "mlp": MLP,
    "noise": f"{MLP} --shards 4 --noise-layers",
    "adamw": f"{MLP} --optimizer adamw --weight-decay 0.1 --no-decay --clip 1 --clip-value 0.1 --lr 0.001",
    "lars": f"{MLP} --optimizer lars --momentum 0.9",
    "lamb": f"{MLP} --optimizer lamb --lr 0.01",
    "rmsprop": f"{MLP} --optimizer rmsprop --momentum 0.9 --lr 0.001",
    "muon": f"{MLP} --optimizer muon --lr 0.01",
    "l1": f"{MLP} --l1 0.001 --momentum 0.9 --nesterov",
    "adascale": f"{MLP} --shards 4 --lr-rule adascale --base-batch 16",
    "ema": f"{MLP} --ema 0.9",
    "top-k": f"{MLP} --shards 2 --compress topk:0.1",
    "adasum": f"{MLP} --shards 2 --reduce adasum",
    "wire": f"{MLP} --shards 3 --wire bfloat16",
    "zero": f"{MLP} --optimizer adam --zero --lr 0.001",
    "local": f"{MLP} --sync-every 2",
    "trace": f"{MLP} --trace TRACE",
    "autoencoder": "--data digits --model autoencoder:32,8",
    "cnn bfloat16": "IMAGES --model cnn:8,16 --dtype bfloat16 --shards 2 --augment crop,flip",
    "resnet float16": "IMAGES --model resnet:8 --dtype float16 --shards 2",
    "cnn float64": "IMAGES --model cnn:8 --dtype float64",
    "cnn sync": "IMAGES --model cnn:8 --batch-norm sync --shards 2",
    "vgg": "IMAGES --model vgg-small --dropout 0.2",
    "lenet": "IMAGES --model lenet5",
    "transformer": "TEXT --model transformer:32,4,2 --dropout 0.1 --optimizer adam --lr 0.001",
    "transformer bfloat16": "TEXT --model transformer:32,4,2 --dtype bfloat16 --optimizer adamw --shards 2 --lr 0.001",
    "lstm": "TEXT --model lstm:16 --optimizer adam --lr 0.001",
}


@pytest.fixture(scope="session", name="data")
def data_fixture(tmp_path_factory):
    """{word of RUNS: the option it stands for}."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((96, 3, 16, 16)).astype("f4")
    np.savez(folder / "images.npz", x=x, y=rng.integers(0, 4, 96))
    (folder / "words.txt").write_text("the quick brown fox jumps over the lazy dog. " * 120)
    return {
        "IMAGES": f"--data {folder}/images.npz",
        "TEXT": f"--data text:{folder}/words.txt?context=16",
        "TRACE": str(folder / "trace.json"),
    }


def run(words, data, out):
    for name, option in data.items():
        words = words.replace(name, option)
    assert main(["train", *words.split(), "--out", str(out)]) == 0
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_a_device_is_that_on_the_processor(name, data, device, tmp_path):
    here = run(f"{RUNS[name]} {CUDA}", data, tmp_path / "device")
    assert "gpu" in here["fingerprint"]
    there = run(f"{RUNS[name]} {CUDA.replace('cuda', 'cpu')}", data, tmp_path / "processor")
    if "dropout" in RUNS[name]:  # whose masks are the device's own
        assert abs(here["train_loss"] - there["train_loss"]) < 0.5
        return
    half = "float16" in RUNS[name]
    assert here["train_loss"] == pytest.approx(there["train_loss"], rel=0.05 if half or REAL else 1e-4)
    assert (here["noise_scale"] is None) == (there["noise_scale"] is None)


@pytest.mark.parametrize("name", ["noise", "zero", "top-k", "cnn bfloat16", "ema"])
def test_a_run_goes_on_with_the_same_bits(name, data, device, tmp_path):
    whole = run(f"{RUNS[name]} {CUDA.replace('steps 6', 'steps 9')}", data, tmp_path / "whole")
    run(f"{RUNS[name]} {CUDA}", data, tmp_path / "parts")
    parts = run("--resume --steps 9", {}, tmp_path / "parts")
    assert parts["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize(
    "more, told",
    [
        ("--lr 1e30 --shards 2", "at step "),
        (f"--device cuda:{torch.cuda.device_count() or 1}", " of this host, and torch finds "),
    ],
)
def test_what_is_wrong_is_told_in_a_line(more, told, device, tmp_path, capsys):
    assert main(["train", *f"{MLP} {CUDA} {more} --out {tmp_path}/out".split()])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("allgrad: ")]
    assert told in line
