"""`allgrad study`: options from a file, and what is wrong in one sentence."""

import json

import pytest


def test_a_file_of_options(start, tmp_path):
    (tmp_path / "study.toml").write_text(
        'optimizer = "momentum"\nbatches = [64, 128, 256]\ntarget = 0.3\nseeds = 1\nreport-seeds = [7, 9]\njobs = 1\n'
        'model = "mlp:16"\nout = "out"\n'
    )
    done = start("study steps --config study.toml --batches 128,256,512", tmp_path)
    assert done.status == 0, done.err
    rows = [json.loads(line)["config"] for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert {c["batch"] for c in rows} == {128, 256, 512} and {c["model"] for c in rows} == {"mlp:16"}
    assert {c["seed"] for c in rows} == {0, 7, 9} and {c["momentum"] for c in rows} == {0.9}
    assert done.out.startswith("momentum: ")


@pytest.mark.parametrize(
    "flags, message",
    [("stairs", "unknown study 'stairs': expected one of steps"), ("steps --preset huge", "huge is not one of"),
     ("steps --model mlp", "needs numbers|'mlp'"), ("steps --batches 4,8", "need at least 3 batch sizes, got 2"),
     ("steps --model softmax", "which train_loss is to be reached on digits, softmax"),
     ("steps --batches 4,x", "--batches takes numbers with commas between them, got '4,x'"), ("steps --out /proc/x", "--out /proc/x cannot be"),
     ("status", "arguments are required: DIR"), ("table nowhere", "nowhere/runs.jsonl cannot be read"),
     ("steps there", "writes to --out DIR, and takes no there"), ("status . --jobs 3", "unrecognized arguments: --jobs 3"),
     ("steps --retry some", "--retry some is not one of error, all"), ("steps --config no.toml", "no.toml cannot be read"),
     ("steps --optimizer sdg --jobs 1", "optimizer 'sdg' is not one of"),
     ("steps --target 1e-9 --cap 9 --batches 64,128,256 --jobs 1", "meets train_loss 1e-09 with no learning rate"),
     ("steps --dropout -0.5 --jobs 1", "--dropout is at least 0.0, got -0.5"),
     ("steps --schedule spiral --jobs 1", "every learning rate fails: .*--schedule spiral is not one of")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(flags, message, tmp_path, monkeypatch, capsys):
    import re

    from allgrad.launch.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["study", *flags.split()]) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("allgrad: ") and re.search(message, said), said
    assert all(re.match(r"steps: (\d+ of )?(about )?\d+ (known |to \d+ )?runs", line) for line in before)


@pytest.mark.parametrize(
    "words, said",
    [
        ("--batches 8,8,16", "--batches takes values that differ, each of them once, got '8,8,16'"),
        ("--batches 0,8,16", "--batches takes numbers of at least 1, got '0,8,16'"),
        ("--seeds 0", "--seeds takes at least 1 seed, or the seeds with commas between them, got '0'"),
        ("--lr 0", "--lr takes a number above 0, got '0'"),
        ("--cap 1.5", "--cap takes a whole number, got '1.5'"),
        ("--eval-samples 0", "--eval-samples is at least 1, got 0"),
        ("--init zeroes", "--init zeroes is not one of"),
        ("--dtype float8", "--dtype float8 is not one of float32, float64"),
        ("--model nowhere.py:Net", "--model nowhere.py:Net: there is no file nowhere.py"),
        ("--metric val_accuracy --target 97", "an accuracy is a share: give a --target up to 1, got 97.0"),
    ],
)
def test_values_that_no_run_can_take(start, tmp_path, words, said):
    done = start(f"study steps --jobs 1 --out out {words}", tmp_path)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1, done.err
