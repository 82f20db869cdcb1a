"""Starting from weights trained before, and training only some of them."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from allgrad import Arena, nn
from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.transfer import freeze, load_into

NEW = "--data new.npz --model mlp:16 --global-batch 20 --shards 4 --lr 0.5"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with new.npz, four classes of 64 features, and base/, a run on the ten digits."""
    directory = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    np.savez(directory / "new.npz", x=rng.normal(size=(60, 64)).astype("f4"), y=np.arange(60) % 4)
    assert main(["train", *f"--model mlp:16 --steps 20 --checkpoint-every 10 --out {directory}/base".split()]) == 0
    return directory


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def newest(out):
    return load_file(sorted((out / "checkpoints").iterdir())[-1] / "model.safetensors")


def train(flags, status=0):
    assert main(["train", *flags.split()]) == status


@pytest.mark.parametrize("source", [
    "base", "base/checkpoints", "base/checkpoints/step-00000020", "base/checkpoints/step-00000020/model.safetensors",
])  # fmt: skip
def test_what_fits_is_loaded_and_a_new_head_is_left(source, here, capsys):
    train(f"{NEW} --steps 1 --lr 0 --out fresh")
    train(f"{NEW} --steps 1 --lr 0 --init-from {source} --out out")
    line = f"--init-from {source}: loaded 2 of the model's 4 tensors, 2 left new (2.weight, 2.bias)"
    assert line in capsys.readouterr().out.splitlines()
    base, fresh, found = (newest(here / out) for out in ("base", "fresh", "out"))
    assert all((found[name] == base[name]).all() for name in ("0.weight", "0.bias"))
    assert all((found[name] == fresh[name]).all() for name in ("2.weight", "2.bias"))


def test_frozen_parameters_stay_and_the_others_train(here, capsys):
    train(f"{NEW} --steps 6 --init-from base --freeze 0.* --out out")
    assert "--freeze 0.*: 2 tensors of 1,040 numbers are not trained (0.weight, 0.bias)" in capsys.readouterr().out
    base, found = newest(here / "base"), newest(here / "out")
    assert all((found[name] == base[name]).all() for name in ("0.weight", "0.bias"))
    assert np.abs(found["2.bias"]).min() > 0


def test_the_bits_do_not_depend_on_ranks_and_a_resume_needs_no_source(here, start):
    flags = f"train {NEW} --init-from base --freeze 0.* --momentum 0.9"
    for words, ranks in [(f"{flags} --steps 9 --out whole", 3), (f"{flags} --steps 4 --out parts", 0)]:
        done = start(words, here, ranks)
        assert done.status == 0, done.err
    (here / "base").rename(here / "gone")
    done = start("train --resume --steps 9 --out parts", here, 2)
    assert done.status == 0, done.err
    whole, parts = newest(here / "whole"), newest(here / "parts")
    assert whole.keys() == parts.keys() and all((whole[name] == parts[name]).all() for name in whole)
    hashes = {json.loads((here / out / "summary.json").read_text())["weights_sha256"] for out in ("whole", "parts")}
    assert len(hashes) == 1


def test_a_run_that_starts_again_from_step_0_wants_the_same_source(here, capsys):
    train(f"{NEW} --steps 2 --init-from base --out out")
    before = newest(here / "out")
    shutil.rmtree(here / "out" / "checkpoints")
    train("--resume --out out")
    assert all((before[name] == value).all() for name, value in newest(here / "out").items())
    shutil.rmtree(here / "out" / "checkpoints")
    shutil.rmtree(here / "base" / "checkpoints" / "step-00000020")
    train("--resume --out out", status=2)
    assert "--init-from base has changed since the run began" in capsys.readouterr().err


@pytest.mark.parametrize("flags, texts", [
    ("--init-from none", ["--init-from none", "no such directory", "--out of a run"]),
    ("--init-from .", ["--init-from .", "no whole checkpoint"]),
    ("--init-from new.npz", ["--init-from new.npz cannot be read", ".safetensors"]),
    ("--init-from other.safetensors", ["no tensor of the name and shape", "fc.weight (3, 2)", "0.weight (16, 64)"]),
    ("--freeze nothing*", ["--freeze 'nothing*' matches no parameter", "0.weight, 0.bias, 2.weight, 2.bias"]),
    ("--freeze 0.*,", ["--freeze '' matches no parameter"]),
    ("--freeze *", ["matches all 4 parameters"]),
    ("--freeze 0.*,2.*", ["matches all 4 parameters"]),
])  # fmt: skip
def test_what_cannot_be_done_is_refused(flags, texts, here, capsys):
    save_file({"fc.weight": np.zeros((3, 2), "f4")}, here / "other.safetensors")
    train(f"{NEW} --steps 1 {flags}", status=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert not [text for text in texts if text not in line], line


def test_a_resumed_run_may_not_freeze_otherwise(here, capsys):
    train(f"{NEW} --steps 1 --freeze 0.* --out out")
    train("--resume --steps 2 --freeze 2.* --out out", status=2)
    assert "--freeze 2.* contradicts the checkpoint, which was trained with 0.*" in capsys.readouterr().err


def test_names_that_the_model_lacks_are_told():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    tensors = {"0.weight": np.ones((3, 2)), "9.weight": np.ones(1), "2.bias": np.ones(5)}
    line = load_into(model, tensors, "FILE")
    assert line == (
        "--init-from FILE: loaded 1 of the model's 4 tensors, 3 left new (0.bias, 2.weight, 2.bias); "
        "1 in it unknown to the model (9.weight)"
    )
    assert (model[0].weight.data == 1).all() and model[2].bias.shape == (2,)
    with pytest.raises(ConfigurationError, match="no tensor of the name and shape"):
        load_into(model, {"0.weight": np.ones((2, 3))}, "FILE")


def test_a_frozen_batch_norm_keeps_its_running_averages():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    freeze(model, "[01].*,3.bias")
    assert [layer.training for layer in model] == [True, False, True, True, True]
    assert sorted(Arena(model).parameters) == ["2.bias", "2.weight", "3.weight", "4.bias", "4.weight"]
    before = model.state_dict()
    model(np.random.default_rng(0).normal(5.0, size=(8, 2)).astype("f4"))
    after = model.state_dict()
    moved = {name for name in after if (after[name] != before[name]).any()}
    assert moved == {"3.running_mean", "3.running_var", "3.num_batches_tracked"}


def test_a_frozen_batch_norm_stays_so_through_a_run(here, capsys):
    flags = "--model cnn:2,3 --shards 2 --steps 4 --eval-every 2"
    train(f"{flags} --out first")
    train(f"{flags} --init-from first --freeze 0.*,1.* --out out")
    one, two = newest(here / "first"), newest(here / "out")
    same = {name for name in two if (one[name] == two[name]).all()}
    assert same == {name for name in two if name.startswith(("0.", "1."))}
