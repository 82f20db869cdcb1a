"""Reductions over one axis, several or all, and what runs along an axis.

A new operator is a new row of TABLE: see `table.py`.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from allgrad.autograd.ops.reductions import scaled_sum
from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.large import *  # noqa: F403 - the test of each row of LARGE
from tests.autograd.ops.properties import SEEDS, check, check_with_torch, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

OVER_AXES = "sum", "mean", "amax", "amin", "var", "std", "logsumexp"
TABLE = [
    *cases([(3, 4)], *[f"m.{r}(a)" for r in OVER_AXES[:-1]]),
    *cases([(3, 4)], "m.logsumexp(a)", torch="m.logsumexp(a, (0, 1))"),
    *cases([(3, 4)], *[f"m.{r}(a, {x})" for r in OVER_AXES for x in ("1", "dim=-1, keepdim=True")]),
    *cases([(2, 3, 4)], *[f"m.{r}(a, dim=(0, 2))" for r in OVER_AXES]),
    *cases([(2, 3, 4)], *[f"a.{r}([-1, 0], keepdims=True)" for r in OVER_AXES]),
    *cases([(2, 3, 4)], *[f"a.{r}(axis=-2)" for r in OVER_AXES]),
    *cases([(3, 4)], *[f"m.{r}(a, 1, correction={n})" for r in ("var", "std") for n in (0, 2)]),
    *cases([(4, 1)], *[f"a.{r}(0)" for r in OVER_AXES]),
    *cases([(2, 3)], *[f"m.{r}(a, ())" for r in OVER_AXES[:4]]),  # no axes are all axes
    *cases([(2, 3, 4)], "m.norm(a, 1.5, 1)", "m.norm(a, -1, (0, 2))", "m.norm(a, 0.5)"),
    *cases([()], "m.sum(a)", "m.mean(a)", "m.amax(a)", "m.amin(a)"),
    *cases([(0, 3)], "m.sum(a)", "m.sum(a, 0)", "m.mean(a, 1)", "m.amax(a, 1)", "m.logsumexp(a, 1)"),
    *cases([(3, 4)], "a.sum(np.int64(1)) * a.amax(np.int64(-1), True)", torch="a.sum(1) * a.amax(-1, True)"),
    *cases([(2, 3, 4)], "m.prod(a)", "m.prod(a, 1)", "m.prod(a, -1, keepdim=True)", "m.cumsum(a, 1)"),
    *cases([(2, 3, 4)], "m.norm(a)", "m.norm(a, 2, 1)", "m.norm(a, 3, (0, 2))", "m.norm(a, 1, -1, keepdim=True)"),
    *cases([(2, 3, 4)], "m.norm(a, np.inf, 1)", "m.norm(a, -np.inf, 1)", "m.norm(a, 'fro')"),
    *cases([(2, 3, 4)], "m.norm(a, 0, 1) * a[:, 0]", "a[0, 0] * m.max(a, 2)[1][0, 1]", "a.min(a * a)"),
    *cases([(2, 3, 4)], "m.max(a)", "m.min(a)", "m.max(a, 1).values", "m.min(a, dim=-1, keepdim=True)[0]"),
    *cases([(2, 3, 4)], "m.max(a, a * a)", "a.var(1, unbiased=False)", "a.std(False)"),
    *cases([()], "a.cumsum(dim=-1)", "m.sum(a, 0)", "m.mean(a, -1, True)", "m.amax(a, 0)", "m.prod(a, 0)"),
    *cases([()], "a.cumsum(0)", "m.max(a, 0)[0]"),
    *cases([(3, 4)], "a[m.argmin(a, 0)[1]]", "a.argmin() * a", "a.argmax(0, keepdim=True)[0, 1] * a"),
    *cases([(2, 3, 4)], "a[:, m.argmax(a[0, :, 0])]", "a[0, 0] * a.argmax(dim=2)[0, 1]"),
]  # fmt: skip
KINKS = [
    "m.amax(a)", "m.amax(a, 1)", "m.amin(a, 0)", "m.amin(a)", "m.max(a, 1)[0]", "m.min(a, 0)[0]", "m.prod(a, 1)",
    "m.prod(a)", "m.std(a + a.mT.mT, 1)", "m.std(a * 0, 1)", "m.norm(a, 2, 0)", "m.norm(a * 0, 2, 1)",
    "m.norm(a, np.inf, 1)", "m.norm(a, 3, 1)", "m.norm(a, 1.5, 1)", "m.norm(a * 0, 3, 1)", "m.norm(a, 0.5, 0)",
]  # fmt: skip
LARGE = ["m.logsumexp(a, 1)"]
REDUCTIONS = {
    "sum": np.sum, "mean": np.mean, "amax": np.amax, "amin": np.amin, "prod": np.prod, "norm": np.linalg.norm,
    "var": lambda x, axis=None, keepdims=False: np.var(x, axis, keepdims=keepdims, ddof=1),
    "std": lambda x, axis=None, keepdims=False: np.std(x, axis, keepdims=keepdims, ddof=1),
    "logsumexp": lambda x, axis=None, keepdims=False: np.log(np.sum(np.exp(x), axis, keepdims=keepdims)),
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(REDUCTIONS)), st.booleans(), SEEDS)
def test_reductions_are_those_of_numpy(data, name, keepdims, seed):
    smallest = 0 if name in ("sum", "prod") else 1
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=smallest, max_side=4))
    axes = hnp.valid_tuple_axes(len(shape), min_size=1)
    axis = data.draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1), axes, axes.map(list)))
    (x,) = normal(seed, shape)
    named = tuple(axis) if isinstance(axis, list) else axis
    reduced = range(len(shape)) if axis is None else np.atleast_1d(axis)
    assume(name not in ("var", "std") or math.prod(shape[i] for i in reduced) > 1)
    if name == "norm":
        value = np.sqrt(np.sum(x * x, named, keepdims=keepdims))
    else:
        value = REDUCTIONS[name](x, axis=named, keepdims=keepdims)
    f, form = getattr(ag, name), data.draw(st.integers(0, 2))
    options = [{"axis": axis, "keepdims": keepdims}, {"dim": axis, "keepdim": keepdims}, {"axis": axis}][form]
    if form == 2 and not keepdims:
        options = {} if axis is None else {"dim": axis}
    check(lambda x: f(x, **({"keepdims": keepdims} | options if form == 2 else options)), x, value=value, seed=seed)


@given(st.data(), SEEDS)
def test_operators_along_an_axis_are_those_of_torch(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    name = data.draw(st.sampled_from(["softmax", "log_softmax", "cumsum", "logsumexp"]))
    (x,) = normal(seed, shape)
    check_with_torch(lambda m, x: getattr(m, name)(x, dim=dim), x, seed=seed)
    for name in ("max", "min"):  # with ties
        tied = np.round(x)
        check_with_torch(lambda m, x: getattr(m, name)(x, dim)[0], tied, seed=seed)
        ours, theirs = (getattr(m, f"arg{name}")(a, dim) for m, a in ((ag, tied), (torch, torch.tensor(tied))))
        np.testing.assert_array_equal(ours, theirs)


def test_a_norm_has_the_gradient_of_torch_where_elements_are_0():
    for p, values in ((3, [0.0, 0.0]), (1.5, [0.0, 0.0]), (0.5, [1.0, 0.0]), (-1, [1.0, 0.0]), (-2, [2.0, 1.0])):
        x, t = ag.tensor(np.array(values), requires_grad=True), torch.tensor(values, requires_grad=True)
        with np.errstate(divide="ignore"):
            ag.norm(x, p).backward()
        torch.norm(t, p).backward()
        np.testing.assert_allclose(x.grad, t.grad, rtol=1e-6)


def test_more_degrees_of_freedom_than_values_are_those_of_torch():
    for values in ([1.0, 2.0], [1.0, 1.0], [1.0]):
        for correction in (1, 2, 3):
            for f, g in ((ag.var, torch.var), (ag.std, torch.std)):
                with warnings.catch_warnings(action="ignore"):
                    expected = g(torch.tensor(values), correction=correction)
                with np.errstate(invalid="ignore"):
                    np.testing.assert_allclose(f(np.array(values), correction=correction).data, expected)


def test_half_precision_is_added_and_squared_in_single():
    """None of these sums fits into float16, and all results do."""
    half = torch.full((70_000,), 3.0, dtype=torch.float16)
    x = ag.tensor(half, requires_grad=True)
    ag.amax(x).backward()
    assert x.grad[0].item() == pytest.approx(1 / 70_000, rel=0.01)
    assert scaled_sum(x, 1 / 70_000).item() == scaled_sum(half, 1 / 70_000).item() == ag.mean(x).item() == 3.0
    values = torch.arange(70_000).remainder(7).half()
    assert ag.var(values).item() == pytest.approx(values.double().var().item(), rel=1e-3)
    assert ag.norm(torch.tensor([300.0, 400.0]).half()).item() == ag.norm(np.float16([300.0, 400.0])).item() == 500.0
    assert ag.logsumexp(np.zeros(40_000, np.float16)).item() == pytest.approx(math.log(40_000), rel=1e-3)


def test_a_running_sum_of_float32_goes_beyond_2_to_the_24():
    ones = np.full(1 << 10, 2.0**14 + 1.0, np.float32)
    np.testing.assert_allclose(ag.cumsum(ones).data, np.cumsum(ones, dtype=float), rtol=2**-24)
