"""The norm of all gradients together, and limits for it and for each element.

owner: a module, an arena, an optimizer, or a collection of parameters.
"""

import math

import numpy as np

from allgrad.autograd.arena import existing_arena, named_parameters


def grad_norm(owner):
    """Euclidean norm of all gradients together, a Python float."""
    return norm_of(_gradients(owner))


def clip_grad_norm(owner, max_norm):
    """Scale all gradients in place, if need be, so that their common norm is max_norm at most; returns the norm before.

    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks".
    """
    _at_least_zero("clip_grad_norm", "max_norm", max_norm)
    gradients = _gradients(owner)
    norm = norm_of(gradients)
    if norm > max_norm:
        for g in gradients:
            g *= max_norm / norm
    return norm


def clip_grad_value(owner, limit):
    """Limit every element of all gradients to [-limit, limit], in place."""
    _at_least_zero("clip_grad_value", "limit", limit)
    for g in _gradients(owner):
        g[...] = g.clip(-limit, limit)


def norm_of(gradients):
    return math.sqrt(sum(float(g @ g) for g in map(_flat, gradients)))


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
