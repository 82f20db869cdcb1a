"""The operations of `ag`: each rule computes a value and returns it with its vector-Jacobian products (vjps).

Where arguments need checks or defaults, a function does that and calls the primitive of its name with an underscore.
Begin with `elementwise` for the simplest, then `reductions` and `linalg`. Shapes, names and defaults are torch's, and
NumPy's where torch has none.
"""

from allgrad.autograd.ops.activations import (
    elu, gelu, hardtanh, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus,
)  # fmt: skip
from allgrad.autograd.ops.arrangements import (
    atleast_1d, atleast_2d, atleast_3d, broadcast_tensors, column_stack, diag, diag_embed, diagflat, diagonal, dstack,
    fliplr, flipud, hsplit, hstack, meshgrid, movedim, narrow, ravel, repeat_interleave, rot90, select, t, tensor_split,
    tile, trace, unbind, unflatten, vsplit, vstack,
)  # fmt: skip
from allgrad.autograd.ops.attention import scaled_dot_product_attention
from allgrad.autograd.ops.comparisons import (
    all, allclose, any, argwhere, bincount, bitwise_and, bitwise_not, bitwise_or, bitwise_xor, count_nonzero, eq, equal,
    ge, gt, isclose, isfinite, isinf, isnan, isneginf, isposinf, le, logical_and, logical_not, logical_or, logical_xor,
    lt, ne, nonzero, searchsorted, signbit, unique,
)  # fmt: skip
from allgrad.autograd.ops.composed_activations import (
    celu, glu, gumbel_softmax, hardshrink, hardsigmoid, hardswish, logsigmoid, mish, prelu, relu6, selu, softmin,
    softshrink, softsign, tanhshrink, threshold,
)  # fmt: skip
from allgrad.autograd.ops.conversions import clone, is_floating_point, numel
from allgrad.autograd.ops.convolution import conv1d, conv2d, conv_transpose2d
from allgrad.autograd.ops.creation import (
    arange, bernoulli, empty, empty_like, eye, full, full_like, linspace, logspace, multinomial, normal, one_hot, ones,
    ones_like, rand, rand_like, randint, randn, randn_like, randperm, tril_indices, triu_indices, zeros, zeros_like,
)  # fmt: skip
from allgrad.autograd.ops.decompositions import cholesky, det, inv, logdet, matrix_power, slogdet, solve
from allgrad.autograd.ops.dropout import dropout
from allgrad.autograd.ops.elementwise import (
    abs, add, clamp, cos, div, erf, exp, expm1, log, log1p, maximum, minimum, mul, neg, pow, reciprocal, rsqrt, sign,
    sin, sqrt, square, sub, tanh, where,
)  # fmt: skip
from allgrad.autograd.ops.indexing import embedding, gather, index_select, masked_fill, take_along_dim
from allgrad.autograd.ops.linalg import bmm, einsum, linear, matmul, mm, outer
from allgrad.autograd.ops.losses import (
    binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, huber_loss, kl_div, l1_loss, mse_loss,
    nll_loss,
)  # fmt: skip
from allgrad.autograd.ops.margins import (
    cosine_embedding_loss, cosine_similarity, gaussian_nll_loss, hinge_embedding_loss, margin_ranking_loss,
    multi_margin_loss, multilabel_soft_margin_loss, pairwise_distance, poisson_nll_loss, smooth_l1_loss,
    soft_margin_loss, triplet_margin_loss,
)  # fmt: skip
from allgrad.autograd.ops.more_normalization import instance_norm, local_response_norm, rms_norm
from allgrad.autograd.ops.normalization import batch_norm, group_norm, layer_norm, NoVarianceError, part_of_batch
from allgrad.autograd.ops.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from allgrad.autograd.ops.products import (
    addmm, addmv, addr, baddbmm, cdist, cross, dist, dot, inner, kron, mv, normalize, tensordot,
)  # fmt: skip
from allgrad.autograd.ops.reductions import (
    amax, amin, argmax, argmin, cumsum, logsumexp, max, mean, min, norm, prod, std, sum, var,
)  # fmt: skip
from allgrad.autograd.ops.resampling import channel_shuffle, fold, interpolate, unfold
from allgrad.autograd.ops.rounding import (
    ceil, clamp_max, clamp_min, copysign, floor, floor_divide, fmax, fmin, fmod, frac, nan_to_num, remainder, round,
    sgn, trunc,
)  # fmt: skip
from allgrad.autograd.ops.scans import cumprod, diff, logcumsumexp, nanmean, nansum
from allgrad.autograd.ops.scatter import (
    index_add, index_copy, index_fill, index_put, masked_scatter, masked_select, scatter, scatter_add, scatter_reduce,
    take,
)  # fmt: skip
from allgrad.autograd.ops.shapes import (
    broadcast_to, cat, chunk, concatenate, expand, flatten, flip, pad, permute, reshape, roll, split, squeeze, stack,
    transpose, tril, triu, unsqueeze,
)  # fmt: skip
from allgrad.autograd.ops.sorting import aminmax, argsort, cummax, cummin, kthvalue, median, msort, quantile, sort, topk
from allgrad.autograd.ops.spatial import (
    adaptive_avg_pool1d, adaptive_avg_pool3d, adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d, avg_pool1d,
    avg_pool3d, conv3d, conv_transpose1d, conv_transpose3d, lp_pool1d, lp_pool2d, max_pool1d, max_pool3d, pixel_shuffle,
    pixel_unshuffle,
)  # fmt: skip
from allgrad.autograd.ops.special import (
    acos, acosh, addcdiv, addcmul, asin, asinh, atan, atan2, atanh, cosh, deg2rad, digamma, erfc, erfinv, exp2, hypot,
    lerp, lgamma, log10, log2, logaddexp, logaddexp2, logit, polygamma, rad2deg, sinc, sinh, tan, xlogy,
)  # fmt: skip
