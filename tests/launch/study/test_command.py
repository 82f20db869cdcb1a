"""`allgrad study`: options from a file, and what is wrong in one sentence."""

import json
import re
from dataclasses import replace

import pytest

from allgrad.launch.__main__ import _parser
from allgrad.launch.options import OPTIONS as OF_TRAIN
from allgrad.launch.study.command import OF_A_DIRECTORY, status
from allgrad.launch.study.experiments import VERBS, module_of
from allgrad.launch.study.options import GRID, GROUPS, OPTIONS, REPEATED, typed

NOT_THE_SAME = "lr", "steps", "out"  # of a study: where a search begins; a budget, also in epochs; a place to go on in


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
     ("steps --batches 4,x", "--batches takes numbers with commas between them, got '4,x'"),
     ("steps --out /proc/x", "--out /proc/x cannot be"),
     ("status", "arguments are required: DIR"),
     ("table nowhere", "nowhere/runs.jsonl cannot be read"),
     ("steps there", "writes to --out DIR, and takes no there"),
     ("status . --jobs 3", "unrecognized arguments: --jobs 3"),
     ("steps --retry some", "--retry some is not one of error, all"),
     ("steps --config no.toml", "no.toml cannot be read"),
     ("steps --optimizer sdg --jobs 1", "optimizer 'sdg' is not one of"),
     ("steps --target 1e-9 --cap 9 --batches 64,128,256 --jobs 1", "meets train_loss 1e-09 with no learning rate"),
     ("steps --dropout -0.5 --jobs 1", "--dropout is at least 0.0, got -0.5"),
     ("steps --schedule spiral --jobs 1", "every learning rate fails: .*--schedule spiral is not one of")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(flags, message, tmp_path, monkeypatch, capsys):
    from allgrad.launch.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["study", *flags.split()]) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("allgrad: ") and re.search(message, said), said
    told = r"steps: (\d+ of )?(about )?\d+ (known |to \d+ )?runs|looking for a target"
    assert all(re.match(told, line) for line in before)


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
        ("--target -1", "train_loss is never below 0: give a --target above 0, got -1"),
        ("--metric val_accuracy --target 97", "an accuracy is a share: give a --target up to 1, got 97.0"),
    ],
)
def test_values_that_no_run_can_take(start, tmp_path, words, said):
    done = start(f"study steps --jobs 1 --out out {words}", tmp_path)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1, done.err


# --- the help --------------------------------------------------------------------------------------------------------


def shown(words, capsys):
    from allgrad.launch.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["study", *words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_lists_every_study_in_one_line(capsys):
    lines = shown([], capsys).splitlines()
    for verb, text in {**VERBS, **OF_A_DIRECTORY}.items():
        (line,) = [line for line in lines if line.split()[:1] == [verb]]
        assert line.split(maxsplit=1)[1] == text


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_study_has_its_own_options_in_groups_and_an_example_that_is_one(verb, capsys):
    text = shown([verb], capsys)
    takes = module_of(verb).run.takes()
    flags = {*re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE)}
    own = {OPTIONS[name].flag for name in OPTIONS if name not in GRID or name in takes}
    assert flags == own | {"--preset", "--config"}
    titles = [f"{title}:" for title, options in GROUPS.items() if own & {option.flag for option in options}]
    assert [line for line in text.splitlines() if line in titles] == titles
    (example,) = re.findall(rf"^  allgrad (study {verb} .*)$", text, re.MULTILINE)
    given = vars(_parser(example.split()).parse_args(example.split()))
    options = {name: typed(name, v) for name, v in given.items() if name in GRID and name not in REPEATED}
    module_of(verb).run.chosen("quick", options)


def test_the_help_shows_what_each_size_of_the_grids_has(capsys):
    text = " ".join(shown(["steps", "--preset", "full"], capsys).split())
    assert "[quick: sgd,momentum,adam; full: sgd,momentum,nesterov,adam,rmsprop]" in text
    assert "one that a short run proposes [0.05 on digits with mlp:128]" in text
    assert "[quick: 4,8,...,1024; full: 2,4,...,1024]" in text and "steps after which a run has failed [6000]" in text
    assert "How many steps to a target does a batch size take" in text


