"""What the rules compute by: sums that undo a broadcast, exact functions, axes, cache_blocks and aligned memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

from allgrad.autograd.arrays import (
    ALIGNMENT_BYTES,
    aligned_zeros,
    cache_blocks,
    erf,
    kernels,
    logistic,
    mask_grad,
    max_keepdims,
    maxima_of_rows,
    mean_over,
    normalize_axes,
    normalize_axis,
    ones,
    positive_part,
    sum_keepdims,
    sum_over,
    sum_rows,
    unbroadcast,
)

both = pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3))
def test_unbroadcast_is_the_transpose_of_broadcasting(shapes):
    small, whole = shapes.input_shapes[0], shapes.result_shape
    a, g = np.arange(1.0, 1 + np.prod(small)).reshape(small), np.cos(np.arange(np.prod(whole))).reshape(whole)
    back = unbroadcast(g, small)
    assert back.shape == small
    np.testing.assert_allclose(np.sum(back * a), np.sum(g * np.broadcast_to(a, whole)), atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 10), (100, 10), (3, 40, 10), (100, 40), (0, 10)], ids=str)
def test_maxima_of_rows(shape):
    a = np.cos(np.arange(float(np.prod(shape)))).reshape(shape)
    a[..., 1:2, 3] = np.nan
    np.testing.assert_array_equal(maxima_of_rows(a), a.max(axis=-1, keepdims=True))


@both
def test_sums_by_the_blas_are_those_of_the_arrays(array):
    a = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(sum_rows(array(a)), a.sum(0))
    for axis in (0, 1, -1):
        np.testing.assert_array_equal(sum_keepdims(array(a), axis), a.sum(axis, keepdims=True))
        np.testing.assert_array_equal(max_keepdims(array(a), axis), a.max(axis, keepdims=True))
    assert np.shape(max_keepdims(array(np.zeros((0, 3))), 0)) == ()
    with pytest.raises(ValueError, match="read-only"):
        ones(3, np.dtype("f4"))[0] = 2.0


@both
def test_masked_gradients_are_0_also_where_they_were_not_finite(array):
    g, mask = array(np.array([1.0, np.inf, np.nan])), array(np.array([True, False, False]))
    np.testing.assert_array_equal(mask_grad(g, mask), [1.0, 0.0, 0.0])


@both
def test_functions_that_numpy_lacks_are_those_of_torch(array):
    x = np.array([-800.0, -30.0, -1.0, 0.0, 2.0, 800.0])
    np.testing.assert_allclose(logistic(array(x)), torch.sigmoid(torch.tensor(x)), rtol=1e-14)
    np.testing.assert_allclose(erf(array(x)), torch.erf(torch.tensor(x)), rtol=1e-14)


def test_axes_are_counted_from_the_front_and_a_scalar_has_one():
    assert (normalize_axis(-1, 3, "f"), normalize_axis(np.int64(1), 3, "f"), normalize_axis(0, 0, "f")) == (2, 1, 0)
    assert (normalize_axes(-1, 2, "f"), normalize_axes([0, -1], 3, "f"), normalize_axes(0, 0, "f")) == (
        (1,),
        (0, 2),
        None,
    )
    with pytest.raises(ValueError, match="f: axis 2 is out of bounds"):
        normalize_axis(2, 2, "f")
    with pytest.raises(TypeError, match="f: an axis is an integer, not True"):
        normalize_axis(True, 2, "f")


def test_pieces_are_views_that_cover_the_arrays():
    a, b = np.zeros(2 * kernels.BLOCK_ELEMENTS + 5), np.zeros((5, 1))
    for (piece,) in cache_blocks(a):
        piece += 1.0
    assert (a == 1.0).all() and [len(piece) for (piece,) in cache_blocks(a)] == [
        kernels.BLOCK_ELEMENTS,
        kernels.BLOCK_ELEMENTS,
        5,
    ]
    assert [[p.shape for p in some] for some in cache_blocks(b, b)] == [[(5,), (5,)]]


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
def test_aligned_zeros_start_where_a_cache_line_does(dtype):
    for length in (1, 63, 1000):
        a = aligned_zeros(length, np.empty(0, dtype))
        assert (a.shape, a.dtype) == ((length,), dtype) and a.ctypes.data % ALIGNMENT_BYTES == 0 and not a.any()


@pytest.mark.parametrize("order", ["C", "F", "reversed", "every other"])
@pytest.mark.parametrize("shape", [(5000, 3), (3, 5000), (60, 90, 3), (2, 5000, 2, 3), (5000,), (5000, 1)])
def test_long_sums_of_float32_are_as_good_as_those_of_float64(shape, order):
    """However they lie in memory: with random signs of its rounding errors 5000 additions one by one err by 1e-5."""
    x = (np.random.default_rng(0).standard_normal(shape) + 10).astype(np.float32)
    x = {"C": x, "F": np.asfortranarray(x), "reversed": x.T[::-1], "every other": x[::2]}[order]
    for axes in [None, (-1,), *[(i,) for i in range(x.ndim)], tuple(range(x.ndim - 1))]:
        for keepdims in (False, True):
            for f, exact in ((sum_over, np.sum), (mean_over, np.mean)):
                y, expected = f(x, axes, keepdims), exact(x, axis=axes, keepdims=keepdims, dtype=float)
                assert y.dtype == np.float32 and y.shape == expected.shape
                np.testing.assert_allclose(y, expected, rtol=3e-6)
    half = sum_over(np.ones((5000, 2), np.float16), (0,))
    assert half.dtype == np.float16 and half.tolist() == [5000.0, 5000.0]


def test_a_bias_gets_the_whole_gradient_of_a_long_batch():
    """In float32 a sum of ones, one by one, stops at 2^24."""
    rows = np.broadcast_to(np.float32([1.0, 3.0]), (1 << 25, 2))
    assert unbroadcast(rows, (2,)).tolist() == [2.0**25, 3 * 2.0**25]
    assert sum_rows(np.full((3 << 14, 2), 2.0**10 + 1, np.float32)).tolist() == [(2.0**10 + 1) * (3 << 14)] * 2


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_masked_gradients_are_the_same_bits_or_0_in_arrays_of_any_size(dtype):
    for shape in ((8, 2), (64, 32), (32, 1)):
        g = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        g[:3] = [[np.inf], [np.nan], [-0.0]]
        mask = np.random.default_rng(1).random((shape[0], 64 if shape[1] == 1 else shape[1])) < 0.5
        for a, m in ((g, mask), (g.T, mask.T), (g[::2], mask[::2])):
            np.testing.assert_array_equal(mask_grad(a, m), np.where(m, a, 0), strict=True)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
@pytest.mark.parametrize("length", [7, 5000])
def test_the_positive_part_is_that_of_torch(length, dtype):
    x = np.random.default_rng(0).integers(-9, 9, length).astype(dtype)
    if dtype != "i4":
        x[:3] = np.nan, np.inf, -np.inf
    y = positive_part(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, torch.relu(torch.from_numpy(x)).numpy())
