"""MNIST and its like: IDX files in the true format, downloads, and every refusal."""

import gzip
import hashlib
import struct
import sys
import threading
import time

import numpy as np
import pytest

from allgrad.launch.data import idx, load
from tests.launch.data.refusals import refuses


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
