"""What ranks say to each other. This class is one rank alone; `mpi` and `torch_distributed` are many."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from allgrad.autograd.arrays import is_torch, to_backend_of
from allgrad.ddp.comm.activity import COMPARISON, activity, described, user_location
from allgrad.ddp.comm.launcher import Launch
from allgrad.ddp.errors import ConfigurationError

KNOWN = 1000  # pairs of calls that a communicator remembers

T = TypeVar("T")


def write_back(arrays, hosts):
    """Overwrite arrays on a device by what has been received into their copies in the processor's memory."""
    for array, host in zip(arrays, hosts):
        if is_torch(array) and array.device.type != "cpu":
            array[...] = to_backend_of(host, array)


class Communicator:
    """The ranks of a run. Arrays are contiguous, NumPy's or torch tensors, and are changed in place; all calls but
    `abort` are collective: every rank makes them, in the same order.

    rank, size               this rank and how many there are
    local_rank, local_size   the same among those on this host
    launcher, backend        "solo", "mpirun", "torchrun", "srun"; "solo", "mpi", "gloo", "nccl"
    ranks                    the numbers of its ranks in the whole job
    threads                  whether a thread beside the main one may talk, while that one does not
    count                    calls so far in which all ranks take part
    fence                    a function that returns when every rank has called it, and sees what the others have
                             written to shared memory until then; None if there is none
    bytes_sent               bytes this rank has given to `exchange`, for each receiver, and to `all_reduce`, once,
                             and bytes that the others have read of its shared memory
    tags                     the last of the tags that have been used for `start`

    The ranks compare what they are about to do: with every object, with every barrier, and before the first call of a
    kind that follows one of another kind. They differ in a ConfigurationError on all ranks. What is not compared, since
    it was before, may only be waited for in vain, and that ends by the watchdog.
    """

    def __init__(self, launch: Launch | None = None):
        launch = launch or Launch("solo", "solo")
        self.launcher, self.backend = launch.launcher, launch.backend
        self.rank, self.size = launch.rank, launch.size
        self.local_rank, self.local_size = launch.local_rank, launch.local_size
        self.ranks: Any = range(self.size)
        self.threads = True
        self.fence: Callable[[], None] | None = None
        self.count = 0
        self._last: Any = None
        self._known: set = set()
        self.bytes_sent = self.tags = 0

    def exchange(self, sends, receives):
        """Send and receive at once: lists of (array, rank). Messages between two ranks pair up in list order.

        Everything exact is built from this one operation, so that no library decides an order of additions.
        """
        self.bytes_sent += sum([array.nbytes for array, _ in sends])
        self._in_collective("exchange", (sends, receives), self._exchange, sends, receives)

    def start(self, sends, receives, tag) -> Callable[[bool], bool]:
        """Begin an exchange of arrays in the processor's memory. Messages pair up with those of the same tag, from 1.

        Returns f(wait), which says whether it is done, and with `wait` returns when it is.
        """
        self.bytes_sent += sum([array.nbytes for array, _ in sends])
        over = self._start(sends, receives, tag)

        def done(wait):
            if not wait:
                return over(False)
            return self._in_collective("exchange", (sends, receives), over, True)

        return done

    def all_reduce(self, array):
        """Sum over the ranks in whatever order the library likes: fast, and not the same bits for every size."""
        self.compare("all_reduce", array)
        self.bytes_sent += array.nbytes
        self._in_collective("all_reduce", (array,), self._all_reduce, array)

    def shared_memory_step(self, name, array, f):
        """Call f, in which all ranks meet in the memory that they share, as one collective over the array."""
        self._in_collective(name, (array,), f)

    def broadcast(self, array, root=0):
        """Overwrite the array with that of the root."""
        self.compare("broadcast", array, f" from rank {root}")
        self._in_collective("broadcast", (array, root), self._broadcast, array, root)

    def all_gather_object(self, value):
        """A list with every rank's value, for small things outside the training loop."""
        return self._checked_all_gather("all_gather_object", value)

    def broadcast_object(self, value, root=0):
        """The root's value, on every rank."""
        return self._checked_all_gather(f"broadcast_object from rank {root}", value if self.rank == root else None)[
            root
        ]

    def barrier(self):
        """Return when every rank has called it."""
        self._checked_all_gather("barrier")

    def compare(self, operation: str, array, more=""):
        """Raise ConfigurationError on every rank if not all are about to do this to an array of this shape and dtype.

        The ranks talk only if this call has not yet followed the one before it.
        """
        kind = operation, array.shape, array.dtype, more
        pair = self._last, kind
        self._last = kind
        if pair in self._known:
            self.count += 1
            return
        self._checked_all_gather(f"{operation} of {described(array)}{more}", checks=True)
        if len(self._known) == KNOWN:
            self._known.clear()
        self._known.add(pair)

    def _checked_all_gather(self, what, value=None, checks=False) -> Any:
        """Every rank's value, once it is certain that all ranks do `what` as their call of the same number."""
        self.count += 1
        if self.size == 1:
            return [value]
        mine = self.count, what, user_location(), value
        found = self._in_collective(COMPARISON + what if checks else what, (), self._gather, mine)
        for rank, (count, other, there, _) in enumerate(found):
            if (count, other) != found[0][:2]:
                first, number = found[0][1], found[0][0]
                raise ConfigurationError(
                    f"the ranks do not make the same calls: rank {rank} calls {other} (its call {count}) at {there} "
                    f"where rank 0 calls {first} (its call {number}) at {found[0][2]}; let all ranks make the same "
                    f"calls in the same order, with arrays of the same shape and dtype"
                )
        return [theirs for *_, theirs in found]

    def _in_collective(self, name, args, f, *given) -> Any:
        """f(*given), while the watchdog knows that this rank is in the collective of this name and arguments."""
        activity.inside = name, self, args
        try:
            return f(*given)
        finally:
            activity.inside = None

    def _exchange(self, sends, receives):
        """What `exchange` does, and the next four do what all others are made of."""

    def _start(self, sends, receives, tag) -> Callable[[bool], bool]:
        self._exchange(sends, receives)
        return lambda wait: True

    def _all_reduce(self, array): ...

    def _broadcast(self, array, root): ...

    def _gather(self, value) -> list:
        return [value]

    def split(self, color, key=0):
        """A communicator of the ranks that gave the same color, ordered by key."""
        return Communicator(Launch(self.launcher, self.backend))

    def abort(self, status=1):
        """End all ranks now, from any one of them, without their consent."""
        raise SystemExit(status)

    def close(self):
        """Leave in good order."""

    def agree_or_raise(self, f: Callable[..., T], *args) -> T:
        """f(*args) on every rank; a ConfigurationError on any of them is raised on all, that of the lowest rank."""
        result = message = None
        try:
            result = f(*args)
        except ConfigurationError as error:
            (message,) = error.args
        for found in self.all_gather_object(message):
            if found is not None:
                raise ConfigurationError(found)
        return cast(T, result)
