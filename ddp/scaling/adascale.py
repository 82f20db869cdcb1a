"""AdaScale SGD: Johnson et al. 2020, "AdaScale SGD: A User-Friendly Algorithm for Distributed Training"."""

import math

from allgrad.autograd.schedule import Schedule, constant


def gain(variance, squared, scale):
    """r = (sigma^2 + mu^2) / (sigma^2 / S + mu^2), in [1, S]: the steps at the base batch that a step is worth.

    sigma^2 is the variance of the gradient of the base batch, summed over its elements, and mu^2 its squared mean. The
    gain has no unit: it is 1 where there is no variance, whatever the size of the gradients.
    """
    variance, squared = max(variance, 0.0), max(squared, 0.0)
    return (variance + squared) / (variance / scale + squared) if variance else 1.0


class AdaScale:
    """The learning rate of a step at batch S B0: its gain r times schedule(floor(tau)), where tau adds up the gains.

    schedule  learning rate at the base batch, a number or a function of the step
    base      base batch B0 in samples
    total     steps the base batch would take: training is done when tau reaches them

    sigma^2 = tr(Sigma) / B0 and mu^2 = |G|^2 come from the noise scale's unbiased estimates for each step, of which

        sum_i |g_i|^2 / (S - 1) - S / (S - 1) |g|^2        |g|^2 - sigma^2 / S

    are the case of S shards of B0 samples. They are averaged with decay 1 - S / 1000, equally at first; and they are
    cut off at 0 after the averaging and not before, which would bias it. The first step has gain 1.
    """

    def __init__(self, schedule: Schedule | float, base: int, total: float):
        self.schedule = schedule if callable(schedule) else constant(schedule)
        self.base, self.total_steps = base, total
        self.variance = self.squared = 0.0
        self.seen, self.gain, self.tau = 0, 1.0, 0.0

    def __call__(self, step):
        return self.gain * self.schedule(math.floor(self.tau))

    @property
    def done(self):
        """Whether the steps of the base batch have been made."""
        return self.tau >= self.total_steps

    def observe(self, last, samples):
        """Before a step: take in its (tr(Sigma), |G|^2), or None if it has none, and set its gain."""
        if last is None:
            return
        scale = max(samples / self.base, 1.0)  # of the last batch of an epoch, which may be short
        self.seen += 1
        rate = max(1.0 / self.seen, min(scale / 1000.0, 1.0))
        self.variance += rate * (last[0] / self.base - self.variance)
        self.squared += rate * (last[1] - self.squared)
        self.gain = gain(self.variance, self.squared, scale) if self.tau else 1.0

    def advance(self):
        """After a step."""
        self.tau += self.gain

    def state_dict(self):
        """What it has seen, as JSON values."""
        return {key: getattr(self, key) for key in ("variance", "squared", "seen", "gain", "tau")}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned."""
        for key in ("variance", "squared", "seen", "gain", "tau"):
            setattr(self, key, state[key])
