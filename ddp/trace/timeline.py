"""When each rank did what: one trace of all ranks, for chrome://tracing and Perfetto, and what it says in words.

The trace has the format of "Trace Event Format" (Google, 2016). Nothing is recorded outside the steps asked for: only
for their time are calls of the communicator, buckets and gradients watched.
"""

import json
import os
import socket
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.files import replace
from allgrad.ddp.reduce import BucketedExchange, ThreadedExchange
from allgrad.ddp.trace.analysis import Event, layers, verdict, waits
from allgrad.ddp.trace.chrome import chrome
from allgrad.ddp.trace.clocks import DeviceTimes, aligned, event_now, settled

STEPS, WARM = 20, 2  # recorded by default, and passed by before
PINGS = 20  # of which the quickest tells the difference of two clocks
NOTHING = nullcontext()


class Timeline:
    """What the ranks do in some steps: recorded on each, put together on rank 0, and written when all is over.

    path    the file, or None to record nothing
    steps   (first, stop), counted from 0; if None, 20 steps once the run is warm and has settled its overlap

    Given to `DistributedDataParallel`, it records forward, backward and exchange. `Trainer` tells it the rest; a loop
    of one's own does so by `step` and `span`, and calls `finish`. Clocks are compared with rank 0's before and after
    (Cristian 1989). On a device, the times are those at which it came to the begin and the end of a span.
    """

    clock = staticmethod(time.perf_counter)

    def __init__(self, path: str | Path | None = None, steps: tuple[int, int] | None = None):
        if steps is not None and not 0 <= steps[0] < steps[1]:
            raise ConfigurationError(f"a trace has steps (first, stop) with 0 <= first < stop, got {steps}")
        self.path, self.steps = None if path is None else Path(path), steps
        self.total_steps: int | None = None
        self.recording, self.main = False, 0
        self.events: list[Event] = []
        self.final: list = []  # (parameter, when its gradient was)
        self.clocks: list = []  # (when, what to add for rank 0's clock, by how much it may be wrong)
        self.times: DeviceTimes | None = None  # if parameters are on a device
        self._originals: list = []  # of what is patched: (object, name, what it had of its own by this name)

    def watch(self, parallel):
        """Record what this `DistributedDataParallel` does; refuse a file that cannot be written. Collective."""
        self.parallel, self.comm = parallel, parallel.comm
        if self.path is not None:
            self.comm.agree_or_raise(self._refuse_unwritable)

    def plan(self, total_steps):
        """Take note that the run has so many steps, or None if nobody knows."""
        self.total_steps = total_steps
        if total_steps is not None and self.steps is not None and self.steps[0] >= total_steps:
            raise ConfigurationError(
                "the trace is to begin at step {first.value}, and the run ends with step {last.value}: give "
                "{trace_steps} that are part of it", first=self.steps[0], last=total_steps - 1,
            )  # fmt: skip

    def step(self, number):
        """The context of a whole training step; recording begins and ends here. Collective."""
        if self.path is None:
            return NOTHING
        first, stop = self.steps = self.steps or self._once_warm(number)
        if self.recording and number >= stop:
            self._end()
        elif not self.recording and first <= number < stop:
            self._begin()
        return self.span("step", step=number)

    def span(self, kind, name=None, on_host=False, **args):
        """A context whose time is recorded, in whatever thread: "data", "optimizer", "evaluation", "checkpoint".

        on_host  whether it is something that the device has no part in
        """
        return self._span(kind, name or kind, args, on_host) if self.recording else NOTHING

    def finish(self) -> dict | None:
        """Write the trace, on rank 0: the numbers behind the verdict, on every rank, or None without any step.

        Collective. A file that cannot be written after all is reported, and nothing else is lost.
        """
        if self.recording:
            self._end()
        if self.path is None or not self.clocks:
            return None
        mine = socket.gethostname(), self.events, self.final, self.clocks
        everyones, found = self.comm.all_gather_object(mine), None
        if self.comm.rank == 0:
            ranks, slack = [], 0.0
            for host, events, final, clocks in everyones:
                clocks = settled(clocks, host == mine[0])
                ranks.append(aligned([*events, *layers(events, final)], clocks))
                slack = max(slack, *(wrong for *_, wrong in clocks))
            waits(ranks)
            found = {"file": str(self.path), **verdict(ranks, slack, self._other_overlap())}
            error = self._write(chrome(ranks, [host for host, *_ in everyones]), everyones, found)
            if error:
                found["verdict"].append(f"the trace is lost: {self.path} could not be written ({error})")
        self.events, self.final, self.clocks = [], [], []
        return self.comm.broadcast_object(found)

    # --- the file ------------------------------------------------------------------------------------------------

    def _refuse_unwritable(self):
        if self.comm.rank or self.path is None:
            return
        try:
            if self.path.is_dir():
                raise IsADirectoryError("it is a directory")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self.path.with_name(f".{self.path.name}.partial")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                "{path} cannot be written ({error.value}): give another file", path=self.path, error=error
            ) from None

    def _write(self, events, everyones, found) -> OSError | None:
        clocks = {
            f"rank {rank}": [{"measured_us": 1e6 * add, "uncertainty_us": 1e6 * wrong} for _, add, wrong in one]
            for rank, (*_, one) in enumerate(everyones)
        }
        whole = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"clocks": clocks, **found}}
        try:
            replace(self.path, json.dumps(whole))
        except OSError as error:
            return error

    def _other_overlap(self):
        """The policy of overlap that would be worth a try, or None; "" if none is, but exchanging less often might."""
        overlap, comm = self.parallel.overlap, self.comm
        if comm.size == 1:
            return None
        spare = comm.local_size < max(comm.size, os.cpu_count() or 1)
        if overlap.policy != "after" or self.parallel.all_at_once or overlap.why.startswith("measured") or not spare:
            return ""
        return "thread" if comm.backend == "gloo" and comm.threads else "bucket"

    # --- recording -----------------------------------------------------------------------------------------------

    def _once_warm(self, number):
        first = number + WARM + self.parallel.overlap.trial
        if self.total_steps is not None:
            first = max(number, min(first, self.total_steps - STEPS))
        return first, first + STEPS

    def _now(self) -> Any:
        """The time, or what tells it later."""
        return self.clock() if self.times is None else event_now()

    def _begin(self):
        self._compare_clocks()
        self.times = None if self.parallel.arena.on_cpu else DeviceTimes(self.clock)
        self.recording, self.main = True, threading.get_ident()
        self._listen()

    def _end(self):
        self.recording = False
        for owner, name, before in reversed(self._originals):
            setattr(owner, name, before) if before is not None else delattr(owner, name)
        for leaf, hook, before in self.hooks:
            if leaf.hook is hook:
                leaf.hook = before
        if self.times is not None:
            self.times.synchronize()
            for event in self.events:
                event.begin, event.end = self.times.seconds(event.begin), self.times.seconds(event.end)
            self.final = [(name, self.times.seconds(when)) for name, when in self.final]
        self._compare_clocks()

    def _compare_clocks(self):
        """Rank 0 tells each other rank its time, again and again; half of the quickest round trip is the doubt."""
        comm, ping, pong, tries = self.comm, np.zeros(1), np.zeros(1), []
        for rank in range(1, comm.size):
            for _ in range(PINGS if comm.rank in (0, rank) else 0):
                if comm.rank == 0:
                    comm.exchange([], [(ping, rank)])
                    pong[0] = self.clock()
                    comm.exchange([(pong, rank)], [])
                else:
                    asked = self.clock()
                    comm.exchange([(ping, 0)], [])
                    comm.exchange([], [(pong, 0)])
                    told = self.clock()
                    middle = (asked + told) / 2
                    tries.append(((told - asked) / 2, middle, float(pong[0]) - middle))
        doubt, when, add = min(tries, default=(0.0, self.clock(), 0.0))
        self.clocks.append((when, add, doubt))

    @contextmanager
    def _span(self, kind, name, args, on_host=False):
        now = self.clock if on_host else self._now
        event = Event(kind, name, self._thread(), now(), 0.0, args)
        try:
            yield
        finally:
            event.end = now()
            self.events.append(event)

    def _thread(self):
        return "main" if threading.get_ident() == self.main else threading.current_thread().name

    def _patches(self):
        """All that is patched while steps are recorded: (object, its method, the function that makes the recorded one).

        Beside these methods it is the hook of every leaf, which is called when its gradient is final: see `_listen`.
        """
        comm, patches = self.comm, []
        if comm.size > 1:
            patches += [
                (comm, "exchange", self._exchange), (comm, "start", self._start),
                (comm, "all_reduce", self._collective), (comm, "broadcast", self._collective),
                (comm, "all_to_all", self._collective), (comm, "all_gather", self._collective),
                (comm, "shared_memory_step", self._collective), (comm, "_checked_all_gather", self._collective),
            ]  # fmt: skip
        for exchange in self.parallel.overlap.exchanges.values():
            if isinstance(exchange, BucketedExchange):
                patches.append((exchange, "_sum", self._launch))
                for number, (_, shard_sum) in enumerate(exchange.parts):
                    patches.append((shard_sum, "steps", partial(self._bucket, number=number, exchange=exchange)))
        return patches

    def _listen(self):
        """Have communicator, buckets and gradients tell what they do, until `_end`."""
        arena, self._originals, self.hooks = self.parallel.arena, [], []
        for owner, name, record in self._patches():
            self._originals.append((owner, name, vars(owner).get(name)))
            setattr(owner, name, record(getattr(owner, name)))
        for name, leaf in zip(arena.parameters, arena.leaves):

            def hook(leaf, name=name, before=leaf.hook):
                self.final.append((name, self._now()))
                if before is not None:
                    before(leaf)

            self.hooks.append((leaf, hook, leaf.hook))
            leaf.hook = hook

    def _exchange(self, exchange):
        def recorded(sends, receives):
            with self._span("exchange", "send and receive", _message(sends, receives)):
                exchange(sends, receives)

        return recorded

    def _start(self, start):
        calls = count()

        def recorded(sends, receives, tag):
            args = {"call": next(calls), **_message(sends, receives, tag)}
            with self._span("exchange", "start", args):
                over = start(sends, receives, tag)

            def done(wait):
                if not wait:
                    return over(False)
                with self._span("exchange", "wait", {"started": args["call"]}):
                    return over(True)

            return done

        return recorded

    def _collective(self, call):
        def recorded(*args, **options):
            with self._span("exchange", "all ranks", {"together": True}):
                return call(*args, **options)

        return recorded

    def _launch(self, launch):
        def recorded(*args):
            with self._span("exchange", "launch", {}):
                launch(*args)

        return recorded

    def _bucket(self, steps, number, exchange):
        """From the launch of a bucket to the end of its last message."""

        def recorded(array, few=False):
            args = {"bytes": array.nbytes, **({} if isinstance(exchange, ThreadedExchange) else {"flight": True})}
            event = Event("bucket", f"bucket {number}", self._thread(), self._now(), 0.0, args)
            yield from steps(array, few)
            event.end = self._now()
            self.events.append(event)

        return recorded


def _message(sends, receives, tag=0):
    return {
        "bytes": sum([array.nbytes for array, _ in sends]), "tag": tag, "sends": [rank for _, rank in sends],
        "receives": [rank for _, rank in receives],
    }  # fmt: skip
