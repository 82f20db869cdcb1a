"""Which GPU is a rank's own: what it can see of those of its host, and whether another rank has the same."""

import socket

from allgrad.ddp.errors import ConfigurationError


def own_gpu(device: str, local_rank: int) -> str:
    """The GPU "cuda:N" that "cuda" stands for on the rank of this number on its host; "cuda:N" is taken as it is.

    It is the one of that number, or the only one that the rank sees: a launcher may show each rank its own, as Slurm
    does with GPUs per task, by CUDA_VISIBLE_DEVICES. ConfigurationError if this host has no such device.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise ConfigurationError("{device} is not cpu, cuda or cuda:N", device=device)
    try:
        import torch
    except ImportError:
        raise ConfigurationError("{device} needs torch: pip install 'allgrad[torch]'", device=device) from None
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found == 0:
        raise ConfigurationError(
            "{device} needs a GPU, and torch {version.value} finds none on this host: give {device:cpu}, or install a "
            "torch with CUDA for the driver that is there", device=device, version=torch.__version__,
        )  # fmt: skip
    index = int(number) if number else 0 if found == 1 else local_rank
    if index >= found:
        raise ConfigurationError(
            "{device} asks for GPU {index.value} of this host, and torch finds {found.value} here: start at most "
            "one rank a GPU, or give {device:cpu}", device=device, index=index, found=found,
        )  # fmt: skip
    return f"cuda:{index}"


def agreed_gpu(comm, device: str, backend="auto") -> tuple[str, str]:
    """This rank's GPU, made torch's current device, and why arrays cannot go from GPU to GPU, in words or "".

    Collective. ConfigurationError on every rank if any has no such GPU, if "cuda" stands for the same one on two ranks,
    or if arrays cannot go from GPU to GPU and the backend is "nccl".
    """
    gpu = comm.agree_or_raise(own_gpu, device, comm.local_rank)
    import torch

    torch.cuda.set_device(gpu)
    has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    found = comm.all_gather_object((socket.gethostname(), str(torch.cuda.get_device_properties(gpu).uuid), has_nccl))
    why = ""
    for rank, (*same, _) in enumerate(found):
        if (first := [one[:2] for one in found].index(tuple(same))) < rank:
            why = f"ranks {first} and {rank} have the same GPU of {same[0]}"
            break
    if why and (backend == "nccl" or device == "cuda"):
        raise ConfigurationError(
            "{device}: {why.value}: start at most one rank a GPU, or let several compute on the first one and talk "
            "through the processor's memory by {device:cuda:0} and {backend:gloo}", device=device, why=why,
        )  # fmt: skip
    lacking = [rank for rank, one in enumerate(found) if not one[2]]
    if lacking and not why:
        why = f"the torch of rank {lacking[0]} has no NCCL"
        if backend == "nccl":
            raise ConfigurationError(
                "{backend} cannot be used: {why.value}: give {backend:gloo}", backend=backend, why=why
            )
    return gpu, why or ("" if backend in ("auto", "nccl") else f"the backend {backend} was asked for")
