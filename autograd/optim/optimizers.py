"""The rules, each as in its paper; w is a parameter, g its gradient, t = 1, 2, ... the step. All is elementwise.

SGD and Lion move all elements at one rate; Adagrad, RMSprop, Adam and AdamW at rates from the history of the element's
gradient; LARS and LAMB also scale the update of each parameter by its norm.
"""

import math

from allgrad.autograd.optim.base import Optimizer, regularized, safe_eps
from allgrad.autograd.optim.clip import norm_of


class SGD(Optimizer):
    """Stochastic gradient descent with momentum m:

        v = m v + g
        w = w - lr v              (Nesterov: w - lr (g + m v))

    as in torch. Polyak 1964; Nesterov 1983; in this form Sutskever et al. 2013.
    """

    arrays = ("momentum",)
    fractions = ("momentum",)

    def __init__(self, owner, lr, momentum=0.0, nesterov=False, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, momentum=momentum, nesterov=nesterov)

    def check(self, h):
        super().check(h)
        if h.nesterov and not h.momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")

    def update(self, lr, h, chunks):
        n, m, c, lr = self.xp, self.number(h.momentum), self.number(h.weight_decay), self.number(lr)
        for w, g, v, t, u in chunks:
            g = regularized(g, w, c, h.l1, t, u)
            if m:
                v *= m
                v += g
                g = n.add(g, n.multiply(v, m, out=u), out=t) if h.nesterov else v
            w -= n.multiply(g, lr, out=t)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011):

    s = s + g^2
    w = w - lr g / (sqrt(s) + eps)
    """

    arrays = ("sum",)

    def __init__(self, owner, lr=0.01, eps=1e-10, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, eps=eps)

    def update(self, lr, h, chunks):
        n, eps = self.xp, safe_eps(h.eps, self.arena.dtype)
        for w, g, s, t, u in chunks:
            g = regularized(g, w, h.weight_decay, h.l1, u, t)
            s += n.multiply(g, g, out=t)
            n.sqrt(s, out=t)
            t += eps
            n.divide(g, t, out=t)
            t *= lr
            w -= t


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012), with momentum m as in torch:

        s = alpha s + (1 - alpha) g^2
        v = m v + g / (sqrt(s) + eps)
        w = w - lr v

    Centered (Graves 2013), s - a^2 takes the place of s under the root, with a = alpha a + (1 - alpha) g.
    """

    arrays = ("square", "mean", "momentum")
    fractions = ("alpha", "momentum")

    def __init__(
        self, owner, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0, l1=0.0, groups=None
    ):
        super().__init__(
            owner, lr, groups, weight_decay, l1, alpha=alpha, eps=eps, momentum=momentum, centered=centered
        )

    def needs(self, h):
        return [name for name in super().needs(h) if name != "mean" or h.centered]

    def update(self, lr, h, chunks):
        n, eps = self.xp, safe_eps(h.eps, self.arena.dtype)
        for w, g, s, a, v, t, u in chunks:
            g = regularized(g, w, h.weight_decay, h.l1, u, t)
            s *= h.alpha
            n.multiply(g, g, out=t)
            t *= 1.0 - h.alpha
            s += t
            if h.centered:
                a *= h.alpha
                a += n.multiply(g, 1.0 - h.alpha, out=t)
                n.multiply(a, a, out=t)
                n.subtract(s, t, out=t)
                n.maximum(t, 0.0, out=t)  # a variance, but for rounding
                n.sqrt(t, out=t)
            else:
                n.sqrt(s, out=t)
            t += eps
            n.divide(g, t, out=t)
            if h.momentum:
                v *= h.momentum
                v += t
                n.multiply(v, lr, out=t)
            else:
                t *= lr
            w -= t


