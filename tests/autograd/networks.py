"""Networks that tests of several rooms use."""

import allgrad as ag
from allgrad import nn


class Net(nn.Module):
    """Everything a walk meets: lists, dicts, tuples, a nested module, a tied weight, a constant, a frozen tensor."""

    def __init__(self):
        self.first = nn.Linear(4, 4)
        self.blocks = [nn.Linear(4, 4, bias=False), {"a": nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), 2: (nn.ReLU(),)}]
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.scale = nn.Parameter(2.0)
        self.shift = ag.tensor([1.0, 2.0])
        self.width, self.label, self.again = 4, "net", self.blocks

    def __call__(self, x):
        linear, rest = self.blocks
        return self.tied(rest["a"](linear(self.first(x)))) * self.scale
