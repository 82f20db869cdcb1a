"""Questions about elements. A new operator is a new row of VALUES."""

import numpy as np
import pytest

import allgrad as ag
from tests.autograd.ops.values import *  # noqa: F403 - the test of each row of VALUES

VALUES = [
    *[f"m.{f}(a, b)" for f in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")],
    *[f"m.{f}(a)" for f in ("logical_not", "isnan", "isinf", "isfinite", "signbit", "isposinf", "isneginf")],
    "m.any(a)", "m.all(a)",
    *[f"m.bitwise_{f}(i, i + 1)" for f in ("and", "or", "xor")], "m.bitwise_not(i)", "m.bitwise_and(a > 0, b > 0)",
    "m.eq(a, 1.0)", "a.ge(0)", "m.isclose(a, b)", "m.isclose(a, b, atol=1.0)", "m.isclose(a, b, equal_nan=True)",
    "m.allclose(a[1:], b[1:])", "m.allclose(a[2, :2], b[2, :2], rtol=0.0)", "m.equal(a, b)", "m.equal(i, i)",
    "m.equal(i, i[1:])",
    "m.any(a > 0, dim=1)", "m.all(a == a, 0, keepdim=True)", "a.any(1)", "m.count_nonzero(a)",
    "m.count_nonzero(i, dim=0)",
    "m.nonzero(i)", "m.nonzero(a > 0, as_tuple=True)", "m.argwhere(a > 0)", "m.unique(i)",
    "m.unique(i, return_counts=True)",
    "m.unique(i, return_inverse=True, return_counts=True)", "m.unique(b[:1] * 0 == 0, dim=0)", "m.bincount(i)",
    "m.bincount(i, p.repeat(2)[1:], 9)", "m.searchsorted(p, b[:1])", "m.searchsorted(p, p, right=True)",
    "m.searchsorted(p, p, side='left')", "i.ne(1)", "~(a > 0)", "i.bitwise_xor(3)", "m.count_nonzero(a[:0])",
    "m.all(a[:0])",
]  # fmt: skip


def test_operators_of_python():
    x, flags = ag.tensor([1, 2, 3]), ag.tensor(np.array([True, False]))
    assert (x & 1).tolist() == [1, 0, 1] and (1 | x).tolist() == [1, 3, 3] and (x ^ x).tolist() == [0, 0, 0]
    assert (~flags).tolist() == [False, True] and 2 in x and 5 not in x
    assert int(ag.tensor([2.7])) == 2 and "abc"[x[1]] == "c"
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        "abc"[ag.tensor(1.0)]
