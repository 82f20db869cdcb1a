"""Whether the exchange of gradients overlaps with backward, and how: as asked for, or as a short trial has shown."""

from statistics import median

LEAST_BYTES = 256_000  # of gradients, below which there is nothing to gain
LARGEST_BUCKET = 25_000_000  # bytes, unless another size was asked for
ROUNDS = 5  # steps of each policy that count in a trial, after one that does not
GAIN = 0.97  # of the time of `after`, that another policy must stay below


def bucket_size(asked: int | None, message_bytes: int) -> int:
    """The least size of a bucket in bytes: as asked for, or by default an eighth of the message."""
    return asked or min(max(message_bytes // 8, LEAST_BYTES), LARGEST_BUCKET)


def without_trial(comm, all_at_once: str | None, message_bytes: int, bucket_bytes: int) -> str | None:
    """Why `auto` means `after` here, in words; None where a trial has to show what is fastest.

    all_at_once  why gradients cannot be exchanged in buckets, see `compatibility.takes_all_at_once`, or None
    """
    if comm.size == 1:
        return "there is one rank"
    if all_at_once:
        return all_at_once
    if message_bytes < LEAST_BYTES:
        return f"{message_bytes:,} bytes are soon exchanged"
    if bucket_bytes >= message_bytes:
        return f"all gradients fit in a bucket of {bucket_bytes:,} bytes"
    return None


def on_device(comm) -> tuple[str, str]:
    """What `auto` means for gradients on a device, and why."""
    if comm.backend != "nccl":
        return "after", f"{comm.backend} takes gradients by way of the processor's memory"
    return "bucket", "a stream of its own exchanges gradients"


class Overlap:
    """The policy of a run, and until it is known a trial of several, one step each in turn.

    after    one exchange when backward is over
    bucket   buckets begin to be exchanged as soon as they are final, without waiting
    thread   a thread exchanges them

    exchanges  {policy: what exchanges gradients that way}: of one policy, or of all that are to be tried. The trial
               finds the one whose steps are shortest: the median over some steps, each as long as on its slowest rank
    why        the reason for the only policy, in words

    policy, why   the policy and the reason for it; None and a remark while the trial goes on
    """

    def __init__(self, comm, exchanges: dict, why="the run ended before all had been tried"):
        self.comm, self.exchanges, self.why = comm, exchanges, why
        self.policy: str | None = next(iter(exchanges)) if len(exchanges) == 1 else None
        self.seconds = {name: [] for name in exchanges}
        self.steps = 0

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
