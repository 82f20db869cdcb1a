"""The norm of gradients, and limits for it and for each element."""

import math

import numpy as np

from allgrad.autograd.arena import existing_arena, named_parameters


def grad_norm(owner):
    """Euclidean norm of all gradients together."""
    return norm_of(_gradients(owner))


def clip_grad_norm(owner, max_norm):
    """Scale all gradients so that their common norm is at most max_norm; returns the norm before.

    Pascanu, Mikolov and Bengio 2013.
    """
    _at_least_zero("clip_grad_norm", "max_norm", max_norm)
    gradients = _gradients(owner)
    norm = norm_of(gradients)
    if norm > max_norm:
        for g in gradients:
            g *= max_norm / norm
    return norm


def clip_grad_value(owner, limit):
    """Bring every element of all gradients into [-limit, limit]."""
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
    """The flat gradients of what has an arena, or else the gradients of each parameter: they stay where they are."""
    arena = existing_arena(owner)
    if arena is None:
        return [p.grad for p in named_parameters(owner).values() if p.grad is not None]
    arena.zero_missing_grads()  # else what an unused parameter got in an earlier step would count
    return [arena.grad]
