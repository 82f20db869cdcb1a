"""`allgrad predict`: labels, probabilities and values of samples, alike on any number of ranks."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allgrad.launch.__main__ import main
from allgrad.launch.data import load

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3)) * [1, 10, 100] + [5, 0, 3]
ANSWERS = np.where(X[:, 0] > 5, "yes", "no")
IMAGES = RNG.normal(size=(40, 1, 6, 6)).astype("f4")


def text(rows, header=()):
    return "\n".join(",".join(map(str, row)) for row in [*([header] if header else []), *rows])


FILES = {
    "t.csv": text(([*x, answer] for x, answer in zip(X, ANSWERS)), ["a", "b", "c", "answer"]),
    "bare.csv": text(X[:20], ["a", "b", "c"]),
    "headless.csv": text(X[:20]),
    "shuffled.csv": text(X[:20][:, [0, 2, 1]], ["a", "c", "b"]),
    "wide.csv": text(np.column_stack([X[:20], X[:20]])),
    "narrow.csv": text(X[:20, :1], ["a"]),
    "maybe.csv": text([[*X[0], "maybe"]], ["a", "b", "c", "answer"]),
    "numbers.csv": text([[*X[0], 1], [*X[0], 2]], ["a", "b", "c", "answer"]),
    "other.csv": text(([*x, answer] for x, answer in zip(X[30:40], ANSWERS[30:40])), ["a", "b", "c", "answer"]),
    "renamed.csv": text(X[:20], ["a", "b", "d"]),
    "two.csv": text([a, b / 10] for a, b, _ in X),
    "sum.csv": text([a, b / 10, a - b / 10] for a, b, _ in X),
}
RUNS = {
    "table": "--data t.csv --model mlp:8 --global-batch 10 --steps 60 --lr 0.3 --seed 3",
    "sum": "--data sum.csv --model mlp:8 --global-batch 10 --steps 60 --lr 0.05",
    "images": "--data images.npz --model cnn:4 --global-batch 10 --steps 3",
    "digits": "--model mlp:16 --steps 60",
    "double": "--model softmax --steps 3 --dtype float64",
    "code": "--model autoencoder:5 --steps 3",
    "text": "--data text:t.csv?context=4 --model lstm:4 --steps 2",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with the files and the runs."""
    directory = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, content in FILES.items():
            (directory / name).write_text(content)
        np.savez("images.npz", x=IMAGES, y=np.arange(40) % 2)
        a, b, _ = X.T
        np.savez("sums.npz", x=np.stack([a, b / 10], 1), y=a - b / 10)
        pq.write_table(pa.table({"1": a, "2": b / 10, "3": a - b / 10}), "sums.parquet")
        mean = load("t.csv", seed=3).table["mean"]
        holed, filled = X[:20].copy(), X[:20].copy()
        holed[4, 1] = holed[7, 2] = np.nan
        filled[4, 1], filled[7, 2] = mean[1:]
        (directory / "holes.csv").write_text(text(holed, ["a", "b", "c"]))
        (directory / "means.csv").write_text(text(filled, ["a", "b", "c"]))
        np.savez("unlabelled.npz", x=IMAGES[:5])
        np.savez(
            "parts.npz", x_train=IMAGES[:30], y_train=np.arange(30) % 2, x_val=IMAGES[30:], y_val=np.arange(10) % 2
        )
        for name, flags in RUNS.items():
            assert main(["train", *flags.split(), "--out", name]) == 0
    return directory


@pytest.fixture
def predict(made, tmp_path, monkeypatch, capsys):
    """predict(RUN, FLAGS) returns the lines of the file, as dicts, and what was printed."""
    monkeypatch.chdir(made)
    capsys.readouterr()

    def f(run, flags=""):
        out = tmp_path / "predictions" / "p.csv"
        assert main(["predict", "--checkpoint", run, "--overwrite", "--out", str(out), *flags.split()]) == 0
        assert [path.name for path in out.parent.iterdir()] == ["p.csv"]
        with open(out, newline="") as file:
            return list(csv.DictReader(file)), capsys.readouterr().out.strip()

    return f


def accuracy(rows):
    return np.mean([row["label"] == row["true_label"] for row in rows])


def test_classes_have_labels_probabilities_and_the_truth(predict, made):
    rows, line = predict("digits")
    assert [*rows[0]] == ["index", "label", *(f"probability_{i}" for i in range(10)), "true_label"]
    p = np.array([[float(row[f"probability_{i}"]) for i in range(10)] for row in rows])
    assert p.shape == (360, 10) and np.abs(p.sum(1) - 1).max() < 1e-5
    assert [row["label"] for row in rows] == p.argmax(1).astype(str).tolist()
    assert [row["true_label"] for row in rows] == load("digits").val_y.astype(str).tolist()
    summary = json.loads((made / "digits" / "summary.json").read_text())
    assert accuracy(rows) == pytest.approx(summary["val_accuracy"])
    assert line.endswith(f"p.csv: 360 samples of digits, accuracy {summary['val_accuracy']:.4f}")


