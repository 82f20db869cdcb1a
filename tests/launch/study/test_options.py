"""What an experiment is given: the same from Python, from a file and on the command line, or one sentence."""

import math

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Result, Workload, branch, init, noise, project, schedule, search, sharp, steps
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import all as everything
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
     ({"seeds": 0}, "seeds = 0: expected at least 1 seed, or the seeds with commas between them"),
     ({"seeds": 2.5}, "seeds = 2.5: expected numbers with commas between them"),
     ({"seeds": "some"}, "seeds = 'some': expected numbers with commas between them"),
     ({"report_seeds": [1, 1]}, "report_seeds = [1, 1]: expected each of them once"),
     ({"batches": [0, 4]}, "batches = [0, 4]: expected numbers of at least 1"),
     ({"batches": []}, "batches = []: expected numbers with commas between them"),
     ({"weight_decay": "much"}, "weight_decay = 'much': expected a number"),
     ({"batchs": [4]}, "--batchs has no effect on allgrad study test-options"),
     ({"trials": 4}, "--trials has no effect on allgrad study test-options")],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_sentence(options, said):
    with pytest.raises(ConfigurationError) as raised:
        given(**options)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    "run, options, said",
    [(steps, {"preset": "huge"}, "--preset huge is not one of quick, full"),
     (steps, {"batches": "8,16"}, "--batches: steps against batch size need at least 3 batch sizes, got 2"),
     (steps, {"trials": 3}, "--trials has no effect on allgrad study steps"),
     (noise, {"trials": 3}, "--trials has no effect on allgrad study steps"),
     (init, {"optimizers": "sgd,adam"}, "init takes one optimizer, got sgd, adam"),
     (sharp, {"batches": 8}, "--batches: sharpness is compared between 2 batch sizes or more, got 1"),
     (search, {"eta": 4}, "--eta has no effect on --search quasi: leave it out, or give --search halving"),
     (search, {"search": "grid", "search_seed": 1}, "--search-seed has no effect on --search grid, which draws "
                                                    "nothing: leave it out"),
     (search, {"search_seed": -1}, "--search-seed is at least 0, got -1"),
     (project, {"size": 0}, "size = 0: expected an integer above 0"),
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
def test_runs_that_end_in_an_error_are_no_result(run, options, said, tmp_path):
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match=f"^{said}: .*momentum belongs to"):
        run(lab, Workload(), optimizers="adam", momentum=0.5, lr=0.01, report_seeds=[100], **options)


# --- data of one's own -----------------------------------------------------------------------------------------------

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
WORDS = np.array(["b", "c", "a", "b", "c", "a"])


@pytest.mark.parametrize("labels", [WORDS, WORDS.astype(object), WORDS.astype("S1"), WORDS[:, None]])
def test_labels_that_are_words_count_in_their_order(labels):
    data = Workload((X, labels, X[:3], labels[:3]), "softmax").loaded
    assert data.classes == 3 and data.train_y.tolist() == [1, 2, 0, 1, 2, 0] and data.val_y.tolist() == [1, 2, 0]


def with_at(value):
    found = X.copy()
    found[4, 1] = value
    return found


@pytest.mark.parametrize(
    "arrays, said",
    [((with_at(math.nan), Y, X, Y), "train_x has values that are not finite in float32, 1 in all, the first in"),
     ((X, Y, with_at(1e60), Y), "val_x has values that are not finite in float32, 1 in all, the first in"),
     ((X, with_at(math.inf), X, X), "train_y has values that are not finite in float32, 1 in all, the first in"),
     ((X.astype(str) + "m", Y, X, Y), "train_x holds numbers, got <U"),
     ((X, WORDS, X[:1], ["d"]), "val_y has the label 'd', which train_y does not have: leave it out"),
     ((X, Y - 1, X, Y), "labels that are whole numbers count from 0, got -1: number them anew"),
     ((X, Y, X, Y + 0.5), "labels that are whole numbers count from 0, got float64 in val_y: number them anew"),
     ((X, np.stack([Y, Y], 1), X, Y), "there is one label a sample, got labels of shapes (6, 2) and (6,)"),
     ((X, Y, X[:, :1], Y), "samples have one shape, got (2,) and, in val_x, (1,)"),
     ((X, Y[:5], X, Y), "train_x and train_y, and val_x and val_y, have one length above 0, got [6, 5, 6, 6]")],
)  # fmt: skip
def test_arrays_that_no_model_can_learn(arrays, said):
    with pytest.raises(ConfigurationError) as raised:
        Workload(arrays, "softmax").config()
    message = str(raised.value)
    assert message.startswith(said) and ("finite" not in said or "the first in sample 4: mend" in message)
