"""Clocks: of a device, which is asked for its times later; and those of all ranks, brought together."""


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
