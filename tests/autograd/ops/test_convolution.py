"""Convolutions, transposed or not, over one axis or two.

A new operator is a new row of TABLE: see `table.py`.
"""

import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st

import allgrad as ag
from tests.autograd.ops.properties import SEEDS, check_with_torch, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *cases([(2, 4, 5, 4), (6, 4, 3, 2), (6,)], "m.conv2d(a, b, c)", "m.conv2d(a[0], b, c, 2, (1, 0))"),
    *cases([(2, 4, 5, 4), (6, 2, 3, 2), (6,)], "m.conv2d(a, b, c, padding=(2, 1), dilation=(2, 1), groups=2)"),
    *cases([(1, 2, 5, 4), (3, 2, 3, 3)], "m.conv2d(a, b, padding='same')", "m.conv2d(a, b, stride=2, padding='valid')"),
    *cases([(2, 4, 7), (6, 4, 3), (6,)], "m.conv1d(a, b, c, padding=1)", "m.conv1d(a[1], b, stride=(2,), dilation=2)"),
    *cases([(2, 4, 3, 2), (4, 3, 3, 2), (6,)], "m.conv_transpose2d(a, b, c, 2, 1, (1, 0), groups=2)"),
    *cases([(4, 3, 2), (4, 3, 3, 2)], "m.conv_transpose2d(a, b, dilation=2)"),
    *cases([(2, 3, 2), (2, 3, 2, 2)], "m.conv_transpose2d(a, b, None, 1, 0, 1, 1, 2)"),  # room for more outputs
]  # fmt: skip


@settings(max_examples=60)
@given(st.data(), SEEDS)
def test_convolutions_are_those_of_torch(data, seed):
    name = data.draw(st.sampled_from(["conv1d", "conv2d", "conv_transpose2d"]))
    axes = 1 if name == "conv1d" else 2

    def lengths(least, most):
        return tuple(data.draw(st.integers(least, most)) for _ in range(axes))

    groups, kernel, stride, dilation, padding = data.draw(st.integers(1, 3)), *map(lengths, (1, 1, 1, 0), (3, 3, 2, 2))
    size, batch = lengths(1, 7), data.draw(st.sampled_from([(), (1,), (2,)]))
    channels, outputs = (groups * data.draw(st.integers(1, 2)) for _ in range(2))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if name == "conv_transpose2d":
        weight = (channels, outputs // groups, *kernel)
        options["output_padding"] = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
        extents = zip(size, stride, padding, dilation, kernel, options["output_padding"])
        assume(all((n - 1) * s - 2 * p + d * (k - 1) + e + 1 > 0 for n, s, p, d, k, e in extents))
    else:
        weight = (outputs, channels // groups, *kernel)
        assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel)))
    if data.draw(st.booleans()):
        options = {key: v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for key, v in options.items()}
    xs = normal(seed, (*batch, channels, *size), weight, *[(outputs,)] * data.draw(st.integers(0, 1)))
    check_with_torch(lambda m, *xs: getattr(ag if m is ag else F, name)(*xs, **options), *xs, seed=seed)
