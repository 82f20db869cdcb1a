"""Functions as modules, to be placed in a Sequential: activations, pooling, and distances of two inputs.

`inplace=True` is taken where torch takes it, and computes into a new array all the same.
"""

import inspect
from collections.abc import Callable

from allgrad.autograd import ops
from allgrad.autograd.nn.module import Module


class FunctionModule(Module):
    """A function as a module; the function's arguments other than the inputs are given when the module is made."""

    function: Callable
    signature: inspect.Signature  # of the constructor
    inputs = ("input",)  # torch's names of what a call takes

    def __init__(self, *arguments, **options):
        try:
            given = self.signature.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}{self.signature}: {error}") from None
        given.apply_defaults()
        for name, value in given.arguments.items():
            setattr(self, name, self.kept(name, value))
        self.passed = [name for name in given.arguments if name != "inplace"]

    def kept(self, name, value):
        return value

    def __call__(self, *inputs, **named):
        if named:
            inputs += tuple(named.pop(name) for name in self.inputs[len(inputs) :] if name in named)
            if named:
                raise TypeError(f"{type(self).__name__}: takes {', '.join(self.inputs)}, got {', '.join(named)}")
        return self.function(*inputs, **{name: getattr(self, name) for name in self.passed})


def module_of(function, name, arguments, doc, base=FunctionModule, inputs="input"):
    """A class of modules of this function; `arguments` of its constructor are those of torch's, such as "p, *, eps"."""
    kind, parameters = inspect.Parameter.POSITIONAL_OR_KEYWORD, []
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()} | {"inplace": False}
    for argument in arguments.split(", ") if arguments else ():
        if argument == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        else:
            parameters.append(inspect.Parameter(argument, kind, default=defaults[argument]))
    members = {"function": staticmethod(function), "signature": inspect.Signature(parameters)}
    members["inputs"] = tuple(inputs.split(", "))
    return type(name, (base,), {**members, "__doc__": doc, "__module__": base.__module__})


# --- activations -----------------------------------------------------------------------------------------------

ReLU = module_of(ops.relu, "ReLU", "inplace", "max(x, 0): see `ag.relu`.")
ReLU6 = module_of(ops.relu6, "ReLU6", "inplace", "min(max(x, 0), 6): see `ag.relu6`.")
LeakyReLU = module_of(
    ops.leaky_relu, "LeakyReLU", "negative_slope, inplace",
    "x where it is positive, negative_slope (0.01) times x elsewhere: see `ag.leaky_relu`.",
)  # fmt: skip
ELU = module_of(
    ops.elu, "ELU", "alpha, inplace", "x where it is positive, alpha (1.0) times exp(x) - 1 elsewhere: see `ag.elu`."
)
CELU = module_of(ops.celu, "CELU", "alpha, inplace", "x or alpha (1.0) times exp(x / alpha) - 1: see `ag.celu`.")
SELU = module_of(ops.selu, "SELU", "inplace", "The elu that keeps mean 0 and variance 1: see `ag.selu`.")
GELU = module_of(
    ops.gelu, "GELU", "approximate", "x times the probability that a standard normal number is below it: see `ag.gelu`."
)
SiLU = module_of(ops.silu, "SiLU", "inplace", "x * sigmoid(x): see `ag.silu`.")
Mish = module_of(ops.mish, "Mish", "inplace", "x * tanh(softplus(x)): see `ag.mish`.")
Hardswish = module_of(ops.hardswish, "Hardswish", "inplace", "x * hardsigmoid(x): see `ag.hardswish`.")
Hardsigmoid = module_of(ops.hardsigmoid, "Hardsigmoid", "inplace", "min(max(x / 6 + 1 / 2, 0), 1).")
Hardtanh = module_of(
    ops.hardtanh,
    "Hardtanh",
    "min_val, max_val, inplace",
    "x limited to [min_val, max_val], -1 to 1: see `ag.hardtanh`.",
)
Hardshrink = module_of(ops.hardshrink, "Hardshrink", "lambd", "x where |x| > lambd (0.5), 0 elsewhere.")
Softshrink = module_of(ops.softshrink, "Softshrink", "lambd", "x drawn towards 0 by lambd (0.5): see `ag.softshrink`.")
Tanhshrink = module_of(ops.tanhshrink, "Tanhshrink", "", "x - tanh(x).")
Threshold = module_of(
    ops.threshold, "Threshold", "threshold, value, inplace", "x where it is above the threshold, value elsewhere."
)
Softplus = module_of(
    ops.softplus, "Softplus", "beta, threshold", "log(1 + exp(beta x)) / beta, a smooth ReLU: see `ag.softplus`."
)
Softsign = module_of(ops.softsign, "Softsign", "", "x / (1 + |x|). Turian et al. 2009.")
Sigmoid = module_of(ops.sigmoid, "Sigmoid", "", "1 / (1 + exp(-x)): see `ag.sigmoid`.")
LogSigmoid = module_of(ops.logsigmoid, "LogSigmoid", "", "log(sigmoid(x)), without underflow: see `ag.logsigmoid`.")
Tanh = module_of(ops.tanh, "Tanh", "", "Hyperbolic tangent: see `ag.tanh`.")
GLU = module_of(ops.glu, "GLU", "dim", "x * sigmoid(y) of the two halves of the input along the axis `dim`.")
Softmax = module_of(ops.softmax, "Softmax", "dim", "exp(x) normalised along an axis, the last: see `ag.softmax`.")
Softmax2d = module_of(
    lambda x: ops.softmax(x, -3), "Softmax2d", "", "softmax over the channels of images (N, C, H, W) or (C, H, W)."
)
Softmin = module_of(ops.softmin, "Softmin", "dim", "softmax of -x along the axis `dim`, the last.")
LogSoftmax = module_of(
    ops.log_softmax, "LogSoftmax", "dim", "log of softmax along the axis `dim`, the last: see `ag.log_softmax`."
)

