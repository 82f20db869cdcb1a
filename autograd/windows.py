"""The windows that convolutions and pooling slide over images (..., H, W): where they lie, and what is in them.

Images of shape (N, C, H, W) that are made here lie in memory in the order (H, C, W, N), and so do arrays computed from
them element by element: what is copied of a row has the length W * N, and needs no transposition for a product.
"""

import itertools
from functools import cached_property, lru_cache

import numpy as np

from autograd.kernels import full

Pair = int | tuple
ORDER, BACK = (2, 1, 3, 0), (3, 1, 0, 2)  # from the axes (N, C, H, W) to those of the memory, and back


def windows_over(name, size, kernel, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, ceil_mode=False):
    """The windows of these lengths, integers or pairs, that the operation `name` slides over images of a size (H, W).

    padding is also "valid" (none) or "same" (outputs as large as the image, for stride 1).
    """
    lengths = pair(kernel), pair(stride), (0, 0) if padding in ("same", "valid") else pair(padding), pair(dilation)
    for given in lengths:
        if len(given) != 2 or not all(isinstance(n, (int, np.integer)) for n in given):
            got = f"kernel {kernel!r}, stride {stride!r}, padding {padding!r} and dilation {dilation!r}"
            raise TypeError(f'{name}: {got} are integers or pairs of them; padding also "same" or "valid"')
    if len(size) != 2:
        raise ValueError(f"{name}: needs images (N, C, H, W) or (C, H, W), got {len(size)} axes of them")
    return _windows_over(name, tuple(size), *lengths, str(padding), ceil_mode)


@lru_cache(maxsize=1024)
def _windows_over(name, size, kernel, stride, around, dilation, padding, ceil_mode):
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
    padding   ((top, bottom), (left, right))
    outputs   (OH, OW), the number of windows
    taps      for each place in the window, row by row, the index of the elements there: one for each output
    disjoint  whether no two windows overlap
    """

    def __init__(self, size, kernel, stride, padding, dilation, outputs):
        self.size, self.kernel, self.stride, self.padding = size, kernel, stride, padding
        self.dilation, self.outputs = dilation, outputs
        self.before = tuple(before for before, _ in padding)
        sides = list(zip(kernel, stride, dilation, outputs))
        each = [[slice(at * d, at * d + s * (n - 1) + 1, s) for at in range(k)] for k, s, d, n in sides]
        self.taps = [(..., *tap) for tap in itertools.product(*each)]
        self.disjoint = all(s > d * (k - 1) for k, s, d, _ in sides)

    def pad(self, x, value=0.0):
        """The image with the padding around it."""
        if not np.any(self.padding):
            return x
        out = self.blank(x, value)
        self.crop(out)[...] = x
        return out

    def crop(self, x):
        """The padded image without the padding."""
        (top, left), (height, width) = self.before, self.size
        return x[..., top : top + height, left : left + width]

    def blank(self, like, value=0.0):
        """A padded image of this value, with the leading axes of the images or outputs `like`."""
        shape = (*like.shape[:-2], *(n + sum(p) for n, p in zip(self.size, self.padding)))
        if len(shape) != 4 or type(like) is not np.ndarray:
            return full(shape, value, like)
        return full([shape[i] for i in ORDER], value, like).transpose(BACK)

    @cached_property
    def columns(self):
        """The columns of the patches under the outputs, of the image."""
        return Columns(self.size, self.before, self.kernel, self.outputs, self.stride, self.dilation)

    @cached_property
    def columns_back(self):
        """The columns of the patches of which an element of the image is part, of the outputs."""
        around = [d * (k - 1) - before for k, d, before in zip(self.kernel, self.dilation, self.before)]
        return Columns(self.outputs, around, self.kernel, self.size, (1, 1), self.dilation, self.stride)


class Columns:
    """Columns of the patches of images (N, C, H, W): a matrix for each row of outputs, and a column for each output.

    before   zeros above and to the left of the image; there are as many below and to the right as the patches need
    apart    how far apart its elements are put, with zeros in between
    """

    def __init__(self, size, before, kernel, outputs, stride, dilation, apart=(1, 1)):
        self.kernel, self.outputs, self.stride, self.dilation = kernel, outputs, stride, dilation
        self.size = tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(outputs, stride, kernel, dilation))
        self.whole = self.size == size and not any(before) and apart == (1, 1)
        self.inside, self.taken = [], []
        for n, limit, start, step in zip(size, self.size, before, apart):
            first = max(0, -(start // step))  # the first element that is not cut off
            count = max(0, min(n, -(-(limit - start) // step)) - first)
            at = start + first * step
            self.inside.append(slice(at, at + count * step, step))
            self.taken.append(slice(first, first + count))

    def __call__(self, x, groups):
        """Matrices (OH, G, KH * C/G * KW, OW * N), not to be written in.

        KW shifts of the image are copied, and nothing else unless the kernel is dilated: KH rows (C/G, KW, OW, N), one
        below the other, are such a matrix, which overlaps with the next one.
        """
        n, c = x.shape[0], x.shape[1] // groups
        (kh, kw), (oh, ow), (sh, sw), (dh, dw) = self.kernel, self.outputs, self.stride, self.dilation
        image = self._placed(x)
        row, channel, line, one = image.strides
        shape = groups, self.size[0], c, kw, ow, n
        strides = channel * c, row, channel, line * dw, line * sw, one
        shifts = np.ascontiguousarray(np.ndarray(shape, x.dtype, image, 0, strides))
        group, row, *rest = shifts.strides
        patches = np.ndarray((oh, groups, kh, c, kw, ow, n), x.dtype, shifts, 0, (row * sh, group, row * dh, *rest))
        return patches.reshape(oh, groups, kh * c * kw, ow * n)

    def _placed(self, x):
        """The images in the order (H, C, W, N), in the midst of zeros, or cut to what the patches have of them."""
        if self.whole:
            return in_order(x)
        (height, width), (rows, columns) = self.size, self.inside
        out = np.zeros((height, x.shape[1], width, len(x)), x.dtype)
        out[rows, :, columns] = x[..., *self.taken].transpose(ORDER)
        return out


def in_order(x):
    """Images (N, C, H, W) as an array (H, C, W, N), copied if they do not lie so in memory."""
    return np.ascontiguousarray(x.transpose(ORDER))


def pair(value):
    """(v, v) for v, and for (v,); a pair as it is."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * 2 if len(value) == 1 else value
