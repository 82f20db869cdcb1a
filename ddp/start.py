"""init(): become a rank, and see to it that no rank outlives another's failure."""

import sys
import threading
import time
import traceback

from ddp.communicator import Communicator
from ddp.environment import Launch, detect, pin_threads
from ddp.errors import ConfigurationError, PeerLost

_world: Communicator | None = None


def init(backend="auto", threads=1) -> Communicator:
    """The communicator of all ranks that the launcher started; this process alone if none did.

    backend   "auto" (MPI under mpirun and srun, Gloo under torchrun), "mpi", "gloo" or "solo"
    threads   BLAS threads of this rank. The number changes the bits of a product: keep it for runs to be compared.

    An exception that nobody catches, in any thread of any rank, is printed once and ends all ranks with status 1.
    """
    global _world
    if _world is None:
        pin_threads(threads)
        launch = detect(backend=backend)
        _world = _connect(launch)
        if connected():
            sys.excepthook = _report_and_end
            threading.excepthook = lambda args: _report_and_end(args.exc_type, args.exc_value, args.exc_traceback)
    return _world


def connected() -> bool:
    """Whether `init` has found other ranks: they would wait for ever for one that leaves by itself."""
    return _world is not None and _world.size > 1


def wait_turn():
    """Where several ranks have failed alike, let the first of them report and end the others."""
    assert _world is not None
    time.sleep(TURN * min(_world.rank, 10))


def end_all_ranks(status: int):
    """End this rank and all others with this status."""
    assert _world is not None
    sys.stdout.flush()
    time.sleep(PASSING)
    _world.abort(status)


def _connect(launch: Launch) -> Communicator:
    if launch.backend == "mpi":
        from ddp.mpi import MPICommunicator

        return MPICommunicator(launch)
    if launch.backend == "gloo":
        import atexit

        from ddp.torch_distributed import TorchCommunicator

        comm = TorchCommunicator(launch)
        atexit.register(comm.close)
        return comm
    return Communicator(launch)


PASSING = 0.1  # seconds in which the launcher passes on what a rank has printed, before its own words about the end
TURN = 0.3  # seconds between ranks that failed alike: the first one reports, and ends the others before they do
GRACE = 10.0  # seconds a survivor leaves the failed rank to report the cause, and the launcher to end the job


def _report_and_end(kind, error, trace):
    assert _world is not None
    if issubclass(kind, PeerLost):
        time.sleep(GRACE)
        print(f"rank {_world.rank}: {error}, and the launcher did not end this one", file=sys.stderr, flush=True)
    elif not issubclass(kind, KeyboardInterrupt):
        wait_turn()
        cause = "".join(traceback.format_exception_only(kind, error)).strip()
        where = "" if issubclass(kind, ConfigurationError) else "\n" + "".join(traceback.format_tb(trace)).rstrip()
        print(f"rank {_world.rank} of {_world.size} failed: {cause}{where}", file=sys.stderr, flush=True)
    end_all_ranks(1)
