"""The windows that convolutions and pooling slide over images (..., H, W): where they lie, and what is in them.

Images of shape (N, C, H, W) that are made here lie in memory in the order (H, C, W, N), and so do arrays computed from
them element by element: what is copied of a row has the length W * N, and needs no transposition for a product.
"""

import itertools

import numpy as np

from autograd.kernels import full

Pair = int | tuple


class Windows:
    """Windows of `kernel` elements, `dilation` apart, beginning every `stride` elements of the padded image.

    size      (H, W) of the image
    padding   ((top, bottom), (left, right)); given as an integer, a pair, "valid" (none) or "same" (outputs as large
              as the image, for stride 1); with ceil_mode also what the last windows need beyond it
    outputs   (OH, OW), the number of windows
    """

    def __init__(
        self, name, size, kernel, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, ceil_mode=False
    ):
        self.size, self.kernel = tuple(size), pair(kernel)
        self.stride, self.dilation = pair(stride), pair(dilation)
        around = (0, 0) if padding in ("same", "valid") else pair(padding)
        for given in (self.kernel, self.stride, self.dilation, around):
            if len(given) != 2 or not all(isinstance(n, (int, np.integer)) for n in given):
                got = f"kernel {kernel!r}, stride {stride!r}, padding {padding!r} and dilation {dilation!r}"
                raise TypeError(f'{name}: {got} are integers or pairs of them; padding also "same" or "valid"')
        if len(self.size) != 2:
            raise ValueError(f"{name}: needs images (N, C, H, W) or (C, H, W), got {len(self.size)} axes of them")
        extents = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel)]
        if padding == "same":
            if self.stride != (1, 1):
                raise ValueError(f'{name}: padding "same" needs stride 1, got {self.stride}')
            before = [((e - 1) // 2, e // 2) for e in extents]
        else:
            before = [(p, p) for p in pair(0 if padding == "valid" else padding)]
        if min(*self.kernel, *self.stride, *self.dilation) < 1 or min(map(min, before)) < 0:
            got = f"kernel {self.kernel}, stride {self.stride} and dilation {self.dilation}"
            raise ValueError(f"{name}: {got} must be at least 1, padding {padding} at least 0")
        outputs, over = [], []
        for n, s, e, (left, right) in zip(self.size, self.stride, extents, before):
            room = n + left + right - e
            count = room // s + 1
            # With ceil_mode one more, if it begins on the image or before it; its end needs more padding.
            count += ceil_mode and room % s > 0 and count * s < n + left
            outputs.append(count)
            over.append((left, right + max(0, (count - 1) * s - room)))
        self.outputs, self.padding = tuple(outputs), tuple(over)
        if min(outputs) < 1:
            window = f"windows over {tuple(extents)} elements"
            raise ValueError(f"{name}: {window} are larger than the image {self.size} with padding {padding}")

    def pad(self, x, value=0.0):
        """The image with the padding around it."""
        if not np.any(self.padding):
            return x
        out = self.blank(x, value)
        self.crop(out)[...] = x
        return out

    def crop(self, x):
        """The padded image without the padding."""
        (top, _), (left, _) = self.padding
        return x[..., top : top + self.size[0], left : left + self.size[1]]

    def blank(self, like, value=0.0):
        """A padded image of this value, with the leading axes of the images or outputs `like`."""
        shape = self._padded(like)
        if len(shape) != 4 or type(like) is not np.ndarray:
            return full(shape, value, like)
        return full([shape[i] for i in ORDER], value, like).transpose(BACK)

    def _padded(self, like):
        return (*like.shape[:-2], *(n + sum(p) for n, p in zip(self.size, self.padding)))

    @property
    def disjoint(self):
        """Whether no two windows overlap."""
        return all(s > d * (k - 1) for s, d, k in zip(self.stride, self.dilation, self.kernel))

    def taps(self):
        """For each place in the window, row by row, the index of the elements there: one for each output."""
        for place in itertools.product(*map(range, self.kernel)):
            sides = zip(place, self.dilation, self.stride, self.outputs)
            yield (..., *(slice(at * d, at * d + s * (n - 1) + 1, s) for at, d, s, n in sides))

    def columns(self, x, groups):
        """The elements of the windows as matrices: see `columns`."""
        before = [before for before, _ in self.padding]
        return columns(x, groups, self.kernel, self.outputs, before, self.stride, self.dilation)

    def columns_back(self, g, groups):
        """Those of windows over the outputs, padded, with stride - 1 zeros in between: one for each image element."""
        before = [d * (k - 1) - before for k, d, (before, _) in zip(self.kernel, self.dilation, self.padding)]
        return columns(g, groups, self.kernel, self.size, before, dilation=self.dilation, apart=self.stride)


def columns(x, groups, kernel, outputs, before, stride=(1, 1), dilation=(1, 1), apart=(1, 1)):
    """The elements of all windows over images (N, C, H, W), as matrices (OH, G, KH * C/G * KW, OW * N) not to write in.

    before   how many zeros are above and to the left of the image; there are as many below and to the right as needed
    apart    how far apart its elements are, zeros in between

    The shifted image (G, H, C/G, KW, OW, N) is copied, and nothing else unless the kernel is dilated: KH of its rows,
    one below the other, are a matrix, which overlaps with the next one.
    """
    n, c = x.shape[:2]
    (kh, kw), (oh, ow), (sh, sw), (dh, dw) = kernel, outputs, stride, dilation
    size = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(outputs, stride, kernel, dilation)]
    x = _placed(x, size, before, apart)
    row, channel, line, one = x.strides
    shape = groups, size[0], c // groups, kw, ow, n
    strides = channel * (c // groups), row, channel, line * dw, line * sw, one
    shifted = np.ascontiguousarray(np.ndarray(shape, x.dtype, x, 0, strides))
    group, row, *inner = shifted.strides
    shape = oh, groups, kh, c // groups, kw, ow, n
    patches = np.ndarray(shape, x.dtype, shifted, 0, (row * sh, group, row * dh, *inner))
    return patches.reshape(oh, groups, kh * (c // groups) * kw, ow * n)


def _placed(x, size, before, apart):
    """Images in the order of memory (H, C, W, N), in the midst of zeros, or cut to this size."""
    n, c, *lengths = x.shape
    if tuple(size) == tuple(lengths) and not any(before) and tuple(apart) == (1, 1):
        return in_order(x)
    inside, taken = [], []
    for length, limit, start, step in zip(lengths, size, before, apart):
        first = max(0, -(start // step))  # the first element that is not cut off, and how many there are
        count = max(0, min(length, -(-(limit - start) // step)) - first)
        at = start + first * step
        inside.append(slice(at, at + count * step, step))
        taken.append(slice(first, first + count))
    out = np.zeros((size[0], c, size[1], n), x.dtype)
    out[inside[0], :, inside[1]] = x[:, :, taken[0], taken[1]].transpose(ORDER)
    return out


ORDER, BACK = (2, 1, 3, 0), (3, 1, 0, 2)  # from the axes (N, C, H, W) to those of the memory, and back


def in_order(x):
    """Images (N, C, H, W) as an array (H, C, W, N), copied if they do not lie so in memory."""
    return np.ascontiguousarray(x.transpose(ORDER))


def pair(value):
    """(v, v) for v, and for (v,); a pair as it is."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * 2 if len(value) == 1 else value
