"""Ranks that find a GPU each, which is made up, and talk from GPU to GPU, with Gloo in NCCL's place."""

import datetime
import inspect
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from allgrad.ddp import ConfigurationError
from allgrad.ddp.comm import activity, torch_distributed, use_gpus, world


@pytest.fixture
def groups(comm, monkeypatch):
    """What torch was asked for when it made groups of ranks that have GPUs, on a host with a GPU for each."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: comm.size)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: asked.append({"current": gpu}))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=gpu))
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    make = dist.new_group

    def new_group(ranks=None, timeout=None, backend=None, device_id=None, **more):
        if backend and "nccl" in backend:
            asked.append({"backend": backend, "device": str(device_id), "timeout": timeout})
            backend = "gloo"
        return make(ranks, timeout, backend, **more)

    new_group.__signature__ = inspect.signature(make)
    monkeypatch.setattr(dist, "new_group", new_group)
    for name in ("group", "options", "backend"):  # as they are to be found by the next test
        if hasattr(comm, name):
            monkeypatch.setattr(comm, name, getattr(comm, name))
    monkeypatch.setattr(world, "_world", comm)
    monkeypatch.setitem(activity.communicators, "0", comm)
    if comm.launcher != "torchrun":
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.parametrize("hosts", ["one host", "a host for each rank"])
def test_ranks_with_a_gpu_each_talk_by_nccl_whoever_started_them(hosts, comm, groups, monkeypatch):
    if comm.size == 1:
        assert use_gpus("cuda") is comm and groups == [{"current": "cuda:0"}]
        return
    if hosts != "one host":
        if comm.launcher == "torchrun":
            pytest.skip("torchrun says where ranks meet")
        monkeypatch.setattr(comm, "local_size", 1)
    found = use_gpus("cuda")
    try:
        gpu = f"cuda:{comm.local_rank}"
        seconds = groups[1]["timeout"].total_seconds()
        assert groups[0] == {"current": gpu} and seconds == comm.timeout + 60  # so that the watchdog is first
        assert (groups[1]["backend"], groups[1]["device"]) == ("cpu:gloo,cuda:nccl", gpu)
        assert (found.backend, found.rank, found.size, found.through_host) == ("nccl", comm.rank, comm.size, "")
        assert world.init(device="cuda") is found and use_gpus("cuda", "nccl") is found
        assert activity.communicators["0"] is found  # where the watchdog finds it
        assert comm.launcher == "torchrun" or "RANK" not in os.environ  # a child is not started by two launchers
        array = np.array([1.0, found.rank])
        found.all_reduce(array)
        assert array.tolist() == [found.size, sum(range(found.size))]
        part = found.split(0, key=-found.rank)
        assert part.backend == "nccl" and groups[-1]["backend"] == "cpu:gloo,cuda:nccl"
        part.all_reduce(array)
        assert array[0] == found.size**2
        found.barrier()
    finally:
        if found is not comm:
            found.close()


def test_a_backend_that_was_asked_for_stays(comm, groups):
    if comm.size > 1:
        assert use_gpus("cuda", comm.backend) is comm and comm.backend in ("mpi", "gloo")
        assert comm.through_host == f"the backend {comm.backend} was asked for" and "backend" not in groups[-1]


@pytest.mark.parametrize("timeout, seconds", [(0.0, 1e7), (20.0, 80.0)])
def test_nccl_gives_up_after_the_watchdog_and_never_if_that_does_not(timeout, seconds, monkeypatch):
    comm, asked = object.__new__(torch_distributed.TorchCommunicator), {}
    comm.timeout, comm.longer, comm.backend = timeout, datetime.timedelta(seconds=1e7), "gloo"
    monkeypatch.setattr(dist, "new_group", lambda **options: asked.update(options))
    comm.connect_gpus("cuda:0")
    assert asked["timeout"].total_seconds() == seconds


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_nccl_is_for_gpus(device):
    with pytest.raises(ConfigurationError, match=f"backend='nccl' is for GPUs, and device='{device}' is none: leave "):
        world.init(backend="nccl", device=device)


def test_a_rank_tells_that_it_ends_before_it_closes_what_may_wait_for_others(monkeypatch):
    done = []
    with monkeypatch.context() as patched:
        patched.setattr(world, "_watchdog", SimpleNamespace(leave=lambda: done.append("told")))
        patched.setattr(world, "_world", SimpleNamespace(close=lambda: done.append("closed")))
        world._leave()
    assert done == ["told", "closed"]


def test_what_nccl_was_given_may_still_run_when_the_call_has_returned(monkeypatch):
    comm, there = object.__new__(torch_distributed.TorchCommunicator), torch.ones(3)
    on_device = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(torch_distributed.torch, "Tensor", (torch.Tensor, SimpleNamespace))
    for backend, array, found in (("nccl", on_device, True), ("nccl", there, False), ("gloo", on_device, False)):
        comm.backend = backend
        assert comm._only_enqueued("broadcast", (array, 0)) == found
        assert comm._only_enqueued("exchange", ([(array, 1)], [])) == found
        assert comm._only_enqueued("exchange", ([], [(array, 1)])) == found
        assert not comm._only_enqueued("barrier", ())


ERRORS = {
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"): False,
    RuntimeError("CUDA error: device-side assert triggered"): False,
    RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:454] op.preamble.length <= op.nbytes. 4 vs 8"): False,
    dist.DistBackendError("NCCL error in: x.cpp:1, ncclInvalidUsage: Duplicate GPU detected"): False,
    dist.DistBackendError("NCCL error in: x.cpp:1, unhandled cuda error, ncclUnhandledCudaError: Call failed"): False,
    dist.DistBackendError("NCCL error in: x.cpp:1, remote process exited, ncclRemoteError: Last error:"): True,
    dist.DistNetworkError("failed to recv, got 0 bytes"): True,
    RuntimeError("[/x/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2"): True,
    RuntimeError("[/x/gloo/gloo/transport/tcp/pair.cc:5] Read error [127.0.0.1]:2: Connection reset by peer"): True,
    RuntimeError("[/x/gloo/gloo/transport/tcp/pair.cc:9] writev [127.0.0.1]:2: Broken pipe"): True,
    RuntimeError("Gloo connectFullMesh failed with: connect timeout"): True,
    RuntimeError("[/x/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv"): True,
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:40])
def test_only_the_loss_of_a_peer_is_called_so(error):
    def fail():
        raise error

    kind = torch_distributed.PeerLost if ERRORS[error] else type(error)
    with pytest.raises(kind) as caught:
        torch_distributed._guarded(fail)
    assert type(caught.value) is kind and str(error).splitlines()[0] in str(caught.value)