@pytest.mark.parametrize("split, count", [("train", 1437), ("val", 360), ("all", 1797)])
def test_parts_of_the_data(predict, split, count):
    rows, _ = predict("digits", f"--split {split}")
    assert [row["index"] for row in rows] == [*map(str, range(count))]
    data = load("digits")
    y = {"train": data.train_y, "val": data.val_y, "all": np.concatenate([data.train_y, data.val_y])}[split]
    assert [row["true_label"] for row in rows] == y.astype(str).tolist() and accuracy(rows) > 0.8


def test_the_index_of_a_table_counts_its_samples_and_the_split_is_that_of_training(predict, made):
    val, _ = predict("table")
    everything, _ = predict("table", "--data t.csv --split all")
    train, _ = predict("table", "--split train")
    assert [row["index"] for row in everything] == [*map(str, range(90))]
    assert [row["true_label"] for row in everything] == ANSWERS.tolist()
    assert sorted(int(row["index"]) for row in [*train, *val]) == [*range(90)] and len(val) == 18
    data = load(str(made / "t.csv"), seed=3)
    assert [row["true_label"] for row in val] == [("no", "yes")[c] for c in data.val_y]
    for row in [*val, *train]:
        again = everything[int(row["index"])]
        assert row["label"] == again["label"]
        assert float(row["probability_yes"]) == pytest.approx(float(again["probability_yes"]), rel=1e-4)
    summary = json.loads((made / "table" / "summary.json").read_text())
    assert accuracy(val) == pytest.approx(summary["val_accuracy"])


@pytest.mark.parametrize("data, rows_of", [("bare.csv", slice(20)), ("headless.csv", slice(20))])
def test_samples_without_labels_are_scaled_as_in_training(predict, data, rows_of):
    expected, _ = predict("table", "--split all")
    rows, line = predict("table", f"--data {data}")
    assert [*rows[0]] == ["index", "label", "probability_no", "probability_yes"] and "accuracy" not in line
    assert [row["label"] for row in rows] == [row["label"] for row in expected[rows_of]]
    for row, other in zip(rows, expected[rows_of]):
        assert float(row["probability_no"]) == pytest.approx(float(other["probability_no"]), rel=1e-4)


def test_another_table_is_taken_whole_and_scaled_as_in_training(predict):
    expected, _ = predict("table", "--split all")
    rows, line = predict("table", "--data other.csv")
    assert [row["index"] for row in rows] == [*map(str, range(10))] and f"accuracy {accuracy(rows):.4f}" in line
    for row, other in zip(rows, expected[30:40]):
        assert float(row["probability_no"]) == pytest.approx(float(other["probability_no"]), rel=1e-4)


def test_a_regression_has_values(predict, made):
    rows, line = predict("sum", "--split val")
    assert [*rows[0]] == ["index", "value_0", "true_value_0"] and len(rows) == 18
    value, true = (np.array([float(row[name]) for row in rows]) for name in ("value_0", "true_value_0"))
    assert sorted({*true} & {*(a - b / 10 for a, b, _ in X)}) == sorted(true)  # as they are written
    found = json.loads((made / "sum" / "summary.json").read_text())
    squared, absolute = np.mean((value - true) ** 2), np.mean(np.abs(value - true))
    r2 = 1 - squared / np.var(true)
    assert [found["val_mse"], found["val_mae"], found["val_r2"]] == pytest.approx([squared, absolute, r2], rel=1e-5)
    assert line.endswith(f"mean squared error {squared:.6g}, mean absolute error {absolute:.6g}, R2 {r2:.4f}")
    before = load(str(made / "sum.csv"))
    assert found["val_loss"] * before.target_scale[1] ** 2 == pytest.approx(found["val_mse"], rel=1e-5)


def test_other_files_of_a_regression_are_scaled_as_in_training(predict, made):
    expected, _ = predict("sum", "--split all")
    for data in ("sums.parquet", "sums.npz", "two.csv"):
        rows, line = predict("sum", f"--data {data}")
        assert len(rows) == 90 and ("R2" in line) == (data != "two.csv")
        for name in [name for name in rows[0] if name in expected[0]]:
            found = [[float(row[name]) for row in some] for some in (rows, expected)]
            np.testing.assert_allclose(*found, rtol=1e-5)


def test_what_is_missing_is_set_to_the_mean_of_the_training_or_left_out(predict):
    expected, _ = predict("table", "--data means.csv")
    rows, printed = predict("table", "--data holes.csv?missing=mean")
    assert [row["probability_no"] for row in rows] == [row["probability_no"] for row in expected]
    assert printed.startswith("2 missing values in 2 samples set to the training mean of the column\n")
    rows, printed = predict("table", "--data holes.csv?missing=drop")
    assert [row["index"] for row in rows] == [str(i) for i in range(20) if i not in (4, 7)]
    assert printed.startswith("2 samples of 20 left out for missing values\n")


