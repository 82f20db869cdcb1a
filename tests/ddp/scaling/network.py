"""A small network and its samples."""

import numpy as np

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import generator


def network(*layers):
    ag.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5, bias=False), nn.ReLU(), nn.Linear(5, 3), *layers)


N = 40
X = generator("probe").standard_normal((N, 6))
LABELS = np.arange(N) % 3
