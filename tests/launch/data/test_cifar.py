"""CIFAR-10 from files in the true format: a folder, an archive, a download, and every refusal."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data import cifar, load

RNG = np.random.default_rng(0)
COUNTS = dict.fromkeys(cifar.FILES[:5], 4) | {"test_batch.bin": 3}


def batches(seed=0):
    """{name: content} of the six files, and the pixels (N, 3072) and labels in them."""
    rng = np.random.default_rng(seed)
    y = {name: rng.integers(0, 10, n, np.uint8) for name, n in COUNTS.items()}
    x = {name: rng.integers(0, 256, (n, 3072), np.uint8) for name, n in COUNTS.items()}
    return {name: np.column_stack([y[name], x[name]]).tobytes() for name in COUNTS}, x, y


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in {"readme.html": b"<html>", **files}.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def is_right(data, x, y):
    train = np.concatenate([x[name] for name in cifar.FILES[:5]]).reshape(-1, 3, 32, 32) / 255
    val = x["test_batch.bin"].reshape(-1, 3, 32, 32) / 255
    for found, pixels in [(data.train_x, train), (data.val_x, val)]:
        assert found.dtype == np.float32 and found.shape == pixels.shape
        np.testing.assert_allclose(found, (pixels - train.mean()) / train.std(), rtol=1e-5, atol=1e-6)
    assert data.train_y.tolist() == np.concatenate([y[name] for name in cifar.FILES[:5]]).tolist()
    assert data.val_y.tolist() == y["test_batch.bin"].tolist() and data.train_y.dtype == np.int64
    assert data.classes == 10 and data.image == (3, 32, 32)
    return True


@pytest.mark.parametrize("folder", ["cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."])
def test_a_folder_with_the_six_files(folder, tmp_path):
    files, x, y = batches()
    write(tmp_path / folder, files)
    assert is_right(load("cifar10", tmp_path), x, y)


@pytest.mark.parametrize("place, given", [("cifar10", "."), (".", "."), (".", "cifar-10-binary.tar.gz")])
def test_an_archive_is_read_and_not_extracted(place, given, tmp_path):
    files, x, y = batches()
    write(tmp_path / place, {"cifar-10-binary.tar.gz": archive(files)})
    assert is_right(load("cifar10", tmp_path / given), x, y)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def refuses(tmp_path, *fragments):
    with pytest.raises(ConfigurationError) as caught:
        load("cifar10", tmp_path)
    text = str(caught.value)
    assert "\n" not in text and not [fragment for fragment in fragments if fragment not in text], text


RECORD = bytes(3073)
DAMAGE = {  # what a file holds, and what the error says
    "empty": ("data_batch_2.bin", b"", ["data_batch_2.bin", "0 bytes", "records of 3073"]),
    "truncated": ("test_batch.bin", (RECORD * 2)[:-1], ["test_batch.bin", "6145 bytes", "records of 3073"]),
    "trailing": ("data_batch_5.bin", RECORD + b"\n", ["data_batch_5.bin", "3074 bytes", "3073"]),
    "label": (
        "data_batch_1.bin",
        RECORD + b"\x0b" + RECORD[1:],
        ["data_batch_1.bin", "label 11 in record 1"],
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(case, packed, tmp_path):
    name, content, fragments = DAMAGE[case]
    files = batches()[0] | {name: content}
    write(tmp_path, {"cifar-10-binary.tar.gz": archive(files)} if packed else files)
    refuses(tmp_path, *fragments)


def test_broken_archives_and_missing_files_are_named(tmp_path):
    files = batches()[0]
    whole = archive(files)
    for content in (whole[: len(whole) // 2], b"", b"<html>not found</html>", b"\x1f\x8b" + bytes(40)):
        write(tmp_path, {"cifar-10-binary.tar.gz": content})
        refuses(tmp_path, "cifar-10-binary.tar.gz", "found", "expected", "test_batch.bin")
    del files["data_batch_4.bin"]
    write(tmp_path, {"cifar-10-binary.tar.gz": archive(files)})
    refuses(tmp_path, "no data_batch_4.bin")
    (tmp_path / "cifar-10-binary.tar.gz").unlink()
    write(tmp_path / "cifar10", files)
    refuses(tmp_path, "data_batch_1.bin", "no data_batch_4.bin", "all six")


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "data_batch_1"])
def test_the_pickled_version_is_never_opened(name, tmp_path):
    write(tmp_path, {name: b"\x80\x04."})
    refuses(tmp_path, name, "pickle", "binary version", "cifar-10-binary.tar.gz")


def test_it_is_downloaded_once_and_its_hash_is_checked(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    files, x, y = batches()
    packed, asked = archive(files), []

    def download(url, output, _):
        asked.append(url)
        Path(output).write_bytes(packed)

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: download)
    refuses(tmp_path, "SHA-256 is not the published one", str(tmp_path / "cifar10"))
    assert not (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").exists()
    monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(packed).hexdigest())
    assert is_right(load("cifar10", tmp_path), x, y) and is_right(load("cifar10", tmp_path), x, y)
    assert asked == [cifar.URL] * 2


def test_a_closed_network_names_the_files_and_the_way_out(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")

    def retrieve(*args):
        raise ConnectionError

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    refuses(tmp_path, "cifar-10-binary.tar.gz", "data_batch_1.bin", "ConnectionError", "--data-dir", cifar.URL)
