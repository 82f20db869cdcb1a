"""A compact reverse-mode autograd over NumPy arrays: tensors, operations, derivatives of any order, networks.

import autograd as ag
x = ag.tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
x.grad                                     # array([2., 4.])
"""

import sys

from autograd import random
from autograd.activations import leaky_relu, log_softmax, relu, sigmoid, softmax
from autograd.arena import Arena
from autograd.arithmetic import (
    abs, add, clamp, cos, div, exp, log, log1p, maximum, minimum, mul, neg, pow, sign, sin, sqrt, sub, tanh, where,
)  # fmt: skip
from autograd.check import gradcheck
from autograd.core import (
    Tensor, default_dtype, enable_grad, get_default_dtype, no_grad, primitive, shared, tensor,
)  # fmt: skip
from autograd.draw import draw_graph
from autograd.dropout import dropout
from autograd.indexing import take_along_dim
from autograd.kernels import xp as _xp
from autograd.losses import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from autograd.products import linear, matmul
from autograd.random import manual_seed
from autograd.reductions import amax, amin, argmax, logsumexp, mean, std, sum, var
from autograd.shapes import (
    broadcast_to, concatenate, expand, flatten, permute, reshape, squeeze, stack, transpose, unsqueeze,
)  # fmt: skip
from autograd.transforms import grad, hvp, jacobian, jvp, vjp

permute_dims = permute
_xp[Tensor] = sys.modules[__name__]  # inside a nested transformation the rules compute with our own operations
