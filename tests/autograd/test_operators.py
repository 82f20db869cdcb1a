"""Every operation in one table, an expression a line, evaluated in this package and in torch.

Each case is compared with torch (value and gradients), with differences (first and second derivatives), runs in
float32 throughout, and leaves its inputs alone. In an expression `m` is the library and a, b, c are the inputs.
"""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import autograd as ag
from autograd.core import Leaf, Tensor
from autograd.random import generator, keyed

MASK = np.arange(12).reshape(3, 4) % 3 == 0
PLACES = np.array([[3, 0], [1, 1], [0, 2]])


class Library:
    """A library's functions by name, and `array`, which makes its constants."""

    def __init__(self, array, *modules):
        self.array, self.modules = array, modules

    def __getattr__(self, name):
        return next(getattr(m, name) for m in self.modules if hasattr(m, name))


OURS, TORCH = Library(np.asarray, ag), Library(torch.as_tensor, F, torch)


@dataclass(frozen=True)
class Case:
    """An expression and the shapes of its inputs; torch's spelling where it differs; where the inputs lie."""

    ours: str
    shapes: tuple
    torch: str = ""
    domain: str = "real"
    analytic: bool = True

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


def case(ours, *shapes, **options):
    return Case(ours, shapes, **options)


REDUCTIONS = ("'mean'", "'sum'", "'none'")
CASES = [
    # arithmetic, broadcast and not, with numbers on either side
    *[case(f"a {o} b", *s, domain="positive") for o in "+-*/" for s in [((3, 4), (3, 4)), ((3, 1), (2, 1, 4))]],
    *[case(f"m.{f}(a, b)", (3, 4), (4,), domain="positive") for f in ("add", "sub", "mul", "div", "pow")],
    *[case(e, (), (2, 3)) for e in ("a + b", "b - a", "m.maximum(a, b)", "m.where(a > b, a, b)")],
    *[case(e, (3, 4)) for e in ("2.0 + a", "a + 2", "1.5 - a", "a - 1", "2 * a", "a * 0.5", "a / 4", "-a", "m.neg(a)")],
    *[case(e, (3, 4)) for e in ("a ** 2", "a ** 3", "2.0 ** a", "a ** 1", "a ** 0", "a * a * a", "(a + a) * a")],
    *[case(e, (5,), domain="positive") for e in ("3.0 / a", "a ** 2.5", "a ** -1", "a ** -0.5", "a.pow(2)")],
    *[case("a ** b", *s, domain="positive") for s in [((3, 4), (3, 4)), ((3, 1), (4,)), ((), ())]],
    case("a + b", (0, 3), (3,)),
    case("a * b", (0, 3), (1, 3)),
    # elementwise functions
    *[case(f"m.{f}(a)", (3, 4)) for f in ("exp", "sin", "cos", "tanh", "sigmoid", "relu", "leaky_relu")],
    *[case(f"a.{f}()", ()) for f in ("exp", "sin", "cos", "tanh", "sigmoid", "relu")],
    *[case(f"{x}({y})", (3, 4), domain="positive") for f in ("log", "log1p", "sqrt") for x, y in [(f"m.{f}", "a"), (f"a.{f}", "")]],
    *[case(f"m.{f}(a)", (3, 4), analytic=False) for f in ("abs", "sign")],
    case("abs(a)", (4,), analytic=False),
    case("m.leaky_relu(a, 0.3)", (3, 4)),
    case("m.relu(a)", (0, 3)),
    *[case(f"m.{f}(a, b)", *s) for f in ("maximum", "minimum") for s in [((3, 4), (3, 4)), ((2, 1, 3), (4, 1))]],
    case("m.maximum(a, 0.5) + m.minimum(0.5, a)", (3, 4), torch="a.clamp(min=0.5) + a.clamp(max=0.5)"),
    *[case(e, (3, 4)) for e in ("m.clamp(a, -0.5, 0.7)", "m.clamp(a, min=0.1)", "m.clamp(a, max=0.1)", "a.clamp(-1, 1)")],
    case("m.where(m.array(MASK), a, b)", (3, 4), (3, 4)),
    case("m.where(m.array(MASK[0]), a, b)", (3, 1), (4,)),
    case("m.where(a > 0, a * a, 0.0)", (3, 4)),
    case("m.dropout(a, 0.25)", (6, 7), torch="a * m.array(ag.dropout(np.ones((6, 7)), 0.25).data).to(a.dtype)"),
    case("m.dropout(a, 0.25, training=False)", (3, 4)),
    # products
    *[
        case("a @ b", *shapes)
        for shapes in [
            ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 3)), ((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((3, 4), (2, 4, 2)),
            ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((1, 1), (1, 1)),
            ((0, 4), (4, 2)), ((3, 0), (0, 2)),
        ]
    ],  # fmt: skip
    case("m.matmul(a, b)", (2, 3), (3, 2)),
    case("a.mT @ (a @ b)", (3, 4), (4, 2)),
    *[case("m.linear(a, b, c)", x, (3, 4), (3,)) for x in [(5, 4), (40, 4), (4,), (2, 3, 4), (1, 4), (0, 4)]],
    case("m.linear(a, b)", (5, 4), (3, 4)),
    case("m.linear(a, weight=b, bias=c)", (5, 4), (3, 4), (3,)),
    case("m.linear(m.linear(a, b), b, c)", (5, 3), (3, 3), (3,)),
    # reductions
    *[case(f"m.{f}(a)", (3, 4)) for f in ("sum", "mean", "amax", "amin", "var", "std")],
    case("m.logsumexp(a)", (3, 4), torch="m.logsumexp(a, (0, 1))"),
    *[
        case(f"m.{f}({arguments})", shape)
        for f in ("sum", "mean", "amax", "amin", "var", "std", "logsumexp")
        for arguments, shape in [
            ("a, 1", (3, 4)), ("a, dim=-1, keepdim=True", (3, 4)), ("a, dim=(0, 2)", (2, 3, 4)),
            ("a, axis=-2, keepdims=True", (2, 3, 4)), ("a, [-1, 0], True", (2, 3, 4)),
        ]
    ],  # fmt: skip
    *[case(f"a.{f}(0)", (4, 1)) for f in ("sum", "mean", "amax", "amin", "var", "std", "logsumexp")],
    *[case(f"m.{f}(a, axis=1, correction=0)", (3, 4)) for f in ("var", "std")],
    *[case(f"m.{f}(a)", ()) for f in ("sum", "mean", "amax", "amin")],
    *[case(e, (0, 3)) for e in ("m.sum(a)", "m.sum(a, 0)", "m.mean(a, 1)", "m.softmax(a, 1)", "m.amax(a, 1)")],
    case("(a * m.array(np.eye(4))[a.argmax(dim=1)].to(a.dtype)).sum()", (3, 4)) if False else case("a[0] * a[:, a[0].argmax()]", (4, 4)),
    *[case(f"m.{f}({x})", (3, 4)) for f in ("softmax", "log_softmax") for x in ("a, -1", "a, dim=0")],
    case("a.softmax(1) * a.log_softmax(1)", (2, 3, 4)),
    # moving elements
    *[case(e, (3, 4)) for e in ("m.reshape(a, (2, 6))", "a.reshape(6, -1)", "a.reshape(12)", "a.T", "a.mT", "m.flatten(a)")],
    *[case(e, (2, 3, 4)) for e in ("m.flatten(a, 1)", "a.flatten(0, -2)", "m.permute(a, (2, 0, 1))", "a.permute(-1, 0, 1)")],
    case("m.permute_dims(a, (1, 2, 0))", (2, 3, 4), torch="a.permute(1, 2, 0)"),
    *[case(e, (2, 3, 4)) for e in ("m.transpose(a, 0, -1)", "a.transpose(1, 2)", "a.mT")],
    *[case(e, (0, 3, 2)) for e in ("m.flatten(a, 1)", "a.mT", "a.permute(2, 0, 1)")],
    *[case(e, (1, 3, 1)) for e in ("m.squeeze(a)", "a.squeeze(0)", "m.squeeze(a, -1)", "a.squeeze((0, 1))")],
    *[case(e, (3, 4)) for e in ("m.unsqueeze(a, 0)", "a.unsqueeze(-1)", "a.unsqueeze(1)", "m.flatten(a[0, 0])")],
    *[case(e, (3, 1)) for e in ("m.broadcast_to(a, (2, 3, 4))", "a.expand(2, -1, 4)", "a.expand((3, 2)) * a")],
    case("m.expand(a, (5, -1))", (3,), torch="a.expand(5, -1)"),
    *[case("m.concatenate((a, b, a), axis=1)", *s) for s in [((2, 3), (2, 1)), ((2, 3, 2), (2, 0, 2))]],
    *[case(f"m.concatenate([a, b], {axis})", (2, 3), (2, 3)) for axis in (0, -1, -2)],
    *[case(f"m.stack([a, b, a * b], axis={axis})", (2, 3), (2, 3)) for axis in (0, 1, 2, -1)],
    case("m.stack([r * r for r in a])", (3, 4)),
    case("m.stack((a, b))", (), ()),
    # picking elements
    *[
        case(f"a[{index}]", (3, 4))
        for index in [
            "1", "-1", "1, 2", "1:", "1:1", "...", "..., 1", "None, 1", "None", ":, None, 2:", ":, ::2", "-2:, -1",
            "m.array(MASK)", "m.array(MASK[:, 0])", "m.array(MASK[:, 0]), 1", "[0, 2, 2, 0]", ":, [1, 1, 3]",
            "[0, 0, 1], [1, 1, 2]", "[0, 2, 0], 1:", "m.array(PLACES) % 3", "..., None, [0, 0]", "[1, 1], None",
            "[], 0", "1, [0, 0, -1]", "m.array(PLACES[:, :1]) % 3, [0, 1]",
        ]
    ],  # fmt: skip
    *[case(f"a[{index}]", (2, 3, 4)) for index in ("[0, 1], :, [2, 2]", "0, ..., [1, 1]", ":, m.array(MASK)", "1, 2, 3")],
    case("a[::-1, ::-2]", (3, 4), torch="a.flip(0, 1)[:, ::2]"),
    case("a[0] * a[1:] + a[a[:, 0] > 0].sum()", (3, 4)),
    case("m.take_along_dim(a, m.array(PLACES), 1)", (3, 4)),
    case("a.take_along_dim(m.array(PLACES), dim=-1)", (1, 4)),
    case("m.take_along_dim(a, m.array(PLACES[:, :1] % 3), dim=0)", (3, 4)),
    case("m.take_along_dim(a, m.array(PLACES[None] % 2), 0)", (2, 3, 2)),
    # losses
    *[case(f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), {r})".replace(", 'm", ", reduction='m") for r in ()],
    *[
        case(f"m.cross_entropy(a, {target}, reduction={r})", *shapes)
        for r in REDUCTIONS
        for target, *shapes in [
            ("m.array([2, 0, 0, 1, 2])", (5, 3)), ("m.array(1)", (3,)), ("m.array(MASK[:, 1:] * 2)", (3, 3, 3)),
            ("m.array(MASK.reshape(2, 2, 3) * 1)", (2, 4, 2, 3)), ("m.array([0])", (1, 1)),
            ("m.softmax(b, 1)", (5, 3), (5, 3)), ("m.softmax(b, 0)", (3,), (3,)), ("m.softmax(b, 1)", (2, 3, 4), (2, 3, 4)),
        ]
    ],  # fmt: skip
    case("m.cross_entropy(a, m.array(np.zeros(0, int)), reduction='sum')", (0, 3)),
    *[case(f"m.mse_loss(a, b, reduction={r})", s, s) for r in REDUCTIONS for s in [(3, 4), ()]],
    *[
        case(f"m.binary_cross_entropy_with_logits(a, m.sigmoid(b), reduction={r})", s, s, analytic=False)
        for r in REDUCTIONS
        for s in [(3, 4), ()]
    ],
]

