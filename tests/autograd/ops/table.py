"""Every operator in a table, an expression a line, evaluated in this package and in torch.

To add an operator, add a row to TABLE in the test file that has the name of its module:

    *cases([(3, 4), (4,)], "m.hypot(a, b)", "m.hypot(a, 2.0)"),

In an expression m is the library, this package or torch, and a, b, c are inputs of the shapes that are given. Further:

    torch="..."         the expression for torch, where it differs
    domain="positive"   inputs in (0.5, 2.5) instead of (-2, 2)
    m.array(...)        a constant of the library, such as an array of indices or a mask
    over("...", shapes of the inputs, other shapes of them, ...)    one expression, inputs of several shapes

Each row is compared with torch (value and gradients), also at nan, infinity and 0 and in half precision, and with
differences (first and second derivatives), runs in float32 throughout, also with NumPy's numbers for Python's, leaves
its inputs alone, and gives the same on torch's tensors. These are the tests below: each
file imports them by `*`, and `conftest.py` runs them on its rows. An operator with kinks or ties gets a row in KINKS
too (`kinks.py`), one that computes exponentials a row in LARGE (`large.py`); the name of one that is not analytic, as
|a| is not, goes into NOT_ANALYTIC.
"""

import re
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

import allgrad as ag
from allgrad.autograd.engine import Leaf, Tensor
from allgrad.autograd.random import generator, keyed

__all__ = [
    "test_value_and_gradients_are_those_of_torch",
    "test_derivatives_are_those_of_the_definition",
    "test_float32_stays_float32_and_inputs_stay_as_they_are",
    "test_torch_tensors_give_what_arrays_give",
    "test_torch_tensors_give_the_second_derivatives_that_arrays_give",
    "test_nan_infinity_and_0_are_treated_as_torch_does",
    "test_numbers_of_numpy_do_as_arguments_and_promote_nothing",
    "test_half_precision_stays_so_and_is_that_of_torch",
]

# Of an expression with an operator that has no complex derivative, such as |a|: steps in the complex plane, which give
# derivatives to the last digit, are left out.
NOT_ANALYTIC = (
    r"abs|sign|sgn|rounding|with_logits|multilabel|(?<!smooth_)l1_loss|beta=0\.0|m\.norm\(a, (0\.|1|3|-|np)"
    r"|dist\(a, b, (p|3)|normalize\(a, p|floor|\.ceil|trunc|frac|//|a %|% a|fmod|remainder|erfinv|lgamma|atan2|hypot"
    r"|logaddexp|logcumsumexp|logdet|cholesky|is_floating|double"
)
# Where values are not finite, torch's own sums of them depend on their order (inf - inf), its vector code takes another
# branch at nan than its code for single numbers, its product has no derivative, or its spelling here has another one.
OTHERWISE_AT_EDGES = (
    r"prod|elu\(|hardtanh|hardshrink|einsum|conv|attention|_norm\(.*\bb\b|norm\(a, -?np|loss|kl_div|cross_entropy"
    r"|\*\* -0\.5|maximum\(a, 0|minimum\(0|//|copysign|cdist\(a, b, p=1|recompute_scale|floor_divide"
    r"|hypot|xlogy"  # 0 at the origin, where torch's derivatives are nan
    r"|\binv|\bdet\(|logdet|cholesky|solve"  # LAPACK refuses nan and singular matrices, or does not
    r"|kthvalue|quantile"  # of equal elements torch takes any
)
EDGES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5]
MASK = np.arange(12).reshape(3, 4) % 3 == 0
PLACES = np.array([[3, 0], [1, 1], [0, 2]])
AT = np.array([[3, 0], [1, 2], [0, 2]])  # no place twice
TIES = np.array([[0.0, 1.0, 1.0], [-1.0, 0.0, -1.0]])


class Library:
    """A library's functions by name, and `array`, which makes its constants."""

    def __init__(self, array, *modules):
        self.array, self.modules = array, modules

    def __getattr__(self, name):
        return next(getattr(m, name) for m in self.modules if hasattr(m, name))


OURS, TORCH = Library(np.asarray, ag), Library(torch.as_tensor, F, torch)
ON_TORCH = Library(torch.as_tensor, ag)  # this package, computing on torch's tensors


