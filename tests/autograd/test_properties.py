"""Properties of operators that hold for every shape, axis, index and option; hypothesis looks for one where they fail.

Values are NumPy's or torch's. Derivatives are torch's where torch has the operator, central differences elsewhere, and
in any case the two modes are transposes of each other: <J v, g> = <v, J^T g>.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import allgrad as ag
from allgrad.autograd.engine import unwrap

settings.register_profile(
    "derandomized",
    derandomize=True,
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("derandomized")

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
LIBRARIES = ag, torch


def normal(seed, *shapes):
    """An array of each shape: of normal numbers, none of them close to 0."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    return [np.asarray(x + 0.25 * np.sign(x)) for x in arrays]


def dot(xs, ys):
    return sum(float(np.sum(np.asarray(x) * np.asarray(y))) for x, y in zip(xs, ys, strict=True))


def check(f, *xs, value=None, seed=0, differences=True):
    """f's value, and its derivatives by xs: transposes of each other, linear, and what differences of f say."""
    copies = [x.copy() for x in xs]
    y, pullback = ag.vjp(f, *xs)
    if value is not None:
        assert y.shape == np.shape(value) and y.dtype == np.asarray(value).dtype
        np.testing.assert_allclose(y, value, rtol=1e-12, atol=1e-12)
    g, other = normal(seed, y.shape, y.shape)
    vs = normal(seed + 1, *[x.shape for x in xs])
    gradients = pullback(g)
    assert [d.shape for d in gradients] == [x.shape for x in xs]
    assert all(d.dtype == np.float64 for d in gradients)
    for d, e, both in zip(gradients, pullback(other), pullback(2.0 * g - other), strict=True):
        np.testing.assert_allclose(2.0 * d - e, both, rtol=1e-9, atol=1e-9)
    tangent = ag.jvp(f, xs, vs)[1]
    scale = 1.0 + sum(np.abs(d * v).sum() for d, v in zip(gradients, vs))
    assert abs(dot([tangent], [g]) - dot(gradients, vs)) <= 1e-10 * scale
    if differences:
        t = 1e-6
        ends = [np.asarray(unwrap(f(*[ag.tensor(x + s * v) for x, v in zip(xs, vs)]))) for s in (t, -t)]
        assert abs(dot([(ends[0] - ends[1]) / (2 * t)], [g]) - dot(gradients, vs)) <= 1e-6 * scale
    for x, copy in zip(xs, copies):
        np.testing.assert_array_equal(x, copy)


def check_with_torch(f, *xs, seed=0, rtol=1e-10):
    """f(library, *tensors) has one value and one set of gradients here and in torch, in float64; and is `check`ed."""
    leaves = [torch.tensor(x, requires_grad=True) for x in xs]
    expected = f(torch, *leaves)
    (g,) = normal(seed, tuple(expected.shape))
    slopes = torch.autograd.grad(expected, leaves, torch.tensor(g), allow_unused=True)
    y, pullback = ag.vjp(lambda *ts: f(ag, *ts), *xs)
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y, expected.detach(), rtol=rtol, atol=rtol)
    for d, slope in zip(pullback(g), slopes, strict=True):
        np.testing.assert_allclose(d, np.zeros(d.shape) if slope is None else slope, rtol=rtol, atol=rtol)
    check(lambda *ts: f(ag, *ts), *xs, seed=seed, differences=False)


# --- elementwise -----------------------------------------------------------------------------------------------

BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "pow": np.power,
}  # fmt: skip


