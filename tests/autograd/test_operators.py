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

import allgrad as ag
from allgrad.autograd.engine import Leaf, Tensor
from allgrad.autograd.random import generator, keyed

MASK = np.arange(12).reshape(3, 4) % 3 == 0
PLACES = np.array([[3, 0], [1, 1], [0, 2]])


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


REDUCTIONS = "sum", "mean", "amax", "amin", "var", "std", "logsumexp"
TABLE = [
    # arithmetic, with numbers on either side, broadcast and not
    *cases([(3, 4)], "2.0 + a", "a + 2", "1.5 - a", "a - 1", "2 * a", "a * 0.5", "a / 4", "-a", "m.neg(a)", "abs(a)"),
    *cases([(3, 4)], "a ** 2", "a ** 3", "a ** 1", "a ** 0", "2.0 ** a", "a * a * a", "(a + a) * a", "m.pow(a, 2)"),
    *cases([(5,)], "3.0 / a", "a ** 2.5", "a ** -1", "a ** -0.5", "a.pow(2)", domain="positive"),
    *cases([(3, 4), (3, 4)], "a + b", "a - b", "a * b", "a / b", "a ** b", domain="positive"),
    *cases([(3, 1), (2, 1, 4)], "a + b", "a - b", "a * b", "a / b", "a ** b", domain="positive"),
    *cases([(3, 4), (4,)], "m.add(a, b)", "m.sub(a, b)", "m.mul(a, b)", "m.div(a, b)", domain="positive"),
    *cases([(3, 4), (4,)], "m.add(a, b, alpha=3)", "a.sub(b, alpha=-0.5)", "a * m.div(a, b, rounding_mode='floor')"),
    *cases([(3, 4), (4,)], "a * m.div(a, b, rounding_mode='trunc')"),
    *cases([(3, 4), (4,)], "a.where(a > b, b)", "a.clip(-1, 1) * b"),
    *cases([(), (2, 3)], "a + b", "b - a", "a * b", "b / a"),
    *cases([(0, 3), (1, 3)], "a + b", "a * b"),
    # elementwise functions
    *cases([(3, 4)], "m.exp(a)", "m.sin(a)", "m.cos(a)", "m.tanh(a)", "m.sigmoid(a)", "m.relu(a)", "m.leaky_relu(a)"),
    *cases([()], "a.exp()", "a.sin()", "a.cos()", "a.tanh()", "a.sigmoid()", "a.relu()"),
    *cases([(3, 4)], "m.log(a)", "m.log1p(a)", "m.sqrt(a)", "a.log()", "a.log1p()", "a.sqrt()", domain="positive"),
    *cases([(3, 4)], "m.abs(a)", "m.sign(a)", "a.sign() * a", "m.leaky_relu(a, 0.3)"),
    *cases([(3, 4)], "m.clamp(a, -0.5, 0.75)", "m.clamp(a, min=0.15)", "m.clamp(a, max=0.15)", "a.clamp(-1, 1) * a"),
    *cases([(3, 4), (3, 4)], "m.maximum(a, b)", "m.minimum(a, b)", "m.where(a > b, a, b)"),
    *over("m.where(m.array(MASK), a, b)", [(3, 4), (3, 4)], [(3, 1), (4,)], [(), (3, 4)]),
    *cases([(2, 1, 3), (4, 1)], "m.maximum(a, b)", "m.minimum(a, b)", "m.where(a > b, a, b)", "a.maximum(b)"),
    *cases([(3, 4)], "m.maximum(a, 0.5)", torch="a.clamp(min=0.5)"),
    *cases([(3, 4)], "m.minimum(0.5, a)", torch="a.clamp(max=0.5)"),
    *cases([(3, 4)], "m.where(a > 0, a * a, 0.0)", "m.where(m.array(MASK[0]), 1.0, a)"),
    *cases([(3, 4)], "m.expm1(a)", "m.square(a)", "m.erf(a)", "m.silu(a)", "m.softplus(a)", "m.softplus(a, 2.0, 3.0)"),
    *cases([(3, 4)], "m.gelu(a)", "m.gelu(a, approximate='tanh')", "m.elu(a)", "m.elu(a, 0.5)", "m.hardtanh(a)"),
    *cases([(3, 4)], "m.reciprocal(a)", "m.rsqrt(a)", "a.reciprocal() * a.rsqrt()", domain="positive"),
    *cases([(3, 4), (4,), (3, 1)], "m.clamp(a, b, c)", "m.clamp(a, max=b)", "m.clip(a, -1, 1) * a"),
    *cases([(0, 3)], "m.relu(a)", "m.sigmoid(a)", "m.softmax(a, 1)", "m.log_softmax(a, 1)"),
    *cases([(6, 7)], "m.dropout(a, 0.25)", torch="a * m.array(ag.dropout(np.ones((6, 7)), 0.25).data)"),
    *cases([(3, 4)], "m.dropout(a, 0.25, training=False) * a", "m.dropout(a, 0.0) * a", "m.dropout(a, 1.0) * a"),
    # products
    *over("a @ b", [(4,), (4,)], [(3, 4), (4,)], [(4,), (4, 3)], [(3, 4), (4, 2)], [(1, 1), (1, 1)], [(0, 4), (4, 2)]),
    *over("a @ b", [(2, 3, 4), (4, 2)], [(3, 4), (2, 4, 2)], [(2, 3, 4), (2, 4, 5)], [(2, 1, 3, 4), (5, 4, 2)]),
    *over("m.matmul(a, b)", [(4,), (2, 4, 3)], [(2, 3, 4), (4,)], [(3, 0), (0, 2)], [(2, 3), (3, 2)]),
    *cases([(3, 4), (4, 2)], "a.mT @ (a @ b)", "(a @ b).mT @ a", "a.matmul(b) * 2"),
    *[c for x in [(5, 4), (40, 4), (4,), (2, 3, 4), (0, 4)] for c in cases([x, (3, 4), (3,)], "m.linear(a, b, c)")],
    *cases([(5, 3), (3, 3), (3,)], "m.linear(a, b)", "m.linear(m.linear(a, b), b, c)", "m.linear(a, weight=b, bias=c)"),
    *cases([(3, 4), (4, 2)], "m.mm(a, b)", "m.outer(a[0], b[:, 0])", "m.einsum('ij,jk->ki', a, b)"),
    *cases([(2, 3, 4), (2, 4, 2)], "m.bmm(a, b)", "m.einsum('...ij,...jk', a, b)", "m.einsum('bij,bjk->', [a, b])"),
    *cases([(3, 3), (3, 4)], "m.einsum('ii->i', a)", "m.einsum('ii,ij->j', a, b)", "m.einsum('ij,i...->j...', a, b)"),
    # reductions
    *cases([(3, 4)], *[f"m.{r}(a)" for r in REDUCTIONS[:-1]]),
    *cases([(3, 4)], "m.logsumexp(a)", torch="m.logsumexp(a, (0, 1))"),
    *cases([(3, 4)], *[f"m.{r}(a, {x})" for r in REDUCTIONS for x in ("1", "dim=-1, keepdim=True")]),
    *cases([(2, 3, 4)], *[f"m.{r}(a, dim=(0, 2))" for r in REDUCTIONS]),
    *cases([(2, 3, 4)], *[f"a.{r}([-1, 0], keepdims=True)" for r in REDUCTIONS]),
    *cases([(2, 3, 4)], *[f"a.{r}(axis=-2)" for r in REDUCTIONS]),
    *cases([(3, 4)], *[f"m.{r}(a, 1, correction={n})" for r in ("var", "std") for n in (0, 2)]),
    *cases([(4, 1)], *[f"a.{r}(0)" for r in REDUCTIONS]),
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
    *cases([()], "a.cumsum(0)", "m.max(a, 0)[0]", "a.squeeze(-1)", "a.transpose(0, -1)", "a.gather(0, m.array([0]))"),
    *cases([(3, 4)], "a[m.argmin(a, 0)[1]]", "a.argmin() * a", "a.argmax(0, keepdim=True)[0, 1] * a"),
    *cases([(3, 4)], "m.softmax(a, -1)", "m.softmax(a, dim=0)", "m.log_softmax(a, -1)", "m.log_softmax(a, dim=0)"),
    *cases([(2, 3, 4)], "a.softmax(1) * a.log_softmax(1)", "a[:, m.argmax(a[0, :, 0])]"),
    *cases([(2, 3, 4)], "a[0, 0] * a.argmax(dim=2)[0, 1]", "m.take_along_dim(a, m.argmax(a, 2, keepdim=True), 2)"),
    # moving elements
    *cases([(3, 4)], "m.reshape(a, (2, 6))", "a.reshape(6, -1)", "a.reshape(12)", "a.T", "a.mT", "m.flatten(a)"),
    *cases([(2, 3, 4)], "m.flatten(a, 1)", "a.flatten(0, -2)", "m.permute(a, (2, 0, 1))", "a.permute(-1, 0, 1)"),
    *cases([(2, 3, 4)], "a.mT", "m.transpose(a, 0, -1)", "a.transpose(1, 2)", "a.flatten(end_dim=1)"),
    *cases([(2, 3, 4)], "m.permute_dims(a, (1, 2, 0))", torch="a.permute(1, 2, 0)"),
    *cases([(0, 3, 2)], "m.flatten(a, 1)", "a.mT", "a.permute(2, 0, 1)"),
    *cases([(1, 3, 1)], "m.squeeze(a)", "a.squeeze(0)", "m.squeeze(a, -1)", "a.squeeze((0, 1))"),
    *cases([(3, 4)], "m.unsqueeze(a, 0)", "a.unsqueeze(-1)", "a.unsqueeze(1)", "m.flatten(a[0, 0])"),
    *cases([(3, 1)], "m.broadcast_to(a, (2, 3, 4))", "a.expand(2, -1, 4)", "a.expand((3, 2)) * a"),
    *cases([(3,)], "m.expand(a, (5, -1))", torch="a.expand(5, -1)"),
    *over("m.concatenate((a, b, a), axis=1)", [(2, 3), (2, 1)], [(2, 3, 2), (2, 0, 2)]),
    *cases([(2, 3), (2, 3)], *[f"m.concatenate([a, b], {axis})" for axis in (0, -1, -2)]),
    *cases([(2, 3), (2, 3)], *[f"m.stack([a, b, a * b], axis={axis})" for axis in (0, 1, 2, -1)]),
    *cases([(3, 4)], "m.stack([row * row for row in a])", "m.stack((a[0, 0], a[1, 1]))"),
    *cases([(3, 4)], "m.flip(a, (0, 1))", "a.flip(-1)", "a.roll(1, 0)", "m.roll(a, (1, -2), (0, 1))", "m.roll(a, 5)"),
    *cases([(3, 4)], "m.tril(a)", "a.tril(1)", "m.triu(a, -1)", "a.triu(diagonal=2)", "m.cat([a, a[:, :1]], 1)"),
    *cases([(3, 4)], "m.cat([a[0, :0], a], dim=1)"),
    *cases([(3, 5)], "m.split(a, 2, 1)[1]", "m.split(a, [1, 4], dim=1)[1]", "m.chunk(a, 3, -1)[2]", "a.chunk(2)[0]"),
    *cases([(2, 3, 4)], "m.pad(a, (1, 2))", "m.pad(a, (0, 1, 2, -1), value=3.0)", "m.pad(a, (1, 2), 'reflect')"),
    *cases([(2, 3, 4)], "m.pad(a, (1, 2), mode='replicate')", "m.pad(a, (2, 1), 'circular')"),
    # picking elements
    *cases([(3, 4)], "a[1]", "a[-1]", "a[1, 2]", "a[1:]", "a[1:1]", "a[None, 1]", "a[:, None, 2:]"),
    *cases([(3, 4)], "a[...]", "a[..., 1]", "a[()]", "a[-2:, -1]", "a[:, ::2]", "a[[1, 1], None]"),
    *cases([(3, 4)], "a[m.array(MASK)]", "a[m.array(MASK[:, 0])]", "a[m.array(MASK[:, 0]), 1]"),
    *cases([(3, 4)], "a[[0, 2, 2, 0]]", "a[:, [1, 1, 3]]", "a[[0, 0, 1], [1, 1, 2]]", "a[[0, 2, 0], 1:]"),
    *cases([(3, 4)], "a[m.array(PLACES) % 3]", "a[..., None, [0, 0]]", "a[1, [0, 0, -1]]", "a[a > 0]", "a[0] * a[1:]"),
    *cases([(3, 4)], "a[m.array(PLACES[:, :1]) % 3, [0, 1]]", "a[m.array(np.zeros(0, int))]", "a[a > 0].sum() * a"),
    *cases([(3, 4)], "a[::-1, ::-2]", torch="a.flip(0, 1)[:, ::2]"),
    *cases([(2, 3, 4)], "a[[0, 1], :, [2, 2]]", "a[:, m.array(MASK)]", "a[..., m.array(MASK[0])]"),
    *cases([(2, 3, 4)], "a[0, ..., [1, 1]]", torch="a[0][:, [1, 1]].T"),
    *over("m.take_along_dim(a, m.array(PLACES), 1)", [(3, 4)], [(1, 4)]),
    *cases([(3, 4)], "m.take_along_dim(a, m.array(PLACES[:, :1] % 3), 0)", "a.take_along_dim(m.array(PLACES), dim=-1)"),
    *cases([(2, 3, 2)], "m.take_along_dim(a, m.array(PLACES[None] % 2), 0)"),
    *cases([(3, 4)], "m.gather(a, 1, m.array(PLACES))", "a.gather(0, m.array(PLACES[:2] % 3))"),
    *cases([(3, 4)], "m.index_select(a, 0, m.array([2, 0, 2]))", "a.index_select(-1, m.array(PLACES[0]))"),
    *cases([(3, 4)], "m.masked_fill(a, m.array(MASK), 0.5)", "a.masked_fill(m.array(MASK[0]), -2.0) * a"),
    *cases([(4, 3)], "m.embedding(m.array(PLACES), a)", "m.embedding(m.array(2), a) * a"),
    # convolutions, pooling, normalisation, attention
    *cases([(2, 4, 5, 4), (6, 4, 3, 2), (6,)], "m.conv2d(a, b, c)", "m.conv2d(a[0], b, c, 2, (1, 0))"),
    *cases([(2, 4, 5, 4), (6, 2, 3, 2), (6,)], "m.conv2d(a, b, c, padding=(2, 1), dilation=(2, 1), groups=2)"),
    *cases([(1, 2, 5, 4), (3, 2, 3, 3)], "m.conv2d(a, b, padding='same')", "m.conv2d(a, b, stride=2, padding='valid')"),
    *cases([(2, 4, 7), (6, 4, 3), (6,)], "m.conv1d(a, b, c, padding=1)", "m.conv1d(a[1], b, stride=(2,), dilation=2)"),
    *cases([(2, 4, 3, 2), (4, 3, 3, 2), (6,)], "m.conv_transpose2d(a, b, c, 2, 1, (1, 0), groups=2)"),
    *cases([(4, 3, 2), (4, 3, 3, 2)], "m.conv_transpose2d(a, b, dilation=2)"),
    *cases([(2, 2, 5, 6)], "m.max_pool2d(a, 2)", "m.max_pool2d(a[0], (3, 2), 1, (1, 0), ceil_mode=True)"),
    *cases([(2, 2, 5, 6)], "m.avg_pool2d(a, 2)", "m.avg_pool2d(a, 3, 2, 1, True, False)"),
    *cases([(2, 2, 5, 6)], "m.avg_pool2d(a, 2, ceil_mode=True)"),
    *cases([(2, 2, 5, 6)], "m.adaptive_avg_pool2d(a, (2, 3))", "m.adaptive_avg_pool2d(a, (None, 4))"),
    *cases([(2, 4, 3), (3,), (3,)], "m.layer_norm(a, (3,), b, c)", "m.layer_norm(a, (4, 3), eps=0.1)"),
    *cases([(2, 4, 3), (4,), (4,)], "m.group_norm(a, 2, b, c)", "m.group_norm(a, 4, eps=0.1)"),
    *cases([(3, 4, 2), (4,), (4,)], "m.batch_norm(a, None, None, b, c, training=True)"),
    *cases([(3, 4), (4,)], *(f"m.batch_norm(a, None, None, {p}, True)" for p in ("b, None", "None, b"))),
    *cases([(2, 3, 4), (2, 5, 4), (2, 5, 6)], "m.scaled_dot_product_attention(a, b, c)"),
    *cases([(2, 3, 4), (2, 5, 4), (2, 5, 6)], "m.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3)"),
    *cases([(3, 4), (4, 4), (4, 2)], "m.scaled_dot_product_attention(a, b, c, m.array(MASK & (PLACES[:, :1] > 0)))"),
    *cases([(3, 4), (4, 4), (4, 2)], "m.scaled_dot_product_attention(a, b, c, b[:3])"),
    # losses
    *[c for r in ("batchmean", "sum", "none") for c in [
        *cases([(3, 4), (3, 4)], f"m.kl_div(a, m.softmax(b, 1), reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.kl_div(a, b, reduction='{r}', log_target=True)"),
    ]],
    *[c for r in ("mean", "sum", "none") for c in [
        *cases([(5, 3)], f"m.nll_loss(a, m.array([2, 0, 0, 1, 2]), reduction='{r}')"),
        *cases([(5, 3)], f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), ignore_index=0, reduction='{r}')"),
        *cases([(5, 3)], f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), label_smoothing=0.1, reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.l1_loss(a, b, reduction='{r}')", f"m.huber_loss(a, b, '{r}', 0.9)"),
        *cases([(5, 3)], f"m.cross_entropy(a, m.array([2, 0, 0, 1, 2]), reduction='{r}')"),
        *cases([(3,)], f"m.cross_entropy(a, m.array(1), reduction='{r}')"),
        *cases([(3, 3, 4)], f"m.cross_entropy(a, m.array(MASK * 2), reduction='{r}')"),
        *cases([(2, 4, 2, 3)], f"m.cross_entropy(a, m.array(MASK.reshape(2, 2, 3) * 3), reduction='{r}')"),
        *over(f"m.cross_entropy(a, m.softmax(b, 1), reduction='{r}')", [(5, 3), (5, 3)], [(2, 3, 4), (2, 3, 4)]),
        *cases([(3,), (3,)], f"m.cross_entropy(a, m.softmax(b, 0), reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.binary_cross_entropy(m.sigmoid(a), m.sigmoid(b), reduction='{r}')"),
        *over(f"m.mse_loss(a, b, reduction='{r}')", [(3, 4), (3, 4)], [(), ()]),
        *over(f"m.binary_cross_entropy_with_logits(a, m.sigmoid(b), reduction='{r}')", [(3, 4), (3, 4)], [(), ()]),
    ]],
]  # fmt: skip

