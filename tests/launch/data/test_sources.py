"""Data sets by name."""

import numpy as np
import pytest

from tests.launch.data.refusals import refuses

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("spec", ["imagenet", "", "Digits", "tsv:a.tsv", "csv"])
def test_unknown_names_list_the_known_ones(spec):
    refuses(spec, repr(spec), "digits", "mnist", "fashion-mnist", "csv:PATH", "npz:PATH")


# NPZ
def npz_file(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"


X, Y = RNG.normal(size=(20, 3)), np.arange(20) % 4


def test_a_label_column_cannot_be_named_in_npz(tmp_path):
    refuses(f"{npz_file(tmp_path, x=X, y=Y)}?label=y", "?label=", "CSV", "the key y")
    refuses(f"{npz_file(tmp_path, x=X, y=Y)}?header=no", "?header=", "first line of a CSV file")
