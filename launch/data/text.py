"""Text, to be predicted character by character: a file, a folder of files, or the source of Python's own library."""

import os
import sysconfig
from pathlib import Path

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.dataset import Data

CONTEXT = 64
STANDARD_LIBRARY_CHARACTERS = 1_000_000  # that are read of it


def load_text(path: str | Path | None, context: int = CONTEXT) -> Data:
    """Windows of `context` characters (N, context) as integer codes, and for each of its characters the next one.

    path: a file in UTF-8, whose byte-order mark is left out, or a folder, whose files (not those below it, nor hidden
    ones) are joined in the order of their names; None for the first million characters of the modules at the top of
    Python's standard library, the same for every installation of one Python version.
    The last tenth of the characters is for validation. Each part is cut into windows that follow one another, so that
    every character but a part's first is predicted once an epoch; what is left at the end, shorter than a window, is
    not used. Code i is the i-th of the sorted distinct characters of the training part, and the last code stands for
    every character that is not among them. Raises ConfigurationError.
    """
    text, name = (_standard_library(), "text") if path is None else _read(Path(os.path.expanduser(path)))
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    cut = len(points) * 9 // 10
    if min(cut, len(points) - cut) <= context:
        raise ConfigurationError(
            f"{path or 'text'} has {len(points)} characters: expected at least {10 * (context + 1)}, so that the last "
            f"tenth has a window of {context} and the character after it: give more text, or a smaller ?context="
        )
    known = np.unique(points[:cut])
    codes = np.searchsorted(known, points)
    codes[known[np.minimum(codes, len(known) - 1)] != points] = len(known)
    vocabulary = "".join(map(chr, known))
    train_x, train_y = _windows(codes[:cut], context)
    val_x, val_y = _windows(codes[cut:], context)
    return Data(name, train_x, train_y, val_x, val_y, len(known) + 1, vocabulary=vocabulary)


def _windows(codes, context):
    count = (len(codes) - 1) // context
    return [codes[k : k + count * context].reshape(count, context) for k in range(2)]


def _read(path):
    try:
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        return "".join(_decoded(file) for file in files), path.name
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or path} cannot be read ({error.strerror}): give a text file, or a folder of text files"
        ) from None


def _decoded(file):
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file} is not text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}: save it as such, "
            f"or take it out"
        ) from None


def _standard_library():
    text = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text.append(_decoded(file))
        if sum(map(len, text)) >= STANDARD_LIBRARY_CHARACTERS:
            break
    if not text:
        raise ConfigurationError("this Python has no standard library in source: give a text, --data text:PATH")
    return "".join(text)[:STANDARD_LIBRARY_CHARACTERS]
