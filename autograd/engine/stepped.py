"""Functions that stop in the middle and go on later, with attributes that have other values meanwhile.

Synchronised batch norm runs the shards of a batch so: each stops where it needs the sum over all of them.

    first, second = SteppedFunction(f), SteppedFunction(g)
    a, b = first.resume(), second.resume()      # what f and g gave to `wait`, when they called it
    first.resume(a + b), second.resume(a + b)   # which returns a + b in them; they go on to the end
"""

import contextvars
import threading
from contextlib import nullcontext
from typing import Any

from allgrad.autograd.engine.modes import copy_modes, no_grad, setting


class Cancelled(BaseException):
    """Raised inside a function that waits, to end it."""


class SteppedFunction:
    """A function that can stop where it calls `wait`, and go on when `resume` answers: a coroutine without `yield`.

    It runs in a thread of its own, but only while `resume` waits for it, so that no two functions run at the same time.

    own: {(object, attribute): value}, attributes that have these values while the function runs and their usual ones
    while it does not. `self.own` keeps the function's values, as it left them. The engine's modes (`engine.modes`) are
    the thread's own, and start as they are now.
    """

    def __init__(self, f, own=()):
        self.own, self.modes = dict(own), copy_modes()
        self.finished, self.cancelled = False, False
        self.message: Any = None
        self.error: BaseException | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()  # with NumPy's errstate
        self.thread = threading.Thread(target=context.run, args=(self._run, f), name="shard", daemon=True)

    def resume(self, answer=None):
        """Let it run on; its call of `wait` returns the answer. Returns what it next gives to `wait`, or its result.

        `self.finished` tells which. An exception that the function raises is raised here.
        """
        if self.thread.ident is None:
            self.thread.start()
        self.message = answer
        self._swap()
        try:
            self._go.release()
            self._back.acquire()
        finally:
            self._swap()
        if self.error is not None:
            raise self.error
        return self.message

    def wait(self, question):
        """To be called inside the function: hand the question to `resume`, stop, and return its next answer."""
        self.message = question
        self._back.release()
        self._go.acquire()
        if self.cancelled:
            raise Cancelled
        return self.message

    def cancel(self):
        """End a function that waits, by raising Cancelled there; without effect if it has not begun or has finished."""
        if self.thread.ident is not None and not self.finished:
            self.cancelled = True
            self._swap()
            self._go.release()
            self.thread.join()
            self._swap()

    def _run(self, f):
        self._go.acquire()
        try:
            with setting(**self.modes), nullcontext() if self.modes["recording"] else no_grad():
                self.message = f()
        except BaseException as error:  # also SystemExit: `resume` raises it where it counts
            self.error = error
        self.finished = True
        self._back.release()

    def _swap(self):
        """Swap the function's own values of attributes with those outside of it."""
        for (owner, name), value in self.own.items():
            self.own[owner, name] = getattr(owner, name)
            setattr(owner, name, value)
