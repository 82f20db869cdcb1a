"""What ranks compare with each other: the models that they begin with, and the parameters that they have later."""

import hashlib
from collections import Counter

import numpy as np

from allgrad.autograd.arena import TODO, named_parameters
from allgrad.autograd.arrays import to_numpy
from allgrad.autograd.ops.labels import unknown_label
from allgrad.ddp.comm import activity
from allgrad.ddp.errors import ConfigurationError, OutOfStep, counted


def compare_models(comm, tensors: dict):
    """Raise ConfigurationError on every rank if names, shapes or dtypes differ, or which are trained. Collective.

    A sum over different parameters would be meaningless.
    """
    frozen = {name for name, t in tensors.items() if hasattr(t, "leaf") and not t.requires_grad}
    mine = [(name, list(t.shape), str(t.dtype), ", frozen" * (name in frozen)) for name, t in tensors.items()]
    all_ranks = comm.all_gather_object(mine)
    for rank, theirs in enumerate(all_ranks):
        for first, other in zip(all_ranks[0] + [None] * len(theirs), theirs + [None] * len(all_ranks[0])):
            if first != other:
                raise ConfigurationError(
                    f"the models differ between ranks: rank 0 has {_described(first)} where rank {rank} has "
                    f"{_described(other)}; build the same model on every rank"
                )


def _described(tensor):
    return "nothing" if tensor is None else "{!r} {} {}{}".format(*tensor)


def compare_batches(comm, batch):
    """Raise ConfigurationError on every rank if the ranks do not have the same batch. Collective."""
    compare_data(comm, f"step {batch.step} of {counted(batch.size, 'sample')}, from {batch.origin or 'elsewhere'}")


def compare_data(comm, mine: str):
    """Raise ConfigurationError on every rank if the ranks do not have the same data, told in words. Collective."""
    everyones = comm.all_gather_object(mine)
    for rank, theirs in enumerate(everyones):
        if theirs != everyones[0]:
            raise ConfigurationError(
                f"the data differ between ranks: rank 0 has {everyones[0]}, where rank {rank} has {theirs}; give the "
                f"whole data set to every rank, in the same way, and take the same steps"
            )


def refuse_other_parameters(arena):
    """Raise ConfigurationError if a backward has reached a parameter whose gradient nobody would exchange or use."""
    for _, what, _ in arena.gradients_outside():
        raise ConfigurationError(f"{what} has a gradient, which the ranks do not exchange: {TODO}")


def refuse_new_parameters(comm, arena):
    """Raise ConfigurationError on every rank if a model has parameters that are not in its arena. Collective."""
    model, held = arena.owner(), {id(p) for p in arena.parameters.values()}
    now = {} if model is None else named_parameters(model)
    new = next((name for name, p in now.items() if id(p) not in held), None)
    for name in filter(None, comm.all_gather_object(new)):
        raise ConfigurationError(
            f"the model has got a parameter {name!r} since DistributedDataParallel was made: {TODO}"
        )


def compare_parameters(comm, arena):
    """Raise OutOfStep on every rank if the ranks do not have the same parameters, bit for bit. Collective."""
    digests = comm.all_gather_object(hashlib.sha256(to_numpy(arena.data).data).digest())
    if len({*digests}) == 1:
        return
    flat = to_numpy(arena.data)
    mine = [hashlib.sha256(flat[span].data).digest() for span in arena.spans.values()]
    (most, count), *_ = Counter(digests).most_common()
    like, wrong = digests.index(most), next(r for r, digest in enumerate(digests) if digest != most)
    everyones = comm.all_gather_object(mine)
    name = next((n for n, a, b in zip(arena.spans, everyones[like], everyones[wrong]) if a != b), "the padding")
    others = f"the other {count} of {comm.size} ranks" if 2 * count > comm.size else f"rank {like}"
    raise OutOfStep(
        f"the parameters of rank {wrong} differ from those of {others}, first in {name!r}, after step "
        f"{activity.step}: change parameters on all ranks alike, and by nothing that is random or local to a rank"
    )


def first_not_finite(comm, arena, suspect: int | None) -> str | None:
    """The first parameter, in the arena's order, whose gradient is not finite, in words; None if all are. Collective.

    Where a label on a device was no class, that is said instead.

    suspect  this rank's first shard of the batch whose loss or gradient was not finite, or None
    """
    flat = to_numpy(arena.grad)
    names = [name for name, span in arena.spans.items() if not np.isfinite(flat[span]).all()]
    suspects, unknown = zip(*comm.all_gather_object((suspect, unknown_label())))
    if any(unknown):
        return next(filter(None, unknown))
    shards = [(shard, rank) for rank, shard in enumerate(suspects) if shard is not None]
    if not names:
        return None
    source = ", from shard {} on rank {}".format(*min(shards)) if shards else ""
    return f"first in the gradient of {names[0]!r}{source}"
