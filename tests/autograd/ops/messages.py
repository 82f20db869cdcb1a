"""Messages of the operators that are composed of others: part of the table of `test_messages.py`."""

import numpy as np

import allgrad as ag

V, R, T = ValueError, RuntimeError, TypeError


def tensor(*shape):
    return ag.tensor(np.ones(shape), requires_grad=True, name="A")


def other_results():
    turns = iter([tensor(2), 2.0])
    ag.checkpoint(lambda x: x * next(turns), tensor(2)).sum().backward()


PLACES = np.zeros((2, 3), int)
MESSAGES = [
    (T, "'bfloat16' is no dtype of NumPy's arrays: move the tensor to torch first, by to(dev", tensor(2).bfloat16),
    (T, "'float33' is no dtype of NumPy's arrays: such as 'float32'", lambda: tensor(2).to("float33")),
    (T, "amax: takes no dtype: convert before it, by x.to(dtype)", lambda: ag.amax(tensor(2), dtype="float32")),
    (R, "requires_grad_(False) of what 'exp' computed: use detach()", lambda: tensor(2).exp().requires_grad_(False)),
    (V, "polygamma: the order is an integer of at least 0, got -1", lambda: ag.polygamma(-1, tensor(2))),
    (V, "searchsorted: values (3, 1) need the leading axes of the sequence (2, 3)",
     lambda: ag.searchsorted(np.ones((2, 3)), np.ones((3, 1)))),
    (V, "scatter_add: the index needs integers, as many axes, and none longer than src or a, got float64",
     lambda: ag.scatter_add(tensor(2, 3), 1, PLACES * 1.0, tensor(2, 3))),
    (V, "scatter_add: the index needs integers, as many axes, and none longer than src or a, got int64 of shape (3,)",
     lambda: ag.scatter_add(tensor(2, 3), 1, PLACES[0], tensor(2, 3))),
    (V, "scatter: the index needs integers, as many axes, and none longer than src or a, got int64 of shape (2, 3)",
     lambda: ag.scatter(tensor(1, 3), 1, PLACES, tensor(2, 3))),
    (V, "scatter_reduce: reduce is one of (", lambda: ag.scatter_reduce(tensor(2, 3), 1, PLACES, tensor(2, 3), "max")),
    (V, 'scatter: reduce is "add", "multiply" or None, got \'sum\'',
     lambda: ag.scatter(tensor(2, 3), 1, PLACES, 1.0, reduce="sum")),
    (V, "index_add: needs a vector of integers, got int64 of shape (2, 3)",
     lambda: ag.index_add(tensor(2, 3), 0, PLACES, tensor(2, 3))),
    (V, "masked_scatter: 2 elements for 6 places of the mask",
     lambda: ag.masked_scatter(tensor(2, 3), PLACES == 0, tensor(2))),
    (V, "topk: k is between 0 and the 0 elements of axis 1, got 1", lambda: ag.topk(tensor(2, 0), 1)),
    (V, "kthvalue: k is between 1 and the 2 elements of axis 0, got 0", lambda: ag.kthvalue(tensor(2, 0), 0, 0)),
    (V, "median: of no elements there is none", lambda: ag.median(tensor(0))),
    (V, "median: axis 1 of the shape (2, 0) has no elements", lambda: ag.median(tensor(2, 0), 1)),
    (V, "quantile: takes q in [0, 1], one of linear, lower, higher, midpoint, nearest, and an element at",
     lambda: ag.quantile(tensor(2), 1.5)),
    (T, "view: takes a shape, got 'float64': another dtype is made by x.to(dtype)", lambda: tensor(2).view("float64")),
    (V, "narrow: 3 elements from 0 on are not in the 2 of axis 0", lambda: tensor(2).narrow(0, 0, 3)),
    (V, "unbind: a scalar has no slices", lambda: tensor().unbind()),
    (V, "repeat: (2,) needs a number of at least 0 for each axis of (2, 3)", lambda: tensor(2, 3).repeat(2)),
    (V, "tensor_split: the number of pieces is at least 1, got 0", lambda: tensor(2).tensor_split(0)),
    (V, "hsplit: 3 elements of axis 1 do not make 2 equal parts", lambda: tensor(2, 3).hsplit(2)),
    (V, "movedim: [0, 1] to [1] needs as many different axes on both sides", lambda: tensor(2, 3).movedim((0, 1), 1)),
    (V, "t: needs a matrix, got shape (1, 2, 3): transpose(dim0, dim1) takes any", lambda: tensor(1, 2, 3).t()),
    (V, "rot90: the axes (0, 0) must differ", lambda: tensor(2, 3).rot90(dims=(0, 0))),
    (V, "diagonal: needs two axes of the shape (2, 3), got 0 and 0", lambda: tensor(2, 3).diagonal(0, 0, 0)),
    (V, "diag: needs a vector or a matrix, got shape ()", lambda: tensor().diag()),
    (V, "trace: needs a matrix, got shape (2,)", lambda: tensor(2).trace()),
    (V, 'meshgrid: indexing is "ij" or "xy", got \'yx\'', lambda: ag.meshgrid(tensor(2), indexing="yx")),
    (V, "arange: from 3 to 1 needs a step in that direction, got 1", lambda: ag.arange(3, 1)),
    (V, "one_hot: needs integers from 0 to 2, got int64 from 0 to 3", lambda: ag.one_hot(np.array([0, 3]), 3)),
    (V, "one_hot: needs integers from 0 to 2, got float64 from", lambda: ag.one_hot(np.array([0.0]), 3)),
    (V, "bernoulli: probabilities are in [0, 1], got 2.0 to 2.0", lambda: ag.bernoulli(np.array([2.0]))),
    (V, "multinomial: the elements of a row are at least 0, finite, and not all 0",
     lambda: ag.multinomial(np.array([1.0, -1.0]), 1)),
    (V, "multinomial: a row has fewer than 2 positive elements", lambda: ag.multinomial(np.array([1.0, 0.0]), 2)),
    (V, "diff: takes a whole number of times of an array with axes, got n=-1 of (2,)", lambda: ag.diff(tensor(2), -1)),
    (V, "dot: needs two vectors of one length, got shapes (2,) and (3,)", lambda: ag.dot(tensor(2), tensor(3))),
    (V, "mv: needs a matrix (n, k) and a vector (k,), got", lambda: ag.mv(tensor(2, 3), tensor(2))),
    (V, "tensordot: axes [0, 1] and [0, 1] of the shapes (2, 3) and (4, 5) are not equally long",
     lambda: ag.tensordot(tensor(2, 3), tensor(4, 5))),
    (V, "cross: axis -1 has 3 elements, got shapes (2,) and (2,)", lambda: ag.cross(tensor(2), tensor(2))),
    (V, "cdist: needs vectors of one length, got shapes (2, 3) and (2, 4)",
     lambda: ag.cdist(tensor(2, 3), tensor(2, 4))),
    *[(V, f"{name}: needs square matrices (..., n, n), got shape (2, 3)",
       lambda name=name: getattr(ag, name)(tensor(2, 3)))
      for name in ("inv", "det", "slogdet", "cholesky")],
    (V, "solve: matrices (3, 3) and right-hand sides (2, 2) do not fit", lambda: ag.solve(tensor(3, 3), tensor(2, 2))),
    (V, "interpolate: takes size or scale_factor, and a mode that fits the axes",
     lambda: ag.interpolate(tensor(1, 1, 2))),
    (V, "interpolate: takes size or scale_factor, and a mode that fits the axes",
     lambda: ag.interpolate(tensor(1, 1, 2), 3, mode="bilinear")),
    (V, "interpolate: align_corners is for the modes linear, bilinear, trilinear, bicubic, not for 'nearest'",
     lambda: ag.interpolate(tensor(1, 1, 2), 3, align_corners=True)),
    (V, "interpolate: a shape (1, 1, 2) cannot have the size (0,)", lambda: ag.interpolate(tensor(1, 1, 2), 0)),
    (V, "channel_shuffle: 3 channels are no multiple of 2 groups", lambda: ag.channel_shuffle(tensor(1, 3, 2), 2)),
    (V, "fold: needs (N, C KH KW, L) with L patches, got columns (1, 4, 4)", lambda: ag.fold(tensor(1, 4, 4), 2, 2)),
    (V, "unfold: there are no patches of (9, 9), dilation (1, 1), padding", lambda: ag.unfold(tensor(1, 1, 4, 4), 9)),
    (V, "checkpoint: use_reentrant=True is not here", lambda: ag.checkpoint(ag.exp, tensor(2), use_reentrant=True)),
    (R, "checkpoint: the function computed something else in backward than before", other_results),
    (T, "checkpoint: results need one dtype, got float64, float32",
     lambda: ag.checkpoint(lambda x: (x * x, x.float() * 2.0), tensor(2))),
]  # fmt: skip
