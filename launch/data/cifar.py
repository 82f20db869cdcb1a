"""CIFAR-10: a strict reader of its binary version, from the archive or a folder, on disk or downloaded with pooch."""

import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.dataset import Data
from allgrad.launch.data.files import damaged, normalised, pooch_for, read

FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
PICKLED = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1")
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane, each row by row
CLASSES = 10


def cifar10(data_dir: str | Path | None = None) -> Data:
    """Small colour photographs (Krizhevsky 2009): float32 (50000, 3, 32, 32) to train, (10000, 3, 32, 32) to validate.

    Pixels / 255, minus their training mean, over their training std (one number each). The six files of the binary
    version are looked for in data_dir/cifar10, data_dir/cifar-10-batches-bin, data_dir/cifar10/cifar-10-batches-bin
    and data_dir, then their archive in data_dir/cifar10 and data_dir, which is read without being extracted; data_dir
    may also be the archive itself. If all are absent the archive is downloaded to data_dir/cifar10; without data_dir,
    to the user's cache. The Python version of the set is a pickle, and is never opened. Raises ConfigurationError if
    the files cannot be had or are damaged.
    """
    parts = [_records(*file) for file in _files(data_dir)]
    train, train_y = (np.concatenate([part[k] for part in parts[:-1]]) for k in range(2))
    val, val_y = parts[-1]
    train, val = normalised(train, val)
    return Data("cifar10", train, train_y, val, val_y, CLASSES)


def _records(path, content):
    """Images (N, 3, 32, 32) and labels (N,) of one file."""
    if not content or len(content) % RECORD:
        raise damaged(path, f"{len(content)} bytes", f"records of {RECORD} bytes, a label and 3 x 32 x 32 pixels")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    y = records[:, 0].astype(np.int64)
    if y.max() >= CLASSES:
        i = int(np.argmax(y >= CLASSES))
        raise damaged(path, f"label {y[i]} in record {i}", f"0 to {CLASSES - 1}")
    return records[:, 1:].reshape(-1, *SHAPE), y


def _files(data_dir):
    """(name, content) of each of FILES, all from one folder or one archive."""
    root = Path(os.path.expanduser(data_dir)) if data_dir is not None else _cache()
    if root.is_file():
        return _archived(root)
    folders = [root / "cifar10", root / FOLDER, root / "cifar10" / FOLDER, root]
    for folder in folders:
        if all((folder / file).is_file() for file in FILES):
            return [(folder / file, read(folder / file)) for file in FILES]
    for folder in (root / "cifar10", root):
        if (folder / ARCHIVE).is_file():
            return _archived(folder / ARCHIVE)
    for folder in folders:
        if some := [file for file in FILES if (folder / file).exists()]:
            missing = ", ".join(file for file in FILES if file not in some)
            raise ConfigurationError(f"{folder} has {some[0]} and no {missing}: expected all six files of CIFAR-10")
        if found := next((folder / name for name in PICKLED if (folder / name).exists()), None):
            raise ConfigurationError(
                f"{found} is the Python version of CIFAR-10, a pickle, which could run any code and is not opened: "
                f"expected the binary version, {ARCHIVE} from {URL}"
            )
    return _archived(_download(root / "cifar10", folders))


def _archived(path):
    found = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isfile() and name in FILES and (file := archive.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise damaged(path, f"a broken archive ({error})", f"{ARCHIVE}, with {', '.join(FILES)}") from None
    if missing := [file for file in FILES if file not in found]:
        raise damaged(path, f"no {', '.join(missing)}", f"an archive with {', '.join(FILES)}")
    return [(f"{path}/{file}", found[file]) for file in FILES]


def _cache():
    return Path(pooch_for("cifar10", _wanted(), "the user's cache").os_cache("allgrad"))


def _download(target, folders):
    """Fetch the archive; any number of processes may do so at once, as pooch renames a whole and checked file."""
    pooch = pooch_for("cifar10", _wanted(), ", ".join(map(str, folders)))
    try:
        pooch.retrieve(URL, f"sha256:{SHA256}", ARCHIVE, target)
    except (OSError, ValueError) as error:
        # Network errors are OSErrors; pooch reports a wrong hash as a ValueError.
        reason = type(error).__name__ if isinstance(error, OSError) else "its SHA-256 is not the published one"
        raise ConfigurationError(
            f"cifar10 needs {_wanted()}, no folder of {', '.join(map(str, folders))} has them, and downloading {URL} "
            f"failed ({reason}): copy the archive to {target}, or give the folder that holds it with --data-dir"
        ) from None
    return target / ARCHIVE


def _wanted():
    return f"{ARCHIVE}, or the files {', '.join(FILES)}"
