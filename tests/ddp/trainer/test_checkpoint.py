"""Checkpoints: whole or not at all, and never a silent fall back to the wrong one."""

import ast
import errno
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from allgrad import ddp, nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError
from allgrad.ddp.trainer import FILES, MARKER, checkpoint, tensor_file

EVERY_FILE = (*FILES, MARKER)


def contents(step):
    rng = generator("checkpoint", step)
    model = {
        "fc.weight": rng.standard_normal((3, 4)).astype("f4"),
        "fc.bias": rng.standard_normal(3),
        "scale": np.ones(()),
    }
    optimizer = {"steps": step, "mean": {"fc.weight": rng.standard_normal((3, 4)), "a/b": np.arange(3.0)}, "empty": {}}
    return model, optimizer, {"step": step, "best": {"val_loss": None}, "text": "é"}


def write(directory, *steps, keep=9):
    for step in steps:
        model, optimizer, state = contents(step)
        checkpoint.save(directory, step, model, optimizer, state, keep)
    return [path.name for path in checkpoint.steps_in(directory)]


def same(found, step):
    model, optimizer, state = contents(step)
    assert found[2] == state and found[1]["steps"] == step
    del optimizer["empty"]  # no arrays, nothing to write
    assert found[1].keys() == optimizer.keys()
    for mine, theirs in [(model, found[0]), (optimizer["mean"], found[1]["mean"])]:
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
            assert array.tobytes() == theirs[name].tobytes()
    return True


def test_what_is_saved_is_what_is_loaded(tmp_path):
    write(tmp_path, 3)
    assert same(checkpoint.load_latest(tmp_path), 3) and same(checkpoint.load(tmp_path / "step-00000003"), 3)
    assert sorted(p.name for p in (tmp_path / "step-00000003").iterdir()) == sorted(EVERY_FILE)


@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam, optim.Adagrad])
def test_models_and_optimizers_come_back(rule, tmp_path):
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizers = [rule(one, lr=0.1), rule(other, lr=0.1)]
    for optimizer in optimizers[:1] * 3:
        optimizer.zero_grad()
        one(np.ones((2, 4), np.float32)).sum().backward()
        optimizer.step()
    checkpoint.save(tmp_path, 3, one.state_dict(), optimizers[0].state_dict(), {})
    model, state, _ = checkpoint.load_latest(tmp_path)
    other.load_state_dict(model)
    optimizers[1].load_state_dict(state)
    assert optimizers[1].steps == 3
    assert optimizers[0].arena.sha256() == optimizers[1].arena.sha256()
    assert all(np.array_equal(a, optimizers[1].state[key]) for key, a in optimizers[0].state.items())


