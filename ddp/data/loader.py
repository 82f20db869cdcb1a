"""Batches of a data set, as the logical shards that this rank computes."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from allgrad.autograd.arrays import to_numpy
from allgrad.ddp.comm import Communicator
from allgrad.ddp.data.augment import Draws
from allgrad.ddp.data.placement import Placement
from allgrad.ddp.data.prefetch import Prefetcher
from allgrad.ddp.data.sampler import Sampler
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.shards import shard_bounds, shards_of_rank


@dataclass(slots=True)
class Shard:
    """One logical shard of a batch: its number, the samples it has, and their data."""

    index: int
    samples: np.ndarray
    arrays: tuple

    def __len__(self):
        return len(self.samples)


@dataclass(slots=True)
class Batch:
    """A global batch as one rank sees it: how many samples it has on all ranks, and this rank's shards of it.

    origin: which data and which order it is from, in words that all ranks must have alike.
    """

    step: int
    epoch: int
    size: int
    logical_shards: int
    seed: int
    shards: list[Shard]
    origin: str = ""


class ArrayDataset:
    """Arrays whose first axis counts the samples; `dataset[indices]` gathers a tuple of arrays."""

    def __init__(self, *arrays):
        arrays = tuple(np.asarray(a) for a in arrays)
        lengths = {len(a) for a in arrays}
        if len(lengths) != 1:
            raise ConfigurationError(f"the arrays of a data set have one length, got {[len(a) for a in arrays]}")
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, indices):
        return tuple([a.take(indices, axis=0) for a in self.arrays])


class DataLoader:
    """Cuts a data set into global batches, and these into logical shards.

    dataset       a tuple of arrays, or an object with `len` and `dataset[integer array] -> tuple of arrays`: the whole
                  data set on every rank, with the same samples at the same indices
    global_batch  samples a step, over all ranks
    comm, shards  who computes what; shards defaults to the number of ranks
    seed, shuffle, boundary   see `Sampler`
    place         a `Placement`, for torch tensors instead of NumPy's arrays
    augment       None, or augment(x, draws) -> array of as many samples, for the first array of the samples: a function
                  of these and of the uniform numbers `draws(k)` that belong to each sample and epoch, see `Draws`, and
                  of nothing else

    On CUDA, arrays that are not augmented are copied to the device once, if they take at most a quarter of its free
    memory, and batches are gathered there. Otherwise a thread gathers, augments and sends the batch of the next step
    ahead. What fails in it is raised by `batch` when it is asked for that step.
    """

    def __init__(
        self, dataset, global_batch, comm=None, shards=None, seed=0, shuffle="epoch", boundary="short", place=None,
        augment=None,
    ):  # fmt: skip
        self.dataset: Any = ArrayDataset(*dataset) if isinstance(dataset, (tuple, list)) else dataset
        self.comm = comm or Communicator()
        self.shards = self.comm.size if shards is None else shards
        self.seed = seed
        self.place, self.augment = place or Placement(), augment
        self.reading = getattr(self.place, "reading", nullcontext())  # none of a function in a Placement's place
        self.sampler = Sampler(len(self.dataset), global_batch, shuffle, seed, boundary)
        if global_batch < self.shards:
            raise ConfigurationError(
                f"a global batch of {global_batch} cannot be cut into {counted(self.shards, 'logical shard')}: "
                f"give {{global_batch}} or more, or fewer {{shards}}", global_batch=self.shards,
            )  # fmt: skip
        self.own_shards = range(*shards_of_rank(self.comm.rank, self.comm.size, self.shards))

    def __len__(self):
        """Steps an epoch."""
        return self.sampler.steps_per_epoch

    @cached_property
    def origin(self) -> str:
        """The data and the order of their samples, in words: what ranks must have alike. Looks at three samples."""
        sampler = self.sampler
        with self.reading:
            few = self.dataset[np.array([0, sampler.samples // 2, sampler.samples - 1])]
        arrays = [to_numpy(a) for a in few]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:8]
        return (
            f"{counted(sampler.samples, 'sample')} ({digest}) in batches of {sampler.global_batch}, shuffle "
            f"{sampler.shuffle!r}, seed {self.seed}, boundary {sampler.boundary!r}{', augmented' * bool(self.augment)}"
        )

    def epoch(self, epoch):
        """The batches of one epoch."""
        return self.steps(self.sampler.steps_in(epoch), self.sampler.steps_in(epoch + 1))

    def steps(self, start, stop):
        """The batches of the steps start .. stop - 1, counted over all epochs."""
        for step in range(start, stop):
            yield self.batch(step, step + 1 < stop)

    def batch(self, step, more=True):
        """The batch of a step, gathered for this rank's shards only. more: that of the next step may be asked for."""
        origin = self.origin if self.comm.size > 1 else ""
        if getattr(self.place, "copies", None) is None:
            indices = self.sampler.indices(step)
            epochs = self.sampler.epochs(step) if self.augment is not None else indices
            size, shards = len(indices), self._gathered(indices, epochs)
        else:
            size, shards = self._of_device(step, more)
        return Batch(step, self.sampler.epoch_of(step), size, self.shards, self.seed, shards, origin)

    def _gathered(self, indices, epochs):
        """This rank's shards of these samples, which are from these epochs."""
        bounds = shard_bounds(len(indices), self.shards)
        shards = []
        for v in self.own_shards:
            part = slice(bounds[v], bounds[v + 1])
            arrays = self.dataset[indices[part]]
            if self.augment is not None and part.start < part.stop:
                arrays = augmented(self.augment, arrays, Draws(self.seed, indices[part], epochs[part]))
            shards.append(Shard(v, indices[part], self.place(arrays)))
        return shards

    # --- on a device ---------------------------------------------------------------------------------------------

    @cached_property
    def _resident(self) -> Any:
        """The whole data set on the device, or None."""
        plain = self.augment is None and type(self.dataset) is ArrayDataset
        return self.place.resident(self.dataset) if plain else None

    @cached_property
    def _prefetcher(self) -> Any:
        return Prefetcher(self.place.copies)

    def _of_device(self, step, more):
        """(number of samples, this rank's shards) of a step, on the device or on their way to it."""
        if self._resident is not None:
            indices = self.sampler.indices(step)
            return len(indices), self._selected(indices)
        prefetcher, (start, stop) = self._prefetcher, self.sampler.span(step)
        if not prefetcher.has((step, start, stop)):  # nobody foresaw it, or it has been resized meanwhile
            self._begin(step)
        shards, event = prefetcher.take()
        prefetcher.copies.receive([a for shard in shards for a in shard.arrays], event)
        if more:
            self._begin(step + 1)
        return stop - start, shards

    def _selected(self, indices):
        """This rank's shards, from the data set that is on the device: only numbers of samples travel."""
        bounds = shard_bounds(len(indices), self.shards)
        first, last = bounds[self.own_shards.start], bounds[self.own_shards.stop]
        (there,) = self.place((indices[first:last],))
        shards = []
        for v in self.own_shards:
            start, stop = bounds[v], bounds[v + 1]
            own = there[start - first : stop - first]
            # Each shard has arrays of its own: kernels are chosen by how their operands are aligned.
            arrays = tuple([array.index_select(0, own) for array in self._resident])
            shards.append(Shard(v, indices[start:stop], arrays))
        return shards

    def _begin(self, step):
        """Let the thread make the batch of a step. Its samples are found here: the sampler may be asked by one only."""
        indices, epochs = self.sampler.indices(step), self.sampler.epochs(step)

        def make():
            with self.reading:
                return self._gathered(indices, epochs)

        self._prefetcher.begin((step, *self.sampler.span(step)), make)


def augmented(augment, arrays, draws):
    """The arrays, with the first of them augmented."""
    x = augment(arrays[0], draws)
    if len(x) != len(arrays[0]):
        raise ConfigurationError(
            f"augment returned {len(x)} samples for {len(arrays[0])}: it has to make one of each, in their order"
        )
    return x, *arrays[1:]
