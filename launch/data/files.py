"""What the readers of downloaded image sets share: files, hashes, pooch, and the scaling of pixels."""

import hashlib
import math

import numpy as np

from allgrad.ddp.errors import ConfigurationError


def read(path) -> bytes:
    """The bytes of a file, or a ConfigurationError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): check the file and its rights") from None


def md5(path) -> str:
    return hashlib.md5(read(path), usedforsecurity=False).hexdigest()


def damaged(path, seen, expected):
    """The error of a file that is not what its format says."""
    return ConfigurationError(f"{path}: found {seen}, expected {expected}: delete the file and fetch it again")


def pooch_for(name, wanted, where):
    """The module pooch, silenced; a ConfigurationError that says what is wanted, and where, if it is not installed."""
    try:
        import pooch
    except ImportError:
        raise ConfigurationError(
            f"{name} needs {wanted}, looked for in {where}, and downloading them needs pooch, which is not "
            f"installed: pip install 'allgrad[data]', or give the folder that holds them with --data-dir"
        ) from None
    pooch.get_logger().setLevel("WARNING")  # or each rank announces each file
    return pooch


def normalised(train, validation):
    """Both uint8 arrays as float32: / 255, minus the mean of the training pixels, over their std (one number each).

    Each of the 256 levels is normalised once, from integer counts: the same bits on every machine.
    """
    counts = sum(np.bincount(some.reshape(-1), minlength=256) for some in _chunks(train))
    level = np.arange(256) / 255
    mean = np.average(level, weights=counts)
    std = math.sqrt(np.average((level - mean) ** 2, weights=counts))
    level = ((level - mean) / (std or 1.0)).astype(np.float32)
    return _look_up(level, train), _look_up(level, validation)


def _chunks(images):
    """256 images at a time, since NumPy turns each pixel into an index of 8 bytes."""
    return (images[i : i + 256] for i in range(0, len(images), 256))


def _look_up(level, images):
    found = np.empty(images.shape, level.dtype)
    for pixels, values in zip(_chunks(images), _chunks(found)):
        np.take(level, pixels, out=values, mode="clip")  # the other modes make a copy of the values
    return found