@pytest.mark.parametrize(
    "words, said",
    [("steps --trials 4", "--trials has no effect on allgrad study steps: it is for tune"),
     ("tune --target 3", "--target has no effect on allgrad study tune: it is for steps, noise, lr-rules, "),
     ("steps --batchs 4,8", "unrecognized arguments: --batchs, is --batches meant? (see allgrad study steps --help)"),
     ("stps", "table, watch; is steps meant?"), ("--jobs 1 steps", "the study comes before its options, as in"),
     ("steps --momentum fast", "--momentum takes a number, got 'fast'"),
     ("steps --init zeroes", "--init zeroes is not one of kaiming, "),
     ("steps --l1 -1", "--l1 is at least 0.0, got -1")],
)  # fmt: skip
def test_an_option_that_is_not_taken_says_where_it_belongs_or_what_is_meant(words, said, capsys):
    from allgrad.launch.__main__ import main

    assert main(["study", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("allgrad: ") and said in err and err.count("\n") == 1


def test_a_file_with_a_word_that_is_none_says_what_is_meant(tmp_path, capsys):
    from allgrad.launch.__main__ import main

    (tmp_path / "a.toml").write_text("batchs = [4, 8]\n")
    assert main(["study", "steps", "--config", str(tmp_path / "a.toml")]) == 2
    assert capsys.readouterr().err.endswith("has unknown keys: batchs; is batches meant?\n")


@pytest.mark.parametrize("head, key", [("[steps]\ntarget = 0.3", "target"), ("[noise]\njobs = 1", "jobs")])
def test_a_file_with_sections_says_that_it_has_none(head, key, tmp_path, capsys):
    from allgrad.launch.__main__ import main

    (tmp_path / "a.toml").write_text(f"seeds = 1\n{head}\n")
    assert main(["study", "steps", "--config", str(tmp_path / "a.toml")]) == 2
    said = capsys.readouterr().err
    assert f"has a section {head.split()[0]}, and a file of options has no sections: write {key} = ... without" in said


def test_a_study_that_replaces_a_larger_one_says_so(tmp_path, capsys):
    from allgrad.launch.__main__ import main

    words = "--model mlp:8 --target 1.5 --seeds 1 --report-seeds 1 --jobs 1 --out"
    for optimizers in ("sgd,adam", "sgd"):
        given = [*words.split(), str(tmp_path), "--batches", "64,128,256", "--optimizers", optimizers]
        assert main(["study", "steps", *given]) == 0
    first, second = capsys.readouterr().out.split("files: ")[1:]
    assert "replaces the" not in first
    assert "report.html: replaces the steps study of adam, sgd by one of sgd; its runs are kept" in second


def test_the_status_of_a_directory_counts_runs_side_by_side_each(tmp_path):
    rows = [{"run_id": str(n), "exp": "steps", "config": {}, "status": "ok", "wall_s": 40.0} for n in range(2)]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, *_ = status(tmp_path).splitlines()
    assert first == f"{tmp_path}: 2 runs, which lasted 80 s in all (runs side by side count each)"


@pytest.mark.parametrize("name", [o.name for o in OF_TRAIN if o.name in OPTIONS and o.name not in NOT_THE_SAME])
def test_an_option_of_train_is_the_same_in_a_study(name):
    (of_train,) = [option for option in OF_TRAIN if option.name == name]
    assert OPTIONS[name] == replace(of_train, help=OPTIONS[name].help, among=OPTIONS[name].among)
    assert {*OPTIONS[name].among} <= {*of_train.among}


def test_switches_and_lengths_of_train_reach_the_runs(tmp_path):
    from allgrad.launch.__main__ import main

    words = "--model mlp:8 --optimizer sgd --batches 64,128,256 --target 1.5 --seeds 1 --report-seeds 1 --jobs 1"
    more = (
        "--momentum 0.5 --nesterov --weight-decay 0.001 --l1 0.0001 --no-decay --schedule linear --warmup 3 --cap 300"
    )
    assert main(["study", "steps", *words.split(), *more.split(), "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])["config"]
    assert config.items() >= {"momentum": 0.5, "nesterov": True, "weight_decay": 1e-3, "l1": 1e-4, "no_decay": True,
                              "schedule": "linear", "warmup": 3}.items()  # fmt: skip
