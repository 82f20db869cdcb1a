"""The unit of a loss: sums of weighted terms, each part of a batch with a weight of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from allgrad.autograd import Tensor
from allgrad.autograd.engine import unwrap
from allgrad.ddp.errors import ConfigurationError, counted

RETURNS = "a mean (a tensor of shape ()), one number a sample, or ddp.Weighted(total, weight)"


@dataclass(frozen=True)
class Weighted:
    """What a loss or a metric may return: a sum over some samples' terms, and the weight it is to be divided by.

    total   the sum of the terms: a tensor of shape (), or in a metric a number
    weight  how many terms there are, or the sum of their weights: a number or an array of shape (), 0 or more

    The totals of all logical shards are added up and divided once by the sum of their weights. So a loss over the
    labels that count, wherever they lie, is the mean over all that count in the batch:

        def loss(x, y):
            counts = y != PADDING
            losses = ag.cross_entropy(model(x), y, "none", ignore_index=PADDING)
            return ddp.Weighted(losses.sum(), counts.sum())

    `ag.cross_entropy` and the other losses mark their means with the weight, and need none of this: only what is
    computed from several means, or by the user's own division, does.
    """

    total: Any
    weight: Any


def weighted(value, samples):
    """What a loss has returned for a shard, as (tensor, its weight, whether the tensor is a mean and no sum).

    Raises ConfigurationError where it is neither a mean, nor one number a sample, nor a `Weighted`.
    """
    if type(value) is Weighted:
        total = value.total
        if type(total) is not Tensor or total.shape != ():
            raise ConfigurationError(f"the total of a Weighted loss is a tensor of shape (), got {_described(total)}")
        return total, _checked(value.weight), False
    if type(value) is not Tensor:
        raise ConfigurationError(f"a loss returns {RETURNS}, got {_described(value)}")
    if value.shape == ():
        return value, weight_of_mean(value, samples), True
    if value.shape == (samples,):
        return value, samples, False
    raise ConfigurationError(
        f"the loss of a shard of {counted(samples, 'sample')} must be {RETURNS}, got shape {tuple(value.shape)}"
    )


def weight_of_mean(mean, samples):
    """The weight of a mean over a shard: what it is marked with, or what all of the losses in it are marked with.

    A mean without any mark is one over the samples, and so is what is computed of means over different numbers of
    terms, if each has as many of every sample. Raises ConfigurationError if that cannot be.
    """
    if (weight := getattr(mean, "mean_of", None)) is not None:
        return weight
    weights = _marks_within(mean.node)
    if not weights:
        return samples
    if all(weight is weights[0] or weight == weights[0] for weight in weights[1:]):
        return weights[0]
    if all(isinstance(weight, int) and weight % samples == 0 for weight in weights):
        return samples
    raise ConfigurationError(
        f"the loss of a shard of {counted(samples, 'sample')} is computed of means over "
        f"{' and '.join(f'{float(w):g}' for w in weights)} terms, and cannot be put together with that of other "
        f"shards: return ddp.Weighted(total, weight)"
    )


def _marks_within(node):
    """The weights of the losses that a number is computed of, by steps that are all numbers."""
    found, seen, stack = [], set(), [node]
    while stack:
        node = stack.pop()
        if node is None or node in seen or node.shape != ():
            continue
        seen.add(node)
        weight = getattr(node, "mean_of", None)
        if weight is None:
            stack.extend(parent for parent, *_ in node.edges)
        elif node.name != "mean":  # such as a penalty: a mean over no samples
            found.append(weight)
    return found


def measured(value, samples):
    """What a metric has returned for some samples, as (sum, weight), numbers.

    It is a mean, a `Weighted` or a pair (sum, weight), or an array whose first axis counts the samples, of whose
    further axes the mean is taken. Raises ConfigurationError for anything else.
    """
    if type(value) is tuple and len(value) == 2:
        value = Weighted(*value)
    if type(value) is Weighted:
        weight = float(_checked(unwrap(value.weight)))
        return (float(unwrap(value.total)) if weight else 0.0), weight
    array = np.asarray(unwrap(value) if type(value) is Tensor else value)
    if array.dtype.kind not in "biuf" or array.shape[:1] not in ((), (samples,)):
        raise ConfigurationError(
            f"a metric of {counted(samples, 'sample')} returns a mean, an array with one row a sample, or a pair "
            f"(sum, weight), got {_described(value)}"
        )
    if array.shape == ():
        weight = getattr(value, "mean_of", None)
        weight = float(samples if weight is None else unwrap(weight))
        return (float(array) * weight if weight else 0.0), weight
    total = np.sum(array, dtype=np.float64)
    return (total / (array.size // samples) if array.ndim > 1 else total), float(samples)


def _checked(weight):
    """A weight that is 0 or more; ConfigurationError for anything else."""
    weight = unwrap(weight)
    if np.shape(weight) != () and tuple(weight.shape) != ():
        raise ConfigurationError(f"a weight is a number or of shape (), got {_described(weight)}")
    if not 0.0 <= weight < float("inf"):
        raise ConfigurationError(f"a weight is 0 or more, and finite, got {float(weight):g}")
    return weight


def _described(value):
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