@given(st.sampled_from(sorted(BINARY)), hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4), SEEDS)
def test_binary_operators_broadcast_as_numpy_does(name, shapes, seed):
    a, b = normal(seed, *shapes.input_shapes)
    if name == "pow":
        a = np.abs(a)
    assume(not np.any(np.abs(a - b) < 1e-4))  # no kink within the step of a difference
    check(getattr(ag, name), a, b, value=BINARY[name](a, b), seed=seed)
    number = float(b.reshape(-1)[0]) if b.size else 2.0  # and with a number on either side
    check(lambda x: getattr(ag, name)(x, number), a, value=BINARY[name](a, number), seed=seed, differences=False)
    number = abs(number)
    check(lambda x: getattr(ag, name)(number, x), b, value=BINARY[name](number, b), seed=seed, differences=False)


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, min_side=0, max_side=4), SEEDS)
def test_where_and_clamp_broadcast_as_numpy_does(shapes, seed):
    a, b, c = normal(seed, *shapes.input_shapes)
    check(lambda x, y: ag.where(c > 0, x, y), a, b, value=np.where(c > 0, a, b), seed=seed)
    if all(np.all(np.abs(x - y) > 1e-4) for x, y in itertools.combinations((a, b, c), 2)):
        check(ag.clamp, a, b, c, value=np.clip(a, b, c), seed=seed)


@given(SHAPES, SEEDS)
def test_float32_gives_float32_at_every_operator_of_one_array(shape, seed):
    (x,) = normal(seed, shape)
    names = "exp expm1 sin cos tanh sigmoid erf abs sign square relu elu gelu silu softplus hardtanh leaky_relu neg"
    for dtype in (np.float32, np.float64):
        for f in [getattr(ag, name) for name in names.split()] + [lambda x: 2 / (x**2 + 1) - np.float64(3)]:
            y, pullback = ag.vjp(f, x.astype(dtype))
            assert y.dtype == pullback(np.ones(shape, dtype))[0].dtype == dtype


# --- reductions ------------------------------------------------------------------------------------------------

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


# --- moving and picking elements -------------------------------------------------------------------------------


