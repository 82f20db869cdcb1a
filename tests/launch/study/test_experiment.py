"""What an experiment is given: the same from Python, from a file and on the command line, or one sentence."""

import re
import sys

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.study import (
    Lab,
    Result,
    Workload,
    branch,
    experiments,
    init,
    noise,
    project,
    runner,
    schedule,
    search,
    sharp,
    steps,
)
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import all as everything
from allgrad.launch.study.kept import read
from allgrad.launch.study.options import typed

GRIDS = {
    "quick": {"optimizers": ("sgd",), "batches": (4, 8), "seeds": (0, 1), "report_seeds": (100,)},
    "full": {"optimizers": ("sgd", "adam"), "batches": (2, 4), "seeds": (0,), "report_seeds": (100, 101)},
}


@experiment(GRIDS)
def asked(lab, work, preset, *, optimizers=PRESET, batches=PRESET, seeds=PRESET, report_seeds=PRESET, **more):
    """Says what it was given."""
    told = {"optimizers": optimizers, "batches": batches, "seeds": seeds, "report_seeds": report_seeds, **more}
    return Result("asked", "", "", notes=[told])


def given(**options):
    return asked(None, Workload(), **options).notes[0]


@pytest.mark.parametrize(
    "value, seeds, report",
    [(3, (0, 1, 2), (100, 101, 102)), ("3", (0, 1, 2), (100, 101, 102)), (range(2), (0, 1), (0, 1)),
     ([0, 1], (0, 1), (0, 1)), ("0,1", (0, 1), (0, 1)), ((7,), (7,), (7,)), ("7,", (7,), (7,)),
     (np.array([4, 7]), (4, 7), (4, 7)), (np.int64(2), (0, 1), (100, 101))],
)  # fmt: skip
def test_seeds_are_their_number_or_themselves(value, seeds, report):
    assert given(seeds=value)["seeds"] == seeds and given(report_seeds=value)["report_seeds"] == report


def test_what_is_not_given_is_the_presets():
    assert given() == GRIDS["quick"] and given(preset="full", seeds=None) == GRIDS["full"]


def test_one_value_is_a_list_of_one_and_numbers_are_those_of_the_command_line():
    assert given(optimizers="adam")["optimizers"] == ("adam",)
    assert given(optimizers="adam, sgd")["optimizers"] == given(optimizers=["adam", "sgd"])["optimizers"]
    assert given(batches=64)["batches"] == (64,) and given(batches=np.array([8.0, 16.0]))["batches"] == (8, 16)
    assert given(weight_decay="1e-3")["weight_decay"] == 1e-3 and given(momentum=0.9)["momentum"] == 0.9
    assert typed("compute", (1e-3, 2e-7)) == (1e-3, 2e-7) and typed("budgets", ["2ep", 50]) == ("2ep", "50")


def test_optimizer_and_batch_are_other_words_as_in_a_file():
    assert given(optimizer="adam", batch=64) == given(optimizers="adam", batches=64)
    with pytest.raises(ConfigurationError, match=r"^batch and batches are the same: give one of them$"):
        given(batch=64, batches=[64])


@pytest.mark.parametrize(
    "options, said",
    [({"momentum": 0.5}, "--momentum belongs to sgd, rmsprop, lars, muon, not to adam"),
     ({"no_decay": True}, "--no-decay has no effect on sgd without --weight-decay or --l1"),
     ({"optimizers": "sgd,sdg"}, "optimizer 'sdg' is not one of ")],
)  # fmt: skip
def test_what_an_optimizer_does_not_take_is_said_before_the_first_run(options, said, tmp_path):
    for run in (steps, everything.run):
        with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match=re.escape(said)):
            run(lab, Workload(), **options)
        assert lab.asked == 0


def test_all_experiments_get_several_optimizers():
    assert everything.run.chosen("quick", {"optimizers": "sgd,adam", "seeds": 2}) == {
        "optimizers": ("sgd", "adam"), "seeds": (0, 1),
    }  # fmt: skip


def test_fresh_seeds_that_are_not_are_told():
    _, said = asked(None, Workload(), seeds=(0, 1, 2), report_seeds=(1, 2, 3)).notes
    assert said.startswith("Seeds 1, 2 are reported and were tuned with as well")


