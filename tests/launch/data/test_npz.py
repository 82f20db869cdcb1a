"""Arrays of NPZ files: the parts, labels and targets, and every refusal."""

import numpy as np
import pytest

from allgrad.launch.data import load
from tests.launch.data.refusals import refuses
from tests.launch.data.written import KINDS, LAST, SAMPLES, csv_file, npz_file, table

RNG = np.random.default_rng(0)


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