# --- pooling ---------------------------------------------------------------------------------------------------

MAX_POOL = "kernel_size, stride, padding, dilation, return_indices, ceil_mode"
AVG_POOL = "kernel_size, stride, padding, ceil_mode, count_include_pad"
LP_POOL = "norm_type, kernel_size, stride, ceil_mode"
MaxPool1d = module_of(ops.max_pool1d, "MaxPool1d", MAX_POOL, "The largest value in each window: see `ag.max_pool1d`.")
MaxPool2d = module_of(ops.max_pool2d, "MaxPool2d", MAX_POOL, "The largest value in each window: see `ag.max_pool2d`.")
MaxPool3d = module_of(ops.max_pool3d, "MaxPool3d", MAX_POOL, "The largest value in each window: see `ag.max_pool3d`.")
AvgPool1d = module_of(ops.avg_pool1d, "AvgPool1d", AVG_POOL, "The mean of each window: see `ag.avg_pool1d`.")
AvgPool2d = module_of(
    ops.avg_pool2d, "AvgPool2d", f"{AVG_POOL}, divisor_override", "The mean of each window: see `ag.avg_pool2d`."
)
AvgPool3d = module_of(
    ops.avg_pool3d, "AvgPool3d", f"{AVG_POOL}, divisor_override", "The mean of each window: see `ag.avg_pool3d`."
)
LPPool1d = module_of(ops.lp_pool1d, "LPPool1d", LP_POOL, "The p-norm of each window, p = norm_type.")
LPPool2d = module_of(ops.lp_pool2d, "LPPool2d", LP_POOL, "The p-norm of each window, p = norm_type.")
AdaptiveAvgPool1d = module_of(ops.adaptive_avg_pool1d, "AdaptiveAvgPool1d", "output_size", "Means over L regions.")
AdaptiveAvgPool2d = module_of(
    ops.adaptive_avg_pool2d, "AdaptiveAvgPool2d", "output_size",
    "Means over OH x OW regions: see `ag.adaptive_avg_pool2d`.",
)  # fmt: skip
AdaptiveAvgPool3d = module_of(
    ops.adaptive_avg_pool3d, "AdaptiveAvgPool3d", "output_size", "Means over OD x OH x OW regions."
)
AdaptiveMaxPool1d = module_of(
    ops.adaptive_max_pool1d, "AdaptiveMaxPool1d", "output_size, return_indices", "The largest values in L regions."
)
AdaptiveMaxPool2d = module_of(
    ops.adaptive_max_pool2d, "AdaptiveMaxPool2d", "output_size, return_indices",
    "The largest values in OH x OW regions: see `ag.adaptive_max_pool2d`.",
)  # fmt: skip
AdaptiveMaxPool3d = module_of(
    ops.adaptive_max_pool3d, "AdaptiveMaxPool3d", "output_size, return_indices",
    "The largest values in OD x OH x OW regions.",
)  # fmt: skip

# --- other sizes -----------------------------------------------------------------------------------------------

Upsample = module_of(
    ops.interpolate, "Upsample", "size, scale_factor, mode, align_corners, recompute_scale_factor",
    "Images in another size, or longer by a factor: see `ag.interpolate`.",
)  # fmt: skip
UpsamplingNearest2d = module_of(
    ops.interpolate, "UpsamplingNearest2d", "size, scale_factor", "Upsample of images (N, C, H, W), mode nearest."
)


def _bilinear(x, size=None, scale_factor=None):
    return ops.interpolate(x, size, scale_factor, "bilinear", align_corners=True)


UpsamplingBilinear2d = module_of(
    _bilinear, "UpsamplingBilinear2d", "size, scale_factor", "Upsample of images, mode bilinear, with align_corners."
)

# --- channels, and two inputs ----------------------------------------------------------------------------------

PixelShuffle = module_of(
    ops.pixel_shuffle, "PixelShuffle", "upscale_factor", "(N, C r^2, H, W) as (N, C, H r, W r): see `ag.pixel_shuffle`."
)
PixelUnshuffle = module_of(
    ops.pixel_unshuffle, "PixelUnshuffle", "downscale_factor", "(N, C, H r, W r) as (N, C r^2, H, W)."
)
LocalResponseNorm = module_of(
    ops.local_response_norm, "LocalResponseNorm", "size, alpha, beta, k",
    "Divide by the squares of neighbouring channels: see `ag.local_response_norm`.",
)  # fmt: skip
CosineSimilarity = module_of(
    ops.cosine_similarity, "CosineSimilarity", "dim, eps", "The cosine of x1 and x2 along an axis, 1.", inputs="x1, x2",
)  # fmt: skip
PairwiseDistance = module_of(
    ops.pairwise_distance, "PairwiseDistance", "p, eps, keepdim", "The p-norm of x1 - x2 along the last axis.",
    inputs="x1, x2",
)  # fmt: skip
