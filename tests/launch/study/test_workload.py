"""What is trained: data with label noise, data and models of the user's own, and arrays that no model can learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import r2_score

from allgrad import nn, no_grad
from allgrad.ddp import ConfigurationError
from allgrad.launch.data import digits
from allgrad.launch.study import Workload, workload
from allgrad.launch.study.runner import Run, configuration, execute

DIGITS = Workload()


def row(work=DIGITS, **given):
    return execute(configuration(work, given.pop("optimizer", "sgd"), **{"target": 0.3, "lr": 0.5, **given}))


def test_label_noise_touches_the_training_labels_only():
    clean, noisy = DIGITS.loaded, Workload(label_noise=0.2).loaded
    share = (clean.train_y != noisy.train_y).mean()
    assert 0.15 < share < 0.2  # a tenth of the labels drawn anew are what they were
    assert (clean.val_y == noisy.val_y).all() and (Workload(label_noise=0.2).loaded.train_y == noisy.train_y).all()


def small(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def test_data_and_models_of_ones_own():
    data = digits.load()
    own = Workload((data.train_x, data.train_y, data.val_x, data.val_y), small)
    assert row(own)["status"] == "ok"
    config = own.config()
    assert config["data"] == "own" and config["data_sha256"] == data.sha256
    assert {*workload.unnamed_objects(config)} == {config["data_sha256"], config["model_sha256"]}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    line = Workload((x, x @ [1.0, 2.0, 3.0], x, x @ [1.0, 2.0, 3.0]), "softmax")
    assert row(line, lr=0.05, target=0.01)["status"] == "ok"
    assert row(line, lr=50.0, target=0.01)["status"] == "diverged"


def test_a_regression_is_measured_in_the_unit_of_its_targets():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    y = np.stack([1e4 + 100.0 * (x @ [1.0, 2.0, 3.0] + rng.standard_normal(300)), x[:, 0]], 1)
    work = Workload((x[:200], y[:200], x[200:], y[200:]), "softmax", eval_samples=150)
    run = Run(configuration(work, "sgd", lr=0.01, target=0.5, metric="val_r2"))
    run.model.load_state_dict({"0.weight": np.array([[100.0, 200, 300], [1, 0, 0]]), "0.bias": np.array([1e4, 0.1])})
    for part, rows in (("train", run.parts["train"]), ("val", (x[200:], y[200:]))):
        x_, y_ = (np.asarray(a, np.float32) for a in rows)
        with no_grad():
            predicted = run.model(x_).data.astype(float)
        error, found = predicted - y_, run.evaluate(part)
        assert found["mse"] == pytest.approx(np.mean(error**2), rel=1e-6) and found["loss"] == pytest.approx(
            found["mse"]
        )
        assert found["mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-6)
        assert found["r2"] == pytest.approx(r2_score(y_, predicted), rel=1e-6)
    constant = Workload((x[:200], y[:200], x[:9], y[:1].repeat(9, 0)), "softmax")
    assert [*Run(configuration(constant, "sgd", target=1.0)).evaluate("val")] == ["loss", "mse", "mae"]


def test_a_target_of_r2_is_met_from_below():
    x = np.random.default_rng(0).standard_normal((200, 3))
    line = Workload((x, x @ [1.0, 2.0, 3.0], x, x @ [1.0, 2.0, 3.0]), "softmax")
    found = row(line, lr=0.05, target=0.9, metric="val_r2")
    assert found["status"] == "ok" and 0.9 <= found["final_val_r2"] < 1.0
    assert row(line, lr=0.05, target=0.9, metric="val_accuracy")["error"].endswith(
        "give val_loss, val_mse, val_mae, val_r2"
    )


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


def whole(different, each):
    """Whole numbers as labels, so many different ones, each so often."""
    labels = np.repeat(np.arange(different), each)
    return np.ones((len(labels), 2)), labels, np.ones((3, 2)), labels[:3]


@pytest.mark.parametrize(
    "different, each, task, classes",
    [(20, 1, None, 20), (21, 1, None, None), (21, 5, None, 21), (300, 4, None, None), (300, 4, "classification", 300),
     (10, 9, "regression", None)],
)  # fmt: skip
def test_whole_numbers_are_classes_by_the_rule_of_tables_or_by_what_is_given(different, each, task, classes):
    data = Workload(whole(different, each), "softmax", task=task).loaded
    assert data.classes == classes and data.train_y.dtype == (np.float32 if classes is None else np.int64)
    seen = f"train_y: {different} different whole numbers in {different * each:,} samples, taken as "
    assert data.remarks == () if task else data.remarks[0].startswith(seen)


@pytest.mark.parametrize(
    "data, task, said",
    [((X, WORDS, X, WORDS), "regression", "train_y holds words, and task='regression' needs numbers"),
     ((X, Y + 0.5, X, Y + 0.5), "classification", "train_y has 0.5: task='classification' needs whole numbers"),
     ("digits", "regression", "task='regression' is for arrays: of a table, say it in its name"),
     ((X, Y, X, Y), "classes", "task 'classes' is not one of classification, regression")],
)  # fmt: skip
def test_a_task_that_the_labels_do_not_have(data, task, said):
    with pytest.raises(ConfigurationError, match=f"^{said}"):
        Workload(data, "softmax", task=task).config()
