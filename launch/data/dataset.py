"""A data set in memory: its training and its validation part, and what a model for it must know."""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

FEW_CLASSES = 20  # whole numbers mean classes up to so many, and beyond if each occurs SAMPLES_A_CLASS times on average
SAMPLES_A_CLASS = 5
LARGE_INPUTS = 10.0  # root mean square, from which on they are worth a remark


def meaning(different: int, samples: int) -> tuple[bool, str]:
    """Whether labels that are whole numbers, so many different ones, are taken as quantities and not as classes; and
    that in words."""
    seen = f"{different:,} different whole numbers in {samples:,} samples"
    if different > max(FEW_CLASSES, samples // SAMPLES_A_CLASS):
        why = f"more than {FEW_CLASSES}, and fewer than {SAMPLES_A_CLASS} samples of each on average"
        return True, f"{seen}, taken as quantities ({why})"
    return False, f"{seen}, taken as classes"


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a validation part.

    train_x, val_x: float32 (N, ...); of text, int64 (N, context), codes of characters.
    train_y, val_y: int64 (N,), labels 0..classes-1; or float32 (N, targets) when `classes` is None (regression); of
    text, int64 (N, context), the code of the next character at each position, one of `classes`.
    vocabulary: of text, the characters of the codes 0..classes-2; the last code is any other character.
    grid: height and width of the grey images that lie flat in (N, height * width).
    table: of a table, what its new samples must be read with (see `data.tables.samples`), as JSON values.
    remarks: sentences on what was decided in reading, for the user.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    classes: int | None
    vocabulary: str | None = None
    grid: tuple[int, ...] | None = None
    table: dict | None = None
    remarks: tuple[str, ...] = ()

    @property
    def image(self) -> tuple[int, ...] | None:
        """(channels, height, width) of a sample that is an image; two axes are those of a grey one."""
        shape = self.grid or self.features
        return None if self.vocabulary is not None or len(shape) not in (2, 3) else (1, *shape)[-3:]

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.train_x.shape[1:]

    @property
    def inputs(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.features)

    @property
    def target_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std), float64 (targets,), of a regression: targets times std plus mean are in the label's unit."""
        return scale_of(self.table, self.outputs)

    @property
    def outputs(self) -> int:
        """Numbers that a model has to predict: one a class, or one a regression target."""
        return self.train_y.shape[1] if self.classes is None else self.classes

    @property
    def size_remark(self) -> str | None:
        """What learning rates that are usual for inputs of about 1 would not expect, as pixels from 0 to 255."""
        if self.train_x.dtype.kind != "f" or not self.train_x.size:
            return None
        size = math.sqrt(float(np.mean(np.square(self.train_x, dtype=np.float64))))
        if size < LARGE_INPUTS:
            return None
        return (
            f"inputs are of size {size:.3g} (root mean square), and usual learning rates are for about 1: scale them, "
            f"or lower --lr"
        )

    def form(self) -> dict:
        """What a model for such data can be made from again (see `placeholder`), as JSON values."""
        return {
            "name": self.name, "features": self.features, "outputs": self.outputs, "classes": self.classes,
            "vocabulary": self.vocabulary, "grid": self.grid, "table": self.table,
        }  # fmt: skip

    def astype(self, dtype) -> "Data":
        """The same with floating arrays of this dtype; those that are of it are shared."""
        arrays = {name: getattr(self, name) for name in ("train_x", "train_y", "val_x", "val_y")}
        return replace(self, **{k: a.astype(dtype, copy=False) for k, a in arrays.items() if a.dtype.kind == "f"})

    @cached_property
    def sha256(self) -> str:
        """Which data this is: hash over dtype, shape and little-endian bytes of train_x, train_y, val_x, val_y.

        For text also over the vocabulary.
        """
        digest = hashlib.sha256()
        for array in (self.train_x, self.train_y, self.val_x, self.val_y):
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        digest.update((self.vocabulary or "").encode())
        return digest.hexdigest()


def scale_of(table: dict | None, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """`Data.target_scale` of data with this table: zeros and ones where targets are in their own unit."""
    target = (table or {}).get("target") or {"mean": [0.0] * targets, "std": [1.0] * targets}
    return np.array(target["mean"]), np.array(target["std"])


def placeholder(form: dict) -> Data:
    """Data of this form (see `Data.form`) that hold one sample of zeros: enough to make a model for it."""
    x = np.zeros((1, *form["features"]), np.int64 if form["vocabulary"] is not None else np.float32)
    y = np.zeros((1, form["outputs"]), np.float32) if form["classes"] is None else np.zeros(1, np.int64)
    grid = form["grid"] and tuple(form["grid"])
    return Data(form["name"], x, y, x, y, form["classes"], form["vocabulary"], grid, form["table"])
