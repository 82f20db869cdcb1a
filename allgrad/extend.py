"""What one writes operators of one's own with.

A rule computes a value and returns it with one vector-Jacobian product (vjp) for each array it took: the function that
maps the gradient of the value to that of the array. `primitive` makes an operation of it, which records a graph.

    from allgrad.extend import primitive, xp

    @primitive
    def softsign(x):  # x / (1 + |x|), of which the derivative is 1 / (1 + |x|)**2
        d = 1.0 + xp[type(x)].abs(x)
        return x / d, lambda g: g / (d * d)

    softsign(ag.tensor([1.0, -3.0], requires_grad=True)).sum().backward()

`xp[type(x)]` is the library that computes on x under NumPy's names: NumPy, torch's tensors, or, inside a nested
derivative, this package itself, so that one rule has derivatives of any order. `ag.gradcheck` holds a rule against
finite differences.

primitive    make an operation of a rule
shared       several vjps that are parts of one computation
linear_map   an operation that is linear in its array, from the map and its transpose
unfused      a rule's result from a composed formula, for arrays that are Tensors one level down
xp           the namespace that computes on an array of a type
Tensor       what operations take and return
"""

from allgrad.autograd.arrays import xp
from allgrad.autograd.engine import Tensor, linear_map, primitive, shared, unfused

__all__ = ["Tensor", "linear_map", "primitive", "shared", "unfused", "xp"]