at_each_case = pytest.mark.parametrize("case", CASES, ids=str)


def run(case, arrays):
    """Value and gradients of a case, weighted so that no two elements of the value count alike."""
    leaves = [Tensor(x, Leaf("abc"[i], x.shape, x.dtype)) for i, x in enumerate(arrays)]
    y = case(OURS, *leaves)
    y.backward(weights(y.shape))
    return y, [x.grad if x.grad is not None else np.zeros_like(x.data) for x in leaves]


def weights(shape):
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


@at_each_case
def test_value_and_gradients_are_those_of_torch(case):
    y, gradients = run(case, case.inputs())
    leaves = [torch.tensor(x, requires_grad=True) for x in case.inputs()]
    expected = case(TORCH, *leaves)
    expected.backward(torch.tensor(weights(y.shape)))
    np.testing.assert_allclose(y.data, expected.detach(), rtol=1e-12, atol=1e-14, strict=False)
    assert y.shape == tuple(expected.shape)
    for g, leaf in zip(gradients, leaves):
        assert g.shape == tuple(leaf.shape)
        np.testing.assert_allclose(g, leaf.grad if leaf.grad is not None else 0 * g, rtol=1e-12, atol=1e-13)


@at_each_case
def test_derivatives_are_those_of_the_definition(case):
    def f(*xs):
        return case(OURS, *xs)

    if case.analytic:
        ag.gradcheck(f, *case.inputs(), analytic=True, tolerance=1e-12)
    ag.gradcheck(f, *case.inputs(), order=2)


@at_each_case
def test_float32_stays_float32_and_inputs_stay_as_they_are(case):
    arrays = case.inputs(np.float32)
    for x in arrays:
        x.flags.writeable = False
    y, gradients = run(case, arrays)  # a gradient of another dtype on the way would raise its warning
    assert [y.dtype, *[g.dtype for g in gradients]] == [np.float32] * (1 + len(arrays))
    expected, expected_gradients = run(case, case.inputs())
    for a, e in zip([y.data, *gradients], [expected.data, *expected_gradients]):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4)
