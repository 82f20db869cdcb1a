"""Functions that take turns: each runs until it waits for the others, with modes and attributes of its own."""

import contextvars
import threading
from typing import Any

from allgrad.autograd.engine.modes import SWITCHED


class Cancelled(BaseException):
    """Raised inside a function whose others have failed."""


class SteppedFunction:
    """A function that can stop in the middle, and go on later: a coroutine that need not be written as one.

    It runs in a thread of its own, but only while `resume` waits for it, so that nothing ever runs at the same time.
    own: {(object, attribute): value} that the function is to find and to leave behind, as `own` then says, instead of
    what others find. The modes of the engine, such as `no_grad` and the random stream, are always among them.
    """

    def __init__(self, f, own=()):
        self.own: dict = {(owner, name): getattr(owner, name) for owner, name in SWITCHED} | dict(own)
        self.finished, self.cancelled = False, False
        self.message: Any = None
        self.error: BaseException | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()  # with NumPy's errstate
        self.thread = threading.Thread(target=context.run, args=(self._run, f), name="shard", daemon=True)

    def resume(self, answer=None):
        """Let it run on, with this answer to what it waits for. Returns what it waits for next, or its result.

        `finished` tells which; what it raises is raised here.
        """
        if self.thread.ident is None:
            self.thread.start()
        self.message = answer
        self._exchange()
        try:
            self._go.release()
            self._back.acquire()
        finally:
            self._exchange()
        if self.error is not None:
            raise self.error
        return self.message

    def wait(self, question):
        """Inside the function: stop here, until `resume` answers."""
        self.message = question
        self._back.release()
        self._go.acquire()
        if self.cancelled:
            raise Cancelled
        return self.message

    def cancel(self):
        """End it, if it has begun and not finished, by an exception where it waits."""
        if self.thread.ident is not None and not self.finished:
            self.cancelled = True
            self._exchange()
            self._go.release()
            self.thread.join()
            self._exchange()

    def _run(self, f):
        self._go.acquire()
        try:
            self.message = f()
        except BaseException as error:  # also SystemExit: `resume` raises it where it counts
            self.error = error
        self.finished = True
        self._back.release()

    def _exchange(self):
        """Exchange what the function finds with what is found outside of it."""
        for (owner, name), value in self.own.items():
            self.own[owner, name] = getattr(owner, name)
            setattr(owner, name, value)
