"""Updates of torch tensors by torch's fused kernels, one call for all chunks of equal hyperparameters."""

import torch

from allgrad.autograd import optim
from allgrad.autograd.on_torch.namespace import TENSORS
from allgrad.autograd.on_torch.rules import aten
from allgrad.autograd.optim.base import safe_eps


def fused(optimizer):
    """Decorator of update(self, lr, h, chunks): the optimizer uses it for torch tensors if there is no L1 penalty."""

    def register(update):
        usual = optimizer.update

        def chosen(self, lr, h, chunks):
            (update if has_kernel(self, h) else usual)(self, lr, h, chunks)

        chosen.has_kernel = has_kernel
        optimizer.update = chosen
        return update

    return register


def has_kernel(self, h):
    # torch's kernel of SGD leaves elements of half precision as they are, on the CPU
    halves = self.arena.data.itemsize == 2 and self.arena.on_cpu
    return type(self.arena.data) in TENSORS and not halves and not h.l1


def form(self, packet, h, lr):
    """The form of a kernel for where the arrays are, and the learning rate as it takes it.

    On a device that is a tensor, which is written when the rate changes: a kernel that is launched again as it was
    then takes the new rate.
    """
    if self.arena.on_cpu:
        return packet.default, lr
    return packet.tensor_lr, number(self, ("lr", id(h))).written(lr)


def number(self, name):
    """The number of this name that the optimizer keeps where its arrays are."""
    if name not in self.on_device:
        self.on_device[name] = Number(self.arena.data)
    return self.on_device[name]


class Number:
    """A number of the host, in float32 where an array is, which is written only when it changes."""

    def __init__(self, like):
        self.tensor, self.value = like.new_zeros((), dtype=torch.float32), 0.0

    def written(self, value):
        """The tensor, with this value."""
        if value != self.value:
            self.tensor.fill_(value)
            self.value = value
        return self.tensor

    def counted(self, value):
        """The tensor, with this value, which is 1 more than the last one if need be."""
        if value == self.value + 1.0:
            self.tensor += 1.0
            self.value = value
        return self.written(value)


@fused(optim.SGD)
def sgd(self, lr, h, chunks):
    w, g, v, *_ = map(list, zip(*chunks))
    kernel, lr = form(self, aten._fused_sgd_, h, lr)
    options = {"weight_decay": h.weight_decay, "momentum": h.momentum, "nesterov": h.nesterov}
    options |= {"dampening": h.dampening, "maximize": h.maximize, "found_inf": self.skip}
    first = self.steps == 1 and h.dampening > 0.0  # then the momentum is the gradient, undamped
    kernel(w, g, v if h.momentum else [], lr=lr, is_first_step=first, **options)


@fused(optim.Adam)
def adam(self, lr, h, chunks):
    w, g, m, v, largest, *_ = map(list, zip(*chunks))
    kernel, lr = form(self, aten._fused_adamw_ if self.decoupled else aten._fused_adam_, h, lr)
    count = number(self, "steps").counted(float(self.steps))
    eps = safe_eps(h.eps, self.arena.dtype)  # the padding stays 0 = 0 / eps
    options = {"beta1": h.betas[0], "beta2": h.betas[1], "weight_decay": h.weight_decay, "eps": eps}
    options |= {"amsgrad": h.amsgrad, "maximize": h.maximize, "found_inf": self.skip}
    kernel(w, g, m, v, largest if h.amsgrad else [], [count] * len(w), lr=lr, **options)
