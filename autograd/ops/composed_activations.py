"""Activation functions that are composed of simpler operations. The kinks have torch's derivatives."""

from allgrad.autograd.arrays import mask_grad, normalize_axis, xp
from allgrad.autograd.engine import attach_methods, primitive, shape_of, unwrap
from allgrad.autograd.ops.activations import elu, hardtanh, sigmoid, softmax, softplus
from allgrad.autograd.ops.creation import rand_like
from allgrad.autograd.ops.elementwise import abs, clamp, log, tanh, where
from allgrad.autograd.ops.reductions import argmax
from allgrad.autograd.ops.scatter import scatter
from allgrad.autograd.ops.shapes import chunk

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def relu6(a):
    """min(max(a, 0), 6). Howard et al. 2017."""
    return hardtanh(a, 0.0, 6.0)


def hardsigmoid(a):
    """A sigmoid of three straight lines: min(max(a / 6 + 1 / 2, 0), 1). Howard et al. 2019."""
    return hardtanh(a, -3.0, 3.0) / 6.0 + 0.5


@primitive
def hardswish(a):
    """a times hardsigmoid(a). Howard et al. 2019."""
    x = unwrap(a)
    n, inside, above = xp[type(a)], ~((x <= -3.0) | (x >= 3.0)), x >= 3.0  # or nan
    y = n.where(above, a, mask_grad(a * (a + 3.0) * (1.0 / 6.0), inside))
    return y, lambda g: n.where(above, g, mask_grad(g * (a * (1.0 / 3.0) + 0.5), inside))


def mish(a):
    """a * tanh(softplus(a)). Misra 2019."""
    return a * tanh(softplus(a))


def celu(a, alpha=1.0):
    """a where it is positive, alpha (exp(a / alpha) - 1) elsewhere: smooth for any alpha but 0. Barron 2017."""
    if not alpha:
        raise ValueError("celu: alpha must not be 0: celu(a) for a small alpha tends to relu")
    return where(unwrap(a) > 0, a, elu(a * (1.0 / alpha)) * alpha)


def selu(a):
    """elu with the alpha and the scale that keep mean 0 and variance 1. Klambauer et al. 2017."""
    return elu(a, SELU_ALPHA) * SELU_SCALE


def prelu(a, weight):
    """a where it is positive, weight * a elsewhere; weight is one slope, or (C,) for a (N, C, ...). He et al. 2015."""
    slopes, shape = shape_of(weight), shape_of(a)
    if slopes in ((), (1,)):
        weight = weight.reshape(())
    elif slopes == shape[1:2]:
        weight = weight.reshape(-1, *(1,) * (len(shape) - 2))
    else:
        raise ValueError(f"prelu: weight has 1 slope, or one for each channel of {shape}, got {slopes}")
    return where(unwrap(a) > 0, a, a * weight)


def glu(a, dim=-1):
    """x * sigmoid(y) of the two halves x and y of a along an axis of even length. Dauphin et al. 2017."""
    length = a.shape[normalize_axis(dim, a.ndim, "glu")] if a.ndim else 1
    if length % 2:
        raise ValueError(f"glu: axis {dim} of the shape {tuple(a.shape)} cannot be cut into halves")
    x, y = chunk(a, 2, dim)
    return x * sigmoid(y)


def softmin(a, axis=-1, *, dim=None, **options):
    """softmax(-a) along the axis, with the options of `softmax`."""
    return softmax(-a, axis if dim is None else dim, **options)


def logsigmoid(a):
    """log(sigmoid(a)), without underflow."""
    return -softplus(-a, threshold=40.0)


def tanhshrink(a):
    """a - tanh(a)."""
    return a - tanh(a)


def hardshrink(a, lambd=0.5):
    """a where |a| > lambd, 0 elsewhere."""
    x = unwrap(a)
    return where((x >= -lambd) & (x <= lambd), 0.0, a)


def softshrink(a, lambd=0.5):
    """a drawn towards 0 by lambd, and 0 where |a| is at most lambd. ValueError for a negative lambd."""
    if not lambd >= 0:
        raise ValueError(f"softshrink: lambd must be at least 0, got {lambd}")
    return a - clamp(a, -lambd, lambd)


def threshold(a, threshold, value):
    """a where it is above the threshold, value elsewhere."""
    return where(unwrap(a) <= threshold, value, a)


def softsign(a):
    """a / (1 + |a|). Turian et al. 2009."""
    return a / (1.0 + abs(a))


def gumbel_softmax(a, tau=1.0, hard=False, *, dim=-1):
    """softmax((a + Gumbel noise) / tau): a sample of classes with logits a. Jang et al. 2017.

    With `hard` one-hot, with the gradient of the soft sample.
    """
    noise = -log(-log(rand_like(a) * (1.0 - 2e-7) + 1e-7))
    soft = softmax((a + noise) * (1.0 / tau), dim)
    if not hard:
        return soft
    chosen = scatter(soft.detach() * 0.0, dim, argmax(soft, dim, True), 1.0)
    return chosen - soft.detach() + soft


attach_methods(hardshrink, prelu)
