"""Which samples make up which step, and who computes them.

The samples of a step are a function of (number of samples, batch, shuffle mode, seed, step): any rank finds those of
any step without having seen the steps before. They are cut into V logical shards whose sizes depend on the batch and
V only and differ by at most one.
"""

import numpy as np

from autograd import random
from ddp.errors import ConfigurationError

SHUFFLES = ("epoch", "once", "never", "replacement")
BOUNDARIES = ("short", "carry")


class Sampler:
    """The samples of each step.

    shuffle   "epoch": a new permutation every epoch; "once": one permutation for all epochs; "never": the order of
              the data; "replacement": every sample drawn independently
    boundary  "short": the last batch of an epoch has the samples that are left; "carry": it is filled up from the
              next epoch, so that every batch has the full size

    Every epoch has each sample exactly once (but with replacement): nothing is padded, dropped or repeated.
    """

    def __init__(self, samples, global_batch, shuffle="epoch", seed=0, boundary="short"):
        if samples < 1:
            raise ConfigurationError("the data set is empty")
        if global_batch < 1:
            raise ConfigurationError(f"the global batch is at least 1 sample, got {global_batch}")
        if shuffle not in SHUFFLES or boundary not in BOUNDARIES:
            raise ConfigurationError(
                f"shuffle is one of {', '.join(SHUFFLES)} and boundary one of {', '.join(BOUNDARIES)}, "
                f"got {shuffle!r} and {boundary!r}"
            )
        self.samples, self.global_batch, self.seed = samples, global_batch, seed
        self.shuffle, self.boundary = shuffle, boundary
        self.steps_per_epoch = -(-samples // global_batch)
        self._order: tuple = (None, None)

    def span(self, step):
        """The positions [start, stop) of a step in the endless stream of epochs: stop is `samples_seen` after it."""
        if self.boundary == "carry":
            return step * self.global_batch, (step + 1) * self.global_batch
        epoch, k = divmod(step, self.steps_per_epoch)
        start = epoch * self.samples
        return start + k * self.global_batch, start + min((k + 1) * self.global_batch, self.samples)

    def epoch_of(self, step):
        """The epoch in which a step starts."""
        return self.span(step)[0] // self.samples

    def samples_seen(self, steps):
        """How many samples the first steps use."""
        return self.span(steps - 1)[1] if steps else 0

    def steps_for(self, samples):
        """How many steps it takes to see so many samples: the least that `samples_seen` says are enough."""
        epochs, rest = divmod(samples, self.samples) if self.boundary == "short" else (0, samples)
        return int(epochs * self.steps_per_epoch - (-rest // self.global_batch))

    def steps_in(self, epochs):
        """How many steps it takes to see every sample `epochs` times, which may be a Fraction."""
        return self.steps_for(epochs * self.samples)

    def indices(self, step):
        """The samples of a step, in order: an integer array."""
        start, stop = self.span(step)
        if self.shuffle == "replacement":
            words = random.philox(self.seed, "replacement", step).random_raw(stop - start)
            return (words % np.uint64(self.samples)).astype(np.int64)
        parts = []
        while start < stop:
            epoch, at = divmod(start, self.samples)
            taken = min(stop - start, self.samples - at)
            parts.append(self.order(epoch)[at : at + taken])
            start += taken
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def epochs(self, step):
        """The epoch of each of the samples of a step."""
        return np.arange(*self.span(step)) // self.samples

    def order(self, epoch):
        """The order of all samples in an epoch."""
        epoch = epoch if self.shuffle == "epoch" else 0
        if self._order[0] != epoch:
            never = self.shuffle == "never"
            order = np.arange(self.samples) if never else random.permutation(self.samples, self.seed, "shuffle", epoch)
            self._order = epoch, order
        return self._order[1]


def shard_bounds(size, shards):
    """Where a batch is cut into logical shards: shards + 1 positions; the first size % shards have one sample more."""
    each, more = divmod(size, shards)
    return [v * each + min(v, more) for v in range(shards + 1)]
