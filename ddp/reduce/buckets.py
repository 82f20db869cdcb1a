"""The exchange of a step's gradients: after backward, or in buckets while it goes on.

A bucket has consecutive whole parameters (but see `StreamedExchange`), and so is a slice of the arena. The last layers
come first, as backward reaches them first, and the extras behind the gradients come last. Every rank exchanges its
buckets in this order, in whatever order they become final, and each element is added up in the order of the tree:
neither the size of the buckets nor the moment of their exchange changes a bit.
"""

import contextvars
import threading
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any

from allgrad.ddp.reduce.collective_sum import ALIGNMENT_ELEMENTS
from allgrad.ddp.reduce.shard_sum import ShardSum
from allgrad.ddp.reduce.side_stream import SideStream

_left_alone: list = []  # exchanges that a failure cut short: what they send and receive must stay in memory


def cut(arena, size):
    """[(first, stop), ...] of the arena's parameters, from the last to the first: the shortest runs of `size` bytes."""
    spans, itemsize = list(arena.spans.values()), arena.dtype.itemsize
    runs, stop, held = [], len(spans), 0
    for i in reversed(range(len(spans))):
        held += (spans[i].stop - spans[i].start) * itemsize
        if held >= size or i == 0:
            runs.append((i, stop))
            stop, held = i, 0
    return runs


class ExchangeAfterBackward:
    """One exchange when backward is over.

    gradient_sum      has `push` and `finish` as `ShardSum`
    finish_gradients  f(which): called once for each parameter and shard, with a slice of the parameters whose gradients
                      are final, before they are added to any others
    direct            whether backward may write the gradients to `gradient_sum.buffer_for`, which spares a copy
    """

    def __init__(self, arena, gradient_sum, finish_gradients, direct=False):
        self.arena, self.gradient_sum, self.finish_gradients, self.direct = (
            arena,
            gradient_sum,
            finish_gradients,
            direct,
        )
        self.views: dict[int, tuple] = {}  # id of a buffer -> (the buffer, the parameters' gradients in it)

    def way(self) -> str:
        """What the gradients go by, in words."""
        return self.gradient_sum.way(self.arena.message)

    def begin(self, shard):
        """Before a shard's backward."""
        self.shard, self.buffer = shard, None
        if self.direct:
            buffer = self.buffer = self.gradient_sum.buffer_for(shard, self.arena.message)
            if buffer is not None and id(buffer) not in self.views:
                self.views[id(buffer)] = buffer, [*self.arena.unflatten(buffer).values()]
            self.arena.redirect_grads(None if buffer is None else self.views[id(buffer)][1])

    def listening(self):
        """Context of a shard's backward."""
        return nullcontext()

    def complete(self):
        """After a shard's backward: all its gradients are final, the extras behind them are not."""
        self.finish_gradients(slice(None))

    def push(self):
        """Add the shard's gradients, and the extras behind them."""
        if self.buffer is not None:
            self.buffer[len(self.arena.grad) :] = self.arena.extras
            self.gradient_sum.push(self.shard, self.buffer, in_buffer=True)
        else:
            self.gradient_sum.push(self.shard, self.arena.message)

    def finish(self):
        """The arena's message becomes the sum over the shards of all ranks."""
        self.gradient_sum.finish(self.arena.message)


