"""Running products and sums of exponentials, differences, and reductions that leave nan out."""

from allgrad.autograd.arrays import astype, normalize_axis
from allgrad.autograd.engine import Tensor, attach_methods, is_mean_of, number, unwrap
from allgrad.autograd.ops.conversions import cast
from allgrad.autograd.ops.elementwise import mul, sub, where
from allgrad.autograd.ops.indexing import getitem
from allgrad.autograd.ops.reductions import sum
from allgrad.autograd.ops.shapes import concatenate
from allgrad.autograd.ops.special import logaddexp


def _scan(name, operation, a, dim):
    """a combined with all before it along the axis, in log2(n) rounds (Hillis and Steele 1986)."""
    dim = normalize_axis(dim, a.ndim, name)
    length, reach = a.shape[dim] if a.ndim else 1, 1
    part = lambda *ends: (slice(None),) * dim + (slice(*ends),)
    while reach < length:
        later = operation(getitem(a, part(reach, None)), getitem(a, part(length - reach)))
        a = concatenate([getitem(a, part(reach)), later], dim)
        reach *= 2
    return a


def cumprod(a, dim, *, dtype=None):
    """Running product along the axis, of a's shape; its derivatives are exact also where elements are 0."""
    return _scan("cumprod", mul, a if dtype is None else cast(a, dtype), dim)


def logcumsumexp(a, dim):
    """log(cumsum(exp(a))) along the axis, without overflow."""
    return _scan("logcumsumexp", logaddexp, a, dim)


def diff(a, n=1, dim=-1, prepend=None, append=None):
    """Differences a[i + 1] - a[i] along the axis, n times over; prepend and append are joined to a before."""
    dim, n = normalize_axis(dim, a.ndim, "diff"), number(n, "diff: n")
    if not a.ndim or not isinstance(n, int) or n < 0:
        raise ValueError(f"diff: takes a whole number of times of an array with axes, got n={n} of {tuple(a.shape)}")
    joined = [x for x in (prepend, a, append) if x is not None]
    a = concatenate(joined, dim) if n and len(joined) > 1 else a
    before = (slice(None),) * dim
    for _ in range(min(n, a.shape[dim])):
        a = sub(getitem(a, (*before, slice(1, None))), getitem(a, (*before, slice(-1))))
    return a


def nansum(a, axis=None, keepdims=False, *, dim=None, keepdim=None, dtype=None):
    """Sum over the axes of the elements that are not nan."""
    return sum(where(unwrap(a) != unwrap(a), 0.0, a), axis, keepdims, dim=dim, keepdim=keepdim, dtype=dtype)


def nanmean(a, axis=None, keepdims=False, *, dim=None, keepdim=None, dtype=None):
    """Mean over the axes of the elements that are not nan."""
    options = {"axis": axis, "keepdims": keepdims, "dim": dim, "keepdim": keepdim, "dtype": dtype}
    x = unwrap(a)
    count = sum(Tensor(astype(x == x, x.dtype)), **options)
    found = nansum(a, **options) / count
    return is_mean_of(unwrap(count), found) if found.shape == () else found


attach_methods(cumprod, logcumsumexp, diff, nansum, nanmean)
