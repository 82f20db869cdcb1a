"""Losses. `reduction` is "mean" (over all elements), "sum" or "none" (one number for each element), as in torch.

A mean has the mark `mean_of` (see `engine.is_mean_of`): the number of terms, or the sum of their weights where labels
are ignored or classes weighted. The mean of no terms is nan, with gradients of zero.

Wrong shapes and labels that are no class raise ValueError. Targets of classes are integers; all other arguments are
tensors, arrays or numbers, and gradients flow to those that require them.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from allgrad.autograd.arrays import (
    NUMPY_TYPES,
    as_operand,
    astype,
    cast_like,
    integers,
    kind,
    logistic,
    maxima_of_rows,
    namespace,
    on_cpu,
    ones,
    to_backend_of,
    to_numpy,
    xp,
)
from allgrad.autograd.engine import (
    Tensor,
    constant,
    is_mean_of,
    number,
    primitive,
    reference_array,
    shape_of,
    unfused,
    unwrap,
)
from allgrad.autograd.ops.activations import log_softmax, softplus
from allgrad.autograd.ops.conversions import cast
from allgrad.autograd.ops.elementwise import abs, exp, log, mul, sub, where
from allgrad.autograd.ops.indexing import take_along_dim
from allgrad.autograd.ops.labels import not_a_class, safe_labels, spoil
from allgrad.autograd.ops.reductions import logsumexp
from allgrad.autograd.ops.shapes import squeeze


def _check_reduction(name, reduction):
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{name}: reduction is "mean", "sum" or "none", got {reduction!r}')
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        if loss.dtype.itemsize == 2:  # whose sum may be too large for half precision
            return loss.mean()
        return loss.sum() * _part_of_mean(math.prod(loss.shape))
    return loss.sum() if reduction == "sum" else loss


def _reduce_and_mark(loss, reduction):
    found = _reduce(loss, reduction)
    return is_mean_of(loss.size, found) if reduction == "mean" else found


def _part_of_mean(count):
    """What each of so many terms counts for in their mean."""
    return 1.0 / count if count else math.nan


def _weighted_mean(loss, weights):
    """The sum of weighted losses, divided by that of the weights."""
    weight = weights.sum()
    n = xp[type(weight)]
    nothing = weight == 0
    divisor, missing = (astype(n.where(nothing, *x), loss.dtype) for x in ((1, weight), (math.nan, 0.0)))
    return is_mean_of(weight, loss.sum() / divisor + missing)


def _check_same_shape(name, prediction, target):
    a, b = shape_of(prediction), shape_of(target)
    if a != b:
        raise ValueError(f"{name}: shapes {a} and {b} differ, and broadcasting them would average over wrong pairs")


def mse_loss(prediction, target, reduction="mean"):
    """Squared error (prediction - target)**2, elementwise; both of one shape."""
    _check_same_shape("mse_loss", prediction, target)
    loss = _squared_error(prediction, target, reduction=_check_reduction("mse_loss", reduction))
    return is_mean_of(math.prod(shape_of(prediction)), loss) if reduction == "mean" else loss


@primitive
def _squared_error(a, b, *, reduction):
    d = a - b
    scale = 2.0 * _part_of_mean(math.prod(d.shape)) if reduction == "mean" else 2.0
    return _reduce(d * d, reduction), lambda g: d * (g * scale), lambda g: d * (g * -scale)


def l1_loss(prediction, target, reduction="mean"):
    """|prediction - target|, elementwise; both of one shape."""
    _check_same_shape("l1_loss", prediction, target)
    return _reduce_and_mark(abs(sub(prediction, target)), _check_reduction("l1_loss", reduction))


def huber_loss(prediction, target, reduction="mean", delta=1.0):
    """d^2 / 2 where |d| = |prediction - target| is at most delta, delta (|d| - delta / 2) beyond. Huber 1964."""
    _check_same_shape("huber_loss", prediction, target)
    delta = number(delta, "huber_loss: delta")
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be above 0, got {delta}")
    return _reduce_and_mark(_huber(sub(prediction, target), delta=delta), _check_reduction("huber_loss", reduction))


@primitive
def _huber(d, *, delta):
    n = namespace(d)
    near = n.clip(d, -delta, delta)
    return near * (d - 0.5 * near), lambda g: g * n.where(n.abs(d) < delta, d, delta * n.sign(d))


def nll_loss(log_probabilities, target, weight=None, ignore_index=-100, reduction="mean"):
    """-log_probabilities at the target class, times the class's weight; (N, C, ...) with labels (N, ...).

    Labels equal to ignore_index count for nothing. The mean divides by the sum of the weights that count.
    """
    _check_reduction("nll_loss", reduction)
    z, t = log_probabilities, integers(unwrap(target), unwrap(log_probabilities))
    _check_labels("nll_loss", z.shape, t)
    if weight is not None:
        _check_weight("nll_loss", weight, z.shape)
    classes = 1 if len(z.shape) > 1 else 0
    counts = t != ignore_index
    labels = xp[type(t)].where(counts, t, 0)
    if not on_cpu(t):
        labels, off = safe_labels("nll_loss", labels, z.shape[classes], ignore_index)
    elif math.prod(t.shape) and (labels.min() < 0 or labels.max() >= z.shape[classes]):
        raise _first_unknown("nll_loss", labels.reshape(-1), z.shape[classes])
    at = labels.reshape(*labels.shape[:classes], 1, *labels.shape[classes:])
    picked = squeeze(take_along_dim(z, at, classes), classes)
    loss = _of_counted(-picked, labels, counts, weight, reduction)
    return loss if on_cpu(t) else _spoiled(loss, off)


def _spoiled(loss, off):
    """`spoil`, which leaves the mark of a mean."""
    found = spoil(loss, off=off)
    return is_mean_of(loss.mean_of, found) if hasattr(loss, "mean_of") else found


def _weights(weight, labels, loss):
    """The weights of the labels' classes, in the dtype of the losses."""
    return unwrap(Tensor(cast_like(unwrap(weight), unwrap(loss)))[labels])  # by an operation, which `capture` sees


