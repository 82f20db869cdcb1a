"""A compact reverse-mode autograd over NumPy arrays: tensors, operations, derivatives of any order, networks.

import allgrad as ag
x = ag.tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
x.grad                                     # array([2., 4.])
"""

import sys as _sys

if __name__ == "autograd":  # in a checkout, `import autograd` is `import allgrad.autograd`
    from allgrad.names import also_known_as

    also_known_as(__name__)

from allgrad.autograd.arena import Arena
from allgrad.autograd.arrays import load_imported_backends as _load, xp as _xp
from allgrad.autograd.engine import (
    as_tensor, checkpoint, default_dtype, enable_grad, from_numpy, get_default_dtype, grad, hessian, hvp,
    inference_mode, is_grad_enabled, jacobian, jvp, no_grad, primitive, set_grad_enabled, shared, Tensor, tensor, vjp,
)  # fmt: skip
from allgrad.autograd.ops import (
    abs, acos, acosh, adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d, adaptive_max_pool1d,
    adaptive_max_pool2d, adaptive_max_pool3d, add, addcdiv, addcmul, addmm, addmv, addr, all, allclose, amax, amin,
    aminmax, any, arange, argmax, argmin, argsort, argwhere, asin, asinh, atan, atan2, atanh, atleast_1d, atleast_2d,
    atleast_3d, avg_pool1d, avg_pool2d, avg_pool3d, baddbmm, batch_norm, bernoulli, binary_cross_entropy,
    binary_cross_entropy_with_logits, bincount, bitwise_and, bitwise_not, bitwise_or, bitwise_xor, bmm,
    broadcast_tensors, broadcast_to, cat, cdist, ceil, celu, channel_shuffle, cholesky, chunk, clamp, clamp_max,
    clamp_min, clone, column_stack, concatenate, conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d,
    conv_transpose3d, copysign, cos, cosh, cosine_embedding_loss, cosine_similarity, count_nonzero, cross,
    cross_entropy, cummax, cummin, cumprod, cumsum, deg2rad, det, diag, diag_embed, diagflat, diagonal, diff, digamma,
    dist, div, dot, dropout, dstack, einsum, elu, embedding, empty, empty_like, eq, equal, erf, erfc, erfinv, exp, exp2,
    expand, expm1, eye, flatten, flip, fliplr, flipud, floor, floor_divide, fmax, fmin, fmod, fold, frac, full,
    full_like, gather, gaussian_nll_loss, ge, gelu, glu, group_norm, gt, gumbel_softmax, hardshrink, hardsigmoid,
    hardswish, hardtanh, hinge_embedding_loss, hsplit, hstack, huber_loss, hypot, index_add, index_copy, index_fill,
    index_put, index_select, inner, instance_norm, interpolate, inv, is_floating_point, isclose, isfinite, isinf, isnan,
    isneginf, isposinf, kl_div, kron, kthvalue, l1_loss, layer_norm, le, leaky_relu, lerp, lgamma, linear, linspace,
    local_response_norm, log, log10, log1p, log2, log_softmax, logaddexp, logaddexp2, logcumsumexp, logdet, logical_and,
    logical_not, logical_or, logical_xor, logit, logsigmoid, logspace, logsumexp, lp_pool1d, lp_pool2d, lt,
    margin_ranking_loss, masked_fill, masked_scatter, masked_select, matmul, matrix_power, max, max_pool1d, max_pool2d,
    max_pool3d, maximum, mean, median, meshgrid, min, minimum, mish, mm, movedim, mse_loss, msort, mul,
    multi_margin_loss, multilabel_soft_margin_loss, multinomial, mv, nan_to_num, nanmean, nansum, narrow, ne, neg,
    nll_loss, nonzero, norm, normal, normalize, numel, one_hot, ones, ones_like, outer, pad, pairwise_distance, permute,
    pixel_shuffle, pixel_unshuffle, poisson_nll_loss, polygamma, pow, prelu, prod, quantile, rad2deg, rand, rand_like,
    randint, randn, randn_like, randperm, ravel, reciprocal, relu, relu6, remainder, repeat_interleave, reshape,
    rms_norm, roll, rot90, round, rsqrt, scaled_dot_product_attention, scatter, scatter_add, scatter_reduce,
    searchsorted, select, selu, sgn, sigmoid, sign, signbit, silu, sin, sinc, sinh, slogdet, smooth_l1_loss,
    soft_margin_loss, softmax, softmin, softplus, softshrink, softsign, solve, sort, split, sqrt, square, squeeze,
    stack, std, sub, sum, t, take, take_along_dim, tan, tanh, tanhshrink, tensor_split, tensordot, threshold, tile,
    topk, trace, transpose, tril, tril_indices, triplet_margin_loss, triu, triu_indices, trunc, unbind, unflatten,
    unfold, unique, unsqueeze, var, vsplit, vstack, where, xlogy, zeros, zeros_like,
)  # fmt: skip
from allgrad.autograd.ops import decompositions as linalg, in_place as _in_place  # which are methods of Tensor
from allgrad.autograd.random import manual_seed
from allgrad.autograd.replay import capture
from allgrad.autograd.tools import count_operations, detect_anomaly, draw_graph, gradcheck, summary, to_dot

absolute, negative, multiply, subtract, divide, true_divide, clip, fix = abs, neg, mul, sub, div, div, clamp, trunc
arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh = acos, acosh, asin, asinh, atan, atan2, atanh
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
moveaxis, swapaxes, swapdims, permute_dims = movedim, transpose, transpose, permute
concat, row_stack, inverse, ger = cat, vstack, inv, outer
for _alias in [
    "absolute", "negative", "multiply", "subtract", "divide", "true_divide", "clip", "fix", "arccos", "arccosh",
    "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "greater", "greater_equal", "less", "less_equal", "not_equal",
    "moveaxis", "swapaxes", "swapdims", "inverse", "ger",
]:  # fmt: skip
    setattr(Tensor, _alias, globals()[_alias])
_xp[Tensor] = _sys.modules[__name__]  # inside a nested transformation the rules compute with our own operations
_load()  # of the libraries that are imported already; of others when their first array comes along