class Moments(Optimizer):
    """What Adam and LAMB share: the moments m and v, and the correction of their start at zero."""

    arrays = ("mean", "variance")

    def corrections(self, h):
        """c1 = 1 - b1^t and c2 = sqrt(1 - b2^t): mhat = m / c1 and sqrt(vhat) = sqrt(v) / c2."""
        return 1.0 - h.betas[0] ** self.steps, math.sqrt(1.0 - h.betas[1] ** self.steps)

    def directions(self, h, c2):
        """A function (g, m, v, t) that updates the moments and computes m / (sqrt(v) + eps c2) in t.

        That is c1 / c2 times mhat / (sqrt(vhat) + eps), the direction of Adam.
        """
        n, (b1, b2), eps = self.xp, h.betas, safe_eps(h.eps * c2, self.arena.dtype)
        rest1, rest2, b1, b2, eps = map(self.number, (1.0 - b1, 1.0 - b2, b1, b2, eps))

        def direction(g, m, v, t):
            m *= b1
            m += n.multiply(g, rest1, out=t)
            v *= b2
            n.multiply(g, g, out=t)
            t *= rest2
            v += t
            n.sqrt(v, out=t)
            t += eps
            n.divide(m, t, out=t)

        return direction


class Adam(Moments):
    """Adam (Kingma and Ba 2015, algorithm 1):

    m = b1 m + (1 - b1) g              v = b2 v + (1 - b2) g^2
    w = w - lr mhat / (sqrt(vhat) + eps),  mhat = m / (1 - b1^t),  vhat = v / (1 - b2^t)
    """

    decoupled = False

    def __init__(self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, betas=betas, eps=eps)

    def update(self, lr, h, chunks):
        c1, c2 = self.corrections(h)
        direction, rate = self.directions(h, c2), self.number(lr * c2 / c1)
        for w, g, m, v, t, u in chunks:
            g = regularized(g, w, 0.0 if self.decoupled else h.weight_decay, h.l1, u, t)
            if self.decoupled and h.weight_decay:
                w *= 1.0 - lr * h.weight_decay
            direction(g, m, v, t)
            t *= rate
            w -= t


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w = w - lr weight_decay w before the step."""

    decoupled = True

    def __init__(self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, l1=0.0, groups=None):
        super().__init__(owner, lr, betas, eps, weight_decay, l1, groups)


class Lion(Optimizer):
    """Lion, "EvoLved Sign Momentum" (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2),
    with decoupled weight decay c:

        w = w - lr (sign(b1 m + (1 - b1) g) + c w)
        m = b2 m + (1 - b2) g

    Every element moves by lr, so rates are 3 to 10 times smaller than Adam's, and weight decay as much larger.
    """

    arrays = ("mean",)

    def __init__(self, owner, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, betas=betas)

    def update(self, lr, h, chunks):
        n, (b1, b2) = self.xp, h.betas
        # b1 / (1 - b1) m + g has the sign of b1 m + (1 - b1) g, and takes one array of scratch memory, not two
        ratio, b2, rest2, rate = map(self.number, (b1 / (1.0 - b1), b2, 1.0 - b2, lr))
        for w, g, m, t, u in chunks:
            g = regularized(g, w, 0.0, h.l1, u, t)
            if h.weight_decay:
                w *= 1.0 - lr * h.weight_decay
            n.multiply(m, ratio, out=t)
            t += g
            n.sign(t, out=t)
            t *= rate
            w -= t
            m *= b2
            m += n.multiply(g, rest2, out=t)


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
    fractions = ("momentum",)
    layerwise = True

    def __init__(self, owner, lr, momentum=0.9, weight_decay=0.0, trust=0.001, adapt=True, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, momentum=momentum, trust=trust, adapt=adapt)

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
        direction = self.directions(h, c2)
        for w, g, m, v, d, u in chunks:
            direction(regularized(g, w, 0.0, h.l1, u, d), m, v, d)
            d *= c2 / c1
            d += n.multiply(w, h.weight_decay, out=u)
            norm, length = norm_of([w]), norm_of([d])
            d *= lr * norm / length if h.adapt and norm and length else lr
            w -= d
