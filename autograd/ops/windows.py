"""The windows that convolutions and pooling slide over images (..., H, W): where they lie, and what is in them.

Images have the shape (N, C, H, W). Those made here lie in memory in the order (H, C, W, N), and so do arrays computed
from them element by element. Columns of patches are then made by copying runs of W * N neighbours, and are ready for a
matrix product without a transposition.
"""

import itertools
import math
from functools import lru_cache

import numpy as np

from allgrad.autograd.arrays import NUMPY_TYPES, full

Pair = int | tuple
TO_HCWN, TO_NCHW = (2, 1, 3, 0), (3, 1, 0, 2)  # orders of axes for `transpose`


def windows_over(name, size, kernel, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, ceil_mode=False):
    """The windows that the operation `name` slides over images of size (H, W), as a `Windows`.

    kernel, stride, padding, dilation: integers or pairs (rows, columns). padding is also "valid" (none) or "same"
    (outputs as large as the image, for stride 1). ceil_mode keeps windows that hang over the edge.
    """
    lengths = pair(kernel), pair(stride), (0, 0) if padding in ("same", "valid") else pair(padding), pair(dilation)
    for given in lengths:
        if len(given) != 2 or not all(isinstance(n, (int, np.integer)) for n in given):
            got = f"kernel {kernel!r}, stride {stride!r}, padding {padding!r} and dilation {dilation!r}"
            raise TypeError(f'{name}: {got} are integers or pairs of them; padding also "same" or "valid"')
    return _windows_over(name, tuple(size), *lengths, str(padding), ceil_mode)


