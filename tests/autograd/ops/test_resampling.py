"""Images of other sizes.

A new operator is a new row of TABLE: see `table.py`.
"""

from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

IMAGES, MODES = [(1, 2, 4, 3)], ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
TABLE = [
    *cases(IMAGES, *[f"m.interpolate(a, scale_factor=2, mode='{m}')" for m in MODES]),
    *cases(IMAGES, *[f"m.interpolate(a, (3, 7), mode='{m}')" for m in MODES]),
    *cases(IMAGES, *[f"m.interpolate(a, (6, 2), mode='{m}', align_corners=True)" for m in ("bilinear", "bicubic")]),
    *cases(IMAGES, "m.interpolate(a, scale_factor=(1.3, 0.7), mode='bilinear')", "m.interpolate(a, 5, mode='area')"),
    *cases(IMAGES, "m.interpolate(a, scale_factor=1.3, mode='bilinear', recompute_scale_factor=True)"),
    *cases([(1, 2, 4)], "m.interpolate(a, 7, mode='linear')", "m.interpolate(a, 3)"),
    *cases([(1, 1, 2, 2, 2)], "m.interpolate(a, 3, mode='trilinear', align_corners=True)"),
    *cases([(2, 8, 2, 3)], "m.pixel_shuffle(a, 2)", "m.channel_shuffle(a, 4)"),
    *cases([(2, 2, 4, 6)], "m.pixel_unshuffle(a, 2)", "m.unfold(a, (2, 3), 1, 1, 2)", "m.unfold(a, 2, dilation=2)[0]"),
    *cases([(1, 8, 12)], "m.fold(a, (4, 5), 2)", "m.fold(a, (7, 5), 2, stride=(2, 1)) * 2"),
    *cases([(1, 8, 12)], "m.fold(a[:, :4], (2, 3), 2, 1, 1, 1)[0]"),
    *cases([(3, 7)], "a.unfold(1, 3, 2)", "a.unfold(0, 2, 1) * 2", "a.unfold(-1, 7, 1)"),
]  # fmt: skip
