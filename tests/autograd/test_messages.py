"""Every message of the package, in one table: what was done, and what is said about it."""

import ast
import operator
from pathlib import Path

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd import init, schedule
from allgrad.autograd.ops import part_of_batch
from tests.autograd.ops.messages import MESSAGES


def tensor(*shape, name="A"):
    return ag.tensor(np.zeros(shape), requires_grad=True, name=name)


def consumed(*, inside):
    y = tensor(3).exp()
    (y * 2.0).sum().backward()
    return (y + 1.0).sum() if inside else y


def modified():
    x = tensor(3, name="fc1.weight")
    y = (x * x).sum()
    x.assign(1.0)
    return y


def float64_gradient():
    x = ag.tensor([1.0], requires_grad=True, name="fc1.bias")
    (x * np.ones(1)).sum().backward()


def apart():
    return ag.Arena({"a": nn.Parameter([1.0]), "b": nn.Parameter(torch.ones(1))})


def changing():
    w, scale = tensor(2), [1.0]

    def f(x):
        scale[0] += 1.0
        (w * x * scale[0]).sum().backward()

    ag.capture(f)(np.ones(2))


def anomalous():
    with ag.detect_anomaly():
        ag.capture(lambda x: None)(np.ones(2))


def moved():
    p = nn.Parameter([1.0], name="p")
    arena = ag.Arena({"p": p})
    ag.Arena({"q": p})
    arena.zero_missing_grads()


def replaced():
    p = nn.Parameter([1.0], name="p")
    arena = ag.Arena({"p": p})
    p.data = np.ones(1, np.float32)
    arena.zero_missing_grads()


def frozen():
    p = nn.Parameter([1.0], name="p")
    arena = ag.Arena({"p": p})
    p.requires_grad = False
    arena.zero_missing_grads()


def untrained():
    model = nn.Linear(2, 3)
    optimizer = optim.SGD(model, lr=1.0)
    model.bias = nn.Parameter(np.zeros(3))
    model(np.ones((1, 2), "f4")).sum().backward()
    optimizer.step()


def module(**attributes):
    model = nn.Module()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def mixed():
    return ag.Arena({"a": nn.Parameter([1.0]), "b": nn.Parameter([1.0], dtype="float64")})


def model_in_arena():
    model = nn.Linear(2, 3)
    optim.SGD(model, lr=1.0)
    return model


def in_parts(f):
    with part_of_batch(lambda sums: sums):
        f(tensor(1, 3))


def momentum(**options):
    return optim.SGD({"w": nn.Parameter([1.0, 2.0])}, lr=0.1, momentum=0.9, **options)


def weight():
    return [nn.Parameter([1.0])]


def step_of_an_average():
    optimizer = optim.ScheduleFreeSGD(weight())
    optimizer.step()
    optimizer.eval()
    optimizer.step()


def update_of_an_average():
    ema = optim.EMA(weight(), 0.5)
    ema.update()
    ema.eval()
    ema.update()


def set_in_group(key, value):
    optim.SGD(weight(), lr=0.1).param_groups[0][key] = value


def clip_nan():
    (p,) = weight()
    p.backward(np.array([np.nan], "f4"))
    optim.clip_grad_norm([p], 1.0, error_if_nonfinite=True)


@ag.primitive
def stubborn(a, b):
    raise ValueError("no reason")


def watched(call):
    with ag.detect_anomaly():
        call()


def overflowing():
    x = ag.tensor([1e-10], requires_grad=True, name="A")
    (x * 3e38 + x * 3e38).sum().backward()


def swept():
    loss = tensor(3).sum()
    loss.backward()
    return loss


class Bare(nn.ModuleList):
    def __init__(self):
        pass


