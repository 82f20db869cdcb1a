"""Layers and containers, with the names, shapes and state dicts of torch.nn."""

from autograd.nn.activations import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from autograd.nn.attention import MultiheadAttention, TransformerEncoderLayer
from autograd.nn.convolution import AdaptiveAvgPool2d, AvgPool2d, Conv1d, Conv2d, ConvTranspose2d, MaxPool2d
from autograd.nn.embedding import Embedding
from autograd.nn.layers import Dropout, Flatten, Linear
from autograd.nn.module import Module, Parameter, Sequential
from autograd.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from autograd.nn.recurrent import GRU, LSTM, RNN

__all__ = [
    "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv1d", "Conv2d", "ConvTranspose2d", "Dropout",
    "Embedding", "Flatten", "GRU", "GroupNorm", "LSTM", "LayerNorm", "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d",
    "Module", "MultiheadAttention", "Parameter", "RNN", "ReLU", "Sequential", "Sigmoid", "Softmax", "Tanh",
    "TransformerEncoderLayer",
]  # fmt: skip
