"""No rank waits for ever without saying why: what each rank is doing, and a thread that tells when one stalls.

A rank notes in `activity` which collective it is in. Its watchdog, a thread, answers datagrams that ask where the rank
is: even if the main thread sleeps, waits for a lock or computes. The watchdog of a rank that has waited too long in one
collective asks all others; the lowest rank that waits prints the answers, and all ranks end.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time

from allgrad.ddp.comm.activity import COMPARISON, DEVICE, EXCHANGE, activity, described, user_location
from allgrad.ddp.errors import tell

TICK = 0.2  # seconds between two looks at the main thread
ANSWER = 1.5  # seconds in which a watchdog answers; it needs the interpreter for a moment
LEFT = 2.0  # seconds until a message from a rank that has ended has certainly arrived
LAST = 2.0  # seconds in which the launcher ends a rank, before the rank does so by itself


class Watchdog:
    """The watchdog of this rank; to make one is collective.

    timeout  seconds that a rank may wait in one collective, or 0 for any time
    left     {rank: {"how": it has ended, "calls": see `_calls`}} of the ranks that ended while this one went on
    """

    def __init__(self, comm, timeout: float):
        self.rank, self.size, self.timeout, self.abort = comm.rank, comm.size, timeout, comm.abort
        self.hosts = comm.all_gather_object(socket.gethostname())
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1" if len({*self.hosts}) == 1 else "", 0))
        found = comm.all_gather_object((self.socket.getsockname()[1], os.getpid(), secrets.token_hex(16)))
        self.ports, self.processes, (self.token, *_) = map(list, zip(*found))
        self.left: dict[int, dict] = {}
        self.answers: dict[int, dict] = {}
        self.asked = False
        self.waited = 0.0
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def leave(self):
        """Tell the others that this rank takes no further part, and which part it has taken.

        If it fails, whoever waits for it is given time to say so: torchrun ends all as soon as one has a status.
        """
        failing = activity.failing or activity.interrupted
        for rank in range(self.size):
            if rank != self.rank:
                self._tell(rank, "left", how=activity.leaving, calls=None if failing else _calls(rank))
        end = time.monotonic() + 3 * LEFT
        while activity.failing and len(self.left) < self.size - 1 and time.monotonic() < end:
            time.sleep(TICK)

    def end(self, status):
        """End all ranks, also where the launcher would leave them alone, or wait for one that is stopped."""
        self._tell_all("end", status=status)
        for host, process in zip(self.hosts, self.processes):
            with contextlib.suppress(OSError):
                if host == self.hosts[self.rank]:
                    os.kill(process, signal.SIGCONT)
        self.abort(status)

    def lost(self, inside=None) -> str | None:
        """Which rank has ended that this one needs in a collective, and how; None if none has.

        A rank that had made its call of this number, or had sent and received the messages of this exchange, is not
        needed any more: what is still on its way arrives. Without a collective, any rank that has ended will do.
        """
        for rank in sorted(self.left.keys() & {*(range(self.size) if inside is None else _partners(inside))}):
            if inside is None or _owes(self.left[rank]["calls"], inside, rank):
                return f"rank {rank} has ended ({self.left[rank]['how']})"
        return None

    def silent(self) -> list[int]:
        """The ranks that do not answer, though they have not said that they end."""
        return sorted({*range(self.size)} - self._ask_all().keys() - self.left.keys())

    # --- the thread ----------------------------------------------------------------------------------------------

    def _watch(self):
        seen, last, looked = None, time.monotonic(), False
        while True:
            self._receive(TICK)
            now = time.monotonic()
            if activity.inside is not seen:
                seen, self.waited, self.asked, looked = activity.inside, 0.0, False, False
            elif seen is not None:
                self.waited += min(now - last, 1.0)  # a machine that was suspended has waited for nobody
                over = self.asked or 0 < self.timeout < self.waited
                if over or (self.waited > LEFT and (not looked or self.lost(seen))):
                    looked = True
                    self._look(seen, over)
            last = now

    def _look(self, seen, over):
        """Ask the others where they are. If this wait is over, or in vain, the lowest rank that waits tells it."""
        states = self._ask_all()
        gone, differ = self.lost(seen), self._different(states)
        if activity.inside is not seen or not (over or gone or differ):
            return
        patience = min(1.0, self.timeout / 2)
        lowest = min(r for r, s in states.items() if r == self.rank or (s["doing"] and s["waited"] >= patience))
        if lowest < self.rank and not self.asked:
            self._tell(lowest, "report")
            self._listen(2 * ANSWER, lambda: False)  # until it ends this rank
            states = self._ask_all()
            if activity.inside is not seen:
                return  # it goes on after all
        cause = f"{gone} while rank {self.rank} waits for it" if gone else differ
        lines = [f"rank {self.rank} of {self.size} failed: {cause or f'no progress for {self.waited:.0f} s'}"]
        lines += [f"  rank {rank}{self._told(rank, states)}" for rank in range(self.size)]
        if not cause:
            lines.append("  if such a wait is no error: give a longer timeout, in seconds")
        tell("\n".join(lines))
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            sys.stdout.flush()
        time.sleep(TICK)  # the launcher passes on what was printed
        self.end(1)
        os._exit(1)

    def _different(self, states):
        """How this rank and another wait in different calls of the same number, in words, or None."""
        mine = states[self.rank]
        for rank, state in sorted(states.items()):
            if mine["doing"] and state["doing"] and state["waited"] >= 1.0 and state["of"] == mine["of"]:
                calls = [one["doing"].removeprefix(COMPARISON) for one in (state, mine)]
                if state["count"] == mine["count"] and calls[0] != calls[1] and EXCHANGE not in "".join(calls):
                    return (
                        f"the ranks do not make the same calls: rank {rank} calls {calls[0]} where rank {self.rank} "
                        f"calls {calls[1]}"
                    )
        return None

    def _told(self, rank, states):
        if rank in self.left:
            return f" has ended ({self.left[rank]['how']})"
        if rank not in states:
            return (
                f" on host {self.hosts[rank]} does not answer: it is gone, stopped or inside a call into C, or no "
                f"datagram reaches it"
            )
        state = states[rank]
        step = "" if state["step"] is None else f" at step {state['step']}"
        if not state["doing"]:
            return f"{step} is not in a collective, but at {state['place']}"
        missing = [r for r in state["of"] if r != rank and _apart(state, states.get(r), rank)]
        whom = f"rank{'s' if len(missing) > 1 else ''} {_listed(missing)}" if missing else "nobody: all are in it"
        where = " on the device" if state["on_device"] else ""
        return f"{step} waits in {state['doing']}{where} for {whom}, since {state['waited']:.1f} s, at {state['place']}"

    def _state(self):
        """Where this rank is, as JSON values."""
        inside = activity.inside
        frame = sys._current_frames().get(activity.thread)
        state = {
            "step": activity.step,
            "place": user_location(frame, inside is None),
            "doing": None,
            "waited": self.waited,
        }
        if inside is not None:
            on_device = inside[0] == DEVICE
            name, comm, args = inside[2] if on_device else inside
            state |= {"doing": _described(name, args), "of": _partners(inside), "count": comm.count}
            state["on_device"] = on_device
        return state

    # --- datagrams -----------------------------------------------------------------------------------------------

    def _tell(self, rank, kind, **content):
        message = {"token": self.token, "kind": kind, "rank": self.rank, **content}
        host = self.hosts[rank] if len({*self.hosts}) > 1 else "127.0.0.1"
        with contextlib.suppress(OSError):  # who cannot be reached does not answer
            self.socket.sendto(json.dumps(message).encode(), (host, self.ports[rank]))

    def _tell_all(self, kind, **content):
        for rank in range(self.size):
            if rank != self.rank:
                self._tell(rank, kind, **content)

    def _receive(self, seconds):
        """Wait for one datagram, and do what it asks for."""
        self.socket.settimeout(seconds)
        try:
            message = json.loads(self.socket.recv(65536))
        except (OSError, ValueError):
            return
        if not isinstance(message, dict) or message.get("token") != self.token:
            return
        kind, rank = message["kind"], message["rank"]
        if kind == "where":
            self._tell(rank, "answer", state=self._state())
        elif kind == "answer":
            self.answers[rank] = message["state"]
        elif kind == "left":
            self.left[rank] = message
        elif kind == "report":
            self.asked = activity.inside is not None
        elif kind == "end":
            time.sleep(LAST)
            os._exit(message["status"])

    def _listen(self, seconds, enough):
        stop = time.monotonic() + seconds
        while not enough() and time.monotonic() < stop:
            self._receive(TICK)

    def _ask_all(self):
        """{rank: its state} of this rank and of all that answer."""
        self.answers = {self.rank: self._state()}
        for _ in range(3):  # a datagram may get lost
            for rank in {*range(self.size)} - self.answers.keys() - self.left.keys():
                self._tell(rank, "where")
            self._listen(ANSWER / 3, lambda: len(self.answers) + len(self.left) >= self.size)
        return self.answers


def _partners(inside):
    """The ranks, counted in the whole job, that take part in a collective, or in any that a device was given."""
    name, comm, args = inside
    among = {rank for messages in args for _, rank in messages} if name == "exchange" else range(comm.size)
    return sorted(comm.ranks[rank] for rank in among)


def _calls(rank):
    """What this rank has done by now: {communicator: (calls of all, messages sent to a rank, and asked from it)}."""
    found = {}
    for name, comm in activity.communicators.items():
        if rank in comm.ranks:
            number = [*comm.ranks].index(rank)
            found[name] = comm.count, comm.sent[number], comm.asked[number]
    return found


def _owes(calls, inside, rank):
    """Whether a rank that had made these calls in the end was still needed in this collective."""
    name, comm, _ = inside
    if calls is None:  # it failed
        return True
    if comm.name not in calls:
        return False
    count, sent, asked = calls[comm.name]
    number = [*comm.ranks].index(rank)
    called, exchanged = count >= comm.count, sent >= comm.asked[number] and asked >= comm.sent[number]
    return not (called and exchanged if name == DEVICE else exchanged if name == "exchange" else called)


def _described(name, args):
    if name == "exchange":
        (array, _), *more = [*args[1], *args[0]]
        return f"{EXCHANGE} of {described(array)}{f' and {len(more)} more messages' if more else ''}"
    return f"{name} of {described(args[0])}{f' from rank {args[1]}' if args[1:] else ''}" if args else name


def _apart(state, other, rank):
    """Whether another rank is somewhere else than in this rank's collective."""
    if other is None or not other["doing"]:
        return True
    if state["doing"].startswith(EXCHANGE):
        return rank not in other["of"] or not other["doing"].startswith(EXCHANGE)
    return (other["doing"], other["count"]) != (state["doing"], state["count"])


def _listed(ranks, most=8):
    return ", ".join(map(str, ranks[:most])) + (f" and {len(ranks) - most} more" if len(ranks) > most else "")
