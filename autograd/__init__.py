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
    default_dtype, enable_grad, get_default_dtype, grad, hessian, hvp, jacobian, jvp, no_grad, primitive, shared,
    Tensor, tensor, vjp,
)  # fmt: skip
from allgrad.autograd.ops import (
    abs, adaptive_avg_pool2d, add, amax, amin, argmax, argmin, avg_pool2d, batch_norm, binary_cross_entropy,
    binary_cross_entropy_with_logits, bmm, broadcast_to, cat, chunk, clamp, concatenate, conv1d, conv2d,
    conv_transpose2d, cos, cross_entropy, cumsum, div, dropout, einsum, elu, embedding, erf, exp, expand, expm1,
    flatten, flip, gather, gelu, group_norm, hardtanh, huber_loss, index_select, kl_div, l1_loss, layer_norm,
    leaky_relu, linear, log, log1p, log_softmax, logsumexp, masked_fill, matmul, max, max_pool2d, maximum, mean,
    min, minimum, mm, mse_loss, mul, neg, nll_loss, norm, outer, pad, permute, pow, prod, reciprocal, relu, reshape,
    roll, rsqrt, scaled_dot_product_attention, sigmoid, sign, silu, sin, softmax, softplus, split, sqrt, square,
    squeeze, stack, std, sub, sum, take_along_dim, tanh, transpose, tril, triu, unsqueeze, var, where,
)  # fmt: skip
from allgrad.autograd.ops import (
    adaptive_avg_pool1d, adaptive_avg_pool3d, adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d,
    avg_pool1d, avg_pool3d, celu, conv3d, conv_transpose1d, conv_transpose3d, cosine_embedding_loss,
    cosine_similarity, gaussian_nll_loss, glu, hardshrink, hardsigmoid, hardswish, hinge_embedding_loss,
    instance_norm, local_response_norm, logsigmoid, lp_pool1d, lp_pool2d, margin_ranking_loss, max_pool1d,
    max_pool3d, mish, multi_margin_loss, multilabel_soft_margin_loss, pairwise_distance, pixel_shuffle,
    pixel_unshuffle, poisson_nll_loss, prelu, relu6, rms_norm, selu, smooth_l1_loss, soft_margin_loss, softmin,
    softshrink, tanhshrink, threshold, triplet_margin_loss,
)  # fmt: skip
from allgrad.autograd.random import manual_seed
from allgrad.autograd.replay import capture
from allgrad.autograd.tools import count_operations, detect_anomaly, draw_graph, gradcheck, summary, to_dot

permute_dims, clip = permute, clamp
_xp[Tensor] = _sys.modules[__name__]  # inside a nested transformation the rules compute with our own operations
_load()  # of the libraries that are imported already; of others when their first array comes along
