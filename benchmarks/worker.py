"""One rank of a competitor: does what `benchmarks.groups` asks, and blocks in a read in between.

python -m benchmarks.worker SOCKET PEER SETTING
"""

import ctypes
import gc
import importlib
import sys
import time
from multiprocessing.connection import Client, Connection

from allgrad.ddp.comm import detect
from benchmarks.peers import PEERS, Unavailable

AGREE = 20  # steps whose losses are compared
KEPT = 5  # of their batches, for the turns


class Rank:
    """What can be asked of a rank, one method each."""

    def __init__(self, name, setting):
        self.rank = detect().rank
        self.settings = {*name.split("-")[1:], *setting.split()}
        self.make_peer = importlib.import_module(f"benchmarks.peers.{PEERS[name].module}").make

    def make(self, workload):
        """Build a workload; the losses of its first steps."""
        self.batches = self.step = None
        gc.collect()
        prepare, self.step = self.make_peer(workload, self.settings)
        batches = [prepare(x, y) for x, y in workload.data(AGREE, self.rank)]
        losses = [self.step(batch) for batch in batches]
        self.batches = batches[:KEPT]
        return losses

    def turn(self, steps):
        """Seconds a step, after one that is not counted, in which the ranks meet."""
        self.step(self.batches[0])
        began = time.perf_counter()
        for i in range(steps):
            self.step(self.batches[i % KEPT])
        return (time.perf_counter() - began) / steps

    def memory(self):
        """MiB that are resident between two steps, and how many more there are at the peak of a step. Linux only."""
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
                file.write("5")  # the peak begins again from here
        except (AttributeError, OSError) as error:
            raise Unavailable(f"the peak of the resident memory cannot be measured here ({error})") from None
        before = _resident("VmRSS")
        for batch in self.batches:
            self.step(batch)
        return before, _resident("VmHWM") - before


def _resident(field):
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def main():
    address, name, setting = sys.argv[1:]
    parent: Connection = Client(address)
    rank = None
    parent.send(detect().rank)
    while (asked := parent.recv()) is not None:
        command, *arguments = asked
        try:
            rank = rank or Rank(name, setting)
            parent.send(("done", getattr(rank, command)(*arguments)))
        except Unavailable as reason:
            parent.send(("unavailable", str(reason)))
        except Exception as error:  # whatever a peer raises is the parent's to report
            words = str(error).strip().splitlines() or [""]
            parent.send(("failed", f"{type(error).__name__}: {words[0]}"))


if __name__ == "__main__":
    main()
