"""Who am I: what the launcher left in the environment, and how many threads a rank may use."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from allgrad.ddp.errors import ConfigurationError

# launcher -> the variables that hold rank, size, local rank, local size
VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPICH or Intel MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}
MPIRUN = ("Open MPI", "MPICH or Intel MPI")
BACKENDS = ("auto", "mpi", "gloo", "nccl", "solo")


@dataclass(frozen=True)
class Launch:
    """How this process was started: by which launcher, as which of how many ranks, and with which backend to talk."""

    launcher: str  # "mpirun", "torchrun", "srun" or "solo"
    backend: str  # "mpi", "gloo", "nccl" or "solo"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def detect(environment: Mapping[str, str] = os.environ, backend: str = "auto") -> Launch:
    """Read the launcher's variables. ConfigurationError if they contradict each other or the backend asked for.

    torchrun's variables together with those of an MPI are refused, since one of the two is a leftover and it cannot
    be known which; naming the backend says which to believe. mpirun or torchrun inside a Slurm step is fine.
    """
    if backend not in BACKENDS:
        raise ConfigurationError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "solo":
        return Launch("solo", "solo")
    found = {name: _read(name, environment) for name, names in VARIABLES.items() if _complete(names, environment)}
    mpi = next((name for name in MPIRUN if name in found), None)
    if "torchrun" in found and mpi and backend == "auto":
        raise ConfigurationError(
            "the environment is that of two launchers at once ({found.value}): start with one of them, or say which "
            "to believe with {backend:mpi} or {backend:gloo}", found=_table(found),
        )  # fmt: skip
    if "torchrun" in found and backend != "mpi":
        return Launch("torchrun", "gloo" if backend == "auto" else backend, *found["torchrun"])
    if "srun" in found and mpi and _pmi_of_srun(found, mpi, environment):
        mpi = None
    if mpi:
        return Launch("mpirun", "mpi" if backend == "auto" else backend, *found[mpi])
    if "srun" in found:
        return Launch("srun", "mpi" if backend == "auto" else backend, *found["srun"])
    if backend != "auto":
        starter = "mpirun or srun" if backend == "mpi" else "torchrun"
        raise ConfigurationError(
            "{backend} needs ranks to talk to, but none were started: use {starter.value}",
            backend=backend, starter=starter,
        )  # fmt: skip
    return Launch("solo", "solo")


def refuse_to_share(option: str, path: str, environment: Mapping[str, str] = os.environ):
    """Refuse a path that processes would all write that were started together and do not know of each other."""
    for launcher, names in VARIABLES.items():
        size = _read(launcher, environment)[1] if _complete(names, environment) else 1
        if size > 1:
            raise ConfigurationError(
                f"{{backend}}: {launcher} has started {size} processes, and each by itself would write to "
                f"{{{option}}}: leave out {{backend}}, or start one process", backend="solo", **{option: path},
            )  # fmt: skip


def speaks(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one to print what all ranks find wrong before they can talk to each other."""
    order = ("torchrun", *MPIRUN) if "TORCHELASTIC_RUN_ID" in environment else (*MPIRUN, "torchrun", "srun")
    ranks = [environment.get(VARIABLES[name][0]) for name in order]
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _pmi_of_srun(found, mpi, environment):
    """Whether srun itself has set the variables of MPICH, as --mpi=pmi2 does; these do not tell the local rank."""
    return found[mpi][:2] == found["srun"][:2] and VARIABLES[mpi][2] not in environment


def _complete(names, environment):
    return all(name in environment for name in names[:2])


def _read(launcher, environment):
    names = VARIABLES[launcher]
    rank, size = (_integer(name, environment[name]) for name in names[:2])
    local_rank = _integer(names[2], environment.get(names[2], str(rank)))
    local_size = environment.get(names[3], str(size)).split("(")[0].split(",")[0]  # Slurm writes 4(x2),3
    if not 0 <= rank < size:
        raise ConfigurationError(f"{names[0]}={rank} is not a rank of {names[1]}={size}: start with one launcher only")
    return rank, size, local_rank, _integer(names[3], local_size)


def _integer(name, text):
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"{name}={text!r} in the environment is not an integer") from None


def _table(found):
    return "; ".join(f"{name}: rank {rank} of {size}" for name, (rank, size, *_) in found.items())


def torchrun(environment: Mapping[str, str] = os.environ) -> str | None:
    """What tells this torchrun from another, before and after it restarts its ranks; None if none started this one."""
    run = environment.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()} {os.getppid()}" if run == "none" else run  # "none": without a --rdzv-id
