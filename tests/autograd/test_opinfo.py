"""Every operator against PyTorch's own samples of it: the OpInfo database that ships with torch.

Samples cover edge cases by design: scalars, empty arrays, broadcasting, negative axes, every option. Each is compared
in value and gradients; some also in the gradients of nested transformations, and in dtype from float32.
"""

import warnings

import numpy as np
import pytest

import autograd as ag

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # which the database imports
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

NAMES = [
    *("abs", "add", "sub", "mul", "div", "neg", "pow", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal"),
    *("square", "sign", "sin", "cos", "tanh", "sigmoid", "erf", "maximum", "minimum", "where", "clamp"),
    *("sum", "mean", "var", "std", "prod", "cumsum", "logsumexp", "amax", "amin", "max", "min", "norm", "argmax"),
    *("softmax", "log_softmax", "matmul", "mm", "bmm", "outer", "einsum", "reshape", "permute", "transpose", "flatten"),
    *("squeeze", "unsqueeze", "expand", "broadcast_to", "flip", "roll", "cat", "stack", "split", "chunk", "tril"),
    *("triu", "gather", "index_select", "take_along_dim", "masked_fill"),
    *(
        f"nn.functional.{name}"
        for name in (
            *("relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "hardtanh", "linear", "conv1d", "conv2d"),
            *("conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm", "layer_norm"),
            *("group_norm", "embedding", "scaled_dot_product_attention", "pad", "mse_loss", "l1_loss", "huber_loss"),
            *("cross_entropy", "nll_loss", "kl_div", "binary_cross_entropy_with_logits"),
        )
    ),
]
ENTRIES = {
    f"{op.name.removeprefix('nn.functional.')}-{op.variant_test_name}".strip("-"): op
    for op in op_db
    if op.name in NAMES
}
# Where the database passes arguments in another order than ours, or an option that is written as an expression here.
OURS = {
    "add": lambda a, b, alpha=1: ag.add(a, b if alpha == 1 else b * alpha),
    "sub": lambda a, b, alpha=1: ag.sub(a, b if alpha == 1 else b * alpha),
    "where": lambda a, condition, b: ag.where(condition, a, b),
    "einsum": lambda operands, equation: ag.einsum(equation, *operands),
    "embedding": lambda weight, indices, *args, **options: ag.embedding(indices, weight, *args, **options),
}


def given(option):
    return lambda sample: option in sample.kwargs


def every(sample):
    return True


NO_CAST, ROUNDED = "an operator never casts: convert its input", "a rounded quotient has no derivative to speak of"
NO_DTYPE, NO_ROUNDING = ("unexpected keyword argument 'dtype'", "unexpected keyword argument 'rounding_mode'")
LEFT_OUT = [  # operator or one entry of it, which samples, what we answer (None: another value, rightly), and why
    ("div-trunc_rounding", every, NO_ROUNDING, ROUNDED),
    ("div-floor_rounding", every, NO_ROUNDING, ROUNDED),
    ("softmax-with_dtype", every, NO_DTYPE, NO_CAST),
    ("log_softmax-with_dtype", every, NO_DTYPE, NO_CAST),
    ("cumsum", given("dtype"), NO_DTYPE, NO_CAST),
    ("prod", given("dtype"), NO_DTYPE, NO_CAST),
    ("norm-nuc", every, "norm: p is a number", "would need a singular value decomposition"),
    ("cat", lambda s: len({x.ndim for x in s.input}) > 1, "concatenate: shapes", "an empty vector joins any array"),
    ("gather", lambda s: s.args[1].shape == (2, 0), "gather: ", "an empty index may have any rank"),
    ("batch_norm", lambda s: s.input.ndim < 2, "batch_norm: x of shape", "an empty vector may be a batch"),
    ("clamp", lambda s: torch.int32 in kinds(s), None, "NumPy's float32 and int32 make float64, torch's float32"),
    ("scaled_dot_product_attention", lambda s: s.kwargs.get("dropout_p"), None, "other random masks"),
]
at_each_entry = pytest.mark.parametrize("name", ENTRIES)


def samples(name, dtype=torch.float64, most=None):
    """The samples of an entry that are not left out; at most so many, of all kinds but the large ones, if wanted."""
    found = [s for s in all_samples(name, dtype) if not any(which(s) for which, _, _ in left_out(name))]
    if most:
        found = [s for s in found if sum(t.numel() for t in tensors(s)) <= 500]
        found = found[:: -(-len(found) // most) or 1]
    return (Sample(name, s) for s in found)


def all_samples(name, dtype):
    op = ENTRIES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd))


def left_out(name):
    return [row for entry, *row in LEFT_OUT if entry in (name, name.partition("-")[0])]


def tensors(value):
    """The distinct tensors in a sample, or in a part of it."""
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "kwargs"):
        value = [value.input, *value.args, *value.kwargs.values()]
    found = [t for x in value for t in tensors(x)] if isinstance(value, (list, tuple)) else []
    return list({id(t): t for t in found}.values())


def kinds(sample):
    return {t.dtype for t in tensors(sample)}


class Sample:
    """A sample of an operator, to be run by torch and by us on copies of the same tensors."""

    def __init__(self, name, sample):
        self.op, self.sample = ENTRIES[name], sample
        short = self.op.name.removeprefix("nn.functional.")
        self.ours = OURS.get(short) or getattr(ag, short)
        self.copies = {id(t): (t, t.detach().numpy().copy()) for t in tensors(sample)}
        self.inputs = [t for t, _ in self.copies.values() if t.requires_grad]
        self.arrays = [a for t, a in self.copies.values() if t.requires_grad]

    def run_torch(self):
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            return listed(self.op(self.sample.input, *self.sample.args, **self.sample.kwargs))

    def run_ours(self, *tensors):
        """Our results, with these tensors in the place of the inputs that require a gradient."""
        places = {id(t): x for t, x in zip(self.inputs, tensors)}

        def put(value):
            if isinstance(value, torch.Tensor):
                return places.get(id(value), self.copies[id(value)][1])
            return type(value)(map(put, value)) if type(value) in (list, tuple) else value

        first, args = put(self.sample.input), put(self.sample.args)
        return listed(self.ours(first, *args, **{k: put(v) for k, v in self.sample.kwargs.items()}))


def listed(x):
    return list(x) if isinstance(x, (list, tuple)) else [x]


def raw(x):
    return x.numpy() if isinstance(x, ag.Tensor) else np.asarray(x)


def close(have, want, shape, **tolerance):
    have, want = (np.zeros(shape) if x is None else x for x in (have, want))
    np.testing.assert_allclose(have, want, **tolerance)


def test_every_operator_is_in_the_database():
    assert {op.name for op in ENTRIES.values()} == set(NAMES)


@at_each_entry
def test_values_and_gradients_are_those_of_torch(name):
    checked = 0
    for sample in samples(name):
        leaves = [ag.tensor(x, requires_grad=True) for x in sample.arrays]
        with np.errstate(all="ignore"):
            mine, theirs = sample.run_ours(*leaves), sample.run_torch()
            for m, t in zip(mine, theirs, strict=True):
                assert raw(m).shape == tuple(t.shape)
                np.testing.assert_allclose(raw(m), t.detach().numpy(), rtol=1e-10, atol=1e-12)
            g = [torch.randn_like(t) for t in theirs if t.requires_grad]
            smooth = [(m, t) for m, t in zip(mine, theirs) if t.requires_grad]
            for (m, _), w in zip(smooth, g):
                m.backward(w.numpy(), retain_graph=True)
        expected = torch.autograd.grad([t for _, t in smooth], sample.inputs, g, allow_unused=True) if smooth else []
        for leaf, want in zip(leaves, expected):
            close(leaf.grad, want, leaf.shape, rtol=1e-9, atol=1e-11)
        for leaf, x in zip(leaves, sample.arrays):
            np.testing.assert_array_equal(leaf.data, x)
        for tensor, array in sample.copies.values():  # unchanged, but for the running averages of batch_norm
            np.testing.assert_allclose(array, tensor.detach(), rtol=1e-12)
        checked += 1
    assert checked or any(which is every for which, _, _ in left_out(name))


@at_each_entry
def test_nested_gradients_are_those_of_torch(name):
    """The gradient of s + <ds/dx, v>, s a weighted sum of the values: of the value of a nested `vjp`, and its slope."""
    if not ENTRIES[name].supports_gradgrad:
        return
    for sample in samples(name, most=12):
        outputs = [(i, t) for i, t in enumerate(sample.run_torch()) if t.requires_grad]
        weights = [(i, torch.randn_like(t)) for i, t in outputs]
        along = [torch.randn_like(x) for x in sample.inputs]
        s = sum((t * w).sum() for (_, t), (_, w) in zip(outputs, weights))
        slopes = torch.autograd.grad(s, sample.inputs, create_graph=True, allow_unused=True)
        total = s + sum((d * v).sum() for d, v in zip(slopes, along) if d is not None)
        expected = torch.autograd.grad(total, sample.inputs, allow_unused=True)

        def weighted(*xs):
            ys = sample.run_ours(*xs)
            return sum((ys[i] * w.numpy()).sum() for i, w in weights)

        def slope(*xs):
            y, pullback = ag.vjp(weighted, *xs)
            return y + sum((d * v.numpy()).sum() for d, v in zip(pullback(np.float64(1.0)), along))

        with np.errstate(all="ignore"):
            _, pullback = ag.vjp(slope, *sample.arrays)
            for have, want in zip(pullback(np.float64(1.0)), expected):
                close(raw(have), want, raw(have).shape, rtol=1e-8, atol=1e-10)


@at_each_entry
def test_float32_gives_float32(name):
    for sample in samples(name, torch.float32, most=12):
        leaves = [ag.tensor(x, requires_grad=True) for x in sample.arrays]
        with np.errstate(all="ignore"):
            for m, t in zip(sample.run_ours(*leaves), sample.run_torch(), strict=True):
                assert str(raw(m).dtype) == str(t.dtype).removeprefix("torch.")
                if t.requires_grad:  # a gradient of another dtype on the way would raise its warning
                    m.backward(np.ones(m.shape, np.float32), retain_graph=True)


@pytest.mark.parametrize("name, which, message, why", LEFT_OUT, ids=[entry for entry, *_ in LEFT_OUT])
def test_what_is_left_out_says_so(name, which, message, why):
    chosen = [Sample(name, s) for s in all_samples(name, torch.float64) if which(s)]
    assert chosen and why
    for sample in chosen if message else ():
        with pytest.raises((TypeError, ValueError), match=message):
            sample.run_ours(*sample.arrays)
