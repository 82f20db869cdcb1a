"""Batches that are sent ahead to a pretended device: those of the host, without a wait, and nothing overwritten."""

import copy
import pickle
import threading
import time

import numpy as np
import pytest
import torch

from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError, DataLoader, Placement
from allgrad.ddp.data import placement
from allgrad.ddp.data.prefetch import CopyStream, Prefetcher
from allgrad.ddp.scaling import FollowNoise
from tests.device.pretend import OnDevice, pretend
from tests.device.workloads import WORKLOADS, trainer_of

X = generator("prefetch").standard_normal((30, 3, 8, 8)).astype("f4")
Y = np.arange(30) % 5


class Samples:
    """A data set that is no tuple of arrays, and notes who reads it."""

    def __init__(self, broken=()):
        self.broken, self.reading, self.threads = broken, threading.Lock(), []

    def __len__(self):
        return len(X)

    def __getitem__(self, indices):
        assert self.reading.acquire(blocking=False), "read by two threads at once"
        time.sleep(0.001)
        self.threads.append(threading.current_thread())
        self.reading.release()
        if {*self.broken} & {*indices.tolist()}:
            raise OSError("a sample cannot be read")
        return X[indices], Y[indices]


def turned(x, draws):
    return np.where(draws(1)[:, :, None, None] < 0.5, x, x[..., ::-1])


WAYS = {  # how batches come to the device: the data set, augmentation, the share of its memory that may be taken
    "selected there": ((X, Y), None, 0.25), "does not fit": ((X, Y), None, 0.0),
    "augmented": ((X, Y), turned, 0.25), "no arrays": (Samples(), None, 0.25),
}  # fmt: skip


def values(batch):
    """All that is known of a batch, with the arrays as NumPy's of float64."""
    on_host = lambda a: np.asarray(a.cpu().double() if hasattr(a, "cpu") else a, np.float64)
    shards = [(s.index, s.samples.tolist(), [on_host(a).tolist() for a in s.arrays]) for s in batch.shards]
    return batch.step, batch.epoch, batch.size, shards


def loader_of(data, augment, device, dtype="float32", **options):
    return DataLoader(data, 8, shards=3, place=Placement(device, dtype), augment=augment, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_batches_on_a_device_are_those_of_the_host(way, dtype, monkeypatch):
    data, augment, share = WAYS[way]
    monkeypatch.setattr(placement, "RESIDENT_SHARE", share)
    expected = [values(batch) for batch in loader_of(data, augment, "cpu", dtype).steps(0, 9)]
    with pretend() as device:
        owned = []  # by two streams, of which the later to be done gives the memory back
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: owned.append((x, stream)))
        loader = loader_of(data, augment, "cuda", dtype)
        found = [loader.batch(0)]
        with device.no_waits():
            found += [loader.batch(step) for step in range(1, 9)]
        assert not device.waits and {what for what, _ in device.copies} == {"a copy from pinned memory"}
        arrays = [a for batch in found for shard in batch.shards for a in shard.arrays]
        assert {type(a) for a in arrays} == {OnDevice}
        assert not any(a.inner.storage_offset() for a in arrays), "kernels are chosen by how their operands are aligned"
        if way == "selected there":
            assert device.launches["index_select"] == len(arrays) and not owned
        else:
            assert [(id(a), torch.cuda.default_stream()) for a in arrays] == [(id(a), stream) for a, stream in owned]
        assert [values(batch) for batch in found] == expected


def test_a_data_set_on_the_device_sends_numbers_of_samples_only():
    with pretend() as device:
        loader = loader_of((X, Y), None, "cuda")
        loader.batch(0)
        device.reset()
        for step in range(1, 4):
            loader.batch(step)
        assert device.moved["_to_copy"] <= 3 * 2 * 8 * Y.itemsize
        evaluated = DataLoader(loader.dataset, 30, shards=2, shuffle="never", place=loader.place)
        assert [a.tolist() for s in evaluated.batch(0).shards for a in s.arrays][1] == Y[:15].tolist()
        assert device.launches["copy_"] == 0, "the same data set was copied again"


