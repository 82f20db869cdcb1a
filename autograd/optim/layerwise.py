"""Rules with a rate for each parameter as a whole, for large batches."""

from autograd.optim.adaptive import Moments
from autograd.optim.base import Optimizer, at_least_zero, below_one, regularized
from autograd.optim.clip import norm_of


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, algorithm 1). For each parameter, with
    momentum m, weight decay c and Euclidean norms,

        r = trust |w| / (|g| + c |w|)
        v = m v + lr r (g + c w)
        w = w - v

    where g is without c w. r counts as 1 where w is 0, which could not move otherwise, where the divisor is 0, and
    where `adapt` is False: `groups=no_decay(model, adapt=False)` is usual, for biases and normalisation.
    """

    arrays = ("momentum",)
    layerwise = True

    def __init__(self, owner, lr, momentum=0.9, weight_decay=0.0, trust=0.001, adapt=True, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, momentum=momentum, trust=trust, adapt=adapt)

    def check(self, h):
        below_one("LARS", momentum=h.momentum)
        at_least_zero("LARS", trust=h.trust)

    def needs(self, h):
        return ("momentum",) if h.momentum else ()

    def update(self, lr, h, chunks):
        n = self.xp
        for w, g, v, t, u in chunks:
            g = regularized(g, w, 0.0, h.l1, u, t)
            norm = norm_of([w])
            divisor = norm_of([g]) + h.weight_decay * norm
            r = h.trust * norm / divisor if h.adapt and norm and divisor else 1.0
            n.multiply(w, h.weight_decay, out=t)
            t += g
            t *= lr * r
            if h.momentum:
                v *= h.momentum
                v += t
                t = v
            w -= t


class LAMB(Moments):
    """Adam's direction with the length of the parameter (You et al. 2020, algorithm 2). For each parameter, with
    weight decay c, Euclidean norms, and mhat and vhat as in Adam,

        d = mhat / (sqrt(vhat) + eps) + c w
        w = w - lr |w| / |d| d

    |w| / |d| counts as 1 where either is 0 or `adapt` is False: `groups=no_decay(model, adapt=False)` is usual.
    """

    layerwise = True

    def __init__(
        self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, adapt=True, l1=0.0, groups=None
    ):
        super().__init__(owner, lr, groups, weight_decay, l1, betas=betas, eps=eps, adapt=adapt)

    def update(self, lr, h, chunks):
        n, (c1, c2) = self.xp, self.corrections(h)
        for w, g, m, v, d, u in chunks:
            self.direction(regularized(g, w, 0.0, h.l1, u, d), m, v, h, c2, d)
            d *= c2 / c1
            d += n.multiply(w, h.weight_decay, out=u)
            norm, length = norm_of([w]), norm_of([d])
            d *= lr * norm / length if h.adapt and norm and length else lr
            w -= d
