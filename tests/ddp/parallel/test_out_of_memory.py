"""The sentence of memory that does not suffice, from what torch and NumPy say of it."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from allgrad import ddp
from allgrad.autograd import nn
from allgrad.ddp.parallel.out_of_memory import out_of_memory
from allgrad.launch.flags import as_flag

BATCH = SimpleNamespace(step=7, size=1024, logical_shards=2)
SHARD = range(512)


class Shard(list):
    index = 1


CUDA = (  # torch 2.13
    "CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of 80.00 GiB of which 1.50 GiB is "
    "free. Including non-PyTorch memory, this process has 78.50 GiB memory in use. Of the allocated memory 70.00 GiB "
    "is allocated by PyTorch, and 512.00 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory"
)
LONELY = "out of memory at step 7, in shard 1 with 512 samples: "
TOLD = [
    # 6 GiB stay, so that the shard took 68 of the 66 GiB that there were for it
    (CUDA, 6 << 30, "--shards 4 or more, since at most about 496 samples a shard fit, or with --dtype bfloat16"),
    # 69 GiB stay: 5 of 3
    (CUDA, 69 << 30, "--shards 4 or more, since at most about 307 samples a shard fit, or with --dtype bfloat16"),
    (CUDA.replace("4.00", "40.00"), 69 << 30, "--shards 32 or more, since at most about 37 samples"),
    (CUDA.replace("1.50", "9.00"), 0, "more --shards, or with --dtype bfloat16"),  # it would have fit, in one piece
    (CUDA.replace("allocated by", "given out by"), 0, "more --shards, or with --dtype bfloat16"),
]


@pytest.mark.parametrize("text, stays, end", TOLD)
def test_a_gpu_tells_how_many_samples_fit(text, stays, end, monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: stays)
    told = out_of_memory(torch.OutOfMemoryError(text), BATCH, Shard(SHARD)).told(as_flag)
    asked = text.split("allocate ")[1].split(".")[0]
    assert told.startswith(f"{LONELY}{asked} GiB more could not be had of the 80 GiB of its GPU: start anew with {end}")


@pytest.mark.parametrize(
    "error, asked",
    [
        (MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,)"), "8 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3072 bytes."), "3 KiB"),
        (MemoryError(), "memory"),
    ],
)  # fmt: skip
def test_a_host_tells_what_was_asked_for(error, asked):
    told = out_of_memory(error, BATCH, Shard(SHARD)).told(as_flag)
    assert told.startswith(f"{LONELY}{asked} more could not be had of the ")
    assert told.endswith(" of this host: start anew with more --shards")


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert"), ddp.PeerLost("gone")])
def test_other_errors_are_none_of_memory(error):
    assert out_of_memory(error, BATCH, Shard(SHARD)) is None


def parallel_and_batch():
    loader = ddp.DataLoader((np.ones((8, 3), "f4"), np.zeros(8, int)), 8)
    return ddp.DistributedDataParallel(nn.Linear(3, 2)), loader.batch(0)


def test_what_a_shard_has_taken_is_given_back_before_it_is_told_what_stays(monkeypatch):
    parallel, batch = parallel_and_batch()
    activations, alive = [], []

    def loss(x, y):
        activation = x + 1.0
        activations.append(weakref.ref(activation))
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: alive.append(activations[0]()) or 69 << 30)
    with pytest.raises(
        ddp.OutOfMemory, match=r"at step 0, in shard 0 with 8 samples: .* start anew with shards=2 or mo"
    ):
        parallel.backward(batch, loss)
    assert alive == [None]


def test_a_shard_too_large_for_the_host_ends_with_the_sentence():
    parallel, batch = parallel_and_batch()
    with pytest.raises(ddp.OutOfMemory, match=r"8 samples: 8 PiB more could not be had of the .* with more shards$"):
        parallel.backward(batch, lambda x, y: np.empty(1 << 50))