@pytest.mark.parametrize("kind, fits", [("f4", True), ("i8", True), ("u1", True), ("?", True), ("u4", False)])
def test_what_fits_in_a_quarter_of_the_free_memory_and_can_be_selected_stays_on_the_device(kind, fits):
    array = np.ones((64, 64), kind)
    for spare, expected in ((0, fits), (-16, False)):
        with pretend(memory=4 * array.nbytes + spare):
            place = Placement("cuda")
            assert (place.resident(DataLoader((array,), 8, place=place).dataset) is not None) is expected


def test_batches_that_were_resized_or_come_in_another_order_have_their_own_samples(monkeypatch):
    monkeypatch.setattr(placement, "RESIDENT_SHARE", 0.0)
    with pretend():
        there, here = loader_of((X, Y), None, "cuda"), loader_of((X, Y), None, "numpy")
        for step in (0, 1, 2, 3, 7, 8, 2, 5, 5, 6):
            if step == 3:
                for loader in (there, here):
                    loader.sampler.resize(3, 12)
            assert values(there.batch(step)) == values(here.batch(step))


def test_what_fails_ahead_is_raised_at_the_step_that_needs_it():
    with pretend():
        data = Samples(broken=[13])
        loader = loader_of(data, None, "cuda", shuffle="never")
        loader.batch(0)
        for _ in range(2):
            with pytest.raises(OSError, match="cannot be read"):
                loader.batch(1)
        assert values(loader.batch(2)) == values(loader_of(Samples(), None, "numpy", shuffle="never").batch(2))
        loader.batch(0)  # and what nobody asks for any more is not raised at all

        def wrong(x, draws):
            return x[1:]

        with pytest.raises(ConfigurationError, match="augment returned 2 samples for 3"):
            loader_of((X, Y), wrong, "cuda").batch(0)


def test_an_epoch_makes_no_batch_that_nobody_asks_for_and_its_thread_ends():
    with pretend():
        data = Samples()
        loader = loader_of(data, None, "cuda")
        assert len([*loader.epoch(0)]) == 4
        (thread,) = {*data.threads}
        del loader
        thread.join(60)
        assert not thread.is_alive() and len(data.threads) == 4 * 3


def test_one_thread_at_a_time_reads_a_data_set():
    with pretend():
        data = Samples()
        loader = loader_of(data, None, "cuda")
        for step in range(6):
            loader.batch(step)
            other = DataLoader(data, 8, shards=3, place=loader.place)
            assert other.origin and len([*other.steps(0, 2)]) == 2


@pytest.mark.parametrize("shards", [1, 4])
def test_training_does_not_depend_on_how_batches_come(shards, monkeypatch):
    """Neither where the noise scale changes the batch on the way, nor from the middle of a run on."""
    work = WORKLOADS["mlp 4 shards"]._replace(shards=shards, batch=8)

    def weights(share, steps=12, **options):
        monkeypatch.setattr(placement, "RESIDENT_SHARE", share)
        trainer = trainer_of(work, "cuda", steps, **options)
        sizes = []
        monkeypatch.setattr(trainer.parallel, "enqueue", noting(sizes, trainer.parallel.enqueue))
        trainer.fit()
        return sizes, trainer.parallel.arena.sha256()

    def noting(sizes, enqueue):
        return lambda batch, *args, **options: (sizes.append(batch.size), enqueue(batch, *args, **options))[1]

    with pretend():
        options = {"batches": FollowNoise("0.5", 2, 32, 1e9)} if shards > 1 else {}
        found = [weights(share, **options) for share in (0.25, 0.0)]
        assert found[0] == found[1] and len({*found[0][0]}) == (1 if shards == 1 else 2)


def test_the_thread_computes_on_the_device_of_its_copies(monkeypatch):
    """CUDA's current device is one of each thread: leaving the stream would make another one's context."""
    current = threading.local()
    with pretend():
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(current, "device", device))
        prefetcher = Prefetcher(CopyStream("cuda:0"))
        prefetcher.begin(0, lambda: current.device)
        assert prefetcher.take()[0] == "cuda:0"


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_a_loader_of_the_host_may_be_copied_and_sent_to_another_process(device):
    loader = loader_of((X, Y), None, device)
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert values(other.batch(3)) == values(loader.batch(3))


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_on_the_host_there_is_no_thread(device):
    data = Samples()
    loader_of(data, None, device).batch(0)
    assert {*data.threads} == {threading.main_thread()}
