"""Updates of torch tensors by torch's fused kernels, one call for all chunks."""

import torch

from allgrad.autograd import optim
from allgrad.autograd.on_torch.rules import aten
from allgrad.autograd.optim.base import safe_eps


def fused(optimizer):
    """Decorator of update(self, lr, h, chunks): the optimizer uses it for torch tensors if there is no L1 penalty."""

    def register(update):
        usual = optimizer.update

        def chosen(self, lr, h, chunks):
            by_kernel = type(self.arena.data) is torch.Tensor and not h.l1
            (update if by_kernel else usual)(self, lr, h, chunks)

        optimizer.update = chosen
        return update

    return register


@fused(optim.SGD)
def sgd(self, lr, h, chunks):
    w, g, v, *_ = map(list, zip(*chunks))
    options = {"weight_decay": h.weight_decay, "momentum": h.momentum, "nesterov": h.nesterov}
    nothing = {"dampening": 0.0, "maximize": False, "is_first_step": False}
    aten._fused_sgd_.default(w, g, v if h.momentum else [], lr=lr, **options, **nothing)


@fused(optim.Adam)
def adam(self, lr, h, chunks):
    w, g, m, v, *_ = map(list, zip(*chunks))
    kernel = (aten._fused_adamw_ if self.decoupled else aten._fused_adam_).default
    steps = [w[0].new_tensor(float(self.steps), dtype=torch.float32)] * len(w)
    eps = safe_eps(h.eps, self.arena.dtype)  # the padding stays 0 = 0 / eps
    options = {"beta1": h.betas[0], "beta2": h.betas[1], "weight_decay": h.weight_decay, "eps": eps}
    kernel(w, g, m, v, [], steps, lr=lr, **options, amsgrad=False, maximize=False)
