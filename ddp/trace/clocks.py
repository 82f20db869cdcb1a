"""The clocks of all ranks, brought together."""


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
