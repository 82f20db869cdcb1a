"""Data sets by name: the embedded digits, IDX files in the true format, CSV and NPZ tables, and every refusal."""

import gzip
import hashlib
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data import Data, digits, idx, load, tables

RNG = np.random.default_rng(0)


def refuses(spec, *fragments, **options):
    """Loading fails with one sentence that has all the fragments."""
    with pytest.raises(ConfigurationError) as caught:
        load(str(spec), **options)
    text = str(caught.value)
    assert "\n" not in text and ". " not in text and not text.endswith(".")
    for fragment in fragments:
        assert fragment in text, text


# Data


def test_data_describes_itself():
    labels = Data("d", np.zeros((4, 2, 3), "f4"), np.zeros(4, int), np.zeros((1, 2, 3), "f4"), np.zeros(1, int), 7)
    assert (labels.features, labels.inputs, labels.outputs) == ((2, 3), 6, 7)
    targets = Data("d", np.zeros((4, 2), "f4"), np.zeros((4, 5), "f4"), np.zeros((1, 2), "f4"), np.zeros((1, 5)), None)
    assert (targets.features, targets.inputs, targets.outputs) == ((2,), 2, 5)


def test_sha256_depends_on_values_shapes_and_types_and_not_on_memory_layout():
    x, y = RNG.normal(size=(6, 4)).astype("f4"), np.arange(6)
    made = [
        Data("d", x, y, x, y, 6),
        Data("other name", np.asfortranarray(x), y.astype(">i8"), x.astype(">f4"), y, 6),
        Data("d", x.reshape(6, 2, 2), y, x, y, 6),
        Data("d", x, y, x + 1, y, 6),
        Data("d", x, y.astype("i4"), x, y, 6),
    ]
    assert made[0].sha256 == made[1].sha256
    assert len({data.sha256 for data in made}) == 4


@pytest.mark.parametrize("spec", ["imagenet", "", "Digits", "tsv:a.tsv", "csv"])
def test_unknown_names_list_the_known_ones(spec):
    refuses(spec, repr(spec), "digits", "mnist", "fashion-mnist", "csv:PATH", "npz:PATH")


