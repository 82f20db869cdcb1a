"""`allgrad checkpoint`: damage is named, the contents are told, and the weights leave as one plain file."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError
from allgrad.ddp.trainer import FILES, MARKER, checkpoint
from allgrad.launch.__main__ import main

EVERY_FILE = (*FILES, MARKER)
STEPS = "step-00000008", "step-00000012"
FLAGS = (
    "--model cnn:4 --steps 12 --checkpoint-every 4 --global-batch 48 --optimizer adamw --lr 0.01 --weight-decay 0.1 "
    "--schedule cosine --warmup 3 --clip 1 --shards 3 --seed 5 --threads 2 --boundary carry --eval-every 5 --no-decay"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The --out of a run with checkpoints of two steps."""
    out = tmp_path_factory.mktemp("made") / "run"
    assert main(["train", *FLAGS.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


# --- damage ------------------------------------------------------------------------------------------------------


def flip(content, rng):
    at, bit = rng.integers(len(content)), rng.integers(8)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


ALTER = {
    "flip": flip,
    "truncate": lambda content, rng: content[: rng.integers(len(content))],
    "empty": lambda content, rng: b"",
    "append": lambda content, rng: content + rng.bytes(1 + rng.integers(40)),
    "prepend": lambda content, rng: rng.bytes(1 + rng.integers(40)) + content,
    "double": lambda content, rng: content * 2,
    "line": lambda content, rng: content + b"\n",
}
MOVE = ("missing", "swapped files", "of the other step", "all of the other step", "a directory")


def corrupt(old, new, seed):
    """Damage the newer of two checkpoints in one way."""
    rng = generator("corrupt", seed)
    kind, file = (*ALTER, *MOVE)[seed % (len(ALTER) + len(MOVE))], EVERY_FILE[rng.integers(4)]
    if kind in ALTER:
        (new / file).write_bytes(ALTER[kind]((new / file).read_bytes(), rng))
    elif kind == "of the other step":
        shutil.copy(old / file, new / file)
    elif kind == "all of the other step":
        shutil.rmtree(new)
        shutil.copytree(old, new)
    elif kind == "swapped files":
        other = EVERY_FILE[(EVERY_FILE.index(file) + 1 + rng.integers(3)) % 4]
        a, b = (new / file).read_bytes(), (new / other).read_bytes()
        (new / file).write_bytes(b)
        (new / other).write_bytes(a)
    else:
        (new / file).unlink()
        if kind == "a directory":
            (new / file).mkdir()
    return file if kind != "all of the other step" else "step 8"


@pytest.mark.parametrize("part", range(4))
def test_no_damage_is_loaded(part, made, tmp_path, capsys):
    for seed in range(part, 120, 4):
        copied = tmp_path / str(seed)
        shutil.copytree(made / "checkpoints", copied / "checkpoints")
        old, new = checkpoint.steps_in(copied / "checkpoints")
        file = corrupt(old, new, seed)
        with pytest.raises(ConfigurationError, match=f"checkpoint {new} is (damaged|incomplete)") as caught:
            checkpoint.load(new)
        assert "\n" not in str(caught.value)
        assert any(name in str(caught.value) for name in ((file,) if file not in EVERY_FILE else EVERY_FILE))
        found = checkpoint.load_latest(copied / "checkpoints", warn=lambda text: None)
        assert found is not None and found[2]["step"] == 8
        capsys.readouterr()
        assert main(["checkpoint", "verify", str(copied)]) == 1
        whole, told = capsys.readouterr().out.splitlines()
        assert whole.startswith(f"checkpoint {old} is whole: step 8, ") and told == str(caught.value)
        assert main(["checkpoint", "verify", str(new)]) == 1
        assert capsys.readouterr().out == f"{told}\n"


def test_what_is_whole_is_said_to_be(made, capsys):
    for directory, steps in (
        (made, STEPS),
        (made / "checkpoints", STEPS),
        (made / "checkpoints" / STEPS[0], STEPS[:1]),
    ):
        assert main(["checkpoint", "verify", str(directory)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [re.search(r"(step-\d+) is whole", line)[1] for line in lines] == list(steps)


@pytest.mark.parametrize("action", ["verify", "show", "export"])
@pytest.mark.parametrize("make", [False, True])
def test_no_checkpoint_is_no_whole_checkpoint(action, make, tmp_path, capsys):
    (tmp_path / "run").mkdir() if make else None
    more = ["--out", str(tmp_path / "x.safetensors")] if action == "export" else []
    assert main(["checkpoint", action, str(tmp_path / "run"), *more]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"checkpoint {tmp_path / 'run'}: there is no " in told and "give the --out of a run" in told


# --- what is in it -----------------------------------------------------------------------------------------------


def test_show(made, capsys):
    assert main(["checkpoint", "show", str(made)]) == 0
    told = capsys.readouterr().out.splitlines()
    # The configuration's epochs come last: those that were trained are told first.
    facts = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in reversed(told) if "  " in line.strip())
    summary = json.loads((made / "summary.json").read_text())
    assert facts["step"] == "12" and facts["samples seen"] == "576" and facts["model"] == "cnn:4"
    assert float(facts["epochs"]) == pytest.approx(summary["epochs"], rel=1e-5)
    assert (facts["data"], facts["optimizer"], facts["shards"]) == ("digits", "adamw", "3")
    for name, value in load_file(made / "checkpoints" / STEPS[1] / "model.safetensors").items():
        kind, shape = re.split("  +", facts[name])
        assert kind == str(value.dtype).removeprefix("torch.") and shape == str(tuple(value.shape))
    assert facts["schedule"] == "cosine" and facts["blas.num_threads"] == "2"
    assert facts.keys() >= summary["config"].keys() - {"data_shape", "epochs"}


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
def test_export_is_what_torch_would_round_to(dtype, made, tmp_path, capsys):
    out = tmp_path / "new" / "w.safetensors"
    words = ["checkpoint", "export", str(made), "--out", str(out), *(["--dtype", dtype] if dtype else [])]
    assert main(words) == 0
    found, before = load_file(out), load_file(made / "checkpoints" / STEPS[1] / "model.safetensors")
    assert found.keys() == before.keys()
    for name, value in before.items():
        wanted = value.to(getattr(torch, dtype)) if dtype and value.is_floating_point() else value
        assert found[name].dtype == wanted.dtype and torch.equal(found[name], wanted), name
    written = out.read_bytes()
    assert main(words) == 2 and "exists: give another file, or --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0 and out.read_bytes() == written
    assert [path.name for path in out.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_every_float_is_rounded_as_torch_rounds(kind, tmp_path):
    rng = generator("floats", kind)
    bits = rng.integers(0, 1 << 32, 20_000, dtype=np.uint32)
    values = np.concatenate([bits.view("f4"), np.float32([0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8])])
    values = values[~np.isfinite(values) | (np.abs(values) < 3e38)]
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = values.astype(kind)
    checkpoint.save(tmp_path / "checkpoints", 1, {"w": values, "scalar": values[-1:].reshape(())}, {}, {})
    assert (
        main(["checkpoint", "export", str(tmp_path), "--out", str(tmp_path / "w.safetensors"), "--dtype", "bfloat16"])
        == 0
    )
    found = load_file(tmp_path / "w.safetensors")
    assert torch.equal(found["w"].nan_to_num(nan=7), torch.from_numpy(values).bfloat16().nan_to_num(nan=7))
    assert found["scalar"].shape == ()


def test_what_does_not_fit_is_not_exported(tmp_path, capsys):
    checkpoint.save(tmp_path / "checkpoints", 1, {"w": np.float64([1, 7e4, 1e39])}, {}, {})
    for dtype in ("float16", "bfloat16", "float32"):
        out = tmp_path / "w.safetensors"
        assert main(["checkpoint", "export", str(tmp_path), "--out", str(out), "--dtype", dtype]) == 2
        assert f"--dtype {dtype} cannot hold the largest values of w" in capsys.readouterr().err and not out.exists()
    assert main(["checkpoint", "export", str(tmp_path), "--out", str(tmp_path / "w.bin")]) == 2
    assert "is not a FILE.safetensors" in capsys.readouterr().err


# --- the saved configuration is enough ---------------------------------------------------------------------------


@pytest.mark.parametrize("ranks, left", [(0, True), (2, False), (3, True)])
def test_a_run_goes_on_without_any_other_flag(ranks, left, made, copied, start):
    summary = json.loads((copied / "summary.json").read_text())
    shutil.rmtree(copied / "checkpoints" / STEPS[1])
    (copied / "summary.json").unlink()
    if not left:
        (copied / "config.json").unlink()
    done = start("train --resume --out run", copied.parent, ranks)
    assert done.status == 0, done.err
    again = json.loads((copied / "summary.json").read_text())
    assert again["resumed_at"] == 8 and again["world_size"] == (ranks or 1)
    for name in ("weights_sha256", "train_loss", "val_loss", "best", "steps", "logical_shards", "fingerprint"):
        assert again[name] == summary[name], name
    moved = {"resume": True, "out": "run", "directory": str(copied.parent)}
    assert again["config"] == {**summary["config"], **moved}
    for file in FILES[:2]:
        one, other = ((run / "checkpoints" / STEPS[1] / file).read_bytes() for run in (made, copied))
        assert one == other
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (made, copied)]
    untimed = [
        [{k: v for k, v in line.items() if k not in ("samples_per_second", "loss")} for line in run] for run in lines
    ]
    assert untimed[0] == untimed[1]


def test_a_configuration_that_cannot_be_read_is_named(copied, start):
    shutil.rmtree(copied / "checkpoints")
    (copied / "config.json").write_text('{"model": "ml')
    done = start("train --resume --out run", copied.parent)
    assert done.status == 2 and "config.json cannot be read" in done.told()[0]
