"""`allgrad study tune`: spaces, designs, successive halving, importance, and a search from beginning to end."""

import json
import math
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import Lab, Workload, configuration, search
from allgrad.launch.study.experiments.tune import findings
from allgrad.launch.study.experiments.tune.designs import Rung, design, halving, parse, part, promoted, rungs, spaces
from allgrad.launch.study.experiments.tune.importance import bins, crossed, importance, together
from allgrad.launch.study.experiments.tune.search import Setting, Trial, shaped

# --- spaces ----------------------------------------------------------------------------------------------------------


def test_a_space_is_read_from_words_and_from_values():
    space = spaces(["lr=log:1e-3..1", "batch=16, 32", "width=int:32..256", "weight-decay=0..0.1", "warmup=0,1ep",
                    "schedule=constant|step:30ep,0.1", "momentum=0.9"])  # fmt: skip
    lr, width = space["lr"], space["width"]
    assert [lr.at(u) for u in (0.0, 1 / 3, 2 / 3, 1.0)] == [0.001, 0.01, 0.1, 1.0]
    assert space["batch"].choices == (16, 32) and width.at(0.0) == 32 and width.at(1.0) == 256
    assert type(width.at(0.3)) is int and space["weight_decay"].at(0.5) == 0.05
    assert space["schedule"].choices == ("constant", "step:30ep,0.1") and space["warmup"].choices == (0, "1ep")
    assert space["momentum"].fixed and not space["momentum"].at_edge(0.9)
    assert spaces({"batch": (16, 32), "lr": "log:1e-3..1"}) == {"batch": space["batch"], "lr": lr}
    assert parse("schedule", ["step:30ep,0.1"]).choices == ("step:30ep,0.1",)  # a list has no commas to split at


def test_whole_numbers_of_a_range_are_drawn_equally_often():
    depth = parse("depth", "1..3")
    counts = np.bincount([depth.at(u) for u in np.linspace(0.0, 1.0, 3001)])
    assert counts[0] == 0 and np.all(np.abs(counts[1:] - 1000) <= 2)


def test_an_edge_is_where_a_better_value_may_lie_beyond():
    lr, decay, depth = parse("lr", "log:0.001..1"), parse("weight_decay", "0..1"), parse("depth", "1,2,3")
    assert [lr.at_edge(v) for v in (0.0011, 0.01, 0.99)] == [True, False, True]
    assert [decay.at_edge(v) for v in (0.0, 0.5, 0.97)] == [False, False, True]
    assert [depth.at_edge(v) for v in (1, 2, 3)] == [False, False, True]
    assert not parse("optimizer", "sgd,adam").at_edge("adam")


