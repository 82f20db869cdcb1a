"""`allgrad train`: the same weights on any number of ranks, under any launcher, with any interruption."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from allgrad.launch import train
from allgrad.launch.__main__ import main
from tests.ddp.trainer.test_locks import HOLDER

SMALL = "--data digits --model mlp:16 --log-every 5"

# The 1437 samples divide by no batch here, no batch by its shards, and no shards by the ranks.
RUNS = {
    "dropout": f"{SMALL} --global-batch 50 --shards 7 --dropout 0.3 --momentum 0.9 --schedule cosine --steps 31",
    "adam": f"{SMALL} --global-batch 33 --shards 5 --optimizer adam --lr 0.01 --warmup 5 --steps 46 --boundary carry",
}
LAUNCHES = [
    ("dropout", "mpirun", 1),
    ("dropout", "mpirun", 2),
    ("dropout", "mpirun", 3),
    ("dropout", "mpirun", 5),
    ("dropout", "torchrun", 3),
    ("adam", "mpirun over gloo", 2),
]
UNLIKE = {
    "world_size", "launcher", "backend", "bytes_per_step", "samples_per_second", "wall_seconds", "oversubscribed",
    "config", "overlap_why", "exchange", "capture", "capture_why",
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(train):
    """The summaries of the runs in one process, and of the first without its dropout."""
    flags = RUNS | {"no dropout": RUNS["dropout"].replace("--dropout 0.3", "")}
    return {name: train(text) for name, text in flags.items()}


@pytest.mark.parametrize("run, launcher, ranks", LAUNCHES)
def test_the_weights_do_not_depend_on_the_ranks(run, launcher, ranks, alone, train):
    launcher, _, over = launcher.partition(" over ")
    backend = over or {"mpirun": "mpi", "torchrun": "gloo"}[launcher]
    summary = train(f"{RUNS[run]} --backend {over or 'auto'}", ranks, launcher)
    assert [summary[key] for key in ("world_size", "launcher", "backend")] == [ranks, launcher, backend]
    for key in summary.keys() - UNLIKE:
        assert summary[key] == alone[run][key], key


MATRIX = {
    "1024 virtual ranks": "--model mlp:8 --shards 1024 --global-batch 1024 --momentum 0.9 --steps 3",
    "cnn": "--model cnn:3 --batch-norm sync --augment crop,flip --zero --shards 5 --global-batch 33 --steps 9",
}


@pytest.mark.parametrize("run", MATRIX)
def test_a_job_of_many_ranks_has_the_weights_of_one_process(run, train):
    """The whole matrix is `python -m benchmarks.world_sizes`."""
    assert len({train(f"--log-every 5 {MATRIX[run]}", ranks)["weights_sha256"] for ranks in (0, 2, 3)}) == 1


def test_the_runs_differ(alone):
    assert len({summary["weights_sha256"] for summary in alone.values()}) == 3
    assert alone["adam"]["samples_seen"] == 46 * 33  # the boundary carries
    assert all(summary["val_accuracy"] > 0.5 and summary["noise_scale"] > 0 for summary in alone.values())


def test_only_the_first_rank_prints(start, tmp_path):
    done = start(f"train {SMALL} --steps 3 --out out", tmp_path, 3)
    assert done.status == 0 and done.err == ""
    first, *table = done.out.splitlines()
    assert first == (
        "digits: 1,437 samples; mlp:16: 1,210 parameters; batch 64 in 3 logical shards on 3 ranks (mpirun, mpi), "
        "1 BLAS thread each; steps 0 to 3"
    )
    rows = dict(line.split("  ")[-2:] for line in table)
    assert {key.strip(): value for key, value in rows.items()}["ranks"] == "3"


def test_a_trace_of_all_ranks_is_written_and_told_and_is_no_part_of_what_goes_on(train, start, tmp_path):
    flags, steps = f"{SMALL} --shards 2 --steps 9 --checkpoint-every 4", "--trace out/trace.json --trace-steps 3:6"
    done = start(f"train {flags} {steps} --out out", tmp_path, 2)
    assert done.status == 0 and done.err == ""
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "\n".join(summary["timeline"]["verdict"]) in done.out and summary["timeline"]["steps"] == [3, 6]
    assert "traced steps 3 to 5 of 2 ranks" in done.out and "a step takes " in done.out
    events = json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]
    found = {(row["pid"], row["args"]["step"]) for row in events if row["name"] == "step"}
    assert found == {(rank, step) for rank in (0, 1) for step in (3, 4, 5)}
    assert summary["weights_sha256"] == train(flags)["weights_sha256"]
    (tmp_path / "out" / "trace.json").unlink()
    done = start("train --resume --out out --steps 12", tmp_path)
    assert done.status == 0 and "traced" not in done.out and not (tmp_path / "out" / "trace.json").exists()


def test_a_trace_of_a_run_whose_length_nobody_knows(start, tmp_path):
    flags = f"{SMALL} --shards 2 --batch-schedule noise:0.25,400 --epochs 2 --trace trace.json --trace-steps 3:5"
    done = start(f"train {flags}", tmp_path)
    assert done.status == 0 and "traced steps 3 to 4" in done.out


@pytest.mark.parametrize("more", ["", "--dropout 0.3", "--model cnn"], ids=["mlp", "dropout", "statistics"])
def test_captured_steps_give_the_same_weights(train, more, tmp_path):
    flags = f"{SMALL} {more} --global-batch 50 --shards 3 --momentum 0.9"
    captured = train(f"{flags} --capture --steps 8", out=tmp_path / "out")
    assert captured["config"]["capture"] == captured["capture"] == "on"
    assert captured["weights_sha256"] == train(f"{flags} --steps 8")["weights_sha256"]
    resumed = train("--resume --steps 12", out=tmp_path / "out")
    assert resumed["weights_sha256"] == train(f"{flags} --steps 12")["weights_sha256"]


def test_small_shards_are_captured_by_themselves_and_classes_of_the_users_own_are_not(train, tmp_path):
    flags = f"{SMALL} --dropout 0.3 --global-batch 50 --shards 3 --momentum 0.9 --steps 60"  # 180 shards
    found, plain = train(flags), train(f"{flags} --capture off")
    assert found["weights_sha256"] == plain["weights_sha256"]
    assert (found["capture"], plain["capture"]) == ("auto", "off") and found["capture_why"] == "small shards, after 100"
    (tmp_path / "net.py").write_text(
        "from allgrad import nn\n\nclass Net(nn.Sequential):\n    def __init__(self, inputs, outputs):\n"
        "        super().__init__(nn.Linear(inputs, outputs))\n"
    )
    own = train(f"--data digits --model {tmp_path}/net.py:Net --global-batch 50 --steps 2")
    assert own["capture"] == "off" and "a class of the user's own" in own["capture_why"]


# --- ways to exchange --------------------------------------------------------------------------------------------

WAYS = {"--wire bfloat16": "mpirun", "--compress powersgd:2": "torchrun"}  # and who starts the last part of the run


@pytest.fixture(scope="module")
def exact(train):
    return train(f"{ENDLESS} --steps 8", 2)


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_do_not_depend_on_the_ranks_whatever_is_sent(way, exact, train, tmp_path):
    """Two thirds of the run on two ranks, the rest on three, under two launchers: residuals go with the checkpoint."""
    flags = f"{ENDLESS} {way}"
    whole, first = train(f"{flags} --steps 12"), train(f"{flags} --steps 8", 2, out=tmp_path / "out")
    last = train("--steps 12 --resume", 3, WAYS[way], out=tmp_path / "out")
    for key in whole.keys() - UNLIKE - {"resumed_at", "best"}:
        assert last[key] == whole[key], key
    assert whole["bytes_per_step"] == 0 and first["bytes_per_step"] < exact["bytes_per_step"]


def test_local_steps_go_on_where_each_rank_was(train, start, tmp_path):
    flags = f"{SMALL} --global-batch 50 --momentum 0.9 --sync-every 5 --sync-after 3"
    whole = train(f"{flags} --steps 16", 2)
    train(f"{flags} --steps 10", 2, out=tmp_path / "out")
    done = start("train --steps 16 --resume --out out", tmp_path, 1)
    assert done.status == 2 and "as many logical shards as ranks: got 2 shards on 1 rank" in done.err
    last = train("--steps 16 --resume", 2, out=tmp_path / "out")
    for key in whole.keys() - UNLIKE - {"resumed_at", "best"}:
        assert last[key] == whole[key], key
    assert last["noise_scale"] is None and last["bytes_per_step"] < whole["bytes_per_step"]


AVERAGES = [
    "--ema 0.9 --momentum 0.9",
    "--optimizer schedulefree-adamw --lr 0.02 --zero",
    "--optimizer soap --lr 0.02 --ema 0.8",
]


@pytest.mark.parametrize("flags", AVERAGES)
def test_a_run_with_averages_goes_on_to_the_same_bits_on_any_ranks(flags, train, tmp_path):
    flags = f"{SMALL} --global-batch 50 --shards 6 --dropout 0.3 {flags} --eval-every 3"
    whole = train(f"{flags} --steps 12", out=tmp_path / "whole")
    train(f"{flags} --steps 8", 2, out=tmp_path / "out")
    last = train("--steps 12 --resume", 3, out=tmp_path / "out")
    for key in whole.keys() - UNLIKE - {"resumed_at", "best"}:
        assert last[key] == whole[key], key
    for name in ("model", "optimizer"):
        one, other = (
            (tmp_path / out / "checkpoints" / "step-00000012" / f"{name}.safetensors").read_bytes()
            for out in ("whole", "out")
        )
        assert one == other


def test_the_average_is_what_is_predicted_with(start, train, tmp_path):
    found = {}
    for name, flags in (("plain", ""), ("average", "--ema 0.95")):
        summary = train(f"{SMALL} --steps 40 --lr 0.3 {flags}", out=tmp_path / name)
        assert start(f"predict --checkpoint {name} --out {name}.csv", tmp_path).status == 0
        rows = [line.split(",") for line in (tmp_path / f"{name}.csv").read_text().splitlines()[1:]]
        found[name] = np.mean([row[1] == row[-1] for row in rows]), summary["weights_sha256"]
        assert found[name][0] == pytest.approx(summary["val_accuracy"])
    assert found["plain"][1] != found["average"][1]


def test_accumulating_is_having_more_shards(train):
    one, other = train(f"{SMALL} --steps 9 --accumulate 3", 2), train(f"{SMALL} --steps 9 --shards 6")
    assert one["logical_shards"] == 6 and one["weights_sha256"] == other["weights_sha256"]


# --- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer, momentum, nesterov",
    [("sgd", 0.0, False), ("rmsprop", 0.0, False), ("lars", 0.9, False), ("muon", 0.95, True), ("adam", 0.0, False)],
)
def test_a_momentum_that_is_not_given_is_that_of_the_optimizer(optimizer, momentum, nesterov, tmp_path, train):
    flags = f"{SMALL} --global-batch 50 --optimizer {optimizer} --lr 0.01"
    train(f"{flags} --steps 3", out=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert (config["momentum"], config["nesterov"]) == (momentum, nesterov)
    resumed = train(f"{flags} --steps 6 --resume", out=tmp_path / "run")
    given = f" --momentum {momentum}" * (momentum > 0.0)
    assert resumed["weights_sha256"] == train(f"{flags} --steps 6{given}")["weights_sha256"]


ENDLESS = f"{SMALL} --global-batch 50 --shards 6 --dropout 0.3 --momentum 0.9"  # a run of any length


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
@pytest.mark.parametrize("model", ["resnet:8", "transformer:8,2,2 --data text:{}?context=8 --dropout 0.2"])
def test_activations_that_are_computed_again_change_no_bit(model, arrays, train, tmp_path):
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog " * 20, "utf-8")
    flags = f"--model {model.format(tmp_path / 't.txt')} --arrays {arrays} --global-batch 8 --shards 2 --steps 3"
    usual, again = train(flags), train(f"{flags} --checkpoint-activations")
    for name in ("weights_sha256", "val_loss"):  # the loss depends on running statistics
        assert usual[name] == again[name]


def test_going_on_with_other_numbers_of_ranks_gives_the_undisturbed_run(train, start, tmp_path):
    """From 1 rank to 4, to 2, to 3, each time in the middle of an epoch."""
    undisturbed = train(f"{ENDLESS} --steps 40")
    first = train(f"{ENDLESS} --steps 9", out=tmp_path / "out")
    assert first["weights_sha256"] != undisturbed["weights_sha256"]
    for ranks, stop in [(4, 17), (2, 26), (3, 40)]:
        done = start(f"train --resume --steps {stop} --out out", tmp_path, ranks)
        assert done.status == 0, done.err
    last = json.loads((tmp_path / "out" / "summary.json").read_text())
    for key in ("weights_sha256", "train_loss", "val_loss", "noise_scale", "samples_seen", "best"):
        assert last[key] == undisturbed[key]
    assert (last["resumed_at"], last["world_size"], last["logical_shards"]) == (26, 3, 6)
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted({*range(5, 41, 5), 9, 17, 26, 29})


def test_a_finished_run_stays_as_it_is(train, start, tmp_path):
    train(f"{ENDLESS} --steps 4", out=tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = start("train --resume --out out", tmp_path)
    assert done.status == 0 and done.out.startswith("out is finished: it has all 4 steps\n")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_going_on_after_damage_uses_the_checkpoint_before_and_says_so(train, start, tmp_path):
    undisturbed = train(f"{ENDLESS} --steps 12 --checkpoint-every 4", out=tmp_path / "out")
    newest = tmp_path / "out" / "checkpoints" / "step-00000012" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    done = start("train --resume --out out", tmp_path)
    assert done.status == 0 and "step-00000012 is damaged: model.safetensors" in done.out
    again = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert again["resumed_at"] == 8 and again["weights_sha256"] == undisturbed["weights_sha256"]


# --- data, models and options of the user's own ------------------------------------------------------------------

NET = """
import allgrad as ag
from allgrad import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.fc1, self.fc2 = nn.Linear(inputs, 12), nn.Linear(12, outputs)

    def __call__(self, x):
        return self.fc2(ag.tanh(self.fc1(x)))
