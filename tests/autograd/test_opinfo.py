"""Every operator against PyTorch's own samples of it: the OpInfo database that ships with torch.

Samples cover edge cases by design: scalars, empty arrays, broadcasting, negative axes, every option. Each is compared
in value and gradients, in float64 and float32; some also as methods and in the gradients of nested transformations.
"""

import warnings
from operator import attrgetter

import numpy as np
import pytest

import allgrad as ag

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # which the database imports
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

NAMES = [
    *("abs", "add", "sub", "mul", "div", "neg", "pow", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal"),
    *("square", "sign", "sin", "cos", "tanh", "sigmoid", "erf", "maximum", "minimum", "where", "clamp"),
    *("sum", "mean", "var", "std", "prod", "cumsum", "logsumexp", "amax", "amin", "max", "min", "norm"),
    *("argmax", "argmin"),
    *("softmax", "log_softmax", "matmul", "mm", "bmm", "outer", "einsum", "reshape", "permute", "transpose", "flatten"),
    *("squeeze", "unsqueeze", "expand", "broadcast_to", "flip", "roll", "cat", "stack", "split", "chunk", "tril"),
    *("triu", "gather", "index_select", "take_along_dim", "masked_fill", "__getitem__"),
    *(
        f"nn.functional.{name}"
        for name in (
            *("relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "hardtanh", "linear", "conv1d", "conv2d"),
            *("conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm", "layer_norm"),
            *("group_norm", "embedding", "scaled_dot_product_attention", "pad", "mse_loss", "l1_loss", "huber_loss"),
            *("cross_entropy", "nll_loss", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
            "dropout",
        )
    ),
]
COMPOSED = [  # mostly of the others: on few samples of each
    *(
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "tan",
        "sinh",
        "cosh",
        "exp2",
        "log2",
        "log10",
        "erfc",
        "erfinv",
    ),
    *(
        "lgamma",
        "digamma",
        "polygamma",
        "atan2",
        "hypot",
        "logaddexp",
        "logaddexp2",
        "xlogy",
        "logit",
        "sinc",
        "deg2rad",
    ),
    *("rad2deg", "lerp", "addcmul", "addcdiv", "floor", "ceil", "trunc", "round", "frac", "remainder", "fmod"),
    *("floor_divide", "copysign", "fmax", "fmin", "nan_to_num", "clamp_min", "clamp_max"),
    *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf"),
    *("isfinite", "isposinf", "isneginf", "signbit", "isclose", "any", "all", "count_nonzero"),
    *("nonzero", "argwhere", "unique", "searchsorted", "scatter", "scatter_add", "scatter_reduce"),
    *("index_add", "index_copy", "index_fill", "masked_select", "masked_scatter", "take", "argsort", "sort", "msort"),
    *("topk", "kthvalue", "median", "cummax", "cummin", "aminmax", "view", "view_as", "reshape_as", "expand_as"),
    *("ravel", "unflatten", "narrow", "select", "unbind", "repeat", "tile", "repeat_interleave", "tensor_split"),
    *("hsplit", "vsplit", "hstack", "vstack", "dstack", "column_stack", "atleast_1d", "atleast_2d", "atleast_3d"),
    *("movedim", "t", "rot90", "fliplr", "flipud", "diagonal", "diag_embed", "diag", "diagflat", "trace"),
    *("broadcast_tensors", "meshgrid", "cumprod", "diff", "nansum", "nanmean"),
    *("inner", "mv", "addmm", "addmv", "addr", "baddbmm", "tensordot", "kron", "cross", "dist", "cdist"),
    *("linalg.inv", "linalg.det", "linalg.solve", "linalg.cholesky", "linalg.matrix_power", "logdet"),
    *("clone", "zeros_like", "ones_like", "full_like", "arange", "eye", "full", "zeros", "ones"),
    *("linspace", "new_full", "new_zeros", "new_ones", "dot"),
    *(
        f"nn.functional.{name}"
        for name in (
            *("celu", "glu", "hardshrink", "hardswish", "logsigmoid", "mish", "prelu", "relu6", "selu"),
            *("softmin", "softshrink", "softsign", "tanhshrink", "threshold", "normalize", "cosine_similarity"),
            *(
                "pairwise_distance",
                "interpolate",
                "pixel_shuffle",
                "pixel_unshuffle",
                "channel_shuffle",
                "unfold",
            ),
        )
    ),
]
ENTRIES = {
    f"{op.name.removeprefix('nn.functional.')}-{op.variant_test_name}".strip("-"): op
    for op in op_db
    if op.name in {*NAMES, *COMPOSED}
}
OURS = {  # where the database passes the arguments in another order than torch's function takes them
    "__getitem__": lambda a, index: a[index],
    "where": lambda a, condition, b: ag.where(condition, a, b),
    "einsum": lambda operands, equation: ag.einsum(equation, *operands),
    "polygamma": lambda a, n: ag.polygamma(n, a),
    "embedding": lambda weight, indices, *args, **options: ag.embedding(indices, weight, *args, **options),
}


def given(option):
    return lambda sample: option in sample.kwargs


def every(sample):
    return True


MASKS = "other random masks"
LEFT_OUT = [  # entry or operator, which samples, how many at most, what we answer (None: another value), and why
    ("norm-nuc", every, 2, "norm: p is a number", "would need a singular value decomposition"),
    ("batch_norm", lambda s: s.input.ndim < 2, 2, "batch_norm: x of shape", "an empty vector may be a batch"),
    ("clamp", lambda s: torch.int32 in kinds(s), 2, None, "NumPy's float32 and int32 make float64, torch's float32"),
    ("scaled_dot_product_attention", lambda s: s.kwargs.get("dropout_p"), 12, None, MASKS),
    ("dropout", lambda s: s.kwargs.get("training", True) and 0 < s.kwargs.get("p", 0.5) < 1, 6, None, MASKS),
]
INEXACT = {"polygamma": 1e-9}  # what torch's own is good for, of negative numbers
TOLERANCES = {torch.float64: (1e-10, 1e-12), torch.float32: (1e-3, 1e-4)}
FEW = 4  # samples
at_each_entry = pytest.mark.parametrize("name", ENTRIES)


def samples(name, dtype=torch.float64, most=None):
    """The samples of an entry that are not left out; at most so many, of all kinds but the large ones, if wanted."""
    most = min(most or FEW, FEW) if ENTRIES[name].name in COMPOSED else most
    found = [s for s in all_samples(name, dtype) if not any(which(s) for which, *_ in left_out(name))]
    if most:
        found = [s for s in found if sum(t.numel() for t in tensors(s)) <= 500] or found
        found = found[:: -(-len(found) // most) or 1]
    return (Sample(name, s) for s in found)


def all_samples(name, dtype):
    op = ENTRIES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # not by `op.sample_inputs`, which looks through the stack for each of them
        return list(op.sample_inputs_func(op, "cpu", dtype, op.supports_autograd))


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
        found = attrgetter(short)(ag if hasattr(ag, short.partition(".")[0]) else ag.Tensor)
        self.ours = OURS.get(short, found)
        self.copies = {id(t): (t, t.detach().numpy().copy()) for t in tensors(sample)}
        self.inputs = [t for t, _ in self.copies.values() if t.requires_grad]
        self.arrays = [a for t, a in self.copies.values() if t.requires_grad]

    def run_torch(self):
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            return listed(self.op(self.sample.input, *self.sample.args, **self.sample.kwargs))

    def run_ours(self, *tensors, method=False):
        """Our results, with these tensors in the place of the inputs that require a gradient, also as a method."""
        places = {id(t): x for t, x in zip(self.inputs, tensors)}

        def put(value):
            if isinstance(value, torch.Tensor):
                return places.get(id(value), self.copies[id(value)][1])
            return type(value)(map(put, value)) if type(value) in (list, tuple) else value

        first, args = put(self.sample.input), put(self.sample.args)
        ours = getattr(ag.Tensor, self.op.name) if method else self.ours
        return listed(ours(first, *args, **{k: put(v) for k, v in self.sample.kwargs.items()}))


def listed(x):
    return list(x) if isinstance(x, (list, tuple)) else [x]


def raw(x):
    return x.numpy() if isinstance(x, ag.Tensor) else np.asarray(x)


def close(have, want, shape, **tolerance):
    have, want = (np.zeros(shape) if x is None else x for x in (have, want))
    np.testing.assert_allclose(have, want, **tolerance)


def test_every_operator_is_in_the_database():
    assert {op.name for op in ENTRIES.values()} == {*NAMES, *COMPOSED}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@at_each_entry
def test_values_and_gradients_are_those_of_torch(name, dtype):
    checked, (relative, absolute) = 0, TOLERANCES[dtype]
    relative = max(relative, INEXACT.get(ENTRIES[name].name, 0.0))
    for sample in samples(name, dtype, most=60 if dtype is torch.float32 else None):
        leaves = [ag.tensor(x, requires_grad=True) for x in sample.arrays]
        with np.errstate(all="ignore"):
            mine, theirs = sample.run_ours(*leaves), sample.run_torch()
            for m, t in zip(mine, theirs, strict=True):
                assert (raw(m).shape, f"torch.{raw(m).dtype}") == (tuple(t.shape), str(t.dtype))
                np.testing.assert_allclose(raw(m), t.detach().numpy(), rtol=relative, atol=absolute)
            g = [torch.randn_like(t) for t in theirs if t.requires_grad]
            smooth = [(m, t) for m, t in zip(mine, theirs) if t.requires_grad]
            for (m, _), w in zip(smooth, g):  # a gradient of another dtype on the way would raise its warning
                m.backward(w.numpy(), retain_graph=True)
        expected = torch.autograd.grad([t for _, t in smooth], sample.inputs, g, allow_unused=True) if smooth else []
        for leaf, want in zip(leaves, expected):
            close(leaf.grad, want, leaf.shape, rtol=10 * relative, atol=10 * absolute)
        for leaf, x in zip(leaves, sample.arrays):
            np.testing.assert_array_equal(leaf.data, x)
        for tensor, array in sample.copies.values():  # unchanged, but for the running averages of batch_norm
            np.testing.assert_allclose(array, tensor.detach(), rtol=1e-12 if dtype is torch.float64 else 1e-6)
        checked += 1
    assert checked or any(which is every for which, *_ in left_out(name))


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
def test_methods_are_torch_methods(name):
    if not ENTRIES[name].get_method() or not hasattr(torch.Tensor, ENTRIES[name].name):
        return
    for sample in samples(name, most=12):
        if isinstance(sample.sample.input, torch.Tensor):
            leaves = [ag.tensor(x, requires_grad=True) for x in sample.arrays]
            with np.errstate(all="ignore"):
                mine, theirs = sample.run_ours(*leaves, method=True), sample.run_torch()
            for m, t in zip(mine, theirs, strict=True):
                close(raw(m), t.detach(), t.shape, rtol=INEXACT.get(ENTRIES[name].name, 1e-10), atol=1e-12)


@pytest.mark.parametrize("name, which, most, message, why", LEFT_OUT, ids=[entry for entry, *_ in LEFT_OUT])
def test_what_is_left_out_says_so(name, which, most, message, why):
    chosen = [Sample(name, s) for s in all_samples(name, torch.float64) if which(s)]
    assert 0 < len(chosen) <= most and why
    for sample in chosen if message else ():
        with pytest.raises((TypeError, ValueError), match=message):
            sample.run_ours(*sample.arrays)
