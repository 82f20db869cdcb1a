"""What this process is doing, and where in the user's code."""

import sys
import threading
import time

import pytest

from allgrad.ddp.comm import Communicator, activity, user_location
from allgrad.ddp.comm.activity import DEVICE
from allgrad.ddp.comm.watchdog import _apart
from tests.launch.conftest import start


def test_the_place_is_that_of_the_users_code():
    assert user_location().startswith(f"{__file__}:") and user_location().endswith(
        "in test_the_place_is_that_of_the_users_code"
    )
    stop = threading.Event()

    def wait():
        stop.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(1000):  # until it waits
        found = user_location(sys._current_frames()[thread.ident or 0], whole=True)
        if "in wait, in " in found:
            break
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert found.startswith(f"{__file__}:") and " in wait, in " in found and "threading.py:" in found


def test_the_host_is_in_the_last_collective_of_the_device_while_it_waits_for_it(monkeypatch):
    comm = Communicator()
    monkeypatch.setattr(activity, "interrupted", False)
    monkeypatch.setattr(activity, "enqueued", None)
    with activity.waiting_for_device():
        assert activity.inside is None  # it was given no collective
    activity.enqueued = "all_reduce", comm, ()
    waits = []
    for _ in range(2):
        with activity.waiting_for_device():
            waits.append(activity.inside)
        assert activity.inside is None and not activity.interrupted
    assert waits[0] == waits[1] == (DEVICE, comm, activity.enqueued) and waits[0] is not waits[1]
    with activity.waiting_for_device():
        noted = activity.inside
        with activity.waiting_for_device():
            assert activity.inside is noted
        assert activity.inside is noted
    with pytest.raises(OSError), activity.waiting_for_device():
        raise OSError
    assert activity.inside is None and activity.interrupted


def test_ranks_that_wait_for_their_devices_are_not_apart_whatever_was_enqueued_last():
    here = {"doing": "a sum", "count": 3, "of": [0, 1], "on_device": True}
    there = {**here, "doing": "all_reduce", "count": 2}
    assert not _apart(here, there, 0) and _apart(here, {**there, "on_device": False}, 0) and _apart(here, None, 0)


LATE = """
import contextlib, threading, time
import numpy as np
import torch
import torch.distributed as dist
from allgrad import ddp
from allgrad.ddp.comm import activity
from allgrad.ddp.comm.torch_distributed import TorchCommunicator

running = []

def wait(work, over):
    with contextlib.suppress(RuntimeError):  # a device says nothing of a rank that is gone
        work.wait()
        over.set()

def begin(self, array):
    work = dist.all_reduce(torch.from_numpy(array), group=self.group, async_op=True)
    running.append(threading.Event())
    threading.Thread(target=wait, args=(work, running[-1]), daemon=True).start()

def number(array):
    with activity.waiting_for_device():
        while running:
            running.pop().wait()
        return float(array[0])

TorchCommunicator._all_reduce, TorchCommunicator._only_enqueued = begin, lambda self, name, args: bool(args)
comm, array = ddp.init(timeout=3.0), np.ones(1000, "f4")
part = comm.split(comm.rank % 2)
for step in range(100):
    activity.step = step
    comm.all_reduce(array)
    time.sleep(0.04)  # all steps together take longer than the timeout, and none does
    number(array)
if comm.rank == 1:
    {fault}
comm.all_reduce(array)
part.all_reduce(array)  # the last one, in which rank 1 is not missed
number(array)
"""


def test_a_collective_that_hangs_on_a_device_is_told_where_the_host_waits_for_it(tmp_path):
    """NCCL's returns at once, and the host waits later, where it reads a number: here with Gloo in its place."""
    (tmp_path / "script.py").write_text(LATE.format(fault="time.sleep(600)"))
    done = start("", tmp_path, 3, "torchrun", script="script.py")
    (told,) = done.told("rank ")
    assert done.status != 0 and told.startswith("0 of 3 failed: no progress for ")
    ranks = done.told("  rank ")
    for rank in (0, 2):
        assert ranks[rank].startswith(
            f"{rank} at step 99 waits in all_reduce of float32 (1000,) on the device for rank 1, since "
        ) and ranks[rank].endswith(f"{tmp_path}/script.py:25 in number")
    assert ranks[1].startswith("1 at step 99 is not in a collective, but at ")


def test_a_rank_that_ends_is_missed_where_others_wait_for_a_device(tmp_path):
    (tmp_path / "script.py").write_text(LATE.format(fault="raise SystemExit"))
    done = start("", tmp_path, 2, "torchrun", script="script.py")
    (told,) = done.told("rank ")
    assert done.status != 0 and told.startswith("0 of 2 failed: rank 1 has ended (its program is over) while rank 0 w")
