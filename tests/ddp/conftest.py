"""Ranks that are threads of this process, for tests of what many ranks do without a launcher."""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from allgrad.ddp.comm import Communicator, Launch
from allgrad.ddp.reduce import ShardSum

PATIENCE = 30.0  # seconds until a rank that waits for a message calls it a deadlock


class Post:
    """The messages under way, and the turn: one rank runs at a time, until it has to wait for a message."""

    def __init__(self):
        self.turn = threading.Condition()
        self.messages: dict = {}
        self.failed = False

    def send(self, key, message):
        self.messages.setdefault(key, deque()).append(message)
        self.turn.notify_all()

    def receive(self, key):
        if not self.turn.wait_for(lambda: self.failed or self.messages.get(key), PATIENCE):
            raise TimeoutError(f"deadlock: no message for {key}")
        if self.failed:
            raise ConnectionError("another rank failed")
        return self.messages[key].popleft()


def copied(array):
    """A copy of a NumPy array or a torch tensor."""
    return array.clone() if hasattr(array, "clone") else array.copy()


class SimulatedRank(Communicator):
    def __init__(self, post, rank, size, local=None, name="0"):
        local = local or (size if size < 4 else 2)  # as if on one host with memory to share, or on several
        super().__init__(Launch("simulated", "simulated", rank, size, rank % local, local), name)
        self.post, self.looks = post, 0
        self.fence = self._meet
        self.threads = size == 1

    def _exchange(self, sends, receives):
        for array, target in sends:
            self.post.send((self.name, self.rank, target), copied(array))
        for array, source in receives:
            message = self.post.receive((self.name, source, self.rank))
            assert (message.shape, message.dtype) == (array.shape, array.dtype)
            array[...] = message

    def _start(self, sends, receives, tag):
        for array, target in sends:
            self.post.send((self.name, tag, self.rank, target), copied(array))
        waiting = list(receives)

        def over(wait):
            while waiting:
                array, source = waiting[0]
                self.looks += 1  # not every look finds what is there, and every rank finds other things
                key = (self.name, tag, source, self.rank)
                if not wait and (self.looks % (self.rank + 2) or not self.post.messages.get(key)):
                    return False
                message = self.post.receive(key)
                assert (message.shape, message.dtype) == (array.shape, array.dtype)
                array[...] = message
                waiting.pop(0)
            return True

        return over

    def _gather(self, value):
        for rank in range(self.size):
            self.post.send((self.name, "object", self.rank, rank), value)
        return [self.post.receive((self.name, "object", rank, self.rank)) for rank in range(self.size)]

    def _meet(self):
        self._gather(None)

    def split(self, color, key=0):
        asked = self.all_gather_object((color, key))
        members = sorted((r for r in range(self.size) if asked[r][0] == color), key=lambda r: (asked[r][1], r))
        self.splits += 1
        name = f"{self.name}.{self.splits} {color}"
        return SimulatedRank(self.post, members.index(self.rank), len(members), len(members), name)

    def _all_reduce(self, array):
        array[...] = sum(self._gather(copied(array)))

    def _broadcast(self, array, root):
        array[...] = self._gather(copied(array))[root]


def simulate(size, f, local=None):
    """[f(comm) of every rank]; the first error of any rank is raised. local: how many there are on a host."""
    post = Post()
    errors = []

    def rank(r):
        with post.turn:
            try:
                return f(SimulatedRank(post, r, size, local))
            except Exception as error:
                errors.append(error)
                post.failed = True
                post.turn.notify_all()

    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(rank, range(size)))
    if errors:
        raise errors[0]
    return results


def reduced(comm, leaves, canonical=True, total=None, placing=False, array=None):
    """What one rank holds in the end: it may reuse one array for all its shards, or write where they will be kept."""
    total = total or ShardSum(comm, len(leaves), canonical)
    array = np.empty_like(leaves[0]) if array is None else array
    for shard in range(total.first, total.stop):
        buffer = total.buffer_for(shard, array) if placing else None
        given = array if buffer is None else buffer
        given[...] = leaves[shard]
        total.push(shard, given, in_buffer=buffer is not None)
    total.finish(array)
    return array


@pytest.fixture(scope="session", name="reduced")
def reduced_fixture():
    return reduced


@pytest.fixture(scope="session", name="simulate")
def simulate_fixture():
    return simulate
