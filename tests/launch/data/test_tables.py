"""CSV and NPZ tables: every spelling that is the same table, the parts, and every refusal."""

import numpy as np
import pytest

from allgrad.launch.data import load, tables
from tests.launch.data.refusals import refuses

RNG = np.random.default_rng(0)


# CSV
def csv_file(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(rows, header=None, separator=",", end="\n"):
    lines = [separator.join(map(str, row)) for row in ([header] if header else []) + list(rows)]
    return end.join(lines) + end


SAMPLES = [[i, (i * 7) % 11 / 2] for i in range(20)]


KINDS = [i % 3 for i in range(20)]


NAMED = [["ant", "bee", "cat"][k] for k in KINDS]


LAST = [[*x, k] for x, k in zip(SAMPLES, KINDS)]


NAMED_LAST = [[*x, k] for x, k in zip(SAMPLES, NAMED)]


FIRST = [[k, *x] for x, k in zip(SAMPLES, NAMED)]


SAME = {  # all of these are the same table
    "no header": table(LAST),
    "header": table(LAST, ["a", "b", "kind"]),
    "class names": table(NAMED_LAST, ["a", "b", "kind"]),
    "class names without a header": table(NAMED_LAST),
    "label first": table(FIRST, ["Label", "a", "b"]),
    "y in the middle": table([[a, k, b] for (a, b), k in zip(SAMPLES, KINDS)], ["a", "Y", "b"]),
    "numbers as column names": table(NAMED_LAST, [0, 1, "CLASS"]),
    "numbers as column names, other label": table(NAMED_LAST, [0, 1, "kind"]),
    "arbitrary integers": table([[*x, [-40, 7, 1000][k]] for x, k in zip(SAMPLES, KINDS)]),
    "integers with a point": table([[*x, f"{k}.0"] for x, k in zip(SAMPLES, KINDS)]),
    "blank lines": "\n\n" + table(LAST, ["a", "b", "kind"], end="\n \n") + "\n",
    "spaces": table(NAMED_LAST, ["a", " b ", "target "], separator=" , "),
    "quotes": table([[f'"{f}"' for f in row] for row in NAMED_LAST], ['"a"', '"b,c"', '"kind"']),
    "line ends of Windows and a byte order mark": "\ufeff" + table(LAST, ["a", "b", "kind"], end="\r\n"),
    "no line end": table(LAST)[:-1],
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_csv_spellings_give_the_same_data(tmp_path, text):
    data = load(f"csv:{csv_file(tmp_path, text)}")
    assert (data.name, data.features, data.classes) == ("table.csv", (2,), 3)
    assert (data.train_x.dtype, data.train_y.dtype, len(data.train_y), len(data.val_y)) == (np.float32, np.int64, 16, 4)
    assert data.sha256 == load(f"csv:{csv_file(tmp_path, SAME['no header'], 'other.csv')}").sha256


def test_csv_columns_are_standardised_by_the_training_part(tmp_path):
    data = load(str(csv_file(tmp_path, table(LAST))), seed=3)
    order = tables.random.permutation(20, 3, "split")
    by_class = sorted(order, key=lambda i: KINDS[i])
    held = sorted(by_class[2::5])
    train = [i for i in range(20) if i not in held]
    x = np.array(SAMPLES, float)
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    np.testing.assert_array_equal(data.train_x, ((x[train] - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(data.val_x, ((x[held] - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(data.train_y, np.array(KINDS)[train])
    np.testing.assert_array_equal(data.val_y, np.array(KINDS)[held])


def test_a_constant_column_becomes_zeros(tmp_path):
    data = load(str(csv_file(tmp_path, table([[0.1, i, i % 2] for i in range(30)]))))
    assert np.abs(data.train_x[:, 0]).max() < 1e-6 and np.abs(data.val_x[:, 0]).max() < 1e-6


def test_numbers_that_are_not_integers_are_a_regression_target(tmp_path):
    prices = [i / 4 for i in range(20)]
    data = load(f"csv:{csv_file(tmp_path, table([[*x, p] for x, p in zip(SAMPLES, prices)]))}")
    assert (data.classes, data.outputs, data.train_y.dtype, data.train_y.shape) == (None, 1, np.float32, (16, 1))
    np.testing.assert_array_equal(np.sort(np.concatenate([data.train_y, data.val_y])[:, 0]), prices)


def test_the_label_column_can_be_named(tmp_path):
    path = csv_file(tmp_path, table([[i, k, f"{i}.5"] for i, k in enumerate(KINDS)], ["i", "kind", "y"]))
    assert load(f"csv:{path}").classes is None
    assert load(f"csv:{path}?label=kind").classes == 3
    assert load(f"{path}?label=kind").sha256 == load(f"csv:{path}?label=kind").sha256
    headless = csv_file(tmp_path, table([[k, *x] for x, k in zip(SAMPLES, KINDS)]), "headless.csv")
    assert load(f"csv:{headless}?label=1").sha256 == load(str(csv_file(tmp_path, SAME["no header"]))).sha256


@pytest.mark.parametrize("seed", range(3))
def test_the_split_is_stratified_complete_and_chosen_by_the_seed(tmp_path, seed):
    labels = ["a"] * 50 + ["b"] * 23 + ["c"] * 4 + ["d"]
    path = csv_file(tmp_path, table([[i, label] for i, label in enumerate(labels)], ["i", "label"]))
    data, again, other = load(str(path), seed=seed), load(str(path), seed=seed), load(str(path), seed=seed + 1)
    assert data.sha256 == again.sha256 != other.sha256
    counts, total = np.bincount(data.val_y, minlength=4), np.array([50, 23, 4, 1])
    assert (counts >= total // 5).all() and (counts <= -(-total // 5)).all()
    assert counts[3] == 0 and counts.sum() == 15
    assert (np.bincount(data.train_y) + counts == total).all()


@pytest.mark.parametrize("samples, held", [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (10, 2), (100, 20)])
def test_a_fifth_is_held_out_and_at_least_one(tmp_path, samples, held):
    data = load(str(csv_file(tmp_path, table([[i, i + 0.5] for i in range(samples)]))))
    assert (len(data.train_y), len(data.val_y)) == (samples - held, held)


ROWS = "a,b,kind\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n"


BAD_CSV = {  # content, option, what the error says
    "empty": ("", "", "is empty"),
    "only blank lines": ("\n \n", "", "is empty"),
    "only a header": ("a,b,label\n", "", "header and no samples"),
    "one column": ("1\n2\n", "", "one column", "separated by commas"),
    "semicolons": ("a;b;c\n1;2;0\n", "", "one column", "separated by commas"),
    "one sample": ("1,0.5\n", "", "one sample", "at least two"),
    "one class": ("1,0\n2,0\n", "", "every label is 0"),
    "identifiers as labels": ("1,10\n2,11\n3,12\n", "", "no label of 3 occurs twice"),
    "text in a feature": (ROWS + "9,ten,0\n", "", "line 6, column b", "'ten'", "a number"),
    "missing feature": (ROWS + "9,,0\n", "", "line 6, column b", "found nothing", "a number"),
    "missing feature in the first line": ("1,,0\n2,3,0\n4,5,1\n", "", "line 1, column 2", "found nothing"),
    "NaN in a feature": (ROWS + "\nnan,1,0\n", "", "line 7, column a", "'nan'", "finite"),
    "infinity in a feature": (ROWS + "9,-inf,0\n", "", "line 6, column b", "'-inf'", "finite"),
    "NaN in the labels": (ROWS + "9,1,nan\n", "", "line 6, column kind", "'nan'", "finite"),
    "missing label": (ROWS + "9,1,\n", "", "line 6, column kind", "found nothing", "a label"),
    "text among numbers": (ROWS + "9,1,cat\n", "", "line 6, column kind", "'cat'", "a number as in line 2"),
    "number among text": ("a,b\n1,x\n2,x\n3,4\n", "", "line 4, column b", "'4'", "text as in line 2"),
    "ragged, short": (ROWS + "9,1\n", "", "line 6", "2 fields", "expected 3"),
    "ragged, long": (ROWS + "9,1,0,0\n", "", "line 6", "4 fields", "expected 3"),
    "two label columns": ("y,a,class\n1,2,0\n", "", "2 columns named y, class", "?label=NAME"),
    "unknown label": (ROWS, "?label=price", "no column named 'price'", "a, b, kind"),
    "empty label": (ROWS, "?label=", "no column named ''", "a, b, kind"),
    "double label": ("a,a,b\n1,2,0\n", "?label=a", "2 columns named 'a'"),
    "index of a pandas table": (",a,label\n0,2,0\n1,3,1\n", "", "column 1 has no name", "index=False"),
    "open quote": (ROWS + '9,"1,0\n', "", "not CSV in UTF-8 below line 5"),
    "not UTF-8": (b"a,b\n1,\xff\n", "", "not CSV in UTF-8"),
    "beyond float32": (ROWS + "1e308,1,0\n-1e308,1,1\n", "", "too large for float32"),
    "target beyond float32": ("1,0.5\n2,1e300\n3,2\n", "", "too large for float32"),
}


@pytest.mark.parametrize("text, option, fragments", [(t, o, m) for t, o, *m in BAD_CSV.values()], ids=BAD_CSV)
def test_bad_csv_is_refused(tmp_path, text, option, fragments):
    path = csv_file(tmp_path, text)
    refuses(f"csv:{path}{option}", str(path), *fragments)


@pytest.mark.parametrize("spec", ["csv:{}", "npz:{}", "{}.csv", "{}.npz"])
def test_missing_files_and_folders_are_refused(tmp_path, spec):
    refuses(spec.format(tmp_path / "absent"), "absent", "cannot be read (No such file or directory)")
    (tmp_path / "folder").mkdir()
    refuses(f"{spec[:3] if spec[3] == ':' else spec[-3:]}:{tmp_path / 'folder'}", "cannot be read (Is a directory)")


# NPZ
def npz_file(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"


X, Y = RNG.normal(size=(20, 3)), np.arange(20) % 4


VALIDATION = (RNG.normal(size=(8, 3)), np.arange(8) % 3)


@pytest.mark.parametrize("train", ["x y", "x_train y_train"])
@pytest.mark.parametrize("validation", ["x_val y_val", "x_test y_test"])
def test_npz_with_a_validation_part(tmp_path, train, validation):
    arrays = zip(f"{train} {validation}".split(), (X, Y, *VALIDATION))
    data = load(f"npz:{npz_file(tmp_path, **dict(arrays))}")
    np.testing.assert_array_equal(data.train_x, ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32))
    np.testing.assert_array_equal(data.val_x, ((VALIDATION[0] - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32))
    np.testing.assert_array_equal(data.train_y, Y)
    np.testing.assert_array_equal(data.val_y, VALIDATION[1])
    assert data.classes == 4 and data.train_y.dtype == data.val_y.dtype == np.int64


def test_npz_without_a_validation_part_is_split_as_csv_is(tmp_path):
    path = npz_file(tmp_path, x=np.array(SAMPLES, float), y=np.array(KINDS))
    assert load(str(path)).sha256 == load(str(csv_file(tmp_path, table(LAST)))).sha256
    assert load(str(path)).sha256 == load(f"npz:{path}").sha256 != load(str(path), seed=1).sha256


def test_npz_images_are_used_as_they_are(tmp_path):
    images = RNG.integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    data = load(str(npz_file(tmp_path, x_train=images, y_train=Y, x_val=images, y_val=Y)))
    assert (data.features, data.train_x.dtype) == ((1, 4, 4), np.float32)
    np.testing.assert_array_equal(data.train_x, images)


@pytest.mark.parametrize("y, classes, outputs", [
    (Y, 4, 4),
    (Y.astype(np.uint8) * 50, 4, 4),
    (Y.astype(float) - 9, 4, 4),
    (Y > 1, 2, 2),
    (Y[:, None], 4, 4),
    (np.array(["d", "a", "c", "b"])[Y], 4, 4),
    (Y + 0.25, None, 1),
    ((Y + 0.25)[:, None], None, 1),
    (np.stack([Y, Y + 0.5, -Y], axis=1).astype(">f4"), None, 3),
    (np.stack([Y, -Y], axis=1), None, 2),
], ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "")  # fmt: skip
def test_npz_labels_are_classes_or_targets(tmp_path, y, classes, outputs):
    data = load(str(npz_file(tmp_path, x=X, y=y)))
    assert (data.classes, data.outputs) == (classes, outputs)
    assert data.train_y.dtype == (np.float32 if classes is None else np.int64)
    assert data.train_y.ndim == (2 if classes is None else 1)
    if classes:
        assert sorted({*data.train_y, *data.val_y}) == list(range(classes))


@pytest.mark.parametrize("x", [X[:, 0], X > 0, X.astype(np.float16), (X * 9).astype(np.int8)])
def test_npz_features_of_any_number_type(tmp_path, x):
    data = load(str(npz_file(tmp_path, x=x, y=Y)))
    assert data.train_x.dtype == np.float32 and data.train_x.ndim == 2
    np.testing.assert_allclose(data.train_x.std(axis=0), 1, rtol=1e-5)


def spoilt(values, at, value):
    values = np.array(values, float)
    values[at] = value
    return values


BAD_NPZ = {  # arrays, what the error says
    "no arrays": ({}, "no arrays", "expected x_train"),
    "other names": ({"images": X, "labels": Y}, "images, labels", "expected x_train", "x_test"),
    "no labels": ({"x": X}, "has x and no y"),
    "no training labels": ({"x_train": X, "x_test": X, "y_test": Y}, "has x_train and no y_train"),
    "no validation samples": ({"x": X, "y": Y, "y_val": Y}, "has y_val and no x_val"),
    "only validation": ({"x_val": X, "y_val": Y}, "x_val, y_val", "expected x_train"),
    "lengths": ({"x": X, "y": Y[:-1]}, "x has shape (20, 3) and y (19,)", "equally many"),
    "validation lengths": ({"x": X, "y": Y, "x_test": X[1:], "y_test": Y}, "x_test has shape (19, 3)", "(20,)"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x has shape (0, 3)", "at least one"),
    "scalars": ({"x": 1.0, "y": 1}, "x has shape ()"),
    "one sample": ({"x": X[:1], "y": [0.5]}, "one sample"),
    "features of the parts": ({"x": X, "y": Y, "x_val": X[:, :2], "y_val": Y}, "float64 (3,)", "float64 (2,)"),
    "labels of the parts": ({"x": X, "y": Y, "x_val": X, "y_val": Y.astype(str)}, "int64 ()", "<U21 ()"),
    "text features": ({"x": X.astype(str), "y": Y}, "x has type <U", "expected numbers"),
    "complex features": ({"x": X * 1j, "y": Y}, "x has type complex128", "expected numbers"),
    "bytes as labels": ({"x": X, "y": Y.astype(bytes)}, "y has type |S", "expected numbers"),
    "text targets": ({"x": X, "y": Y.astype(str)[:, None].repeat(2, 1)}, "y has shape (20, 2) and type <U"),
    "3-dimensional targets": ({"x": X, "y": np.ones((20, 2, 2))}, "y has shape (20, 2, 2)"),
    "one-hot": ({"x": X, "y": np.eye(4)[Y]}, "(20, 4) is one-hot", "y.argmax(1)"),
    "NaN in x": ({"x": spoilt(X, (4, 1), np.nan), "y": Y}, "x[4, 1] is nan", "finite"),
    "infinity in x_val": ({"x": X, "y": Y, "x_val": spoilt(X, (0, 2), -np.inf), "y_val": Y}, "x_val[0, 2] is -inf"),
    "NaN in y": ({"x": X, "y": spoilt(Y, 7, np.nan)}, "y[7] is nan", "finite"),
    "objects": ({"x": X, "y": np.array([{}] * 20)}, "not an NPZ file of plain arrays", "allow_pickle=False"),
    "beyond float32": ({"x": X[..., None] * 1e300, "y": Y}, "too large for float32"),
    "one class": ({"x": X, "y": 0 * Y}, "every label is 0"),
}


@pytest.mark.parametrize("arrays, fragments", [(a, m) for a, *m in BAD_NPZ.values()], ids=BAD_NPZ)
def test_bad_npz_is_refused(tmp_path, arrays, fragments):
    path = npz_file(tmp_path, **arrays)
    refuses(path, str(path), *fragments)


def npy_bytes(tmp_path):
    np.save(tmp_path / "one.npy", X)
    return (tmp_path / "one.npy").read_bytes()


@pytest.mark.parametrize("content", [
    lambda good, path: b"",
    lambda good, path: b"x,y\n1,2\n",
    lambda good, path: good[: len(good) // 2],
    lambda good, path: good[:200] + b"\xff" + good[201:],
    lambda good, path: npy_bytes(path),
], ids=["empty", "text", "truncated", "damaged", "one array"])  # fmt: skip
def test_broken_npz_files_are_refused(tmp_path, content):
    path = npz_file(tmp_path, x=X, y=Y)
    path.write_bytes(content(path.read_bytes(), tmp_path))
    refuses(path, str(path), "not an NPZ file of plain arrays", "numpy.savez")
