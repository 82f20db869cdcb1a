"""A recorded backward pass, replayed for any number of ranks and any buckets. Seconds and bytes.

Recorded is when each gradient became final; how long the exchange of a bucket takes is what the cost model says.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from allgrad.autograd.arena import arena_of
from allgrad.launch.study.costs import cost_model


@dataclass(frozen=True)
class Recording:
    """When the gradients of one step became final, in seconds since the step began, in the order they did.

    names, sizes, ready   of each parameter: its name, bytes and time
    forward, backward     when these ended
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    ready: tuple[float, ...]
    forward: float
    backward: float

    def scaled(self, seconds: float) -> "Recording":
        """The same course of events in so many seconds."""
        k = seconds / self.backward
        ready = tuple(k * t for t in self.ready)
        return Recording(self.names, self.sizes, ready, k * self.forward, seconds)

    def buckets(self, most: float) -> list[tuple[float, int]]:
        """(ready, bytes) of buckets, filled in the order of the gradients until one more would exceed `most` bytes."""
        found: list[tuple[float, int]] = []
        for ready, size in zip(self.ready, self.sizes):
            if found and found[-1][1] + size <= most:
                found[-1] = ready, found[-1][1] + size
            else:
                found.append((ready, size))
        return found


def record(model, loss: Callable, arrays, passes=20) -> Recording:
    """Run forward and backward on these arrays so many times, and take the median of each event.

    The gradients of the model are overwritten, its parameters are not. Hooks that its leaves had are called too.
    """
    arena = arena_of(model)
    runs, ends, seen = [], [], {}

    def noting(before):
        def note(leaf):
            seen[leaf.name] = time.perf_counter()
            if before is not None:
                before(leaf)

        return note

    with ExitStack() as stack:
        for leaf in arena.leaves:
            before, leaf.hook = leaf.hook, noting(leaf.hook)
            stack.callback(setattr, leaf, "hook", before)
        for _ in range(passes + 1):  # the first warms up
            seen.clear()
            arena.zero_grad()
            began = time.perf_counter()
            value = loss(*arrays)
            forward = time.perf_counter()
            value.mean().backward()
            arena.zero_missing_grads()
            ends.append((forward - began, time.perf_counter() - began))
            runs.append([seen[leaf.name] - began for leaf in arena.leaves])
    ready = np.median(runs[1:], axis=0)
    forward, backward = map(float, np.median(ends[1:], axis=0))
    order = np.argsort(ready, kind="stable")
    names, itemsize = list(arena.spans), arena.dtype.itemsize
    spans = list(arena.spans.values())
    return Recording(
        tuple(names[i] for i in order),
        tuple((spans[i].stop - spans[i].start) * itemsize for i in order),
        tuple(float(ready[i]) for i in order),
        forward,
        max(backward, float(ready.max())),
    )


@dataclass(frozen=True)
class Timeline:
    """One replayed step.

    events     (bucket's bytes, when ready on the slowest rank, start and end of its exchange), in order
    backward   when the slowest rank has ended its backward
    step       when the last exchange has ended and the parameters are updated
    exposed    seconds of exchange during which no rank has anything left to compute
    """

    events: tuple[tuple[int, float, float, float], ...]
    backward: float
    step: float
    exposed: float


def replay(
    recording: Recording, all_reduce: Callable[[int], float], bucket=float("inf"), optimizer=0.0, slowdown=1.0
) -> Timeline:
    """The step with exchanges of all_reduce(bytes) seconds, one after the other as their buckets become ready.

    bucket    most bytes of a bucket; a parameter larger than that has one of its own
    slowdown  by how much the slowest rank computes more slowly than the recorded one: nobody is done before it
    """
    slow = recording.scaled(recording.backward * slowdown)
    buckets = slow.buckets(bucket)
    durations = [all_reduce(size) for _, size in buckets]
    ends = cost_model.overlap([ready for ready, _ in buckets], durations)
    events = tuple((size, ready, end - t, end) for (ready, size), t, end in zip(buckets, durations, ends))
    done = max(slow.backward, ends[-1])
    return Timeline(events, slow.backward, done + optimizer, done - slow.backward)


def slowest(relative: Sequence[float], W: int, draws: int, seed=0) -> np.ndarray:
    """For each draw the largest of W numbers drawn with replacement from `relative`, which is cheap for any W."""
    ordered = np.sort(np.asarray(relative, float))
    u = np.random.default_rng(seed).random(draws) ** (1.0 / W)
    return ordered[np.minimum((u * len(ordered)).astype(int), len(ordered) - 1)]


def replayed(recording, all_reduce, slowdowns: Iterable[float], bucket=float("inf"), optimizer=0.0) -> np.ndarray:
    """(draws, 2): step and exposed exchange of `replay` for each slowdown."""
    lines = (replay(recording, all_reduce, bucket, optimizer, s) for s in slowdowns)
    return np.array([(line.step, line.exposed) for line in lines])
