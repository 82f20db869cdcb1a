"""Stochastic gradient descent."""

import numpy as np

from autograd.optim.base import Optimizer, below_one, regularized


class SGD(Optimizer):
    """Stochastic gradient descent with momentum m:

        v = m v + g
        w = w - lr v              (Nesterov: w - lr (g + m v))

    as in torch. Polyak 1964; Nesterov 1983; in this form Sutskever et al. 2013.
    """

    arrays = ("momentum",)

    def __init__(self, owner, lr, momentum=0.0, nesterov=False, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, momentum=momentum, nesterov=nesterov)

    def check(self, h):
        below_one("SGD", momentum=h.momentum)
        if h.nesterov and not h.momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")

    def needs(self, h):
        return ("momentum",) if h.momentum else ()

    def update(self, lr, h, chunks):
        n, m, c = self.xp, h.momentum, h.weight_decay
        if n is np:  # as arrays: a ufunc would convert a Python number again in every call
            m, c, lr = (np.asarray(x, self.arena.dtype) for x in (m, c, lr))
        for w, g, v, t, u in chunks:
            g = regularized(g, w, c, h.l1, t, u)
            if m:
                v *= m
                v += g
                g = n.add(g, n.multiply(v, m, out=u), out=t) if h.nesterov else v
            w -= n.multiply(g, lr, out=t)
