"""Methods that change a tensor in place under torch's names: of leaves under `no_grad`, and of constants.

Each returns the tensor. Where a gradient would have to flow through the change, `fill_`, `copy_` and the random draws
raise RuntimeError; arithmetic on what an operation computed is recorded, as `x *= 2` is (see `Tensor.change`).
"""

from allgrad.autograd.engine import Tensor
from allgrad.autograd.ops.creation import rand, randn
from allgrad.autograd.ops.elementwise import clamp


def add_(a, other, *, alpha=1):
    """a += alpha other."""
    a += other if (alpha == 1) is True else other * alpha
    return a


def sub_(a, other, *, alpha=1):
    """a -= alpha other."""
    a -= other if (alpha == 1) is True else other * alpha
    return a


def mul_(a, other):
    """a *= other."""
    a *= other
    return a


def div_(a, other):
    """a /= other."""
    a /= other
    return a


def clamp_(a, min=None, max=None):
    """a limited to [min, max]."""
    return a.change(clamp(a if a.master is a.data else Tensor(a.master), min, max))


def copy_(a, source):
    """The values of an array or tensor that broadcasts to a's shape."""
    a[...] = source
    return a


def fill_(a, value):
    """Every element is this number."""
    a[...] = value
    return a


def zero_(a):
    """Every element is 0."""
    return fill_(a, 0)


def normal_(a, mean=0.0, std=1.0):
    """Independent draws from the normal distribution of this mean and standard deviation."""
    return copy_(a, randn(*a.shape, dtype="float64") * std + mean)


def uniform_(a, low=0.0, high=1.0):
    """Independent draws from the uniform distribution on [low, high)."""
    return copy_(a, rand(*a.shape, dtype="float64") * (high - low) + low)


for _operation in (add_, sub_, mul_, div_, clamp_, copy_, fill_, zero_, normal_, uniform_):
    setattr(Tensor, _operation.__name__, _operation)
