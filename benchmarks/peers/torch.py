"""Eager PyTorch on one thread."""

import torch
from torch import nn

from benchmarks.workloads import Workload


def make(workload: Workload):
    torch.set_num_threads(1)
    layers = []
    for weight, bias in workload.weights():
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    if workload.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=workload.lr)

    def prepare(x, y):
        return torch.from_numpy(x), torch.from_numpy(y)

    def step(batch):
        x, y = batch
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return prepare, step
