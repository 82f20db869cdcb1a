"""Rules by torch's own kernels, for operations whose general rule would be slower on torch tensors.

They call the same kernels as torch.autograd, forward and backward, without it. The kernels sum half-precision numbers
in float32; the cross-entropy of half-precision logits is a float32 number.
"""

import math

import torch

from allgrad.autograd.arrays import OuterProduct, RowSum
from allgrad.autograd.engine import Tensor, shared
from allgrad.autograd.on_torch.namespace import TENSORS
from allgrad.autograd.ops import activations, convolution, elementwise, indexing, linalg, losses, normalization, pooling

aten = torch.ops.aten
IGNORED = -100  # the label that counts for nothing
# (elements that logits may have before they are computed in chunks, elements of a chunk)
ON_CPU, ON_DEVICE = (1 << 22, 1 << 18), (1 << 25, 1 << 25)
MEAN_SUM_NONE = {"none": 0, "mean": 1, "sum": 2}  # how the kernels of losses number them


def torch_rule(operation):
    """Decorator of a rule: the operation, a primitive, computes by it whenever its first argument is a torch tensor.

    The rule has the arguments and vjps of the operation's own, which stays in force for other arrays and inside nested
    derivatives: this one need not work on Tensors. It returns NotImplemented where torch has no kernel. Either is given
    gradients in the dtype of its value: where float32 met half precision they arrive in float32, and kernels refuse it.
    """

    def register(rule):
        operation.wrap_rule(lambda usual: _chosen(rule, usual))
        return rule

    return register


def _chosen(rule, usual):
    """The rule for torch tensors, or the usual one for other arrays and if a Tensor is among the arguments."""

    def chosen(*args, **static):
        if type(args[0]) not in TENSORS or Tensor in map(type, args):
            return usual(*args, **static)
        found = rule(*args, **static)
        if found is NotImplemented:
            value, *vjps = usual(*args, **static)
            return value, *[in_dtype(value.dtype, vjp) for vjp in vjps]
        value, *vjps = found
        return value, *[guarded(value.dtype, vjp, i, args, static) for i, vjp in enumerate(vjps, 1)]

    def in_dtype(dtype, vjp):
        """The vjp of gradients in the dtype of the value."""
        return lambda g: vjp(g if type(g) is Tensor or g.dtype is dtype else g.to(dtype))

    def guarded(dtype, vjp, i, args, static):
        """`in_dtype`, or the vjp of the usual rule if g is a Tensor, because the walk is itself being recorded."""

        def pull_back(g):
            if type(g) is Tensor:
                return usual(*[Tensor(x) if type(x) in TENSORS else x for x in args], **static)[i](g)
            return vjp(g if g.dtype is dtype else g.to(dtype))

        return pull_back

    return chosen


# --- elementwise -----------------------------------------------------------------------------------------------


@torch_rule(activations.relu)
def relu(a):
    y = torch.relu(a)
    return y, lambda g: aten.threshold_backward.default(g, y, 0)


@torch_rule(activations._gelu)
def gelu(a):
    return aten.gelu.default(a), lambda g: aten.gelu_backward.default(g, a)


@torch_rule(activations._gelu_tanh)
def gelu_tanh(a):
    return aten.gelu.default(a, approximate="tanh"), lambda g: aten.gelu_backward.default(g, a, approximate="tanh")


@torch_rule(activations.silu)
def silu(a):
    return aten.silu.default(a), lambda g: aten.silu_backward.default(g, a)


@torch_rule(activations.sigmoid)
def sigmoid(a):
    y = torch.sigmoid(a)
    return y, lambda g: aten.sigmoid_backward.default(g, y)


@torch_rule(elementwise.tanh)
def tanh(a):
    y = torch.tanh(a)
    return y, lambda g: aten.tanh_backward.default(g, y)


@torch_rule(activations._softmax)
def softmax(a, *, axis):
    y = aten._softmax.default(a, axis, False)
    return y, lambda g: aten._softmax_backward_data.default(g, y, axis, a.dtype)


@torch_rule(activations._log_softmax)
def log_softmax(a, *, axis):
    y = aten._log_softmax.default(a, axis, False)
    return y, lambda g: aten._log_softmax_backward_data.default(g, y, axis, a.dtype)


# --- linear maps -----------------------------------------------------------------------------------------------


