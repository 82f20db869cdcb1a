"""`device` and `dtype` of constructors."""

import inspect

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn

MAKE = [
    (nn.Linear, (2, 3)), (nn.Conv2d, (2, 3, 3)), (nn.ConvTranspose1d, (2, 3, 3)), (nn.LayerNorm, (3,)),
    (nn.RMSNorm, (3,)),
    (nn.GroupNorm, (1, 3)), (nn.BatchNorm1d, (3,)), (nn.InstanceNorm1d, (3, 1e-5, 0.1, True, True)), (nn.PReLU, ()),
    (nn.Embedding, (4, 3)), (nn.EmbeddingBag, (4, 3)), (nn.Bilinear, (2, 3, 4)), (nn.RNN, (2, 3)), (nn.LSTM, (2, 3)),
    (nn.GRUCell, (2, 3)), (nn.RNNCell, (2, 3)), (nn.MultiheadAttention, (4, 2)),
    (nn.TransformerDecoderLayer, (4, 2, 3)), (nn.Transformer, (4, 2, 1, 1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("layer, arguments", MAKE, ids=lambda x: getattr(x, "__name__", ""))
def test_layers_are_made_in_the_dtype_and_place_that_are_asked_for(layer, arguments):
    assert {"device", "dtype"} <= {*inspect.signature(layer).parameters}

    def dtypes(**options):
        made = layer(*arguments, **options)
        return {t.dtype for t in (*made.parameters(), *made.buffers())} - {np.dtype("int64"), torch.int64}

    assert dtypes() == dtypes(device=None, dtype=None) == {np.dtype("float32")}
    assert dtypes(dtype=np.float64) == dtypes(dtype=torch.float64) == dtypes(dtype="float64") == {np.dtype("float64")}
    assert dtypes(device="cpu", dtype=torch.bfloat16) == {torch.bfloat16}
    assert dtypes(device=torch.device("cpu")) == {torch.float32}


def test_weights_in_double_precision_are_drawn_in_it_and_those_in_single_are_the_same_rounded():
    weights = []
    for dtype in (np.float32, np.float64):
        ag.manual_seed(3)
        weights.append(nn.Linear(2, 3, dtype=dtype).weight.numpy())
    single, double = weights
    assert np.array_equal(single, double.astype(np.float32)) and not np.array_equal(single, double)
    assert ag.get_default_dtype() == np.float32
