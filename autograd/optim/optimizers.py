"""The rules, each as in its paper; w is a parameter, g its gradient, t = 1, 2, ... the step. All is elementwise.

SGD and Lion move all elements at one rate; Adagrad, Adadelta, RMSprop, Adam, AdamW and RAdam at rates from the history
of the element's gradient; LARS and LAMB also scale the update of each parameter by its norm, and Muon makes it
orthogonal. `maximize` climbs: it takes -g for g.
"""

import math

from allgrad.autograd.arrays import full, on_cpu, xp
from allgrad.autograd.optim.base import Optimizer, at_least_zero, regularized, safe_eps
from allgrad.autograd.optim.clip import length_of


class SGD(Optimizer):
    """Stochastic gradient descent with momentum m:

        v = m v + (1 - dampening) g       (v = g in the first step)
        w = w - lr v                      (Nesterov: w - lr (g + m v))

    as in torch. Polyak 1964; Nesterov 1983; in this form Sutskever et al. 2013.
    """

    arrays = ("momentum",)
    fractions = ("momentum",)

    def __init__(
        self, owner, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0, l1=0.0, groups=None, dampening=0.0,
        maximize=False,
    ):  # fmt: skip
        more = {"momentum": momentum, "nesterov": nesterov, "dampening": dampening, "maximize": maximize}
        super().__init__(owner, lr, groups, weight_decay, l1, **more)

    def check(self, h):
        super().check(h)
        if h.nesterov and (not h.momentum or h.dampening):
            raise ValueError("SGD: nesterov needs a momentum above 0 and a dampening of 0")

    def update(self, lr, h, chunks):
        n, m, c, lr = self.xp, self.number(h.momentum), self.number(h.weight_decay), self.number(lr)
        undamped = not h.dampening or self.steps == 1
        for w, g, v, t, u in chunks:
            g = regularized(g, w, c, h.l1, t, u, h.maximize)
            if m:
                v *= m
                v += g if undamped else n.multiply(g, 1.0 - h.dampening, out=u)
                g = n.add(g, n.multiply(v, m, out=u), out=t) if h.nesterov else v
            w -= n.multiply(g, lr, out=t)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011):

    s = s + g^2                       (s = initial_accumulator_value at first)
    w = w - lr g / (sqrt(s) + eps)    (lr / (1 + (t - 1) lr_decay) for lr)
    """

    arrays = ("sum",)

    def __init__(
        self, owner, lr=0.01, eps=1e-10, weight_decay=0.0, l1=0.0, groups=None, lr_decay=0.0,
        initial_accumulator_value=0.0, maximize=False,
    ):  # fmt: skip
        super().__init__(owner, lr, groups, weight_decay, l1, eps=eps, lr_decay=lr_decay, maximize=maximize)
        at_least_zero("Adagrad", initial_accumulator_value=initial_accumulator_value)
        if initial_accumulator_value:
            for span in self.arena.spans.values():  # and not the padding between parameters
                self.state["sum"][span] = initial_accumulator_value

    def update(self, lr, h, chunks):
        n, eps = self.xp, safe_eps(h.eps, self.arena.dtype)
        lr /= 1.0 + (self.steps - 1) * h.lr_decay
        for w, g, s, t, u in chunks:
            g = regularized(g, w, h.weight_decay, h.l1, u, t, h.maximize)
            s += n.multiply(g, g, out=t)
            n.sqrt(s, out=t)
            t += eps
            n.divide(g, t, out=t)
            t *= lr
            w -= t


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method"):

    s = rho s + (1 - rho) g^2
    d = sqrt(a + eps) / sqrt(s + eps) g
    a = rho a + (1 - rho) d^2
    w = w - lr d
    """

    arrays = ("square", "update_square")
    fractions = ("rho",)

    def __init__(self, owner, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, l1=0.0, groups=None, maximize=False):
        super().__init__(owner, lr, groups, weight_decay, l1, rho=rho, eps=eps, maximize=maximize)

    def update(self, lr, h, chunks):
        n, eps = self.xp, safe_eps(h.eps, self.arena.dtype)
        for w, g, s, a, t, u in chunks:
            g = regularized(g, w, h.weight_decay, h.l1, u, t, h.maximize)
            s *= h.rho
            n.multiply(g, g, out=t)
            t *= 1.0 - h.rho
            s += t
            n.add(a, eps, out=t)
            n.multiply(g, n.sqrt(t, out=t), out=u)
            n.add(s, eps, out=t)
            u /= n.sqrt(t, out=t)
            a *= h.rho
            n.multiply(u, u, out=t)
            t *= 1.0 - h.rho
            a += t
            w -= n.multiply(u, lr, out=t)


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
        self, owner, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0, l1=0.0, groups=None,
        maximize=False,
    ):  # fmt: skip
        more = {"alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered, "maximize": maximize}
        super().__init__(owner, lr, groups, weight_decay, l1, **more)

    def needs(self, h):
        return [name for name in super().needs(h) if name != "mean" or h.centered]

    def update(self, lr, h, chunks):
        n, eps = self.xp, safe_eps(h.eps, self.arena.dtype)
        for w, g, s, a, v, t, u in chunks:
            g = regularized(g, w, h.weight_decay, h.l1, u, t, h.maximize)
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
        """A function (g, m, v, t, largest=None) that updates the moments and computes m / (sqrt(v) + eps c2) in t.

        That is c1 / c2 times mhat / (sqrt(vhat) + eps), the direction of Adam. largest: the largest v so far, which
        takes the place of v.
        """
        n, (b1, b2), eps = self.xp, h.betas, safe_eps(h.eps * c2, self.arena.dtype)
        rest1, rest2, b1, b2, eps = map(self.number, (1.0 - b1, 1.0 - b2, b1, b2, eps))

        def direction(g, m, v, t, largest=None):
            m *= b1
            m += n.multiply(g, rest1, out=t)
            v *= b2
            n.multiply(g, g, out=t)
            t *= rest2
            v += t
            if largest is not None:
                v = n.maximum(largest, v, out=largest)
            n.sqrt(v, out=t)
            t += eps
            n.divide(m, t, out=t)

        return direction


class Adam(Moments):
    """Adam (Kingma and Ba 2015, algorithm 1):

    m = b1 m + (1 - b1) g              v = b2 v + (1 - b2) g^2
    w = w - lr mhat / (sqrt(vhat) + eps),  mhat = m / (1 - b1^t),  vhat = v / (1 - b2^t)

    amsgrad: the largest v so far in place of v (Reddi, Kale and Kumar 2018, "On the Convergence of Adam and Beyond").
    """

    arrays = ("mean", "variance", "largest")
    decoupled = False

    def __init__(
        self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, l1=0.0, groups=None, amsgrad=False,
        maximize=False,
    ):  # fmt: skip
        more = {"betas": betas, "eps": eps, "amsgrad": amsgrad, "maximize": maximize}
        super().__init__(owner, lr, groups, weight_decay, l1, **more)

    def needs(self, h):
        return [name for name in super().needs(h) if name != "largest" or h.amsgrad]

    def update(self, lr, h, chunks):
        c1, c2 = self.corrections(h)
        direction, rate = self.directions(h, c2), self.number(lr * c2 / c1)
        for w, g, m, v, largest, t, u in chunks:
            g = regularized(g, w, 0.0 if self.decoupled else h.weight_decay, h.l1, u, t, h.maximize)
            if self.decoupled and h.weight_decay:
                w *= 1.0 - lr * h.weight_decay
            direction(g, m, v, t, largest if h.amsgrad else None)
            t *= rate
            w -= t


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w = w - lr weight_decay w before the step."""

    decoupled = True

    def __init__(
        self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, l1=0.0, groups=None, amsgrad=False,
        maximize=False,
    ):  # fmt: skip
        super().__init__(owner, lr, betas, eps, weight_decay, l1, groups, amsgrad, maximize)


class RAdam(Moments):
    """Rectified Adam (Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond"): Adam's steps, times

        rho = 2 / (1 - b2) - 1            rho_t = rho - 2 t b2^t / (1 - b2^t)
        r^2 = (rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t)

    and w = w - lr mhat as long as rho_t is at most 5. eps is added to sqrt(v), as in torch.
    """

    def __init__(
        self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, l1=0.0, groups=None,
        decoupled_weight_decay=False, maximize=False,
    ):  # fmt: skip
        more = {"betas": betas, "eps": eps, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(owner, lr, groups, weight_decay, l1, **more)

    def update(self, lr, h, chunks):
        n, b2, (c1, c2) = self.xp, h.betas[1], self.corrections(h)
        rho = 2.0 / (1.0 - b2) - 1.0
        rho_t = rho - 2.0 * self.steps * b2**self.steps / (c2 * c2)
        direction, rate = self.directions(h, 1.0), lr / c1
        if rectified := rho_t > 5.0:
            rate *= c2 * math.sqrt((rho_t - 4.0) * (rho_t - 2.0) * rho / ((rho - 4.0) * (rho - 2.0) * rho_t))
        for w, g, m, v, t, u in chunks:
            g = regularized(g, w, 0.0 if h.decoupled_weight_decay else h.weight_decay, h.l1, u, t, h.maximize)
            if h.decoupled_weight_decay:
                w *= 1.0 - lr * h.weight_decay
            direction(g, m, v, t)
            w -= n.multiply(t if rectified else m, rate, out=t)


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
            r = 1.0
            if h.adapt:
                norm = length_of(w)
                divisor = length_of(g) + h.weight_decay * norm
                r = _quotient(h.trust * norm, divisor, norm, 1.0)
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
            if h.adapt:
                norm = length_of(w)
                d *= _quotient(lr * norm, length_of(d), norm, lr)
            else:
                d *= lr
            w -= d


def _quotient(a, b, norm, otherwise):
    """a / b, but `otherwise` where b or the norm is 0; numbers, or tensors of shape () on a device."""
    if on_cpu(b):
        return a / b if norm and b else otherwise
    return xp[type(b)].where((norm != 0.0) & (b != 0.0), a / b, full((), otherwise, b))


class Muon(Optimizer):
    """Momentum that is made orthogonal (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").
    For each parameter of two axes or more, taken as a matrix (M, K) of its first axis and all others,

        v = m v + (1 - m) g
        d = orthogonal((1 - m) g + m v)            (without Nesterov: orthogonal(v))
        w = (1 - lr weight_decay) w - lr sqrt(max(1, M / K)) d

    where orthogonal(U S V^T) is about U V^T: five Newton-Schulz iterations bring each singular value near 1. With
    adjust_lr_fn="match_rms_adamw" the factor is 0.2 sqrt(max(M, K)), for rates as those of AdamW (Liu et al. 2025,
    "Muon is Scalable for LLM Training"). As in torch, but in the parameters' own precision; and what torch does not
    take, parameters of fewer axes and those of groups with orthogonal=False (embeddings, the last layer), AdamW moves,
    with betas (0.9, 0.95).
    """

    arrays = ("mean", "variance")
    fractions = ("momentum",)
    layerwise = True

    def __init__(
        self, owner, lr=1e-3, momentum=0.95, nesterov=True, weight_decay=0.1, l1=0.0, groups=None, ns_steps=5, eps=1e-7,
        adjust_lr_fn="original", orthogonal=True,
    ):  # fmt: skip
        if adjust_lr_fn not in ("original", "match_rms_adamw"):
            raise ValueError(f"Muon: adjust_lr_fn is original or match_rms_adamw, got {adjust_lr_fn!r}")
        self.ns_steps, self.adjust_lr_fn = ns_steps, adjust_lr_fn
        more = {"momentum": momentum, "nesterov": nesterov, "eps": eps, "orthogonal": orthogonal}
        super().__init__(owner, lr, groups, weight_decay, l1, **more)

    def _make_chunks(self):
        """Tuples (w, g, m, v) of one parameter each, in its own shape."""
        flats = self.arena.data, self.arena.grad, self.state["mean"], self.state["variance"]
        views = [self.arena.unflatten(flat) for flat in flats]
        spans = self.arena.spans.items()
        return [
            (h, [tuple(view[name] for view in views) for name, span in spans if run.start <= span.start < run.stop])
            for run, h in self.runs
        ]

    def update(self, lr, h, chunks):
        n = self.xp
        for w, g, m, v in chunks:
            g = g + h.l1 * n.sign(w) if h.l1 else g
            w *= 1.0 - lr * h.weight_decay
            if not h.orthogonal or w.ndim < 2:
                self._adamw_step(lr, h, w, g, m, v)
                continue
            m *= h.momentum
            m += (1.0 - h.momentum) * g
            x = (1.0 - h.momentum) * g + h.momentum * m if h.nesterov else m
            rows = w.shape[0]
            d = orthogonal(x.reshape(rows, -1), self.ns_steps, h.eps)
            columns = d.shape[1]
            original = self.adjust_lr_fn == "original"
            factor = math.sqrt(max(1.0, rows / columns)) if original else 0.2 * math.sqrt(max(rows, columns))
            w -= (lr * factor) * d.reshape(w.shape)

    def _adamw_step(self, lr, h, w, g, m, v, betas=(0.9, 0.95)):
        b1, b2 = betas
        m *= b1
        m += (1.0 - b1) * g
        v *= b2
        v += (1.0 - b2) * g * g
        c1, c2 = 1.0 - b1**self.steps, math.sqrt(1.0 - b2**self.steps)
        w -= (lr / c1) * m / (self.xp.sqrt(v) / c2 + safe_eps(h.eps, self.arena.dtype))


def orthogonal(x, steps, eps):
    """A matrix with the singular vectors of x (M, K) and singular values near 1: Newton-Schulz iterations."""
    a, b, c = 3.4445, -4.7750, 2.0315  # that bring small singular values up the fastest
    wide = x if x.shape[0] <= x.shape[1] else x.T
    norm = length_of(wide)
    y = wide / (norm.clip(min=eps) if not on_cpu(norm) else max(norm, eps))
    for _ in range(steps):
        p = y @ y.T  # (M, M)
        y = a * y + (b * p + c * (p @ p)) @ y
    return y if wide is x else y.T