def test_torch_loads_the_model_and_computes_the_same(tmp_path):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    checkpoint.save(tmp_path, 1, model.state_dict(), {"steps": 0}, {})
    twin = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    twin.load_state_dict(load_file(tmp_path / "step-00000001" / "model.safetensors"))
    x = generator("twin").standard_normal((3, 4)).astype("f4")
    np.testing.assert_allclose(model(x).numpy(), twin(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


def most_memory(f):
    """(what f returns, the most bytes that Python and NumPy allocated for it at once)."""
    tracemalloc.start()
    try:
        return f(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_large_state_is_written_and_read_without_another_copy_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 1 << 12)
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 1 << 12)
    size = 1 << 20  # bytes of an array
    state = {name: np.full(size // 8, value) for name, value in (("a", 1.0), ("b", 2.0))}
    _, most = most_memory(lambda: checkpoint.save(tmp_path, 1, state, {"steps": 1, "mean": state}, {}))
    assert most < size // 2
    (model, optimizer, _), most = most_memory(lambda: checkpoint.load_latest(tmp_path, lazily=True))
    assert most < size // 2 and optimizer["steps"] == 1
    target = np.zeros(size // 8)
    _, most = most_memory(lambda: [array.read_into(target) for array in (*model.values(), *optimizer["mean"].values())])
    assert most < size // 2 and target[-1] == 2.0
    (model, _, _), most = most_memory(lambda: checkpoint.load(tmp_path / "step-00000001"))
    assert most < 4.5 * size and model["a"][0] == 1.0


# --- damage ------------------------------------------------------------------------------------------------------


def flip(content, rng):
    at, bit = rng.integers(len(content)), rng.integers(8)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


DAMAGES = {
    "truncated": lambda content, rng: content[: rng.integers(len(content))],
    "a bit flipped": flip,
    "zeros at the end": lambda content, rng: content[:-8] + bytes(8),
    "emptied": lambda content, rng: b"",
    "missing": lambda content, rng: None,
}


def damage(path, file, kind, seed=0):
    content = DAMAGES[kind]((path / file).read_bytes(), generator("damage", file, kind, seed))
    (path / file).unlink() if content is None else (path / file).write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", EVERY_FILE)
def test_damage_is_named_and_the_checkpoint_before_is_used(file, kind, tmp_path):
    for seed in range(8):
        write(tmp_path, 1, 2)
        newest = tmp_path / "step-00000002"
        damage(newest, file, kind, seed)
        with pytest.raises(ConfigurationError, match=r"checkpoint .*step-00000002 is (damaged|incomplete)") as caught:
            checkpoint.load(newest)
        assert file in str(caught.value) and "\n" not in str(caught.value)
        warnings = []
        assert same(checkpoint.load_latest(tmp_path, warnings.append), 1)
        assert warnings == [f"{caught.value}; going back to the one before"]


@pytest.mark.parametrize("file", EVERY_FILE)
def test_files_of_another_checkpoint_are_damage(file, tmp_path):
    write(tmp_path, 1, 2)
    one, two = checkpoint.steps_in(tmp_path)
    (two / file).write_bytes((one / file).read_bytes())
    named = FILES[0] if file == MARKER else file
    with pytest.raises(ConfigurationError, match=rf"{re.escape(named)} does not have the checksum"):
        checkpoint.load(two)
    assert same(checkpoint.load_latest(tmp_path, lambda text: None), 1)


@pytest.mark.parametrize("one, other", [*itertools.combinations(EVERY_FILE, 2)])
def test_files_that_have_changed_places_are_damage(one, other, tmp_path):
    write(tmp_path, 1, 2)
    path = tmp_path / "step-00000002"
    first, second = (path / one).read_bytes(), (path / other).read_bytes()
    (path / one).write_bytes(second)
    (path / other).write_bytes(first)
    with pytest.raises(ConfigurationError, match=r"step-00000002 is damaged"):
        checkpoint.load(path)


def test_checkpoints_that_have_changed_places_are_damage(tmp_path):
    write(tmp_path, 1, 2)
    for name, other in (("step-00000001", "kept"), ("step-00000002", "step-00000001"), ("kept", "step-00000002")):
        (tmp_path / name).rename(tmp_path / other)
    for path in checkpoint.steps_in(tmp_path):
        with pytest.raises(ConfigurationError, match=r"is damaged: its files are those of step [12]"):
            checkpoint.load(path)


@pytest.mark.parametrize("put", [lambda path: path.write_text("x"), lambda path: path.symlink_to("gone"), Path.mkdir])
def test_what_is_no_checkpoint_is_named_and_can_be_replaced(put, tmp_path):
    write(tmp_path, 1)
    put(tmp_path / "step-00000002")
    warnings = []
    assert same(checkpoint.load_latest(tmp_path, warnings.append), 1)
    assert len(warnings) == 1 and "step-00000002 is incomplete" in warnings[0]
    assert write(tmp_path, 2) == ["step-00000001", "step-00000002"] and same(checkpoint.load_latest(tmp_path), 2)
    assert len([*tmp_path.iterdir()]) == 2


def test_a_directory_that_cannot_be_read_does_not_count_as_one_without_checkpoints(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=r"cannot be looked for .*Not a directory"):
        checkpoint.load_latest(tmp_path / "file")
    write(tmp_path, 1)
    monkeypatch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    for look in (checkpoint.load_latest, checkpoint.steps_in):
        with pytest.raises(ConfigurationError, match=r"cannot be looked for .*Permission denied"):
            look(tmp_path)


def test_damage_everywhere_leaves_nothing_to_go_on_with(tmp_path):
    assert checkpoint.load_latest(tmp_path / "none") is None
    write(tmp_path, 1, 2, 3)
    for path, file in zip(checkpoint.steps_in(tmp_path), EVERY_FILE):
        damage(path, file, "truncated")
    warnings = []
    assert checkpoint.load_latest(tmp_path, warnings.append) is None
    assert [f"step-0000000{step}" in text for step, text in zip((3, 2, 1), warnings, strict=True)] == [True] * 3


# --- writing -----------------------------------------------------------------------------------------------------


def test_the_last_ones_are_kept(tmp_path):
    assert write(tmp_path, 1, 2, 3, 10, keep=2) == ["step-00000003", "step-00000010"]
    assert write(tmp_path, 20, keep=1) == ["step-00000020"]


def test_damaged_ones_of_later_steps_do_not_push_out_the_new_ones(tmp_path):
    write(tmp_path, 10, 20, keep=2)
    for path in checkpoint.steps_in(tmp_path):
        damage(path, MARKER, "missing")
    write(tmp_path, 5, keep=2)
    assert same(checkpoint.load_latest(tmp_path, lambda text: None), 5)


def test_a_step_can_be_written_again(tmp_path):
    write(tmp_path, 1)
    damage(tmp_path / "step-00000001", MARKER, "missing")
    write(tmp_path, 1)
    assert same(checkpoint.load_latest(tmp_path), 1)


def refuse(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def after(count, f):
    """f, but no space left after so many calls."""
    calls = iter(range(count))
    return lambda *args: refuse() if next(calls, None) is None else f(*args)


FAULTS = [*((os, "fsync", after(n, os.fsync)) for n in range(5)), (Path, "rename", refuse), (Path, "mkdir", refuse)]


@pytest.mark.parametrize("owner, name, fault", FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_disk_that_refuses_costs_the_new_checkpoint_only(owner, name, fault, tmp_path, monkeypatch):
    write(tmp_path, 1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(owner, name, fault)
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert same(checkpoint.load_latest(tmp_path), 1)
    assert write(tmp_path, 3) == ["step-00000001", "step-00000003"]


def test_a_process_killed_while_writing_leaves_nothing_that_counts(tmp_path, monkeypatch):
    write(tmp_path, 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        write(tmp_path, 2)
    assert [path.name for path in checkpoint.steps_in(tmp_path)] == ["step-00000001"]
    assert write(tmp_path, 2) == ["step-00000001", "step-00000002"]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_no_file_is_read_or_written_as_pickle():
    messages = Path(ddp.__file__).parent / "comm" / "messages.py"  # ranks of one run trust each other
    for path in {*Path(ddp.__file__).parent.rglob("*.py")} - {messages}:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {
            alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
        }
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"} & (imported | modules), path
        assert "allow_pickle" not in {node.arg for node in nodes if isinstance(node, ast.keyword)}, path


def test_state_json_is_for_people(tmp_path):
    write(tmp_path, 4)
    state = json.loads((tmp_path / "step-00000004" / "state.json").read_text())
    assert state["step"] == 4 and state["optimizer"] == {"steps": 4}


# --- in the background -------------------------------------------------------------------------------------------


def test_what_training_does_next_is_not_what_is_written(tmp_path, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(checkpoint, "_flush", lambda path: go_on.wait(60))
    writer = checkpoint.Writer(tmp_path)
    model, optimizer, state = contents(7)
    writer.save(7, model, optimizer, state)
    state["best"]["val_loss"] = 0.5
    state["text"] = "later"
    assert checkpoint.steps_in(tmp_path) == []  # it is being written, and `save` has returned
    go_on.set()
    assert writer.wait() is None and same(checkpoint.load_latest(tmp_path), 7)


def test_one_is_written_at_a_time_in_order(tmp_path, monkeypatch):
    busy, write_one = threading.Lock(), checkpoint._write

    def alone(*args):
        assert busy.acquire(blocking=False)
        write_one(*args)
        busy.release()

    monkeypatch.setattr(checkpoint, "_write", alone)
    with checkpoint.Writer(tmp_path) as writer:
        for step in range(5):
            writer.save(step, *contents(step))
    assert [path.name for path in checkpoint.steps_in(tmp_path)] == ["step-00000003", "step-00000004"]


def test_a_refusal_is_reported_at_once_and_forgotten_by_the_next_that_is_written(tmp_path, monkeypatch, capsys):
    writer = checkpoint.Writer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        writer.save(1, *contents(1))
        error = writer.wait()
    assert isinstance(error, OSError) and error.errno == errno.ENOSPC
    assert capsys.readouterr().err == f"checkpoint of step 1 not written: {error}\n"
    writer.save(2, *contents(2))
    assert writer.wait() is None and same(checkpoint.load_latest(tmp_path), 2)


def test_a_fault_of_the_program_reaches_the_training_thread(tmp_path):
    writer = checkpoint.Writer(tmp_path)
    writer.save(1, {"w": "not an array"}, {}, {})
    with pytest.raises(Exception, match="str"):
        writer.wait()


# Writes step after step in processes of its own, each of which is killed as it touches the disk for the n-th time.
MORTAL = """
import os, sys, random, signal
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_checkpoint
from allgrad.ddp.trainer import checkpoint

touches = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
rng, first = random.Random(0), 1
for life in range(15):
    left = rng.randrange(1, 60)
    if not (child := os.fork()):
        def die(event, args):
            global left
            left -= event in touches
            if event in touches and not left:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        writer = checkpoint.Writer(Path(sys.argv[1]))
        for step in range(first, first + 20):
            writer.save(step, *test_checkpoint.contents(step))
            writer.wait()
            os.write(int(sys.argv[3]), b"%d\\n" % step)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    warnings = []
    found = checkpoint.load_latest(sys.argv[1], warnings.append)
    told = os.pread(int(sys.argv[3]), 10_000, 0).split()
    if found or told:
        assert test_checkpoint.same(found, found[2]["step"]) and found[2]["step"] >= int(told[-1] if told else 0)
        first = found[2]["step"] + 1
    assert warnings == [], warnings
print(first)
"""


def test_a_kill_at_any_moment_leaves_the_one_before_whole(tmp_path):
    with open(tmp_path / "told", "w+b") as told:
        words = [sys.executable, "-c", MORTAL, str(tmp_path / "checkpoints"), str(Path(__file__).parent)]
        done = subprocess.run(
            [*words, str(told.fileno())], pass_fds=[told.fileno()], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