@lru_cache(maxsize=1024)
def _windows_over(name, size, kernel, stride, around, dilation, padding, ceil_mode):
    kernel, stride, around, dilation = (tuple(map(int, lengths)) for lengths in (kernel, stride, around, dilation))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    if padding == "same" and stride != (1, 1):
        raise ValueError(f'{name}: padding "same" needs stride 1, got {stride}')
    before = [((e - 1) // 2, e // 2) for e in extents] if padding == "same" else [(p, p) for p in around]
    if min(*kernel, *stride, *dilation) < 1 or min(around) < 0:
        got = f"kernel {kernel}, stride {stride} and dilation {dilation}"
        raise ValueError(f"{name}: {got} must be at least 1, padding {padding} at least 0")
    outputs, over = [], []
    for n, s, e, (left, right) in zip(size, stride, extents, before):
        room = n + left + right - e
        count = room // s + 1
        # With ceil_mode one more, if it begins on the image or before it; its end needs more padding.
        count += ceil_mode and room % s > 0 and count * s < n + left
        outputs.append(count)
        over.append((left, right + max(0, (count - 1) * s - room)))
    if min(outputs) < 1:
        window = f"windows over {tuple(extents)} elements"
        raise ValueError(f"{name}: {window} are larger than the image {size} with padding {padding}")
    return Windows(size, kernel, stride, tuple(over), dilation, tuple(outputs))


class Windows:
    """Windows of `kernel` elements, `dilation` apart, beginning every `stride` elements of the padded image.

    size      (H, W) of the image
    padding   ((top, bottom), (left, right)), and `padded`, whether there is any
    outputs   (OH, OW), the number of windows
    taps      for each of KH * KW places in the window, row by row, an index of the padded image: the element in that
              place of every window, (..., OH, OW)
    sides     indices of the same kind for each row of the window, (..., OH, W), and for each column, (..., H, OW)
    disjoint  whether no two windows overlap
    hollow    whether a window may lie in the padding with all its elements
    reach     (rows, columns) of the padded image that the windows reach
    rows      how many rows of the image the windows reach
    moves     for each column of the kernel a pair of slices of columns: the outputs for which an element of the image
              lies under it, and those elements
    """

    def __init__(self, size, kernel, stride, padding, dilation, outputs):
        self.size, self.kernel, self.stride, self.padding = size, kernel, stride, padding
        self.dilation, self.outputs = dilation, outputs
        self.before = tuple(before for before, _ in padding)
        sides = list(zip(kernel, stride, dilation, outputs))
        each = [[slice(at * d, at * d + s * (n - 1) + 1, s) for at in range(k)] for k, s, d, n in sides]
        self.taps = [(..., *tap) for tap in itertools.product(*each)]
        self.sides = [(..., rows, slice(None)) for rows in each[0]], [(..., columns) for columns in each[1]]
        self.padded = any(map(any, padding))
        self.disjoint = all(s > d * (k - 1) for k, s, d, _ in sides)
        self.reach = tuple((n - 1) * s + (k - 1) * d + 1 for k, s, d, n in sides)
        self.rows = max(0, min(size[0], self.reach[0] - self.before[0]))
        self.hollow = any(
            not any(left <= i * s + at * d < left + length for at in range(k))
            for (k, s, d, n), left, length in zip(sides, self.before, size)
            for i in range(n)
        )
        self.moves = [
            _move(at * dilation[1] - self.before[1], stride[1], size[1], outputs[1]) for at in range(kernel[1])
        ]

    def pad(self, x, value=0.0):
        """The image with the padding around it."""
        if not self.padded:
            return x
        out = self.blank(x, value)
        self.crop(out)[...] = x
        return out

    def crop(self, x):
        """The padded image without the padding."""
        (top, left), (height, width) = self.before, self.size
        return x[..., top : top + height, left : left + width]

    def blank(self, like, value=0.0, rows=None):
        """A padded image filled with a value, with the leading axes and dtype of `like`; of `rows` rows if given."""
        height, width = (n + sum(p) for n, p in zip(self.size, self.padding))
        shape = (*like.shape[:-2], height if rows is None else rows, width)
        if len(shape) != 4 or type(like) not in NUMPY_TYPES:
            return full(shape, value, like)
        return full([shape[i] for i in TO_HCWN], value, like).transpose(TO_NCHW)

    def columns(self, x, groups):
        """The patches of images (N, C, H, W) as columns: matrices (OH, G, KH * C/G * KW, OW * N), not to be written to.

        Only KW copies of the images are made, each shifted by one column of the kernel. KH rows of these copies, one
        below the other, are the matrix of one row of outputs; that of the next row overlaps with it in memory. (Where
        the kernel is dilated, these rows are no neighbours, and are copied.)
        """
        (n, c), (h, w), (oh, ow) = x.shape[:2], self.size, self.outputs
        patches, shifts = self._shifts(n, c, groups, x.dtype, x)
        image = to_hcwn(x).reshape(h, groups, c // groups, w, n).swapaxes(0, 1)
        for k, (here, there) in enumerate(self.moves):
            shifts[:, :, :, k, here] = image[:, : self.rows, :, there]
        return patches.reshape(oh, groups, math.prod(patches.shape[2:5]), ow * n)

    def fold(self, matrix, rows):
        """The images of which `columns` would take the columns of matrix @ rows, each added to where it came from.

        matrix is (G, KH * C/G * KW, K), rows are (OH, G, K, OW * N), the images (N, C, H, W).
        """
        (groups, length, _), (h, w) = matrix.shape, self.size
        n, c = rows.shape[-1] // self.outputs[1], length // math.prod(self.kernel)
        patches, shifts = self._shifts(n, c * groups, groups, np.result_type(matrix, rows), rows)
        for patch, row in zip(patches, rows):
            patch += (matrix @ row).reshape(patch.shape)
        out = np.zeros((h, groups, c, w, n), shifts.dtype, like=shifts)
        image = out.swapaxes(0, 1)
        for k, (here, there) in enumerate(self.moves):
            image[:, : self.rows, :, there] += shifts[:, :, :, k, here]
        return out.reshape(h, groups * c, w, n).transpose(TO_NCHW)

    def _shifts(self, n, c, groups, dtype, like):
        """Zeros for KW shifted copies of images, (G, H, C/G, KW, OW, N), as two views of the same memory.

        The first is the patches (OH, G, KH, C/G, KW, OW, N), which overlap; the second leaves out padding rows.
        """
        (kh, kw), (oh, ow), (sh, _), (dh, _) = self.kernel, self.outputs, self.stride, self.dilation
        zeros = np.zeros((groups, (oh - 1) * sh + (kh - 1) * dh + 1, c // groups, kw, ow, n), dtype, like=like)
        group, row, *rest = zeros.strides
        shape, strides = (oh, groups, kh, *zeros.shape[2:]), (row * sh, group, row * dh, *rest)
        top = self.before[0]
        return type(zeros)(shape, dtype, zeros, 0, strides), zeros[:, top : top + self.rows]


def _move(start, stride, length, outputs):
    """The outputs i with 0 <= start + i * stride < length, and these positions, as two slices."""
    first = max(0, -(start // stride))
    count = max(0, min(outputs, (length - 1 - start) // stride + 1) - first)
    at = start + first * stride
    return slice(first, first + count), slice(at, at + count * stride, stride)


def to_hcwn(x):
    """Images (N, C, H, W) as a contiguous array (H, C, W, N), copied if they do not lie so in memory."""
    return x.transpose(TO_HCWN).astype(x.dtype, order="C", copy=False)


def pair(value):
    """(v, v) for v, and for (v,); a pair as it is."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * 2 if len(value) == 1 else value
