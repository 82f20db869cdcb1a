"""The 8x8 handwritten digits of UCI and scikit-learn, 1,797 images in ten classes, embedded in the package.

`python -m allgrad.launch.data.digits` writes the embedded file anew from scikit-learn.
"""

from pathlib import Path

import numpy as np

from allgrad.launch.data.dataset import Data

FILE = Path(__file__).with_name("digits.npz")


def read():
    """All images (1797, 64), pixels from 0 to 1 for ink, their labels, and the indices of the two parts of `load`."""
    with np.load(FILE, allow_pickle=False) as file:
        return file["pixels"] / 16.0, file["labels"].astype(np.int64), file["train"], file["validation"]


def load() -> Data:
    """1,437 training and 360 validation images (N, 64): pixels / 16 minus their training means, over one global std."""
    x, y, train, validation = read()
    x -= x[train].mean(axis=0)
    x = (x / x[train].std()).astype(np.float32)
    return Data("digits", x[train], y[train], x[validation], y[validation], classes=10, grid=(8, 8))


def regenerate() -> dict[str, np.ndarray]:
    """The arrays of the embedded file, from scikit-learn: pixels 0..16, labels, indices of a stratified split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, validation = train_test_split(range(len(labels)), test_size=360, stratify=labels, random_state=0)
    return {
        "pixels": pixels.astype(np.uint8),
        "labels": labels.astype(np.uint8),
        "train": np.array(train, np.uint16),
        "validation": np.array(validation, np.uint16),
    }


if __name__ == "__main__":
    arrays = regenerate()
    np.savez_compressed(FILE, **arrays)  # type: ignore[reportArgumentType]
    print(f"{FILE}: {FILE.stat().st_size} bytes")