@st.composite
def shapes_and_indices(draw):
    """A shape, and an index NumPy accepts for it: integers, slices, None, ..., masks and index arrays mixed."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    kinds, parts, arrays = [], [], draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    at, dots = 0, False
    while at < len(shape):
        n = shape[at]
        kind = draw(st.sampled_from(["integer", "slice", "None", "...", "array", "list", "mask", "stop"]))
        kinds.append(kind)
        if kind == "integer":
            parts.append(draw(st.integers(-n, n - 1).map(draw(st.sampled_from([int, np.int64])))))
        elif kind == "slice":
            parts.append(draw(st.slices(n)))
        elif kind == "None":
            parts.append(None)
            continue
        elif kind == "...":
            if not dots:
                parts.append(...)
            dots = True
            at += draw(st.integers(0, len(shape) - at))
            continue
        elif kind == "array":
            parts.append(draw(hnp.arrays(np.int64, arrays, elements=st.integers(-n, n - 1))))
        elif kind == "list":
            parts.append(draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=3)))
        elif kind == "mask":
            parts.append(draw(hnp.arrays(bool, n)))
        else:
            break
        at += 1
    index = tuple(parts)
    return shape, index[0] if len(index) == 1 and draw(st.booleans()) else index


@settings(max_examples=150)
@given(shapes_and_indices(), SEEDS)
def test_indexing_is_that_of_numpy_and_its_transpose_adds(shape_and_index, seed):
    shape, index = shape_and_index
    (x,) = normal(seed, shape)
    try:
        value = x[index]
    except IndexError:
        assume(False)
    y, pullback = ag.vjp(lambda x: x[index], x)
    np.testing.assert_array_equal(y, value)
    (g,) = normal(seed, value.shape)
    expected = np.zeros(shape)
    np.add.at(expected, index, g)
    np.testing.assert_allclose(pullback(g)[0], expected, rtol=1e-14)
    check(lambda x: x[index], x, value=value, seed=seed)


@given(st.data(), SEEDS)
def test_picking_along_an_axis_is_that_of_torch(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    n, (x,) = shape[dim], normal(seed, shape)
    smaller = tuple(data.draw(st.integers(0, k)) for k in shape)
    index = data.draw(hnp.arrays(np.int64, smaller, elements=st.integers(0, n - 1)))
    check_with_torch(lambda m, x: m.gather(x, dim, like(m, index)), x, seed=seed)
    along = tuple(data.draw(st.sampled_from([1, k])) for k in shape)
    index = data.draw(hnp.arrays(np.int64, along, elements=st.integers(0, n - 1)))
    check_with_torch(lambda m, x: m.take_along_dim(x, like(m, index), dim=dim), x, seed=seed)
    index = data.draw(hnp.arrays(np.int64, data.draw(st.integers(0, 5)), elements=st.integers(0, n - 1)))
    check_with_torch(lambda m, x: m.index_select(x, dim, like(m, index)), x, seed=seed)
    mask = data.draw(hnp.arrays(bool, data.draw(hnp.broadcastable_shapes(shape, max_dims=len(shape)))))
    assume(np.broadcast_shapes(mask.shape, shape) == shape)
    check_with_torch(lambda m, x: x.masked_fill(like(m, mask), 3.0), x, seed=seed)


def like(m, array):
    return array if m is ag else torch.tensor(array)


@given(st.data(), SEEDS)
def test_moving_elements_there_and_back_changes_nothing(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    ndim, (x,) = len(shape), normal(seed, shape)
    axis = data.draw(st.integers(-ndim, ndim - 1))
    order = data.draw(st.permutations(range(ndim)))
    shift = data.draw(st.integers(-5, 5))
    sizes = data.draw(st.integers(1, 5))
    left, right = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    inner = (..., *[slice(left, left + n) if i == ndim - 1 else slice(None) for i, n in enumerate(shape)])
    for there_and_back in (
        lambda x: x.reshape(-1).reshape(shape) if x.size else x.reshape(x.shape),
        lambda x: x.permute(order).permute(*np.argsort(order)),
        lambda x: x.transpose(axis, 0).transpose(0, axis),
        lambda x: x.flip(axis).flip((axis,)),
        lambda x: x.roll(shift, axis).roll(-shift, axis),
        lambda x: x.roll(shift).roll(-shift),
        lambda x: ag.cat(x.split(sizes, axis), axis),
        lambda x: ag.cat(x.chunk(sizes, axis), dim=axis),
        lambda x: ag.stack([x, x * 2], axis)[(slice(None),) * (axis % (ndim + 1)) + (0,)],
        lambda x: x.unsqueeze(axis).squeeze(axis) if axis >= 0 else x,
        lambda x: ag.pad(x, (left, right))[inner],
        lambda x: x.expand(3, *shape)[data.draw(st.integers(0, 2))] if not shift else x.broadcast_to((2, *shape))[1],
        lambda x: x.tril() + x.triu(1) if ndim > 1 else x.flatten(),
    ):
        y, pullback = ag.vjp(there_and_back, x)
        (g,) = normal(seed, shape)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(pullback(g)[0], g)


@given(st.data(), SEEDS)
def test_moving_elements_is_that_of_torch(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    ndim, (x,) = len(shape), normal(seed, shape)
    axes = data.draw(hnp.valid_tuple_axes(ndim, min_size=1))
    shifts = tuple(data.draw(st.integers(-5, 5)) for _ in axes)
    pads = data.draw(st.lists(st.integers(-1, 3), min_size=2, max_size=2 * ndim).filter(lambda p: len(p) % 2 == 0))
    assume(all(n + l + r >= 0 for n, l, r in zip(shape[::-1], pads[::2], pads[1::2])))
    check_with_torch(lambda m, x: m.flip(x, axes), x, seed=seed)
    check_with_torch(lambda m, x: m.roll(x, shifts, axes), x, seed=seed)
    check_with_torch(lambda m, x: (ag.pad if m is ag else F.pad)(x, pads, value=0.5), x, seed=seed)
    if ndim > 1:
        k = data.draw(st.integers(-5, 5))
        check_with_torch(lambda m, x: m.tril(x, k) * m.triu(x, k - 1), x, seed=seed)
    start = data.draw(st.integers(-ndim, ndim - 1))
    stop = data.draw(st.integers(start % ndim, ndim - 1))
    check_with_torch(lambda m, x: m.flatten(x, start, stop) * 2, x, seed=seed)


# --- products --------------------------------------------------------------------------------------------------


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


# --- networks --------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data(), SEEDS)
def test_convolutions_are_those_of_torch(data, seed):
    name = data.draw(st.sampled_from(["conv1d", "conv2d", "conv_transpose2d"]))
    axes = 1 if name == "conv1d" else 2

    def lengths(least, most):
        return tuple(data.draw(st.integers(least, most)) for _ in range(axes))

    groups, kernel, stride, dilation, padding = data.draw(st.integers(1, 3)), *map(lengths, (1, 1, 1, 0), (3, 3, 2, 2))
    size, batch = lengths(1, 7), data.draw(st.sampled_from([(), (1,), (2,)]))
    channels, outputs = (groups * data.draw(st.integers(1, 2)) for _ in range(2))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if name == "conv_transpose2d":
        weight = (channels, outputs // groups, *kernel)
        options["output_padding"] = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
        extents = zip(size, stride, padding, dilation, kernel, options["output_padding"])
        assume(all((n - 1) * s - 2 * p + d * (k - 1) + e + 1 > 0 for n, s, p, d, k, e in extents))
    else:
        weight = (outputs, channels // groups, *kernel)
        assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel)))
    if data.draw(st.booleans()):
        options = {key: v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for key, v in options.items()}
    xs = normal(seed, (*batch, channels, *size), weight, *[(outputs,)] * data.draw(st.integers(0, 1)))
    check_with_torch(lambda m, *xs: getattr(ag if m is ag else F, name)(*xs, **options), *xs, seed=seed)


@settings(max_examples=60)
@given(st.data(), SEEDS)
def test_pooling_is_that_of_torch_also_where_elements_are_equal(data, seed):
    name = data.draw(st.sampled_from(["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"]))

    def pair(least, most):
        return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    size, batch = pair(2, 7), data.draw(st.sampled_from([(), (2,)]))
    (x,) = normal(seed, (*batch, 2, *size))
    if name == "adaptive_avg_pool2d":
        args, options = (pair(1, 5),), {}
    else:
        kernel = pair(1, 4)
        args, options = (kernel,), {"padding": tuple(data.draw(st.integers(0, k // 2)) for k in kernel)}
        options["stride"] = pair(1, 3) if data.draw(st.booleans()) else None
        options["ceil_mode"] = data.draw(st.booleans())
        dilation = pair(1, 2) if name == "max_pool2d" else (1, 1)
        assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, options["padding"], dilation, kernel)))
        if name == "max_pool2d":
            options["dilation"], x = dilation, np.round(x)
        else:
            options["count_include_pad"] = data.draw(st.booleans())
            options["divisor_override"] = data.draw(st.sampled_from([None, 3]))
    check_with_torch(lambda m, x: getattr(ag if m is ag else F, name)(x, *args, **options), x, seed=seed)


@settings(max_examples=20)
@given(st.data(), st.sampled_from([(4,), (3, 4), (1, 2), (2, 3, 2), (2, 3, 1, 2)]), SEEDS)
def test_cross_entropy_is_that_of_torch_with_every_option(data, shape, seed):
    classes, places = shape[0 if len(shape) == 1 else 1], shape[:-1][:1] + shape[2:]
    z, w = normal(seed, shape, (classes,))
    labels = data.draw(hnp.arrays(np.int64, places, elements=st.integers(0, classes - 1)))
    ignored = data.draw(st.sampled_from([-100, -1, 0, 1]))
    labels = np.where(data.draw(hnp.arrays(bool, places)), ignored, labels)
    assume(np.any(labels != ignored))  # or the mean is nan
    probabilities = np.exp(np.sin(z)) / classes
    for reduction, weighted, smoothing in itertools.product(("mean", "sum", "none"), (False, True), (0.0, 0.1)):

        def loss(m, z, target, reduction=reduction, weighted=weighted, smoothing=smoothing, **options):
            f = ag.cross_entropy if m is ag else F.cross_entropy
            weight = like(m, np.abs(w)) if weighted else None
            return f(z, like(m, target), weight=weight, reduction=reduction, label_smoothing=smoothing, **options)

        check_with_torch(lambda m, z: loss(m, z, labels, ignore_index=ignored), z, seed=seed)
        check_with_torch(lambda m, z: loss(m, z, probabilities), z, seed=seed)


# --- compositions ----------------------------------------------------------------------------------------------

STEPS = {  # of one or two matrices (3, 3), smooth and bounded
    1: [
        "m.sin(a)", "m.tanh(a)", "m.exp(-a * a)", "m.softmax(a, -1)", "a.sum(0, keepdim=True) * 0.3 + a", "a.mT",
        "a[[0, 0, 2]]", "m.logsumexp(a, 1).reshape(3, 1) - a", "m.cat([a[1:], a[:1] * 0.5])", "m.sigmoid(a)",
        "a.reshape(9)[:, None].reshape(3, 3)", "a.mean() + a", "m.cumsum(a, 0) * 0.3", "a.flip((0, 1))",
        "a.expand(2, 3, 3)[1]", "m.log1p(a * a)", "m.sqrt(a * a + 1)", "a.detach() * a",
    ],
    2: [
        "a * b", "a + b", "a - b", "a @ b * 0.3", "a / (b * b + 1)", "m.einsum('ij,jk->ik', a, b) * 0.3",
        "m.stack([a, b])[1] * a", "m.where(a > b, a, b * 0.5)",
    ],
}  # fmt: skip
GRAPHS = st.lists(
    st.tuples(st.sampled_from(STEPS[1] + STEPS[2]), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


def graph(m, steps, *xs):
    """The sum of all nodes that a list of steps computes, each from earlier ones: subexpressions are shared."""
    nodes = list(xs)
    for step, i, j in steps:
        nodes.append(eval(step, {"m": m, "a": nodes[i % len(nodes)], "b": nodes[j % len(nodes)]}))
    return (nodes[-1] * nodes[-2]).sum() + m.sin(xs[0]).sum()


@settings(max_examples=60)
@given(GRAPHS, SEEDS)
def test_graphs_that_share_nodes_have_the_derivatives_of_torch(steps, seed):
    x, w = normal(seed, (3, 3), (3, 3))
    check_with_torch(lambda m, x, w: graph(m, steps, x, w), x, w, seed=seed)
    leaves = [ag.tensor(a, requires_grad=True) for a in (x, w)]
    graph(ag, steps, *leaves).backward()
    _, pullback = ag.vjp(lambda *xs: graph(ag, steps, *xs), x, w)
    for leaf, d in zip(leaves, pullback(np.float64(1.0))):
        np.testing.assert_allclose(np.zeros(d.shape) if leaf.grad is None else leaf.grad, d, rtol=1e-13, atol=1e-14)


@settings(max_examples=25)
@given(GRAPHS, SEEDS)
def test_second_derivatives_are_symmetric_and_those_of_torch(steps, seed):
    x, w, u, v = normal(seed, *[(3, 3)] * 4)

    def f(x):
        return graph(ag, steps, x, ag.tensor(w))

    t = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(graph(torch, steps, t, torch.tensor(w)), t, create_graph=True)
    (expected,) = torch.autograd.grad(slope, t, torch.tensor(v))
    along_v, along_u = ag.hvp(f, x, v), ag.hvp(f, x, u)
    np.testing.assert_allclose(along_v, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(np.sum(u * along_v), np.sum(v * along_u), rtol=1e-8, atol=1e-8)
    hessian = ag.jacobian(ag.grad(f))(x)
    np.testing.assert_allclose(np.tensordot(hessian, v, 2), along_v, rtol=1e-9, atol=1e-9)
    forward = ag.jvp(ag.grad(f), (x,), (v,))[1]  # forward over reverse, and reverse over reverse
    np.testing.assert_allclose(forward, along_v, rtol=1e-9, atol=1e-9)


# --- what belongs to whom --------------------------------------------------------------------------------------

USES = [  # each takes (3, 3) and gives a view where it can
    "x.reshape(-1)", "x.T", "x[1:]", "x[...]", "x.expand(2, 3, 3)", "x.flip(0)", "x.split(1)[0]", "x.squeeze()", "x.mT",
    "x.unsqueeze(0)", "x.flatten()", "x.permute(1, 0)", "m.einsum('ij->ji', x)", "m.dropout(x, 0.0)", "x.roll(1)",
    "m.conv_transpose2d(x.reshape(1, 1, 3, 3), x[:2, :2].reshape(1, 1, 2, 2))", "m.pad(x, (0, 0))", "m.cat([x])",
    "x.sum()", "x + 0", "m.clamp(x, -9, 9)", "m.relu(x)", "m.where(x < 9, x, 0)",
]  # fmt: skip


@given(st.sampled_from(USES), st.sampled_from(["y * y", "y * 2", "y + c", "m.exp(y)", "y"]), SEEDS)
def test_a_step_in_place_changes_no_gradient_unnoticed(use, then, seed):
    """Not of a graph made before, which is refused; nor what was handed out; nor the array a tensor was made of."""
    array, c = normal(seed, (3, 3), ())
    before = array.copy()
    x = ag.tensor(array, requires_grad=True)
    y = eval(then, {"m": ag, "y": eval(use, {"m": ag, "x": x}), "c": c})
    (g,) = normal(seed + 1, y.shape)
    y.backward(g, retain_graph=True)
    kept = x.grad.copy()
    g += 1.0
    np.testing.assert_array_equal(x.grad, kept)
    x.assign(x.data - 0.1 * x.grad)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(x.grad, kept)
    with np.testing.assert_raises_regex(RuntimeError, "was modified in place after"):
        y.backward(g)


@given(st.sampled_from(USES), SEEDS)
def test_gradients_of_a_pullback_are_arrays_of_the_caller(use, seed):
    x, w = normal(seed, (3, 3), (3, 3))
    y, pullback = ag.vjp(lambda x, w: eval(use, {"m": ag, "x": x}) + (w * 0).sum() + w.sum(), x, w)
    (g,) = normal(seed, y.shape)
    first, kept = pullback(g), [d.copy() for d in pullback(g)]
    for d in first:
        d *= 2.0  # in place: writeable, and not the other one, nor g
    for d, e in zip(pullback(g), kept):
        np.testing.assert_array_equal(d, e)
    for d, e in zip(first, kept):
        np.testing.assert_array_equal(d, 2.0 * e)
    g *= -3.0  # the same array with other numbers
    for d, e in zip(pullback(g), kept):
        np.testing.assert_allclose(d, -3.0 * e, rtol=1e-13)


@settings(max_examples=20)
@given(st.data(), SEEDS)
def test_the_layout_of_an_array_in_memory_does_not_matter(data, seed):
    x, w = normal(seed, (2, 4, 6, 6), (4, 2, 3, 3))
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1])] * 4))
    x = np.asfortranarray(x) if data.draw(st.booleans()) else x.transpose(0, 1, 3, 2)
    strided = x[tuple(slice(None, None, s) for s in (steps[0], 1, *steps[2:]))]
    name = data.draw(st.sampled_from(["conv2d", "max_pool2d", "avg_pool2d", "layer_norm", "matmul", "linear"]))
    f = {
        "conv2d": lambda x, w: ag.conv2d(x, w, padding=1, groups=2),
        "max_pool2d": lambda x, w: ag.max_pool2d(x, 2, 1, 1),
        "avg_pool2d": lambda x, w: ag.avg_pool2d(x, 2, 1, 1),
        "layer_norm": lambda x, w: ag.layer_norm(x, x.shape[-1]),
        "matmul": lambda x, w: ag.matmul(x, x.mT),
        "linear": lambda x, w: ag.linear(x, x[0, 0]),
    }[name]
    outcomes = []
    for a in (strided, np.ascontiguousarray(strided)):
        a.flags.writeable = False
        y, pullback = ag.vjp(f, a, w)
        (g,) = normal(seed, y.shape)
        outcomes.append([y, *pullback(g), *pullback(np.asfortranarray(g)), ag.jvp(f, (a, w), (a, w))[1]])
    for here, there in zip(*outcomes):
        np.testing.assert_allclose(here, there, rtol=1e-12, atol=1e-12)
