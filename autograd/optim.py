"""Optimizers on the flat arrays of an arena, in place, in chunks that stay in the processor's cache.

Each takes a module, an arena, anything with an `.arena` (a DistributedDataParallel) or a collection of parameters.
`lr` is a number or a function of the step, counted from 0 (see `autograd.schedule`). `step()` uses the gradients
that `backward` left behind; a parameter that got none has gradient zero.
"""

import math
from collections.abc import Callable

import numpy as np

from autograd.arena import Arena, arena_of, named_parameters

CHUNK = 131_072  # elements: a few arrays of this length share the cache, and a call is worth its overhead


class Optimizer:
    """Base: holds the step count, the state arrays (`state`, laid out like the arena) and walks the chunks."""

    def __init__(self, owner, lr: float | Callable[[int], float], weight_decay=0.0, state=()):
        self.arena = arena_of(owner)
        _at_least_zero(type(self).__name__, lr=0.0 if callable(lr) else lr, weight_decay=weight_decay)
        self.lr, self.weight_decay, self.steps = lr if callable(lr) else float(lr), float(weight_decay), 0
        self.state = {name: np.zeros_like(self.arena.data) for name in state}
        self._chunks: list | None = None

    @property
    def current_lr(self):
        """The learning rate of the next step."""
        return float(self.lr(self.steps)) if callable(self.lr) else self.lr

    def zero_grad(self):
        """Forget all gradients."""
        self.arena.zero_grad()

    def step(self):
        """Update every parameter once."""
        if self._chunks is None:
            self._chunks = self._cut()
        self.arena.finish()
        lr = self.current_lr
        self.steps += 1
        self.update(lr)
        self.arena.touch()

    def update(self, lr) -> None:
        """Apply the rule to every chunk; `self.chunks()` yields (w, g, *state, t), t being scratch memory."""
        raise TypeError(f"{type(self).__name__} defines no update(self, lr)")

    def chunks(self):
        return self._chunks or ()

    def _cut(self):
        arrays = (self.arena.data, self.arena.grad, *self.state.values())
        scratch = np.empty(min(CHUNK, self.arena.data.size), self.arena.dtype)
        spans = [slice(i, i + CHUNK) for i in range(0, self.arena.data.size, CHUNK)]
        cut = [tuple(a[span] for a in arrays) for span in spans]
        return [(*views, scratch[: views[0].size]) for views in cut]

    def __getstate__(self):
        return {**vars(self), "_chunks": None}  # views, which a copy has to cut anew

    def state_dict(self):
        """The step count and a copy of the state: `{"steps": int, "momentum": {"fc1.weight": array, ...}}`."""
        named = {
            name: {key: np.array(a, order="C") for key, a in self.arena.unflatten(flat).items()}
            for name, flat in self.state.items()
        }
        return {"steps": self.steps, **named}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned."""
        if state.keys() - {"steps"} != self.state.keys():
            raise ValueError(
                f"{type(self).__name__} keeps the state {sorted(self.state)}, not {sorted(state.keys() - {'steps'})}"
            )
        shapes = {key: p.shape for key, p in self.arena.parameters.items()}
        for name in self.state:
            given = {key: np.shape(a) for key, a in state[name].items()}
            for key in sorted(shapes.keys() | given.keys()):
                if shapes.get(key) != given.get(key):
                    raise ValueError(
                        f"{type(self).__name__}: {name!r} of {key!r} has shape {given.get(key)} in the state, "
                        f"the parameter {shapes.get(key)}"
                    )
        self.steps = int(state["steps"])
        for name, flat in self.state.items():
            for key, view in self.arena.unflatten(flat).items():
                view[...] = state[name][key]


def _at_least_zero(name, **values):
    for key, value in values.items():
        if not value >= 0.0 or not math.isfinite(value):
            raise ValueError(f"{name}: {key} is a finite number of at least 0, got {value}")


def _below_one(name, **values):
    for key, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: {key} is in [0, 1), got {value}")


class SGD(Optimizer):
    """Stochastic gradient descent with momentum m and weight decay c:

        g = gradient + c w
        v = m v + g
        w = w - lr v              (Nesterov: w - lr (g + m v))

    as in torch. Polyak 1964; Nesterov 1983; in this form Sutskever et al. 2013.
    """

    def __init__(self, owner, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        _below_one("SGD", momentum=momentum)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")
        super().__init__(owner, lr, weight_decay, ("momentum",) if momentum else ())
        self.momentum, self.nesterov = float(momentum), nesterov

    def update(self, lr):
        # As arrays: a ufunc would convert a Python number again in every call.
        m, c, lr = (np.asarray(x, self.arena.dtype) for x in (self.momentum, self.weight_decay, lr))
        for w, g, *v, t in self.chunks():
            if c:
                g = np.add(np.multiply(w, c, out=t), g, out=t)
            if m:
                v = v[0]
                v *= m
                v += g
                g = np.add(g, v * m, out=t) if self.nesterov else v
            w -= np.multiply(g, lr, out=t)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011):

    s = s + g^2
    w = w - lr g / (sqrt(s) + eps)

    with g = gradient + weight_decay w.
    """

    def __init__(self, owner, lr=0.01, eps=1e-10, weight_decay=0.0):
        _at_least_zero("Adagrad", eps=eps)
        super().__init__(owner, lr, weight_decay, ("sum",))
        self.eps = float(eps)

    def update(self, lr):
        for w, g, s, t in self.chunks():
            if self.weight_decay:
                g = g + self.weight_decay * w
            s += np.multiply(g, g, out=t)
            np.sqrt(s, out=t)
            t += self.eps
            np.divide(g, t, out=t)
            t *= lr
            w -= t


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), in the form of its section 2 with the corrections folded into two numbers:

        m = b1 m + (1 - b1) g              v = b2 v + (1 - b2) g^2
        w = w - lr mhat / (sqrt(vhat) + eps),  mhat = m / (1 - b1^t),  vhat = v / (1 - b2^t)

    with g = gradient + weight_decay w (L2 regularisation; AdamW decays the weights instead).
    """

    decoupled = False

    def __init__(self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        name = type(self).__name__
        _below_one(name, beta1=betas[0], beta2=betas[1])
        _at_least_zero(name, eps=eps)
        super().__init__(owner, lr, weight_decay, ("mean", "variance"))
        self.betas, self.eps = tuple(map(float, betas)), float(eps)

    def update(self, lr):
        b1, b2 = self.betas
        c1, c2 = 1.0 - b1**self.steps, math.sqrt(1.0 - b2**self.steps)
        for w, g, m, v, t in self.chunks():
            if self.weight_decay and self.decoupled:
                w *= 1.0 - lr * self.weight_decay
            elif self.weight_decay:
                g = g + self.weight_decay * w
            m *= b1
            m += np.multiply(g, 1.0 - b1, out=t)
            v *= b2
            np.multiply(g, g, out=t)
            t *= 1.0 - b2
            v += t
            np.sqrt(v, out=t)
            t += self.eps * c2
            np.divide(m, t, out=t)
            t *= lr * c2 / c1
            w -= t


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w = w - lr weight_decay w before the step."""

    decoupled = True

    def __init__(self, owner, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(owner, lr, betas, eps, weight_decay)


def grad_norm(owner):
    """Euclidean norm of all gradients together."""
    return _norm(_gradients(owner))


def clip_grad_norm(owner, max_norm):
    """Scale all gradients so that their common norm is at most max_norm; returns the norm before.

    Pascanu, Mikolov and Bengio 2013.
    """
    gradients = _gradients(owner)
    norm = _norm(gradients)
    if norm > max_norm:
        for g in gradients:
            g *= max_norm / norm
    return norm


def _norm(gradients):
    return math.sqrt(sum(float(np.dot(g.ravel("K"), g.ravel("K"))) for g in gradients))


def _gradients(owner):
    """The flat gradients of what has an arena, or else the gradients of each parameter: they stay where they are."""
    arena = owner if isinstance(owner, Arena) else getattr(owner, "arena", None)
    if arena is None:
        return [p.grad for p in named_parameters(owner).values() if p.grad is not None]
    arena.finish()  # else what an unused parameter got in an earlier step would count
    return [arena.grad]
