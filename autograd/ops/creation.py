"""New tensors: filled with a number, counted up, random, or of the kind of another.

A shape is a tuple or separate integers. dtype: a name or a dtype; else Python floats make `default_dtype`, integers
int64. device: torch tensors there ("cpu", "cuda"), else NumPy arrays. requires_grad makes a leaf. x.new_... and those
whose names end in _like have the dtype, library and device of the other tensor.

Random numbers come from the stream of `autograd.random`, so that `manual_seed` repeats them, and inside `keyed(...)`
they are a function of the key. They are drawn by NumPy on any device.
"""

import math

import numpy as np

from allgrad.autograd.arrays import cast_like, full as filled, is_torch, to_backend_of, to_numpy
from allgrad.autograd.engine import Tensor, get_default_dtype, number, shape_of, tensor, unwrap
from allgrad.autograd.ops.conversions import resolve_dtype
from allgrad.autograd.ops.shapes import _listed
from allgrad.autograd.random import draw


def _made(array, dtype, device, requires_grad):
    name = str(dtype).removeprefix("torch.") if dtype is not None else array.dtype
    if name == "bfloat16" and device is not None:  # which NumPy lacks
        made = tensor(array, device=device).to(name)
        return made.requires_grad_() if requires_grad else made
    return tensor(array, requires_grad, resolve_dtype(name, array), device=device)


def _number(x):
    """A Python number from one, or from a tensor or an array of one element."""
    return number(x, "what a new tensor is filled from")


def full(size, fill_value, *, dtype=None, device=None, requires_grad=False):
    """A tensor of this shape filled with a number."""
    fill_value = _number(fill_value)
    if dtype is None:
        dtype = get_default_dtype() if isinstance(fill_value, float) else np.asarray(fill_value).dtype
    return _made(np.full(size, fill_value), dtype, device, requires_grad)


def zeros(*size, dtype=None, device=None, requires_grad=False):
    """A tensor of this shape filled with 0."""
    return full(_listed(size), 0.0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*size, dtype=None, device=None, requires_grad=False):
    """A tensor of this shape filled with 1."""
    return full(_listed(size), 1.0, dtype=dtype, device=device, requires_grad=requires_grad)