class BucketedExchange(ExchangeAfterBackward):
    """Exchanges that begin in the backward of a rank's last shard, and go on whenever another bucket is final.

    wire              a `Wire` for the gradients, or None
    bucket_bytes      bytes that a bucket has at least, in whole parameters
    finish_gradients  as in `ExchangeAfterBackward`
    """

    def __init__(self, arena, comm, shards, wire, bucket_bytes, finish_gradients):
        self.arena, self.comm, self.finish_gradients = arena, comm, finish_gradients
        self.runs = cut(arena, bucket_bytes)
        unit, size = self._unit(shards, wire), len(arena.grad)
        end = size // unit * unit  # what is behind it goes with the extras
        starts = [min(end, -(-i // unit) * unit) for i in (*(span.start for span in arena.spans.values()), size)]
        spans = [slice(starts[first], starts[stop]) for first, stop in self.runs]
        extras = slice(end, len(arena.message))
        self.parts = [(span, ShardSum(comm, shards, wire=wire)) for span in spans] + [(extras, ShardSum(comm, shards))]
        self.first, self.last = self.parts[0][1].first, self.parts[0][1].stop - 1
        self.description = f"{self.parts[0][1].description}, in {len(spans)} buckets of {bucket_bytes} bytes"
        self.bucket_of = {i: number for number, run in enumerate(self.runs) for i in range(*run)}
        self.index = {leaf: i for i, leaf in enumerate(arena.leaves)}
        self.launched = self.tag = 0
        self.waiting: list[set] = []
        self.hooks: list = []
        self.pending: list[PendingExchange] = []

    few = True  # steps of an exchange, as of `ShardSum.steps`

    def way(self):
        return self.parts[0][1].way(self.arena.message[self.parts[0][0]], self.few)

    def _unit(self, shards, wire):
        """Of elements: buckets begin and end at multiples of it."""
        return 1

    def begin(self, shard):
        self.shard, self.launched = shard, 0
        self.waiting = [{*range(*run)} for run in self.runs] if shard == self.last else []
        self._forget()
        if shard == self.first:
            # What a step that was cut short has left under way, of this model or of another, never pairs up with this.
            self.tag = self.comm.tags
            self.comm.tags += len(self.parts)

    @contextmanager
    def listening(self):
        if self.shard != self.last:
            yield
            return
        leaves = self.arena.leaves
        self.hooks = [leaf.hook for leaf in leaves]
        try:
            for leaf in leaves:
                leaf.hook = self._arrived
            yield
        finally:
            for leaf, hook in zip(leaves, self.hooks):
                leaf.hook = hook

    def _arrived(self, leaf):
        """A leaf's gradient is final: exchange the buckets that are, up to the first that is not."""
        i = self.index[leaf]
        if self.hooks[i] is not None:
            self.hooks[i](leaf)
        number = self.bucket_of[i]
        if number < self.launched:
            raise RuntimeError(
                f"{leaf.name!r} got a second gradient in one backward, and the first is on its way to other ranks: "
                f"give DistributedDataParallel overlap='after'"
            )
        self.waiting[number].discard(i)
        while self.launched < len(self.runs) and not self.waiting[self.launched]:
            self._launch()

    def complete(self):
        if self.shard != self.last:
            self.finish_gradients(slice(None))
        while self.launched < len(self.waiting):
            self._launch()

    def push(self):
        if self.shard == self.last:
            self._launch()
        else:
            for span, shard_sum in self.parts:
                shard_sum.push(self.shard, self.arena.message[span])

    def _launch(self):
        span, shard_sum = self.parts[self.launched]
        if self.launched < len(self.runs):
            self.finish_gradients(slice(*self.runs[self.launched]))
        if self.launched == 0 and self.comm.size > 1:
            self.comm.compare("a sum", self.arena.message, self.description)
        self.launched += 1
        self._sum(shard_sum, self.arena.message[span])

    def _sum(self, shard_sum, array):
        """Begin to add up a bucket over all ranks."""
        shard_sum.push(self.shard, array)
        self.pending.append(PendingExchange(self.comm, shard_sum.steps(array, self.few), self.tag + self.launched))
        for exchange in self.pending:
            exchange.go_on()

    def finish(self):
        # Waiting for what has come least far, no two ranks can wait for each other: all that is less far has begun.
        while unfinished := [exchange for exchange in self.pending if exchange.under_way]:
            min(unfinished, key=lambda exchange: (exchange.steps_taken, exchange.tag)).go_on(wait=True)
        self.pending.clear()

    def _forget(self):
        """Give up what a step has left that ended by an exception."""
        _left_alone.extend(self.pending)
        self.pending.clear()


class PendingExchange:
    """The exchange of one bucket, without waiting: `steps` as from `ShardSum.steps`, its messages marked by `tag`."""

    def __init__(self, comm, steps, tag):
        self.comm, self.steps, self.tag, self.steps_taken = comm, steps, tag, 0
        self.under_way: Any = None
        self._next()

    def _next(self):
        messages: Any = next(self.steps, None)
        self.steps_taken += 1
        self.under_way = None if messages is None else self.comm.start(*messages, self.tag)

    def go_on(self, wait=False):
        """Take all steps whose messages are there; with `wait`, the one under way and no other."""
        while self.under_way is not None and self.under_way(wait):
            self._next()
            if wait:
                return


class ThreadedExchange(BucketedExchange):
    """Exchanges by a thread of their own, one bucket after the other, while backward goes on in the main one.

    The main thread does not talk to other ranks meanwhile, and raises what the other one has failed with.
    """

    few = False
    thread: threading.Thread | None = None
    error: BaseException | None = None

    def _sum(self, shard_sum, array):
        if self.thread is None:
            self.tasks, self.error = SimpleQueue(), None
            run = contextvars.copy_context().run  # NumPy's error state is the main thread's
            self.thread = threading.Thread(target=run, args=(self._exchange_all,), name="exchange", daemon=True)
            self.thread.start()
        elif self.error is not None:
            self.finish()
        self.tasks.put((self.shard, shard_sum, array))

    def _exchange_all(self):
        try:
            while task := self.tasks.get():
                shard, shard_sum, array = task
                shard_sum.push(shard, array)
                for sends, receives in shard_sum.steps(array):
                    self.comm.exchange(sends, receives)
        except BaseException as error:  # for the main thread to raise
            self.error = error

    def finish(self):
        self._forget()
        if self.error is not None:
            raise self.error

    def _forget(self):
        if self.thread is not None:
            self.tasks.put(None)
            self.thread.join()
            self.thread = None


class StreamedExchange(BucketedExchange):
    """Exchanges by a stream of the device, one bucket after the other, while backward goes on in the main one.

    Where collectives add up, a bucket begins at a multiple of their unit, and needs no copy; what of its parameters is
    before that goes with the next one.
    """

    few = False

    def __init__(self, arena, comm, shards, wire, bucket_bytes, finish_gradients):
        super().__init__(arena, comm, shards, wire, bucket_bytes, finish_gradients)
        self.side = SideStream(arena.message)

    def _unit(self, shards, wire):
        in_place = wire is None and ShardSum(self.comm, shards).by_collectives(self.arena.message)
        return ALIGNMENT_ELEMENTS * self.comm.size if in_place else 1

    def _sum(self, shard_sum, array):
        self.side.run(self._add_up, shard_sum, array)

    def _add_up(self, shard_sum, array):
        shard_sum.push(self.shard, array)
        shard_sum.finish(array)

    def finish(self):
        self.side.join()

    def _forget(self):
        self.side.join()