at_each_case = pytest.mark.parametrize("case", TABLE, ids=str)


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


@at_each_case
def test_value_and_gradients_are_those_of_torch(case):
    compare_with_torch(case, case.inputs())


@at_each_case
def test_derivatives_are_those_of_the_definition(case):
    def f(*xs):
        return case(OURS, *xs)

    if not re.search(r"abs|sign|round|binary|l1_loss|norm\(a, (1|3|-?np)", case.ours):  # those are not analytic
        ag.gradcheck(f, *case.inputs(), analytic=True, tolerance=1e-12)
    ag.gradcheck(f, *case.inputs(), order=2)


@at_each_case
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
    assert all(np.array_equal(leaf.numpy(), x) for leaf, x in zip(leaves, arrays))
    return y.numpy(), [g.numpy() for g in gradients]


@at_each_case
def test_torch_tensors_give_what_arrays_give(case):
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-4)):
        y, gradients = run(case, case.inputs(dtype))
        on_torch, gradients_on_torch = run_on_torch(case, case.inputs(dtype))
        assert on_torch.shape == y.shape
        for a, e in zip([on_torch, *gradients_on_torch], [y.data, *gradients]):
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@at_each_case
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


TIES = np.array([[0.0, 1.0, 1.0], [-1.0, 0.0, -1.0]])


