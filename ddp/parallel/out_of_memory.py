"""Memory that does not suffice for a shard: told in a sentence, with how many samples a shard may have."""

import os
import re
import sys
import traceback

from allgrad.ddp.comm import on_rank
from allgrad.ddp.errors import OutOfMemory, counted

UNITS = {"bytes": 1, **{f"{letter}iB": 2 ** (10 * k) for k, letter in enumerate("KMGTPE", 1)}}
SIZE = rf"([\d.]+) ({'|'.join(UNITS)})"


def out_of_memory(error, batch, shard) -> OutOfMemory | None:
    """The error to raise in place of this one, of a shard's forward or backward; None if it is not about memory."""
    text = str(error)
    on_gpu = type(error).__name__ == "OutOfMemoryError"
    if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in text):
        return None
    asked = _bytes(f"allocate {SIZE}", text)
    if on_gpu:
        memory, fit = _bytes(f"total capacity of {SIZE}", text), _samples_that_fit(error, asked, len(shard))
    else:
        memory, fit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    shards = batch.logical_shards
    while fit and -(-batch.size // shards) > fit:
        shards *= 2
    more = "{shards} or more, since at most about {fit.value} a shard fit" if fit else "more {shards}"
    return OutOfMemory(
        f"out of memory{{rank.value}} at step {{step.value}}, in shard {{index.value}} with {{samples.value}}: "
        f"{{asked.value}} more could not be had of the {{memory.value}}: start anew with {more}"
        f"{', or with {dtype:bfloat16}' if on_gpu else ''}",
        rank=on_rank(), step=batch.step, index=shard.index, samples=counted(len(shard), "sample"),
        asked=_told(asked), memory=f"{_told(memory)} of {'its GPU' if on_gpu else 'this host'}",
        shards=shards if fit else None, fit=fit and counted(fit, "sample"),
    )  # fmt: skip


def _samples_that_fit(error, asked, samples):
    """How many of a shard's samples would have fit on the GPU, at most; None if that is not known.

    What a shard takes is proportional to its samples. It would have taken what it had, and at least what it asked for.
    """
    text = str(error)
    allocated, *available = (
        _bytes(pattern, text)
        for pattern in (f"{SIZE} is allocated by PyTorch", f"of which {SIZE} is free", f"{SIZE} is reserved by PyTorch")
    )
    if None in (asked, allocated, *available):
        return None
    traceback.clear_frames(error.__traceback__)  # which hold what the shard has taken
    stays = sys.modules["torch"].cuda.memory_allocated()
    taken, room = allocated + asked - stays, allocated + sum(available) - stays
    fit = int(samples * room / taken) if taken > 0 else 0
    return fit if 0 < fit < samples else None


def _bytes(pattern, text):
    """The size that a text names in this place, in bytes; None if it names none."""
    found = re.search(pattern, text)
    return found and int(float(found[1]) * UNITS[found[2]])


def _told(size):
    if size is None:
        return "memory"
    unit = max((unit for unit in UNITS if UNITS[unit] <= size), key=UNITS.__getitem__, default="bytes")
    return f"{size / UNITS[unit]:.4g} {unit}"