def test_digits_need_neither_a_download_nor_scikit_learn():
    code = """
import sys
import allgrad.launch.data
assert not {"pooch", "sklearn", "torch", "mpi4py"} & set(sys.modules)
allgrad.launch.data.load("digits")
assert not {"pooch", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Digits


def test_digits_file_is_what_scikit_learn_gives():
    pytest.importorskip("sklearn")
    expected = digits.regenerate()
    with np.load(digits.FILE, allow_pickle=False) as file:
        assert sorted(file.files) == sorted(expected)
        for key, values in expected.items():
            assert file[key].dtype == values.dtype
            np.testing.assert_array_equal(file[key], values)
    assert digits.FILE.stat().st_size < 60_000


def test_digits_are_split_centred_and_scaled():
    data = load("digits")
    assert (data.name, data.features, data.classes) == ("digits", (64,), 10)
    assert (data.train_x.shape, data.val_x.shape) == ((1437, 64), (360, 64))
    assert (data.train_x.dtype, data.train_y.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(data.train_x.mean(axis=0, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(data.train_x.std(dtype=float), 1, rtol=1e-6)
    assert np.bincount(data.val_y).min() >= 34 and set(data.train_y) == set(range(10))


# IDX files


def idx_bytes(values, code=8):
    values = np.asarray(values)
    shape = struct.pack(f">{values.ndim}I", *values.shape)
    return struct.pack(">HBB", 0, code, values.ndim) + shape + values.astype(np.uint8).tobytes()


def write_set(folder, train=30, validation=10, size=(4, 3), zipped="", dotted=False, seed=0):
    """Four small files in the true format; returns the arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for file, n in zip(idx.FILES, (train, train, validation, validation)):
        values = rng.integers(0, 256, (n, *size)) if "images" in file else rng.integers(0, 10, n)
        name = file.replace("-idx", ".idx") if dotted else file
        content = idx_bytes(values)
        # Some of the real files are gzipped under the plain name, hence detection by content.
        (folder / (name + (".gz" if zipped == "named" else ""))).write_bytes(
            gzip.compress(content) if zipped else content
        )
        arrays.append(values)
    return arrays


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", ["", "named", "under the plain name"])
@pytest.mark.parametrize("spec, folder", [
    ("mnist", ""), ("mnist", "mnist"), ("mnist", "MNIST/raw"),
    ("fashion-mnist", ""), ("fashion-mnist", "fashion-mnist"), ("fashion-mnist", "FashionMNIST/raw"),
])  # fmt: skip
def test_idx_files_are_found_and_normalised(tmp_path, spec, folder, zipped, dotted):
    x, y, val_x, val_y = write_set(tmp_path / folder, zipped=zipped, dotted=dotted)
    data = load(spec, data_dir=tmp_path)
    mean, std = (x / 255).mean(), (x / 255).std()
    np.testing.assert_allclose(data.train_x, (x.reshape(30, 12) / 255 - mean) / std, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(data.val_x, (val_x.reshape(10, 12) / 255 - mean) / std, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(data.train_y, y)
    np.testing.assert_array_equal(data.val_y, val_y)
    assert (data.name, data.classes, data.features) == (spec, 10, (12,))
    assert data.train_x.dtype == data.val_x.dtype == np.float32 and data.train_y.dtype == np.int64


def test_the_folder_that_names_the_set_wins_over_the_data_folder(tmp_path):
    write_set(tmp_path, seed=1)
    write_set(tmp_path / "fashion-mnist", seed=2)
    plain, named = load("mnist", tmp_path), load("fashion-mnist", str(tmp_path))
    assert plain.sha256 != named.sha256
    assert named.sha256 == load("fashion-mnist", tmp_path / "fashion-mnist").sha256


def test_the_other_set_is_recognised_in_spite_of_equal_names(tmp_path, monkeypatch):
    write_set(tmp_path, zipped="named")
    md5 = hashlib.md5((tmp_path / f"{idx.FILES[1]}.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(idx, "MNIST", idx.MNIST._replace(md5=("", md5, "", "")))
    refuses("fashion-mnist", "holds mnist", "fashion-mnist was asked for", data_dir=tmp_path)
    load("mnist", tmp_path)


def test_constant_images_are_not_divided_by_zero(tmp_path):
    write_set(tmp_path)
    (tmp_path / idx.FILES[0]).write_bytes(idx_bytes(np.full((30, 4, 3), 7)))
    assert not load("mnist", tmp_path).train_x.any()


IMAGES, LABELS = np.ones((30, 4, 3)), np.ones(30)
GOOD = idx_bytes(IMAGES)
DAMAGE = {  # file, its content, what the error says
    "empty": (0, b"", "0 bytes", "header of 16"),
    "header only in part": (0, GOOD[:10], "10 bytes", "header of 16"),
    "not IDX": (0, b"<html>not found</html>", "magic number 0x3c68746d", "0x00000803"),
    "type code": (0, idx_bytes(IMAGES, code=0x0D), "type code 0x0d", "0x08"),
    "dimensions of images": (0, idx_bytes(np.ones((30, 12))) + b"\0" * 12, "2 dimensions", "expected 3"),
    "dimensions of labels": (1, GOOD, "3 dimensions", "expected 1"),
    "truncated": (0, GOOD[:-1], "359 bytes", "360"),
    "trailing": (0, GOOD + b"\0", "361 bytes", "360"),
    "no images": (0, idx_bytes(np.ones((0, 4, 3))), "(0, 4, 3)", "at least one"),
    "gzip cut short": (0, gzip.compress(GOOD)[:-9], "gzip stream is broken"),
    "gzip damaged": (0, gzip.compress(GOOD)[:-6] + b"badcrc", "gzip stream is broken"),
    "gzip of garbage": (0, b"\x1f\x8b" + bytes(40), "gzip stream is broken"),
    "gzip deflate damaged": (0, gzip.compress(GOOD)[:12] + b"\xff" * 20, "gzip stream is broken"),
    "label beyond the classes": (1, idx_bytes([1] * 29 + [10]), "label 10 at position 29", "0 to 9"),
    "fewer labels": (1, idx_bytes(LABELS[:29]), "29 labels", "30"),
    "more labels": (1, idx_bytes(np.ones(31)), "31 labels", "30"),
    "sizes of the two parts": (2, idx_bytes(np.ones((10, 4, 4))), "images of 4x4 pixels", "4x3"),
}


@pytest.mark.parametrize("file, content, fragments", [(f, c, m) for f, c, *m in DAMAGE.values()], ids=DAMAGE)
def test_damaged_idx_files_are_refused(tmp_path, file, content, fragments):
    write_set(tmp_path)
    path = tmp_path / idx.FILES[file]
    path.write_bytes(content)
    refuses("mnist", str(path), *fragments, data_dir=tmp_path)


# Downloads, without a network


@pytest.fixture
def pooch():
    return pytest.importorskip("pooch")


@pytest.fixture
def server(tmp_path, monkeypatch, pooch):
    """A slow server of a small fashion-mnist in place of HTTP; its list of requests, and a place to cache."""
    origin, requests = tmp_path / "origin", []
    write_set(origin, zipped="named")
    hashes = tuple(hashlib.md5((origin / f"{file}.gz").read_bytes()).hexdigest() for file in idx.FILES)
    monkeypatch.setattr(idx, "FASHION_MNIST", idx.FASHION_MNIST._replace(md5=hashes))

    def download(url, output, _):
        requests.append(url)
        folder, name = tmp_path / "cache" / "fashion-mnist", url.rpartition("/")[2]
        content = (origin / name).read_bytes()
        with open(output, "wb") as file:
            file.write(content[:20])
            file.flush()
            time.sleep(0.02)
            seen = folder / name
            assert not seen.exists() or seen.read_bytes() == content  # never half a file under the final name
            file.write(content[20:])

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: download)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    return requests


@pytest.mark.parametrize(
    "options", [lambda path: {"data_dir": path}, lambda path: {}], ids=["data_dir", "user's cache"]
)
def test_downloads_once_checked_and_in_a_folder_of_its_own(tmp_path, server, options, capfd):
    data = load("fashion-mnist", **options(tmp_path / "cache"))
    assert server == [f"{idx.FASHION_MNIST.url}{file}.gz" for file in idx.FILES]
    assert sorted(path.name for path in (tmp_path / "cache" / "fashion-mnist").iterdir()) == sorted(
        f"{file}.gz" for file in idx.FILES
    )
    assert load("fashion-mnist", **options(tmp_path / "cache")).sha256 == data.sha256 and len(server) == 4
    assert data.sha256 == load("fashion-mnist", tmp_path / "origin").sha256
    assert "".join(capfd.readouterr()) == ""


def test_an_interrupted_download_goes_on(tmp_path, server):
    load("fashion-mnist", tmp_path / "cache")
    (tmp_path / "cache" / "fashion-mnist" / f"{idx.FILES[2]}.gz").unlink()
    del server[:]
    load("fashion-mnist", tmp_path / "cache")
    assert server == [f"{idx.FASHION_MNIST.url}{idx.FILES[2]}.gz"]


def test_many_ranks_download_at_once(tmp_path, server):
    hashes = []
    ranks = [
        threading.Thread(target=lambda: hashes.append(load("fashion-mnist", tmp_path / "cache").sha256))
        for _ in range(6)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(hashes) == 6 and len(set(hashes)) == 1
    assert len(list((tmp_path / "cache" / "fashion-mnist").iterdir())) == 4  # no temporary file stays behind


def test_a_download_with_the_wrong_hash_is_refused(tmp_path, server, monkeypatch):
    monkeypatch.setattr(idx, "FASHION_MNIST", idx.FASHION_MNIST._replace(md5=("0" * 32,) * 4))
    refuses("fashion-mnist", "MD5 is not the published one", idx.FILES[0], data_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "fashion-mnist").iterdir())


def test_files_of_the_user_are_never_overwritten(tmp_path, server):
    write_set(tmp_path / "cache" / "fashion-mnist", zipped="named", seed=5)
    (tmp_path / "cache" / "fashion-mnist" / f"{idx.FILES[3]}.gz").unlink()
    refuses("fashion-mnist", f"{idx.FILES[0]}.gz is not the published one", "lacks", data_dir=tmp_path / "cache")
    assert server == []


def test_a_closed_network_names_files_folders_and_the_way_out(tmp_path, pooch, monkeypatch):
    def retrieve(*_):
        raise ConnectionError("a long story\nin two lines.")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    fragments = [*idx.FILES, str(tmp_path / "mnist"), str(tmp_path / "MNIST" / "raw"), "ConnectionError", "--data-dir"]
    refuses("mnist", *fragments, data_dir=tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_without_pooch_the_way_out_is_named(tmp_path, monkeypatch, given):
    monkeypatch.setitem(sys.modules, "pooch", None)
    where = str(tmp_path) if given else "the user's cache"
    refuses("mnist", *idx.FILES, where, "allgrad[data]", "--data-dir", data_dir=tmp_path if given else None)


def test_files_on_disk_need_no_pooch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    write_set(tmp_path)
    load("mnist", tmp_path)


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


def test_a_label_column_cannot_be_named_in_npz(tmp_path):
    refuses(f"{npz_file(tmp_path, x=X, y=Y)}?label=y", "?label=", "CSV", "the key y")
