"""Schedule-free learning: the average of the weights in place of a learning rate that decays."""

import math

from allgrad.autograd.optim.base import Optimizer, regularized, safe_eps


class ScheduleFree(Optimizer):
    """What schedule-free rules have in common (Defazio et al. 2024, "The Road Less Scheduled").

    Three points in place of one: z, which the rule moves; x, the average of all z, weighted by the squares of their
    rates; and y = (1 - b) z + b x, between them, where the gradient is taken. With c = rate^2 / sum of all rates^2,

        z = z - rate * direction(y)        x = (1 - c) x + c z        y = (1 - b) z + b x

    The parameters are y in training, and x, which is what has been learned, after `eval()`, until `train()` brings back
    the very bits of y. A step in between is refused. Trainer and studies call both; a loop of one's own calls `eval()`
    before it evaluates or saves the model, and `train()` before it goes on. Running statistics of a batch norm stay
    those of y. lr may be constant, after a warm-up.
    """

    arrays = ("average", "base")  # x, z
    takes_local_steps = False

    def __init__(self, owner, lr, groups=None, weight_decay=0.0, l1=0.0, **more):
        super().__init__(owner, lr, groups, weight_decay, l1, **more)
        self.training = True  # whether the parameters are y
        self.sums = [0.0] * len(self.param_groups)  # of the squares of each group's rates
        self.shares = self.sums  # c of each group, in the step that is being taken

    def rate(self, lr, h):
        """The rate of the step, by whose square the average is weighted."""
        return lr

    def interpolation(self, h):
        """b: how near y is to x."""
        return h.beta

    def step(self, closure=None, skip=None):
        """Update every parameter once, see `Optimizer.step`; RuntimeError after `eval()`."""
        if not self.training:
            raise RuntimeError(f"{type(self).__name__}: the parameters are averages since eval(): call train() first")
        loss = closure() if closure is not None else None
        lr, self.shares = self.scheduled_lr, []
        self.steps += 1
        for i, group in enumerate(self.param_groups):
            square = self.rate(lr * group.h.lr_scale if group.h.lr is None else group.h.lr, group.h) ** 2
            self.sums[i] += square
            self.shares.append(square / self.sums[i] if square else 0.0)
        self.steps -= 1
        super().step(skip=skip)
        return loss

    @property
    def progress(self):
        return self.steps, [*self.sums]

    @progress.setter
    def progress(self, counted):
        self.steps, self.sums = counted[0], [*counted[1]]

    def move(self, h, chunk, rate):
        """z - rate * direction(y), in place."""
        raise NotImplementedError

    def update(self, lr, h, chunks):
        n, rate = self.xp, self.rate(lr, h)
        share = next(c for c, group in zip(self.shares, self.param_groups) if group.h is h)
        rest, share = self.number(1.0 - share), self.number(share)
        for chunk in chunks:
            w, _, x, z, *_, t, _ = chunk
            if self.steps == 1:
                x[...] = w
                z[...] = w
            self.move(h, chunk, rate)
            x *= rest
            x += n.multiply(z, share, out=t)
            self._point(h, chunk)

    def _point(self, h, chunk):
        """Let the parameters be y."""
        w, _, x, z, *_, t, _ = chunk
        b = self.interpolation(h)
        self.xp.multiply(x, self.number(b), out=w)
        w += self.xp.multiply(z, self.number(1.0 - b), out=t)

    def eval(self):
        """Let the parameters be x, until `train()`; returns whether that has changed them."""
        return self._show(False)

    def train(self):
        """Let the parameters be y again; returns whether that has changed them."""
        return self._show(True)

    def _show(self, training):
        if self.training == training or not self.steps:  # before the first step all three are the same
            return False
        self.training = training
        self._write()
        return True

    def _write(self):
        for h, chunks in self.chunks():
            for chunk in chunks:
                if self.training:
                    self._point(h, chunk)
                else:
                    chunk[0][...] = chunk[2]
        self.arena.bump_versions()

    def state_dict(self):
        """As of any optimizer, the same after `eval()` and `train()`, and "sums", of the squares of the rates."""
        return {**super().state_dict(), "sums": [*self.sums]}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned, and let the parameters be y."""
        if len(state.get("sums", ())) != len(self.sums):
            name, many = type(self).__name__, len(self.sums)
            raise ValueError(f"{name} has {many} groups, and 'sums' of the state {len(state.get('sums', ()))}")
        super().load_state_dict({name: value for name, value in state.items() if name != "sums"})
        self.sums, self.training = [*map(float, state["sums"])], True
        if self.steps:
            self._write()


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD: `ScheduleFree` with direction(y) = g + weight_decay y, and b = beta, in place of momentum."""

    fractions = ("beta",)

    def __init__(self, owner, lr=1.0, beta=0.9, weight_decay=0.0, l1=0.0, groups=None):
        super().__init__(owner, lr, groups, weight_decay, l1, beta=beta)

    def move(self, h, chunk, rate):
        w, g, _, z, t, u = chunk
        z -= self.xp.multiply(regularized(g, w, h.weight_decay, h.l1, t, u), self.number(rate), out=u)


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-free AdamW (algorithm 1 of the paper): `ScheduleFree` with b = b1 and

    v = b2 v + (1 - b2) g^2
    rate = lr sqrt(1 - b2^t)           direction(y) = g / (sqrt(v) + eps) + weight_decay y
    """

    arrays = ("average", "base", "variance")

    def __init__(
        self, owner, lr=2.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, l1=0.0, groups=None
    ):  # fmt: skip
        super().__init__(owner, lr, groups, weight_decay, l1, betas=betas, eps=eps)

    def rate(self, lr, h):
        return lr * math.sqrt(1.0 - h.betas[1] ** self.steps)

    def interpolation(self, h):
        return h.betas[0]

    def move(self, h, chunk, rate):
        n, b2 = self.xp, h.betas[1]
        w, g, _, z, v, t, u = chunk
        g = regularized(g, w, 0.0, h.l1, u, t)
        v *= self.number(b2)
        n.multiply(g, g, out=t)
        t *= self.number(1.0 - b2)
        v += t
        if h.weight_decay:
            z -= n.multiply(w, self.number(rate * h.weight_decay), out=t)
        n.sqrt(v, out=t)
        t += self.number(safe_eps(h.eps, self.arena.dtype))
        n.divide(g, t, out=t)
        t *= self.number(rate)
        z -= t
