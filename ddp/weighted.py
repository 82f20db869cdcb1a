"""The unit of a loss: sums of weighted terms, each part of a batch with a weight of its own."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from allgrad.autograd import Tensor
from allgrad.autograd.arrays import is_torch, to_numpy
from allgrad.autograd.engine import unwrap
from allgrad.ddp.errors import ConfigurationError, counted

RETURNS = "a mean (a tensor of shape ()), one number a sample, or ddp.Weighted(total, weight)"
# Names of operations, by what they say of the numbers that they are computed of.
LINEAR = {
    "add", "concatenate", "div", "getitem", "mean", "mul", "neg", "reshape", "squeeze", "stack", "sub", "sum", "where",
}  # fmt: skip
SELECTIONS = {"getitem", "index_select", "masked_select", "take", "take_along_dim"}
REDUCTIONS = {"amax", "amin", "euclidean", "logsumexp", "mean", "prod", "std", "sum", "var"}
SUMS = {"binary_cross_entropy", "softmax_cross_entropy", "spoil", "squared_error", "sum"}  # if not marked as means


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


def weighted(value, samples, whole=False):
    """What a loss has returned for a shard, as (tensor, its weight, whether the tensor is a mean and no sum).

    whole: whether the shard is all that the mean is over. Raises ConfigurationError where it is neither a mean, nor one
    number a sample, nor a `Weighted`.
    """
    if type(value) is Weighted:
        total = value.total
        if type(total) is not Tensor or total.shape != ():
            raise ConfigurationError(f"the total of a Weighted loss is a tensor of shape (), got {_described(total)}")
        return total, _checked(value.weight), False
    if type(value) is not Tensor:
        raise ConfigurationError(f"a loss returns {RETURNS}, got {_described(value)}")
    if value.shape == ():
        return value, weight_of_mean(value, samples, whole), True
    if value.shape == (samples,):
        return value, samples, False
    raise ConfigurationError(
        f"the loss of a shard of {counted(samples, 'sample')} must be {RETURNS}, got shape {tuple(value.shape)}"
    )


class _Unclear(Exception):
    """What a number is that cannot be put together with that of other shards."""


def weight_of_mean(mean, samples, whole=False, what="loss"):
    """The weight of a mean over a shard: what the losses in it are marked with, see `engine.is_mean_of`.

    A number without any mark is a mean over the samples, and so is what is computed of means over different numbers of
    terms, if each has as many of every sample. Raises ConfigurationError if that cannot be, unless the shard is all
    there is.
    """
    if mean.node is None:
        weight = getattr(mean, "mean_of", None)
        return samples if weight is None else weight
    try:
        weights = _weights_within(mean.node, samples)
        if not weights:
            if mean.node.name in SUMS and not _of_means_or_parameters(mean.node):
                raise _Unclear("a sum")
            return samples
        if all(weight is weights[0] or weight == weights[0] for weight in weights[1:]):
            return weights[0]
        if all(isinstance(weight, int) and weight % samples == 0 for weight in weights):
            return samples
        raise _Unclear(f"computed of means over {' and '.join(f'{float(w):g}' for w in weights)} terms")
    except _Unclear as unclear:
        if whole:
            return samples
        raise ConfigurationError(
            f"the {what} of a shard of {counted(samples, 'sample')} is {unclear}, and cannot be put together with that "
            f"of other shards: return ddp.Weighted(total, weight)"
        ) from None


def _weights_within(node, samples):
    """The weights of the means that a number is a sum of multiples of."""
    weight = getattr(node, "mean_of", None)
    if weight is not None:
        weight = _terms(node, weight, samples) if node.name == "mean" else weight
        return [] if weight is None else [weight]
    if not node.edges or (node.shape != () and node.name not in LINEAR):
        return []
    numbers = [parent for parent, *_ in node.edges if parent.shape == () or parent.name == "stack"]
    found = [weights for parent in numbers if (weights := _weights_within(parent, samples))]
    if found and (node.name not in LINEAR or (node.name in ("mul", "div") and len(found) > 1)):
        raise _Unclear("a function of a mean that is no multiple of it, nor a sum")
    return [weight for weights in found for weight in weights]


def _of_means_or_parameters(node):
    """Whether what is added up are means, as in x.mean(0).sum(), or computed of parameters alone."""
    while node.edges and node.name != "mean":
        size = math.prod(node.edges[0][0].shape)
        node = next((p for p, *_ in node.edges if math.prod(p.shape) == size), node.edges[0][0])
        if node.edges and not any(math.prod(p.shape) == math.prod(node.shape) for p, *_ in node.edges):
            break
    return not node.edges or node.name == "mean"


def _terms(node, count, samples):
    """How many terms of the samples a mean over `count` terms is over; None if it is over parameters alone.

    Its terms are followed back to where they have an axis of samples, or were selected. Raises _Unclear if they are
    reductions over the samples themselves.
    """
    node = node.edges[0][0]
    while node.edges:
        if node.name in SELECTIONS or node.shape[:1] == (samples,):
            return count
        size = math.prod(node.shape)
        parents = [parent for parent, *_ in node.edges]
        same = [p for p in parents if math.prod(p.shape) == size and p.shape != ()]
        if not same:
            same = [p for p in parents if p.shape[:1] == node.shape[:1] and p.shape != ()]
            if not same and (node.name in REDUCTIONS or node.name in ("stack", "concatenate")):
                raise _Unclear(f"a mean over {count} terms, which are no samples")
        if not same:
            break
        node = same[0]
    if not node.edges:
        return None
    if count % samples:
        raise _Unclear(f"a mean over {count} terms, which are no samples")
    return count


def measured(value, samples, whole=False):
    """What a metric has returned for some samples, as (sum, weight), numbers.

    It is a mean, a `Weighted` or a pair (sum, weight), or an array whose first axis counts the samples, of whose
    further axes the mean is taken. Raises ConfigurationError for anything else.
    """
    if type(value) is tuple and len(value) == 2:
        value = Weighted(*value)
    if type(value) is Weighted:
        weight = float(_checked(value.weight))
        return (_number(value.total, "total") if weight else 0.0), weight
    array = np.asarray(to_numpy(unwrap(value)) if type(value) is Tensor else value)
    if array.dtype.kind not in "biuf" or array.shape[:1] not in ((), (samples,)) or (samples and not array.size):
        raise ConfigurationError(
            f"a metric of {counted(samples, 'sample')} returns a mean, an array with one row a sample, or a pair "
            f"(sum, weight), got {_described(value)}"
        )
    if array.shape == ():
        weight = weight_of_mean(value, samples, whole, "metric") if type(value) is Tensor else samples
        weight = float(unwrap(weight))
        return (float(array) * weight if weight else 0.0), weight
    total = np.sum(array, dtype=np.float64)
    return (total / (array.size // samples) if array.ndim > 1 else total), float(samples)


def _checked(weight):
    """A weight that is 0 or more; ConfigurationError for anything else."""
    if type(weight) is Tensor and weight.requires_grad:
        raise ConfigurationError("a weight is a constant, got a tensor that requires a gradient: detach() it")
    weight = unwrap(weight)
    if not 0.0 <= _number(weight, "weight") < math.inf:
        raise ConfigurationError(f"a weight is 0 or more, and finite, got {float(weight):g}")
    return weight


def _number(value, what):
    """A number, or an array of shape (), as it is compared."""
    value = unwrap(value)
    if isinstance(value, (bool, int, float)) or (hasattr(value, "dtype") and tuple(value.shape) == ()):
        return value if what == "weight" else float(value)
    raise ConfigurationError(f"a {what} is a number or of shape (), got {_described(value)}")


def _described(value):
    name = "torch.Tensor" if is_torch(value) else type(value).__name__
    shape = getattr(value, "shape", None)
    return name if shape is None else f"{name} of shape {tuple(shape)}"
