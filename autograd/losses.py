"""Losses. `reduction` is "mean", "sum" or "none" (one number a sample), as in torch."""

import numpy as np

from autograd.activations import log_softmax, sigmoid
from autograd.core import Tensor, primitive
from autograd.core import innermost as raw
from autograd.kernels import namespace, xp
from autograd.reductions import logsumexp
from autograd.transforms import unfused


def _known(reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction is "mean", "sum" or "none", got {reduction!r}')
    return reduction


def _reduce(loss, reduction):
    if reduction == "mean":
        return loss.sum() * (1.0 / max(loss.size, 1))
    return loss.sum() if reduction == "sum" else loss


def mse_loss(prediction, target, reduction="mean"):
    """Squared error (prediction - target)**2, elementwise; both of one shape."""
    if np.shape(raw(prediction)) != np.shape(raw(target)):
        shapes = f"{np.shape(raw(prediction))} and {np.shape(raw(target))}"
        raise ValueError(f"mse_loss: shapes {shapes} differ, and broadcasting them would average over wrong pairs")
    return _squared_error(prediction, target, reduction=_known(reduction))


@primitive
def _squared_error(a, b, *, reduction):
    d = a - b
    scale = 2.0 / max(d.size, 1) if reduction == "mean" else 2.0
    return _reduce(d * d, reduction), lambda g: d * (g * scale), lambda g: d * (g * -scale)


def cross_entropy(logits, target, reduction="mean"):
    """Negative log-likelihood of the target under softmax(logits).

    logits (N, C), (C,) or (N, C, d1, ...); target either integer labels of shape (N,), () or (N, d1, ...) with values
    0 .. C-1, or probabilities of the shape of the logits. The mean is over labels, or over the places they would have.
    """
    _known(reduction)
    t = raw(target)
    if not hasattr(t, "dtype"):
        t = np.asarray(t)
    if t.dtype.kind in "fc":
        return _cross_entropy_with_probabilities(logits, target, reduction)
    z = logits if type(logits) is Tensor else Tensor(logits)
    shape = z.shape
    if not shape or t.dtype.kind not in "iu" or t.shape != shape[:-1][:1] + shape[2:]:
        raise ValueError(
            f"cross_entropy: logits {shape} need integer labels of shape {shape[:-1][:1] + shape[2:]} or "
            f"probabilities of shape {shape}, got {t.dtype} of shape {t.shape}"
        )
    if len(shape) == 2:
        return _softmax_cross_entropy(z, labels=t, reduction=reduction)
    z = z.reshape(1, -1) if len(shape) == 1 else z.permute(0, *range(2, len(shape)), 1).reshape(-1, shape[1])
    loss = _softmax_cross_entropy(z, labels=t.reshape(-1), reduction=reduction)
    return loss.reshape(t.shape) if reduction == "none" else loss


@primitive
def _softmax_cross_entropy(z, *, labels, reduction):  # z (N, C), labels (N,)
    n = len(labels)
    at = np.arange(n), labels
    if n and np.minimum.reduce(labels) < 0:  # one above the last class raises by itself
        raise _not_a_class(labels, z)
    if type(z) is Tensor:
        return unfused(lambda z: _reduce(logsumexp(z, 1) - z[at], reduction), z)
    z = z - np.maximum.reduce(z, axis=1, keepdims=True)
    e = np.exp(z)
    s = np.add.reduce(e, axis=1)
    loss = np.log(s)
    try:
        loss -= z[at]
    except IndexError:
        raise _not_a_class(labels, z) from None

    def vjp(g):
        g = g / max(n, 1) if reduction == "mean" else g
        d = e * (g / s)[:, None]
        d[at] -= g
        return d

    return _reduce(loss, reduction), vjp


def _not_a_class(labels, z):
    bad = next(label for label in labels if not 0 <= label < z.shape[1])
    return ValueError(f"cross_entropy: label {bad} is not one of the {z.shape[1]} classes 0 .. {z.shape[1] - 1}")


def _cross_entropy_with_probabilities(logits, target, reduction):
    if np.shape(raw(target)) != logits.shape:
        raise ValueError(f"cross_entropy: probabilities {np.shape(raw(target))} for logits {logits.shape}")
    axis = 1 if logits.ndim > 1 else 0
    return _reduce(-(target * log_softmax(logits, axis)).sum(axis), reduction)


def binary_cross_entropy_with_logits(logits, target, reduction="mean"):
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(logits), elementwise and without overflow; t in [0, 1]."""
    if np.shape(raw(logits)) != np.shape(raw(target)):
        raise ValueError(
            f"binary_cross_entropy_with_logits: logits {np.shape(raw(logits))} and targets {np.shape(raw(target))} "
            f"must have one shape"
        )
    return _binary_cross_entropy(logits, target, reduction=_known(reduction))


@primitive
def _binary_cross_entropy(z, t, *, reduction):
    n = namespace(z, t)
    loss = n.maximum(z, 0.0) - z * t + n.log1p(n.exp(-n.abs(z)))
    p = sigmoid(z) if type(z) is Tensor else 0.5 * xp[type(z)].tanh(0.5 * z) + 0.5
    scale = 1.0 / max(raw(loss).size, 1) if reduction == "mean" else 1.0
    return _reduce(loss, reduction), lambda g: (p - t) * (g * scale), lambda g: z * (g * -scale)
