"""A compact reverse-mode autograd over NumPy arrays: tensors, operations, derivatives of any order, networks.

import autograd as ag
x = ag.tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
x.grad                                     # array([2., 4.])
"""

import sys

from autograd import random
from autograd.activations import (
    elu, gelu, hardtanh, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus,
)  # fmt: skip
from autograd.anomaly import detect_anomaly
from autograd.arena import Arena
from autograd.arithmetic import (
    abs, add, clamp, cos, div, erf, exp, expm1, log, log1p, maximum, minimum, mul, neg, pow, reciprocal, rsqrt, sign,
    sin, sqrt, square, sub, tanh, where,
)  # fmt: skip
from autograd.attention import scaled_dot_product_attention
from autograd.capture import capture
from autograd.check import gradcheck
from autograd.convolution import conv1d, conv2d, conv_transpose2d
from autograd.core import (
    Tensor, default_dtype, enable_grad, get_default_dtype, no_grad, primitive, shared, tensor,
)  # fmt: skip
from autograd.count import count_operations
from autograd.draw import draw_graph, to_dot
from autograd.dropout import dropout
from autograd.indexing import embedding, gather, index_select, masked_fill, take_along_dim
from autograd.kernels import xp as _xp
from autograd.losses import (
    binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, huber_loss, kl_div, l1_loss, mse_loss,
    nll_loss,
)  # fmt: skip
from autograd.normalization import batch_norm, group_norm, layer_norm
from autograd.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from autograd.products import bmm, einsum, linear, matmul, mm, outer
from autograd.random import manual_seed
from autograd.reductions import amax, amin, argmax, argmin, cumsum, logsumexp, max, mean, min, norm, prod, std, sum, var
from autograd.shapes import (
    broadcast_to, cat, chunk, concatenate, expand, flatten, flip, pad, permute, reshape, roll, split, squeeze, stack,
    transpose, tril, triu, unsqueeze,
)  # fmt: skip
from autograd.summary import summary
from autograd.transforms import grad, hessian, hvp, jacobian, jvp, vjp

permute_dims, clip = permute, clamp
_xp[Tensor] = sys.modules[__name__]  # inside a nested transformation the rules compute with our own operations
