"""Curvature at frozen weights: the noise scale weighted by the Hessian, the best rate, the largest eigenvalue.

McCandlish et al. 2018, section 2.2. One step of rate eta at batch B changes the loss on average by

    -eta |G|^2 + eta^2 / 2 (G'HG + tr(H Sigma) / B)

so that the best rate is eta_max / (1 + B_noise / B), where

    eta_max = |G|^2 / G'HG        B_noise = tr(H Sigma) / G'HG
"""

import math
from dataclasses import dataclass

import numpy as np

from allgrad.autograd import random
from allgrad.autograd.arrays import to_backend_of, to_numpy
from allgrad.autograd.engine import hvp
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.scaling.probe import Frozen, mean


@dataclass(frozen=True)
class Curvature:
    """signal = |G|^2, along = G'HG, trace = tr(H Sigma); noise_scale and eta_max are None where G'HG is not above 0.

    noise_scale_error  standard error of noise_scale, from the spread of the examples that tr(H Sigma) is a mean over
    largest            the Hessian's eigenvalue largest in size: the sharpness of Keskar et al. 2017
    """

    signal: float
    along: float
    trace: float
    noise_scale: float | None
    noise_scale_error: float | None
    eta_max: float | None
    largest: float


def curvature(model, loss, x, *targets, examples=80, iterations=30, seed=0) -> Curvature:
    """The curvature of the mean loss over all samples, see `scaling.probe` for the arguments.

    examples     samples over which g_i'Hg_i is averaged: tr(H Sigma) is that mean less G'HG
    iterations   of the power method for the largest eigenvalue
    """
    frozen = Frozen(model, loss, x, *targets)
    if examples < 2 or iterations < 1:
        raise ConfigurationError(f"examples are 2 or more and iterations 1 or more, got {examples} and {iterations}")
    gradient = frozen.gradient()
    signal, along = float(gradient @ gradient), float(gradient @ hessian_product(frozen, gradient))
    terms, weights = [], set()
    for i in random.permutation(len(frozen), seed, "curvature")[:examples]:
        g, weight = frozen.gradient_and_weight(slice(i, i + 1))
        weights.add(weight)
        if len(weights) > 1:
            raise ConfigurationError(
                f"curvature takes a loss in which every sample counts alike, got weights "
                f"{' and '.join(f'{w:g}' for w in sorted(weights))}"
            )
        terms.append(float(g @ hessian_product(frozen, g)))
    trace, defined = math.fsum(terms) / len(terms) - along, along > 0.0
    error = float(np.std(terms, ddof=1)) / math.sqrt(len(terms)) if len(terms) > 1 else math.inf
    return Curvature(
        signal, along, trace, trace / along if defined else None, error / along if defined else None,
        signal / along if defined else None, largest_eigenvalue(frozen, iterations, seed),
    )  # fmt: skip


def hessian_product(frozen: Frozen, v):
    """The Hessian of the mean loss times v, exact, as the gradient of <gradient, v>: Pearlmutter 1994."""
    arena, loss = frozen.arena, frozen.loss
    positions = arena.unflatten(np.arange(len(frozen.weights)))
    names = {id(p): name for name, p in arena.parameters.items()}
    places = [
        (container, key, p)
        for container in _containers(frozen.model)
        for key, p in (list(enumerate(container)) if isinstance(container, list) else list(container.items()))
        if id(p) in names
    ]
    if len({id(p) for *_, p in places}) < len(names):
        raise ConfigurationError("curvature takes models whose parameters are attributes, or in lists or dicts of them")

    def of_weights(flat):
        for container, key, p in places:
            container[key] = flat[positions[names[id(p)]]]
        x, *targets = frozen.samples()
        return mean(loss(frozen.model(x), *targets), len(x))[0]

    try:
        return to_numpy(hvp(of_weights, to_backend_of(frozen.weights, arena.data), to_backend_of(v, arena.data)))
    finally:
        for container, key, p in places:
            container[key] = p


def _containers(model):
    """The dicts and lists in which a model's modules keep their parameters."""
    stack = [vars(module) for module in model.modules()]
    while stack:
        container = stack.pop()
        yield container
        values = container if isinstance(container, list) else container.values()
        stack.extend(value for value in values if isinstance(value, (list, dict)))


def largest_eigenvalue(frozen: Frozen, iterations=30, seed=0) -> float:
    """The eigenvalue largest in size, by the power method from a random direction: v'Hv of the last one."""
    v, value = np.zeros_like(frozen.weights), 0.0
    for span in frozen.arena.spans.values():  # and not the padding between parameters
        v[span] = random.generator(seed, "power", span.start).standard_normal(span.stop - span.start)
    for _ in range(iterations):
        v = v / (np.linalg.norm(v) or 1.0)
        product = hessian_product(frozen, v)
        value, v = float(v @ product), product
    return value
