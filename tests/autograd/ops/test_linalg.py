"""Products of vectors, matrices and stacks of them.

A new operator is a new row of TABLE: see `table.py`.
"""

import numpy as np
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from tests.autograd.ops.properties import SEEDS, check, normal
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases, over

TABLE = [
    *over("a @ b", [(4,), (4,)], [(3, 4), (4,)], [(4,), (4, 3)], [(3, 4), (4, 2)], [(1, 1), (1, 1)], [(0, 4), (4, 2)]),
    *over("a @ b", [(2, 3, 4), (4, 2)], [(3, 4), (2, 4, 2)], [(2, 3, 4), (2, 4, 5)], [(2, 1, 3, 4), (5, 4, 2)]),
    *over("m.matmul(a, b)", [(4,), (2, 4, 3)], [(2, 3, 4), (4,)], [(3, 0), (0, 2)], [(2, 3), (3, 2)]),
    *cases([(3, 4), (4, 2)], "a.mT @ (a @ b)", "(a @ b).mT @ a", "a.matmul(b) * 2"),
    *[c for x in [(5, 4), (40, 4), (4,), (2, 3, 4), (0, 4)] for c in cases([x, (3, 4), (3,)], "m.linear(a, b, c)")],
    *cases([(5, 3), (3, 3), (3,)], "m.linear(a, b)", "m.linear(m.linear(a, b), b, c)", "m.linear(a, weight=b, bias=c)"),
    *cases([(3, 4), (4, 2)], "m.mm(a, b)", "m.outer(a[0], b[:, 0])", "m.einsum('ij,jk->ki', a, b)"),
    *cases([(2, 3, 4), (2, 4, 2)], "m.bmm(a, b)", "m.einsum('...ij,...jk', a, b)", "m.einsum('bij,bjk->', [a, b])"),
    *over("m.einsum('ij,ij->i', a, b)", [(2, 1), (2, 3)], [(2, 3), (1, 3)]),  # axes of length 1 are broadcast
    *over("m.einsum('ij,jk->ik', a, b)", [(2, 1), (3, 4)], [(2, 3), (1, 4)]),
    *cases([(1,), (3,)], "m.einsum('i,i->', a, b)", "m.einsum('i,i->i', a, b)"),
    *cases([(3, 3), (3, 4)], "m.einsum('ii->i', a)", "m.einsum('ii,ij->j', a, b)", "m.einsum('ij,i...->j...', a, b)"),
]  # fmt: skip


@settings(max_examples=60)
@given(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, min_side=0, max_side=4), SEEDS)
def test_matmul_is_that_of_numpy(shapes, seed):
    a, b = normal(seed, *shapes.input_shapes)
    check(ag.matmul, a, b, value=a @ b, seed=seed)


@st.composite
def equations(draw):
    """An equation and the shapes of its operands: labels repeated within and across them, or summed over at once."""
    sizes = dict(zip("ijkl", draw(st.tuples(*[st.integers(1, 3)] * 4))))
    inputs = draw(st.lists(st.text("ijkl", max_size=3), min_size=1, max_size=3))
    used = sorted(set("".join(inputs)))
    output = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))])
    dots = draw(st.sampled_from(["", "..."]))
    shapes = [tuple(sizes[c] for c in labels) for labels in inputs]
    if dots:
        extra = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(inputs), max_dims=2, max_side=2)).input_shapes
        shapes = [lead + shape for lead, shape in zip(extra, shapes)]
    arrow = f"->{dots}{output}" if draw(st.booleans()) else ""
    return ",".join(dots + labels for labels in inputs) + arrow, shapes


@settings(max_examples=60)
@given(equations(), SEEDS)
def test_einsum_is_that_of_numpy(equation_and_shapes, seed):
    equation, shapes = equation_and_shapes
    xs = normal(seed, *shapes)
    check(lambda *xs: ag.einsum(equation, *xs), *xs, value=np.einsum(equation, *xs), seed=seed)
