"""Batches that grow while training goes on.

grow     the batch times F instead of the learning rate by F: Smith et al. 2018, "Don't Decay the Learning Rate,
         Increase the Batch Size"
seesaw   for Adam: the batch times F and the rate by sqrt(F) instead of the rate by F: Meterez et al. 2025, "Seesaw:
         Accelerating Training by Balancing Learning Rate and Batch Size Scheduling"
ramp     given batches at given steps, and a rate that follows them: what `allgrad study ramp` designs after Merrill et
         al. 2025, "Critical Batch Size Revisited"
noise    the batch follows the noise scale N of the run: twice the batch B when N > 2 B (the batch size warm-up of
         Merrill et al. 2025), or B = sqrt(R N), which minimises samples + R steps (McCandlish et al. 2018, appendix D)
"""

import math
from fractions import Fraction

from allgrad.autograd.schedule import Schedule
from allgrad.ddp.data import Sampler
from allgrad.ddp.errors import ConfigurationError


def grow(sampler: Sampler, factor, epochs) -> list[int]:
    """Let the sampler's batch be `factor` times as large from each of these epochs on, rounded to whole samples.

    epochs are rising numbers, which need not be whole: a batch that is under way at such a point is finished first.
    Returns the steps of the changes.
    """
    epochs = [Fraction(epoch) for epoch in epochs]
    if not (factor > 1.0 and math.isfinite(factor)) or sorted({Fraction(0), *epochs}) not in (epochs, [0, *epochs]):
        raise ConfigurationError(
            f"a batch grows by a factor above 1 at rising epochs, got {factor:g} and "
            f"{', '.join(f'{float(epoch):g}' for epoch in epochs)}"
        )
    steps = []
    for i, epoch in enumerate(epochs, 1):
        steps.append(max(sampler.steps_in(epoch), sampler.pieces[-1].step))
        sampler.resize(steps[-1], round(sampler.global_batch * factor**i))
    return steps


def seesaw(rate: Schedule, factor, steps) -> Schedule:
    """The rate divided by sqrt(factor) for each of these steps that has been reached."""
    return lambda step: rate(step) * factor ** (-0.5 * sum(step >= s for s in steps))


def ramp(sampler: Sampler, step, batch):
    """Let the sampler have this batch from a step on, which comes after those of earlier changes."""
    if step <= sampler.pieces[-1].step:
        raise ConfigurationError(
            f"the batch changes at rising lengths after the first step, got {batch} from step {step} on after "
            f"{sampler.pieces[-1].batch} from step {sampler.pieces[-1].step} on"
        )
    sampler.resize(step, batch)


def follow_batch(rate: Schedule, sampler: Sampler, power: float) -> Schedule:
    """The rate times (batch / first batch)^power, the batch being that of the step."""
    return lambda step: rate(step) * (sampler.batch_at(step) / sampler.global_batch) ** power


class FollowNoise:
    """Decides the batch from the noise scale, at every `every` epochs.

    every   a number, which need not be whole
    price   R, in samples that one step is worth; None doubles the batch while the noise scale is above twice the batch
    The batch stays within `least` and `most`, and is kept while the noise scale is undefined. As the noise scale has
    the same bits on any number of ranks, so have the batches; the sampler's `pieces` are what a checkpoint has to keep.
    """

    def __init__(self, every, least: int, most: int, price: float | None = None):
        every = Fraction(every)
        if not every > 0 or not 1 <= least <= most or (price is not None and not 0.0 < price < math.inf):
            raise ConfigurationError(
                f"a batch that follows the noise scale changes every so many epochs, above 0, and is between {least} "
                f"and a larger limit, at a price above 0, got {every}, {most} and {price}"
            )
        self.every, self.least, self.most, self.price = every, least, most, price

    def due(self, sampler: Sampler, step):
        """Whether the step that is the last one of the first `step` has completed another `every` epochs."""
        length = self.every * sampler.samples
        return sampler.samples_seen(step) // length > sampler.samples_seen(step - 1) // length

    def next(self, batch: int, noise_scale: float | None) -> int:
        """The batch from here on."""
        if noise_scale is None:
            return batch
        if self.price is None:
            wanted = 2 * batch if noise_scale > 2 * batch else batch
        else:
            wanted = round(math.sqrt(self.price * noise_scale))
        return min(max(wanted, self.least), self.most)
