"""Data sets of a few samples, of every form that models take."""

import numpy as np

from allgrad.launch.data import Data

RNG = np.random.default_rng(0)


def data_of(*features, classes=10, vocabulary=None, grid=None):
    x = RNG.integers(0, classes, (4, *features)) if vocabulary else RNG.normal(size=(4, *features)).astype("f4")
    y = np.zeros((4, *features) if vocabulary else 4, np.int64)
    return Data("made", x, y, x, y, classes, vocabulary, grid)


DIGITS, MNIST, CIFAR = data_of(64, grid=(8, 8)), data_of(784, grid=(28, 28)), data_of(3, 32, 32)


TABLE, TEXT = data_of(5, classes=2), data_of(6, classes=4, vocabulary="abc")


def shapes(model):
    return {name: value.shape for name, value in model.state_dict().items()}