@pytest.mark.parametrize(
    "options, said",
    [({"preset": "huge"}, "--preset huge is not one of quick, full"),
     ({"seeds": 0}, "--seeds takes at least 1 seed, or the seeds with commas between them, got '0'"),
     ({"seeds": 2.5}, "--seeds takes numbers with commas between them, got '2.5'"),
     ({"seeds": "some"}, "--seeds takes numbers with commas between them, got 'some'"),
     ({"report_seeds": [1, 1]}, "--report-seeds takes values that differ, each of them once, got '1,1'"),
     ({"batches": [0, 4]}, "--batches takes numbers of at least 1, got '0,4'"),
     ({"batches": []}, "--batches takes numbers with commas between them, got ''"),
     ({"weight_decay": "much"}, "--weight-decay takes a number, got 'much'"),
     ({"batchs": [4]}, "--batchs has no effect on allgrad study test-experiment: is --batches meant?"),
     ({"trials": 4}, "--trials has no effect on allgrad study test-experiment: it is for tune")],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_sentence(options, said):
    with pytest.raises(ConfigurationError) as raised:
        given(**options)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    "run, options, said",
    [(steps, {"preset": "huge"}, "--preset huge is not one of quick, full"),
     (steps, {"batches": "8,16"}, "--batches: steps against batch size need at least 3 batch sizes, got 2"),
     (steps, {"trials": 3}, "--trials has no effect on allgrad study steps: it is for tune"),
     (noise, {"trials": 3}, "--trials has no effect on allgrad study noise: it is for tune"),
     (init, {"optimizers": "sgd,adam"}, "init takes one optimizer, got sgd, adam"),
     (sharp, {"batches": 8}, "--batches: sharpness is compared between 2 batch sizes or more, got 1"),
     (search, {"eta": 4}, "--eta has no effect on --search quasi: leave it out, or give --search halving"),
     (search, {"search": "grid", "search_seed": 1}, "--search-seed has no effect on --search grid, which draws "
                                                    "nothing: leave it out"),
     (search, {"search_seed": -1}, "--search-seed is at least 0, got -1"),
     (project, {"size": 0}, "--size is at least 1, got 0"),
     (branch, {"checkpoints": (-5, 2)}, "--checkpoints are numbers of steps, 0 or more, got -5")],
)  # fmt: skip
def test_experiments_from_python(run, options, said, tmp_path):
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError) as raised:
        run(lab, Workload(), **options)
    assert str(raised.value) == said
    with pytest.raises(ConfigurationError, match=r"^a study is of a Workload\(data, model\), got str$"):
        run(lab, "digits")


@pytest.mark.parametrize(
    "run, options, said",
    [(branch, {"batches": (8, 64), "checkpoints": (0, 2)}, "the branches of adam cannot be run"),
     (schedule, {}, "the arms of adam cannot be run")],
)  # fmt: skip
def test_runs_that_end_in_an_error_are_no_result(run, options, said, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(runner, "make_optimizer", fail)
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match=f"^{said}: .*no memory left"):
        run(lab, Workload(), optimizers="adam", lr=0.01, report_seeds=[100], **options)


# --- one more --------------------------------------------------------------------------------------------------------

LUCK = """
from allgrad.launch.study import runner
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.result import Result, Table

GRIDS = {"quick": {"seeds": (0, 1, 2)}, "full": {"seeds": tuple(range(10))}}

@experiment(GRIDS)
def run(lab, work, preset="quick", *, seeds=PRESET, lr=0.1, steps="1ep") -> Result:
    rows = lab.run([runner.configuration(work, "sgd", seed=seed, lr=lr, steps=steps) for seed in seeds], "luck")
    losses = [{"seed": seed, "val_loss": row["final_val_loss"]} for seed, row in zip(seeds, rows)]
    spread = max(row["val_loss"] for row in losses) - min(row["val_loss"] for row in losses)
    table = Table("seeds", ["seed", "val_loss"], losses, "Loss at the end.", {"val_loss": "nats"})
    return Result("luck", "What does the seed alone do?", f"A seed moves the loss by {spread:.2g}.", tables=[table])
"""


def test_a_file_and_a_row_make_one_more_experiment(tmp_path, monkeypatch, capsys):
    (tmp_path / "luck.py").write_text(LUCK)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    monkeypatch.setitem(experiments.VERBS, "luck", "what the seed alone does to the loss")
    out = tmp_path / "out"
    assert main(["study", "luck", "--preset", "quick", "--seeds", "4,7", "--jobs", "1", "--out", str(out)]) == 0
    assert re.match(r"A seed moves the loss by 0\.\d+\.\n", capsys.readouterr().out)
    assert [line.split(",")[0] for line in (out / "luck.csv").read_text().splitlines()] == ["seed", "4", "7"]
    assert "What does the seed alone do?" in (out / "report.html").read_text()
    assert [(one.result.name, one.workload) for one in read(out)[0]] == [("luck", "digits, mlp:128")]
    assert main(["study", "luck", "--batches", "4", "--out", str(out)]) == 2
    assert "allgrad: --batches has no effect on allgrad study luck" in capsys.readouterr().err
    sys.modules.pop(f"{experiments.__name__}.luck")
