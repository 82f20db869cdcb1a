"""Which GPU is whose, on hosts whose GPUs are made up: by what torch would say of them to each rank."""

import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from allgrad.ddp import ConfigurationError
from allgrad.ddp.comm.devices import agreed_gpu, own_gpu


@pytest.fixture
def sees(monkeypatch):
    """sees(*uuids): the GPUs that torch finds in this thread from now on; returns which of them is current."""
    mine = threading.local()

    def f(*uuids):
        mine.gpus, mine.current = uuids, None
        return mine

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(mine.gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(mine.gpus))
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: setattr(mine, "current", gpu))
    properties = lambda gpu: SimpleNamespace(uuid=mine.gpus[torch.device(gpu).index])
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    return f


ALL = ("a", "b", "c")


@pytest.mark.parametrize(
    "gpus, device, local_rank, own",
    [
        (ALL, "cuda", 0, "cuda:0"),
        (ALL, "cuda", 2, "cuda:2"),
        (ALL, "cuda:1", 2, "cuda:1"),
        (("c",), "cuda", 2, "cuda:0"),  # as srun --gpus-per-task shows them
        (("c",), "cuda:0", 2, "cuda:0"),
    ],
)
def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_it_sees(gpus, device, local_rank, own, sees):
    sees(*gpus)
    assert own_gpu(device, local_rank) == own


@pytest.mark.parametrize(
    "gpus, device, local_rank, text",
    [
        (ALL, "cuda", 3, "device='cuda' asks for GPU 3 of this host, and torch finds 3 here: start at most one rank a"),
        ((), "cuda", 0, r"device='cuda' needs a GPU, and torch [\w.+]+ finds none on this host: give device='cpu', or"),
        (("c",), "cuda:2", 2, "device='cuda:2' asks for GPU 2 of this host, and torch finds 1 here"),
        (ALL, "cuda:x", 0, "device='cuda:x' is not cpu, cuda or cuda:N"),
        (ALL, "mps", 0, "device='mps' is not cpu, cuda or cuda:N"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(gpus, device, local_rank, text, sees):
    sees(*gpus)
    with pytest.raises(ConfigurationError, match=text):
        own_gpu(device, local_rank)


def test_a_gpu_without_torch_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigurationError, match=r"device='cuda' needs torch: pip install 'allgrad\[torch\]'"):
        own_gpu("cuda", 0)


SAME = "ranks 0 and 1 have the same GPU of "


@pytest.mark.parametrize(
    "visible, device, backend, why",
    [
        ([ALL, ALL], "cuda", "auto", ""),
        ([ALL, ALL], "cuda", "nccl", ""),
        ([("a",), ("b",)], "cuda", "nccl", ""),  # each sees its own as GPU 0
        ([("a",), ("b",)], "cuda:0", "auto", ""),
        ([ALL, ALL], "cuda:0", "auto", SAME),
        ([ALL, ALL], "cuda:0", "gloo", SAME),
        ([ALL, ALL], "cuda", "mpi", "the backend mpi was asked for"),
    ],
)
def test_ranks_with_a_gpu_each_talk_from_gpu_to_gpu(visible, device, backend, why, sees, simulate):
    def run(comm):
        mine = sees(*visible[comm.rank])
        gpu, found = agreed_gpu(comm, device, backend)
        assert (
            mine.current == gpu == own_gpu(device, comm.local_rank)
            and found.startswith(why)
            and bool(found) == bool(why)
        )

    simulate(2, run)


@pytest.mark.parametrize(
    "visible, device, backend, text",
    [
        ([("a",), ("a",)], "cuda", "auto", f"device='cuda': {SAME}.*: start at most one rank a GPU, or let several"),
        ([("a",), ("a",)], "cuda", "gloo", f"{SAME}.* by device='cuda:0' and backend='gloo'"),
        ([ALL, ALL], "cuda:0", "nccl", SAME),
        ([ALL, ("a", "a")], "cuda:1", "nccl", None),  # numbers that are equal, of GPUs that are not
        ([ALL, ()], "cuda", "auto", "device='cuda' needs a GPU, and torch .* finds none on this host"),
        ([("a", "b"), ("a", "b"), ("a", "b")], "cuda", "auto", "asks for GPU 2 of this host, and torch finds 2 here"),
    ],
)
def test_what_one_rank_cannot_have_is_refused_on_all(visible, device, backend, text, sees, simulate):
    def run(comm):
        sees(*visible[comm.rank])
        if text is None:
            return agreed_gpu(comm, device, backend)
        with pytest.raises(ConfigurationError, match=text) as caught:
            agreed_gpu(comm, device, backend)
        return str(caught.value)

    assert len({*simulate(len(visible), run)}) == 1  # the same sentence, or the same GPU


def test_a_torch_without_nccl_is_told(sees, simulate, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)

    def run(comm):
        sees(*ALL)
        assert agreed_gpu(comm, "cuda")[1] == "the torch of rank 0 has no NCCL"
        with pytest.raises(ConfigurationError, match=r"backend='nccl' cannot be used: the torch of rank 0 has no NCCL"):
            agreed_gpu(comm, "cuda", "nccl")

    simulate(2, run)