@dataclass(frozen=True)
class Case:
    """An expression and the shapes of its inputs; torch's spelling where it differs; where the inputs lie."""

    ours: str
    shapes: tuple
    torch: str = ""
    domain: str = "real"

    def __str__(self):
        return " ".join([self.ours, *map(str, self.shapes)]).replace(", ", ",")

    def inputs(self, dtype=np.float64):
        """Distinct values with gaps between them, also across inputs: no ties, and no kink within a small step."""
        arrays = []
        for i, shape in enumerate(self.shapes):
            n = int(np.prod(shape))
            order = generator(self.ours, i).permutation(n)
            x = (order + 0.3 + 0.13 * i) / max(n, 1)  # in (0, 1)
            x = {"real": 4.0 * (x - 0.5 * (n > 1)), "positive": 0.5 + 2.0 * x}[self.domain]
            arrays.append(x.reshape(shape).astype(dtype))
        return arrays

    def __call__(self, library, *arrays):
        source = self.torch if self.torch and library is TORCH else self.ours
        with keyed("operators"):
            return eval(f"lambda m, a=None, b=None, c=None: {source}", globals())(library, *arrays)


def cases(shapes, *expressions, **options):
    """Many expressions of inputs with these shapes."""
    return [Case(e, tuple(shapes), **options) for e in expressions]


def over(expression, *shapes, **options):
    """One expression over many shapes of its inputs."""
    return [Case(expression, tuple(s), **options) for s in shapes]


def run(case, arrays):
    """Value and gradients of a case, weighted so that no two elements of the value count alike."""
    leaves = [Tensor(x, Leaf("abc"[i], x.shape, x.dtype)) for i, x in enumerate(arrays)]
    y = case(OURS, *leaves)
    y.backward(weights(y.shape))
    return y, [x.grad if x.grad is not None else np.zeros_like(x.data) for x in leaves]


def weights(shape):
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


def compare_with_torch(case, arrays):
    y, gradients = run(case, arrays)
    leaves = [torch.tensor(x, requires_grad=True) for x in arrays]
    expected = case(TORCH, *leaves)
    expected.backward(torch.tensor(weights(y.shape)))
    np.testing.assert_allclose(y.data, expected.detach(), rtol=1e-12, atol=1e-14)
    assert y.shape == tuple(expected.shape)
    for g, leaf in zip(gradients, leaves):
        assert g.shape == tuple(leaf.shape)
        np.testing.assert_allclose(g, leaf.grad if leaf.grad is not None else 0 * g, rtol=1e-12, atol=1e-13)


def test_value_and_gradients_are_those_of_torch(case):
    compare_with_torch(case, case.inputs())


def test_derivatives_are_those_of_the_definition(case):
    def f(*xs):
        return case(OURS, *xs)

    if not re.search(NOT_ANALYTIC, case.ours):
        ag.gradcheck(f, *case.inputs(), analytic=True, tolerance=1e-12)
    ag.gradcheck(f, *case.inputs(), order=2)


def test_float32_stays_float32_and_inputs_stay_as_they_are(case):
    arrays = [x.copy(order="F") for x in case.inputs(np.float32)]
    for x in arrays:
        x.flags.writeable = False
    y, gradients = run(case, arrays)  # a gradient of another dtype on the way would raise its warning
    assert [y.dtype, *[g.dtype for g in gradients]] == [np.float32] * (1 + len(arrays))
    expected, expected_gradients = run(case, case.inputs())
    for a, e in zip([y.data, *gradients], [expected.data, *expected_gradients]):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4)


def run_on_torch(case, arrays):
    """`run` on torch's tensors, as NumPy arrays; everything must have stayed a tensor, and unchanged."""
    leaves = [ag.tensor(torch.from_numpy(x), requires_grad=True) for x in arrays]
    y = case(ON_TORCH, *leaves)
    y.backward(torch.from_numpy(weights(y.shape)))
    gradients = [torch.zeros_like(x.data) if x.grad is None else x.grad for x in leaves]
    assert {type(a) for a in (y.data, *gradients)} == {torch.Tensor}
    assert {a.dtype for a in (y.data, *gradients)} == {x.data.dtype for x in leaves}
    assert all(np.array_equal(leaf.numpy(), x, equal_nan=True) for leaf, x in zip(leaves, arrays))
    return y.numpy(), [g.numpy() for g in gradients]


