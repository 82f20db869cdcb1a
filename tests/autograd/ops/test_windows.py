"""Images in any memory order: convolutions and pooling give what torch does, and the same bits for the same numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

import allgrad as ag

SETTINGS = settings(derandomize=True, deadline=None, max_examples=30, database=None)
SEEDS = st.integers(0, 2**32 - 1)


def laid_out(order, x):
    """The same numbers with the axes in another order in memory."""
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@SETTINGS
@given(st.data(), SEEDS)
def test_convolutions_of_few_images_with_wide_kernels_and_wider_padding(data, seed):
    batch, groups, channels, outputs = (data.draw(st.integers(least, 2)) for least in (0, 1, 1, 1))
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = data.draw(st.one_of(st.just("same"), st.tuples(*[st.integers(0, k + 1) for k in kernel])))
    around = (0, 0) if padding == "same" else padding
    size = tuple(max(1, k - 2 * p) + data.draw(st.integers(0, 3)) for k, p in zip(kernel, around))
    shapes = (batch, groups * channels, *size), (groups * outputs, channels, *kernel), (groups * outputs,)
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(shape) for shape in shapes)
    x = laid_out(data.draw(st.permutations(range(4))), x)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    expected = F.conv2d(*leaves, padding=padding, groups=groups)
    y, pullback = ag.vjp(lambda *xs: ag.conv2d(*xs, padding=padding, groups=groups), x, w, b)
    g = laid_out(data.draw(st.permutations(range(4))), rng.standard_normal(y.shape))
    slopes = torch.autograd.grad(expected, leaves, torch.tensor(g))
    for ours, theirs in zip((y, *pullback(g)), (expected.detach(), *slopes), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-11, atol=1e-11)


@SETTINGS
@given(st.data(), SEEDS)
def test_bits_do_not_depend_on_how_images_lie_in_memory(data, seed):
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(shape).astype("f") for shape in ((3, 4, 6, 8), (6, 2, 3, 3), (6,)))
    f = data.draw(st.sampled_from([
        lambda x: ag.conv2d(x, w, b, padding=1, groups=2),
        lambda x: ag.conv_transpose2d(x, w[:4], b[:4], stride=2, groups=2),
        lambda x: ag.batch_norm(x, None, None, b[:4], b[2:], training=True),
        lambda x: ag.max_pool2d(x, 2),
        lambda x: ag.avg_pool2d(x, 3, 1),
    ]))  # fmt: skip
    outcomes = []
    for order in ((0, 1, 2, 3), data.draw(st.permutations(range(4)))):
        y, pullback = ag.vjp(f, laid_out(order, x))
        g = np.cos(np.arange(y.size, dtype="f")).reshape(y.shape)
        outcomes.append([y, *pullback(g), *pullback(np.asfortranarray(g))])
    for here, there in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(*outcomes[0][1:])


def test_images_stay_in_the_order_in_which_convolutions_make_them():
    rng = np.random.default_rng(0)
    x, w, v = (rng.standard_normal(shape) for shape in ((3, 2, 8, 8), (4, 2, 3, 3), (2, 4, 1, 1)))
    y = ag.conv2d(x, w, padding=1)
    images = [y, ag.relu(y), ag.sigmoid(y), ag.batch_norm(y, training=True), ag.max_pool2d(y, 2), ag.avg_pool2d(y, 2)]
    for image in (*images, ag.conv2d(images[-1], v, stride=2)):
        assert image.data.transpose(2, 1, 3, 0).flags.c_contiguous, image.name
