"""`allgrad study steps`, and the command around it."""

import json

import pytest

from launch.study import Lab, Workload, steps
from launch.study.command import seeds, status, table


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of three batch sizes, and its directory."""
    out = tmp_path_factory.mktemp("steps")
    with Lab(out, jobs=1) as lab:
        result = steps(
            lab, Workload(), optimizers=("sgd",), batches=(8, 64, 512), seeds=(0, 1), report_seeds=(100, 101)
        )
    return result, out


def test_digits_scale_perfectly_first_and_then_no_more(small):
    rows = small[0].tables[0].rows
    s = {row["B"]: row["S"] for row in rows}
    assert 4.0 <= s[8] / s[64] <= 8.0 and 1.5 <= s[64] / s[512] <= 3.0
    assert rows[0]["region"] is None and rows[1]["slope"] < rows[2]["slope"] < -0.1
    assert all(row["E"] == row["B"] * row["S"] and row["n_fail"] == 0 and not row["at_edge"] for row in rows)
    assert all(row["ci_lo"] <= row["S"] <= row["ci_hi"] for row in rows)
    assert all(check.verdict == "PASS" for check in small[0].checks)
    assert "B_crit = " in small[0].headline and not any("digits" in check.claim for check in small[0].checks)
    assert "sampler epoch" in small[0].methods and "S_min is" in " ".join(small[0].notes)


def test_its_figures_are_drawn(small):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    for figure in small[0].figures:
        drawn = figure.draw()
        drawn.canvas.draw()
        assert drawn.axes and all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
        plt.close(drawn)


def test_what_a_directory_holds(small):
    _, out = small
    said = status(out)
    runs = len((out / "runs.jsonl").read_text().splitlines())
    assert f"{runs} runs" in said and "steps " in said and " ok" in said
    shown = table(out).splitlines()
    assert len(shown) == runs + 1 and shown[0].split()[:4] == ["run_id", "exp", "data", "model"]
    every = table(out, csv=True).splitlines()
    assert len(every) == runs + 1 and "config.lr" in every[0] and "wall_s" in every[0]


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


def test_seeds_are_a_number_or_a_list():
    assert seeds("3") == (0, 1, 2) and seeds("4,7") == (4, 7)


@pytest.mark.parametrize(
    "flags, message",
    [("stairs", "unknown study 'stairs': expected one of steps"), ("steps --preset huge", "huge is not one of"),
     ("steps --model mlp", "needs numbers|'mlp'"), ("steps --batches 4,8", "need at least 3 batch sizes, got 2"),
     ("steps --model softmax", "which train_loss is to be reached on digits, softmax"),
     ("steps --batches 4,x", "'4,x': expected numbers with commas"), ("steps --out /proc/x", "--out /proc/x cannot be"),
     ("status", "needs the directory of a study"), ("table nowhere", "nowhere/runs.jsonl cannot be read"),
     ("steps there", "writes to --out DIR, and takes no there"), ("status . --jobs 3", "and no --jobs"),
     ("steps --retry some", "--retry some is not error or all"), ("steps --config no.toml", "no.toml cannot be read"),
     ("steps --optimizer sdg --jobs 1", "optimizer 'sdg' is not one of"),
     ("steps --target 1e-9 --cap 9 --batches 64,128,256 --jobs 1", "meets train_loss 1e-09 with no learning rate"),
     ("steps --schedule spiral --jobs 1", "every learning rate fails: .*--schedule spiral is not one of")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(flags, message, tmp_path, monkeypatch, capsys):
    import re

    from launch.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["study", *flags.split()]) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("allgrad: ") and re.search(message, said), said
    assert all(re.match(r"steps: \d+ of \d+ known runs", line) for line in before)