def test_torch_tensors_give_what_arrays_give(case):
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-4)):
        y, gradients = run(case, case.inputs(dtype))
        on_torch, gradients_on_torch = run_on_torch(case, case.inputs(dtype))
        assert on_torch.shape == y.shape
        for a, e in zip([on_torch, *gradients_on_torch], [y.data, *gradients]):
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def test_torch_tensors_give_the_second_derivatives_that_arrays_give(case):
    def slopes(library, *xs):
        """The gradient by all inputs of |gradient by all inputs|^2."""

        def squares(*xs):
            gradients = ag.vjp(lambda *xs: case(library, *xs).sum(), *xs)[1](1.0)
            return sum([(g * g).sum() for g in gradients])

        return ag.vjp(squares, *xs)[1](1.0)

    arrays = case.inputs()
    for a, e in zip(slopes(ON_TORCH, *map(torch.from_numpy, arrays)), slopes(OURS, *arrays)):
        np.testing.assert_allclose(ag.tensor(a).numpy(), ag.tensor(e).numpy(), rtol=1e-8, atol=1e-9)


def test_nan_infinity_and_0_are_treated_as_torch_does(case):
    if re.search(OTHERWISE_AT_EDGES, case.ours):
        return
    for values in (EDGES, EDGES[3:]):
        rng = generator("edges", case.ours)
        arrays = [np.where(rng.random(x.shape) < 0.5, rng.choice(values, x.shape), x) for x in case.inputs()]
        leaves = [torch.tensor(x, requires_grad=True) for x in arrays]
        expected = case(TORCH, *leaves)
        expected.backward(torch.tensor(weights(tuple(expected.shape))))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
            y, gradients = run(case, arrays)
            on_torch, gradients_on_torch = run_on_torch(case, arrays)
        for value, slopes in ((y.data, gradients), (on_torch, gradients_on_torch)):
            np.testing.assert_allclose(value, expected.detach(), rtol=1e-10, atol=1e-12)
            for g, leaf in zip(slopes, leaves):
                np.testing.assert_allclose(g, 0 * g if leaf.grad is None else leaf.grad, rtol=1e-10, atol=1e-12)


def test_numbers_of_numpy_do_as_arguments_and_promote_nothing(case):
    floats = re.sub(r"(?<![\w.])(\d+\.\d*|\d+e-\d+)", r"np.float64(\g<0>)", case.ours)
    numpys = replace(case, ours=re.sub(r"(?<![\w.(\[])(?<!e-)\d+(?![\w.])", r"np.int64(\g<0>)", floats))
    arrays = case.inputs(np.float32)
    y, gradients = run(case, arrays)
    again, same_gradients = run(numpys, arrays)
    for a, e in zip([again.data, *same_gradients], [y.data, *gradients], strict=True):
        np.testing.assert_array_equal(a, e, strict=True)


def test_half_precision_stays_so_and_is_that_of_torch(case):
    if "cross_entropy" in case.ours:  # a number of float32
        return
    leaves = [torch.tensor(x).half().requires_grad_() for x in case.inputs()]
    try:
        expected = case(TORCH, *leaves)
        g = torch.tensor(weights(tuple(expected.shape))).half()
        expected.backward(g)
    except RuntimeError:  # not in half precision
        return
    ours = [ag.tensor(x.detach(), requires_grad=True) for x in leaves]
    y = case(ON_TORCH, *ours)
    y.backward(g)
    assert {y.dtype, *[x.grad.dtype for x in ours if x.grad is not None]} == {torch.float16}
    pairs = [(y.data, expected), *[(x.grad, leaf.grad) for x, leaf in zip(ours, leaves) if x.grad is not None]]
    for a, e in pairs:
        np.testing.assert_allclose(a, e.detach(), rtol=8e-3, atol=2e-2)  # a few roundings by 2^-11
