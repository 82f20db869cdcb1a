"""Operations without derivatives beside torch's: the expressions in VALUES of each file, of arrays a, b, p and i.

Value, shape and dtype are compared, on NumPy's arrays and on torch's tensors.
"""

import numpy as np
import torch

import allgrad as ag
from allgrad.autograd.arrays import to_numpy
from allgrad.autograd.engine import unwrap
from tests.autograd.ops.table import ON_TORCH, OURS, TORCH

__all__ = ["test_values_are_those_of_torch"]

A = np.array([[0.5, -1.0, 2.5, np.nan], [0.0, -0.0, np.inf, 1.0], [-np.inf, 3.0, -1.5, 1.0]])
B = np.array([[0.5, 1.0, 2.0, np.nan], [1.0, 0.0, np.inf, -np.inf], [-np.inf, 3.0 + 1e-9, 1.5, 2.0]])
INPUTS = {"a": A, "b": B, "p": np.array([0.0, 1.0, 1.0]), "i": np.array([3, 1, 1, 0, 5])}


def listed(x):
    return list(x) if isinstance(x, (tuple, list)) else [x]


def described(x):
    x = unwrap(x)
    array = to_numpy(x) if hasattr(x, "dtype") else np.asarray(x)
    return type(x).__module__.split(".")[0], array.dtype, array.shape, array


def test_values_are_those_of_torch(value):
    function = eval(f"lambda m, a, b, p, i: {value}", globals())
    expected = [described(x) for x in listed(function(TORCH, *map(torch.tensor, INPUTS.values())))]
    for library, array in ((OURS, np.array), (ON_TORCH, torch.tensor)):
        found = listed(function(library, *(ag.tensor(array(x)) for x in INPUTS.values())))
        for (_, *have), (_, *want) in zip(map(described, found), expected, strict=True):
            assert have[:2] == want[:2]
            np.testing.assert_allclose(have[2], want[2], rtol=1e-7 if want[0] == np.float32 else 1e-12)
