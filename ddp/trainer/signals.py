"""What a run does when a signal asks it to end: SIGTERM, SIGINT (Ctrl-C), or SIGUSR1, by which Slurm warns in time.

A training step is never left half done: the rank that hears the signal takes note of it, and ends with all others
after a step that is the same on all of them. They need no message for it: the note travels behind the gradients, see
`DistributedDataParallel.stop_asked`. One process alone ends after the step in progress; of several ranks, one that has
sent its gradients already lets the others know in the next step; ranks that take local steps agree when they average.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import NoReturn

from allgrad.ddp.errors import PeerLost, tell

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
AGAIN_S = 0.3  # a later signal is a second one: within this time, terminals and launchers hand on the first again


class Stopped(SystemExit):
    """Training has ended because of a signal, on all ranks after the same step, with a checkpoint if the run has `out`.

    A program that does not catch it ends with the status that a shell gives to a process that a signal has ended:
    128 + the number of the signal, 143 for SIGTERM.
    """

    in_order = True  # all ranks end: none is left waiting

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class Interrupted(KeyboardInterrupt):
    """A signal has ended what was being done, without waiting for anything."""

    def __init__(self, number: int):
        super().__init__(name_of(number))
        self.number = number


def name_of(number: int) -> str:
    """As in "SIGTERM"."""
    return signal.Signals(number).name


@contextmanager
def interrupting():
    """Let signals end what is done in this context by an `Interrupted`, as Ctrl-C does; in the main thread only."""

    def interrupt(number, frame):
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS} if _in_main_thread() else {}
    try:
        yield
    finally:
        _restore(before)


class StopOnSignal:
    """Lets SIGTERM, SIGUSR1 and Ctrl-C end training with a checkpoint: `Trainer(..., signals=ddp.StopOnSignal())`.

    `Trainer.fit` then raises `Stopped` on all ranks, and rank 0 says where the checkpoint lies. A second signal ends
    the process at once. Handlers are those of before when `fit` has ended; in a thread other than the main one, this
    rank hears of signals from the others only.

    to_go_on  what rank 0 says of how the run goes on, after "...; its checkpoint is PATH"
    heard     the number of the signal that this rank has heard, or None
    """

    def __init__(self, to_go_on=""):
        self.to_go_on = to_go_on
        self.heard: int | None = None

    @contextmanager
    def listening(self, parallel):
        """While training goes on in this context, take note of signals, and let `parallel` pass them on."""
        self.heard, parallel.stop_asked, parallel.stop_agreed = None, False, False
        if not _in_main_thread():
            yield
            return

        def hear(number, frame):
            if self.heard is None:
                self.heard, parallel.stop_asked = number, True

        before = {number: signal.signal(number, hear) for number in SIGNALS}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        waking = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_await_second, args=(reader, parallel.comm), name="signals", daemon=True).start()
        lost = False
        try:
            yield
        except PeerLost:
            lost = True
            raise
        finally:
            signal.set_wakeup_fd(waking)
            os.close(writer)
            if lost and self.heard is not None:  # a launcher ends the ranks because one has died: the cause is there
                signal.signal(self.heard, signal.SIG_DFL)
                os.kill(os.getpid(), self.heard)
            _restore(before)

    def agreed(self, parallel, step: int) -> bool:
        """Whether training ends after this step, counted from 1: the same on all ranks."""
        local = parallel.local
        if parallel.comm.size == 1:
            return self.heard is not None
        if local is None or not local.is_local(step - 1):
            return parallel.stop_agreed
        return local.averages_after(step - 1) and any(parallel.comm.all_gather_object(self.heard is not None))

    def end(self, trainer, path) -> NoReturn:
        """Say on rank 0 what has become of the run, whose checkpoint is being written to `path`; raise Stopped."""
        number = max(trainer.comm.all_gather_object(self.heard or 0))
        error = trainer.writer.wait()
        if trainer.comm.rank == 0:
            done = f"allgrad: {name_of(number)}: training has ended after step {trainer.step} of {trainer.total_steps}"
            if path is None:
                tell(f"{done}, and nothing is kept: give it a directory to write to")
            elif error is not None:
                tell(f"{done}, whose checkpoint could not be written ({error})")
            else:
                tell("; ".join(filter(None, [f"{done}; its checkpoint is {path}", self.to_go_on])))
        trainer.comm.barrier()  # a launcher may end all as soon as one has ended
        raise Stopped(number)


def _await_second(reader, comm):
    """End the process at a second signal: in a thread, since Python runs no handler while it waits for other ranks."""
    first = None
    while received := os.read(reader, 1):
        if received[0] in SIGNALS:
            now = time.monotonic()
            first = now if first is None else first
            if now - first > AGAIN_S:
                if comm.rank == 0:
                    tell(f"allgrad: {name_of(received[0])} again: ended at once, without a checkpoint of this step")
                os._exit(128 + received[0])
    os.close(reader)


def _in_main_thread():
    return threading.current_thread() is threading.main_thread()


def _restore(handlers):
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
