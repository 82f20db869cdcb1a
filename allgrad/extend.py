"""What one writes operators of one's own with: a walk through, and the names it needs.

A rule computes a value and returns it with one vector-Jacobian product (vjp) for each array it took: the function that
maps the gradient of a loss by the value to the gradient by that array. `primitive` makes an operation of a rule, which
takes tensors, arrays and numbers, and records a graph. softsign(x) = x / (1 + |x|) has the derivative 1 / (1 + |x|)^2:

    import numpy as np

    import allgrad as ag
    from allgrad.extend import Tensor, linear_map, namespace, primitive, shared, torch_rule, unfused, unwrap, xp

    @primitive
    def softsign(x):
        d = 1.0 + xp[type(x)].abs(x)
        return x / d, lambda g: g / (d * d)

    x = ag.tensor([1.0, -3.0], requires_grad=True)
    softsign(x).sum().backward()
    assert x.grad.tolist() == [0.25, 0.0625]

A rule is called with the arrays inside of the tensors. `xp[type(x)]` is the library that computes on x, under NumPy's
names: NumPy or torch; in derivatives of derivatives what is inside is a Tensor again, and it is `allgrad` itself. So a
rule that computes by operators and by `xp` alone has derivatives of any order. `gradcheck` compares them with finite
differences, and with order=2 those of second order too:

    ag.gradcheck(softsign, np.array([0.5, -2.0]), order=2)

Two arguments have two vjps. Where arrays broadcast, a vjp returns the gradient in the broadcast shape, and the engine
sums it over the broadcast axes. One of the arguments may be a number: `namespace(a, b)` is the library of the other.

    @primitive
    def hypot(a, b):
        y = namespace(a, b).sqrt(a * a + b * b)
        return y, lambda g: g * a / y, lambda g: g * b / y

    ag.gradcheck(hypot, np.array([[3.0], [-1.0]]), np.array([4.0, 0.5, 2.0]), order=2)  # (2, 1) and (3,): (2, 3)
    assert hypot(ag.tensor([3.0]), 4.0).tolist() == [5.0]

Arguments after a `*` are static: not arrays to differentiate by, but shapes, axes, numbers, labels. Decisions by value
need no derivatives: `unwrap` gives the array inside a Tensor.

    @primitive
    def softshrink(x, *, threshold=0.5):
        beyond = abs(unwrap(x)) > threshold
        return (x - threshold * xp[type(x)].sign(x)) * beyond, lambda g: g * beyond

    ag.gradcheck(lambda x: softshrink(x, threshold=1.0), np.array([0.5, -2.0, 3.0]))

Where vjps have work in common, write one function from the gradient of the value to all gradients, and let `shared`
make vjps of it that call it once. Of x = a^-1 b the gradient by b is d = a^-T g, and that by a is -d x^T. NumPy's
`solve` takes no Tensors: for those the rule calls the operation itself, whose rule then gets the arrays inside.

    def solved(a, b):
        return solve(a, b) if Tensor in (type(a), type(b)) else np.linalg.solve(a, b)

    @primitive
    def solve(a, b):  # a (n, n), b (n,)
        x = solved(a, b)

        def pullback(g):
            d = solved(a.mT, g)
            return -d[:, None] * x, d

        return x, *shared(pullback, 2)

    ag.gradcheck(solve, np.array([[3.0, 1.0], [-1.0, 2.0]]), np.array([1.0, -2.0]), order=2)

A linear map of arrays and its transpose, both without derivatives of their own, are all that `linear_map` needs:

    from scipy.sparse import csr_array

    @primitive
    def sparse_matmul(x, *, matrix):  # matrix @ x, for a constant sparse matrix
        forward, transposed = lambda x: matrix @ x, lambda g: matrix.T @ g
        return linear_map(forward, transposed, x), lambda g: linear_map(transposed, forward, g)

    matrix = csr_array(np.array([[0.0, 2.0, 0.0], [1.0, 0.0, -1.0]]))
    ag.gradcheck(lambda x: sparse_matmul(x, matrix=matrix) ** 2, np.array([1.0, 2.0, 3.0]), order=2)

A rule that computes by a kernel of its own may fall back on a formula of operations for Tensors, by `unfused`:

    @primitive
    def log_cosh(x):
        if type(x) is Tensor:
            return unfused(lambda x: ag.log(0.5 * (ag.exp(x) + ag.exp(-x))), x)
        return np.logaddexp(x, -x) - 0.6931471805599453, lambda g: g * np.tanh(x)

    ag.gradcheck(log_cosh, np.array([0.5, -2.0]), order=2)

On torch tensors softsign computes by several calls of torch. Where torch has a kernel, or one has written one,
`torch_rule` adds it to the operation. It needs no Tensors: inside nested derivatives the first rule stays in force.

    import torch

    @torch_rule(softsign)
    def softsign_on_torch(x):
        y = torch.nn.functional.softsign(x)
        return y, lambda g: g * (1.0 - y.abs()) ** 2

    slope = ag.grad(lambda x: softsign(x).sum())
    assert slope(torch.tensor([1.0, -3.0])).tolist() == slope(np.array([1.0, -3.0])).tolist() == [0.25, 0.0625]

A rule must not write to its arguments, nor to its value if a vjp uses it. A vjp that will never be called may be None.

primitive    make an operation of a rule
xp           the library that computes on an array, by the array's type
namespace    the library that computes on several arrays and numbers
Tensor       what operations take and return, and rules get inside nested derivatives
unwrap       the array inside a Tensor
shared       several vjps that are parts of one computation
linear_map   apply a linear map, from functions for it and for its transpose
unfused      a rule's result by a formula of operations
torch_rule   a rule for torch tensors alone
"""

from allgrad.autograd.arrays import namespace, xp
from allgrad.autograd.engine import Tensor, linear_map, primitive, shared, unfused, unwrap

__all__ = ["Tensor", "linear_map", "namespace", "primitive", "shared", "torch_rule", "unfused", "unwrap", "xp"]


def torch_rule(operation):
    """Decorator of a rule: the operation, a primitive, computes by it whenever its first argument is a torch tensor.

    The rule takes the arguments of the operation's own rule and returns as many vjps; it is called with torch tensors
    only, never with Tensors. Imports torch.
    """
    from allgrad.autograd.on_torch import rules

    return rules.torch_rule(operation)
