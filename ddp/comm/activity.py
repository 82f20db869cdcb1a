"""What this process is doing: noted by collectives and steps, told by the watchdog."""

import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

COMPARISON, EXCHANGE = "the comparison before ", "an exchange"
DEVICE = "waiting for the device"
ROOT = Path(__file__).parents[2]
LIBRARIES = (*(str(ROOT / name) + os.sep for name in ("ddp", "autograd")), str(Path(os.__file__).parent), "<frozen")


class _Here:
    """What this process does.

    inside   the collective it is in, as (name, communicator, arguments), or None
    enqueued the last collective that a device was given, and the host has not waited for, likewise
    step     of the training, or None
    leaving  how its program ends
    failing  whether that is a failure
    thread   the number of the thread that computes
    interrupted    whether a collective has ended by an exception
    communicators  {name: communicator} of those that are in use
    """

    __slots__ = "communicators", "enqueued", "failing", "inside", "interrupted", "leaving", "step", "thread"

    def __init__(self):
        self.inside: Any = None
        self.enqueued: Any = None
        self.step: int | None = None
        self.leaving = "its program is over"
        self.failing = self.interrupted = False
        self.communicators: Any = weakref.WeakValueDictionary()
        self.thread = threading.main_thread().ident or 0

    def waiting_for_device(self):
        """The context in which the host waits for what it gave to a device, as it does where it reads a number there.

        Collectives are among it: one that hangs on the device is one that this rank is in.
        """
        return _Waiting()


class _Waiting:
    mine: Any = None  # None where this thread, or another one, has noted already where it is

    def __enter__(self):
        if activity.inside is None and activity.enqueued is not None:
            # a new tuple: a new wait
            self.mine = activity.inside = DEVICE, activity.enqueued[1], activity.enqueued

    def __exit__(self, kind, error, trace):
        if self.mine is not None and activity.inside is self.mine:
            activity.inside = None
            activity.interrupted |= kind is not None


activity = _Here()


def user_location(frame=None, whole=False) -> str:
    """Where the user's code is, as FILE:LINE in FUNCTION: the innermost frame outside of this package and libraries.

    whole: name the innermost frame of all, too.
    """
    inner = user = frame or sys._getframe(1)
    while user is not None and (
        user.f_code.co_filename.startswith(LIBRARIES) or f"{os.sep}site-packages{os.sep}" in user.f_code.co_filename
    ):
        user = user.f_back
    found = [user or inner] + ([inner] if whole and user not in (None, inner) else [])
    return ", in ".join(f"{f.f_code.co_filename}:{f.f_lineno} in {f.f_code.co_name}" for f in found)


def described(array) -> str:
    """An array's dtype and shape."""
    return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
