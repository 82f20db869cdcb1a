"""More ways to move elements, composed of those of `shapes` and `indexing`: torch's names for them.

view and its kin share memory where reshape does, and copy where it has to: unlike torch's, they refuse no layout.
"""

import itertools
import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import normalize_axis, to_backend_of, to_numpy
from allgrad.autograd.engine import Tensor, attach_methods, shape_of, unwrap
from allgrad.autograd.ops.elementwise import where
from allgrad.autograd.ops.indexing import getitem, index_select
from allgrad.autograd.ops.reductions import sum
from allgrad.autograd.ops.shapes import (
    _listed,
    broadcast_to,
    concatenate,
    expand,
    flip,
    pad,
    permute,
    reshape,
    split,
    transpose,
    unsqueeze,
)  # fmt: skip


def view(a, *shape):
    """a with another shape of the same size, by `reshape`."""
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list, np.integer)):
        raise TypeError(f"view: takes a shape, got {shape[0]!r}: another dtype is made by x.to(dtype)")
    return reshape(a, *shape)


def view_as(a, other):
    """a in the shape of the other tensor."""
    return reshape(a, shape_of(other))


def reshape_as(a, other):
    """a in the shape of the other tensor."""
    return reshape(a, shape_of(other))


def expand_as(a, other):
    """a broadcast to the shape of the other tensor."""
    return expand(a, shape_of(other))


def ravel(a):
    """a as a vector."""
    return reshape(a, -1)


def unflatten(a, dim, sizes):
    """a with the axis cut into several of these sizes, of which one may be -1."""
    dim = normalize_axis(dim, a.ndim, "unflatten")
    return reshape(a, (*a.shape[:dim], *sizes, *a.shape[dim + 1 :]))


def narrow(a, dim, start, length):
    """a[start : start + length] along the axis; start may count from the end."""
    dim = normalize_axis(dim, a.ndim, "narrow")
    start = int(unwrap(start))
    begin = start + a.shape[dim] if start < 0 else start
    if not (0 <= begin <= begin + length <= a.shape[dim]) or length < 0:
        raise ValueError(f"narrow: {length} elements from {start} on are not in the {a.shape[dim]} of axis {dim}")
    return getitem(a, (slice(None),) * dim + (slice(begin, begin + length),))


def select(a, dim, index):
    """a[index] along the axis, without it."""
    dim = normalize_axis(dim, a.ndim, "select")
    return getitem(a, (slice(None),) * dim + (int(unwrap(index)),))


def unbind(a, dim=0):
    """The slices of a along the axis, as a tuple."""
    if a.ndim == 0:
        raise ValueError("unbind: a scalar has no slices")
    return tuple(select(a, dim, i) for i in range(a.shape[normalize_axis(dim, a.ndim, "unbind")]))


def repeat(a, *sizes):
    """a laid out so often along each axis; more numbers than axes make new axes in front."""
    sizes = _listed(sizes)
    if len(sizes) < a.ndim or min(sizes, default=0) < 0:
        raise ValueError(f"repeat: {sizes} needs a number of at least 0 for each axis of {tuple(a.shape)}")
    shape = (1,) * (len(sizes) - a.ndim) + tuple(a.shape)
    apart = reshape(a, tuple(n for m in shape for n in (1, m)))
    wide = broadcast_to(apart, tuple(n for k, m in zip(sizes, shape) for n in (k, m)))
    return reshape(wide, tuple(k * m for k, m in zip(sizes, shape)))


def tile(a, *dims):
    """a laid out so often along its last axes."""
    dims = _listed(dims)
    return repeat(a, (1,) * (a.ndim - len(dims)) + tuple(dims))


def repeat_interleave(a, repeats, dim=None, *, output_size=None):
    """a with each element along the axis so often in a row, by a number or one for each; of the flattened a without."""
    a, dim = (reshape(a, -1), 0) if dim is None else (a, normalize_axis(dim, a.ndim, "repeat_interleave"))
    counts = np.asarray(repeats if isinstance(repeats, (int, list, tuple)) else to_numpy(unwrap(repeats)))
    return index_select(a, dim, np.repeat(np.arange(a.shape[dim]), counts.reshape(-1) if counts.size > 1 else counts))


