"""Layers that are no others' kind: linear and bilinear maps, learned slopes, other shapes."""

import math

import numpy as np

from allgrad.autograd import init as initial
from allgrad.autograd.arrays import normalize_axis
from allgrad.autograd.engine import get_default_dtype
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import einsum, flatten, linear, prelu, reshape
from allgrad.autograd.random import draw


def drawn(shape, outputs, bias, init, rng):
    """A weight of this shape from `init` and a bias of zeros, or both as torch draws them if init is None."""
    rng = rng or np.random.Generator(draw())
    weight = (init or initial.torch_default)(shape, rng)
    bound = 1.0 / math.sqrt(initial.fans(shape)[0])
    first = np.zeros(outputs) if init or not bias else rng.uniform(-bound, bound, outputs)
    # A matrix is stored transposed: x @ weight.T then multiplies by one in C order, faster for small batches.
    weight = np.asarray(weight, get_default_dtype(), order="F" if len(shape) == 2 else "K")
    return Parameter(weight, name="weight"), Parameter(first, name="bias") if bias else None


class Linear(Module):
    """x @ weight.T + bias, for x (..., inputs); weight (outputs, inputs), bias (outputs,).

    init: a function from `autograd.init`; torch's default if absent. The bias starts at zero, or as torch's does
    when init is absent. rng: a numpy Generator; drawn from `ag.manual_seed`'s stream if absent.
    """

    @placed
    def __init__(self, in_features, out_features, bias=True, init=None, rng=None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Linear: inputs and outputs are at least 1, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = drawn((out_features, in_features), out_features, bias, init, rng)

    def __call__(self, x):
        return linear(x, self.weight, self.bias)


class Bilinear(Module):
    """y_o = x1^T weight_o x2 + bias_o for x1 (..., in1) and x2 (..., in2); weight (outputs, in1, in2)."""

    @placed
    def __init__(self, in1_features, in2_features, out_features, bias=True, rng=None):
        if min(in1_features, in2_features, out_features) < 1:
            got = f"{in1_features}, {in2_features} and {out_features}"
            raise ValueError(f"Bilinear: inputs and outputs are at least 1, got {got}")
        rng, bound = rng or np.random.Generator(draw()), 1.0 / math.sqrt(in1_features)
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = Parameter(rng.uniform(-bound, bound, (out_features, in1_features, in2_features)), name="weight")
        self.bias = Parameter(rng.uniform(-bound, bound, out_features), name="bias") if bias else None

    def __call__(self, x1, x2):
        y = einsum("...i,oij,...j->...o", x1, self.weight, x2)
        return y if self.bias is None else y + self.bias


class PReLU(Module):
    """x where it is positive, weight * x elsewhere; num_parameters slopes, 1 or one for each channel: `ag.prelu`."""

    @placed
    def __init__(self, num_parameters=1, init=0.25):
        self.num_parameters = num_parameters
        self.weight = Parameter(np.full(num_parameters, init), name="weight")

    def __call__(self, x):
        return prelu(x, self.weight)


class Flatten(Module):
    """Merge the axes from start_dim to end_dim, both included; (N, ...) to (N, features) unless others are given."""

    def __init__(self, start_dim=1, end_dim=-1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def __call__(self, x):
        return flatten(x, self.start_dim, self.end_dim)


class Unflatten(Module):
    """Cut the axis `dim` into axes of these lengths, one of which may be -1: the inverse of `Flatten`."""

    def __init__(self, dim, unflattened_size):
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def __call__(self, x):
        axis = normalize_axis(self.dim, x.ndim, "Unflatten")
        known, free = math.prod(n for n in self.unflattened_size if n != -1), self.unflattened_size.count(-1)
        if free > 1 or known < 1 or x.shape[axis] % known or (not free and x.shape[axis] != known):
            seen = f"axis {self.dim} of {tuple(x.shape)}"
            raise ValueError(f"Unflatten: {seen} cannot be cut into {self.unflattened_size}")
        sizes = [x.shape[axis] // known if n == -1 else n for n in self.unflattened_size]
        return reshape(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


class Identity(Module):
    """x as it is, in the place of a layer; takes any arguments, as torch's does."""

    def __init__(self, *arguments, **options):
        pass

    def __call__(self, x):
        return x
