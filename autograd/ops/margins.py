"""Losses of pairs and triplets, of margins and of counts; each is composed of simpler operations.

`reduction` is "mean" (over all elements), "sum" or "none", as in `losses`.
"""

import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import cast_like, counted, integers, kind, to_numpy
from allgrad.autograd.engine import constant, shape_of, unwrap
from allgrad.autograd.ops.activations import softplus
from allgrad.autograd.ops.elementwise import clamp, exp, log, minimum, sqrt, where
from allgrad.autograd.ops.indexing import take_along_dim
from allgrad.autograd.ops.losses import (
    _check_reduction,
    _check_same_shape,
    _reduce_and_mark,
    binary_cross_entropy_with_logits,
    huber_loss,
    l1_loss,
)
from allgrad.autograd.ops.reductions import norm
from allgrad.autograd.ops.shapes import broadcast_to

SMALLEST_SQUARE = 1e-12  # added to squared lengths whose root is divided by


def smooth_l1_loss(prediction, target, reduction="mean", beta=1.0):
    """d^2 / (2 beta) where |d| = |prediction - target| is below beta, |d| - beta / 2 beyond. Girshick 2015.

    beta = 0 is `l1_loss`; ValueError below 0.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta must be at least 0, got {beta}")
    if beta == 0:
        return l1_loss(prediction, target, reduction)
    return huber_loss(prediction, target, reduction, beta) / beta


def soft_margin_loss(prediction, target, reduction="mean"):
    """log(1 + exp(-target * prediction)), elementwise; target is 1 or -1, both of one shape."""
    _check_same_shape("soft_margin_loss", prediction, target)
    return _reduce_and_mark(
        softplus(-(target * prediction), threshold=40.0), _check_reduction("soft_margin_loss", reduction)
    )


def hinge_embedding_loss(distance, target, margin=1.0, reduction="mean"):
    """The distance where target is 1, max(0, margin - distance) where it is -1, elementwise; both of one shape."""
    _check_same_shape("hinge_embedding_loss", distance, target)
    t = unwrap(target)
    loss = where(t != -1, distance, 0.0) + where(t != 1, clamp(margin - distance, min=0.0), 0.0)
    return _reduce_and_mark(loss, _check_reduction("hinge_embedding_loss", reduction))


def margin_ranking_loss(input1, input2, target, margin=0.0, reduction="mean"):
    """max(0, margin - target (input1 - input2)): target 1 says that input1 is to be the larger, -1 that input2 is."""
    shapes = [shape_of(x) for x in (input1, input2, target)]
    if len({*map(len, shapes)}) > 1:
        raise ValueError(f"margin_ranking_loss: both inputs and the target have as many axes, got {shapes}")
    loss = clamp(margin - target * (input1 - input2), min=0.0)
    return _reduce_and_mark(loss, _check_reduction("margin_ranking_loss", reduction))


def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdim=False):
    """The p-norm of x1 - x2 + eps along the last axis: (..., D) and (..., D), which broadcast, give (...)."""
    return norm(x1 - x2 + eps, p, -1, keepdim)


def cosine_similarity(x1, x2, dim=1, eps=1e-8):
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along an axis of both, which broadcast; the axis vanishes."""
    shape = np.broadcast_shapes(shape_of(x1), shape_of(x2))
    x1, x2 = broadcast_to(x1, shape), broadcast_to(x2, shape)  # first: the length is that of what is multiplied
    lengths = [clamp(norm(x, 2.0, dim, True), min=eps) for x in (x1, x2)]
    return ((x1 / lengths[0]) * (x2 / lengths[1])).sum(dim)


def cosine_embedding_loss(input1, input2, target, margin=0.0, reduction="mean"):
    """1 - cos(input1, input2) where target is 1, max(0, cos(input1, input2) - margin) where it is -1.

    Inputs (N, D) or (D,), of one shape; target (N,) or ().
    """
    a, b, t = (shape_of(x) for x in (input1, input2, target))
    if a != b or len(a) not in (1, 2) or t != a[:-1]:
        raise ValueError(f"cosine_embedding_loss: inputs are (N, D) and target (N,), or (D,) and (), got {a}, {b}, {t}")
    squares = [(x * x).sum(-1) + SMALLEST_SQUARE for x in (input1, input2)]
    cosine = (input1 * input2).sum(-1) / sqrt(squares[0] * squares[1])
    t = unwrap(target)
    loss = where(t == 1, 1.0 - cosine, 0.0) + where(t == -1, clamp(cosine - margin, min=0.0), 0.0)
    return _reduce_and_mark(loss, _check_reduction("cosine_embedding_loss", reduction))