def tensor_split(a, indices_or_sections, dim=0):
    """Cut a along the axis into so many pieces, of which the first are one longer, or at the listed places."""
    dim, cut = normalize_axis(dim, a.ndim, "tensor_split"), unwrap(indices_or_sections)
    n = a.shape[dim]
    if isinstance(cut, (list, tuple)) or getattr(cut, "ndim", 0):
        ends = [None, *(int(i) for i in cut), None]
        return tuple(getitem(a, (slice(None),) * dim + (slice(*part),)) for part in itertools.pairwise(ends))
    if int(cut) < 1:
        raise ValueError(f"tensor_split: the number of pieces is at least 1, got {cut}")
    return split(a, [n // int(cut) + (i < n % int(cut)) for i in range(int(cut))], dim)


def hsplit(a, indices_or_sections):
    """`tensor_split` along axis 1, of vectors along axis 0; sections must be equal."""
    return _split_evenly("hsplit", a, indices_or_sections, min(a.ndim - 1, 1))


def vsplit(a, indices_or_sections):
    """`tensor_split` along axis 0; sections must be equal."""
    return _split_evenly("vsplit", a, indices_or_sections, 0)


def _split_evenly(name, a, cut, dim):
    if isinstance(cut, (int, np.integer)) and a.shape[dim] % cut:
        raise ValueError(f"{name}: {a.shape[dim]} elements of axis {dim} do not make {cut} equal parts")
    return tensor_split(a, cut, dim)


def _of_several(operation):
    """The operation of one array; of several, or of a list of them, the tuple of all results."""

    def apply(*arrays):
        listed = arrays[0] if len(arrays) == 1 and isinstance(arrays[0], (list, tuple)) else arrays
        results = tuple(operation(a) for a in listed)
        return results if listed is not arrays or len(arrays) > 1 else results[0]

    apply.__name__ = apply.__qualname__ = operation.__name__
    apply.__doc__ = operation.__doc__
    return apply


@_of_several
def atleast_1d(a):
    """a, of a scalar a vector of one element."""
    return reshape(a, 1) if not shape_of(a) else a


@_of_several
def atleast_2d(a):
    """a, of a scalar or a vector a matrix of one row."""
    return a if len(shape_of(a)) > 1 else reshape(a, (1, -1))


@_of_several
def atleast_3d(a):
    """a, of a matrix (n, m) an array (n, m, 1), of a vector (1, n, 1)."""
    return a if len(shape_of(a)) > 2 else unsqueeze(atleast_2d(a), -1)


def hstack(tensors):
    """Arrays side by side: joined along axis 1, vectors along axis 0."""
    tensors = [atleast_1d(a) for a in tensors]
    return concatenate(tensors, 0 if len(shape_of(tensors[0])) == 1 else 1)


def vstack(tensors):
    """Arrays one below the other: joined along axis 0, vectors as rows."""
    return concatenate([atleast_2d(a) for a in tensors], 0)


def dstack(tensors):
    """Arrays one behind the other: joined along axis 2."""
    return concatenate([atleast_3d(a) for a in tensors], 2)


def column_stack(tensors):
    """Vectors as the columns of a matrix; matrices side by side."""
    return concatenate([a if len(shape_of(a)) > 1 else reshape(a, (-1, 1)) for a in tensors], 1)


def movedim(a, source, destination):
    """a with an axis, or several, moved to other places; the others keep their order."""
    source, destination = ((i,) if hasattr(i, "__index__") else tuple(i) for i in (source, destination))
    source, destination = ([normalize_axis(i, a.ndim, "movedim") for i in axes] for axes in (source, destination))
    if not len({*source}) == len({*destination}) == len(source) == len(destination):
        raise ValueError(f"movedim: {source} to {destination} needs as many different axes on both sides")
    order = [i for i in range(a.ndim) if i not in source]
    for there, here in sorted(zip(destination, source)):
        order.insert(there, here)
    return permute(a, order) if a.ndim else a


def t(a):
    """The transpose of a matrix; a vector or scalar as it is."""
    if a.ndim > 2:
        raise ValueError(f"t: needs a matrix, got shape {tuple(a.shape)}: transpose(dim0, dim1) takes any")
    return transpose(a, 0, 1) if a.ndim == 2 else a


def rot90(a, k=1, dims=(0, 1)):
    """a turned k times by 90 degrees in the plane of two axes, from the first to the second."""
    i, j = (normalize_axis(axis, a.ndim, "rot90") for axis in dims)
    if i == j:
        raise ValueError(f"rot90: the axes {dims} must differ")
    if k % 2 == 0:
        return flip(a, (i, j)) if k % 4 else a
    return transpose(flip(a, j), i, j) if k % 4 == 1 else flip(transpose(a, i, j), j)


def fliplr(a):
    """a with its columns in reverse order."""
    return flip(a, 1)


def flipud(a):
    """a with its rows in reverse order."""
    return flip(a, 0)


def diagonal(a, offset=0, dim1=0, dim2=1):
    """The diagonal of the two axes, as the last axis: a[i, i + offset]."""
    i, j = (normalize_axis(axis, a.ndim, "diagonal") for axis in (dim1, dim2))
    if i == j or a.ndim < 2:
        raise ValueError(f"diagonal: needs two axes of the shape {tuple(a.shape)}, got {dim1} and {dim2}")
    a = movedim(a, (i, j), (-2, -1))
    n = max(0, min(a.shape[-2] - max(-offset, 0), a.shape[-1] - max(offset, 0)))
    along = np.arange(n)
    return getitem(a, (..., along + max(-offset, 0), along + max(offset, 0)))


def diag_embed(a, offset=0, dim1=-2, dim2=-1):
    """Matrices in the two axes with the last axis of a on their diagonal of this number, zeros elsewhere."""
    n, k = a.shape[-1] + abs(offset), max(a.shape[-1], 1)
    rows, columns = np.ogrid[:n, :n]
    padded = a if a.shape[-1] else pad(a, (0, 1))
    on = to_backend_of(columns - rows == offset, unwrap(a))
    return movedim(
        where(on, getitem(padded, (..., np.minimum(rows, columns).clip(0, k - 1))), 0.0), (-2, -1), (dim1, dim2)
    )


def diag(a, diagonal=0):
    """The diagonal of a matrix, or the matrix with a vector on its diagonal."""
    if a.ndim not in (1, 2):
        raise ValueError(f"diag: needs a vector or a matrix, got shape {tuple(a.shape)}")
    return diag_embed(a, diagonal) if a.ndim == 1 else _diagonal_of(a, diagonal)


def diagflat(a, offset=0):
    """The matrix with the elements of a on its diagonal."""
    return diag_embed(reshape(a, -1), offset)


_diagonal_of = diagonal


def trace(a):
    """The sum of the diagonal of a matrix."""
    if a.ndim != 2:
        raise ValueError(f"trace: needs a matrix, got shape {tuple(a.shape)}")
    return sum(diagonal(a))


def broadcast_tensors(*tensors):
    """All in the shape to which they broadcast together."""
    shape = np.broadcast_shapes(*map(shape_of, tensors))
    return tuple(broadcast_to(a, shape) for a in tensors)


def meshgrid(*tensors, indexing="ij"):
    """Vectors as arrays over the grid of all their combinations; with "xy" the first two axes are exchanged."""
    tensors = _listed(tensors)
    if indexing not in ("ij", "xy"):
        raise ValueError(f'meshgrid: indexing is "ij" or "xy", got {indexing!r}')
    shape = tuple(math.prod(shape_of(a)) for a in tensors)
    grid: Any = [
        broadcast_to(reshape(a, tuple(n if i == j else 1 for j, n in enumerate(shape))), shape)
        for i, a in enumerate(tensors)
    ]
    return tuple(transpose(a, 0, 1) if indexing == "xy" and len(shape) > 1 else a for a in grid)


attach_methods(view, view_as, reshape_as, expand_as, ravel, unflatten, narrow, select, unbind, repeat, tile)
attach_methods(repeat_interleave, tensor_split, hsplit, vsplit, movedim, t, rot90, fliplr, flipud, diagonal, diag_embed)
attach_methods(diag, diagflat, trace)
Tensor.split_with_sizes = split
