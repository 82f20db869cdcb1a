"""What ranks say to each other. This class is one rank alone; `mpi` and `torch_distributed` are many."""

from collections.abc import Callable
from typing import Any, TypeVar

from autograd.kernels import beside, is_torch
from ddp.environment import Launch
from ddp.errors import ConfigurationError

T = TypeVar("T")


def write_back(arrays, hosts):
    """Overwrite arrays on a device by what has been received into their copies in the processor's memory."""
    for array, host in zip(arrays, hosts):
        if is_torch(array) and array.device.type != "cpu":
            array[...] = beside(host, array)


class Communicator:
    """The ranks of a run. Arrays are contiguous, NumPy's or torch tensors, and are changed in place; all calls but
    `abort` are collective: every rank makes them, in the same order.

    rank, size               this rank and how many there are
    local_rank, local_size   the same among those on this host
    launcher, backend        "solo", "mpirun", "torchrun", "srun"; "solo", "mpi", "gloo", "nccl"
    sent                     bytes this rank has given to `exchange`, for each receiver, and to `all_reduce`, once
    """

    def __init__(self, launch: Launch | None = None):
        launch = launch or Launch("solo", "solo")
        self.launcher, self.backend = launch.launcher, launch.backend
        self.rank, self.size = launch.rank, launch.size
        self.local_rank, self.local_size = launch.local_rank, launch.local_size
        self.sent = 0

    def exchange(self, sends, receives):
        """Send and receive at once: lists of (array, rank). Messages between two ranks pair up in list order.

        Everything exact is built from this one operation, so that no library decides an order of additions.
        """

    def count(self, messages):
        """Add a list of (array, rank) to what was sent."""
        self.sent += sum(array.nbytes for array, _ in messages)

    def all_reduce(self, array):
        """Sum over the ranks in whatever order the library likes: fast, and not the same bits for every size."""

    def broadcast(self, array, root=0):
        """Overwrite the array with that of the root."""

    def all_gather_object(self, value):
        """A list with every rank's value, for small things outside the training loop."""
        return [value]

    def broadcast_object(self, value, root=0):
        """The root's value, on every rank."""
        return self.all_gather_object(value)[root]

    def barrier(self):
        """Return when every rank has called it."""

    def split(self, color, key=0):
        """A communicator of the ranks that gave the same color, ordered by key."""
        return Communicator(Launch(self.launcher, self.backend))

    def abort(self, status=1):
        """End all ranks now, from any one of them, without their consent."""
        raise SystemExit(status)

    def close(self):
        """Leave in good order."""

    def agree(self, f: Callable[..., T], *args) -> T:
        """f(*args) on every rank; a ConfigurationError on any of them is raised on all, that of the lowest rank."""
        result: Any = None
        message = None
        try:
            result = f(*args)
        except ConfigurationError as error:
            message = str(error)
        for found in self.all_gather_object(message):
            if found is not None:
                raise ConfigurationError(found)
        return result
