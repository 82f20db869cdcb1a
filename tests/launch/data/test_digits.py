"""The embedded digits."""

import subprocess
import sys

import numpy as np
import pytest

from allgrad.launch.data import digits, load


def test_digits_need_neither_a_download_nor_scikit_learn():
    code = """
import sys
import allgrad.launch.data
assert not {"pooch", "sklearn", "torch", "mpi4py"} & set(sys.modules)
allgrad.launch.data.load("digits")
assert not {"pooch", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Digits
def test_digits_file_is_what_scikit_learn_gives():
    pytest.importorskip("sklearn")
    expected = digits.regenerate()
    with np.load(digits.FILE, allow_pickle=False) as file:
        assert sorted(file.files) == sorted(expected)
        for key, values in expected.items():
            assert file[key].dtype == values.dtype
            np.testing.assert_array_equal(file[key], values)
    assert digits.FILE.stat().st_size < 60_000


def test_digits_are_split_centred_and_scaled():
    data = load("digits")
    assert (data.name, data.features, data.classes) == ("digits", (64,), 10)
    assert (data.train_x.shape, data.val_x.shape) == ((1437, 64), (360, 64))
    assert (data.train_x.dtype, data.train_y.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(data.train_x.mean(axis=0, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(data.train_x.std(dtype=float), 1, rtol=1e-6)
    assert np.bincount(data.val_y).min() >= 34 and set(data.train_y) == set(range(10))
