"""Layers and containers, with the names, shapes and state dicts of torch.nn."""

from autograd.nn.activations import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from autograd.nn.layers import Dropout, Flatten, Linear
from autograd.nn.module import Module, Parameter, Sequential

__all__ = [
    "Dropout", "Flatten", "LeakyReLU", "Linear", "LogSoftmax", "Module", "Parameter", "ReLU", "Sequential",
    "Sigmoid", "Softmax", "Tanh",
]  # fmt: skip
