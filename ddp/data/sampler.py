"""Which samples make up which step, and who computes them.

The samples of a step are a function of (number of samples, batches, shuffle mode, seed, step): any rank finds those of
any step without having seen the steps before. The batch may change at some steps (`resize`). They are cut into V
logical shards whose sizes depend on the batch and V only and differ by at most one.
"""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from allgrad.autograd import random
from allgrad.ddp.errors import ConfigurationError

SHUFFLES = ("epoch", "once", "never", "replacement")
BOUNDARIES = ("short", "carry")


class Piece(NamedTuple):
    """Batches of one size: from which step on, and from which position in the stream of epochs."""

    step: int
    sample: int
    batch: int


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
        self.pieces = [Piece(0, 0, global_batch)]
        self._order: tuple = (None, None)

    @property
    def steps_per_epoch(self):
        """Steps of the first batch in an epoch."""
        return -(-self.samples // self.global_batch)

    def resize(self, step, global_batch):
        """Let batches have another size from this step on, which is not before the last one given."""
        if step < self.pieces[-1].step or global_batch < 1:
            raise ConfigurationError(
                f"a batch of {global_batch} from step {step} on: the batch is at least 1 sample, and its changes come "
                f"in the order of the steps, after step {self.pieces[-1].step}"
            )
        piece = Piece(step, self.samples_seen(step), global_batch)
        if step == self.pieces[-1].step:
            self.pieces.pop()
        self.pieces.append(piece)

    def batch_at(self, step):
        """The size of a full batch at a step."""
        return self._piece(step).batch

    def _piece(self, step):
        return self.pieces[bisect_right(self.pieces, step, key=lambda piece: piece.step) - 1]

    def span(self, step):
        """The positions [start, stop) of a step in the endless stream of epochs: stop is `samples_seen` after it."""
        first, sample, batch = self._piece(step)
        k = step - first
        if self.boundary == "carry":
            return sample + k * batch, sample + (k + 1) * batch
        end = (sample // self.samples + 1) * self.samples  # of the epoch in which the piece begins
        if (rest := -(-(end - sample) // batch)) > k:
            start = sample + k * batch
        else:
            epoch, k = divmod(k - rest, -(-self.samples // batch))
            start = end + epoch * self.samples + k * batch
            end += (epoch + 1) * self.samples
        return start, min(start + batch, end)

    def epoch_of(self, step):
        """The epoch in which a step starts."""
        return self.span(step)[0] // self.samples

    def samples_seen(self, steps):
        """How many samples the first steps use."""
        return self.span(steps - 1)[1] if steps else 0

    def steps_for(self, samples):
        """How many steps it takes to see so many samples: the least that `samples_seen` says are enough."""
        first, sample, batch = next((p for p in reversed(self.pieces) if p.sample < samples), self.pieces[0])
        end = (sample // self.samples + 1) * self.samples
        if self.boundary == "carry" or samples <= end:
            return int(first - (sample - samples) // batch)
        epochs, rest = divmod(samples - end, self.samples)
        steps = -(-(end - sample) // batch) + epochs * -(-self.samples // batch) - (-rest // batch)
        return int(first + steps)

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