KINKS = [
    "m.relu(a)", "m.leaky_relu(a, 0.3)", "m.abs(a)", "m.sign(a)", "m.clamp(a, 0, 1)", "m.clamp(a, min=0)",
    "m.maximum(a, m.abs(a))", "m.minimum(a, a * a)", "m.amax(a)", "m.amax(a, 1)", "m.amin(a, 0)", "m.amin(a)",
    "a ** 2", "a ** 1", "a ** 0", "m.abs(a) ** (a * a)", "0.0 ** (a * a)", "m.std(a + a.mT.mT, 1)",
    "m.elu(a)", "m.softplus(a)", "m.hardtanh(a)", "m.clamp(a, a * a)", "m.norm(a * 0, 2, 1)", "m.std(a * 0, 1)",
    "m.max(a, 1)[0]", "m.min(a, 0)[0]", "m.prod(a, 1)", "m.prod(a)", "m.norm(a, 2, 0)", "m.norm(a, np.inf, 1)",
    "m.max_pool2d(a.reshape(1, 2, 3), 2, 1)", "m.embedding(m.array([[0, 1, 1]]), a, -1)", "m.huber_loss(a, a * a)",
]  # fmt: skip


@pytest.mark.parametrize("expression", KINKS)
def test_kinks_and_ties_follow_torch(expression):
    case = Case(expression, ((2, 3),))
    compare_with_torch(case, [TIES])
    y, gradients = run(case, [TIES])
    on_torch, gradients_on_torch = run_on_torch(case, [TIES])
    np.testing.assert_allclose(on_torch, y.data, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradients_on_torch[0], gradients[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("expression", KINKS)
def test_kinks_and_ties_are_the_same_in_nested_transformations(expression):
    """There a rule computes on Tensors, so that the value it gives is differentiated too."""
    case = Case(expression, ((2, 3),))
    y, (gradient,) = run(case, [TIES])
    with np.errstate(invalid="ignore"):  # where the gradient is 0, the Hessian may not exist
        nested, pullback = ag.vjp(lambda x: ag.vjp(lambda x: case(OURS, x), x)[0], TIES)
    np.testing.assert_array_equal(nested, y.data)
    np.testing.assert_allclose(pullback(weights(y.shape))[0], gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "expression",
    [
        "m.sigmoid(a)", "m.softmax(a, 1)", "m.log_softmax(a, 1)", "m.logsumexp(a, 1)", "m.tanh(a)",
        "m.cross_entropy(a, m.array([2, 1]))", "m.cross_entropy(a, m.softmax(a, 1))",
        "m.binary_cross_entropy_with_logits(a, m.array(TIES) ** 2)",
    ],
)  # fmt: skip
def test_large_inputs_neither_overflow_nor_lose_the_gradient(expression):
    compare_with_torch(Case(expression, ((2, 3),)), [1000.0 * TIES])


def test_gelu_in_single_precision_follows_the_exact_one_over_the_whole_line():
    x = np.concatenate([np.linspace(-14.0, 14.0, 200_001), [1e30, -1e30, 1e-40, -20.0, np.nan]]).astype("f")
    with np.errstate(over="ignore"):
        exact, slope = ag.vjp(ag.gelu, x.astype("d"))
    y, pullback = ag.vjp(ag.gelu, x)
    np.testing.assert_allclose(y, exact, rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(pullback(np.ones_like(x))[0], slope(np.ones(x.shape))[0], rtol=0, atol=3e-7)
    np.testing.assert_array_equal(ag.gelu(x.reshape(-1, 2).T).numpy().T.reshape(-1), y, strict=True)  # in any order


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_an_empty_batch_are_zero(reduction):  # the mean too, where torch's is nan
    for expression in (
        "m.cross_entropy(a, [], R)",
        "m.mse_loss(a, a, R)",
        "m.binary_cross_entropy_with_logits(a, a, R)",
    ):
        expression = expression.replace("[]", "np.zeros(0, int)").replace("R", repr(reduction))
        y, (gradient,) = run(Case(expression, ((0, 3),)), [np.zeros((0, 3))])
        assert np.sum(y.data) == 0.0 and gradient.shape == (0, 3)


def test_the_table_covers_every_exported_operation():
    used = set(re.findall(r"\bm\.(\w+)", " ".join(c.ours for c in TABLE)))
    others = {
        "Tensor", "Arena", "tensor", "default_dtype", "get_default_dtype", "no_grad", "enable_grad", "manual_seed",
        "gradcheck", "draw_graph", "to_dot", "summary", "count_operations", "detect_anomaly", "vjp", "grad", "jvp",
        "hvp", "jacobian", "hessian", "primitive", "shared", "capture",
    }  # fmt: skip
    exported = {name for name in dir(ag) if callable(getattr(ag, name))}
    assert exported - others == used - {"array"}
