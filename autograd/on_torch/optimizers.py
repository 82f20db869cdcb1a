"""Updates of torch tensors by torch's fused kernels, one call for all chunks."""

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
            # torch's kernel of SGD leaves elements of half precision as they are, on the CPU
            halves = self.arena.data.itemsize == 2 and self.arena.on_cpu
            by_kernel = type(self.arena.data) in TENSORS and not halves and not h.l1
            (update if by_kernel else usual)(self, lr, h, chunks)

        optimizer.update = chosen
        return update

    return register


@fused(optim.SGD)
def sgd(self, lr, h, chunks):
    w, g, v, *_ = map(list, zip(*chunks))
    options = {"weight_decay": h.weight_decay, "momentum": h.momentum, "nesterov": h.nesterov}
    options |= {"dampening": h.dampening, "maximize": h.maximize}
    first = self.steps == 1 and h.dampening > 0.0  # then the momentum is the gradient, undamped
    aten._fused_sgd_.default(w, g, v if h.momentum else [], lr=lr, is_first_step=first, **options)


@fused(optim.Adam)
def adam(self, lr, h, chunks):
    w, g, m, v, largest, *_ = map(list, zip(*chunks))
    kernel = (aten._fused_adamw_ if self.decoupled else aten._fused_adam_).default
    steps = [w[0].new_tensor(float(self.steps), dtype=torch.float32)] * len(w)
    eps = safe_eps(h.eps, self.arena.dtype)  # the padding stays 0 = 0 / eps
    options = {"beta1": h.betas[0], "beta2": h.betas[1], "weight_decay": h.weight_decay, "eps": eps}
    options |= {"amsgrad": h.amsgrad, "maximize": h.maximize}
    kernel(w, g, m, v, largest if h.amsgrad else [], steps, lr=lr, **options)