def _of_counted(loss, labels, counts, weight, reduction):
    """The losses of the labels that count, times their classes' weights, reduced."""
    loss = where(counts, loss, 0.0)
    if weight is not None:
        counts = _weights(weight, labels, loss) * counts
        loss = loss * counts
    return _weighted_mean(loss, counts) if reduction == "mean" else _reduce(loss, reduction)


def kl_div(log_probabilities, target, reduction="mean", log_target=False):
    """Kullback-Leibler divergence target (log target - log_probabilities), elementwise; both of one shape.

    With log_target the target is given by its logarithm. reduction is also "batchmean": the sum divided by the length
    of the first axis.
    """
    if log_target:
        loss = exp(target) * (target - log_probabilities)
    else:
        loss = target * log(where(unwrap(target) > 0, target, 1.0)) - target * log_probabilities
    if reduction == "batchmean":
        return is_mean_of(rows := log_probabilities.shape[0], loss.sum() / rows)
    return _reduce_and_mark(loss, _check_reduction("kl_div", reduction))


def cross_entropy(logits, target, reduction="mean", weight=None, ignore_index=-100, label_smoothing=0.0):
    """Negative log-likelihood of the target under softmax(logits).

    logits (N, C), (C,) or (N, C, d1, ...); target either integer labels of shape (N,), () or (N, d1, ...) with values
    0 .. C-1, or probabilities of the shape of the logits. weight (C,) multiplies the loss of each class; labels equal
    to ignore_index count for nothing; label_smoothing s mixes the target with s / C for every class (Szegedy et al.
    2016). The mean divides by the sum of the labels' weights; that of probabilities by the number of their rows.
    """
    _check_reduction("cross_entropy", reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing is in [0, 1], got {label_smoothing}")
    z = logits if type(logits) is Tensor else Tensor(as_operand(logits, "cross_entropy"))
    t = integers(unwrap(target), unwrap(z))
    if weight is not None:
        _check_weight("cross_entropy", weight, z.shape)
    if kind(t.dtype) in "fc":
        return _cross_entropy_with_probabilities(z, target, reduction, weight, label_smoothing)
    shape = z.shape
    _check_labels("cross_entropy", shape, t)
    if on_cpu(t):
        return _cross_entropy_with_labels(z, t, reduction, weight, ignore_index, label_smoothing)
    t, off = safe_labels("cross_entropy", t, shape[1 if len(shape) > 1 else 0], ignore_index)
    return _spoiled(_cross_entropy_with_labels(z, t, reduction, weight, ignore_index, label_smoothing), off)


def _cross_entropy_with_labels(z, t, reduction, weight, ignore_index, label_smoothing):
    shape = z.shape
    if weight is not None or label_smoothing or ignore_index >= 0:
        return _cross_entropy_of_counted(z, t, reduction, weight, ignore_index, label_smoothing)
    weight_of_mean: Any = math.prod(t.shape)
    if on_cpu(t):
        numbers, classes = astype(to_numpy(t), np.int64), shape[1 if len(shape) > 1 else 0]
        if np.maximum.reduce(numbers.view(np.uint64), axis=None, initial=0) >= classes:  # or negative
            if np.minimum.reduce(numbers, axis=None) == ignore_index:
                return _cross_entropy_of_counted(z, t, reduction, weight, ignore_index, label_smoothing)
            raise _first_unknown("cross_entropy", t.reshape(-1), classes)
        t = numbers if type(t) in NUMPY_TYPES else t
    elif ignore_index != -100:
        return _cross_entropy_of_counted(z, t, reduction, weight, ignore_index, label_smoothing)
    else:  # torch's kernel ignores these labels by itself
        weight_of_mean = (t != ignore_index).sum()
    loss = _cross_entropy_of_rows(z, t, reduction)
    return is_mean_of(weight_of_mean, loss) if reduction == "mean" else loss


def _cross_entropy_of_rows(z, t, reduction):
    shape = z.shape
    if len(shape) == 2:
        return _softmax_cross_entropy(z, labels=t, reduction=reduction)
    z = z.reshape(1, -1) if len(shape) == 1 else z.permute(0, *range(2, len(shape)), 1).reshape(-1, shape[1])
    loss = _softmax_cross_entropy(z, labels=t.reshape(-1), reduction=reduction)
    return loss.reshape(t.shape) if reduction == "none" else loss


def _check_weight(name, weight, shape):
    constant(weight, f"{name}: weight")
    classes = tuple(shape[1:2] if len(shape) > 1 else shape)
    if shape_of(weight) != classes:
        raise ValueError(f"{name}: weight has one number for each class, {classes}, got {shape_of(weight)}")


def _check_labels(name, shape, t):
    wanted = shape[:-1] if len(shape) < 3 else shape[:1] + shape[2:]
    if not shape or t.shape != wanted or kind(t.dtype) not in "iu":
        needed = f"integer labels of shape {tuple(wanted)} or probabilities of shape {tuple(shape)}"
        raise ValueError(f"{name}: logits {tuple(shape)} need {needed}, got {t.dtype} of shape {tuple(t.shape)}")


def _cross_entropy_of_counted(z, t, reduction, weight, ignore_index, smoothing):
    """`cross_entropy` for class weights, ignored labels and label smoothing."""
    counts = t != ignore_index
    labels = xp[type(t)].where(counts, t, 0)
    classes = 1 if z.ndim > 1 else 0
    if on_cpu(t) and math.prod(t.shape) and (labels.min() < 0 or labels.max() >= z.shape[classes]):
        raise _first_unknown("cross_entropy", labels.reshape(-1), z.shape[classes])
    loss = _cross_entropy_of_rows(z, labels, "none")
    if not smoothing:
        return _of_counted(loss, labels, counts, weight, reduction)
    log_p, weights = log_softmax(cast(z, loss.dtype), classes), counts
    if weight is not None:
        log_p = log_p * cast_like(unwrap(weight), unwrap(loss)).reshape(-1, *(1,) * (z.ndim - classes - 1))
        loss, weights = loss * (of_labels := _weights(weight, labels, loss)), of_labels * counts
    uniform = -log_p.sum(classes)
    loss = where(counts, (1.0 - smoothing) * loss + (smoothing / z.shape[classes]) * uniform, 0.0)
    if reduction != "mean":
        return _reduce(loss, reduction)
    return _weighted_mean(loss, weights)


@lru_cache
def _starts(rows, length):
    """Where the rows of a matrix start in its flat form."""
    return np.arange(0, rows * length, length)


@primitive
def _softmax_cross_entropy(z, *, labels, reduction):  # z (N, C), labels (N,)
    n, classes = z.shape
    if type(z) is Tensor:
        return unfused(lambda z: _reduce(logsumexp(z, 1) - z[np.arange(n), labels], reduction), z)
    z = np.subtract(z, maxima_of_rows(z), order="C")
    at = _starts(n, classes) + labels  # in the flat z
    e = np.exp(z)
    s = e.dot(ones(classes, e.dtype))
    loss = np.log(s)
    loss -= z.take(at)
    total = loss if reduction == "none" else loss.dot(ones(n, loss.dtype))

    def vjp(g):
        g = g / max(n, 1) if reduction == "mean" else g
        if type(g) is Tensor:  # a pullback of arrays may be given one
            return e * (g / s)[:, None] - (labels[:, None] == np.arange(classes)) * (g[:, None] if g.ndim else g)
        d = e * np.divide(g, s)[:, None]
        d.reshape(-1)[at] -= g
        return d

    return total * _part_of_mean(n) if reduction == "mean" else total, vjp


def _first_unknown(name, labels, classes):
    return not_a_class(name, next(label for label in labels if not 0 <= label < classes), classes)


def _cross_entropy_with_probabilities(z, target, reduction, weight=None, smoothing=0.0):
    if shape_of(target) != z.shape:
        seen = f"cross_entropy: probabilities {shape_of(target)} for logits {shape_of(z)}"
        raise ValueError(f"{seen}: they need the same shape, and labels an integer dtype")
    classes = 1 if z.ndim > 1 else 0
    if smoothing:
        target = target * (1.0 - smoothing) + smoothing / z.shape[classes]
    log_p = log_softmax(z, classes)
    if weight is not None:
        log_p = log_p * to_backend_of(unwrap(weight), unwrap(z)).reshape(-1, *(1,) * (z.ndim - classes - 1))
    return _reduce_and_mark(-mul(log_p, target).sum(classes), reduction)


def binary_cross_entropy(probabilities, target, weight=None, reduction="mean"):
    """-(t log p + (1 - t) log(1 - p)), elementwise, the logarithms limited to -100; both in [0, 1] and of one shape.

    weight multiplies each loss and broadcasts to their shape.
    """
    _check_same_shape("binary_cross_entropy", probabilities, target)
    loss = _binary_cross_entropy_of(probabilities, target)
    if weight is not None:
        loss = mul(loss, cast_like(constant(weight, "binary_cross_entropy: weight"), unwrap(loss)))
    return _reduce_and_mark(loss, _check_reduction("binary_cross_entropy", reduction))


@primitive
def _binary_cross_entropy_of(p, t):
    n = namespace(p, t)
    with np.errstate(divide="ignore"):
        by_one, by_zero = n.clip(n.log(p), -100.0, None), n.clip(n.log1p(-p), -100.0, None)
    nested = type(p) is Tensor or type(t) is Tensor
    y = _binary_cross_entropy_of(p, t) if nested else -(t * by_one + (1.0 - t) * by_zero)
    return y, lambda g: g * ((p - t) / n.maximum(p * (1.0 - p), 1e-12)), lambda g: g * (by_zero - by_one)


def binary_cross_entropy_with_logits(logits, target, reduction="mean", weight=None, pos_weight=None):
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(logits), elementwise and without overflow; t in [0, 1].

    weight multiplies each loss and pos_weight its first term: constants that broadcast to the shape of the logits.
    """
    name, ours, theirs = "binary_cross_entropy_with_logits", shape_of(logits), shape_of(target)
    if ours != theirs:
        raise ValueError(f"{name}: logits {ours} and targets {theirs} must have one shape")
    reduction = _check_reduction(name, reduction)
    if type(target) is not Tensor:
        target = to_backend_of(target, unwrap(logits))
    weight, positive = constant(weight, f"{name}: weight"), constant(pos_weight, f"{name}: pos_weight")
    loss = _binary_cross_entropy(logits, target, reduction=reduction, weight=weight, positive=positive)
    return is_mean_of(math.prod(ours), loss) if reduction == "mean" else loss


@primitive
def _binary_cross_entropy(z, t, *, reduction, weight, positive):
    like = reference_array(z, t)
    w, c = (1.0 if x is None else to_backend_of(x, like) for x in (weight, positive))
    if type(z) is Tensor or type(t) is Tensor:

        def composed(z, t):
            by_one, by_zero = softplus(-z, threshold=40.0), softplus(z, threshold=40.0)
            return _reduce(w * (c * t * by_one + (1.0 - t) * by_zero), reduction)

        return unfused(composed, z, t)
    n = xp[type(like)]
    u = n.log1p(n.exp(-n.abs(z)))
    by_one, by_zero = c * (u + n.maximum(-z, 0.0)), u + n.maximum(z, 0.0)
    loss = w * (t * by_one + (1.0 - t) * by_zero)
    p = logistic(z)
    w = w * _part_of_mean(math.prod(loss.shape)) if reduction == "mean" else w

    def by_logits(g):
        return (p * (1.0 - t + c * t) - c * t) * (w * g)

    return _reduce(loss, reduction), by_logits, lambda g: (by_one - by_zero) * (w * g)
