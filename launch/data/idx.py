"""MNIST and Fashion-MNIST: a strict reader of the IDX format, over files found on disk or downloaded with pooch."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.dataset import Data
from allgrad.launch.data.files import damaged, md5, normalised, pooch_for, read

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 0x08
CLASSES = 10


class Source(NamedTuple):
    """Where a data set comes from: `md5` are the hashes of FILES, gzipped, at `url`; `folder` is torchvision's name."""

    name: str
    folder: str
    url: str
    md5: tuple[str, str, str, str]


MNIST = Source(
    "mnist",
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
FASHION_MNIST = Source(
    "fashion-mnist",
    "FashionMNIST",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)


def mnist(data_dir: str | Path | None = None) -> Data:
    """Handwritten digits (LeCun et al. 1998): float32 (60000, 784) to train, (10000, 784) to validate, ten classes.

    Pixels / 255, minus their training mean, over their training std (one number each). The four files are looked for
    in data_dir/mnist, data_dir/MNIST/raw and data_dir, gzipped or not, and downloaded to data_dir/mnist if absent;
    without data_dir, in the user's cache. Raises ConfigurationError if they cannot be had or are damaged.
    """
    return _load(MNIST, data_dir)


def fashion_mnist(data_dir: str | Path | None = None) -> Data:
    """Articles of clothing (Xiao et al. 2017) in the form of `mnist`; folders fashion-mnist and FashionMNIST/raw."""
    return _load(FASHION_MNIST, data_dir)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not: 0, 0, type code, number of dimensions, big-endian sizes, data.

    Raises ConfigurationError unless the header asks for unsigned bytes in `dimensions` dimensions and the length
    agrees with it to the byte.
    """
    content = read(path)
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise damaged(path, f"the gzip stream is broken ({error})", "a complete one") from None
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise damaged(path, f"{len(content)} bytes", f"an IDX header of {start}")
    zeros, code, found = struct.unpack(">HBB", content[:4])
    if zeros:
        raise damaged(path, f"magic number 0x{content[:4].hex()}", f"0x0000{UNSIGNED_BYTE:02x}{dimensions:02x} of IDX")
    if code != UNSIGNED_BYTE:
        raise damaged(path, f"type code 0x{code:02x}", f"0x{UNSIGNED_BYTE:02x}, unsigned bytes")
    if found != dimensions:
        raise damaged(path, f"{found} dimensions", f"{dimensions}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if 0 in shape:
        raise damaged(path, f"sizes {shape}", "at least one sample of at least one pixel")
    if len(content) - start != math.prod(shape):
        raise damaged(path, f"{len(content) - start} bytes of data", f"{math.prod(shape)} for the sizes {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _load(source, data_dir):
    paths = _locate(source, data_dir)
    train, train_y, grid = _pair(*paths[:2])
    val, val_y, val_grid = _pair(*paths[2:])
    if grid != val_grid:
        raise damaged(paths[2], f"images of {_by(val_grid)} pixels", f"{_by(grid)} as in {paths[0]}")
    train, val = normalised(train, val)
    return Data(source.name, train, train_y, val, val_y, CLASSES, grid=grid)


def _pair(images, labels):
    """Images (N, height*width), labels (N,), and (height, width), of two files that belong together."""
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise damaged(labels, f"{len(y)} labels", f"{len(x)}, one for each image in {images}")
    if y.max() >= CLASSES:
        i = int(np.argmax(y >= CLASSES))
        raise damaged(labels, f"label {y[i]} at position {i}", f"0 to {CLASSES - 1}")
    return x.reshape(len(x), -1), y.astype(np.int64), x.shape[1:]


def _by(grid):
    return "x".join(map(str, grid))


def _locate(source, data_dir):
    """Paths of the four files, all from one folder; downloads them if no folder has all four."""
    root = Path(os.path.expanduser(data_dir)) if data_dir is not None else _cache(source)
    # MNIST and Fashion-MNIST name their files alike, so the folders that say which comes first are searched first.
    folders = [root / source.name, root / source.folder / "raw", root]
    for folder in folders:
        paths = [next(filter(os.path.isfile, _spellings(folder, file)), None) for file in FILES]
        if None not in paths:
            _reject_namesakes(source, paths)
            return paths
    return _download(source, folders)


def _spellings(folder, file):
    dotted = file.replace("-idx", ".idx")
    return [folder / name for name in (file, f"{file}.gz", dotted, f"{dotted}.gz")]


def _reject_namesakes(source, paths):
    other = FASHION_MNIST if source is MNIST else MNIST
    if md5(paths[1]) == other.md5[1]:
        raise ConfigurationError(
            f"{paths[1].parent} holds {other.name}, whose files have the same names, but {source.name} was asked for: "
            f"move them into a folder named {other.name} inside the data folder"
        )


def _cache(source):
    return Path(pooch_for(source.name, _wanted(), "the user's cache").os_cache("allgrad"))


def _download(source, folders):
    """Fetch what is missing into the first folder.

    Any number of processes may do so at once: pooch writes to a temporary name in the same folder, checks the hash
    and renames, so that a file is seen complete or not at all.
    """
    target, where = folders[0], ", ".join(map(str, folders))
    pooch = pooch_for(source.name, _wanted(), where)
    paths = [target / f"{file}.gz" for file in FILES]
    for path, hashed in zip(paths, source.md5):
        if path.exists() and md5(path) != hashed:
            raise ConfigurationError(
                f"{target} lacks some of {_wanted()} and its {path.name} is not the published one, expected MD5 "
                f"{hashed}: add the missing files, or delete {path} to have it downloaded"
            )
        try:
            pooch.retrieve(source.url + path.name, f"md5:{hashed}", path.name, target)
        except (OSError, ValueError) as error:
            # Network errors are OSErrors; pooch reports a wrong hash as a ValueError.
            reason = type(error).__name__ if isinstance(error, OSError) else "its MD5 is not the published one"
            raise ConfigurationError(
                f"{source.name} needs {_wanted()}, no folder of {where} has all four, and downloading "
                f"{source.url}{path.name} failed ({reason}): copy the files to {target}, or give the folder that "
                f"holds them with --data-dir"
            ) from None
    return paths


def _wanted():
    return f"the files {', '.join(FILES)} (plain or .gz)"