@torch_rule(linalg.linear)
def linear(x, weight, bias=None):
    if weight.ndim != 2:
        raise ValueError("the weight (out, in)")
    y = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]) if x.ndim == 1 else x, weight, bias)
    y = y.reshape(-1) if x.ndim == 1 else y
    by_bias = RowSum if x.dtype.itemsize == 2 and not x.is_cpu else lambda rows: rows.sum(0)
    by_x = lambda g: g @ weight if g.ndim > 1 else weight.mT @ g
    return y, by_x, lambda g: OuterProduct(_rows(x), _rows(g)), lambda g: by_bias(_rows(g))


def _rows(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


for product in (linalg.matmul, linalg._einsum):
    torch_rule(product)(lambda *args, **static: NotImplemented)  # for the dtype of gradients alone


@torch_rule(indexing._embedding)
def embedding(w, *, indices, padding):
    padding = -1 if padding is None else padding % len(w)
    back = aten.embedding_dense_backward.default
    return torch.embedding(w, indices), lambda g: back(g, indices, len(w), padding, False)


@torch_rule(convolution._conv2d)
def conv2d(x, w, bias, *, windows, groups):
    image, padding = _reached(x, windows)
    if _with_channels_innermost(image):
        image = image.contiguous(memory_format=torch.channels_last)
    options = windows.stride, padding, windows.dilation, False, (0, 0), groups

    def by_weight_and_bias(g):
        sizes = None if bias is None else bias.shape
        return aten.convolution_backward.default(g, image, w, sizes, *options, (False, True, bias is not None))[1:]

    return (
        torch.convolution(image, w, bias, *options),
        lambda g: _cropped(_convolution_backward(g, image, w, options, 0), windows),
        *shared(by_weight_and_bias, 2),
    )


def _with_channels_innermost(x):
    """Whether kernels are faster on images in this order, which what follows keeps: a CPU's, and tensor cores'."""
    return x.is_cpu or x.dtype.itemsize == 2 or (x.dtype is torch.float32 and torch.backends.cudnn.allow_tf32)


@torch_rule(convolution._conv_transpose2d)
def conv_transpose2d(g, w, bias, *, windows, groups):
    image, padding = _padded(g.new_empty((len(g), w.shape[1] * groups, *windows.size)), windows)
    sides = zip(image.shape[2:], g.shape[2:], windows.kernel, windows.stride, windows.dilation, padding)
    extra = [size - ((n - 1) * s - 2 * p + d * (k - 1) + 1) for size, n, k, s, d, p in sides]
    options = windows.stride, padding, windows.dilation, True, extra, groups
    return (
        _cropped(torch.convolution(g, w, bias, *options), windows),
        lambda x: _convolution_backward(_padded(x, windows)[0], g, w, options, 0),
        lambda x: _convolution_backward(_padded(x, windows)[0], g, w, options, 1),
        lambda x: x.sum((0, 2, 3)),
    )


@torch_rule(convolution._conv2d_by_weight)
def conv2d_by_weight(g, x, *, windows, groups):
    image, padding = _reached(x, windows)
    options = windows.stride, padding, windows.dilation, False, (0, 0), groups
    like = g.new_empty((g.shape[1], x.shape[1] // groups, *windows.kernel))
    return (
        _convolution_backward(g, image, like, options, 1),
        lambda w: torch.convolution(image, w, None, *options),
        lambda w: _cropped(_convolution_backward(g, image, w, options, 0), windows),
    )


def _convolution_backward(g, x, w, options, i):
    """The gradient of a convolution by its input (i = 0) or by the weight (i = 1)."""
    return aten.convolution_backward.default(g, x, w, None, *options, (i == 0, i == 1, False))[i]


def _padded(x, windows, value=0.0):
    """The image and the padding that the kernel adds: all of it if both sides are alike, else it is added here."""
    if all(before == after for before, after in windows.padding):
        return x, windows.before
    return windows.pad(x, value), (0, 0)


def _reached(x, windows):
    """`_padded`; where more windows would fit than these, the image without the elements that none reaches."""
    whole = [n + sum(p) for n, p in zip(windows.size, windows.padding)]
    if all(n - reach < s for n, reach, s in zip(whole, windows.reach, windows.stride)):
        return _padded(x, windows)
    rows, columns = windows.reach
    return windows.pad(x)[..., :rows, :columns], (0, 0)


def _cropped(x, windows):
    """The image as it was before `_padded` or `_reached`: without padding, and with what they left out."""
    if tuple(x.shape[-2:]) == windows.size:
        return x
    rows, columns = (n + sum(p) for n, p in zip(windows.size, windows.padding))
    missing = rows - x.shape[-2], columns - x.shape[-1]
    return windows.crop(torch.nn.functional.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x)


@torch_rule(pooling._max_pool)
def max_pool(x, *, windows):
    if windows.hollow:  # windows without an element of the image, for which the kernel writes out of bounds
        y, places = pooling._largest(x, windows)
        return y, lambda g: pooling._put(g, windows, places)
    image, padding = _padded(x, windows, pooling.lowest(x))
    options = (windows.kernel, windows.stride, padding, windows.dilation, False)
    y, places = aten.max_pool2d_with_indices.default(image, *options)

    def vjp(g):
        return _cropped(aten.max_pool2d_with_indices_backward.default(g, image, *options, places), windows)

    return y, vjp


@torch_rule(pooling._sum_pool)
def sum_pool(x, *, windows):
    image, padding = _padded(x, windows)
    options = (windows.kernel, windows.stride, padding, False, True, 1)

    def vjp(g):
        return _cropped(aten.avg_pool2d_backward.default(g, image, *options), windows)

    return aten.avg_pool2d.default(image, *options), vjp


# --- normalisation ---------------------------------------------------------------------------------------------


@torch_rule(normalization._batch_norm)
def batch_norm(x, weight, bias, *, eps, moments):
    y, mean, r = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    if moments is not None:
        moments(mean, r**-2.0 - eps)

    def pullback(g):
        options = (mean, r, True, eps, (True, weight is not None, bias is not None))
        return aten.native_batch_norm_backward.default(g, x, weight, None, None, *options)

    return y, *shared(pullback, 3)


@torch_rule(normalization._layer_norm)
def layer_norm(x, weight, bias, *, shape, eps):
    y, mean, r = torch.native_layer_norm(x, shape, weight, bias, eps)

    def pullback(g):
        mask = (True, weight is not None, bias is not None)
        return aten.native_layer_norm_backward.default(g, x, shape, mean, r, weight, bias, mask)

    return y, *shared(pullback, 3)


# --- losses ----------------------------------------------------------------------------------------------------


@torch_rule(losses._softmax_cross_entropy)
def softmax_cross_entropy(z, *, labels, reduction):
    if z.numel() > (ON_CPU if z.is_cpu else ON_DEVICE)[0]:
        return _cross_entropy_in_chunks(z, labels, reduction)
    p = aten._log_softmax.default(z.float() if z.dtype.itemsize < 4 else z, 1, False)
    options = (labels, None, MEAN_SUM_NONE[reduction], IGNORED)
    try:
        loss, total = aten.nll_loss_forward.default(p, *options)
    except IndexError:
        raise losses._first_unknown("cross_entropy", labels, z.shape[1]) from None

    def vjp(g):
        d = aten.nll_loss_backward.default(g, p, *options, total)
        return aten._log_softmax_backward_data.default(d, p, 1, p.dtype).to(z.dtype)

    return loss, vjp


def _cross_entropy_in_chunks(z, labels, reduction):
    """The same in chunks of rows: beside the logits there are their gradient and a chunk of log-probabilities.

    They are computed again for the gradient. So no array of float32 is as large as the logits of half precision.
    """
    rows = max(1, (ON_CPU if z.is_cpu else ON_DEVICE)[1] // z.shape[1])
    dtype = torch.float32 if z.dtype.itemsize < 4 else z.dtype

    def chunks():
        """Slices of the rows, their log-probabilities and as much memory again."""
        memory = z.new_empty((2, rows, z.shape[1]), dtype=dtype)
        for start in range(0, len(z), rows):
            part = z[start : start + rows]
            p, d = memory[:, : len(part)]
            aten._log_softmax.out(part.to(dtype), 1, False, out=p)
            yield slice(start, start + rows), p, d

    loss = z.new_empty(len(z), dtype=dtype)
    for here, p, _ in chunks():
        loss[here] = aten.nll_loss_forward.default(p, labels[here], None, MEAN_SUM_NONE["none"], IGNORED)[0]
    total = (labels != IGNORED).sum().to(dtype)

    def vjp(g):
        g, by_logits = g / total if reduction == "mean" else g, torch.empty_like(z)
        kind = MEAN_SUM_NONE["none" if reduction == "none" else "sum"]
        for here, p, d in chunks():
            by_loss = g[here] if reduction == "none" else g
            aten.nll_loss_backward.grad_input(by_loss, p, labels[here], None, kind, IGNORED, total, grad_input=d)
            by_logits[here] = aten._log_softmax_backward_data.default(d, p, 1, dtype)
        return by_logits

    return (loss.sum() / total if reduction == "mean" else loss.sum() if reduction == "sum" else loss), vjp
