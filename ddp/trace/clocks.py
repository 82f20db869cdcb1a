"""Clocks: of the host and of a device, which is asked for its times later; and those of all ranks, brought together."""

import time
from collections import deque


class DeviceLap:
    """What a CUDA device does between two points of the current stream, at which the host sets events.

    float(lap) are its seconds, and waits until the device has come to the second one. `on_host` are those in which the
    host has told it what to do.
    """

    def __init__(self):
        self.began, self.first = time.perf_counter(), event_now()

    def stop(self):
        self.last, self.on_host = event_now(), time.perf_counter() - self.began
        return self

    @property
    def over(self):
        return self.last.query()

    def __float__(self):
        if not self.over:
            self.last.synchronize()
        return self.first.elapsed_time(self.last) / 1e3


class Stopwatch:
    """The seconds of laps one after the other, of the host or of a device, for which nobody waits.

    lap = watch.start(); ...; seconds = watch.stop(lap)
    """

    def __init__(self, on_device=False):
        self.start = DeviceLap if on_device else time.perf_counter
        self.laps = deque()  # of a device, stopped and not known to be over
        self.latest, self._total = None, 0.0

    def end(self, lap):
        """The end of a lap that is not added up: float() of what is returned are its seconds, and may wait."""
        return time.perf_counter() - lap if type(lap) is float else lap.stop()

    def stop(self, lap) -> float:
        """The seconds of the latest lap that is over: this one, or on a device one before it.

        As long as none is, they are the seconds of this one on the host.
        """
        ended = self.end(lap)
        if type(ended) is float:
            self._total += ended
            return ended
        self.laps.append(ended)
        self._collect()
        return ended.on_host if self.latest is None else self.latest

    @property
    def total(self) -> float:
        """The seconds of all laps that are over."""
        self._collect()
        return self._total

    def _collect(self):
        while self.laps and self.laps[0].over:
            self.latest = float(self.laps.popleft())
            self._total += self.latest


class DeviceTimes:
    """Points in the streams of a CUDA device, told as times of the host's clock when all is over."""

    def __init__(self, host):
        """Waits for the device. host() are the seconds of the host's clock."""
        import torch

        self.synchronize = torch.cuda.synchronize
        self.synchronize()
        before, self.zero = host(), event_now()
        self.synchronize()
        self.offset = (before + host()) / 2

    def seconds(self, when):
        """The time of an event, which is over; a time as it is."""
        return when if isinstance(when, float) else self.offset + self.zero.elapsed_time(when) / 1e3


def event_now():
    """An event of CUDA at the end of what the current stream has been given so far."""
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def settled(clocks, one_host):
    """What was found of a rank's clock, or nothing to correct where it may well be rank 0's, as on one host it is."""
    if one_host and all(abs(add) <= wrong for _, add, wrong in clocks):
        return [(when, 0.0, 0.0) for when, *_ in clocks]
    return clocks


def aligned(events, clocks):
    """The events in rank 0's time: `clocks` has (when, what to add) of both ends; in between, clocks drift evenly."""
    (t0, first, _), (t1, last, _) = clocks
    drift = (last - first) / (t1 - t0) if t1 > t0 else 0.0
    for event in events:
        event.begin += first + drift * (event.begin - t0)
        event.end += first + drift * (event.end - t0)
    return sorted(events, key=lambda event: (event.begin, -event.end))
