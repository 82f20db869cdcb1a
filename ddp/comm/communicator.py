"""What ranks say to each other. This class is one rank alone; `mpi` and `torch_distributed` are many."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, TypeVar, cast

import numpy as np

from allgrad.autograd.arrays import is_torch, on_cpu, to_backend_of
from allgrad.ddp.comm.activity import COMPARISON, activity, described, user_location
from allgrad.ddp.comm.launcher import Launch
from allgrad.ddp.comm.messages import ADDED, INLINE_BYTES, in_pieces, packed, pieces, plain, put_back, raw, unpacked
from allgrad.ddp.errors import ConfigurationError

KNOWN = 1000  # pairs of calls that a communicator remembers

T = TypeVar("T")


def write_back(arrays, hosts):
    """Overwrite torch tensors by what has been received into copies of them: those on a device, and in bfloat16."""
    for array, host in zip(arrays, hosts):
        if array is not host and is_torch(array) and (array.device.type != "cpu" or host.itemsize != array.itemsize):
            array[...] = to_backend_of(host, array)


class Communicator:
    """The ranks of a run. Arrays are NumPy's or torch tensors, of any size and memory order, and are changed in place;
    all calls but `abort` are collective: every rank makes them, in the same order.

    rank, size               this rank and how many there are
    local_rank, local_size   the same among those on this host
    launcher, backend        "solo", "mpirun", "torchrun", "srun"; "solo", "mpi", "gloo", "nccl"
    ranks                    the numbers of its ranks in the whole job
    threads                  whether a thread beside the main one may talk, while that one does not
    count                    calls so far in which all ranks take part
    fence                    a function that returns when every rank has called it, and sees what the others have
                             written to shared memory until then; None if there is none
    bytes_sent               bytes this rank has given to `exchange`, `all_to_all` and `all_gather`, for each other
                             rank, and to `all_reduce`, once, and bytes that the others have read of its shared memory
    tags                     the last of the tags that have been used for `start`
    name                     the same on all its ranks: "0" of all ranks of a run, "0.2" of the second split of them
    timeout                  seconds that a rank may wait in one collective, or 0 for any time
    through_host             why what is on a GPU goes by way of the processor's memory, in words, if it was to go by
                             NCCL; else ""
    sent, asked              for each rank, how many messages this one has sent to it and asked from it
    collectives              whether sums of arrays in the processor's memory, too, go by `all_to_all` and `all_gather`,
                             and not by messages or shared memory; see `uses_collectives`

    The ranks compare what they are about to do: with every object, with every barrier, and before the first call of a
    kind that follows one of another kind. They differ in a ConfigurationError on all ranks. What is not compared, since
    it was before, may only be waited for in vain, and that ends by the watchdog.
    """

    adds = frozenset(("float32", "float64", "int8", "uint8", "int32", "int64", "complex64", "complex128"))

    def __init__(self, launch: Launch | None = None, name="0"):
        launch = launch or Launch("solo", "solo")
        self.launcher, self.backend = launch.launcher, launch.backend
        self.rank, self.size = launch.rank, launch.size
        self.local_rank, self.local_size = launch.local_rank, launch.local_size
        self.ranks: Any = range(self.size)
        self.threads = True
        self.fence: Callable[[], None] | None = None
        self.timeout, self.through_host = 0.0, ""
        self.count = 0
        self._last: Any = None
        self._known: set = set()
        self.bytes_sent = self.tags = self.splits = 0
        self.sent, self.asked = [0] * self.size, [0] * self.size
        self.collectives = False
        self._by_host: Any = ()
        self.name = name
        activity.communicators[name] = self  # where the watchdog finds what it has done

    def exchange(self, sends, receives):
        """Send and receive at once: lists of (array, rank). Messages between two ranks pair up in list order.

        Everything exact is built from this one operation, so that no library decides an order of additions.
        """
        if not sends and not receives:
            return None
        if self._all_plain(sends, receives):
            return self._in_collective("exchange", (sends, receives), self._exchange, sends, receives)
        given, taken = ([(raw(array), rank) for array, rank in messages] for messages in (sends, receives))
        args = in_pieces(given), in_pieces(taken)
        self._in_collective("exchange", (sends, receives), self._exchange, *args)
        for (array, _), (received, _) in zip(receives, taken):
            put_back(array, received)

    def start(self, sends, receives, tag) -> Callable[[bool], bool]:
        """Begin an exchange of arrays in the processor's memory. Messages pair up with those of the same tag, from 1.

        Returns f(wait), which says whether it is done, and with `wait` returns when it is.
        """
        copies: list = []  # (array, what it is to be overwritten by)
        if self._all_plain(sends, receives):
            over = self._start(sends, receives, tag)
        else:
            given, taken = ([(raw(array), rank) for array, rank in messages] for messages in (sends, receives))
            over = self._start(in_pieces(given), in_pieces(taken), tag)
            copies = [(array, received) for (array, _), (received, _) in zip(receives, taken)]

        def done(wait):
            if not (self._in_collective("exchange", (sends, receives), over, True) if wait else over(False)):
                return False
            for array, received in copies:
                put_back(array, received)
            return True

        return done

    def _all_plain(self, sends, receives):
        """Count messages that are about to be exchanged; whether all of them can be sent as they are."""
        sent, asked, simple = self.sent, self.asked, True
        for array, rank in sends:
            self.bytes_sent += array.nbytes
            sent[rank] += 1
            simple = simple and plain(array)
        for array, rank in receives:
            asked[rank] += 1
            simple = simple and plain(array)
        return simple

    def all_reduce(self, array):
        """Sum over the ranks in whatever order the library likes: fast, and not the same bits for every size."""
        self.compare("all_reduce", array)
        self.bytes_sent += array.nbytes
        if plain(array, ADDED):
            return self._in_collective("all_reduce", (array,), self._all_reduce, array)
        dtype = str(array.dtype).removeprefix("torch.")
        if self.size > 1 and dtype not in self.adds:
            others = ", ".join(sorted(self.adds))
            raise ConfigurationError(f"all_reduce over {self.backend} adds up no {dtype}: give an array of {others}")
        flat = array.detach().contiguous() if is_torch(array) else np.ascontiguousarray(array)
        for piece in pieces(flat):
            self._in_collective("all_reduce", (piece,), self._all_reduce, piece)
        put_back(array, raw(flat))

    def all_to_all(self, given, received, counts):
        """Each rank r gives counts[r] elements to every rank: the first of `given` to rank 0, the next to rank 1.

        received: those from rank 0, then those from rank 1, and so on; sum(counts) elements. Both are flat and
        contiguous, of one dtype, and lie apart.
        """
        self.compare("all_to_all", received, f" in parts of {counts}")
        self.bytes_sent += counts[self.rank] * (self.size - 1) * given.itemsize
        self._in_collective("all_to_all", (received,), self._all_to_all, given, received, counts)

    def all_gather(self, part, whole):
        """Put the parts of all ranks, equal in length, one after the other: flat, contiguous, and of one dtype.

        part may be this rank's part of `whole`.
        """
        self.compare("all_gather", whole)
        self.bytes_sent += part.nbytes * (self.size - 1)
        self._in_collective("all_gather", (whole,), self._all_gather, part, whole)

    def uses_collectives(self, array) -> bool:
        """Whether what is built of exchanges takes `all_to_all` and `all_gather` for such an array.

        Between devices, for NCCL makes of each message a kernel of its own.
        """
        return self.collectives or (self.backend == "nccl" and not on_cpu(array))

    def shared_memory_step(self, name, array, f):
        """Call f, in which all ranks meet in the memory that they share, as one collective over the array."""
        self._in_collective(name, (array,), f)

    def broadcast(self, array, root=0):
        """Overwrite the array with that of the root."""
        self.compare("broadcast", array, f" from rank {root}")
        sent = raw(array)
        for piece in pieces(sent):
            self._in_collective("broadcast", (array, root), self._broadcast, piece, root)
        put_back(array, sent)

    def all_gather_object(self, value):
        """A list with every rank's value, of which this rank's own is no copy, outside the training loop."""
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
        frames, refusal = [], None
        try:
            frames = [] if value is None else packed(value)
        except Exception as error:  # whatever the value's own methods raise
            refusal = f"{type(error).__name__}: {error}"
        sizes = [frame.nbytes for frame in frames]
        short = [bytearray(frame) for frame in frames] if sum(sizes) <= INLINE_BYTES else None
        mine = self.count, what, user_location(), refusal, sizes, short
        found = self._in_collective(COMPARISON + what if checks else what, (), self._gather, mine)
        for rank, (count, other, there, *_) in enumerate(found):
            if (count, other) != found[0][:2]:
                first, number = found[0][1], found[0][0]
                raise ConfigurationError(
                    f"the ranks do not make the same calls: rank {rank} calls {other} (its call {count}) at {there} "
                    f"where rank 0 calls {first} (its call {number}) at {found[0][2]}; let all ranks make the same "
                    f"calls in the same order, with arrays of the same shape and dtype"
                )
        for rank, (_, _, there, refusal, *_) in enumerate(found):
            if refusal is not None:
                raise ConfigurationError(
                    f"rank {rank} cannot send its value in {what} at {there} ({refusal}): give what can be pickled, "
                    f"as numbers, texts, arrays, and lists and dicts of them can"
                )
        values = []
        for rank, (*_, sizes, short) in enumerate(found):
            if short is None:
                short = frames if rank == self.rank else [np.empty(size, np.uint8) for size in sizes]
                for frame in short:
                    self._broadcast_frame(what, frame, rank)
            values.append(value if rank == self.rank else unpacked(short) if short else None)
        return values

    def _broadcast_frame(self, what, frame, root):
        """Send a flat array of bytes, which may be one that cannot be written, from the root to all others."""
        for piece in pieces(frame):
            given = piece if piece.flags.writeable else piece.copy()
            self._in_collective(what, (), self._broadcast, given, root)

    def _in_collective(self, name, args, f, *given) -> Any:
        """f(*given), while the watchdog knows that this rank is in the collective of this name and arguments."""
        activity.inside = name, self, args
        try:
            return f(*given)
        except BaseException:
            activity.interrupted = True
            raise
        finally:
            activity.inside = None

    def _exchange(self, sends, receives):
        """What `exchange` does, and the next ones do what all others are made of."""

    def _start(self, sends, receives, tag) -> Callable[[bool], bool]:
        self._exchange(sends, receives)
        return lambda wait: True

    def _all_to_all(self, given, received, counts):
        """By messages, where the library has nothing better."""
        stops = [*accumulate(counts, initial=0)]
        rows = [received[start:stop] for start, stop in pairwise(stops)]
        self._all_pairs([given[r * counts[self.rank] :][: counts[self.rank]] for r in range(self.size)], rows)

    def _all_gather(self, part, whole):
        """By messages, where the library has nothing better."""
        self._all_pairs([part] * self.size, [whole[r * len(part) : (r + 1) * len(part)] for r in range(self.size)])

    def _all_pairs(self, given, received):
        """Send one array to each rank, and receive one from each; this rank's own is copied."""
        received[self.rank][...] = given[self.rank]
        others = [r for r in range(self.size) if r != self.rank]
        sends, receives = ([(raw(arrays[r]), r) for r in others if len(arrays[r])] for arrays in (given, received))
        self._exchange(in_pieces(sends), in_pieces(receives))

    def _all_reduce(self, array): ...

    def _broadcast(self, array, root): ...

    def _gather(self, value) -> list:
        return [value]

    def split(self, color, key=0):
        """A communicator of the ranks that gave the same color, ordered by key."""
        return Communicator(Launch(self.launcher, self.backend), self._name_of_split())

    def _name_of_split(self):
        self.splits += 1
        return f"{self.name}.{self.splits}"

    def by_host(self):
        """Communicators of the ranks of this host, and of those with this local rank on all hosts.

        None with one host or one rank a host, and where the ranks of a host have not consecutive numbers, or hosts
        different numbers of ranks. Collective when it is called first.
        """
        if self._by_host == ():
            places, here = self.all_gather_object((self.local_rank, self.local_size)), self.local_size
            regular = all(place == (rank % here, here) for rank, place in enumerate(places)) and self.size % here == 0
            self._by_host = None
            if regular and 1 < here < self.size:
                self._by_host = self.split(self.rank // here, self.rank), self.split(self.local_rank, self.rank)
        return self._by_host

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