@pytest.mark.parametrize(
    "words, message",
    [("beta=1,2", "beta is not one of lr, batch, depth"), ("lr", "--space lr has no values: write NAME=SPEC"),
     ("lr=log:0..1", "needs 0 < A < B, got 0 and 1|lr is above 0, got 0"), ("lr=1..0.1", "needs A < B, got 1 and 0.1"),
     ("lr=cube:1..2", "'cube' is not lin, log or int"), ("lr=int:1..2", "lr is no whole number; write lr=lin:1..2"),
     ("batch=16,x", "'x' is not a whole number"), ("batch=16,16", "has a value twice"), ("width=0,8", "at least 1"),
     ("width=1.5..8", "'1.5' is not a whole number"), ("momentum=0..1", "at least 0 and below 1, got 1"),
     ("lr=nan,1", "got nan"), ("activation=relu,tanhh", "'tanhh' is not one of relu"), ("warmup=1ep,-3", "is not a le"),
     ("schedule=spiral,linear", "'spiral' is not one of constant"), ("optimizer=,sgd", "empty value")],
)  # fmt: skip
def test_a_wrong_space_is_said_in_one_sentence(words, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        spaces([words])
    assert "\n" not in str(caught.value)


def test_the_model_of_a_trial():
    assert shaped("mlp:128", {"depth": 2, "width": 32, "activation": "tanh"}) == "mlp:32,32:tanh"
    assert shaped("mlp:64:gelu", {"depth": 3}) == "mlp:64,64,64:gelu"
    assert shaped("mlp:64,32:tanh", {"activation": "relu"}) == "mlp:64,32" and shaped("lenet5", {"lr": 1}) == "lenet5"
    assert shaped("transformer", {"width": 32, "depth": 3}) == "transformer:32,4,3"
    assert shaped("lstm:64", {"depth": 2}) == "lstm:64,2"


# --- designs ---------------------------------------------------------------------------------------------------------

SPACE = spaces(["lr=log:1e-3..1", "batch=16,32,64", "optimizer=sgd,adam", "depth=2"])


@pytest.mark.parametrize("kind", ["random", "quasi"])
def test_a_drawn_design_is_the_same_again_and_goes_on(kind):
    first = design(SPACE, kind, 20)
    assert design(SPACE, kind, 50)[:20] == first and design(SPACE, kind, 20, seed=1) != first
    assert {trial["depth"] for trial in first} == {2} and all(1e-3 <= trial["lr"] <= 1.0 for trial in first)


def test_a_quasi_random_design_fills_the_space_evenly():
    def worst(kind):  # the largest gap between neighbours, in shares of the range
        shares = sorted(SPACE["lr"].place(trial["lr"]) for trial in design(SPACE, kind, 64))
        return max(np.diff([0.0, *shares, 1.0]))

    assert worst("quasi") < 2.5 / 64 < worst("random")


def test_a_grid_is_as_fine_as_the_trials_allow():
    found = design(SPACE, "grid", 20)
    assert len(found) == 18 and {trial["lr"] for trial in found} == {0.001, 0.03162, 1.0}
    with pytest.raises(ConfigurationError, match="grid has 12 trials with 2 points a range, and --trials is 11"):
        design(SPACE, "grid", 11)
    with pytest.raises(ConfigurationError, match="nothing to search"):
        design(spaces(["lr=0.1"]), "grid", 11)


def test_the_levels_of_successive_halving():
    assert rungs(81, 3) == [Rung(81, 27), Rung(27, 9), Rung(9, 3), Rung(3, 1)]
    assert rungs(81, 3, most=9) == [Rung(81, 9), Rung(27, 3), Rung(9, 1)] and rungs(3, 2) == [Rung(3, 1)]
    assert promoted({0: 2.0, 1: 1.0, 2: math.inf, 3: 1.0, 4: 1.0}, 2) == [1, 3]
    assert promoted({0: math.inf, 1: 1.0}, 2) == [1]
    asked = []

    def score(ids, level):
        asked.append((list(ids), level.divisor))
        return {k: abs(k - 4) + (math.inf if k == 4 and level.divisor == 3 else 0.0) for k in ids}

    halving(rungs(9, 3), range(9), score)
    assert asked == [([*range(9)], 3), ([3, 5, 2], 1)] or asked == [([*range(9)], 3), ([2, 3, 5], 1)]


def test_parts_of_a_budget():
    assert [part(10, 3), part("9ep", 3), part("1000samples", 3)] == [4, "3.0000ep", "334samples"]
    assert part("9ep", 1) == "9ep"


# --- importance ------------------------------------------------------------------------------------------------------


def test_importance_finds_known_shares():
    """y = 2 a + b + noise, of variances 4/4, 1/4, 1/4 with a and b 0 or 1: shares 2/3, 1/6 and 0."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(2, size=400).tolist() for _ in range(3))
    y = 2.0 * np.array(a) + np.array(b) + rng.normal(0.0, 0.5, 400)
    found = [importance(g, y) for g in (a, b, c)]
    for one, share in zip(found, (2 / 3, 1 / 6, 0.0)):
        assert one.low <= share <= one.high and abs(one.share - share) < 0.08 and (one.groups, one.n) == (2, 400)
    assert found[0].low > found[1].high and found[1].share > found[1].chance and found[2].share <= found[2].chance
    assert together([a, b, c], y) == pytest.approx(5 / 6, abs=0.04)


def test_many_groups_of_few_trials_do_not_look_important():
    rng = np.random.default_rng(1)
    shares = [importance(rng.integers(6, size=24), rng.normal(size=24), n=50).share for _ in range(100)]
    assert np.mean(shares) < 0.08  # the plain R^2 would be 5/23 on average


def test_two_that_matter_only_together():
    a, b = np.arange(80) % 2, np.arange(80) // 2 % 2
    y = (a ^ b) + np.random.default_rng(3).normal(0.0, 0.3, 80)
    assert importance(a, y).share < 0.05 and together([a, b], y) < 0.05
    assert importance(crossed(a, b), y).share == pytest.approx(0.25 / (0.25 + 0.09), abs=0.1)


def test_failures_and_what_does_not_apply_are_in_no_share():
    rng = np.random.default_rng(2)
    g = rng.integers(3, size=60)
    y = g + rng.normal(0.0, 0.3, 60)
    more = importance([*g, 0, 1, None], [*y, math.inf, math.inf, 50.0])
    assert more == importance(g, y) and more.n == 60
    assert math.isnan(importance([0, 1, 0], [1.0, math.inf, 2.0]).share)


def test_a_curve_with_its_best_in_the_middle_matters():
    lr = parse("lr", "log:1e-3..1")
    values = [lr.at(u) for u in np.linspace(0.0, 1.0, 60)]
    group, labels = bins(lr, values)
    assert len(labels) == 4 and set(np.bincount(group)) <= {14, 15, 16}
    assert importance(group, [(lr.place(v) - 0.5) ** 2 for v in values]).share > 0.6


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
            lab, Workload(model="mlp:8"), space=WORDS, search="halving", trials=12, steps="1ep", report_seeds=(100, 101)
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
    assert [row["finalist"] for row in finalists][:2] == ["winner", "runner-up"]
    assert [row["rank"] for row in trials if row["trial"] == finalists[0]["trial"]] == [1]
    assert {row["name"] for row in shares} == {word.partition("=")[0] for word in WORDS}
    assert sum(row["n"] for row in effects if row["name"] == "lr") == 12
    assert any("failed: " in note and "diverged" in note for note in result.notes)
    assert "equal examples" in result.headline and all("equal examples" in f.caption for f in result.figures)
    verdicts = {check.claim.split(" on fresh")[0]: check.verdict for check in result.checks}
    assert verdicts["the winner is better than the median trial"] == "PASS"


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


@pytest.mark.parametrize(
    "winner, median, verdict",
    [((math.inf,), (0.5,), "FAIL"), ((math.inf,), (math.inf,), "FAIL"), ((0.5,), (math.inf,), "PASS"),
     ((0.5, math.inf), (0.6,), "PASS")],
)  # fmt: skip
def test_a_winner_that_fails_with_every_fresh_seed_is_no_winner(winner, median, verdict):
    assert findings._ratio("", {"winner": winner, "median": median}, "median trial").verdict == verdict


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


@pytest.mark.parametrize("seed, said", [(0, True), (1, False)])
def test_a_file_that_a_run_splits_by_its_seed_has_no_command(seed, said, tmp_path):
    lines = [f"{0.1 * i},{i % 7},{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["u,v,label", *lines]))
    work = Workload(str(tmp_path / "rows.csv"), "softmax")
    row = {"config": configuration(work, "sgd", steps=4, batch=4, seed=seed), "steps": 4}
    assert (findings.command(work, row) is not None) == said


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