def empty(*size, dtype=None, device=None, requires_grad=False):
    """A tensor of this shape to be written to. It holds zeros."""
    return zeros(*size, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(start, end=None, step=1, *, dtype=None, device=None, requires_grad=False):
    """start, start + step, ... below end; arange(end) starts at 0. Integers, if all arguments are."""
    start, end = (0, start) if end is None else (start, end)
    start, end, step = map(_number, (start, end, step))
    whole = all(isinstance(x, (int, np.integer)) for x in (start, end, step))
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: from {start} to {end} needs a step in that direction, got {step}")
    steps = np.arange(math.ceil((end - start) / step))
    return _made(start + step * steps, dtype or (None if whole else get_default_dtype()), device, requires_grad)


def linspace(start, end, steps, *, dtype=None, device=None, requires_grad=False):
    """So many numbers at equal distances from start to end, both included."""
    spaced = np.linspace(_number(start), _number(end), steps)
    return _made(spaced, dtype or get_default_dtype(), device, requires_grad)


def logspace(start, end, steps, base=10.0, *, dtype=None, device=None, requires_grad=False):
    """So many numbers from base^start to base^end, at equal ratios."""
    spaced = np.linspace(_number(start), _number(end), steps)
    return _made(base**spaced, dtype or get_default_dtype(), device, requires_grad)


def eye(n, m=None, *, dtype=None, device=None, requires_grad=False):
    """The matrix (n, m), or (n, n), with ones on its diagonal and zeros elsewhere."""
    return _made(np.eye(n, m), dtype or get_default_dtype(), device, requires_grad)


def tril_indices(row, col, offset=0, *, dtype=None, device=None):
    """The rows and columns (2, k) of the elements of a matrix (row, col) that are not above this diagonal."""
    return _made(np.stack(np.tril_indices(row, offset, col)), dtype, device, False)


def triu_indices(row, col, offset=0, *, dtype=None, device=None):
    """The rows and columns (2, k) of the elements of a matrix (row, col) that are not below this diagonal."""
    return _made(np.stack(np.triu_indices(row, offset, col)), dtype, device, False)


def one_hot(a, num_classes=-1):
    """Integers (...) from 0 on as vectors (..., num_classes) of int64 with a 1 in their place.

    num_classes -1 means the largest integer plus 1.
    """
    labels = to_numpy(unwrap(a))
    n = int(labels.max(initial=-1)) + 1 if num_classes == -1 else num_classes
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or labels.max(initial=-1) >= n:
        got = f"{labels.dtype} from {labels.min(initial=0)} to {labels.max(initial=-1)}"
        raise ValueError(f"one_hot: needs integers from 0 to {n - 1}, got {got}")
    return Tensor(to_backend_of((labels[..., None] == np.arange(n)).astype(np.int64), unwrap(a)))


# --- like another ----------------------------------------------------------------------------------------------


def _like(a, array, dtype, device, requires_grad):
    """The array in the dtype, library and device of a, where no others are given."""
    x = unwrap(a)
    device = device if device is not None else str(x.device) if is_torch(x) else "numpy"
    if device == "numpy":
        return tensor(array, requires_grad, resolve_dtype(dtype or str(x.dtype).removeprefix("torch."), array))
    made = tensor(array, device=device).to(dtype or str(x.dtype).removeprefix("torch."))
    return made.requires_grad_() if requires_grad else made


def full_like(a, fill_value, *, dtype=None, device=None, requires_grad=False):
    """A tensor of a's shape, dtype and device filled with a number."""
    return new_full(a, shape_of(a), fill_value, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros_like(a, *, dtype=None, device=None, requires_grad=False):
    """A tensor of a's shape, dtype and device filled with 0."""
    return full_like(a, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(a, *, dtype=None, device=None, requires_grad=False):
    """A tensor of a's shape, dtype and device filled with 1."""
    return full_like(a, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(a, *, dtype=None, device=None, requires_grad=False):
    """A tensor of a's shape, dtype and device to be written to. It holds zeros."""
    return full_like(a, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def rand_like(a, *, dtype=None, device=None, requires_grad=False):
    """Uniform numbers in [0, 1) of a's shape, dtype and device."""
    return _like(a, rand(shape_of(a), dtype="float64").data, dtype, device, requires_grad)


def randn_like(a, *, dtype=None, device=None, requires_grad=False):
    """Standard normal numbers of a's shape, dtype and device."""
    return _like(a, randn(shape_of(a), dtype="float64").data, dtype, device, requires_grad)


def new_full(self, size, fill_value, *, dtype=None, device=None, requires_grad=False):
    """A tensor of this shape filled with a number, of the dtype and device of self."""
    x = unwrap(self)
    if dtype is None and device is None:
        made = Tensor(filled(size, fill_value, x))
        return made.requires_grad_() if requires_grad else made
    return _like(self, np.full(size, fill_value), dtype, device, requires_grad)


def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
    """A copy of the data as a tensor, of the dtype and device of self."""
    x = unwrap(data)
    if dtype is None and device is None:
        return tensor(cast_like(x, unwrap(self)), requires_grad)
    return _like(self, to_numpy(np.asarray(x) if not hasattr(x, "dtype") else x), dtype, device, requires_grad)


# --- random ----------------------------------------------------------------------------------------------------


def _generator():
    return np.random.Generator(draw())


def rand(*size, dtype=None, device=None, requires_grad=False):
    """Uniform numbers in [0, 1)."""
    dtype, array = dtype or get_default_dtype(), _generator().random(_listed(size))
    small = str(dtype).removeprefix("torch.") not in ("float64", "double")
    array = np.floor(array * 2.0**24) / 2.0**24 if small else array  # or a rounded one could be 1
    return _made(array, dtype, device, requires_grad)


def randn(*size, dtype=None, device=None, requires_grad=False):
    """Standard normal numbers."""
    array = _generator().standard_normal(_listed(size))
    return _made(array, dtype or get_default_dtype(), device, requires_grad)


def randint(low, high=None, size=None, *, dtype=None, device=None):
    """Integers from low up to high, which is left out: randint(high, size) starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    return _made(_generator().integers(low, high, size), dtype, device, False)


def randperm(n, *, dtype=None, device=None):
    """The integers 0 .. n - 1 in random order."""
    return _made(_generator().permutation(n), dtype, device, False)


def normal(mean=0.0, std=1.0, size=None, *, dtype=None, device=None):
    """Normal numbers of this mean and standard deviation: numbers with a size, or arrays, which are not differentiated.

    ag.randn_like(std) * std + mean can be differentiated.
    """
    if size is None:
        size = np.broadcast_shapes(shape_of(mean), shape_of(std))
    mean, std = (to_numpy(x) if hasattr(x := unwrap(given), "shape") else x for given in (mean, std))
    array = _generator().standard_normal(size) * std + mean
    return _made(array, dtype or get_default_dtype(), device, False)


def bernoulli(a):
    """1 with the probability in each element of a, else 0, in the dtype of a."""
    p = to_numpy(unwrap(a))
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"bernoulli: probabilities are in [0, 1], got {p.min()} to {p.max()}")
    return Tensor(cast_like(_generator().random(p.shape) < p, unwrap(a)))


def multinomial(a, num_samples, replacement=False):
    """So many indices of each row of a (m,) or (n, m), chosen with probabilities in proportion to its elements.

    Without replacement no index comes twice in a row. ValueError if there are too few positive elements.
    """
    weights = np.atleast_2d(to_numpy(unwrap(a))).astype(float)
    if not (weights >= 0).all() or not np.isfinite(weights).all() or not (weights.sum(1) > 0).all():
        raise ValueError("multinomial: the elements of a row are at least 0, finite, and not all 0")
    if replacement:
        steps = np.cumsum(weights, axis=1)
        u = _generator().random((len(weights), num_samples)) * steps[:, -1:]
        chosen = np.stack([np.searchsorted(row, v, "right") for row, v in zip(steps, u)])
    else:  # the first to arrive, where waiting times are exponential with these rates
        if num_samples > (weights > 0).sum(1).min():
            raise ValueError(f"multinomial: a row has fewer than {num_samples} positive elements")
        with np.errstate(divide="ignore"):
            times = _generator().standard_exponential(weights.shape) / weights
        chosen = np.argsort(times, axis=1)[:, :num_samples]
    return Tensor(to_backend_of(chosen.reshape((*shape_of(a)[:-1], num_samples)), unwrap(a)))


Tensor.new_full, Tensor.new_tensor = new_full, new_tensor
Tensor.new_zeros = lambda self, *size, **options: new_full(self, _listed(size), 0, **options)
Tensor.new_ones = lambda self, *size, **options: new_full(self, _listed(size), 1, **options)
Tensor.new_empty = Tensor.new_zeros
Tensor.bernoulli, Tensor.multinomial = bernoulli, multinomial
