"""Whether the exchange of gradients overlaps with backward, and how: as asked for, or as a short trial has shown."""

from statistics import median

from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.reduce.buckets import BucketedExchange, ExchangeAfterBackward, ThreadedExchange
from allgrad.ddp.reduce.half_precision import WIRES, Wire

POLICIES = ("auto", "after", "bucket", "thread")
SHORT = 256_000  # bytes of gradients below which there is nothing to gain
ROUNDS = 5  # steps of each policy that count in a trial, after one that does not
GAIN = 0.97  # of the time of `after`, that another policy must stay below


def blocking_option(reduce, compress, every, batch_norm, on_cpu=True):
    """What takes all gradients at once and rules out any policy but `after`, as the user's option, or None."""
    whole = {
        f"--compress {compress}": compress, f"--reduce {reduce}": reduce != "canonical",
        f"--sync-every {every}": every, "--batch-norm sync": batch_norm == "sync", "--device cuda": not on_cpu,
    }  # fmt: skip
    return next((what for what, holds in whole.items() if holds), None)


class Overlap:
    """The policy of a run, and until it is known a trial of all, one step each in turn.

    after    one exchange when backward is over
    bucket   buckets begin to be exchanged as soon as they are final, without waiting
    thread   a thread exchanges them
    auto     the one of these whose steps are shortest: the median over some steps, each as long as on its slowest rank

    policy, why   the policy and the reason for it, in words; None and a remark while the trial goes on
    blocking     see `blocking_option`
    """

    def __init__(
        self, asked, size, arena, comm, shards, total, settle, direct, reduce, wire, compress, every, batch_norm
    ):
        """total, settle, direct: see `ExchangeAfterBackward`; the rest: what `DistributedDataParallel` was given."""
        if asked not in POLICIES:
            raise ConfigurationError(f"overlap is {', '.join(POLICIES[:-1])} or {POLICIES[-1]}, got {asked!r}")
        if size is not None and size < 1:
            raise ConfigurationError(f"a bucket has at least 1 byte, got {size}: give more, or None")
        self.blocking = blocking = blocking_option(reduce, compress, every, batch_norm, arena.on_cpu)
        if asked in ("bucket", "thread") and blocking:
            raise ConfigurationError(
                f"--overlap {asked} exchanges gradients while others are still computed, and {blocking} takes them "
                f"all at once: leave out one"
            )
        if asked == "thread" and not comm.threads:
            raise ConfigurationError(
                f"--overlap thread needs ranks that talk in any thread (MPI_THREAD_MULTIPLE), which {comm.backend} "
                f"does not let them here: give --overlap bucket"
            )
        self.comm = comm
        length = len(arena.message) * arena.dtype.itemsize
        size = size or min(max(length // 8, SHORT), 25_000_000)

        def make(policy):
            if policy == "after":
                return ExchangeAfterBackward(arena, total, settle, direct)
            form = None if wire == WIRES[0] else Wire(wire)
            return (BucketedExchange if policy == "bucket" else ThreadedExchange)(
                arena, comm, shards, form, size, settle
            )

        self.policy, self.why = asked, "as asked for"
        if asked == "auto":
            self.policy, self.why = self._without_trial(blocking, length, size)
        names = [self.policy] if self.policy else [p for p in POLICIES[1:] if p != "thread" or comm.threads]
        self.exchanges = {name: make(name) for name in names}
        self.seconds = {name: [] for name in names}
        self.steps = 0

    def _without_trial(self, blocking, length, size):
        reasons = {
            "there is one rank": self.comm.size == 1,
            f"{blocking} takes all gradients at once": blocking,
            f"{length:,} bytes are soon exchanged": length < SHORT,
            f"all gradients fit in a bucket of {size:,} bytes": size >= length,
        }
        why = next((reason for reason, holds in reasons.items() if holds), None)
        return ("after", why) if why else (None, "the run ended before all had been tried")

    def current(self):
        """What exchanges the gradients of the next step."""
        return list(self.exchanges.values())[self.steps % len(self.exchanges)]

    @property
    def trial(self):
        """How many steps a trial takes; none if there is nothing to try."""
        return 0 if self.policy else (ROUNDS + 1) * len(self.exchanges)

    def record_time(self, seconds):
        """Take note of how long a step took on this rank, and come to a decision once enough are known. Collective."""
        if self.policy:
            return
        list(self.seconds.values())[self.steps % len(self.exchanges)].append(seconds)
        self.steps += 1
        if self.steps == self.trial:
            self._decide()

    def _decide(self):
        everyones = self.comm.all_gather_object(self.seconds)
        found = {
            name: median([max(step) for step in zip(*[theirs[name] for theirs in everyones])][1:])
            for name in self.exchanges
        }
        best = min(found, key=lambda name: found[name])
        self.policy = self.comm.broadcast_object(best if found[best] < GAIN * found["after"] else "after")
        times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in found.items())
        self.why = f"measured: {times} a step"
        self.exchanges = {self.policy: self.exchanges[self.policy]}
