"""Data sets by name."""

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data import load

RNG = np.random.default_rng(0)


def refuses(spec, *fragments, **options):
    """Loading fails with one sentence that has all the fragments."""
    with pytest.raises(ConfigurationError) as caught:
        load(str(spec), **options)
    text = str(caught.value)
    assert "\n" not in text and ". " not in text and not text.endswith(".")
    for fragment in fragments:
        assert fragment in text, text


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