"""


IMAGES = """
import allgrad as ag
from allgrad import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.conv, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.fc, self.last = nn.Linear(36, outputs), nn.BatchNorm1d(outputs, affine=False)

    def __call__(self, x):
        y = ag.max_pool2d(ag.relu(self.norm(self.conv(x.reshape(-1, 1, 8, 8)))), 2)
        return self.last(self.fc(y.reshape(len(x), -1)))
"""


def test_batch_norm_does_not_depend_on_the_ranks_nor_on_a_resume(train, start, tmp_path):
    (tmp_path / "images.py").write_text(IMAGES)
    flags = f"--data digits --model {tmp_path}/images.py:Net --global-batch 23 --shards 5 --lr 0.1"
    expected = None
    for case, legs in enumerate([[(0, "", 12)], [(2, "mpirun", 5), (3, "mpirun", 12)]]):
        out = tmp_path / f"out{case}"
        for ranks, launcher, steps in legs:
            resume = "--resume --steps" if out.exists() else f"{flags} --steps"
            done = start(f"train {resume} {steps} --out {out.name}", tmp_path, ranks, launcher)
            assert done.status == 0, done.err
        state = load_file(out / "checkpoints" / "step-00000012" / "model.safetensors")
        summary = json.loads((out / "summary.json").read_text())
        found = {name: a.tobytes() for name, a in state.items()}, summary["val_loss"], summary["weights_sha256"]
        expected = expected or found
        assert found == expected
    assert state["norm.num_batches_tracked"] == 12 and state["norm.running_mean"].any()


def test_a_model_and_a_table_of_the_users_own(train, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    rows = [f"{a},{b},{c},{'yes' if a + b > c else 'no'}" for a, b, c in x]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,answer", *rows]))
    (tmp_path / "net.py").write_text(NET)
    own = f"--data {tmp_path}/table.csv --model {tmp_path}/net.py:Net"
    flags = f"{own} --global-batch 10 --shards 3 --steps 60 --lr 0.5"
    one, two = train(flags), train(flags, 2)
    assert one["weights_sha256"] == two["weights_sha256"] and one["val_accuracy"] >= 0.8


def test_a_regression(train, tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 2))
    (tmp_path / "table.csv").write_text("\n".join(f"{a},{b},{2 * a - b + 0.5}" for a, b in x))
    summary = train(f"--data {tmp_path}/table.csv --model softmax --global-batch 10 --steps 200 --lr 0.1")
    assert summary["val_loss"] < 1e-3 and summary["val_accuracy"] is None
    assert summary["val_r2"] > 0.999 and summary["train_r2"] > 0.999 and 0 < summary["val_mse"] < summary["val_mae"]


def test_a_run_does_not_go_on_with_columns_of_other_names(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(50, 2))
    lines = [f"{a},{b},{2 * a - b + 0.5}" for a, b in x]
    data, flags = tmp_path / "table.csv", f"--model softmax --global-batch 10 --out {tmp_path}/run"
    data.write_text("\n".join(["a,b,c", *lines]))
    assert main(["train", "--data", str(data), *flags.split(), "--steps", "2"]) == 0
    for names, told in {
        "b,a,c": "the column b where the model was trained with a",
        "a,d,c": "no column b, which",
    }.items():
        data.write_text("\n".join([names, *lines]))
        assert main(["train", "--resume", "--out", f"{tmp_path}/run", "--steps", "4"]) == 2
        assert told in capsys.readouterr().err


def test_flags_win_over_the_file_and_the_file_over_the_defaults(train, tmp_path):
    (tmp_path / "run.toml").write_text('model = "mlp:8"\nlr = 0.25\nglobal-batch = 40\nepochs = 3\nnesterov = false\n')
    config = train(f"--config {tmp_path}/run.toml --lr 0.5 --steps 4")["config"]
    assert (config["model"], config["lr"], config["global_batch"], config["steps"]) == ("mlp:8", 0.5, 40, 4)
    assert (config["nesterov"], config["seed"]) == (False, 0)
    assert train(f"--config {tmp_path}/run.toml")["epochs"] == 3.0


def test_the_learning_rate_follows_the_batch(train):
    scaled = train(f"{SMALL} --steps 4 --lr 0.05 --global-batch 64 --base-batch 16 --lr-rule linear")
    plain = train(f"{SMALL} --steps 4 --lr 0.2 --global-batch 64")
    assert scaled["weights_sha256"] == plain["weights_sha256"]


def test_python_can_open_what_was_written(train, tmp_path):
    summary = train(f"{SMALL} --steps 3", out=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json", "metrics.jsonl", "summary.json", "checkpoints",
    }  # fmt: skip
    state = load_file(tmp_path / "out" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert {name: a.shape for name, a in state.items()} == {
        "0.weight": (16, 64), "0.bias": (16,), "2.weight": (10, 16), "2.bias": (10,),
    }  # fmt: skip
    digest = hashlib.sha256(b"".join(state[name].astype("<f4").tobytes() for name in sorted(state)))
    assert digest.hexdigest() == summary["weights_sha256"]


# --- another place, another process ------------------------------------------------------------------------------


def allgrad(words):
    return main(words.split())


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """A run in `run`, whose data and model are a/t.csv and a/net.py, and a copy of these two in b."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{a},{b},{int(a > b)}" for a, b in np.random.default_rng(0).normal(size=(50, 2)).round(3)]
    for folder in ("a", "b", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(NET)
        (tmp_path / folder / "t.csv").write_text("\n".join(["u,v,label", *rows]))
    words = "train --data a/t.csv --model a/net.py:Net --global-batch 10 --steps 3 --momentum 0.9 --out run"
    assert allgrad(words) == 0
    return tmp_path


def test_a_run_goes_on_where_its_files_are_now(placed, train, monkeypatch, capsys):
    monkeypatch.chdir(placed / "elsewhere")
    assert allgrad("train --resume --out ../run --steps 6") == 0  # its relative paths begin where it was begun
    monkeypatch.chdir(placed)
    (placed / "a").rename(placed / "gone")
    assert allgrad("train --resume --out run --steps 9") == 2
    assert "--data " in (told := capsys.readouterr().err) and "is not there any more: give --data with" in told
    assert allgrad("train --resume --out run --steps 9 --data b/t.csv --model b/net.py:Net") == 0
    assert allgrad("train --resume --out run --steps 12") == 0
    flags = f"--data {placed}/b/t.csv --model {placed}/b/net.py:Net --global-batch 10 --momentum 0.9"
    assert (
        json.loads((placed / "run" / "summary.json").read_text())["weights_sha256"]
        == (train(f"{flags} --steps 12")["weights_sha256"])
    )


def test_files_of_another_content_are_refused_with_what_differs(placed, capsys):
    then = json.loads((placed / "run" / "config.json").read_text())
    with open(placed / "b" / "t.csv", "a") as file:
        file.write("\n1,0,1")
    (placed / "b" / "net.py").write_text(NET + "\n")
    for word, key in (("--data b/t.csv", "data_sha256"), ("--model b/net.py:Net", "model_sha256")):
        assert allgrad(f"train --resume --out run --steps 6 {word}") == 2
        told = capsys.readouterr().err
        assert f"{word} has changed since the run began (its SHA-256 was {then[key]}, and is " in told
    assert allgrad("predict --checkpoint run --out p.csv --model b/net.py:Net") == 2
    assert f"(its SHA-256 was {then['model_sha256']}, and is " in capsys.readouterr().err


def test_predictions_are_of_the_same_samples_where_files_are_now(placed, monkeypatch):
    assert allgrad("predict --checkpoint run --out p.csv") == 0
    monkeypatch.chdir(placed / "elsewhere")
    assert allgrad("predict --checkpoint ../run --out ../q.csv") == 0
    monkeypatch.chdir(placed)
    (placed / "a").rename(placed / "gone")
    assert allgrad("predict --checkpoint run --out r.csv --data b/t.csv --model b/net.py:Net") == 0
    assert len({(placed / name).read_bytes() for name in ("p.csv", "q.csv", "r.csv")}) == 1


def test_a_run_that_is_going_on_is_not_gone_on_with(placed, capsys):
    words = [sys.executable, "-c", HOLDER, "run"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mine\n"
        before = {path: path.read_bytes() for path in (placed / "run").rglob("*") if path.is_file()}
        assert allgrad("train --resume --out run --steps 6") == 2
        assert f"run is being written to by process {process.pid} on host " in capsys.readouterr().err
        assert {path: path.read_bytes() for path in before} == before
        process.kill()
    assert allgrad("train --resume --out run --steps 6") == 0


def test_a_signal_before_the_first_step_ends_at_once_and_leaves_nothing(start, tmp_path):
    (tmp_path / "net.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n{NET}")
    done = start("train --model net.py:Net --out out", tmp_path)
    assert done.status == 143 and done.told() == ["interrupted by SIGTERM"] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("variables", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {}])
def test_names_in_every_alphabet_in_every_locale(variables, placed, start):
    folder = placed / "größe"
    (placed / "a").rename(folder)
    options = 'data = "größe/t.csv"\nmodel = "größe/net.py:Net"\nout = "größe/lauf"\nsteps = 2\nglobal-batch = 10\n'
    (placed / "run.toml").write_text(options, encoding="utf-8")
    done = start("train --config run.toml", placed, **variables)
    assert done.status == 0 and done.out.startswith("größe/t.csv: 40 samples; größe/net.py:Net: "), done.err
    assert allgrad("train --resume --out größe/lauf --data größe/t.csv --steps 4") == 0
    done = start("predict --checkpoint größe/lauf --out größe/p.csv", placed, **variables)
    assert done.status == 0 and done.out.startswith("größe/p.csv: 10 samples of größe/t.csv"), done.err


@pytest.mark.parametrize(("loss", "perplexity"), [(np.log(7.0), 7.0), (800.0, np.inf), (np.nan, np.nan)])
def test_the_perplexity_of_a_text_is_that_of_a_character(loss, perplexity):
    found = train.Text(None).finish({"loss": float(loss), "accuracy": 0.5})
    assert found["accuracy"] == 0.5 and found["perplexity"] == pytest.approx(perplexity, nan_ok=True)


ON_GPUS = """
import inspect, sys
import torch
import torch.distributed as dist
from allgrad.ddp.comm import detect, torch_distributed
from allgrad.launch.__main__ import main
from tests.device.pretend import pretend

make = dist.new_group

def new_group(*args, backend=None, device_id=None, **more):  # Gloo in NCCL's place
    return make(*args, backend="gloo" if backend else None, **more)

new_group.__signature__ = inspect.signature(make)
dist.new_group, dist.is_nccl_available = new_group, lambda: True
torch.cuda.nccl.version = lambda: (2, 0)
on_host = lambda self, array: array.cpu() if isinstance(array, torch.Tensor) else torch.from_numpy(array)
torch_distributed.TorchCommunicator._tensor = on_host
with pretend():
    if "--distinct" in sys.argv:
        torch.cuda.get_device_properties(0).uuid = detect().rank
    status = main([word for word in sys.argv[1:] if word != "--distinct"])
sys.exit(status)
"""


@pytest.mark.parametrize("launcher, backend", [("mpirun", "mpi"), ("torchrun", "gloo")])
def test_ranks_on_gpus_of_their_own_talk_by_nccl_and_others_through_the_host(launcher, backend, start, train, tmp_path):
    (tmp_path / "script.py").write_text(ON_GPUS)
    flags = "--model mlp:16 --arrays torch --shards 2 --checkpoint-every 3"
    run = lambda words: start(f"train {words}", tmp_path, 2, launcher, script="script.py")
    shared, own = (
        run(f"{flags} --steps 6 --device cuda:0 --out a"),
        run(f"{flags} --steps 3 --device cuda --out b --distinct"),
    )
    first, second = shared.out.splitlines()[:2]
    assert f"on 2 ranks ({launcher}, {backend}, torch on cuda:0 in float32)" in first, shared.err
    assert second.startswith("ranks send arrays through the host's memory, since ranks 0 and 1 have the same GPU of ")
    assert f"on 2 ranks ({launcher}, nccl, torch on cuda in float32)" in own.out and "through the host" not in own.out
    again = run("--resume --out b --steps 6 --distinct")
    assert f"({launcher}, nccl, torch on cuda in float32)" in again.out and "steps 3 to 6" in again.out, again.err
    alone = train("--model mlp:16 --arrays torch --shards 2 --steps 6")
    assert {json.loads((tmp_path / out / "summary.json").read_text())["weights_sha256"] for out in "ab"} == {
        alone["weights_sha256"]
    }
    refused = run(f"{flags} --steps 6 --device cuda")
    (told,) = refused.told()
    assert refused.status in (1, 2) and told.startswith("--device cuda: ranks 0 and 1 have the same GPU of ")
