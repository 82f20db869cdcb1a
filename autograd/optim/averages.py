"""The average of the weights over the last steps, beside the weights."""

from contextlib import contextmanager

import numpy as np

from allgrad.autograd.arena import arena_of
from allgrad.autograd.arrays import full, to_numpy, xp
from allgrad.autograd.optim.base import CHUNK_ELEMENTS, DEVICE_CHUNK_ELEMENTS, fill


class EMA:
    """The exponential moving average of the weights w, with the correction of its start, as Adam has it:

        m = d m + (1 - d) w        average = m / (1 - d^n) after n updates

    so that after one update it is w, and after n that of w_1 to w_n. It is a function of the weights, and so the same
    on all ranks that have the same weights. Give `decay` d, in [0, 1), or `half_life_steps`, after how many updates
    the weight of an old w is halved: d = 2^(-1 / half_life_steps).

        ema = optim.EMA(model, decay=0.999)
        ...
        optimizer.step()
        ema.update()
        ...
        with ema.applied():                        # or ema.eval(), and ema.train() before the next update
            evaluate(model)

    Polyak and Juditsky 1992; for one run in place of many with a decaying rate, Zhang et al. 2024, "How Does Critical
    Batch Size Scale in Pre-training?". Running statistics of a batch norm are not averaged. owner: see
    `autograd.optim`.
    """

    def __init__(self, owner, decay: float | None = None, half_life_steps: float | None = None):
        if half_life_steps is not None and not half_life_steps > 0.0:
            raise ValueError(f"EMA: half_life_steps is above 0, got {half_life_steps}")
        if half_life_steps is not None and decay is None:
            decay = float(0.5 ** (1.0 / half_life_steps))
        elif decay is None or half_life_steps is not None:
            raise ValueError("EMA: give decay or half_life_steps, one of the two")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA: decay is in [0, 1), got {decay}")
        self.arena = arena_of(owner)
        self.decay, self.updates = float(decay), 0
        self.mean = xp[type(self.arena.data)].zeros_like(self.arena.data)
        self.own = None  # the weights themselves, while the parameters are the average

    def update(self, skip=None):
        """Take the weights as they are into the average; RuntimeError after `eval()`.

        skip: as of `Optimizer.step`: a tensor on the device which leaves the average as it is if it is 1.
        """
        if self.own is not None:
            raise RuntimeError("EMA: the parameters are the average since eval(): call train() before update()")
        self.updates += 1
        share = (1.0 - self.decay) / (1.0 - self.decay**self.updates)
        data, mean, n = self.arena.data, self.mean, xp[type(self.mean)]
        length = min(CHUNK_ELEMENTS if self.arena.on_cpu else DEVICE_CHUNK_ELEMENTS, len(data))
        scratch = full((length,), 0.0, data)
        for start in range(0, len(data), length):
            w, m = data[start : start + length], mean[start : start + length]
            difference = n.subtract(w, m, out=scratch[: len(w)])
            difference *= share
            if skip is None:
                m += difference
            else:
                n.copyto(m, m + difference, where=skip == 0.0)

    def eval(self):
        """Let the parameters be the average, until `train()`; returns whether that has changed them."""
        if self.own is not None or not self.updates:
            return False
        self.own = xp[type(self.mean)].copy(self.arena.data)
        self._write(self.mean)
        return True

    def train(self):
        """Let the parameters be the weights themselves again; returns whether that has changed them."""
        if self.own is None:
            return False
        own, self.own = self.own, None
        self._write(own)
        return True

    @contextmanager
    def applied(self):
        """A context in which the parameters are the average."""
        changed = self.eval()
        try:
            yield self
        finally:
            if changed:
                self.train()

    @property
    def weights(self):
        """The weights themselves, flat, whatever the parameters are at the moment."""
        return self.arena.data if self.own is None else self.own

    def _write(self, flat):
        self.arena.data[...] = flat
        self.arena.bump_versions()

    def state_dict(self):
        """{"updates": how many, "mean": {"fc1.weight": the average, ...}}, as copies."""
        views = self.arena.unflatten(self.mean)
        return {"updates": self.updates, "mean": {key: np.array(to_numpy(a), order="C") for key, a in views.items()}}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned, and let the parameters be the weights themselves."""
        views = self.arena.unflatten(self.mean)
        given, shapes = ({key: np.shape(a) for key, a in some.items()} for some in (state["mean"], views))
        for key in sorted(given.keys() | shapes.keys()):
            if given.get(key) != shapes.get(key):
                what = f"EMA: {key!r} has shape {given.get(key)} in the state"
                raise ValueError(f"{what}, the parameter {shapes.get(key)}")
        self.train()
        self.updates = int(state["updates"])
        for key, view in views.items():
            fill(view, state["mean"][key])