def test_images_of_an_npz_file(predict):
    rows, _ = predict("images", "--split all")
    assert len(rows) == 40 and [row["true_label"] for row in rows] == ["0", "1"] * 20
    bare, _ = predict("images", "--data unlabelled.npz")
    assert [*bare[0]] == ["index", "label", "probability_0", "probability_1"] and len(bare) == 5
    parts = {split: predict("images", f"--data parts.npz --split {split}")[0] for split in ("train", "val", "all")}
    assert [row["label"] for row in parts["train"] + parts["val"]] == [row["label"] for row in parts["all"]]
    assert [row["index"] for row in parts["val"]] == [*map(str, range(10))]


def test_an_autoencoder_gives_what_it_reconstructs(predict, made):
    rows, _ = predict("code")
    assert [*rows[0]] == ["index", *(f"value_{i}" for i in range(64))]
    values = np.array([[float(v) for v in [*row.values()][1:]] for row in rows])
    loss = json.loads((made / "code" / "summary.json").read_text())["val_loss"]
    assert np.mean((values - load("digits").val_x) ** 2) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("run, name", [("table", "t.csv"), ("images", "images.npz")])
def test_parts_of_data_that_has_changed_are_refused_and_all_of_it_is_taken(run, name, made, predict, tmp_path, capsys):
    before = (made / name).read_bytes()
    try:
        if name == "t.csv":
            (made / name).write_bytes(before.replace(b"yes", b"no", 1))
        else:
            np.savez(made / name, x=IMAGES[::-1], y=np.arange(40) % 2)
        for split in ("val", "train"):
            asked = ["--checkpoint", run, "--split", split, "--out", str(tmp_path / "p.csv")]
            assert main(["predict", *asked]) == 2 and not (tmp_path / "p.csv").exists()
            (line,) = capsys.readouterr().err.splitlines()
            assert f"--data {name} has changed since the model was trained" in line and "--split all" in line
        rows, _ = predict(run, "--split all")
        assert len(rows) == (90 if name == "t.csv" else 40)
    finally:
        (made / name).write_bytes(before)


def test_one_checkpoint_of_a_run_and_all_digits_of_float64(predict):
    assert predict("double/checkpoints/step-00000003")[0] == predict("double")[0]
    assert max(len(row["probability_0"]) for row in predict("double")[0]) > 15


def test_the_bytes_do_not_depend_on_the_ranks(made, start, tmp_path):
    contents = set()
    for ranks in (0, 2, 3):
        flags = f"predict --checkpoint {made}/digits --data digits --split all --global-batch 200"
        done = start(f"{flags} --out p{ranks}.csv", tmp_path, ranks)
        assert done.status == 0 and done.err == "" and len(done.out.splitlines()) == 1, done.err
        contents.add((tmp_path / f"p{ranks}.csv").read_bytes())
    assert len(contents) == 1


def test_a_refusal_on_two_ranks_is_one_sentence(made, start, tmp_path):
    done = start(f"predict --checkpoint {made}/none --out p.csv", tmp_path, 2)
    (line,) = done.told()
    assert done.status == 2 and "no such directory" in line and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("run, flags, texts", [
    ("none", "", ["--checkpoint none", "no such directory"]),
    (".", "", ["--checkpoint .", "no whole checkpoint"]),
    ("table", "--data shuffled.csv", ["shuffled.csv", "column c where the model was trained with b"]),
    ("table", "--data renamed.csv", ["no column c, which the model was trained", "column d, which the model was not"]),
    ("table", "--data holes.csv", ["line 6, column b", "?missing=mean", "?missing=drop"]),
    ("table", "--data narrow.csv", ["narrow.csv", "one column"]),
    ("table", "--data wide.csv", ["samples of shape (5,)", "trained on (3,)"]),
    ("table", "--data maybe.csv", ["label 'maybe'", "none of the 2"]),
    ("table", "--data numbers.csv", ["labels like 1,", "ones like no"]),
    ("table", "--data bare.csv --split val", ["no labels", "--split all"]),
    ("table", "--data t.csv?label=d", ["t.csv", "no column named 'd'"]),
    ("table", "--data none.csv", ["none.csv cannot be read"]),
    ("table", "--data digits", ["trained on t.csv, which is a table", "--data digits is none"]),
    ("digits", "--data t.csv", ["trained on digits, which is no table", "--data t.csv is one"]),
    ("digits", "--data text", ["shape (64,) with 97 outputs", "trained on (64,) with 10"]),
    ("digits", "--data imagenet", ["unknown data set 'imagenet'"]),
    ("images", "--data t.csv", ["samples of shape (3,)", "(1, 6, 6)"]),
    ("text", "", ["a model of text"]),
    ("digits", "--global-batch 0", ["at least 1, got 0"]),
    ("digits", "--split test", ["--split", "invalid choice"]),
    ("digits", "--out t.csv", ["--out t.csv exists", "--overwrite"]),
    ("digits", "--out . --overwrite", ["--out . exists"]),
    ("digits", "--out t.csv/p.csv", ["--out t.csv/p.csv cannot be written"]),
])  # fmt: skip
def test_what_cannot_be_predicted_is_refused(run, flags, texts, made, capsys, monkeypatch):
    monkeypatch.chdir(made)
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    out = "" if "--out" in flags else "--out p.csv"
    assert main(["predict", "--checkpoint", run, *flags.split(), *out.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not [text for text in texts if text not in line], line
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