KEPT: list = []
V, R, T, K, A = ValueError, RuntimeError, TypeError, KeyError, AttributeError
NO = "autograd computes on NumPy arrays, torch tensors, numbers and Tensors, not on"
TWICE = "a second time: the first pass freed what it saved (pass retain_graph=True to the first one)"
REDUCTION = 'reduction is "mean", "sum" or "none", got'
TABLE = [
    # recording
    (V, "add: shapes (2, 3) and (2,) do not fit together (", lambda: tensor(2, 3) + np.ones(2)),
    (V, "mul: shapes (4,) and (2, 3) do not fit together (", lambda: np.ones(4) * tensor(2, 3)),
    (V, "stubborn: shapes (2, 3) and () do not fit together (no reason)", lambda: stubborn(tensor(2, 3), 1.0)),
    (V, "matmul: shapes (64, 784) and (128, 784) do not fit together (", lambda: tensor(64, 784) @ tensor(128, 784)),
    (V, "linear: shapes (2, 3) and (4, 2) do not fit together (", lambda: ag.linear(tensor(2, 3), np.ones((4, 2)))),
    (V, "linear: shapes (2, 3) and (3,) do not fit together (the last axis of the input",
     lambda: ag.linear(ag.tensor(torch.ones(2, 3)), torch.ones(3))),
    (V, "linear: shapes (2, 3) and (4, 3) and (3,) do not",
     lambda: ag.linear(tensor(2, 3), np.ones((4, 3)), np.ones(3))),
    (V, "concatenate: shapes (1,) and (1, 1) do not fit", lambda: ag.concatenate([tensor(1), np.ones((1, 1))])),
    (V, "where: shapes (2,) and (2, 3) and () do not fit", lambda: ag.where(np.ones(2) > 0, tensor(2, 3), 0.0)),
    (V, "matmul: shapes (2, 3) and (4, 5) do", lambda: ag.grad(lambda x: (x @ np.ones((4, 5))).sum())(tensor(2, 3))),
    (T, f"add: {NO} list", lambda: tensor(2) + [1.0, 2.0]),
    (T, f"exp: {NO} str", lambda: ag.exp("1")),
    (T, f"linear: {NO} list", lambda: ag.linear([1.0], tensor(1, 1))),
    (T, "np.linalg.svd: a tensor that requires a gradient would become an array, and the gradient would be lost: use a "
     "function of allgrad, or give x.detach().numpy()", lambda: np.linalg.svd(tensor(2, 2))),
    (T, "tensor: a tensor that requires a gradient would become an array", lambda: ag.tensor(tensor(2) * 2.0)),
    (T, "operand 'Tensor' does not support ufuncs", lambda: np.exp(tensor(2))),
    (T, "requires_grad needs a floating dtype, 'idx' is int64: write 1.0 instead of 1, or pass dtype=\"float32\"",
     lambda: ag.tensor([1, 2], requires_grad=True, name="idx")),
    (T, "requires_grad needs a floating dtype, 'input' is int64", lambda: ag.grad(lambda x: x.sum())(np.arange(3))),
    # backward
    (R, "backward() without a gradient needs a scalar, got shape (2, 3): reduce the loss, or pass a gradient of that "
     "shape", lambda: (tensor(2, 3) * 2.0).backward()),
    (R, "backward() of shape (2, 3) got a gradient of shape (3,)", lambda: tensor(2, 3).exp().backward(np.ones(3))),
    (R, "backward() on a tensor that no parameter reaches (computed under no_grad, or from constants only)",
     lambda: ag.tensor(1.0).backward()),
    (R, f"backward through 'exp' {TWICE}", lambda: consumed(inside=True).backward()),
    (R, f"backward through 'exp' {TWICE}", lambda: consumed(inside=False).backward(np.ones(3))),
    (R, "'fc1.weight' was modified in place after 'mul' used it: run backward before optimizer.step()",
     lambda: modified().backward()),
    (UserWarning, "gradient of 'fc1.bias' arrived as float64, not float32: an array of another dtype entered the graph",
     float64_gradient),
    # leaves
    (AttributeError, "grad can only be reset, by x.grad = None: backward(g) is what adds to it",
     lambda: setattr(tensor(2), "grad", np.ones(2))),
    (AttributeError, "grad belongs to leaves, this tensor was computed by 'mul': to change a parameter write w.assign(",
     lambda: setattr(tensor(2) * 2.0, "grad", None)),
    (V, "assign: a tensor of shape (2,) takes a number or an array of its shape", lambda: tensor(2).assign(np.ones(3))),
    (V, "assign: a tensor of shape (2,) takes a number or an array of its shape", lambda: tensor(2).assign(None)),
    (R, "'A', a leaf that requires a gradient, is changed in place where operations are recorded: do it under `with "
     "ag.no_grad():`, or compute a new tensor, x = x * 2", lambda: operator.imul(tensor(2), 2.0)),
    (R, "x[...] = value is not recorded, and x or the value requires a gradient: compute a new tensor, by ag.where or ",
     lambda: operator.setitem(tensor(2), 0, 1.0)),
    (V, "compute_in: dtype is bfloat16 or float16, got 'int8'",
     lambda: ag.Arena(nn.Linear(2, 2).to(device="cpu")).compute_in("int8")),
    (R, "the data of 'p' were replaced, training would not reach them: write p.assign(value) instead of", replaced),
    (R, "register_hook needs a leaf, this tensor was computed by 'sum'", lambda: tensor(2).sum().register_hook(print)),
    (R, "retain_grad: only leaves keep a gradient, this is of 'mul': take it from ag.vjp of what follows, or go on",
     lambda: (tensor(2) * 2.0).retain_grad()),
    (T, "from_numpy: takes a NumPy array, got list: use as_tensor", lambda: ag.from_numpy([1.0])),
    (R, "assign needs a leaf, this tensor was computed by 'mul'", lambda: (tensor(2) * 2.0).assign(1.0)),
    # operations
    (V, "mse_loss: shapes (2, 3) and (3,) differ, and broadcasting them would average over wrong pairs",
     lambda: ag.mse_loss(tensor(2, 3), np.zeros(3))),
    (V, "binary_cross_entropy_with_logits: logits (2, 3) and targets (2,) must have one shape",
     lambda: ag.binary_cross_entropy_with_logits(tensor(2, 3), np.zeros(2))),
    (V, "cross_entropy: logits (2, 3) need integer labels of shape (2,) or probabilities of shape (2, 3), got int64 of "
     "shape (3,)", lambda: ag.cross_entropy(tensor(2, 3), np.zeros(3, int))),
    (V, "cross_entropy: logits () need integer labels", lambda: ag.cross_entropy(tensor(), 0)),
    (V, "cross_entropy: logits (2, 3) need integer labels", lambda: ag.cross_entropy(tensor(2, 3), [True, False])),
    (V, "cross_entropy: probabilities (3,) for logits (2, 3)", lambda: ag.cross_entropy(tensor(2, 3), np.zeros(3))),
    (V, "cross_entropy: label 3 is not one of the 3 classes 0 .. 2", lambda: ag.cross_entropy(tensor(2, 3), [0, 3])),
    (V, "cross_entropy: label -1 is not one of the 3 classes 0 .. 2", lambda: ag.cross_entropy(tensor(2, 3), [-1, 0])),
    (V, f"cross_entropy: {REDUCTION} 'avg'", lambda: ag.cross_entropy(tensor(2, 3), [0, 1], "avg")),
    (V, f"mse_loss: {REDUCTION} None", lambda: ag.mse_loss(tensor(2), np.zeros(2), reduction=None)),
    (V, f"binary_cross_entropy_with_logits: {REDUCTION} 'avg'",
     lambda: ag.binary_cross_entropy_with_logits(tensor(2), np.zeros(2), reduction="avg")),
    (V, "take_along_dim: (2, 3) needs integer indices of 2 axes, got int64 of (1,)",
     lambda: tensor(2, 3).take_along_dim([0], 1)),
    (V, "gather: (2, 3) needs integer indices of 2 axes, got float64 of (2, 3)",
     lambda: ag.gather(tensor(2, 3), 0, np.zeros((2, 3)))),
    (V, "index_select: needs a vector of integers, got bool of shape (2,)",
     lambda: ag.index_select(tensor(2), 0, [True, False])),
    (V, "embedding: rows of a table (2, 3) are numbered from 0, got int64 indices from -1 on",
     lambda: ag.embedding([0, -1], tensor(2, 3))),
    (V, "sum: axis 2 is out of bounds for array of dimension 2", lambda: tensor(2, 3).sum(2)),
    (V, "squeeze: axis 1 is out of bounds for array of dimension 1", lambda: tensor().squeeze(1)),
    (T, "amax: an axis is an integer, not True: name the argument that was meant", lambda: tensor(2, 3).amax(True)),
    (V, "permute: (0, 0) does not name each axis of the shape (2, 3) once", lambda: tensor(2, 3).permute(0, 0)),
    (V, "split: sizes [1, 1] do not add up to the length 3 of axis 1", lambda: ag.split(tensor(2, 3), [1, 1], 1)),
    (V, "split: a piece has at least 1 element, got 0", lambda: ag.split(tensor(2, 3), 0)),
    (V, "pad: pads (1, 2, 3) of a shape (2, 3) in mode 'constant': give pairs, for some of its axes, and mode "
     '"constant", "replicate", "reflect" or "circular"', lambda: ag.pad(tensor(2, 3), (1, 2, 3))),
    (V, "pad: 3 elements are too few to reflect 5 and 0 of them, on axis 1",
     lambda: ag.pad(tensor(2, 3), (5, 0), "reflect")),
    (V, 'norm: p is a number, math.inf or "fro", got \'nuc\'', lambda: ag.norm(tensor(2, 3), "nuc")),
    (V, 'gelu: approximate is "none" or "tanh", got \'sigmoid\'', lambda: ag.gelu(tensor(2), "sigmoid")),
    (V, 'div: rounding_mode is None, "floor" or "trunc", got \'up\'', lambda: ag.div(tensor(2), 2, rounding_mode="up")),
    (V, "bmm: shapes (2, 3, 4) and (3, 4, 5) must have 3 axes and fit; matmul takes any",
     lambda: ag.bmm(tensor(2, 3, 4), tensor(3, 4, 5))),
    (V, "einsum: 'ij,jk' names 2 operands, got 1", lambda: ag.einsum("ij,jk", tensor(2, 3))),
    (V, "einsum: 'ij->j' has 2 labels for an operand of shape (2,)", lambda: ag.einsum("ij->j", tensor(2))),
    (V, "einsum: 'ii' repeats a label over axes of different lengths, in shape (2, 3)",
     lambda: ag.einsum("ii", tensor(2, 3))),
    (V, "conv2d: an image (1, 3, 8, 8) and a weight (4, 2, 3, 3) with groups=1 do not fit together: the weight expects "
     "2 channels, and groups of equal size", lambda: ag.conv2d(tensor(1, 3, 8, 8), tensor(4, 2, 3, 3))),
    (V, "conv2d: windows over (3, 5) elements are larger than the image (3, 3) with padding 0",
     lambda: ag.conv2d(tensor(1, 1, 3, 3), tensor(1, 1, 3, 3), dilation=(1, 2))),
    (V, "conv2d: kernel (3, 3), stride (0, 0) and dilation (1, 1) must be at least 1, padding 0 at least 0",
     lambda: ag.conv2d(tensor(1, 1, 3, 3), tensor(1, 1, 3, 3), stride=0)),
    (V, 'conv2d: padding "same" needs stride 1, got (2, 2)',
     lambda: ag.conv2d(tensor(1, 1, 3, 3), tensor(1, 1, 3, 3), stride=2, padding="same")),
    (V, "conv_transpose2d: output_padding 2 must be below stride 2 or dilation 1",
     lambda: ag.conv_transpose2d(tensor(1, 1, 3, 3), tensor(1, 1, 3, 3), stride=2, output_padding=2)),
    (V, "max_pool2d: padding 2 is more than half of the windows (3, 3)",
     lambda: ag.max_pool2d(tensor(1, 1, 8, 8), 3, padding=2)),
    (V, "layer_norm: x of shape (2, 3) does not end in the normalized shape (2,)",
     lambda: ag.layer_norm(tensor(2, 3), 2)),
    (V, "group_norm: 3 channels cannot be cut into 2 groups", lambda: ag.group_norm(tensor(2, 3), 2)),
    (V, "group_norm: x of shape (3,) has no channels: it needs a shape (N, C, ...)",
     lambda: ag.group_norm(tensor(3), 1)),
    (V, "batch_norm: eps must be positive, got 0", lambda: ag.batch_norm(tensor(2, 3), training=True, eps=0)),
    (V, "batch_norm: a batch of shape (1, 3) has 1 value a channel: no variance to train with",
     lambda: ag.batch_norm(tensor(1, 3), training=True)),
    (V, "batch_norm: all parts of the batch have 1 value a channel: no variance to train with",
     lambda: in_parts(lambda x: ag.batch_norm(x, training=True))),
    (NotImplementedError, "batch_norm: over the parts of a batch it can be differentiated once: normalise each part by "
     "itself for derivatives of derivatives",
     lambda: in_parts(lambda x: ag.grad(lambda y: ag.batch_norm(y, training=True).sum())(x))),
    (V, "batch_norm: without running_mean and running_var, only training=True has statistics to use",
     lambda: ag.batch_norm(tensor(2, 3))),
    (V, "scaled_dot_product_attention: give attn_mask or is_causal, not both",
     lambda: ag.scaled_dot_product_attention(*[tensor(2, 3)] * 3, np.ones((2, 2), bool), is_causal=True)),
    (V, "huber_loss: delta must be above 0, got 0", lambda: ag.huber_loss(tensor(2), np.zeros(2), delta=0)),
    (V, "nll_loss: label 3 is not one of the 3 classes 0 .. 2", lambda: ag.nll_loss(tensor(2, 3), [0, 3])),
    (V, "expand: -1 keeps the length of an axis, but (-1, 3) adds 1 before those of (3,)",
     lambda: tensor(3).expand(-1, 3)),
    (V, "clamp: give min, max or both", lambda: tensor(2).clamp()),
    (V, "dropout: p is a probability, got 1.5", lambda: ag.dropout(tensor(2), 1.5)),
    # transformations
    (V, "vjp: the pullback of a value of shape (3,) got a gradient of shape (1,)",
     lambda: ag.vjp(ag.exp, np.ones(3))[1](np.ones(1))),
    (V, "grad: the function must return a scalar, got shape (3,): use vjp or jacobian",
     lambda: ag.grad(lambda x: x * 2.0)(np.ones(3))),
    (AssertionError, "gradcheck: the rules give ", lambda: ag.gradcheck(lambda x: x * x.detach(), np.ones(3))),
    (R, "draw_graph: the result does not depend on anything that requires a gradient",
     lambda: ag.draw_graph(lambda: ag.tensor(1.0), {})),
    (V, "reshape: cannot reshape array of size 6 into shape (4,2), for an array of shape (2, 3)",
     lambda: tensor(2, 3).reshape(4, 2)),
    (V, "broadcast_to: ", lambda: tensor(2, 3).expand(4, 3)),
    (IndexError, "getitem: index 2 is out of bounds for axis 0 with size 2, for an array of shape (2, 3)",
     lambda: tensor(2, 3)[2]),
    (V, "softmax: axis 2 is out of bounds for array of dimension 2, for an array of shape (2, 3)",
     lambda: ag.softmax(tensor(2, 3), 2)),
    (T, "leaky_relu: ", lambda: ag.leaky_relu(tensor(2), "x")),
    (V, "sum: the axes (0, 0) name one twice", lambda: tensor(2, 3).sum((0, 0))),
    (V, "linear: shapes (2, 5) and (4, 3) and (4,) do not fit together (the last axis of the input must be as long as "
     "that of the weight (out, in), and the bias (out,))", lambda: nn.Linear(3, 4)(tensor(2, 5))),
    (V, "matmul: shapes (2, 3) and (2, 3) do not fit together (the last axis of the first must be as long as the last "
     "but one of the second, or its only one)", lambda: tensor(2, 3) @ tensor(2, 3)),
    (V, "add: shapes (2, 3) and (2,) do not fit together (axes count from the last: equally long, or 1)",
     lambda: tensor(2, 3) + tensor(2)),
    (V, "concatenate: shapes (2, 3) and (2, 4) do not fit together (all axes but the one along which they are joined "
     "must be equally long)", lambda: ag.cat([tensor(2, 3), tensor(2, 4)])),
    (V, "concatenate: joins one or more arrays along an axis they have, got 0 scalars", lambda: ag.cat([])),
    (T, "concatenate: an axis is an integer, not 'x'", lambda: ag.cat([tensor(2)], "x")),
    (T, "unsqueeze: an axis is an integer, not None", lambda: tensor(2).unsqueeze()),
    (V, "stack: needs one or more arrays of one shape, got [(2,), (3,)]", lambda: ag.stack([tensor(2), tensor(3)])),
    (V, "stack: needs one or more arrays of one shape, got []", lambda: ag.stack([])),
    (V, "flatten: start_dim 1 comes after end_dim 0 in the shape (2, 3)", lambda: tensor(2, 3).flatten(1, 0)),
    (T, "split: sizes are an integer or a list of integers, got 1.5", lambda: ag.split(tensor(4), 1.5)),
    (V, "split: sizes [5, -1] do not add up to the length 4", lambda: ag.split(tensor(4), [5, -1])),
    (V, "chunk: the number of chunks is an integer of at least 1, got 0", lambda: ag.chunk(tensor(4), 0)),
    (T, "conv1d: image, weight and bias are of int64, int64, float64: convert the integers to floating numbers",
     lambda: ag.conv1d(ag.tensor(np.ones((1, 1, 3), int)), np.ones((1, 1, 1), int), np.ones(1))),
    (T, "erf: computes in float64 at most, not in ", lambda: ag.erf(ag.tensor(np.ones(2, np.longdouble)))),
    (V, "flip: the axes (0, 0) name one twice", lambda: ag.flip(tensor(2, 3), (0, 0))),
    (V, "pad: 2 elements are too few to circular 5 and 0 of them", lambda: ag.pad(tensor(1, 2), (5, 0), "circular")),
    (V, "max_pool2d: needs images (N, C, H, W) or (C, H, W), got a shape (3, 4)",
     lambda: ag.max_pool2d(tensor(3, 4), 2)),
    (V, "roll: shifts (1,) for the axes (0, 1)", lambda: ag.roll(tensor(2, 3), (1,), (0, 1))),
    (V, "roll: shifts (1, 2) for the axes None", lambda: ag.roll(tensor(2, 3), (1, 2))),
    (V, "roll: shifts (1, 2) for the axes (0,): give an integer for each axis, or one without axes",
     lambda: ag.roll(tensor(2, 3), (1, 2), 0)),
    (V, "pad: pads (-2, -2) cut off more than the shape (2, 3) has", lambda: ag.pad(tensor(2, 3), (-2, -2))),
    (V, "pad: pads 1 of a shape (2, 3) in mode 'constant': give pairs", lambda: ag.pad(tensor(2, 3), 1)),
    (V, "tril: needs matrices and an integer diagonal, got a shape (3,)", lambda: ag.tril(tensor(3))),
    (IndexError, "gather: indices of shape (1, 3) from 0 to 5 do not all lie in the shape (2, 3) (index 5 is out of",
     lambda: ag.gather(tensor(2, 3), 0, np.array([[0, 1, 5]]))),
    (IndexError, "index_select: indices of shape (2,) from 0 to 4 do not all lie in the shape (2, 3) (",
     lambda: ag.index_select(tensor(2, 3), 0, np.array([0, 4]))),
    (V, "masked_fill: the mask (2, 2) does not broadcast with the shape (2, 3)",
     lambda: ag.masked_fill(tensor(2, 3), np.ones((2, 2), bool), 0.0)),
    (T, "where: the condition is an array of booleans, such as a > 0, not of float64",
     lambda: ag.where(np.ones(2), tensor(2), 0.0)),
    (IndexError, "embedding: index 5 is out of bounds for axis 0 with size 3, for an array of shape (3, 2)",
     lambda: ag.embedding([0, 5], tensor(3, 2))),
    (V, "embedding: needs a table (V, D) and padding_idx in it, got (3, 2) and 7",
     lambda: ag.embedding([0], tensor(3, 2), padding_idx=7)),
    (V, "dropout: p is a probability, got 'a'", lambda: ag.dropout(tensor(2), "a")),
    (V, "softplus: beta must not be 0", lambda: ag.softplus(tensor(2), beta=0)),
    (V, "hardtanh: min_val 1 is above max_val -1: exchange them", lambda: ag.hardtanh(tensor(2), 1, -1)),
    (V, "cross_entropy: label_smoothing is in [0, 1], got 2.0",
     lambda: ag.cross_entropy(tensor(2, 3), [0, 1], label_smoothing=2.0)),
    (V, "cross_entropy: weight has one number for each class, (3,), got (2,)",
     lambda: ag.cross_entropy(tensor(2, 3), [0, 1], weight=np.ones(2))),
    (V, "nll_loss: weight has one number for each class, (3,), got (2,)",
     lambda: ag.nll_loss(tensor(2, 3), [0, 1], weight=np.ones(2))),
    (V, "cross_entropy: probabilities (2,) for logits (2, 3): they need the same shape, and labels an integer dtype",
     lambda: ag.cross_entropy(tensor(2, 3), np.zeros(2))),
    (T, f"mm: {NO} list", lambda: ag.mm([[1.0]], tensor(1, 1))),
    (V, "outer: needs two vectors, got shapes (2, 3) and (2,)", lambda: ag.outer(tensor(2, 3), tensor(2))),
    (T, "einsum: the equation comes first, such as 'ij,jk->ik', not Tensor", lambda: ag.einsum(tensor(2), "i->")),
    (V, "einsum: 'j' in 'ij,jk->ik' is 3 long in one place, 4 in another",
     lambda: ag.einsum("ij,jk->ik", tensor(2, 3), tensor(4, 5))),
    (V, "einsum: 'ij->k' is not of letters with one '->', and each one of the result once, from the operands",
     lambda: ag.einsum("ij->k", tensor(2, 3))),
    (V, "einsum: 'ij->ii' is not of", lambda: ag.einsum("ij->ii", tensor(2, 3))),
    (V, "einsum: 'i1->i' is not of", lambda: ag.einsum("i1->i", tensor(2, 3))),
    (V, "argmax: a shape (2, 0) has nothing to choose from along axis 1", lambda: tensor(2, 0).max(1)),
    (V, "argmin: axis 4 is out of bounds", lambda: tensor(2, 3).min(4)),
    (V, 'norm: p is a number, math.inf or "fro", got None', lambda: ag.norm(tensor(2), None)),
    (T, "conv2d: kernel (3, 3), stride 1.5, padding 0 and dilation 1 are integers or pairs of them; padding also",
     lambda: ag.conv2d(tensor(1, 1, 8, 8), tensor(1, 1, 3, 3), stride=1.5).sum()),
    (V, "max_pool2d: needs images (N, C, H, W) or (C, H, W), got a shape (4,)", lambda: ag.max_pool2d(tensor(4), 2)),
    (V, "avg_pool2d: divisor_override must not be 0",
     lambda: ag.avg_pool2d(tensor(1, 1, 4, 4), 2, divisor_override=0)),
    (V, "adaptive_avg_pool2d: 0 regions of a shape (1, 1, 4, 4): give at least 1 of an image",
     lambda: ag.adaptive_avg_pool2d(tensor(1, 1, 4, 4), 0)),
    (V, "conv1d: an image (1, 3, 8) and a weight (4, 2, 3) with groups=1 do not fit together",
     lambda: ag.conv1d(tensor(1, 3, 8), tensor(4, 2, 3))),
    (V, "conv1d: windows over (1, 3) elements", lambda: ag.conv1d(tensor(1, 1, 2), tensor(4, 1, 3))),
    (V, "conv2d: groups is an integer of at least 1, got 0",
     lambda: ag.conv2d(tensor(1, 1, 8, 8), tensor(1, 1, 3, 3), groups=0)),
    (V, "conv2d: the bias has one number for each of 4 outputs, got (3,)",
     lambda: ag.conv2d(tensor(1, 1, 8, 8), tensor(4, 1, 3, 3), tensor(3))),
    (V, "conv_transpose2d: the bias has one number for each of 3 outputs, got (2,)",
     lambda: ag.conv_transpose2d(tensor(1, 2, 4, 4), tensor(2, 3, 3, 3), tensor(2))),
    (T, "conv_transpose2d: padding is an integer or a pair of them, not 'same'",
     lambda: ag.conv_transpose2d(tensor(1, 2, 4, 4), tensor(2, 3, 3, 3), padding="same")),
    (V, "conv_transpose2d: padding 9 leaves an image (-12, -12) of (1, 2, 4, 4)",
     lambda: ag.conv_transpose2d(tensor(1, 2, 4, 4), tensor(2, 3, 3, 3), padding=9)),
    (V, "scaled_dot_product_attention: needs (..., L, E), (..., S, E) and (..., S, D), got (2, 3), (2, 4), (2, 3)",
     lambda: ag.scaled_dot_product_attention(tensor(2, 3), tensor(2, 4), tensor(2, 3))),
    (V, "scaled_dot_product_attention: attn_mask is an array that broadcasts to (2, 2), got ndarray of shape (3, 2)",
     lambda: ag.scaled_dot_product_attention(*[tensor(2, 3)] * 3, np.ones((3, 2), bool))),
    (T, "tensor: holds numbers, in arrays, torch tensors, numbers and lists of one length, not None",
     lambda: ag.tensor(None)),
    (V, "jvp: directions of shapes [(3,)] for inputs [(2,)]: give a list of as many alike",
     lambda: ag.jvp(lambda x: x * 2.0, [np.ones(2)], [np.ones(3)])),
    (V, "hvp: a direction (3,) for an input (2,)", lambda: ag.hvp(lambda x: x.sum(), np.ones(2), np.ones(3))),
    (V, "hessian: the function must return a scalar, got shape (2,)", lambda: ag.hessian(lambda x: x)(np.ones(2))),
    (V, "grad: argnum 1 of 1 arguments: they are counted from 0", lambda: ag.grad(lambda x: x, 1)(np.ones(2))),
    (V, "vjp: the pullback of a value of shape (2,) got a gradient of shape (3,)",
     lambda: ag.vjp(lambda x: x * 2.0, np.ones(2))[1](np.ones(3))),
    (T, "vjp: the function must return one Tensor, got float64: differentiate by parts, and compute on Tensors",
     lambda: ag.grad(lambda x: x.data.sum())(np.ones(2))),
    (T, "vjp: the function must return real numbers, got complex128: differentiate parts of it",
     lambda: ag.grad(lambda x: (x * 1j).sum())(np.ones(2))),
    (T, "elu: alpha is a constant here, and requires a gradient, which would be lost: detach() it",
     lambda: ag.elu(tensor(2), tensor())),
    (T, "vjp: the function must return one Tensor, got tuple: differentiate by parts",
     lambda: ag.vjp(lambda x: (x, x), np.ones(2))),
    # tools
    (R, "log at ", lambda: watched(lambda: tensor(3).log())),
    (R, "backward of sqrt at ", lambda: watched(lambda: tensor(3).sqrt().sum().backward())),
    (R, "backward of exp at ", lambda: watched(lambda: tensor().exp().backward(np.inf))),
    (R, "backward: the gradient of 'A', of shape (1,), became inf in the end", lambda: watched(overflowing)),
    (R, "the graph below 'sum' was freed by a backward: look at it before, or pass retain_graph=True to backward",
     lambda: ag.to_dot(swept())),
    (R, "to_dot: the result does not depend on anything that requires a gradient", lambda: ag.to_dot(ag.tensor(1.0))),
    (T, "to_dot: give a tensor, or a function that computes one, not float", lambda: ag.to_dot(3.0)),
    (T, "count_operations: give a function, or a tensor it computed, not int", lambda: ag.count_operations(3)),
    (R, "count_operations: the result does not depend on", lambda: ag.count_operations(lambda: ag.tensor(1.0))),
    (V, "count_operations: the result must be a scalar, got shape (2,): reduce it first",
     lambda: ag.count_operations(lambda x: x * 2.0, np.ones(2))),
    (T, "summary: describes an nn.Module, not int", lambda: ag.summary(3)),
    (V, "Conv2d: 3 and 4 channels cannot be cut into 2 groups", lambda: nn.Conv2d(3, 4, 3, groups=2)),
    (V, "Conv2d: channels and kernel are at least 1, got a weight of shape (4, 3, 0, 0)", lambda: nn.Conv2d(3, 4, 0)),
    (V, "Embedding: needs at least 1 row and column, and padding_idx among the rows, got 3, 2 and 5",
     lambda: nn.Embedding(3, 2, padding_idx=5)),
    (V, "LSTM: sizes and layers are at least 1, got 3, 0, 1", lambda: nn.LSTM(3, 0)),
    (V, "LSTM: needs sequences (T, N, C) or (T, C) with C = 3, none of them 0, got (2, 4)",
     lambda: nn.LSTM(3, 4)(tensor(2, 4))),
    (V, "GRU: needs sequences (N, T, C) or (T, C) with C = 3, none of them 0, got (2, 0, 3)",
     lambda: nn.GRU(3, 4, batch_first=True)(tensor(2, 0, 3))),
    (V, 'LSTM: x is float64, and the weights are float32: convert x, or the layer by to("float64")',
     lambda: nn.LSTM(3, 4)(tensor(5, 2, 3))),
    (T, "LSTM: the state is a pair (h, c) for an LSTM, and h alone otherwise",
     lambda: nn.LSTM(3, 4, dtype="float64")(tensor(5, 2, 3), tensor(1, 2, 4))),
    (V, "GRU: the state is of shapes [(1, 2, 4)] for this x, got [(1, 1, 4)]",
     lambda: nn.GRU(3, 4, dtype="float64")(tensor(5, 2, 3), tensor(1, 1, 4))),
    (T, "GRU: batch_first and bidirectional are bool, got 'False', False", lambda: nn.GRU(3, 4, batch_first="False")),
    (V, "LSTM: proj_size is for an LSTM, and below hidden_size 4, got 4", lambda: nn.LSTM(3, 4, proj_size=4)),
    (V, "GRU: proj_size is for an LSTM, and below hidden_size 4, got 2", lambda: nn.GRU(3, 4, proj_size=2)),
    (V, "GRUCell: sizes are at least 1, got 0, 3", lambda: nn.GRUCell(0, 3)),
    # arenas
    (V, "Arena: no parameters to hold (is every parameter frozen, or the model empty?)", lambda: ag.Arena(nn.ReLU())),
    (T, "Arena: parameters must have one dtype, but a is float32, b is float64", mixed),
    (T, "Arena: parameters must live in one place, but a on numpy, b on cpu: move the model by to(device=...)", apart),
    (T, "to: parameters have a floating dtype such as float32, got int64", lambda: nn.Linear(2, 2).to("int64")),
    (R, "compute_in: the parameters are in no arena yet; make the optimizer first",
     lambda: nn.Linear(2, 2).compute_in("float16")),
    (T, "compute_in: NumPy has no fast bfloat16: make torch tensors of the model by to(device=...)",
     lambda: ag.Arena(nn.Linear(2, 2)).compute_in("bfloat16")),
    (T, "Arena: 'w' is not a parameter but ndarray", lambda: ag.Arena({"w": np.zeros(3)})),
    (T, "Arena: 'parameter0' is not a parameter but Tensor", lambda: ag.Arena([tensor(2) * 2.0])),
    (R, "'q' has left this arena for one made later: make one optimizer for all parameters, or pass the same module or "
     "arena to everything", moved),
    (R, "'p' was frozen after its optimizer was made: make the optimizer anew", frozen),
    (R, "the parameter 'bias' of shape (3,) has a gradient, and no optimizer: keep parameters in attributes, lists, "
     "tuples or dicts of the model, make what trains it once all are there, and freeze others by requires_grad_(False)",
     untrained),
    # layers, and operations for them
    (V, "smooth_l1_loss: beta must be at least 0, got -1", lambda: ag.smooth_l1_loss(tensor(2), tensor(2), beta=-1)),
    (V, "margin_ranking_loss: both inputs and the target have as many axes, got [(2,), (2,), ()]",
     lambda: ag.margin_ranking_loss(tensor(2), tensor(2), 1.0)),
    (V, "cosine_embedding_loss: inputs are (N, D) and target (N,), or (D,) and (), got (2, 3), (2, 3), (2, 3)",
     lambda: ag.cosine_embedding_loss(*[tensor(2, 3)] * 3)),
    (V, "triplet_margin_loss: three inputs of as many axes and a margin above 0, got [(2,), (2,), (2,)] and 0",
     lambda: ag.triplet_margin_loss(*[tensor(2)] * 3, margin=0)),
    (V, "gaussian_nll_loss: a variance is at least 0, got -1.0",
     lambda: ag.gaussian_nll_loss(tensor(2, 3), tensor(2, 3), -1.0)),
    (V, "gaussian_nll_loss: var broadcasts to the shape (2, 3), or lacks its last axis, got (3, 2)",
     lambda: ag.gaussian_nll_loss(tensor(2, 3), tensor(2, 3), np.ones((3, 2)))),
    (V, "multi_margin_loss: needs p = 1 or 2, predictions (N, C) and integer labels (N,), got p = 3, (2, 3) and int64 "
     "of shape (2,)", lambda: ag.multi_margin_loss(tensor(2, 3), np.zeros(2, int), 3)),
    (V, "celu: alpha must not be 0", lambda: ag.celu(tensor(2), 0)),
    (V, "prelu: weight has 1 slope, or one for each channel of (2, 3), got (2,)",
     lambda: ag.prelu(tensor(2, 3), tensor(2))),
    (V, "glu: axis -1 of the shape (2, 3) cannot be cut into halves", lambda: ag.glu(tensor(2, 3))),
    (V, "softshrink: lambd must be at least 0, got -1", lambda: ag.softshrink(tensor(2), -1)),
    (V, "rms_norm: x of shape (2, 3) does not end in the normalized shape (2,)", lambda: ag.rms_norm(tensor(2, 3), 2)),
    (V, "instance_norm: needs x (N, C, ...) with more than 1 place a channel, got (2, 3, 1)",
     lambda: ag.instance_norm(tensor(2, 3, 1))),
    (V, "local_response_norm: needs x (N, C, L, ...) and a size of at least 1, got (2, 3)",
     lambda: ag.local_response_norm(tensor(2, 3), 2)),
    (T, "conv3d: kernels, strides and paddings are 3 integers, or one for all axes, got (1, 2)",
     lambda: ag.conv3d(tensor(1, 2, 3, 3, 3), tensor(2, 2, 1, 1, 1), stride=(1, 2))),
    (V, "max_pool1d: needs x (N, C, L) or (C, L), got (2,)", lambda: ag.max_pool1d(tensor(2), 2)),
    (V, "conv3d: x (1, 2, 3, 3, 3) and a weight (2, 3, 1, 1, 1) do not fit together: the weight expects 3 channels",
     lambda: ag.conv3d(tensor(1, 2, 3, 3, 3), tensor(2, 3, 1, 1, 1))),
    (V, 'conv3d: padding "same" needs stride 1, got 2 along the depth',
     lambda: ag.conv3d(tensor(1, 2, 3, 3, 3), tensor(2, 2, 1, 1, 1), stride=2, padding="same")),
    (V, "conv3d: a depth of 3 with kernel 4, stride 1 and dilation 1 has no window: all are at least 1, and the",
     lambda: ag.conv3d(tensor(1, 2, 3, 3, 3), tensor(2, 2, 4, 1, 1))),
    (V, "conv_transpose3d: a depth of 3 with stride 1, padding 0, dilation 1 and output_padding 1: gives 4, and",
     lambda: ag.conv_transpose3d(tensor(1, 2, 3, 3, 3), tensor(2, 2, 1, 1, 1), output_padding=1)),
    (V, "adaptive_max_pool2d: 0 regions of x (2, 3, 3): it needs at least 1 along each of 2 axes",
     lambda: ag.adaptive_max_pool2d(tensor(2, 3, 3), 0)),
    (V, "pixel_shuffle: 3 channels are no multiple of 2 * 2", lambda: ag.pixel_shuffle(tensor(3, 2, 2), 2)),
    (V, "pixel_unshuffle: an image of 2 x 3 is not of multiples of 2", lambda: ag.pixel_unshuffle(tensor(3, 2, 3), 2)),
    (V, 'Conv2d: padding_mode is "zeros", "reflect", "replicate" or "circular", got \'mirror\'',
     lambda: nn.Conv2d(1, 1, 3, padding_mode="mirror")),
    (V, 'ConvTranspose2d: padding_mode is "zeros", got \'reflect\'',
     lambda: nn.ConvTranspose2d(1, 1, 3, padding_mode="reflect")),
    (V, "ZeroPad2d: padding is an integer or 4 of them, (left, right) of the last axis first, got (1, 2)",
     lambda: nn.ZeroPad2d((1, 2))),
    (V, "ReflectionPad2d: needs x of 3 or 4 axes, got the shape (2, 3)", lambda: nn.ReflectionPad2d(1)(tensor(2, 3))),
    (V, "Dropout2d: needs x (N, C, ...), got (2,)", lambda: nn.Dropout2d()(tensor(2))),
    (V, "Bilinear: inputs and outputs are at least 1, got 1, 0 and 2", lambda: nn.Bilinear(1, 0, 2)),
    (V, "Unflatten: axis 1 of (2, 6) cannot be cut into (4, -1)", lambda: nn.Unflatten(1, (4, -1))(tensor(2, 6))),
    (V, "Embedding: gradients are dense here: leave sparse=True out", lambda: nn.Embedding(3, 2, sparse=True)),
    (V, "Embedding: the weight is (3, 2), got (2, 3)", lambda: nn.Embedding(3, 2, _weight=np.ones((2, 3)))),
    (V, 'EmbeddingBag: mode is "sum", "mean" or "max", got \'min\'', lambda: nn.EmbeddingBag(3, 2, mode="min")),
    (V, "EmbeddingBag: indices are (B, N), or a vector with offsets, got (2,)",
     lambda: nn.EmbeddingBag(3, 2)(np.zeros(2, int))),
    (V, 'EmbeddingBag: per_sample_weights are for mode "sum", not \'mean\'',
     lambda: nn.EmbeddingBag(3, 2)(np.zeros((1, 2), int), None, np.ones((1, 2)))),
    (T, "MSELoss: takes input, target, got labels", lambda: nn.MSELoss()(tensor(2), labels=tensor(2))),
    (T, "ReLU(inplace=False): got an unexpected keyword argument 'slope'", lambda: nn.ReLU(slope=1)),
    (T, "MultiheadAttention: batch_first and add_bias_kv are True or False, got False and 'yes'",
     lambda: nn.MultiheadAttention(4, 2, add_bias_kv="yes")),
    (V, "MultiheadAttention: query, key and value are sequences of [4, 4, 4] features, all with or all without a "
     "batch, as many keys as values, got [(5, 4), (5, 3), (5, 4)]",
     lambda: nn.MultiheadAttention(4, 2)(tensor(5, 4), tensor(5, 3), tensor(5, 4))),
    (V, "MultiheadAttention: attn_mask is an array of shape (5, 5) or (6, 5, 5), got (3, 5)",
     lambda: nn.MultiheadAttention(4, 2)(*[tensor(5, 3, 4)] * 3, attn_mask=np.ones((3, 5), bool))),
    # modules
    (T, "Linear.weight is a Parameter and cannot become a Tensor: write nn.Parameter(value), weight.assign(value) for "
     "other numbers, or delete it first", lambda: setattr(nn.Linear(2, 2), "weight", ag.tensor([1.0]))),
    (T, "Module.a is a Module and cannot become a int: delete it first",
     lambda: setattr(module(a=nn.Module()), "a", 3)),
    (K, repr("Module: a name is a string without dots, and not 'arena': got 'a.b'"),
     lambda: nn.Module().add_module("a.b", nn.ReLU())),
    (K, repr("Module has an attribute 'train' already: take another name"),
     lambda: nn.Module().register_parameter("train", None)),
    (T, "'a' is to be a Parameter or None, got a list", lambda: nn.Module().register_parameter("a", [1.0])),
    (A, "Linear has no Module called 'weight'", lambda: nn.Linear(2, 2).get_submodule("weight")),
    (A, "Linear: 'weight' is no buffer", lambda: nn.Linear(2, 2).get_buffer("weight")),
    (V, "Module.w requires a gradient and is no parameter: make it an nn.Parameter, or keep its detach()",
     lambda: optim.SGD(module(w=tensor(2)), lr=1.0)),
    (V, "Module: two tensors have the name 'd.1': rename an attribute or a key",
     lambda: optim.SGD(module(d={1: nn.Parameter([1.0]), "1": nn.Parameter([2.0])}), lr=1.0)),
    (V, "load_state_dict: 'a' and 'b' are one tensor here, and have different values in the state: untie them, or "
     "leave one out with strict=False",
     lambda: module(a=(p := nn.Parameter([1.0])), b=p).load_state_dict({"a": np.ones(1), "b": np.zeros(1)})),
    (A, "Bare has no elements yet: begin Bare.__init__ with super().__init__()", Bare),
    (A, "'Sequential' object has no attribute 'fc'", lambda: nn.Sequential().fc),
    (T, "Sequential: applies modules, got a list: write Sequential(*modules) for a list", lambda: nn.Sequential([])),
    (K, repr("ModuleDict: a key is a name, a string without dots, got 3"), lambda: nn.ModuleDict({3: nn.ReLU()})),
    (T, "Module defines no __call__(self, x)", lambda: nn.Module()(1.0)),
    (V, "Linear: inputs and outputs are at least 1, got 0 and 3", lambda: nn.Linear(0, 3)),
    (V, "Dropout: p is a probability, got -0.1", lambda: nn.Dropout(-0.1)),
    (V, 'RNN: nonlinearity is "tanh" or "relu", got \'gelu\'', lambda: nn.RNN(2, 3, nonlinearity="gelu")),
    (V, "MultiheadAttention: 4 features cannot be cut into 3 heads", lambda: nn.MultiheadAttention(4, 3)),
    (V, 'TransformerEncoderLayer: activation is "relu", "gelu" or a function of a tensor, got \'tanh\'',
     lambda: nn.TransformerEncoderLayer(4, 2, activation="tanh")),
    (V, "init: fans need a weight of shape (out, in, ...), got (3,)",
     lambda: init.kaiming((3,), np.random.default_rng(0))),
    (R, "to: the parameters already live in an arena; convert before making the optimizer",
     lambda: model_in_arena().to("float64")),
    (V, "BatchNorm2d: x of shape (2, 3, 4) must have 4 axes, the second of length 3 (the channels)",
     lambda: nn.BatchNorm2d(3)(tensor(2, 3, 4))),
    (V, "BatchNorm1d: x of shape (2, 3) must have 2 or 3 axes, the second of length 4",
     lambda: nn.BatchNorm1d(4)(tensor(2, 3))),
    (V, "load_state_dict: missing ['bias'], unexpected ['b']",
     lambda: nn.Linear(2, 3).load_state_dict({"weight": np.zeros((3, 2)), "b": np.zeros(3)})),
    (V, "load_state_dict: 'weight' has shape (3, 2) here, but (2, 3) in the state",
     lambda: nn.Linear(2, 3).load_state_dict({"weight": np.zeros((2, 3)), "bias": np.zeros(3)})),
    # optimizers and schedules
    (T, "Optimizer defines no update(self, lr, h, chunks)", lambda: optim.Optimizer(weight(), 0.1).step()),
    (V, "SGD: lr is a finite number of at least 0, got -0.1", lambda: optim.SGD(weight(), lr=-0.1)),
    (V, "SGD: lr is a finite number of at least 0, got nan", lambda: optim.SGD(weight(), lr=np.nan)),
    (V, "AdamW: weight_decay is a finite number of at least 0, got inf",
     lambda: optim.AdamW(weight(), weight_decay=np.inf)),
    (V, "Adam: eps is a finite number of at least 0, got -1", lambda: optim.Adam(weight(), eps=-1)),
    (V, "Adagrad: eps is a finite number of at least 0, got -1", lambda: optim.Adagrad(weight(), eps=-1)),
    (V, "Adam: beta2 is in [0, 1), got 1.0", lambda: optim.Adam(weight(), betas=(0.9, 1.0))),
    (V, "AdamW: beta1 is in [0, 1), got -0.5", lambda: optim.AdamW(weight(), betas=(-0.5, 0.9))),
    (V, "SGD: momentum is in [0, 1), got 1.5", lambda: optim.SGD(weight(), lr=0.1, momentum=1.5)),
    (V, "SGD: nesterov needs a momentum above 0", lambda: optim.SGD(weight(), lr=0.1, nesterov=True)),
    (V, "RMSprop: alpha is in [0, 1), got 1.0", lambda: optim.RMSprop(weight(), alpha=1)),
    (V, "LARS works on whole parameters: it cannot update a part",
     lambda: optim.LARS(weight(), 0.1).shard_state(slice(0, 1))),
    (V, "SOAP: frequency is at least 1 and max_dim at least 0, got 0 and 10000",
     lambda: optim.SOAP(weight(), frequency=0)),
    (V, "SOAP: 'left' of 'parameter0' has shape (1, 1) in the state, and here None",
     lambda: optim.SOAP(weight()).load_state_dict({"left": {"parameter0": np.zeros((1, 1))}})),
    (R, "ScheduleFreeSGD: the parameters are averages since eval(): call train() first", step_of_an_average),
    (V, "ScheduleFreeSGD has 1 groups, and 'sums' of the state 0",
     lambda: optim.ScheduleFreeSGD(weight()).load_state_dict({})),
    (V, "EMA: give decay or half_life_steps, one of the two", lambda: optim.EMA(weight())),
    (V, "EMA: half_life_steps is above 0, got -1", lambda: optim.EMA(weight(), half_life_steps=-1)),
    (V, "EMA: decay is in [0, 1), got 1.0", lambda: optim.EMA(weight(), 1.0)),
    (R, "EMA: the parameters are the average since eval(): call train() before update()", update_of_an_average),
    (V, "EMA: 'parameter0' has shape None in the state, the parameter (",
     lambda: optim.EMA(weight(), 0.5).load_state_dict({"updates": 1, "mean": {}})),
    (V, "wsd: decay is at most the 10 steps of the run, got 11", lambda: schedule.wsd(1.0, 10, 11)),
    (V, "wsd: shape is \"linear\" or \"1-sqrt\", got 'cosine'", lambda: schedule.wsd(1.0, 10, 5, "cosine")),
    (V, "LARS: trust is a finite number of at least 0, got -1", lambda: optim.LARS(weight(), 0.1, trust=-1)),
    (V, "LAMB: l1 is a finite number of at least 0, got nan", lambda: optim.LAMB(weight(), l1=np.nan)),
    (T, "Adam: groups maps patterns to hyperparameters, as in {'*.bias': {'weight_decay': 0.0}}, got a list",
     lambda: optim.Adam(weight(), groups=[{"lr": 0.1}])),
    (V, "SGD: no parameter is called '*.bias': patterns match names such as 'w'",
     lambda: momentum(groups={"*.bias": {"momentum": 0.0}})),
    (V, "SGD: 'w' sets 'speed', which is none of dampening, l1, lr, lr_scale, maximize, momentum, nesterov, weight",
     lambda: momentum(groups={"w": {"speed": 0.0}})),
    (V, "SGD: group 0 sets 'speed', which is none of dampening, l1, lr, lr_scale, maximize, momentum, nesterov",
     lambda: optim.SGD([{"params": weight(), "speed": 1.0}])),
    (V, "SGD: nesterov needs a momentum above 0 and a dampening of 0",
     lambda: optim.SGD(weight(), momentum=0.5, dampening=0.5, nesterov=True)),
    (V, "SGD: the owner is a list of dicts, which are groups already: leave out groups",
     lambda: optim.SGD([{"params": weight()}], groups={"*": {}})),
    (T, "SGD: a list of groups has dicts with 'params', got {} as number 0", lambda: optim.SGD([{}])),
    (V, "SGD: '1.parameter0' of group 1 is in a group already: give each parameter once",
     lambda: optim.SGD([{"params": (x := weight())}, {"params": x}])),
    (V, "SGD: a group's 'speed' cannot be set: it has dampening, l1, lr", lambda: set_in_group("speed", 1.0)),
    (V, "SGD: momentum = 0.9 needs the state 'momentum': give it to the constructor",
     lambda: set_in_group("momentum", 0.9)),
    (V, "SGD: a group keeps its 'lr'", lambda: optim.SGD(weight(), lr=0.1).param_groups[0].pop("lr")),
    (V, "SGD has 1 groups of parameters, and the state is that of 2",
     lambda: optim.SGD(weight()).load_state_dict({"steps": 0, "groups": [{}, {}]})),
    (V, "Muon: adjust_lr_fn is original or match_rms_adamw, got 'best'",
     lambda: optim.Muon(weight(), adjust_lr_fn="best")),
    (R, "clip_grad_norm: the norm of the gradients is nan, and cannot be brought to 1.0", lambda: clip_nan()),
    (V, "SGD: lr_scale is a finite number of at least 0, got -1", lambda: momentum(groups={"w": {"lr_scale": -1.0}})),
    (V, "SGD: momentum is in [0, 1), got 2", lambda: momentum(groups={"w": {"momentum": 2.0}})),
    (V, "clip_grad_norm: max_norm is a number of at least 0, got -1.0", lambda: optim.clip_grad_norm(weight(), -1.0)),
    (V, "clip_grad_value: limit is a number of at least 0, got nan", lambda: optim.clip_grad_value(weight(), np.nan)),
    (V, "SGD keeps the state ['momentum'], not ['mean']", lambda: momentum().load_state_dict({"steps": 1, "mean": {}})),
    (V, "SGD: 'momentum' of 'w' has shape (3,) in the state, the parameter (2,)",
     lambda: momentum().load_state_dict({"steps": 1, "momentum": {"w": np.zeros(3)}})),
    (V, "SGD: 'momentum' of 'w' has shape None in the state",
     lambda: momentum().load_state_dict({"steps": 1, "momentum": {}})),
    (V, "cosine: steps must be above 0, got 0", lambda: schedule.cosine(0.1, 0)),
    (V, "linear: steps must be above 0, got -1", lambda: schedule.linear(0.1, -1)),
    (V, "step: every must be above 0, got 0", lambda: schedule.step(0.1, 0)),
    (V, "step: gamma must be above 0, got -0.1", lambda: schedule.step(0.1, 3, gamma=-0.1)),
    (V, "multistep: milestones must rise, got [3, 2]", lambda: schedule.multistep(0.1, (3, 2))),
    (V, "polynomial: power must be above 0, got 0", lambda: schedule.polynomial(0.1, 3, power=0)),
    (V, "restarts: mult is at least 1, got 0.5", lambda: schedule.restarts(0.1, 3, mult=0.5)),
    (V, "one_cycle: rise is a fraction of the steps, below 0.5 with three_phase, got 0.7",
     lambda: schedule.one_cycle(0.1, 10, rise=0.7, three_phase=True)),
    (V, 'one_cycle: anneal is "cos" or "linear", got \'exp\'', lambda: schedule.one_cycle(0.1, 10, anneal="exp")),
    (V, "in_epochs: steps_per_epoch must be above 0, got 0", lambda: schedule.in_epochs(schedule.constant(0.1), 0)),
    (V, "Plateau: factor is between 0 and 1, got 1.0", lambda: schedule.Plateau(0.1, factor=1.0)),
    (V, "Plateau: patience, threshold and cooldown are at least 0, got -1, 0.0001 and 0",
     lambda: schedule.Plateau(0.1, patience=-1)),
    (V, "inverse: half must be above 0, got nan", lambda: schedule.inverse(0.1, np.nan)),
    (TypeError, "capture: takes NumPy arrays, or tensors of torch, got list, Tensor", lambda: ag.capture(len)([1.0], tensor(2))),
    (R, "cannot be captured: dropout draws random numbers",
     lambda: ag.capture(lambda x: ag.dropout(x * tensor(2)))(np.ones(2))),
    (R, "cannot be captured: a replay gives other bits than the function itself, which depends on more than arguments "
     "and parameters, or reads an argument unseen, as by np.asarray", changing),
    (R, "cannot be captured: the function keeps something that it computed, in a list or an attribute, which a replay "
     "would not renew", lambda: ag.capture(lambda x: KEPT.append(tensor(2) * x))(np.ones(2))),
    (R, "capture: detect_anomaly finds no operations in a replay: call the function itself", anomalous),
    (V, "warmup: steps must be above 0, got -2", lambda: schedule.warmup(0.1, -2)),
    (V, "join: 2 schedules need 1 rising boundaries, got [1, 2]",
     lambda: schedule.join([schedule.constant(1.0)] * 2, [1, 2])),
    (V, "join: 3 schedules need 2 rising boundaries, got [2, 1]",
     lambda: schedule.join([schedule.constant(1.0)] * 3, [2, 1])),
    *MESSAGES,
]  # fmt: skip


def said(error, call):
    """The message of the error or warning that the call ends in."""
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("error, text, call", TABLE, ids=[text[:60] for _, text, _ in TABLE])
def test_message(error, text, call):
    assert said(error, call).startswith(text)


def test_the_table_has_every_message_of_the_package():
    messages = [said(error, call) for error, _, call in TABLE]
    for path in Path(ag.autograd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "warnings.warn")):
                literals = [x.value for x in ast.walk(node.args[0]) if isinstance(x, ast.Constant)]
                fixed = max(map(str, literals), key=len)
                assert any(fixed in message for message in messages), f"{path.name}:{node.lineno}: {fixed!r}"
