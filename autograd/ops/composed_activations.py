"""Activation functions that are composed of others, or piecewise linear, under the names of torch.nn.functional."""

from allgrad.autograd.arrays import mask_grad, xp
from allgrad.autograd.engine import attach_methods, primitive, shape_of, unwrap
from allgrad.autograd.ops.activations import elu, hardtanh, sigmoid, softmax, softplus
from allgrad.autograd.ops.creation import rand_like
from allgrad.autograd.ops.elementwise import abs, log, tanh, where
from allgrad.autograd.ops.reductions import argmax
from allgrad.autograd.ops.scatter import scatter
from allgrad.autograd.ops.shapes import chunk, reshape


def relu6(a):
    """a limited to [0, 6], with derivative 0 at the ends."""
    return hardtanh(a, 0.0, 6.0)


def hardsigmoid(a):
    """a / 6 + 1 / 2 limited to [0, 1], with derivative 0 at the ends."""
    return hardtanh(a, -3.0, 3.0) * (1.0 / 6.0) + 0.5


@primitive
def hardswish(a):
    """a times hardsigmoid(a). Howard et al. 2019."""
    x = unwrap(a)
    n, inside, above = xp[type(a)], (x > -3.0) & (x < 3.0), x >= 3.0
    y = n.where(above, a, mask_grad(a * (a + 3.0) * (1.0 / 6.0), inside))
    return y, lambda g: n.where(above, g, mask_grad(g * (a * (1.0 / 3.0) + 0.5), inside))


def mish(a):
    """a tanh(softplus(a)). Misra 2019."""
    return a * tanh(softplus(a))


def celu(a, alpha=1.0):
    """a where it is positive, alpha (exp(a / alpha) - 1) elsewhere. Barron 2017."""
    return elu(a * (1.0 / alpha)) * alpha if alpha != 1.0 else elu(a)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(a):
    """elu with the constants that keep mean 0 and variance 1. Klambauer et al. 2017."""
    return elu(a, SELU_ALPHA) * SELU_SCALE


def logsigmoid(a):
    """log(sigmoid(a)), without underflow."""
    return -softplus(-a, threshold=40.0)  # beyond it the logarithm of 1 + exp(-40) is 0 in float64 too


def softsign(a):
    """a / (1 + |a|). Turian et al. 2009."""
    return a / (1.0 + abs(a))


def tanhshrink(a):
    """a - tanh(a)."""
    return a - tanh(a)


def threshold(a, threshold, value):
    """a where it is above the threshold, the number `value` elsewhere."""
    return where(unwrap(a) > threshold, a, value)


def hardshrink(a, lambd=0.5):
    """a where |a| > lambd, 0 elsewhere."""
    x = unwrap(a)
    return where((x > lambd) | (x < -lambd), a, 0.0)


def softshrink(a, lambd=0.5):
    """a moved by lambd towards 0, and 0 where |a| <= lambd."""
    if lambd < 0:
        raise ValueError(f"softshrink: lambd is at least 0, got {lambd}")
    x = unwrap(a)
    return where(x > lambd, a - lambd, where(x < -lambd, a + lambd, 0.0))


def prelu(a, weight):
    """a where it is positive, weight * a elsewhere: one weight, or one for each channel (axis 1). He et al. 2015."""
    shape = shape_of(weight)
    if len(shape) == 1 and shape[0] != 1:
        channels = a.shape[1] if a.ndim > 1 else 1
        if shape[0] != channels:
            raise ValueError(f"prelu: {shape[0]} weights for {channels} channels of the shape {tuple(a.shape)}")
        weight = reshape(weight, (-1,) + (1,) * (a.ndim - 2))
    elif a.ndim == 0:
        weight = reshape(weight, ())
    return where(unwrap(a) > 0, a, weight * a)


def glu(a, dim=-1):
    """The first half of a along the axis, times the sigmoid of the second. Dauphin et al. 2017."""
    if not a.ndim or a.shape[dim] % 2:
        raise ValueError(f"glu: axis {dim} of the shape {tuple(a.shape)} cannot be cut in halves")
    half = a.shape[dim] // 2
    return chunk(a, 2, dim)[0] * sigmoid(chunk(a, 2, dim)[1]) if half else a


def softmin(a, axis=-1, *, dim=None, dtype=None):
    """exp(-a) / sum(exp(-a)) along the axis, of a's shape."""
    return softmax(-a, axis if dim is None else dim, dtype=dtype)


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
