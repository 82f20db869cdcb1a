"""Rules with a rate for each element, from the history of its gradient."""

import math

from autograd.optim.base import Optimizer, above_zero, at_least_zero, below_one, regularized


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011):

    s = s + g^2
    w = w - lr g / (sqrt(s) + eps)
    """

    arrays = ("sum",)

    def __init__(self, owner, lr=0.01, eps=1e-10, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, eps=eps)

    def check(self, h):
        at_least_zero("Adagrad", eps=h.eps)

    def update(self, lr, h, chunks):
        n, eps = self.xp, above_zero(h.eps, self.arena.dtype)
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

    def __init__(
        self, owner, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0, l1=0.0, groups=None
    ):
        super().__init__(
            owner, lr, groups, weight_decay, l1, alpha=alpha, eps=eps, momentum=momentum, centered=centered
        )

    def check(self, h):
        below_one("RMSprop", alpha=h.alpha, momentum=h.momentum)
        at_least_zero("RMSprop", eps=h.eps)

    def needs(self, h):
        return ("square", *(["mean"] if h.centered else []), *(["momentum"] if h.momentum else []))

    def update(self, lr, h, chunks):
        n, eps = self.xp, above_zero(h.eps, self.arena.dtype)
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
    """What Adam and LAMB share: the moments m and v, and their corrections folded into two numbers."""

    arrays = ("mean", "variance")

    def check(self, h):
        name = type(self).__name__
        below_one(name, beta1=h.betas[0], beta2=h.betas[1])
        at_least_zero(name, eps=h.eps)

    def corrections(self, h):
        return 1.0 - h.betas[0] ** self.steps, math.sqrt(1.0 - h.betas[1] ** self.steps)

    def direction(self, g, m, v, h, c2, t):
        """Update the moments; m / (sqrt(v) + eps c2), which is c1 / c2 times mhat / (sqrt(vhat) + eps), in t."""
        n, (b1, b2) = self.xp, h.betas
        m *= b1
        m += n.multiply(g, 1.0 - b1, out=t)
        v *= b2
        n.multiply(g, g, out=t)
        t *= 1.0 - b2
        v += t
        n.sqrt(v, out=t)
        t += above_zero(h.eps * c2, self.arena.dtype)
        n.divide(m, t, out=t)


class Adam(Moments):
    """Adam (Kingma and Ba 2015), in the form of its section 2:

    m = b1 m + (1 - b1) g              v = b2 v + (1 - b2) g^2
    w = w - lr mhat / (sqrt(vhat) + eps),  mhat = m / (1 - b1^t),  vhat = v / (1 - b2^t)
    """

    decoupled = False

    def __init__(self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, betas=betas, eps=eps)

    def update(self, lr, h, chunks):
        c1, c2 = self.corrections(h)
        for w, g, m, v, t, u in chunks:
            g = regularized(g, w, 0.0 if self.decoupled else h.weight_decay, h.l1, u, t)
            if self.decoupled and h.weight_decay:
                w *= 1.0 - lr * h.weight_decay
            self.direction(g, m, v, h, c2, t)
            t *= lr * c2 / c1
            w -= t


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w = w - lr weight_decay w before the step."""

    decoupled = True

    def __init__(self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, l1=0.0, groups=None):
        super().__init__(owner, lr, betas, eps, weight_decay, l1, groups)
