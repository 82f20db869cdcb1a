"""Layers and containers, with the names, shapes and state dicts of torch.nn.

Begin with `module` (how parameters are found and named), then `layers`. A layer holds parameters and calls an operation
of `allgrad.autograd.ops`; the names of parameters, and so checkpoints, are torch's.
"""

from allgrad.autograd.nn.attention import MultiheadAttention, TransformerDecoderLayer, TransformerEncoderLayer
from allgrad.autograd.nn.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from allgrad.autograd.nn.functions import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    ELU,
    GELU,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from allgrad.autograd.nn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    GroupNorm,
    Identity,
    LayerNorm,
    Linear,
)
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.nn.recurrent import GRU, LSTM, RNN

__all__ = [
    "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv1d", "Conv2d", "ConvTranspose2d", "Dropout",
    "ELU", "Embedding", "Flatten", "GELU", "GRU", "GroupNorm", "Hardtanh", "Identity", "LSTM", "LayerNorm", "LeakyReLU",
    "Linear", "LogSoftmax", "MaxPool2d", "Module", "ModuleDict", "ModuleList", "MultiheadAttention", "Parameter",
    "ParameterDict", "ParameterList", "RNN", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax",
    "Softplus", "Tanh", "TransformerDecoderLayer", "TransformerEncoderLayer",
]  # fmt: skip