def triplet_margin_loss(
    anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean", distance_function=None
):
    """max(0, margin + d(anchor, positive) - d(anchor, negative)), with d of `pairwise_distance` unless given.

    All (N, D) or (D,). swap uses d(positive, negative) where it is the smaller (Balntas et al. 2016).
    """
    name, shapes = "triplet_margin_loss", [shape_of(x) for x in (anchor, positive, negative)]
    if len({*map(len, shapes)}) > 1 or not margin > 0:
        raise ValueError(f"{name}: three inputs of as many axes and a margin above 0, got {shapes} and {margin}")
    distance = distance_function or (lambda x, y: pairwise_distance(x, y, p, eps))
    near, far = distance(anchor, positive), distance(anchor, negative)
    far = minimum(far, distance(positive, negative)) if swap else far
    return _reduce_and_mark(clamp(margin + near - far, min=0.0), _check_reduction(name, reduction))


def poisson_nll_loss(prediction, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
    """Negative log-likelihood of counts under Poisson's law of rate exp(prediction), or prediction without log_input.

    Without the constant log(target!), which `full` adds in Stirling's approximation. Both of one shape; eps keeps the
    logarithm of a rate of 0 finite.
    """
    _check_same_shape("poisson_nll_loss", prediction, target)
    rate, log_rate = (exp(prediction), prediction) if log_input else (prediction, log(prediction + eps))
    loss = rate - target * log_rate
    if full:
        t = where(unwrap(target) > 1, target, 1.0)
        stirling = t * log(t) - t + 0.5 * log(2.0 * math.pi * t)
        loss = loss + where(unwrap(target) > 1, stirling, 0.0)
    return _reduce_and_mark(loss, _check_reduction("poisson_nll_loss", reduction))


def gaussian_nll_loss(prediction, target, var, full=False, eps=1e-6, reduction="mean"):
    """(log var + (prediction - target)^2 / var) / 2, elementwise: a Gaussian of this mean and variance.

    var: a number, or of a shape that broadcasts to that of both others or lacks the last axis of it; at least eps is
    used, and the gradient does not see that. `full` adds log(2 pi) / 2. ValueError if one is negative.
    """
    name = "gaussian_nll_loss"
    _check_same_shape(name, prediction, target)
    var = cast_like(var, unwrap(prediction)) if isinstance(var, (int, float)) else var
    shape, given = shape_of(prediction), shape_of(var)
    v: Any = unwrap(var)
    if given and given == shape[:-1]:
        var = var.reshape(*given, 1)
    elif len(given) > len(shape) or any(n not in (1, m) for n, m in zip(given[::-1], shape[::-1])):
        raise ValueError(f"{name}: var broadcasts to the shape {shape}, or lacks its last axis, got {given}")
    if np.any(to_numpy(v < 0)):
        raise ValueError(f"{name}: a variance is at least 0, got {v.min()}")
    var = var + (clamp(unwrap(var), min=eps) - unwrap(var)).detach()  # what is missing up to eps is a constant
    d = prediction - target
    loss = 0.5 * (log(var) + d * d / var)
    return _reduce_and_mark(loss + 0.5 * math.log(2.0 * math.pi) if full else loss, _check_reduction(name, reduction))


def multi_margin_loss(prediction, target, p=1, margin=1.0, weight=None, reduction="mean"):
    """Mean over the wrong classes of max(0, margin - prediction[y] + prediction[i])^p, for p = 1 or 2.

    prediction (N, C) or (C,), target integer labels y (N,) or (); weight (C,) multiplies the loss of each class.
    """
    name, shape = "multi_margin_loss", shape_of(prediction)
    t = integers(unwrap(target), unwrap(prediction))
    if p not in (1, 2) or len(shape) not in (1, 2) or tuple(t.shape) != shape[:-1] or kind(t.dtype) not in "iu":
        seen = f"p = {p}, {shape} and {t.dtype} of shape {tuple(t.shape)}"
        raise ValueError(f"{name}: needs p = 1 or 2, predictions (N, C) and integer labels (N,), got {seen}")
    at = t[..., None]
    over = clamp(margin - take_along_dim(prediction, at, -1) + prediction, min=0.0)
    over = over if p == 1 else over * over
    if weight is not None:
        over = over * cast_like(constant(weight, f"{name}: weight"), unwrap(prediction))[t][..., None]
    classes = counted(shape[-1], t)
    return _reduce_and_mark(where(classes == at, 0.0, over).sum(-1) / shape[-1], _check_reduction(name, reduction))


def multilabel_soft_margin_loss(prediction, target, weight=None, reduction="mean"):
    """Mean over the classes of the binary cross-entropy; logits (N, C) or (C,) and targets of 0 and 1, of one shape."""
    loss = binary_cross_entropy_with_logits(prediction, target, "none", weight)
    return _reduce_and_mark(loss.mean(-1), _check_reduction("multilabel_soft_margin_loss", reduction))
