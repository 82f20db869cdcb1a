"""`allgrad study tune`: a search from beginning to end."""

import json
import math
import re
import shlex
import shutil
from types import SimpleNamespace

import pytest

from allgrad.launch.study import Lab, Workload, search
from allgrad.launch.study.experiments.tune.search import PLACES, Setting, Trial, shaped


def test_the_model_of_a_trial():
    assert shaped("mlp:128", {"depth": 2, "width": 32, "activation": "tanh"}) == "mlp:32,32:tanh"
    assert shaped("mlp:64:gelu", {"depth": 3}) == "mlp:64,64,64:gelu"
    assert shaped("mlp:64,32:tanh", {"activation": "relu"}) == "mlp:64,32" and shaped("lenet5", {"lr": 1}) == "lenet5"
    assert shaped("transformer", {"width": 32, "depth": 3}) == "transformer:32,4,3"
    assert shaped("lstm:64", {"depth": 2}) == "lstm:64,2"


# --- the whole search ------------------------------------------------------------------------------------------------

WORDS = ["lr=log:1e-2..1e3", "batch=32,128", "activation=relu,tanh", "optimizer=momentum,adam", "momentum=0.5,0.9"]


def tables(result):
    return [table.csv() for table in result.tables]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small search by successive halving, and its directory."""
    out = tmp_path_factory.mktemp("tune")
    return halved(out), out


def halved(out):
    with Lab(out, jobs=1) as lab:
        return search(
            lab,
            Workload(model="mlp:8"),
            space=WORDS,
            search="halving",
            trials=12,
            steps="1ep",
            report_seeds=(100, 101, 102),
        )


def test_a_search_cut_anywhere_ends_with_the_same_tables(whole, tmp_path):
    result, out = whole
    lines = (out / "runs.jsonl").read_bytes().splitlines(keepends=True)
    for n in (5, 13):  # within the first level, and within the second
        cut = tmp_path / str(n)
        shutil.copytree(out, cut)
        (cut / "runs.jsonl").write_bytes(b"".join(lines[:n]) + lines[n][:40])
        assert tables(halved(cut)) == tables(result)


def test_all_trials_are_shown_and_the_best_go_on(whole):
    result, _ = whole
    trials, finalists, shares, effects, pairs, levels = (table.rows for table in result.tables)
    assert [row["trial"] for row in trials] == [*range(12)] and {row["status"] for row in trials} >= {"ok", "diverged"}
    for row in trials:
        assert ("momentum" in row) == (row["optimizer"] == "momentum") and (row["rank"] is None) == (row["fail"] > 0)
    first = sorted((row["score"], row["trial"]) for row in levels if row["level"] == 1)
    assert {row["trial"] for row in levels if row["level"] == 2} == {k for _, k in first[:4]}
    assert {row["trial"] for row in trials if row["n_seeds"] == 3} >= {row["trial"] for row in finalists[:2]}
    assert {row["budget"] for row in trials if row["n_seeds"] == 3} == {"1ep"} and len(pairs) <= 10
    assert [row["finalist"] for row in finalists] == [*PLACES, "median"]
    assert [row["finalist"] for row in result.summary.rows] == [row["finalist"] for row in finalists]
    assert all(row["verdict"] for row in finalists[1:]) and finalists[0]["verdict"] == ""
    assert [row["rank"] for row in trials if row["trial"] == finalists[0]["trial"]] == [1]
    assert {row["name"] for row in shares} == {word.partition("=")[0] for word in WORDS}
    assert sum(row["n"] for row in effects if row["name"] == "lr") == 12
    assert any("failed: " in note and "diverged" in note for note in result.notes)
    assert "equal examples" in result.headline and all("equal examples" in f.caption for f in result.figures)
    assert result.claims == [] and finalists[-1]["verdict"] in ("worse", "not told apart")
    for role in (row["finalist"] for row in finalists if row["verdict"] == "not told apart"):
        assert role in result.headline.partition("not told apart from it: ")[2].partition(";")[0]
    assert any(line.startswith("In the search the winner scored ") for line in result.findings)


def test_its_command_trains_the_winner_again(whole, tmp_path, monkeypatch, capsys):
    from allgrad.launch.__main__ import main

    result, out = whole
    line = next(row["command"] for row in result.tables[1].rows if row["command"] in result.advice)
    words = shlex.split(line)
    assert words[:2] == ["allgrad", "train"]
    monkeypatch.chdir(tmp_path)
    assert main([*words[1:], "--out", "again"]) == 0
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    same = [row for row in rows if row["config"]["seed"] == 0 and str(row["config"]["lr"]) in words]
    assert summary["val_loss"] == same[-1]["final_val_loss"]


def test_its_figures_are_drawn(whole):
    pytest.importorskip("matplotlib")
    for figure in whole[0].figures:
        drawn = figure.draw()
        drawn.canvas.draw()
        shown = [axes for axes in drawn.axes if axes.get_visible()]
        assert len(shown) == (len(WORDS) if figure.name == "trials" else 1) and all(a.get_xlabel() for a in shown)


def test_the_best_are_confirmed_with_seeds_that_are_not_kept_fresh():
    asked = []

    def run(configs, name):
        asked.extend(config["seed"] for config in configs)
        return [{"status": "ok", "final_val_loss": 1.0}] * len(configs)

    setting = Setting(SimpleNamespace(run=run), Workload(), {}, "random", 4, "val_loss", "epoch", (0,))
    trial = Trial({}, [[{"status": "ok", "final_val_loss": 2.0}]])
    assert setting.confirm([trial], (1, 3, 4)) == [0]
    assert asked == [0, 2, 5]


@pytest.mark.parametrize("spec", ["0.5..0.9", "0.5,0.9"])
def test_a_hyperparameter_may_apply_to_no_trial(spec, tmp_path):
    pytest.importorskip("matplotlib")
    space = {"lr": "0.01..0.1", "optimizer": "adam,momentum", "momentum": spec}
    with Lab(tmp_path, jobs=1) as lab:
        result = search(
            lab, Workload(model="softmax"), space=space, search="random", search_seed=1, trials=2, steps=3,
            report_seeds=(100,),
        )  # fmt: skip
    tried, _, shares, *_ = (table.rows for table in result.tables)
    assert {row["optimizer"] for row in tried} == {"adam"}
    (momentum,) = [row for row in shares if row["name"] == "momentum"]
    assert momentum["n"] == 0 and math.isnan(momentum["fail_least"]) and math.isnan(momentum["fail_most"])
    assert all(figure.draw().axes for figure in result.figures)


def test_a_space_from_a_file_and_equal_steps(tmp_path, monkeypatch, capsys):
    from allgrad.launch.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(
        'search = "grid"\nsteps = 4\ntrials = 4\njobs = 1\nreport-seeds = 2\nmodel = "softmax"\n'
        'metric = "val_accuracy"\n'
        '[space]\nlr = "log:0.01..0.1"\nbatch = [8, 16]\n'
    )
    assert main(["study", "tune", "--config", "s.toml", "--out", "out"]) == 0
    rows = [json.loads(line)["config"] for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert {(c["lr"], c["batch"]) for c in rows} == {(0.01, 8), (0.01, 16), (0.1, 8), (0.1, 16)}
    assert {c["steps"] for c in rows} == {4} and {c["seed"] for c in rows} == {0, 1, 2, 100, 101}
    said = capsys.readouterr().out
    assert "equal steps" in said and "val error" in said and "--boundary carry" in said


@pytest.mark.parametrize(
    "flags, message",
    [("--search hill", "--search hill is not one of grid, random, quasi, halving"),
     ("--space depth=1,2 --model softmax", "--space depth has no effect on softmax"),
     ("--space init=kaiming,xavier --space lr=1,2 --space lr=3", "--space lr is given twice"),
     ("--space optimizer=sgd,adam --optimizer sgd", "--space optimizer and --optimizer say the same"),
     ("--space optimizer=sdg,adam", "optimizer 'sdg' is not one of"),
     ("--space momentum=0.5,0.9 --optimizer adam", "--space momentum has no effect on adam"),
     ("--space momentum=0.5,0.9 --optimizer sgd,momentum", "makes sgd and momentum the same"),
     ("--space depth=1,2 --model mlp:8,4", "differ in width: give --space width"),
     ("--space lr=1,2 --steps 0", "--steps 0 is no budget"), ("--trials 1", "--trials is at least 2, got 1"),
     ("--space lr=0.1,1e6 --space model=mlp:4|mlp:5 --space depth=1,2", "both say what the model is"),
     ("--target 0.1", "--target has no effect on allgrad study tune"),
     ("--space lr=1e30,1e31 --steps 40 --jobs 1", r"all 2 trials failed \(2 diverged\): give smaller learning rates")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(flags, message, tmp_path, monkeypatch, capsys):
    from allgrad.launch.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["study", "tune", *flags.split()]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("allgrad: ") and re.search(message, said), said
