"""Streams and events of the pretended device: they compute at once, and remember what would have run in any order.

Each operation has a place (stream, number). A stream knows how far it has waited for the others; a stream that touches
memory which another one has written or read, without waiting for that, is a race: on a real device it would be decided
by chance. Copies that the host does not wait for arrive, or leave, only when the host waits for an event or a stream:
until then memory that is copied to has nan, and memory that is copied from must stay as it is.
"""

import contextlib
import time

import torch


class Race(RuntimeError):
    """Two streams, or the host and a copy, touch the same memory without waiting for one another."""


class Event:
    """`torch.cuda.Event`."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self.timed, self.clock, self.recorded_at = enable_timing, None, 0.0

    def record(self, stream=None):
        stream = stream or timeline().current
        self.clock, self.recorded_at = {**stream.clock, stream: stream.count}, time.perf_counter()

    def wait(self, stream=None):
        (stream or timeline().current).wait_event(self)

    def synchronize(self):
        timeline().deliver(self.clock or {}, "Event.synchronize")

    def query(self):
        timeline().deliver(self.clock or {}, None)
        return True

    def elapsed_time(self, end):
        """Milliseconds between two events, which must have been asked for and be over."""
        if not (self.timed and end.timed and self.clock is not None and end.clock is not None):
            raise ValueError("elapsed_time needs two events with enable_timing that were recorded")
        return 1e3 * (end.recorded_at - self.recorded_at)


class Stream:
    """`torch.cuda.Stream`."""

    def __init__(self, device=None, priority=0, **_):
        self.clock = {}  # stream: how many of its operations are over before what comes here next
        self.count = 0  # of operations so far
        self.device = torch.device("cuda", 0)

    def wait_event(self, event):
        for stream, count in (event.clock or {}).items():
            self.clock[stream] = max(self.clock.get(stream, 0), count)

    def wait_stream(self, other):
        event = Event()
        event.record(other)
        self.wait_event(event)

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self):
        event = Event()
        event.record(self)
        timeline().deliver(event.clock, "Stream.synchronize")

    def query(self):
        return True

    cuda_stream = 0


class Timeline:
    """The streams of a device, who has touched which memory last, and copies that are under way.

    waited(what)   is told when the host waits for all that the device was asked to do
    behind(what)   is told when it waits for an event, and the device has more to do after that
    """

    def __init__(self, waited, behind):
        self.waited, self.behind = waited, behind
        self.default = self.current = Stream()
        self.touched = {}  # storage: (stream and number of the last write, {stream: number of its last read})
        self.under_way = []  # (stream, number, deliver) of copies

    @contextlib.contextmanager
    def on(self, stream):
        """Context in which operations go to this stream."""
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before

    def check(self, reads, writes, name):
        """Whether an operation may begin on the current stream, of storages that it reads and writes."""
        stream = self.current
        over = lambda place: place is None or place[0] is stream or stream.clock.get(place[0], 0) >= place[1]
        for key in {*reads, *writes}:
            written, read = self.touched.get(key, (None, {}))
            if not over(written):
                raise Race(f"{name} uses memory that another stream writes: let this one wait for an event of it")
            if key in writes and not all(map(over, read.items())):
                raise Race(f"{name} overwrites memory that another stream reads: let this one wait for an event of it")

    def note(self, reads, writes):
        """Take note of an operation on the current stream."""
        stream = self.current
        stream.count += 1
        for key in reads:
            written, read = self.touched.get(key, (None, {}))
            self.touched[key] = written, {**read, stream: stream.count}
        for key in writes:
            self.touched[key] = (stream, stream.count), {}

    @property
    def now(self):
        """The place of the last operation of the current stream."""
        return self.current, self.current.count

    def forget(self, key):
        self.touched.pop(key, None)

    def copy_out(self, place, host, values):
        """A copy to pinned memory of the host, which arrives later."""
        if host.is_floating_point():
            host.fill_(float("nan"))
        self.under_way.append((*place, lambda: host.copy_(values)))

    def copy_in(self, place, host):
        """A copy from pinned memory of the host, which is read at any time until later."""
        before = host.clone()

        def check():
            if not torch.equal(before.nan_to_num(), host.nan_to_num()):
                raise Race("pinned memory was overwritten while it was copied to the device: wait for an event first")

        self.under_way.append((*place, check))

    def deliver(self, clock, what):
        """The host knows that all streams have come as far as this clock says; `what` it waited for, if it did."""
        if what is not None:
            more = any(stream.count > count for stream, count in clock.items())
            (self.behind if more else self.waited)(what)
        over = [deliver for stream, count, deliver in self.under_way if clock.get(stream, 0) >= count]
        self.under_way = [one for one in self.under_way if clock.get(one[0], 0) < one[1]]
        for deliver in over:
            deliver()

    def deliver_all(self):
        """The host has waited for the whole device."""
        left, self.under_way = self.under_way, []
        for _, _, deliver in left:
            deliver()


IN_FORCE: list[Timeline] = []


def timeline():
    return IN_FORCE[-1]
