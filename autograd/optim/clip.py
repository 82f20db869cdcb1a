"""The norm of all gradients together, and limits for it and for each element.

owner: a module, an arena, an optimizer, or a collection of parameters.
"""

import math

import numpy as np

from allgrad.autograd.arena import existing_arena, named_parameters
from allgrad.autograd.arrays import astype, full, is_torch, on_cpu, xp


def grad_norm(owner, norm_type=2.0):
    """The norm of all gradients together, a Python float: (sum |g|^p)^(1/p), the largest |g| for p = inf."""
    return norm_of(_gradients(owner), float(norm_type))


def clip_grad_norm(owner, max_norm, norm_type=2.0, error_if_nonfinite=False):
    """Scale all gradients in place, if need be, so that their common norm is max_norm at most; returns the norm before.

    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks". As in torch, the factor
    is max_norm / (norm + 1e-6) if that is below 1, and a norm of nan makes all gradients nan, or raises RuntimeError
    like an infinite one if error_if_nonfinite.
    """
    gradients = _gradients(owner)
    norm = norm_of(gradients, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm: the norm of the gradients is {norm}, and cannot be brought to {max_norm}")
    _scale_down(owner, gradients, max_norm, norm)
    return norm


def clip_grads_with_norm(owner, max_norm, total_norm):
    """`clip_grad_norm` of gradients whose norm is known already.

    total_norm: a number, or a tensor of shape () where the gradients are: then nobody waits for a device, and one of
    nan leaves the gradients as they are.
    """
    _scale_down(owner, _gradients(owner), max_norm, total_norm)


def _scale_down(owner, gradients, max_norm, norm):
    _at_least_zero("clip_grad_norm", "max_norm", max_norm)
    if is_torch(norm):
        factor = full((), max_norm, norm) / (norm + 1e-6)
        factor = factor.clip(max=1.0).nan_to_num(1.0)  # a product with 1 changes no bit
        for g in gradients:
            g *= factor
        return
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1.0:
        if math.isnan(factor) and (arena := existing_arena(owner)) is not None:
            gradients = [arena.grad[span] for span in arena.spans.values()]  # whose padding stays 0
        with np.errstate(invalid="ignore"):  # infinity times 0
            for g in gradients:
                g *= factor


def clip_grad_value(owner, limit):
    """Limit every element of all gradients to [-limit, limit], in place."""
    _at_least_zero("clip_grad_value", "limit", limit)
    for g in _gradients(owner):
        g[...] = g.clip(-limit, limit)


def length_of(array):
    """The Euclidean norm of one array: a number, or on a device a float64 tensor of shape (), to go on with there."""
    if on_cpu(array):
        return norm_of([array])
    flat = _flat(array)
    return xp[type(flat)].sqrt(astype(flat @ flat, "float64"))


def norm_of(gradients, p=2.0):
    flats = map(_flat, gradients)
    if p == 2.0:
        return math.sqrt(sum(float(g @ g) for g in flats))
    if p == math.inf:
        largest = [float(abs(g).max()) for g in flats if len(g)]
        return math.nan if any(map(math.isnan, largest)) else max(largest, default=0.0)
    return sum(float((abs(g) ** p).sum()) for g in flats) ** (1.0 / p)


def _flat(g):
    return g.ravel("K") if type(g) is np.ndarray else g.reshape(-1)


def _at_least_zero(name, key, value):
    if not value >= 0.0:
        raise ValueError(f"{name}: {key} is a number of at least 0, got {value}")


def _gradients(owner):
    """The flat gradients of an arena, or without one the gradient of each parameter: themselves, not copies."""
    arena = existing_arena(owner)
    if arena is None:
        return [p.grad for p in named_parameters(owner).values() if p.grad is not None]
    arena.zero_missing_grads()  # else what an unused parameter got in an earlier step would count
    return [arena.grad]
