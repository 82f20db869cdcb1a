"""The windows that convolutions and pooling slide over images (..., H, W): where they lie, and what is in them."""

import itertools

import numpy as np

from autograd.kernels import full, xp

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
        out = full(self._padded(x), value, x)
        self.crop(out)[...] = x
        return out

    def crop(self, x):
        """The padded image without the padding."""
        (top, _), (left, _) = self.padding
        return x[..., top : top + self.size[0], left : left + self.size[1]]

    def blank(self, like):
        """A padded image of zeros, with the leading axes of the images or outputs `like`."""
        return full(self._padded(like), 0.0, like)

    def _padded(self, like):
        return (*like.shape[:-2], *(n + sum(p) for n, p in zip(self.size, self.padding)))

    def taps(self):
        """For each place in the window, row by row, the index of the elements there: one for each output."""
        for place in itertools.product(*map(range, self.kernel)):
            sides = zip(place, self.dilation, self.stride, self.outputs)
            yield (..., *(slice(at * d, at * d + s * (n - 1) + 1, s) for at, d, s, n in sides))

    def unfold(self, x):
        """The elements of each window: (..., H, W) -> (..., KH * KW, OH, OW)."""
        x = self.pad(x)
        if type(x) is not np.ndarray:
            return xp[type(x)].stack([x[tap] for tap in self.taps()], -3)
        shape = *x.shape[:-2], *self.kernel, *self.outputs
        (dh, dw), (sh, sw), (h, w) = self.dilation, self.stride, x.strides[-2:]
        strides = *x.strides[:-2], h * dh, w * dw, h * sh, w * sw
        windows = np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
        return np.ascontiguousarray(windows).reshape(*x.shape[:-2], -1, *self.outputs)

    def fold(self, columns):
        """Each element added back to where `unfold` took it: (..., KH * KW, OH, OW) -> (..., H, W)."""
        x = self.blank(columns[..., 0, :, :])
        for k, tap in enumerate(self.taps()):
            x[tap] += columns[..., k, :, :]
        return self.crop(x)


def pair(value):
    """(v, v) for v, and for (v,); a pair as it is."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * 2 if len(value) == 1 else value
